"""What a unit's sensors flag together, by how the parts of the default's score are put together.

`python -m tests.reference.moments [--seeds 0 1 2 3 4]` prints, with the standard error over fleets, which share of the sixth fault and of
the known ones is flagged at 1 % realised false alarms: by the default's score of each record and its mean over the sensors of a moment;
with p to the power -1/2 for the harmonic mean's -1; and where each part's surprise is first counted from the .9 quantile of its means over
the pool's moments, in units of their tail. A part whose healthy sensors err apart (lines) then has more say, one that hears the same
weather in all of them less. None is built but the first.
"""

import argparse

import numpy as np
import torch

from tests.reference.corpora import FLEET, KS, fleet
from tests.reference.diagnosis import RECIPE, with_context
from tests.reference.leave_fault_out import sixth
from tests.reference.suite import fitted
from vibray.decide.pooling import mean_by
from vibray.models.fused import TAIL, Fused
from vibray.recipes.building import build_vector, columns_of
from vibray.schema import NORMAL


def together(surprise: torch.Tensor, log_share: torch.Tensor, power: float) -> np.ndarray:
    """-ln of the mean of p^-power over the parts, to 1 / power.

    Source: Vovk and Wang 2020, "Combining p-values via averaging".
    """
    return ((power * surprise + log_share[:, None]).logsumexp(dim=0) / power).numpy()


def tails(surprise: np.ndarray, moment: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each part's means over moments: their .9 quantile, and how fast their share falls beyond."""
    means = np.stack([mean_by(moment, own)[np.unique(moment, return_index=True)[1]] for own in surprise])
    high = np.quantile(means, TAIL, axis=1)
    return high, np.array([np.median((own - q)[own > q]) for own, q in zip(means, high, strict=True)]) / np.log(2)


def of_fleet(seed: int) -> dict[str, tuple[float, float]]:
    """(sixth, known) flagged."""
    corpus = fleet(seed)
    scaling, detector = fitted(RECIPE, corpus.pool, FLEET.mains_hz)
    assert isinstance(detector, Fused)
    columns, own = columns_of(build_vector(RECIPE.feature, FLEET.mains_hz), RECIPE.detector.blocks), with_context(scaling, corpus, max(KS))
    of_pool = detector.surprise(scaling(corpus.pool.vectors, corpus.pool.sensors)[:, columns])
    high, decay = (torch.from_numpy(values)[:, None] for values in tails(of_pool.numpy(), corpus.pool.moment))
    both = sixth(corpus, seed), corpus.test
    faulty = [records.labels != NORMAL for records in both]
    surprise = [detector.surprise(own(records.vectors, records.sensors)[:, columns]) for records in both]
    found = {}
    for power in (1.0, 0.5):
        for how, parts in (("", surprise), (", parts counted by moments", [(one - high) / decay for one in surprise])):
            alone = [together(one, detector.log_share, power) for one in parts]
            means = [mean_by(records.moment, one) for one, records in zip(alone, both, strict=True)]
            for what, scores in (("record", alone), ("moment", means)):
                cut = np.quantile(np.concatenate([one[~bad] for one, bad in zip(scores, faulty, strict=True)]), 0.99)
                found[f"{what}, power {power:g}{how}"] = tuple(
                    float((one[bad] >= cut).mean()) for one, bad in zip(scores, faulty, strict=True)
                )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    torch.set_num_threads(1)
    found = [of_fleet(seed) for seed in parser.parse_args().seeds]
    print(f"{'':50} sixth          known (standard error over {len(found)} fleets)")
    for name in sorted(found[0], reverse=True):
        values = np.array([one[name] for one in found])
        error = values.std(axis=0, ddof=1) / len(found) ** 0.5
        print(f"{name:50} " + "  ".join(f"{m:.3f} ({e:.3f})" for m, e in zip(values.mean(axis=0), error, strict=True)))


if __name__ == "__main__":
    main()
