"""The records of a search: features tables, labels where there are any, folds of units, and what a reader must know of them."""

from collections.abc import Callable

import numpy as np

from vibray.decide.splits import UNLABELLED, folds, independent
from vibray.pipeline.benchmark_cells import Corpus
from vibray.pipeline.benchmark_grid import off_records, records_of, with_values
from vibray.pipeline.search_models import fold_rows
from vibray.pipeline.search_study import SearchError
from vibray.pipeline.tables import open_features
from vibray.pipeline.training import check_features, labels_of_records
from vibray.recipes import ClassicalRecipe, DeepRecipe


def open_corpus(
    features: tuple[str, ...], labels: str | None, recipe: DeepRecipe | ClassicalRecipe, num_folds: int, calibration_records: int, seed: int
) -> tuple[Corpus, list[str]]:
    """The corpus with its folds, vectors and waveforms still in storage, and what is said of it.

    Raises SplitError, TrainingError, or SearchError where no fold can be judged with the labels given.
    """
    table = open_features(features)
    check_features(recipe, table)
    label = labels_of_records(labels, table) if labels else np.full(len(table), UNLABELLED, dtype=object)
    keep = np.flatnonzero(independent(table.index["content_hash"].to_pylist(), label))
    left_out = table.num_duplicates + len(table) - len(keep)
    table, label = table.take(keep), label[keep]
    records = records_of(table, label)
    fold, by_unit = folds(records, num_folds)
    corpus = Corpus(table, records, fold, {}, np.empty((len(table), 0), np.float32), off_records(table), calibration_records, True)
    said = [
        f"{len(table):,} records of {len(np.unique(records.unit))} units and {records.sensor.max() + 1} sensors: "
        f"{int(records.healthy.sum()):,} labelled normal, {int(records.faulty.sum()):,} faulty; {left_out:,} duplicates left out",
        f"{num_folds} folds of units"
        if by_unit
        else f"{num_folds} blocks of time in each unit: the units are too few for folds of them, so no figure is of a machine never seen",
    ]
    judgeable = 0
    for number in range(num_folds):
        rows = fold_rows(corpus, number, seed)
        faults = int(records.faulty[rows.split.judged].sum())
        judgeable += 0 < faults < len(rows.split.judged)
        said.append(
            f"fold {number}: trained on {len(rows.split.pool):,}, calibrated by {len(rows.split.calibration):,}"
            + (f", judged on {len(rows.split.judged):,} with {faults:,} faults" if labels else f", probed with {len(rows.probe):,}")
        )
    if labels and not judgeable:
        raise SearchError(
            f"no fold has both normal and faulty labels to be judged on: label more records, or change --num-folds {num_folds}"
        )
    return corpus, said


def with_records(corpus: Corpus, recipe: DeepRecipe | ClassicalRecipe, injected: bool, progress: Callable[[int, int], None]) -> Corpus:
    """The corpus with the vectors or waveforms that a recipe and its objective need, read from storage."""
    vectors = [recipe.feature.kind] if isinstance(recipe, ClassicalRecipe) else []
    return with_values(corpus, vectors, injected or isinstance(recipe, DeepRecipe), progress)
