"""Which machine a record comes from is the strongest signal in it: how much of that a detector's inputs still tell."""

import numpy as np


def identity_probe(x: np.ndarray, group: np.ndarray) -> dict[str, float] | None:
    """How often a record's nearest neighbour (Euclidean) among the others is of its own unit or sensor, and how often any other is.

    `x` is (records, values), `group` numbers or names the unit or sensor of each. Near chance: the features are blind to who is who; near
    1: a detector sees machines rather than faults. None where there are not two groups, or two records of one.
    """
    _, of, count = np.unique(group, return_inverse=True, return_counts=True)
    if len(count) < 2 or count.max() < 2:
        return None
    x = np.asarray(x, np.float64).reshape(len(of), -1)
    x = x - x.mean(axis=0)  # the sums of squares below lose digits far from 0
    squares = np.einsum("ij,ij->i", x, x)
    distance = squares[:, None] + squares - 2 * x @ x.T
    np.fill_diagonal(distance, np.inf)
    nearest = distance.argmin(axis=1)
    chance = float((count * (count - 1)).sum() / (len(of) * (len(of) - 1)))
    return {"accuracy": float((of[nearest] == of).mean()), "chance": chance, "num_records": len(of), "num_groups": len(count)}
