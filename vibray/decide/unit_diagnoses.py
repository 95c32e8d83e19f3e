"""What the sensors of a unit say together of a moment: is the machine abnormal, and which fault is it?"""

from itertools import pairwise

import numpy as np
import pyarrow as pa
from scipy.special import expit, logit

from vibray.decide.cuts import PROBABILITY_CUT
from vibray.decide.groups import sensor_groups
from vibray.decide.pooling import TOLERANCE_S, mean_by, moments
from vibray.decide.reference import trusted_rows, usable_rows
from vibray.schema import FAULT_PREFIX, NORMAL, UNIT_DIAGNOSES, UNKNOWN
from vibray.storage.columns import plain, times_ms

FILE = "unit_diagnoses.parquet"
"""In a decisions folder; only where the scores are a classifier's."""

SMALLEST = 1e-7
"""Probabilities are kept this far from 0 and 1: float32 has no more to say, and one sensor's certainty is no veto."""


def unit_diagnoses(scores: pa.Table, faults: tuple[str, ...], tolerance_s: float = TOLERANCE_S) -> pa.Table:
    """One row a unit and moment (UNIT_DIAGNOSES), from a classifier's scores table; a sensor that is missing is missed by nobody.

    The mean log-odds of being abnormal and, for the fault, the mean log-probability over the sensors: the geometric mean, which is what
    several opinions on one machine come to where they rest on much the same evidence (a product would count it again for each sensor).
    Records that cannot speak of the machine (off, switching, of a faulty or uncalibrated sensor, at a time that cannot be) take no part.
    The fault is unknown where most of the sensors that call the machine abnormal say so.

    Source: Genest and Zidek 1986, "Combining probability distributions", section 3, the logarithmic opinion pool with equal weights.
    """
    usable, time = usable_rows(scores) & trusted_rows(scores), times_ms(scores)
    found = []
    for rows, unit, sensor in sensor_groups(scores).batches():
        mine = np.flatnonzero(usable[rows])
        if len(mine):
            # sums of floats depend on their order, and the order of a table's parts on who finished first
            order = mine[np.lexsort((sensor[mine], time[rows[mine]], unit[mine]))]
            moment = moments(unit[order], sensor[order], time[rows[order]], tolerance_s)
            found.append(_of_moments(plain(scores.take(pa.array(rows[order]))), moment, faults))
    return pa.concat_tables(found) if found else UNIT_DIAGNOSES.empty_table()


def _of_moments(kept: pa.Table, moment: np.ndarray, faults: tuple[str, ...]) -> pa.Table:
    """UNIT_DIAGNOSES of records in order of (unit, time, sensor)."""
    order = np.argsort(moment, kind="stable")
    first = order[np.unique(moment[order], return_index=True)[1]]
    p = np.clip(kept["abnormal_probability"].to_numpy().astype(np.float64), SMALLEST, 1 - SMALLEST)
    abnormal = expit(mean_by(moment, logit(p)))
    logs = [np.log(np.clip(kept[FAULT_PREFIX + fault].to_numpy().astype(np.float64), SMALLEST, 1)) for fault in faults]
    named = np.stack([np.exp(mean_by(moment, log)) for log in logs], axis=1) if logs else np.empty((len(p), 0))
    named /= named.sum(axis=1, keepdims=True)
    of_record = kept["fault"].to_numpy(zero_copy_only=False).astype(str)
    calls = np.bincount(moment, of_record != NORMAL)
    unknown = (np.bincount(moment, of_record == UNKNOWN) > calls / 2)[moment] | (len(faults) == 0)
    said = np.where(abnormal < PROBABILITY_CUT, NORMAL, np.where(unknown, UNKNOWN, _likeliest(named, faults)))
    confidence = [float(named[row].max()) if said[row] not in (NORMAL, UNKNOWN) else None for row in first]
    ends = np.searchsorted(moment[order], np.arange(len(first) + 1))
    sensors = kept["sensor_id"].to_numpy(zero_copy_only=False)[order]
    columns = {
        "corpus": kept["corpus"].take(pa.array(first)),
        "unit": kept["unit"].take(pa.array(first)),
        "measured_at": kept["measured_at"].take(pa.array(first)),
        "abnormal_probability": abnormal[first],
        "fault": said[first],
        "fault_probability": confidence,
        "sensors": [sorted(sensors[a:b].tolist()) for a, b in pairwise(ends)],
    }
    return pa.table(columns, schema=UNIT_DIAGNOSES).sort_by([("unit", "ascending"), ("measured_at", "ascending")])


def _likeliest(named: np.ndarray, faults: tuple[str, ...]) -> np.ndarray:
    return np.array(faults)[named.argmax(axis=1)] if faults else np.full(len(named), UNKNOWN)
