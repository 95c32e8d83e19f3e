"""A detector and the diagnosis of its records, fitted on a table: which records take part, and what is known of them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vibray.decide.pooling import TOLERANCE_S, moments
from vibray.fitting.data import Lesson
from vibray.models.context_scorer import shipped
from vibray.recipes.building import build_vector, net_columns
from vibray.recipes.kinds import DiagnosisRecipe
from vibray.runs.models import Detecting, Naming
from vibray.schema import LABEL_ABNORMAL, LABEL_NORMAL
from vibray.storage.columns import times_ms
from vibray.tables.training import TrainingTable
from vibray.train.diagnosis import Labels, fit_diagnosis

MAX_RECORDS = 20_000
"""Records of the table that tell what is healthy, drawn by their key's hash."""


@dataclass(frozen=True)
class NamingFit:
    """A fitted diagnosis."""

    naming: Naming
    line: dict
    """its figures, for metrics.jsonl"""


def fit_naming(
    recipe: DiagnosisRecipe,
    detecting: Detecting,
    table: TrainingTable,
    rows: np.ndarray,
    lesson: Lesson,
    read: Callable[[np.ndarray], Tensor],
) -> NamingFit:
    """Fits the diagnosis of a detector's records on labels; `read` gives the vectors of row numbers, `rows` are those it was fitted on."""
    feature = build_vector(recipe.detector.feature, table.facts.mains_hz)
    columns = net_columns(feature)

    def scaled(those: np.ndarray) -> tuple[Tensor, np.ndarray]:
        with torch.inference_mode():
            x = detecting.scaling(read(those), table.sensors.of(those))
            return x, detecting.of_scaled(x, table.facts).double().numpy()

    drawn = rows[np.argsort(table.key_hash[rows])][:MAX_RECORDS]
    labelled, labels = labels_of(table, lesson, recipe.diagnosis.partner_weight)
    x, scores = scaled(labelled)
    net = shipped() if columns else None
    fit = fit_diagnosis(recipe.diagnosis, *scaled(drawn), x, scores, labels, lesson.faults, net, columns)
    return NamingFit(Naming(detecting, lesson.faults, fit.diagnosis), {"stage": "diagnosis", **fit.figures})


def labels_of(table: TrainingTable, lesson: Lesson, partner_weight: float) -> tuple[np.ndarray, Labels]:
    """Row numbers with a label, and what is known of each: the lesson's own, and with `partner_weight` the records of the same unit and
    moment by other sensors. What a person says of one sensor's record is said of the machine; sensors that are judged apart stay as judged.
    """
    assert lesson.targets is not None and lesson.weights is not None and lesson.real is not None
    times = times_ms(table.index)
    sensors = table.sensors
    unit = np.unique([name for name, _ in sensors.names], return_inverse=True)[1].reshape(-1)[sensors.code]
    sensor = np.array([name for _, name in sensors.names])[sensors.code]
    moment = moments(unit, sensor, times, TOLERANCE_S)
    rows = lesson.indices
    target = {row: (*lesson.targets[row].tolist(), float(lesson.weights[row]), bool(lesson.real[row])) for row in rows.tolist()}
    said: dict[int, set[tuple[int, int]]] = {}
    for row, (label, fault, _, real) in target.items():
        if real and table.time_trusted[row]:
            said.setdefault(int(moment[row]), set()).add((label, fault))
    if partner_weight:
        of_moment = np.isin(moment, list(said)) & table.time_trusted & ~table.repeats
        for row in np.flatnonzero(of_moment).tolist():
            known = said[int(moment[row])]
            if len(known) == 1 and not (row in target and target[row][3]):  # a person's word for this record or for its moment wins
                target[row] = (*next(iter(known)), partner_weight, False)
    labelled = np.array(sorted(target), np.int64)
    label, fault, weight, human = (np.array(values) for values in zip(*(target[row] for row in labelled.tolist()), strict=True))
    known = (label == LABEL_NORMAL) | (label == LABEL_ABNORMAL)
    labelled, label, fault, weight, human = (values[known] for values in (labelled, label, fault, weight, human))
    return labelled, Labels(label, fault, weight.astype(np.float64), human, unit[labelled].astype(np.int64), moment[labelled])
