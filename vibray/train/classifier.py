"""The order of training the classifier: labels set aside, class balance, gradual unfreezing by name, the best epoch, calibration."""

import logging
from dataclasses import dataclass, replace

import numpy as np
import torch
from pydantic import with_config

from vibray.config import STRICT, UserError
from vibray.models.backbone import LAYERS
from vibray.models.classifier import Classifier
from vibray.train.batches import Batches, TrainingSet
from vibray.train.checkpoints import Checkpoints
from vibray.train.fit import EpochMetrics, OptimConfig, Progress, Report, fit, silent
from vibray.train.reduce import World
from vibray.train.validation import Judge, require_both, validation_rows

log = logging.getLogger(__name__)


@with_config(STRICT)
@dataclass(frozen=True)
class TuningConfig:
    """How a classifier is made from an encoder."""

    unfreeze: tuple[tuple[int, str], ...] = ((20, "layer4"), (30, "layer3"))
    """epochs and the part of the encoder that starts to move at each"""
    validation_share: float = 0.2
    """share of the real labels that is set aside for validation"""

    def __post_init__(self) -> None:
        if unknown := [name for _, name in self.unfreeze if name not in LAYERS]:
            raise UserError(f"tuning: the encoder has no part {', '.join(unknown)}; choose among {', '.join(LAYERS)}")
        if not 0 < self.validation_share < 1:
            raise UserError(f"tuning: validation_share must lie between 0 and 1, not {self.validation_share}")


@dataclass(frozen=True)
class Labelled:
    """Where labels come from; arrays by row number, as `TrainingSet.targets` and `TrainingSet.weights` are."""

    real: np.ndarray
    """bool: a human's label, not a pseudo-label"""
    units: np.ndarray


@dataclass(frozen=True)
class TrainedClassifier:
    """What training a classifier leaves besides the net."""

    validation: np.ndarray
    """row numbers that were set aside; none where labels are too few"""
    figures: dict[str, float]
    """of the validation rows, at the best epoch"""


def balance(targets: np.ndarray, weights: np.ndarray, num_faults: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the two labels and of the faults: inverse to their share of the records' weights, so that each class counts alike.

    A class without records keeps 1. Raises UserError where no normal or no abnormal record is labelled.
    """
    label_sums = np.array([weights[targets[:, 0] == label].sum() for label in (0, 1)])
    require_both(*label_sums.tolist())
    fault_sums = np.array([weights[targets[:, 1] == fault].sum() for fault in range(num_faults)])
    return _inverse(label_sums), _inverse(fault_sums)


def _inverse(sums: np.ndarray) -> np.ndarray:
    present = sums > 0
    return np.where(present, sums.sum() / np.where(present, sums, 1) / max(present.sum(), 1), 1.0)


def train_classifier(
    net: Classifier,
    rows: TrainingSet,
    labelled: Labelled,
    optim: OptimConfig,
    tuning: TuningConfig = TuningConfig(),
    pretrained: bool = True,
    report: Report = silent,
    checkpoints: Checkpoints | None = None,
) -> TrainedClassifier:
    """Trains a classifier in place, on all workers of the process group; each has to call it.

    `rows.targets` is [rows, 2] of int64 as `Classifier.loss` takes them. The encoder is frozen and its parts join by `tuning.unfreeze`;
    one that is not `pretrained` moves from the start. Validation rows are real labels, never trained on; the epoch with the highest F1
    on them (then the lowest loss) is kept, and the temperatures are fitted on them. Too few labels: a warning, and the last epoch is kept
    uncalibrated. Raises UserError where normal or abnormal records are missing.
    """
    assert rows.targets is not None
    world = World.current()
    world.align(net)
    train, validation = _split(rows, labelled, tuning.validation_share)
    weights = np.ones(len(rows.targets)) if rows.weights is None else rows.weights
    label_weight, fault_weight = balance(rows.targets[train.indices], weights[train.indices], net.num_faults)
    net.label_weight.copy_(torch.from_numpy(label_weight))
    net.fault_weight.copy_(torch.from_numpy(fault_weight))
    batches = Batches(train, optim.batch_size, optim.seed, world)
    judged = None if validation is None else Judge(net, Batches(validation, optim.batch_size, optim.seed, world))
    found = checkpoints.latest("train") if checkpoints else None
    progress = found.restore(net) if found else Progress()
    if found and judged:
        judged.best, judged.figures = found.group("best"), found.values["figures"]
    due = tuning.unfreeze if pretrained else tuple((0, name) for name in LAYERS)

    def on_epoch(epoch: int, metrics: EpochMetrics) -> bool | None:
        figures = metrics.values()
        if judged:
            figures |= judged.judge(epoch)
            progress.watch(figures["f1"], optim)
        _unfreeze(net, due, progress.epoch)
        if checkpoints:
            checkpoints.note("train", epoch, figures)
        if checkpoints and world.rank == 0:
            more = {f"best/{name}": value for name, value in judged.best.items()} if judged else {}
            checkpoints.save("train", net, progress, more, figures=judged.figures if judged else {})
        return report("train", epoch, figures)

    net.freeze()
    _unfreeze(net, due, progress.epoch)
    fit(net, batches, optim, on_epoch, progress)
    net.eval()
    if judged is None:
        return TrainedClassifier(np.empty(0, dtype=np.int64), {})
    judged.finish()
    return TrainedClassifier(judged.batches.rows.indices, judged.figures)


def _split(rows: TrainingSet, labelled: Labelled, share: float) -> tuple[TrainingSet, TrainingSet | None]:
    assert rows.targets is not None
    indices = np.asarray(rows.indices)
    real = indices[labelled.real[indices] & (rows.targets[indices, 0] >= 0)]
    label, fault = rows.targets[real].T
    # an abnormal record of no named fault is a kind of its own
    kind = np.where(label == 0, 0, np.where(fault >= 0, 2 + fault, 1))
    mask = validation_rows(kind, labelled.units[real], share)
    if not mask.any():
        log.warning(
            "%d real labels are of too few units to set some aside: the classifier is trained for all epochs and not calibrated", len(real)
        )
        return rows, None
    train = replace(rows, indices=indices[~np.isin(indices, real[mask])])
    return train, TrainingSet(rows.read, real[mask], rows.targets)


def _unfreeze(net: Classifier, due: tuple[tuple[int, str], ...], epoch: int) -> None:
    if net.encoder is not None:
        net.unfreeze(name for at, name in due if at <= epoch)
