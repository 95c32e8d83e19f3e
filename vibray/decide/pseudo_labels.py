"""Scores and cuts to pseudo-labels: normal, abnormal or undecided, each with weight, origin and round; and their .npz export."""

import io
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pyarrow as pa

from vibray.decide.cuts import Cuts, GroupedCuts, finite
from vibray.schema import LABEL_ABNORMAL, LABEL_NORMAL, NORMAL, PSEUDO_LABELS, SENSOR, UNDECIDED, State

HUMAN_WEIGHT = 1.0
PSEUDO_WEIGHT = 0.5

UNDECIDED_STATES = (State.OFF, State.TRANSIENT, State.SENSOR_FAULT)
"""In these states a score speaks of the plant's or the sensor's condition, not of the machine's health: no pseudo-label."""


def undecided_rows(scores: pa.Table) -> np.ndarray:
    """bool a row: its state is one of these."""
    return np.isin(np.array(scores["state"].to_pylist(), np.str_), UNDECIDED_STATES)


def pseudo_labels(
    scores: pa.Table,
    cuts: Cuts | GroupedCuts,
    human: Sequence[str | None] | None = None,
    round: int = 0,
    origin: Literal["threshold", "classifier"] = "threshold",
) -> pa.Table:
    """One row of schema.PSEUDO_LABELS for each row of the scores table, in its order.

    The first rule that applies decides:
      1. a human label (`human`, one entry a row: "normal", the name of a fault, None) - weight 1, origin human;
      2. state off, transient or sensor_fault: -1;
      3. score >= anomaly_above: 1, but -1 where the sensor is in neither run nor calibration (`calibrated` false: it raises no alarm);
      4. score <= normal_below: 0;  5. -1.
    Labels by rule 3 and 4 weigh 0.5 and have the given `origin`; an undecided row has weight 0.

    A class may be empty: a healthy month has no abnormal record.
    """
    label = by_cut(scores, cuts)
    uncalibrated = ~scores["calibrated"].to_numpy().astype(bool)
    label[(label == LABEL_ABNORMAL) & uncalibrated] = UNDECIDED
    label[undecided_rows(scores)] = UNDECIDED

    said = np.array(human if human is not None else [None] * len(label), object)
    if len(said) != len(label):
        raise ValueError(f"{len(said)} human labels for {len(label)} scores: one entry a row, None where there is none")
    by_human = np.array([name is not None for name in said], bool)
    label[by_human] = np.where(said[by_human] == NORMAL, LABEL_NORMAL, LABEL_ABNORMAL)

    weight = np.where(by_human, HUMAN_WEIGHT, np.where(label == UNDECIDED, 0.0, PSEUDO_WEIGHT))
    columns = {
        "corpus": scores["corpus"],
        "record_id": scores["record_id"],
        "label": label,
        "weight": weight.astype(np.float32),
        "origin": np.where(by_human, "human", origin),
        "round": np.full(len(label), round, np.int32),
    }
    return pa.table(columns, schema=PSEUDO_LABELS)


def by_cut(scores: pa.Table, cuts: Cuts | GroupedCuts) -> np.ndarray:
    """int8 a row, by its own cuts alone: 0 normal, 1 abnormal, -1 undecided."""
    score = scores["score"].to_numpy()
    if isinstance(cuts, Cuts):
        return cuts.decide(score)
    return cuts.decide(row_groups(scores, cuts.by), score)


def row_groups(scores: pa.Table, by: Literal["unit", "sensor"]) -> list[tuple[str, ...]]:
    """The group of each row, as `grouped_cuts` and GroupedCuts take it: (unit,) or (unit, sensor_id)."""
    names = ("unit",) if by == "unit" else SENSOR
    return list(zip(*(scores[name].to_pylist() for name in names), strict=True))


def export_npz(scores: pa.Table, labels: pa.Table, cuts: Cuts | GroupedCuts) -> bytes:
    """The pseudo-labels as the original plan's .npz file; loads with allow_pickle=False.

    Rows stand in key order, that of (corpus, record_id) as UTF-8:
      scores (records,) float32; indices (records,) int64, 0 .. records - 1; keys (records,) unicode, "corpus/record_id";
      pseudo_normal, pseudo_anomaly, uncertain: int64, the values of `indices` whose label is 0, 1, -1, human labels included;
      t_normal, t_anomaly: float64 scalars, of all scores where there are cuts by group too.
    `labels` is what `pseudo_labels` made of `scores`, row by row; ValueError where the two do not belong together.
    """
    if not (labels["corpus"].equals(scores["corpus"]) and labels["record_id"].equals(scores["record_id"])):
        raise ValueError("scores and pseudo-labels are not of the same records in the same order")
    finite(scores["score"].to_numpy())
    columns = scores.select(["corpus", "record_id", "score"]).append_column("label", labels["label"])
    ordered = columns.sort_by([("corpus", "ascending"), ("record_id", "ascending")])
    label = ordered["label"].to_numpy()
    indices = np.arange(len(label), dtype=np.int64)
    keys = [
        f"{corpus}/{record_id}" for corpus, record_id in zip(ordered["corpus"].to_pylist(), ordered["record_id"].to_pylist(), strict=True)
    ]
    overall = cuts if isinstance(cuts, Cuts) else cuts.overall
    file = io.BytesIO()
    np.savez(
        file,
        scores=ordered["score"].to_numpy(),
        indices=indices,
        keys=np.array(keys, np.str_),
        pseudo_normal=indices[label == LABEL_NORMAL],
        pseudo_anomaly=indices[label == LABEL_ABNORMAL],
        uncertain=indices[label == UNDECIDED],
        t_normal=np.float64(overall.normal_below),
        t_anomaly=np.float64(overall.anomaly_above),
    )
    return file.getvalue()
