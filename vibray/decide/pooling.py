"""The sensors of one unit at one time as one witness: each of their records gets the mean of their scores."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float64, Int64

from vibray.decide.groups import sensor_groups
from vibray.decide.reference import trusted_rows, usable_rows
from vibray.storage.columns import one_chunk, times_ms

TOLERANCE_S = 0.5
"""Records of a unit are of one moment where they begin within so much: channels of one recorder, a few ms or one sample apart."""


def moments(
    units: np.ndarray, sensors: np.ndarray, times_ms: Int64[np.ndarray, " records"], tolerance_s: float
) -> Int64[np.ndarray, " records"]:
    """The number of each record's moment, counting up from 0.

    A moment begins with a unit's earliest record that is in none, takes those up to `tolerance_s` later, and ends before a sensor comes a
    second time: a sensor is no second witness of itself.
    """
    if not len(units):
        return np.empty(0, np.int64)
    unit, sensor = (_numbers(names) for names in (units, sensors))
    order = np.lexsort((sensor, times_ms, unit))
    tolerance_ms = 1000 * tolerance_s
    begins = np.ones(len(order), bool)
    begins[1:] = (unit[order[1:]] != unit[order[:-1]]) | (np.diff(times_ms[order]) > tolerance_ms)
    starts, run = np.flatnonzero(begins), np.cumsum(begins) - 1
    ends = np.r_[starts[1:], len(order)]
    num_sensors = np.bincount(np.unique(run * (sensor.max(initial=0) + 1) + sensor[order]) // (sensor.max(initial=0) + 1))
    # runs that are longer than the tolerance, or hold a sensor twice, are cut one by one: they are few
    wrong = (times_ms[order[ends - 1]] - times_ms[order[starts]] > tolerance_ms) | (num_sensors < ends - starts)
    for a, b in zip(starts[wrong].tolist(), ends[wrong].tolist(), strict=True):
        first, seen = times_ms[order[a]], set()
        for i in range(a, b):
            row = order[i]
            if times_ms[row] - first > tolerance_ms or sensor[row] in seen:
                begins[i], first, seen = True, times_ms[row], set()
            seen.add(sensor[row])
    moment = np.empty(len(order), np.int64)
    moment[order] = np.cumsum(begins) - 1
    return moment


def _numbers(names: np.ndarray) -> Int64[np.ndarray, " records"]:
    """Numbers in the order of the names; what is numbered already stays."""
    return names.astype(np.int64) if names.dtype.kind == "i" else np.unique(names, return_inverse=True)[1].reshape(-1).astype(np.int64)


def mean_by(moment: Int64[np.ndarray, " records"], scores: np.ndarray) -> Float64[np.ndarray, " records"]:
    """Each record's mean score of its moment."""
    return (np.bincount(moment, scores) / np.bincount(moment))[moment]


@dataclass(frozen=True, eq=False)
class Pooled:
    """Scores, each of a record with partners being the mean of its moment; of the scores' own dtype."""

    scores: np.ndarray
    with_partner: Bool[np.ndarray, " records"]
    """another sensor of the unit has a usable record of the same moment"""


def pooled(
    scores: np.ndarray,
    units: np.ndarray,
    sensors: np.ndarray,
    times_ms: Int64[np.ndarray, " records"],
    usable: Bool[np.ndarray, " records"],
    tolerance_s: float = TOLERANCE_S,
) -> Pooled:
    """Each usable record's score replaced by the mean of the usable ones of its unit at its time.

    What shakes a machine is heard by all of its sensors, their noise is their own: by the mean a weak fault stands out further. It is
    meant for units whose sensors hear one machine; where each listens to a machine of its own, each should be a unit.
    """
    means, partner = scores.copy(), np.zeros(len(scores), bool)
    moment = moments(units[usable], sensors[usable], times_ms[usable], tolerance_s)
    means[usable] = mean_by(moment, scores[usable])
    partner[usable] = np.bincount(moment)[moment] > 1
    return Pooled(means, partner)


def over_sensors(scores: pa.Table, tolerance_s: float = TOLERANCE_S) -> tuple[pa.Table, int]:
    """The scores table with `pooled` scores, and how many records found a partner.

    Uncalibrated records, those off, in transition or of a faulty sensor, and those whose time cannot be, keep their own score.
    """
    usable, time, num_partners = usable_rows(scores) & trusted_rows(scores), times_ms(scores), 0
    own = one_chunk(scores["score"]).to_numpy()
    means = own.copy()
    for rows, unit, sensor in sensor_groups(scores).batches():
        found = pooled(own[rows], unit, sensor, time[rows], usable[rows], tolerance_s)
        means[rows] = found.scores
        num_partners += int(found.with_partner.sum())
    table = scores.set_column(scores.column_names.index("score"), scores.schema.field("score"), pa.array(means))
    return table, num_partners
