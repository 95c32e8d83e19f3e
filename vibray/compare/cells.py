"""One cell of a benchmark: a recipe fitted on a pool, the fold's sensors calibrated, its other records judged."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from pydantic import with_config
from torch import Tensor

from vibray.compare.corpus import Corpus, Task
from vibray.compare.fold_fit import calibrated, fit_fold, vectors_shown
from vibray.config import STRICT, UserError, to_json
from vibray.decide.areas import auroc
from vibray.decide.cuts import CutsError
from vibray.decide.identity import identity_probe
from vibray.decide.metrics import evaluation
from vibray.decide.pooling import pooled
from vibray.decide.splits import Setting, Split, sizes
from vibray.decide.thresholds import percentile
from vibray.fitting.classical import HeldVectors, fit_classical
from vibray.fitting.classifier import fit_classifier, inputs_of, read_inputs
from vibray.fitting.data import classifier_lesson
from vibray.fitting.deep import net_scores
from vibray.fitting.diagnosis import fit_naming
from vibray.fitting.worker import alone_with
from vibray.models.ensemble import Ensemble
from vibray.recipes import banded
from vibray.recipes.building import build_scaling_fit, build_vector
from vibray.recipes.kinds import ClassicalRecipe, ClassifierRecipe, DeepRecipe, DiagnosisRecipe, EnsembleRecipe, Recipe
from vibray.runs.inputs import Inputs
from vibray.schema import NORMAL
from vibray.train.classical import fit_scaling

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
    return needs_labels(recipe) or getattr(getattr(recipe, "detector", None), "kind", "") == "deep_sad"


def needs_labels(recipe: Contestant) -> bool:
    """True for a recipe that is nothing without labels."""
    return isinstance(recipe, ClassifierRecipe | DiagnosisRecipe | LabelsOnly)


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
    of = corpus.records
    label, unit, sensor, at = (column[rows.judged] for column in (of.label, of.unit, of.sensor, of.time))
    means = pooled(scored.judged, unit, sensor, at, scored.known & ~corpus.off[rows.judged] & corpus.table.time_trusted[rows.judged])
    over_sensors = auroc(means.scores, label != NORMAL) if means.with_partner.any() else None
    figures = evaluation(scored.judged, label.tolist(), unit.tolist(), usable=scored.known, cuts=cuts)
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
    """Fits a recipe in this process and scores pool and judged records. A guard that trips is a note; the net is judged."""
    match recipe:
        case LabelsOnly():
            return _labels_only(recipe, task)
        case EnsembleRecipe():
            return _ensemble(recipe, task)
        case ClassifierRecipe():
            return _classifier(recipe, task)
        case DiagnosisRecipe():
            return _diagnosis(recipe, task)
    with alone_with(task.table, task.waveforms) as worker:
        fold = fit_fold(worker, recipe, task)
        pool, judged = (fold.score(rows) for rows in (task.pool, task.judged))
    return Scored(pool, judged, fold.known(task.sensors(task.judged)), fold.shown, fold.fit.guards.reasons)


def _labels_only(recipe: LabelsOnly, task: Task) -> Scored:
    from sklearn.linear_model import LogisticRegression

    abnormal = task.label != NORMAL
    if abnormal.all() or not abnormal.any():
        raise UserError(f"a regression needs labels of both kinds, and these {len(abnormal)} are of one: give larger --label-budgets")
    base, vectors = recipe.base, task.vectors[recipe.base.feature.kind]
    feature = build_vector(base.feature, task.table.facts.mains_hz)
    fit = fit_scaling(build_scaling_fit(base.scaling, feature), task.table.slices(task.pool), HeldVectors(vectors))
    scaling, shown = vectors_shown(base, fit, task)
    model = LogisticRegression(C=recipe.inverse_penalty, class_weight="balanced", max_iter=1000)
    model.fit(shown(task.labelled).numpy(), abnormal)
    pool, judged = (model.decision_function(shown(rows).numpy()) for rows in (task.pool, task.judged))
    return Scored(pool, judged, scaling.known(task.sensors(task.judged)), shown)


def _classifier(recipe: ClassifierRecipe, task: Task) -> Scored:
    """From random weights on the budget's labels alone; its score is the probability of being abnormal."""
    with alone_with(task.table, task.waveforms) as worker:
        fit = fit_classifier(worker, recipe, classifier_lesson(task.label_of), task.pool)
        fitted = fit.diagnosing.scalings()
        scalings = {name: calibrated(fitted[name][1], worker.images(config), task) for name, config, _ in inputs_of(recipe)}
        shown = read_inputs(worker, recipe, scalings)
        pool, judged = (net_scores(worker, fit.diagnosing.net, shown, rows) for rows in (task.pool, task.judged))
    known = np.logical_and.reduce([scaling.known(task.sensors(task.judged)) for scaling in scalings.values()])
    return Scored(pool, judged, known, shown if len(scalings) == 1 else None)


def _diagnosis(recipe: DiagnosisRecipe, task: Task) -> Scored:
    """The detector on the pool, the budget's labels on its answers; its score is the probability of being abnormal."""
    feature, vectors = recipe.detector.feature, task.vectors[recipe.detector.feature.kind]

    def read(rows: np.ndarray) -> Tensor:
        return torch.from_numpy(vectors[rows])

    fit = fit_classical(recipe.detector, task.table, task.pool, HeldVectors(vectors))
    naming = fit_naming(recipe, fit.detecting, task.table, task.pool, classifier_lesson(task.label_of), read).naming
    naming = naming.rescaled({"": calibrated(naming.detecting.scaling, read, task)})

    def score(rows: np.ndarray) -> np.ndarray:
        made = Inputs(torch.empty(len(rows), 0), task.table.facts, {feature: read(rows)})
        return naming.outputs(made, task.sensors(rows))["score"].double().numpy()

    return Scored(score(task.pool), score(task.judged), naming.detecting.scaling.known(task.sensors(task.judged)))


def _ensemble(recipe: EnsembleRecipe, task: Task) -> Scored:
    members = {name: scores_of(member, task) for name, member in recipe.members.items()}
    ensemble = Ensemble(recipe.fusion)
    ensemble.fit({name: torch.from_numpy(scored.pool) for name, scored in members.items()})
    pool = ensemble.fuse({name: torch.from_numpy(scored.pool) for name, scored in members.items()})
    judged = ensemble.fuse({name: torch.from_numpy(scored.judged) for name, scored in members.items()})
    known = np.logical_and.reduce([scored.known for scored in members.values()])
    notes = tuple(f"{name}: {note}" for name, scored in members.items() for note in scored.notes)
    return Scored(pool.numpy(), judged.numpy(), known, notes=notes)
