"""The sensors of one unit at one time as one witness: each of their records gets the mean of their scores."""

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float64, Int64

from vibray.decide.reference import usable_rows


def moments(units: np.ndarray, times: np.ndarray) -> Int64[np.ndarray, " records"]:
    """The number of each record's moment: records of one unit with one and the same time have the same. They count up from 0."""
    unit = np.unique(units, return_inverse=True)[1].reshape(-1)
    time = np.unique(times, return_inverse=True)[1].reshape(-1)
    return np.unique(unit * (time.max(initial=0) + 1) + time, return_inverse=True)[1].reshape(-1)


def mean_by(moment: Int64[np.ndarray, " records"], scores: np.ndarray) -> Float64[np.ndarray, " records"]:
    """Each record's mean score of its moment."""
    return (np.bincount(moment, scores) / np.bincount(moment))[moment]


def pooled(scores: np.ndarray, units: np.ndarray, times: np.ndarray, usable: Bool[np.ndarray, " records"]) -> np.ndarray:
    """The scores, each usable one replaced by the mean of the usable ones of its unit at its time; of the scores' own dtype.

    What shakes a machine is heard by all of its sensors, their noise is their own: by the mean a weak fault stands out further. It is
    meant for units whose sensors hear one machine; where each listens to a machine of its own, each should be a unit. Times must be the
    same to the millisecond.
    """
    means = scores.copy()
    means[usable] = mean_by(moments(units[usable], times[usable]), scores[usable])
    return means


def over_sensors(scores: pa.Table) -> pa.Table:
    """The scores table with `pooled` scores: uncalibrated records, and those off, in transition or of a faulty sensor, keep their own."""
    units, times = np.array(scores["unit"].to_pylist(), np.str_), scores["measured_at"].to_numpy().astype(np.int64)
    means = pooled(scores["score"].to_numpy(), units, times, usable_rows(scores))
    return scores.set_column(scores.column_names.index("score"), scores.schema.field("score"), pa.array(means))
