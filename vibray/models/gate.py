"""A gate: what a slow run would score, predicted from a cheap vector, so that the slow run need see the high records alone."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt64
from pydantic import with_config
from torch import Tensor

from vibray.config import STRICT, UserError
from vibray.models.fitted import check_field, require, vectors
from vibray.signal.robust import MAD_TO_STD

FOLDS = 5
LEVELS = 1001
"""Quantiles 0, .001 .. 1 of the predictions are kept: what a share of the records means."""


@with_config(STRICT)
@dataclass(frozen=True)
class GateConfig:
    kind: Literal["gate"] = "gate"
    penalty: float = 100.0
    """Ridge penalty, in records."""
    clip: float = 10.0
    """Scaled values are cut to [-clip, clip]."""
    max_records: int = 50_000
    """Records it is fitted on, drawn by their key's hash."""

    def __post_init__(self) -> None:
        check_field(self, "penalty", self.penalty > 0, "above 0")
        check_field(self, "clip", self.clip > 0, "above 0")
        check_field(self, "max_records", self.max_records >= 1, "at least 1")


class Gate:
    """Ridge regression of asinh((score - median) / (1.4826 MAD)) on the values of a scaled vector, their magnitudes and a constant.

    Magnitudes, because both more and less than usual in a band is abnormal; asinh, because the highest scores would outweigh all others.
    A prediction is never above the highest score nor below the lowest that it was fitted on.
    """

    def __init__(self, config: GateConfig, dims: int) -> None:
        self.config, self.dims = config, dims
        self.weights: Float64[Tensor, " columns"] = torch.zeros(2 * dims + 1, dtype=torch.float64)
        self.target = torch.zeros(4, dtype=torch.float64)
        """median and 1.4826 MAD of the scores, lowest and highest of them on the asinh scale"""
        self.quantiles: Float64[Tensor, " levels"] = torch.zeros(LEVELS, dtype=torch.float64)

    def fit(
        self, x: Float[Tensor, "records dims"], scores: Float[Tensor, " records"], key_hash: UInt64[np.ndarray, " records"]
    ) -> Float64[Tensor, " records"]:
        """Fits the gate. Returns each record's prediction by a fit without the fifth of the records that it belongs to; the quantiles are
        theirs, since a fit is closer to its own records than to others.

        Raises TooFewRecords below 200 records, UserError where half of the scores are the same.
        """
        require(len(x), 200, "a gate")
        y = scores.to(torch.float64)
        median = y.median()
        scale = MAD_TO_STD * (y - median).abs().median()
        if not scale > 0:
            raise UserError("a gate needs scores that differ: half of these are the same")
        y = torch.asinh((y - median) / scale)
        self.target = torch.stack([median, scale, y.min(), y.max()])
        columns = self._columns(x)
        fold = torch.from_numpy((key_hash % np.uint64(FOLDS)).astype(np.int64))
        predicted = torch.empty_like(y)
        for k in range(FOLDS):
            predicted[fold == k] = columns[fold == k] @ self._solved(columns[fold != k], y[fold != k])
        predicted = self._unscaled(predicted)
        self.quantiles = torch.from_numpy(np.quantile(predicted.numpy(), np.linspace(0, 1, LEVELS)))
        self.weights = self._solved(columns, y)
        return predicted

    def predict(self, x: Float[Tensor, "batch dims"]) -> Float64[Tensor, " batch"]:
        """The score that the slow run would give, each record by itself."""
        return self._unscaled(self._columns(x) @ self.weights.to(x.device))

    def threshold(self, share: float) -> float:
        """The prediction that `share` of the records it was fitted on exceed."""
        return float(np.interp(1 - share, np.linspace(0, 1, LEVELS), self.quantiles.numpy()))

    def _columns(self, x: Float[Tensor, "batch dims"]) -> Float64[Tensor, "batch columns"]:
        x = vectors(x, self.dims).clamp(-self.config.clip, self.config.clip)
        return torch.cat([x, x.abs(), x.new_ones(len(x), 1)], dim=1)

    def _solved(self, columns: Float64[Tensor, "records columns"], y: Float64[Tensor, " records"]) -> Float64[Tensor, " columns"]:
        penalty = self.config.penalty * torch.eye(columns.shape[1], dtype=torch.float64)
        penalty[-1, -1] = 0  # the constant is free
        return torch.linalg.solve(columns.T @ columns + penalty, columns.T @ y)

    def _unscaled(self, y: Float64[Tensor, " batch"]) -> Float64[Tensor, " batch"]:
        median, scale, lowest, highest = self.target.to(y.device)
        return median + scale * torch.sinh(y.clamp(lowest, highest))

    def state(self) -> dict[str, Tensor]:
        return {"weights": self.weights, "target": self.target, "quantiles": self.quantiles}

    def load(self, state: dict[str, Tensor]) -> None:
        self.weights, self.target, self.quantiles = state["weights"], state["target"], state["quantiles"]


@dataclass(frozen=True)
class Agreement:
    """How a cascade's flagged records agree with those of the slow run alone, both by the slow run's cut."""

    share_deep: float
    """records that the slow run saw"""
    recall: float
    """of the records that the slow run flags, those that the cascade flags"""
    precision: float
    """of the records that the cascade flags, those that the slow run flags"""
    num_flagged: int
    """records that the slow run flags"""


def agreement(own: Float[np.ndarray, " records"], predicted: Float[np.ndarray, " records"], threshold: float, rate: float) -> Agreement:
    """The agreement where `rate` of the records are flagged and those predicted at or above `threshold` are given to the slow run."""
    deep = predicted >= threshold
    cut = np.quantile(own, 1 - rate)
    flagged, by_cascade = own >= cut, np.where(deep, own, predicted) >= cut
    both = int((flagged & by_cascade).sum())
    return Agreement(float(deep.mean()), both / int(flagged.sum()), both / max(1, int(by_cascade.sum())), int(flagged.sum()))
