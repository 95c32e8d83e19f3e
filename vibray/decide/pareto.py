"""The generalised Pareto distribution of excesses over a level: its fit by maximum likelihood and its upper quantile."""

import math
from typing import NamedTuple

import numpy as np
import scipy  # its rooms (stats, optimize) are imported on first use: they take a second, which no --help needs

LOWEST_SHAPE = -1.0
"""Below it the likelihood has no maximum: it grows without bound as the end point falls on the largest excess."""


class Pareto(NamedTuple):
    """Survival function (1 + shape y / scale)^(-1 / shape) of an excess y >= 0; exp(-y / scale) at shape 0."""

    shape: float
    scale: float

    def height(self, probability: float) -> float:
        """The excess that is passed with `probability`: scale ((probability)^-shape - 1) / shape, continuous through shape 0."""
        depth = -math.log(probability)
        return self.scale * (depth if self.shape == 0.0 else math.expm1(self.shape * depth) / self.shape)

    def log_survival(self, excess: np.ndarray) -> np.ndarray:
        """Logarithm of the survival function, for a shape of at least 0."""
        y = excess / self.scale
        return -y if self.shape == 0.0 else -np.log1p(self.shape * y) / self.shape


def fit(excesses: np.ndarray) -> Pareto:
    """Maximum likelihood with the location fixed at 0 and shape >= -1.

    One variable is enough: at theta = shape / scale the best shape is mean(log(1 + theta y)). theta is scanned in
    u = log(1 + theta max(y)), which maps its whole range to the line, and the lowest inner minimum of the loss is refined. Where there is
    none, the loss falls towards shape -1, whose own optimum is the uniform distribution up to the largest excess.

    `excesses` are positive. The fit scales with them. Source: Grimshaw 1993, "Computing maximum likelihood estimates for the generalized
    Pareto distribution".
    """
    largest = float(np.max(excesses))
    y = np.sort(np.asarray(excesses, np.float64)) / largest  # sorted: sums must not depend on the order of the records
    u = np.arange(-20.0, 60.0, 0.25)
    loss = np.array([_profile(y, point) for point in u])
    inner = [i for i in range(1, len(u) - 1) if math.isfinite(loss[i - 1]) and loss[i - 1] >= loss[i] <= loss[i + 1]]
    if inner:
        best = min(inner, key=lambda i: loss[i])
        refined = np.asarray(scipy.optimize.fminbound(lambda point: _profile(y, point), u[best - 1], u[best + 1], xtol=1e-9)).item()
        shape, scale = _shape_and_scale(y, refined)
    elif loss[-1] < loss[np.flatnonzero(np.isfinite(loss))[0]]:
        shape, scale = _shape_and_scale(y, float(u[-1]))  # heavier than any shape that has a use: the caller refuses it
    else:
        shape, scale = LOWEST_SHAPE, 1.0
    return Pareto(shape, scale * largest)


def _shape_and_scale(y: np.ndarray, u: float) -> tuple[float, float]:
    theta = math.expm1(u)
    shape = float(np.mean(np.log1p(theta * y)))
    return shape, (shape / theta if abs(theta) > 1e-10 else float(np.mean(y)))


def _profile(y: np.ndarray, u: float) -> float:
    """Negative log-likelihood of one excess, less 1, at the best shape for u; infinite where that shape is below -1."""
    shape, scale = _shape_and_scale(y, u)
    return math.log(scale) + shape if shape >= LOWEST_SHAPE else math.inf
