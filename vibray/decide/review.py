"""Which records a person should look at next: the review queue.

A candidate is a usable record (calibrated; not off, in transition or of a faulty sensor) that no person has labelled. The rule:

  1. a detector's are taken by score, the highest first. A classifier's: of those above the cut the ones whose two likeliest faults lie
     closest together (margin sampling), then the others by score;
  2. of a moment of a unit the first alone, and none where a person has labelled one: its sensors heard one thing;
  3. in turn one of each unit, with a classifier one of each unit and guessed fault, no unit having more than a quarter of the queue (or its
     even share, where there are fewer than four).

On generated fleets 20 labels chosen by score alone find 20 faulty records, but the loudest kinds, over and over; one a unit finds the same
number and teaches a classifier more. What was tried beside it - records near the cut, strata of the score, clusters, chance above the
cut - taught no more in the first round; in the second, margins above the cut do (`python -m tests.reference.review`).

Source: Scheffer, Decomain and Wrobel 2001, "Active Hidden Markov Models for Information Extraction", for the margin.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float64, Int64

from vibray.decide.pooling import TOLERANCE_S, moments
from vibray.decide.reference import usable_rows
from vibray.schema import FAULT_PREFIX, NORMAL, UNKNOWN

LARGEST_SHARE = 0.25
"""Of the queue, from one unit."""


def review_rows(
    scores: pa.Table,
    above: Bool[np.ndarray, " records"],
    human: Sequence[str | None] | None,
    num: int,
    tolerance_s: float = TOLERANCE_S,
) -> Int64[np.ndarray, " queue"]:
    """The rows of the queue, in its order; fewer than `num` where there are no more. `above` marks records at or above their cut.

    Records of a unit that begin within `tolerance_s` are of one moment. Equal scores stand in the order of (corpus, record_id).
    """
    rows = np.flatnonzero(usable_rows(scores))
    labelled = np.array([name is not None for name in human or [None] * scores.num_rows], bool)[rows]
    if labelled.all():
        return rows[:0]
    table = scores.take(pa.array(rows))
    unit, sensor = (np.array(table[name].to_pylist(), np.str_) for name in ("unit", "sensor_id"))
    time_ms = table["measured_at"].to_numpy().astype("datetime64[ms]").astype(np.int64)
    best = _best_first(table, above[rows])
    moment = moments(unit, sensor, time_ms, tolerance_s)
    best = best[(np.bincount(moment, labelled)[moment] == 0)[best]]
    best = best[np.sort(np.unique(moment[best], return_index=True)[1])]
    if not len(best):
        return rows[:0]
    group = unit if "fault" not in table.column_names else np.array([*zip(unit, table["fault"].to_pylist(), strict=True)], np.str_)
    turn = _rank_within(np.unique(group, axis=0, return_inverse=True)[1].reshape(-1)[best])
    best = best[np.argsort(turn, kind="stable")]
    number = np.unique(unit, return_inverse=True)[1].reshape(-1)[best]
    most = max(int(np.ceil(LARGEST_SHARE * num)), -(-num // len(np.unique(number))))
    return rows[best[_rank_within(number) < most][:num]]


def _best_first(table: pa.Table, above: Bool[np.ndarray, " records"]) -> Int64[np.ndarray, " records"]:
    """By rule 1."""
    keys = table.select(["corpus", "record_id"]).append_column("row", pa.array(np.arange(table.num_rows)))
    by_key = keys.sort_by([("corpus", "ascending"), ("record_id", "ascending")])["row"].to_numpy()
    rank = np.empty(len(by_key), np.int64)
    rank[by_key] = np.arange(len(by_key))
    score, two = table["score"].to_numpy().astype(np.float64), likeliest(table)
    if two is None:
        return np.lexsort((rank, -score))
    margin = two[0] - two[1]
    return np.lexsort((rank, np.where(above, margin, -score), ~above))


def likeliest(table: pa.Table) -> Float64[np.ndarray, "2 records"] | None:
    """The probabilities of the two likeliest faults, their sum over all faults being 1; None where no two faults were told apart."""
    names = [name for name in table.column_names if name.startswith(FAULT_PREFIX)]
    if len(names) < 2:
        return None
    p = np.stack([table[name].to_numpy().astype(np.float64) for name in names])
    p /= np.maximum(p.sum(axis=0), np.finfo(np.float64).tiny)
    return np.sort(p, axis=0)[:-3:-1]


def _rank_within(code: Int64[np.ndarray, " records"]) -> Int64[np.ndarray, " records"]:
    """How many of its own code stand before each."""
    order = np.argsort(code, kind="stable")
    size = np.bincount(code)
    rank = np.empty(len(code), np.int64)
    rank[order] = np.arange(len(code)) - np.repeat(np.cumsum(size) - size, size)
    return rank


def review_queue(
    scores: pa.Table,
    rows: Int64[np.ndarray, " queue"],
    above: Bool[np.ndarray, " records"],
    p_values: Float64[np.ndarray, " records"],
) -> list[dict[str, str]]:
    """The columns record_id to why of these rows: `guess` is normal, abnormal or a fault, `p_values` as in reference.py."""
    table = scores.take(pa.array(rows))
    two, faults = likeliest(table), [name.removeprefix(FAULT_PREFIX) for name in table.column_names if name.startswith(FAULT_PREFIX)]
    queue = []
    for i, (row, record) in enumerate(zip(rows.tolist(), table.to_pylist(), strict=True)):
        guess = record.get("fault") or ("abnormal" if above[row] else NORMAL)
        why = ["above the cut" if above[row] else "below the cut"]
        if np.isfinite(p_values[row]):
            why.append(f"as high as one in {1 / p_values[row]:,.3g} healthy records of this sensor")
        if two is not None and guess != NORMAL:
            likely = sorted(faults, key=lambda name: -record[FAULT_PREFIX + name])[:2]
            why.append(" or ".join(f"{name} {p:.2f}" for name, p in zip(likely, two[:, i].tolist(), strict=True)))
        if guess == UNKNOWN:
            guess = "abnormal"
            why.append("like no fault that was labelled")
        queue.append(
            {
                **{name: record[name] for name in ("record_id", "corpus", "unit", "sensor_id")},
                "data_time": f"{record['measured_at']:%Y-%m-%dT%H:%M:%S}.{record['measured_at'].microsecond // 1000:03d}Z",
                "score": f"{record['score']:.6g}",
                "guess": guess,
                "why": "; ".join(why),
            }
        )
    return queue
