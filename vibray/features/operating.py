"""The operating point of a record (load, season), as far as its own spectrum shows it, and what goes with it taken off."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

MAD_TO_STD = 1.4826
"""The MAD of a normal distribution times this is its standard deviation."""

FITTED_RANGE = 3.0
"""Scaled values beyond this are cut when slopes are fitted: faults in the pool and machines that are off would turn them."""


@dataclass(frozen=True)
class OperatingPoint:
    """What goes with the level of a few elements of a vector: fleet-wide slopes, and the spread that is left.

    The trap: a fault may raise these elements themselves, and would then be explained away. So they stay as they are, and the level is cut
    to the healthy range before anything is taken off the others.
    """

    elements: tuple[int, ...]
    bound: float
    slope: Float[Tensor, " dims"]
    spread: Float[Tensor, " dims"]

    @classmethod
    def fitted(cls, elements: tuple[int, ...], bound: float, y: Float[Tensor, "records dims"]) -> "OperatingPoint":
        """From records of any sensors, each scaled by its own. Least squares through 0, where every sensor's median lies."""
        level = _level(y, elements, bound).double()
        slope = (level[:, None] * y.double().clamp(-FITTED_RANGE, FITTED_RANGE)).sum(0) / level.square().sum().clamp_min(1e-12)
        slope[list(elements)] = 0
        left = (y.double() - level[:, None] * slope).numpy()
        spread = torch.from_numpy(MAD_TO_STD * np.median(np.abs(left - np.median(left, axis=0)), axis=0))
        return cls(elements, bound, slope.float(), torch.where(spread > 0, spread, 1.0).float())

    def __call__(self, y: Float[Tensor, "batch dims"]) -> Float[Tensor, "batch dims"]:
        """Values scaled by sensor, less what goes with the level, in units of the spread that is left."""
        level = _level(y, self.elements, self.bound)
        return (y - level[:, None] * self.slope.to(y.device)) / self.spread.to(y.device)


def _level(y: Float[Tensor, "batch dims"], elements: tuple[int, ...], bound: float) -> Float[Tensor, " batch"]:
    return y[:, list(elements)].mean(dim=1).clamp(-bound, bound)
