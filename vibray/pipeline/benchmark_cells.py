"""One cell of a benchmark: a recipe fitted on a pool, the fold's sensors calibrated, its other records judged. Nothing here needs Ray."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from pydantic import with_config
from torch import Tensor

from vibray.config import STRICT, to_json
from vibray.decide.areas import auroc
from vibray.decide.cuts import CutsError
from vibray.decide.identity import identity_probe
from vibray.decide.metrics import evaluation
from vibray.decide.pooling import pooled
from vibray.decide.splits import Records, Setting, Split, sizes, split
from vibray.decide.thresholds import percentile
from vibray.features.scaling import Scaling, ScalingFit, Sensor
from vibray.models.ensemble import Ensemble
from vibray.pipeline.tables import TrainingTable
from vibray.recipes import (
    ClassicalRecipe,
    ClassifierRecipe,
    DeepRecipe,
    EnsembleRecipe,
    Recipe,
    banded,
    build_classical,
    build_vector,
    columns_of,
)
from vibray.schema import NORMAL
from vibray.train.classical import Rows, fit_detector, fit_scaling

PASS_RECORDS = 2000
"""Records that a classical detector is shown at a time."""

PROBE_RECORDS = 400

CUT_PERCENT = 99.0
"""A 1 % percentile cut: that share of the pool raises an alarm, faults included."""


@with_config(STRICT)
@dataclass(frozen=True)
class LabelsOnly:
    """The control for recipes that see labels: a logistic regression on a classical recipe's features, fitted on the drawn labels alone."""

    kind: Literal["labels_only"] = "labels_only"
    base: ClassicalRecipe = banded()
    inverse_penalty: float = 1.0
    """scikit-learn's C"""


Contestant = Recipe | LabelsOnly


@dataclass(frozen=True)
class Corpus:
    """All records of a benchmark, in memory: workers of one node share the arrays."""

    table: TrainingTable
    records: Records
    fold: np.ndarray
    vectors: dict[str, np.ndarray]
    waveforms: np.ndarray
    """(records, samples); (records, 0) where no recipe needs them"""
    off: np.ndarray
    """bool a record: the machine is off, by its level and mains line; its scores set no cut, as in jobs/label.py"""
    calibration_records: int
    unlabelled_pool: bool = False

    def rows(self, setting: Setting) -> Split:
        """Who is trained on and who is judged in a cell."""
        return split(self.records, self.fold, setting, self.calibration_records, self.unlabelled_pool)

    def task(self, rows: Split, seed: int) -> "Task":
        """What a recipe is given in a cell."""
        label = self.records.label[rows.labelled]
        return Task(self.table, self.vectors, self.waveforms, rows.pool, rows.calibration, rows.judged, rows.labelled, label, seed)


@dataclass(frozen=True)
class Task:
    """What a recipe is given: features, rows, and no label but those of its budget."""

    table: TrainingTable
    vectors: dict[str, np.ndarray]
    waveforms: np.ndarray
    pool: np.ndarray
    calibration: np.ndarray
    judged: np.ndarray
    labelled: np.ndarray
    label: np.ndarray
    """of the rows in `labelled`"""
    seed: int

    def sensors(self, rows: np.ndarray) -> list[Sensor]:
        return [self.table.sensors[i] for i in rows]


@dataclass(frozen=True)
class Scored:
    """What a recipe says of a pool and of the judged records."""

    pool: np.ndarray
    judged: np.ndarray
    known: np.ndarray
    """bool a judged record: its sensor has a baseline"""
    inputs: Callable[[np.ndarray], Tensor] | None = None
    """rows -> what the detector is shown of them, for the identity probe; None for several detectors at once"""
    notes: tuple[str, ...] = ()


def uses_labels(recipe: Contestant) -> bool:
    """True for a recipe that a budget of labels means something to."""
    return isinstance(recipe, ClassifierRecipe | LabelsOnly) or getattr(getattr(recipe, "detector", None), "kind", "") == "deep_sad"


def needs_labels(recipe: Contestant) -> bool:
    """True for a recipe that is nothing without labels."""
    return isinstance(recipe, ClassifierRecipe | LabelsOnly)


def is_deep(recipe: Contestant) -> bool:
    """True for a recipe with nets."""
    if isinstance(recipe, EnsembleRecipe):
        return any(isinstance(member, DeepRecipe) for member in recipe.members.values())
    return isinstance(recipe, DeepRecipe | ClassifierRecipe)


def seeded(recipe: Contestant, seed: int) -> Contestant:
    """The recipe with every seed of its own set."""
    match recipe:
        case EnsembleRecipe():
            return replace(recipe, members={name: seeded(member, seed) for name, member in recipe.members.items()})  # type: ignore[misc]
        case DeepRecipe():
            return replace(recipe, pretrain=replace(recipe.pretrain, seed=seed), optim=replace(recipe.optim, seed=seed))
        case ClassifierRecipe():
            return replace(recipe, optim=replace(recipe.optim, seed=seed))
        case ClassicalRecipe() if hasattr(recipe.detector, "seed"):
            return replace(recipe, detector=replace(recipe.detector, seed=seed))  # type: ignore[call-arg]
    return recipe


def with_epochs(recipe: Contestant, epochs: int) -> Contestant:
    """The recipe with so many epochs of each training; 0 leaves the random weights."""
    match recipe:
        case EnsembleRecipe():
            return replace(recipe, members={name: with_epochs(member, epochs) for name, member in recipe.members.items()})  # type: ignore[misc]
        case DeepRecipe():
            return replace(recipe, pretrain=replace(recipe.pretrain, epochs=epochs), optim=replace(recipe.optim, epochs=epochs))
        case ClassifierRecipe():
            return replace(recipe, optim=replace(recipe.optim, epochs=epochs))
    return recipe


# ---------------------------------------------------------------- a cell


def run_cell(corpus: Corpus, recipe: Contestant, setting: Setting) -> dict[str, Any]:
    """Everything that is said of one cell, ready for JSON. Raises what the recipe raises."""
    start = time.perf_counter()
    recipe, rows = seeded(recipe, setting.seed), corpus.rows(setting)
    scored = scores_of(recipe, corpus.task(rows, setting.seed))
    notes, cuts = scored.notes, None
    try:
        cuts = percentile(scored.pool[~corpus.off[rows.pool]], 5, CUT_PERCENT)
    except CutsError as error:
        notes = (*notes, f"no cut: {error}")
    label, unit, at = (column[rows.judged] for column in (corpus.records.label, corpus.records.unit, corpus.records.time))
    means = pooled(scored.judged, unit, at, scored.known & ~corpus.off[rows.judged])
    over_sensors = None if (means == scored.judged).all() else auroc(means, label != NORMAL)
    figures = evaluation(scored.judged, label.tolist(), unit.tolist(), calibrated=scored.known, cuts=cuts)
    return {
        "config": to_json(recipe),
        "setting": to_json(setting),
        "sizes": sizes(corpus.records, rows) | {"uncalibrated": int((~scored.known).sum())},
        "figures": figures | {"auroc_over_sensors": over_sensors},
        "identity": None if scored.inputs is None else _identity(corpus, rows, scored.inputs),
        "notes": list(notes),
        "seconds": time.perf_counter() - start,
    }


def _identity(corpus: Corpus, rows: Split, inputs: Callable[[np.ndarray], Tensor]) -> dict[str, Any]:
    """The probe on the pool's healthy records, where most machines are."""
    healthy = rows.pool[corpus.records.healthy[rows.pool]]
    healthy = np.sort(healthy[np.argsort(corpus.table.key_hash[healthy])][:PROBE_RECORDS])
    x = inputs(healthy).flatten(1).cpu().numpy()
    return {"unit": identity_probe(x, corpus.records.unit[healthy]), "sensor": identity_probe(x, corpus.records.sensor[healthy])}


def scores_of(recipe: Contestant, task: Task) -> Scored:
    """Fits a recipe and scores pool and judged records."""
    match recipe:
        case ClassicalRecipe():
            return _classical(recipe, task)
        case LabelsOnly():
            return _labels_only(recipe, task)
        case EnsembleRecipe():
            return _ensemble(recipe, task)
    from vibray.pipeline.benchmark_deep import score_classifier, score_deep  # Ray Train takes seconds to import

    return score_deep(recipe, task) if isinstance(recipe, DeepRecipe) else score_classifier(recipe, task)


def calibrated(scaling: Scaling, read: Callable[[np.ndarray], Tensor], task: Task) -> Scaling:
    """The scaling with the sensors of the calibration records added; one with too few records stays unknown."""
    rows_of: dict[Sensor, list[int]] = {}
    for row in task.calibration.tolist():
        rows_of.setdefault(task.table.sensors[row], []).append(row)
    enough = {sensor: rows for sensor, rows in rows_of.items() if len(rows) >= scaling.config.min_records}
    found = [scaling.statistics_of(read(np.array(rows))) for rows in enough.values()]
    if not found:
        return scaling
    return scaling.extend(list(enough), torch.stack([location for location, _ in found]), torch.stack([scale for _, scale in found]))


@dataclass(frozen=True)
class Vectors:
    """A classical recipe's inputs in a task."""

    recipe: ClassicalRecipe
    task: Task

    @property
    def columns(self) -> list[int]:
        return columns_of(self.feature, self.recipe.detector.blocks)

    @property
    def feature(self):
        return build_vector(self.recipe.feature, self.task.table.facts.mains_hz)

    def __call__(self, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(self.task.vectors[self.recipe.feature.kind][rows])

    def load(self, rows: np.ndarray) -> Rows:
        return Rows(self(rows), self.task.sensors(rows), self.task.table.key_hash[rows])

    def passes(self) -> list[np.ndarray]:
        return np.array_split(self.task.pool, -(-len(self.task.pool) // PASS_RECORDS))

    def scaling(self) -> Scaling:
        return fit_scaling(ScalingFit(self.recipe.scaling, self.feature.shape), self.passes(), self.load)

    def shown(self, scaling: Scaling) -> Callable[[np.ndarray], Tensor]:
        columns = self.columns
        return lambda rows: scaling(self(rows), self.task.sensors(rows))[:, columns]


def _classical(recipe: ClassicalRecipe, task: Task) -> Scored:
    vectors = Vectors(recipe, task)
    scaling, columns = vectors.scaling(), vectors.columns
    detector = fit_detector(build_classical(recipe.detector, vectors.feature), scaling, columns, vectors.passes(), vectors.load)
    scaling = calibrated(scaling, vectors, task)
    shown = vectors.shown(scaling)
    pool, judged = (detector.score(shown(rows)).numpy() for rows in (task.pool, task.judged))
    return Scored(pool, judged, scaling.known(task.sensors(task.judged)), shown)


def _labels_only(recipe: LabelsOnly, task: Task) -> Scored:
    from sklearn.linear_model import LogisticRegression

    vectors = Vectors(recipe.base, task)
    scaling = calibrated(vectors.scaling(), vectors, task)
    shown = vectors.shown(scaling)
    model = LogisticRegression(C=recipe.inverse_penalty, class_weight="balanced", max_iter=1000)
    model.fit(shown(task.labelled).numpy(), task.label != NORMAL)
    pool, judged = (model.decision_function(shown(rows).numpy()) for rows in (task.pool, task.judged))
    return Scored(pool, judged, scaling.known(task.sensors(task.judged)), shown)


def _ensemble(recipe: EnsembleRecipe, task: Task) -> Scored:
    members = {name: scores_of(member, task) for name, member in recipe.members.items()}
    ensemble = Ensemble(recipe.fusion)
    ensemble.fit({name: torch.from_numpy(scored.pool) for name, scored in members.items()})
    pool = ensemble.fuse({name: torch.from_numpy(scored.pool) for name, scored in members.items()})
    judged = ensemble.fuse({name: torch.from_numpy(scored.judged) for name, scored in members.items()})
    known = np.logical_and.reduce([scored.known for scored in members.values()])
    notes = tuple(f"{name}: {note}" for name, scored in members.items() for note in scored.notes)
    return Scored(pool.numpy(), judged.numpy(), known, notes=notes)
