"""Does a sensor's healthy level stay where its reference was? Month by month, with a verdict on its calibration.

Healthy records are usable ones (reference.py) below the cut, or called normal by a person. The reference is that of the p-values. The rule:

  too few records  fewer than 30 healthy records in the month, or records of a single month;
  recalibrate      this month's interval of the median and that of the month with enough records before it lie both above, or both below,
                   the quartiles of the reference: the median healthy record stands where a quarter of the reference stood;
  watch            this month's interval does, the one before it does not;
  steady           all else.

A level that rises on one sensor alone may be a fault that grows below the cut: look before recalibrating. One that moves on most sensors at
once is season, load, or a change of the run.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float64, Int64

from vibray.decide.groups import SensorGroups, sensor_groups
from vibray.decide.reference import FEWEST_REFERENCE
from vibray.schema import DRIFT, Verdict
from vibray.storage.columns import one_chunk, times_ms

FEWEST_IN_MONTH = 30
FEWEST_DAYS = 5
NUM_RESAMPLES = 400
CONFIDENCE = 0.95
CHUNK = 500_000
"""Weights held at a time: records by resamples."""


def median_interval(
    scores: Float64[np.ndarray, " records"], day: Int64[np.ndarray, " records"], seed: int = 0, num_resamples: int = NUM_RESAMPLES
) -> tuple[float, float]:
    """95 % bootstrap interval (percentile method) of the median.

    Whole days are drawn, for the records of a day are not independent; single records where there are fewer than 5 days.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", section 13.3.
    """
    rng, order = np.random.default_rng(seed), np.argsort(scores, kind="stable")
    ordered = scores[order]
    block = np.unique(day, return_inverse=True)[1][order] if len(np.unique(day)) >= FEWEST_DAYS else np.arange(len(scores))
    num_blocks = int(block.max()) + 1
    medians = []
    step = max(1, CHUNK // len(scores))
    for start in range(0, num_resamples, step):
        drawn = rng.multinomial(num_blocks, np.full(num_blocks, 1 / num_blocks), min(step, num_resamples - start))
        weight = np.cumsum(drawn[:, block], axis=1)
        medians.append(ordered[np.argmax(2 * weight >= weight[:, -1:], axis=1)])
    low, high = np.quantile(np.concatenate(medians), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def drift(
    scores: pa.Table,
    healthy: Bool[np.ndarray, " records"],
    in_reference: Bool[np.ndarray, " records"],
    groups: SensorGroups | None = None,
) -> pa.Table:
    """One row of schema.DRIFT a sensor and calendar month (UTC) after its reference, in that order.

    `healthy` marks usable records that are not abnormal, `in_reference` those that are the reference: they are in no month. A sensor with
    fewer than 50 reference records has no row: there is nothing to compare it with. `groups` are the table's, where they are known.
    """
    of_all, time = one_chunk(scores["score"]).to_numpy(), times_ms(scores).view("datetime64[ms]")
    rows: list[dict[str, object]] = []
    for (unit, sensor_id), mine in sensor_groups(scores) if groups is None else groups:
        known = mine[in_reference[mine]]
        if len(known) < FEWEST_REFERENCE:
            continue
        quartiles = np.percentile(of_all[known].astype(np.float64), [25, 50, 75])
        later = mine[healthy[mine] & ~in_reference[mine]]
        whole = mine[in_reference[mine] | healthy[mine]]
        one_month = len(np.unique(time[whole].astype("datetime64[M]"))) < 2
        low, middle, high = (float(value) for value in quartiles)
        for month, values in _months(of_all[later].astype(np.float64), time[later], one_month, quartiles):
            fixed = {"unit": unit, "sensor_id": sensor_id, "month": month.astype("datetime64[ms]").item()}
            rows.append({**fixed, **values, "reference_low": low, "reference_median": middle, "reference_high": high})
    return pa.Table.from_pylist(rows, schema=DRIFT)


def _months(
    score: np.ndarray, time: np.ndarray, one_month: bool, quartiles: np.ndarray
) -> Iterator[tuple[np.datetime64, dict[str, object]]]:
    """The months of one sensor in order, each with its median, interval and verdict."""
    month, day, before = time.astype("datetime64[M]"), time.astype("datetime64[D]").astype(np.int64), 0
    for name in np.unique(month):
        here = np.flatnonzero(month == name)
        if one_month or len(here) < FEWEST_IN_MONTH:
            yield name, {"num_records": len(here), "verdict": Verdict.TOO_FEW.value}
            continue
        low, high = median_interval(score[here], day[here])
        side = int(low > quartiles[2]) - int(high < quartiles[0])
        verdict = Verdict.STEADY if side == 0 else Verdict.RECALIBRATE if side == before else Verdict.WATCH
        before = side
        median = float(np.median(score[here]))
        yield name, {"num_records": len(here), "median": median, "low": low, "high": high, "verdict": verdict.value}
