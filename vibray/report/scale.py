"""An axis on which the normal scores and the highest ones can both be read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

SKEWED = 4.0
"""Upper over lower spread, (p99.9 - median) / (median - p0.1), above which a linear axis squeezes the normal scores into a corner."""


def quantiles(ordered: np.ndarray, shares: Sequence[float]) -> list[float]:
    """Of scores in order, in float64 whatever they are stored in: numpy's, without its copies."""
    at = np.array(shares) * (len(ordered) - 1)
    below, above = (ordered[rounded(at).astype(int)].astype(np.float64) for rounded in (np.floor, np.ceil))
    part = at - np.floor(at)
    return np.where(part >= 0.5, above - (above - below) * (1 - part), below + (above - below) * part).tolist()


def in_order(scores: np.ndarray) -> bool:
    return all(
        (scores[at + 1 : at + BLOCK] >= scores[at : at + BLOCK - 1][: len(scores) - at - 1]).all()
        for at in range(0, len(scores), BLOCK - 1)
    )


BLOCK = 1 << 16


@dataclass(frozen=True)
class Scale:
    """Linear, logarithmic (all scores positive), or asinh: linear within `width` of 0, logarithmic beyond it."""

    kind: Literal["linear", "log", "asinh"]
    width: float = 1.0

    @classmethod
    def of(cls, scores: np.ndarray) -> "Scale":
        """The scale that suits finite `scores`."""
        if scores.size == 0:
            return cls("linear")
        ordered = scores if in_order(scores) else np.sort(scores)
        low, quarter, middle, top = quantiles(ordered, (0.001, 0.25, 0.5, 0.999))
        if top - middle <= SKEWED * (middle - low):
            return cls("linear")
        if ordered[0] > 0:
            return cls("log")
        width = float(max(abs(middle), middle - quarter))
        return cls("asinh", width) if width > 0 else cls("linear")

    def forward(self, scores: np.ndarray) -> np.ndarray:
        """Where the scores lie along the axis."""
        match self.kind:
            case "linear":
                return scores
            case "log":
                return np.log10(scores)
            case "asinh":
                return np.arcsinh(scores / self.width)

    def at(self, score: float | int) -> float:
        """Where one score lies along the axis."""
        return float(self.forward(np.array([score], np.float64))[0])

    def back(self, places: np.ndarray) -> np.ndarray:
        """The scores at places along the axis."""
        match self.kind:
            case "linear":
                return places
            case "log":
                return 10.0**places
            case "asinh":
                return np.sinh(places) * self.width

    def edges(self, scores: np.ndarray, num_bins: int) -> np.ndarray:
        """Edges of equal bins along the axis, from the lowest score to the highest: (num_bins + 1,)."""
        low, high = self.forward(np.array([scores.min(), scores.max()], np.float64))
        if high == low:
            low, high = low - 0.5, high + 0.5
        return self.back(np.linspace(low, high, num_bins + 1))

    def apply(self, axes: Axes, which: Literal["x", "y"]) -> None:
        """Give the axes this scale."""
        axis = axes.xaxis if which == "x" else axes.yaxis
        set_scale = axes.set_xscale if which == "x" else axes.set_yscale
        if self.kind == "asinh":
            set_scale("asinh", linear_width=self.width)
            axis.set_minor_locator(NullLocator())
        elif self.kind == "log":
            set_scale("log")
            low, high = np.log10(axes.get_xlim() if which == "x" else axes.get_ylim())
            # less than two decades: 1, 2, 5 are written out, or there would be one label or none
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high - low < 2 else (1.0,), numticks=12))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_locator(NullLocator())

    @property
    def words(self) -> str:
        """For the caption."""
        beyond = f"axis linear within ±{self.width:.2g} and logarithmic beyond"
        return {"linear": "linear axis", "log": "logarithmic axis", "asinh": beyond}[self.kind]
