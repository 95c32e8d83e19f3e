"""Scores and cuts to pseudo-labels: normal, abnormal or undecided, each with weight, origin and round; and their .npz export."""

import io
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int8

from vibray.decide.cuts import Cuts, GroupedCuts, decided, finite
from vibray.decide.groups import sensor_groups
from vibray.decide.said import Said
from vibray.decide.thresholds import Groups
from vibray.schema import LABEL_ABNORMAL, LABEL_NORMAL, PSEUDO_LABELS, UNDECIDED, State
from vibray.storage.columns import blocks, codes, flags, key_columns, one_chunk, plain, record_ids, with_record_ids

HUMAN_WEIGHT = 1.0
PSEUDO_WEIGHT = 0.5

NPZ_RECORDS = 250_000
"""Of more records no .npz is made."""

UNDECIDED_STATES = (State.OFF, State.TRANSIENT, State.SENSOR_FAULT)
"""In these states a score speaks of the plant's or the sensor's condition, not of the machine's health: no pseudo-label."""


def undecided_rows(scores: pa.Table) -> np.ndarray:
    """bool a row: its state is one of these."""
    names, number = codes(scores["state"])
    return np.array([*(name in UNDECIDED_STATES for name in names), False])[number]


def label_of_each(
    scores: pa.Table, cuts: Cuts | GroupedCuts, human: Said | Sequence[str | None] | None = None
) -> Int8[np.ndarray, " rows"]:
    """The label of each row of the scores table. The first rule that applies decides:

      1. a human label ("normal", the name of a fault) - weight 1, origin human;
      2. state off, transient or sensor_fault: -1;
      3. score >= anomaly_above: 1, but -1 where the sensor is in neither run nor calibration (`calibrated` false: it raises no alarm);
      4. score <= normal_below: 0;  5. -1.

    A class may be empty: a healthy month has no abnormal record.
    """
    label, said = by_cut(scores, cuts), Said.of(human, scores.num_rows)
    label[(label == LABEL_ABNORMAL) & ~flags(scores["calibrated"])] = UNDECIDED
    label[undecided_rows(scores)] = UNDECIDED
    label[said.rows] = np.where(said.faulty, LABEL_ABNORMAL, LABEL_NORMAL)
    return label


def pseudo_labels(
    scores: pa.Table,
    label: Int8[np.ndarray, " rows"],
    human: Said | Sequence[str | None] | None = None,
    round: int = 0,
    origin: Literal["threshold", "classifier"] = "threshold",
) -> Iterator[pa.Table]:
    """Tables of schema.PSEUDO_LABELS, together a row for each of the scores table, in its order; `label` as `label_of_each` gives it.

    Labels of people weigh 1, others 0.5 and have the given `origin`; an undecided row has weight 0.
    """
    by_human = Said.of(human, scores.num_rows).mask()
    for piece in blocks(scores.num_rows):
        own, name, by = scores.select(key_columns(scores)).slice(piece.start, piece.stop - piece.start), label[piece], by_human[piece]
        columns = {
            "corpus": one_chunk(plain(own.select(["corpus"]))["corpus"]),
            "record_id": record_ids(own),
            "label": name,
            "weight": np.where(by, HUMAN_WEIGHT, np.where(name == UNDECIDED, 0.0, PSEUDO_WEIGHT)).astype(np.float32),
            "origin": np.where(by, "human", origin),
            "round": np.full(len(name), round, np.int32),
        }
        yield pa.table(columns, schema=PSEUDO_LABELS)


def by_cut(scores: pa.Table, cuts: Cuts | GroupedCuts) -> Int8[np.ndarray, " rows"]:
    """Of each row, by its own cuts alone: 0 normal, 1 abnormal, -1 undecided. Raises CutsError for a score that is not finite."""
    score = one_chunk(scores["score"]).to_numpy()
    label = np.empty(len(score), np.int8)
    if not np.isfinite(score).all():
        finite(score)
    if isinstance(cuts, Cuts):
        for piece in blocks(len(score)):
            label[piece] = cuts.decide(score[piece])
        return label
    names, number = row_groups(scores, cuts.by)
    low, high = cuts.limits(names)
    for piece in blocks(len(score)):
        label[piece] = decided(finite(score[piece]), low[number[piece]], high[number[piece]])
    return label


def row_groups(scores: pa.Table, by: Literal["unit", "sensor"]) -> Groups:
    """The group of each row, as `grouped_cuts` takes it."""
    if by == "unit":
        names, number = codes(scores["unit"])
        return [(name,) for name in names], number
    groups = sensor_groups(scores)
    return groups.names, groups.numbers()


def export_npz(scores: pa.Table, label: Int8[np.ndarray, " rows"], cuts: Cuts | GroupedCuts) -> bytes:
    """The pseudo-labels as the original plan's .npz file; loads with allow_pickle=False. Its keys take 200 bytes a record: where there are
    more than NPZ_RECORDS, nobody calls it.

    Rows stand in key order, that of (corpus, record_id) as UTF-8:
      scores (records,) float32; indices (records,) int64, 0 .. records - 1; keys (records,) unicode, "corpus/record_id";
      pseudo_normal, pseudo_anomaly, uncertain: int64, the values of `indices` whose label is 0, 1, -1, human labels included;
      t_normal, t_anomaly: float64 scalars, of all scores where there are cuts by group too.
    `label` is what `label_of_each` made of `scores`.
    """
    finite(one_chunk(scores["score"]).to_numpy())
    columns = with_record_ids(scores.select([*key_columns(scores), "score"])).append_column("label", pa.array(label))
    ordered = columns.sort_by([("corpus", "ascending"), ("record_id", "ascending")])
    label = ordered["label"].to_numpy()
    indices = np.arange(len(label), dtype=np.int64)
    keys = pc.binary_join_element_wise(ordered["corpus"], ordered["record_id"], "/")  # type: ignore[attr-defined]
    file = io.BytesIO()
    np.savez(
        file,
        scores=ordered["score"].to_numpy(),
        indices=indices,
        keys=np.array(keys.to_pylist(), np.str_),
        pseudo_normal=indices[label == LABEL_NORMAL],
        pseudo_anomaly=indices[label == LABEL_ABNORMAL],
        uncertain=indices[label == UNDECIDED],
        t_normal=np.float64(cuts.overall.normal_below),
        t_anomaly=np.float64(cuts.overall.anomaly_above),
    )
    return file.getvalue()
