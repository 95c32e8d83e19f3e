"""Validation of a classifier: which labels to set aside, the figures on them, the best epoch, calibration."""

from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from torch import Tensor

from vibray.config import UserError
from vibray.models.classifier import Classifier
from vibray.train.batches import Batch, Batches, to

MIN_LABELS = 8
"""real labels below which none is set aside for validation"""
MIN_UNITS = 3
"""units with labels of both kinds from which whole units are set aside"""
MIN_NAMED = 10
"""rightly named validation faults from which the cut to "unknown" is fitted"""
UNKNOWN_QUANTILE = 0.05
"""share of rightly named validation faults that the cut calls unknown"""


def require_both(num_normal: float | int, num_abnormal: float | int) -> None:
    """Raises UserError where records, or their weights, are of one kind alone."""
    if not (num_normal and num_abnormal):
        missing = "abnormal" if num_normal else "normal"
        raise UserError(f"no {missing} record is among the labels to train on: a classifier needs both kinds")


def held_out_rows(kind: np.ndarray, units: np.ndarray, measured_at: np.ndarray, share: float) -> np.ndarray:
    """Labelled records to judge by, as a mask: whole units as `validation_rows` takes them, else the latest `share` of each kind."""
    mask = validation_rows(kind, units, share)
    if mask.any() or _too_few(kind):
        return mask
    return _latest(kind, measured_at, share)


def validation_rows(kind: np.ndarray, units: np.ndarray, share: float) -> np.ndarray:
    """Which of the really labelled records to set aside, as a mask. `kind` is 0 for normal, anything above for a fault.

    Whole units where at least three have labels of both kinds, in the order of a hash of their names, until `share` of the records is
    reached; a unit is passed over if a kind of label would be left with none to train on, or half of the records would be set aside.
    None where there are no such units, fewer than 8 labels, or 2 of normal or abnormal: later records of the same machines flatter
    whatever knows these, and an epoch chosen by them is no better than the last.
    """
    mask = np.zeros(len(kind), dtype=bool)
    if _too_few(kind):
        return mask
    both = set(units[kind == 0]) & set(units[kind > 0])
    for unit in sorted(both, key=lambda unit: blake2b(str(unit).encode()).digest()) if len(both) >= MIN_UNITS else ():
        if mask.sum() >= share * len(kind):
            break
        wider = mask | (units == unit)
        if set(kind[~wider]) == set(kind) and wider.mean() <= 0.5:
            mask = wider
    return mask


def _too_few(kind: np.ndarray) -> bool:
    return bool(len(kind) < MIN_LABELS or min((kind == 0).sum(), (kind > 0).sum()) < 2)


def _latest(kind: np.ndarray, measured_at: np.ndarray, share: float) -> np.ndarray:
    mask = np.zeros(len(kind), dtype=bool)
    for value in np.unique(kind):
        rows = np.flatnonzero(kind == value)
        rows = rows[np.argsort(measured_at[rows], kind="stable")]
        count = max(round(share * len(rows)), 1) if len(rows) > 1 else 0
        mask[rows[len(rows) - count :]] = True
    return mask


class Judge:
    """Figures of the validation rows, the best epoch's weights, and what is calibrated on them."""

    def __init__(self, net: Classifier, batches: Batches):
        self.net, self.batches = net, batches
        assert batches.rows.targets is not None
        self.label, self.fault = batches.rows.targets[batches.rows.indices].T
        self.best: dict[str, Tensor] = {}
        self.figures: dict[str, float] = {}

    def judge(self, epoch: int) -> dict[str, float]:
        """Figures of an epoch; the weights are kept where none was better."""
        figures = self._figures(self._logits())
        if not self.best or (figures["f1"], -figures["validation_loss"]) > (self.figures["f1"], -self.figures["validation_loss"]):
            self.figures = {**figures, "epoch": epoch}
            self.best = {name: value.clone() for name, value in self.net.state_dict().items()}
        return figures

    def finish(self) -> None:
        """Puts the best weights back and fits the temperatures and the cut to "unknown"."""
        if self.best:
            self.net.load_state_dict(self.best)
        logits = self._logits()
        self.figures = self.figures or self._figures(logits)
        named = self.fault >= 0
        self.net.temperature[0] = temperature(lambda t: binary_loss(logits[:, 0] / t, self.label))
        if not named.any():
            return
        faults = logits[named, 1:]
        self.net.temperature[1] = temperature(lambda t: fault_loss(faults / t, self.fault[named]))
        probabilities = np.exp(log_softmax(faults / self.net.temperature[1].item(), axis=1))
        right = probabilities.argmax(axis=1) == self.fault[named]
        if right.sum() >= MIN_NAMED:
            self.net.unknown_below.fill_(float(np.quantile(probabilities[right].max(axis=1), UNKNOWN_QUANTILE)))

    def _logits(self) -> np.ndarray:
        device = self.net.temperature.device

        def figures(batch: Batch) -> Tensor:
            out = self.net(to(batch.x, device))
            return torch.cat([out.abnormal[:, None], out.fault], dim=1)

        return self.batches.collect(self.net, figures)

    def _figures(self, logits: np.ndarray) -> dict[str, float]:
        """`f1` is the mean of `abnormal_f1` (binary, cut at .5) and, where faults are labelled, `fault_f1` (macro, over those labelled)."""
        named = self.fault >= 0
        figures = {
            "abnormal_f1": f1(self.label == 1, logits[:, 0] >= 0),
            "validation_loss": float(binary_loss(logits[:, 0], self.label)),
        }
        figures["f1"] = figures["abnormal_f1"]
        if named.any():
            predicted = logits[named, 1:].argmax(axis=1)
            truth = self.fault[named]
            figures["fault_f1"] = float(np.mean([f1(truth == fault, predicted == fault) for fault in np.unique(truth)]))
            figures["validation_loss"] += float(fault_loss(logits[named, 1:], self.fault[named]))
            figures["f1"] = (figures["abnormal_f1"] + figures["fault_f1"]) / 2
        return figures


def f1(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Harmonic mean of precision and recall; 0 where nothing is true and nothing is predicted."""
    either = truth.sum() + predicted.sum()
    return float(2 * (truth & predicted).sum() / either) if either else 0.0


def binary_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean binary cross-entropy."""
    return float(np.mean(np.logaddexp(0, logits) - labels * logits))


def fault_loss(logits: np.ndarray, faults: np.ndarray) -> float:
    """Mean cross-entropy."""
    return float(-np.mean(log_softmax(logits, axis=1)[np.arange(len(faults)), faults]))


def temperature(loss: Callable[[float], float]) -> float:
    """The temperature in [.5, 10] with the lowest loss; separable labels, which would ask for 0, end at .5.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2.
    """
    found: Any = minimize_scalar(lambda log_t: loss(float(np.exp(log_t))), bounds=np.log([0.5, 10.0]), method="bounded")
    return float(np.exp(found.x))
