"""The sensors of one unit at one time as one witness: each of their records gets the mean of their scores."""

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int64

from vibray.decide.reference import usable_rows


def moments(units: np.ndarray, times: np.ndarray) -> Int64[np.ndarray, " records"]:
    """The number of each record's moment: records of one unit with one and the same time have the same. They count up from 0."""
    unit = np.unique(units, return_inverse=True)[1].reshape(-1)
    time = np.unique(times, return_inverse=True)[1].reshape(-1)
    return np.unique(unit * (time.max(initial=0) + 1) + time, return_inverse=True)[1].reshape(-1)


def mean_by(moment: Int64[np.ndarray, " records"], scores: np.ndarray) -> np.ndarray:
    """Each record's mean score of its moment, float64."""
    return (np.bincount(moment, scores) / np.bincount(moment))[moment]


def over_sensors(scores: pa.Table) -> pa.Table:
    """The scores table with each usable record's `score` replaced by the mean of the usable records of its unit at its time.

    What shakes a machine is heard by all of its sensors, their noise is their own: by the mean a weak fault stands out further. It is
    meant for units whose sensors hear one machine; where each listens to a machine of its own, each should be a unit. Times must be the
    same to the millisecond. What is not usable (uncalibrated, off, in transition, of a faulty sensor) keeps its own score.
    """
    usable = usable_rows(scores)
    pooled: Float32[np.ndarray, " records"] = scores["score"].to_numpy().astype(np.float32)
    if usable.any():
        rows = scores.select(["unit", "measured_at"]).filter(pa.array(usable))
        moment = moments(np.array(rows["unit"].to_pylist(), np.str_), rows["measured_at"].to_numpy().astype(np.int64))
        pooled[usable] = mean_by(moment, pooled[usable])
    return scores.set_column(scores.column_names.index("score"), scores.schema.field("score"), pa.array(pooled))
