"""How much of a scaled value counts: what falls far counts little, what rises far keeps its order, a machine at rest says nothing."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

RISE_QUANTILE = 0.99
"""Of the training records' scaled values: up to there a rise counts in full, wherever that is more than the config's."""

STANDSTILL = (-10.0, -5.0)
"""A level so far below its sensor's median, in spreads: from the upper one on a record fades, at the lower one it says nothing. At work no
record of four real machines stands below -8; those of generated transformers without voltage stand below -20."""

STILL_LIMIT = 1.0
"""What is left of the values of a machine that stands still: the middle of their range, where half of all healthy values lie."""


def upper_limits(z: Float[np.ndarray, "records ..."], rise: float) -> Float[np.ndarray, "..."]:
    """By element, the larger of `rise` and the 99 % quantile of the training records' values."""
    return np.maximum(rise, np.quantile(z, RISE_QUANTILE, axis=0)).astype(np.float32)


def limited(
    z: Float[Tensor, "batch ..."],
    num_records: Float[Tensor, " batch_or_one"],
    fall: float,
    upper: Float[Tensor, "..."],
    level: Float[Tensor, " batch"] | None,
) -> Float[Tensor, "batch ..."]:
    """Scaled values z between their limits.

    Above `upper` b a value grows by its logarithm alone: b + ln(1 + z - b). A hard limit would make healthy and failed alike on a machine
    that has drifted; without one a lorry's passing would outweigh every fault.

    Below, it ends at -(1 + (fall - 1) (1 - 1 / sqrt n)), n being the records that made the sensor's baseline: of a baseline of one record
    each that is quieter is as likely to show that that one was disturbed.

    Where the `level` (a column of z, before any limit) tells that the machine stands still, all are drawn into +-1.
    """
    lowest = -(1 + (fall - 1) * (1 - num_records.rsqrt()))
    shape = (-1, *[1] * (z.ndim - 1))
    excess = (z - upper).clamp(min=0)
    y = torch.minimum(z, upper).maximum(lowest.reshape(shape)) + excess.log1p()
    if level is None:
        return y
    low, high = STANDSTILL
    at_work = ((level - low) / (high - low)).clamp(0, 1).reshape(shape)
    return torch.lerp(y.clamp(-STILL_LIMIT, STILL_LIMIT), y, at_work)
