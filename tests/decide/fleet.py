"""Made-up scores of a fleet: units of several sensors, a record of each at every interval, what its sensors share set by the caller."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from vibray import schema
from vibray.decide.reference import p_values_by_sensor

START_MS = 1_709_251_200_000  # 2024-03-01


def fleet(
    num_units: int = 10,
    num_sensors: int = 3,
    num_times: int = 400,
    interval_min: float = 60,
    shared: float = 0.0,
    sick: Sequence[tuple[int, int, float]] = (),
    seed: int = 0,
) -> pa.Table:
    """A scores table; log scores are standard normal, `shared` of their variance common to a unit's sensors.

    `sick` names (unit, from which time on, by how many standard deviations higher).
    """
    rng = np.random.default_rng(seed)
    z = np.sqrt(1 - shared) * rng.normal(size=(num_units, num_sensors, num_times))
    z += np.sqrt(shared) * rng.normal(size=(num_units, 1, num_times))
    for unit, since, rise in sick:
        z[unit, :, since:] += rise
    unit, sensor, time = (axis.ravel() for axis in np.indices(z.shape))
    num = len(unit)
    columns = {
        "corpus": np.full(num, "c"),
        "record_id": [f"r@{i}" for i in range(num)],
        "line": pa.nulls(num, pa.int64()),
        "unit": [f"T{i:02d}" for i in unit],
        "sensor_id": [f"s{i}" for i in sensor],
        "measured_at": pa.array((START_MS + (time * interval_min * 60 + sensor) * 1000).astype(np.int64), pa.int64()).cast(schema.TIME),
        "sample_rate_hz": np.full(num, 8192.0),
        "content_hash": [f"{i:032x}" for i in range(num)],
        "state": np.full(num, "energised"),
        "state_cause": pa.nulls(num, pa.string()),
        "calibrated": np.ones(num, bool),
        "score": np.exp(z.ravel()).astype(np.float32),
        "fleet_p_value": pa.nulls(num, pa.float32()),
    }
    return pa.table(columns, schema=schema.scores())


def replaced(table: pa.Table, name: str, values: object) -> pa.Table:
    """The table with another column in its place."""
    field = table.schema.field(name)
    return table.set_column(table.column_names.index(name), field, pa.array(values, field.type))


def at_one_time(table: pa.Table) -> pa.Table:
    """The fleet's records with the times of its sensors made the same."""
    minutes = table["measured_at"].cast(pa.int64()).to_numpy() // 60_000 * 60_000
    return replaced(table, "measured_at", pa.array(minutes).cast(schema.TIME))


def record_p_values(scores: pa.Table, *arguments, **more) -> np.ndarray:
    """What `p_values_by_sensor` gives, a value a row."""
    found = np.full(scores.num_rows, np.nan)
    for rows, p in p_values_by_sensor(scores, *arguments, **more):
        found[rows] = p
    return found
