"""Which records a person should look at next: the review queue.

A candidate is a usable record (calibrated; not off, in transition or of a faulty sensor) that no person has labelled. The rule:

  1. the highest scores first;
  2. of a moment of a unit the first alone, and none where a person has labelled one: its sensors heard one thing;
  3. in turn one of each unit, its next being of another guessed fault where a classifier guesses some; no unit has more than a quarter of
     the queue (or its even share, where there are fewer than four).

On ten generated fleets 20 labels by this rule and 20 by the scores alone find 20 faulty records each, but a classifier that is taught with
them has macro-F1 .61 against .54, with 20 more .74 against .66; 20 random ones find one fault. What was tried beside it taught no more:
records near the cut, strata of the score, clusters, chance above the cut, and for a classifier the smallest margin between two faults
(`python -m tests.reference.review`).
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float64, Int, Int64

from vibray.decide.groups import sensor_groups
from vibray.decide.pooling import TOLERANCE_S, moments
from vibray.decide.reference import usable_rows
from vibray.decide.said import Said
from vibray.schema import FAULT_PREFIX, NORMAL, UNKNOWN
from vibray.storage.columns import codes, keys_of, one_chunk, times_ms, with_record_ids

LARGEST_SHARE = 0.25
"""Of the queue, from one unit."""
RAREST = 1e-4
"""A p-value below it is extrapolated far beyond any reference: no number is shown."""


def review_rows(
    scores: pa.Table, human: Said | Sequence[str | None] | None, num: int, tolerance_s: float = TOLERANCE_S
) -> Int64[np.ndarray, " queue"]:
    """The rows of the queue, in its order; fewer than `num` where there are no more.

    Records of a unit that begin within `tolerance_s` are of one moment. Equal scores stand in the order of (corpus, shard, offset).
    """
    usable, labelled = usable_rows(scores), Said.of(human, scores.num_rows).mask()
    score, time, keys = one_chunk(scores["score"]).to_numpy(), times_ms(scores), keys_of(scores)
    faults, fault = codes(scores["fault"]) if "fault" in scores.column_names else ([""], np.zeros(scores.num_rows, np.int8))
    is_normal = np.array([name == NORMAL for name in faults])
    turns: list[tuple[np.ndarray, np.ndarray]] = []
    num_units = 0
    for own, units, sensors in sensor_groups(scores).batches():
        at = np.flatnonzero(usable[own])
        rows, unit = own[at], units[at]
        moment = moments(unit, sensors[at], time[rows], tolerance_s)
        best = _in_order(score, keys, rows)
        best = best[(np.bincount(moment, labelled[rows], minlength=1)[moment] == 0)[best]]
        best = best[np.sort(np.unique(moment[best], return_index=True)[1])]
        kind = fault[rows].astype(np.int64)
        by_kind = best[np.lexsort((_rank_within(unit[best] * len(faults) + kind[best]), is_normal[kind[best]]))]
        turn = _rank_within(unit[by_kind])
        turns.append((rows[by_kind[turn < num]], turn[turn < num]))  # no unit has more in the queue
        num_units += len(np.unique(unit[best]))
    if not num_units:
        return np.empty(0, np.int64)
    rows, turn = (np.concatenate(values) for values in zip(*turns, strict=True))
    most = max(int(np.ceil(LARGEST_SHARE * num)), -(-num // num_units))
    order = _in_order(score, keys, rows)
    order = order[turn[order] < most]
    return rows[order[np.argsort(turn[order], kind="stable")][:num]]


def _in_order(score: np.ndarray, keys: Sequence[np.ndarray], rows: Int64[np.ndarray, " rows"]) -> Int64[np.ndarray, " rows"]:
    """The places of some rows, the highest score first, equal scores by key."""
    corpus, shard, offset = (key[rows] for key in keys)
    return np.lexsort((offset, shard, corpus, -score[rows]))


def _rank_within(code: Int[np.ndarray, " records"]) -> Int64[np.ndarray, " records"]:
    """How many of its own code stand before each."""
    order = np.argsort(code, kind="stable")
    size = np.bincount(code)
    rank = np.empty(len(code), np.int64)
    rank[order] = np.arange(len(code)) - np.repeat(np.cumsum(size) - size, size)
    return rank


def likeliest(table: pa.Table) -> Float64[np.ndarray, "2 records"] | None:
    """The probabilities of the two likeliest faults, their sum over all faults being 1; None where no two faults were told apart."""
    names = [name for name in table.column_names if name.startswith(FAULT_PREFIX)]
    if len(names) < 2:
        return None
    p = np.stack([table[name].to_numpy().astype(np.float64) for name in names])
    p /= np.maximum(p.sum(axis=0), np.finfo(np.float64).tiny)
    return np.sort(p, axis=0)[:-3:-1]


def review_queue(
    scores: pa.Table,
    rows: Int64[np.ndarray, " queue"],
    above: Bool[np.ndarray, " queue"],
    p_values: Float64[np.ndarray, " queue"],
) -> list[dict[str, str]]:
    """The columns record_id to why of these rows: `above` the cut, `p_values` of reference.py; `guess` is normal, abnormal or a fault."""
    table = with_record_ids(scores.take(pa.array(rows)))
    two, faults = likeliest(table), [name.removeprefix(FAULT_PREFIX) for name in table.column_names if name.startswith(FAULT_PREFIX)]
    queue = []
    for i, record in enumerate(table.to_pylist()):
        guess = record.get("fault") or ("abnormal" if above[i] else NORMAL)
        why = ["above the cut" if above[i] else "below the cut"]
        if np.isfinite(p_values[i]):
            rarer = "fewer than " if p_values[i] < RAREST else ""
            one_in = int(float(f"{1 / max(p_values[i], RAREST):.2g}"))
            why.append(f"{rarer}one in {one_in:,} healthy records of this sensor score as high")
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
