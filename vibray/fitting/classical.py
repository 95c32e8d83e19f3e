"""A classical detector fitted on some rows of a table: the scaling, the detector, the rows' scores, each in passes over the parts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vibray.features.scaling import Scaling
from vibray.fitting.data import FitResult
from vibray.models.ensemble import score_statistics
from vibray.models.fitted import Fitted
from vibray.recipes.building import build_classical, build_scaling_fit, build_vector, columns_of
from vibray.recipes.kinds import ClassicalRecipe
from vibray.runs.models import Detecting
from vibray.tables.training import Slice, TrainingTable
from vibray.train.classical import Load, Map, Part, Rows, fit_detector, fit_scaling, score_parts

QUANTILES = (0.05, 0.5, 0.95, 0.99)


def fit_classical(
    recipe: ClassicalRecipe, table: TrainingTable, rows: np.ndarray, load: Load, run: Callable[[str], Map] = lambda label: map
) -> FitResult:
    """Fits a detector on these rows, whose slices `load` makes to rows. `run` gives the map that does a pass; what it yields is merged in
    the order of the parts, so that the result is the same wherever it ran."""
    parts = table.slices(rows)
    scaling, detector, columns = fit_parts(recipe, table.facts.mains_hz, parts, load, run)
    scores = score_parts(detector, scaling, columns, parts, load, run("score"))
    return FitResult(Detecting(recipe, scaling, detector, score_statistics(scores)), scores, lines=[_score_line(scores)])


def fit_parts(
    recipe: ClassicalRecipe, mains_hz: float | None, parts: Sequence[Part], load: Load, run: Callable[[str], Map] = lambda label: map
) -> tuple[Scaling, Fitted, list[int]]:
    """The recipe's scaling and detector, fitted on parts whose rows `load` gives, and the columns of a vector that the detector reads."""
    feature = build_vector(recipe.feature, mains_hz)
    columns = columns_of(feature, recipe.detector.blocks)
    scaling = fit_scaling(build_scaling_fit(recipe.scaling, feature), parts, load, run("scaling"))
    detector = fit_detector(build_classical(recipe.detector, feature), scaling, columns, parts, load, run("fit"))
    return scaling, detector, columns


@dataclass(frozen=True)
class StoredVectors:
    """Vectors read from the features table at each pass."""

    column: str

    def __call__(self, part: Slice) -> Rows:
        return Rows(torch.from_numpy(part.read(self.column)), part.sensors, part.key_hash)


@dataclass(frozen=True)
class HeldVectors:
    """Vectors of a whole table that stand in memory."""

    vectors: np.ndarray

    def __call__(self, part: Slice) -> Rows:
        return Rows(torch.from_numpy(self.vectors[part.index]), part.sensors, part.key_hash)


def _score_line(scores: np.ndarray) -> dict[str, Any]:
    quantiles = {f"q{q:g}": float(np.quantile(scores, q)) for q in QUANTILES}
    return {"stage": "training scores", "num_records": len(scores), **quantiles}
