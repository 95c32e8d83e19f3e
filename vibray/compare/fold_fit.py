"""A detector fitted on a fold's pool and calibrated on its new sensors, by the code that trains any run."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from vibray.compare.corpus import Task
from vibray.features.scaling import Scaling, Sensor
from vibray.fitting.classical import HeldVectors, fit_classical
from vibray.fitting.data import FitResult, detector_lesson, known_labels
from vibray.fitting.deep import Now, fit_deep, net_scores
from vibray.fitting.worker import Worker
from vibray.models.fitted import Fitted
from vibray.recipes.building import build_vector, columns_of
from vibray.recipes.kinds import ClassicalRecipe, DeepRecipe

Score = Callable[[np.ndarray], np.ndarray]
"""Row numbers to scores, float64; on every worker, and each has to call it."""

AtEpoch = Callable[[int, Score], None]
"""Called on every worker after each epoch of training proper with the number of epochs done and the scores as the net is now."""


@dataclass(frozen=True)
class FoldFit:
    """A fitted recipe that knows the fold's new sensors too."""

    fit: FitResult
    """as training leaves it, without these sensors"""
    scaling: Scaling
    score: Score
    shown: Callable[[np.ndarray], Tensor]
    """row numbers to what the detector is shown of them"""

    def known(self, sensors: list[Sensor]) -> np.ndarray:
        """bool a record: its sensor has a baseline."""
        return self.scaling.known(sensors)


def fit_fold(worker: Worker, recipe: DeepRecipe | ClassicalRecipe, task: Task, at_epoch: AtEpoch | None = None) -> FoldFit:
    """Fits a detector on the task's pool, Deep SAD on its labels too. Every worker has to call it. Raises what training raises."""
    return _classical(recipe, task) if isinstance(recipe, ClassicalRecipe) else _deep(worker, recipe, task, at_epoch)


def calibrated(scaling: Scaling, read: Callable[[np.ndarray], Tensor], task: Task) -> Scaling:
    """The scaling with the sensors of the calibration records added; one without such a record stays unknown."""
    return scaling.with_sensors((sensor, read(rows)) for sensor, rows in task.table.sensors.rows(task.calibration))


def vectors_shown(recipe: ClassicalRecipe, scaling: Scaling, task: Task) -> tuple[Scaling, Callable[[np.ndarray], Tensor]]:
    """The scaling calibrated, and what a classical detector is shown of rows."""
    columns = columns_of(build_vector(recipe.feature, task.table.facts.mains_hz), recipe.detector.blocks)

    def read(rows: np.ndarray) -> Tensor:
        return torch.from_numpy(task.vectors[recipe.feature.kind][rows])

    own = calibrated(scaling, read, task)
    return own, lambda rows: own(read(rows), task.sensors(rows))[:, columns]


def _classical(recipe: ClassicalRecipe, task: Task) -> FoldFit:
    vectors = task.vectors[recipe.feature.kind]
    fit = fit_classical(recipe, task.table, task.pool, HeldVectors(vectors))
    scaling, shown = vectors_shown(recipe, fit.detecting.scaling, task)
    detector = fit.detecting.detector
    assert isinstance(detector, Fitted)
    return FoldFit(fit, scaling, lambda rows: detector.score(shown(rows)).double().numpy(), shown)


def _deep(worker: Worker, recipe: DeepRecipe, task: Task, at_epoch: AtEpoch | None) -> FoldFit:
    images = worker.images(recipe.feature)
    found: dict[str, Scaling] = {}

    def score_by(net: nn.Module, scaling: Scaling) -> tuple[Scaling, Score]:
        # the scaling is the same at every epoch
        own = found["scaling"] = found["scaling"] if found else calibrated(scaling, images, task)
        return own, lambda rows: net_scores(worker, net, worker.scaled(own, images), rows)

    def tell(epoch: int, now: Now) -> None:
        if at_epoch is not None:
            at_epoch(epoch, lambda rows: score_by(*now())[1](rows))

    lesson = detector_lesson(recipe, task.pool, known_labels(task.label_of) if len(task.labelled) else None)
    if lesson.targets is not None:
        lesson = replace(lesson, indices=np.union1d(task.pool, task.labelled))
    fit = fit_deep(worker, recipe, lesson, at_epoch=None if at_epoch is None else tell)
    assert isinstance(fit.detecting.detector, nn.Module)
    scaling, score = score_by(fit.detecting.detector, fit.detecting.scaling)
    return FoldFit(fit, scaling, score, worker.scaled(scaling, images))
