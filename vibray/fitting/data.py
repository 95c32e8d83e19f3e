"""What a fit is given and what it leaves: features that fit the recipe, labels by record, targets for a net; a fitted model."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from vibray.config import UserError, to_json
from vibray.decide.splits import UNLABELLED, independent
from vibray.models.band_transformer import BandTransformerConfig
from vibray.models.deep_sad import DeepSadConfig
from vibray.recipes.building import build_feature
from vibray.recipes.kinds import ClassicalRecipe, ClassifierRecipe, DeepRecipe, DiagnosisRecipe, EnsembleRecipe, Recipe
from vibray.runs.models import Detecting
from vibray.schema import BAD_RECORDS, LABEL_ABNORMAL, LABEL_NORMAL, NORMAL, UNDECIDED
from vibray.storage.labels import match_labels, read_labels
from vibray.storage.parts import Parts
from vibray.tables.sensors import Sensors
from vibray.tables.training import TrainingTable
from vibray.train.guards import GuardReport


class TrainingError(UserError):
    """The arguments of a training do not fit one another or the features."""


@dataclass(frozen=True)
class Lesson:
    """What a net learns from: records of a table, and what is known of them."""

    indices: np.ndarray
    """row numbers of the table that take part"""
    targets: np.ndarray | None = None
    """classifier: [rows, 2] int64, label (0, 1, -1) and fault number (-1: none); Deep SAD: [rows] int64, the label"""
    weights: np.ndarray | None = None
    real: np.ndarray | None = None
    """classifier: bool a row, its label is a person's"""
    faults: tuple[str, ...] = ()
    """classifier: the names of the fault numbers"""


@dataclass(frozen=True)
class FitResult:
    """A detector fitted on some rows of a table."""

    detecting: Detecting
    scores: np.ndarray
    """of these rows, in their order"""
    guards: GuardReport = GuardReport(())
    lines: list[dict[str, Any]] = field(default_factory=list)
    """for metrics.jsonl"""


def check_features(recipe: Recipe, table: TrainingTable) -> None:
    """Raises TrainingError where a vector that the recipe wants is not in the table, or was made with another config; UserError where a
    feature cannot be had at this rate and length."""
    match recipe:
        case EnsembleRecipe():
            for member in recipe.members.values():
                check_features(member, table)
            return
        case DiagnosisRecipe():
            check_features(recipe.detector, table)
            return
        case ClassicalRecipe() | DeepRecipe():
            wanted = [recipe.feature]
        case ClassifierRecipe():
            wanted = [config for config in (recipe.image, recipe.vector) if config is not None]
    for config in wanted:
        feature = build_feature(config, table.facts.mains_hz)
        feature.check(table.facts.sample_rate_hz, table.facts.num_samples)
        if not isinstance(recipe, ClassicalRecipe):
            continue
        stored = table.vectors.get(config.kind)
        if stored is None:
            has = ", ".join(table.vectors) or "none"
            raise TrainingError(f"the features table has no {config.kind} vector (it has {has}): featurize with --vectors {config.kind}")
        if stored != to_json(config):
            raise TrainingError(f"the recipe's {config.kind} is not the table's:\n  recipe {to_json(config)}\n  table  {stored}")


def labels_of_records(uri: str, table: TrainingTable) -> np.ndarray:
    """The label of each record of the table ("" where there is none), rows that meet a line set aside being counted."""
    bad = pa.concat_tables([Parts(features).read(name="bad", schema=BAD_RECORDS) for features in table.corpora.values()])
    how = (table.facts.timezone, table.facts.time_format)
    matched = match_labels(read_labels(uri, *how), table.index, bad, *how)
    print(matched.told("records"))
    found = np.full(len(table), UNLABELLED, dtype=object)
    rows, labelled = table.rows_of(matched.table)
    found[rows] = labelled["label"].to_pylist()
    return found


def check_both_classes(lesson: Lesson) -> None:
    """Raises TrainingError where a classifier would see normal records alone, or abnormal ones alone."""
    assert lesson.targets is not None
    label = lesson.targets[lesson.indices, 0]
    counts = {name: int((label == value).sum()) for name, value in (("normal", LABEL_NORMAL), ("abnormal", LABEL_ABNORMAL))}
    for name, count in counts.items():
        if not count:
            raise TrainingError(
                f"no {name} record is among the {len(label):,} labels to train on: a classifier needs both kinds; label some, or take "
                "pseudo-labels of cuts that call some so"
            )


def known_labels(labels: np.ndarray) -> np.ndarray:
    """Labels in words as 0 (normal), 1 (any fault), -1 (none)."""
    return np.where(labels == UNLABELLED, UNDECIDED, np.where(labels == NORMAL, LABEL_NORMAL, LABEL_ABNORMAL)).astype(np.int64)


def search_pool(labels: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Of these rows those that a search fits on: labelled records stay out where there are as many others, so that cuts can be made of
    normals that no training has seen. Elsewhere all rows, faults among them, as they are where nobody labelled anything."""
    unlabelled = rows[labels[rows] == UNLABELLED]
    return unlabelled if 2 * len(unlabelled) >= len(rows) else rows


def without_labelled(labels: np.ndarray, rows: np.ndarray, sensors: Sensors) -> np.ndarray:
    """Of these rows those that a diagnosis' detector is fitted on: a sensor's labelled records stay out where it has as many others, so
    that the detector's scores of them are those of records that it has not seen."""
    labelled = labels[rows] != UNLABELLED
    own = sensors.code[rows]
    others, judged = (np.bincount(own[mask], minlength=len(sensors.names)) for mask in (~labelled, labelled))
    return rows[~labelled | (others < judged)[own]]


def independent_rows(table: TrainingTable, labels: np.ndarray) -> np.ndarray:
    """Row numbers without waveforms that stand twice, and without those whose labels contradict each other."""
    return np.flatnonzero(independent(table.index["content_hash"].to_pylist(), labels))


def detector_lesson(recipe: DeepRecipe, rows: np.ndarray, labels: np.ndarray | None) -> Lesson:
    """What a deep detector learns from: for Deep SAD labels too (0, 1, -1), each with its weight; for a band transformer labels alone."""
    if labels is not None and isinstance(recipe.detector, BandTransformerConfig):
        return Lesson(rows, labels)
    if labels is None or not isinstance(recipe.detector, DeepSadConfig):
        return Lesson(rows)
    return Lesson(rows, labels, np.where(labels == UNDECIDED, 1.0, recipe.detector.label_weight))


def classifier_lesson(labels: np.ndarray, pseudo: np.ndarray | None = None, pseudo_weights: np.ndarray | None = None) -> Lesson:
    """What a classifier learns from: a person's labels (in words), and pseudo-labels (0, 1, -1) where there is none of those."""
    real = labels != UNLABELLED
    faults = tuple(sorted(set(labels[real].tolist()) - {NORMAL}))
    targets = np.full((len(labels), 2), -1, np.int64)
    targets[:, 0] = known_labels(labels)
    for number, fault in enumerate(faults):
        targets[labels == fault, 1] = number
    weights = real.astype(np.float64)
    if pseudo is not None and pseudo_weights is not None:
        taken = ~real & (pseudo != UNDECIDED)
        targets[taken, 0], weights[taken] = pseudo[taken], pseudo_weights[taken]
    return Lesson(np.flatnonzero(targets[:, 0] != UNDECIDED), targets, weights, real, faults)
