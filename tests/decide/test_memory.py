"""What decisions hold in memory: bytes a record, so that no list of Python's has an entry for each."""

import tracemalloc

import numpy as np
import pyarrow as pa
import pytest

from tests.decide.fleet import START_MS
from vibray import schema
from vibray.decide import groups
from vibray.decide.pseudo_labels import label_of_each, pseudo_labels
from vibray.decide.reference import usable_rows
from vibray.decide.said import Said
from vibray.decide.thresholds import mad
from vibray.decide.unit_alarms import UnitConfig
from vibray.decide.units import compare, decide_units
from vibray.storage import columns
from vibray.storage.columns import named, one_chunk

NUM_SENSORS, PER_SENSOR = 80, 2500


def opened() -> pa.Table:
    """A scores table of 200,000 records as tables.open_scores holds it."""
    rng, num = np.random.default_rng(0), NUM_SENSORS * PER_SENSOR
    sensor, time = (axis.ravel() for axis in np.indices((NUM_SENSORS, PER_SENSOR)))
    one = np.zeros(num, np.int8)
    return pa.table(
        {
            "corpus": named(["c"], one),
            "shard": named(["a.jsonl@"], one),
            "offset": np.arange(num),
            "unit": named([f"T{i:02d}" for i in range(NUM_SENSORS // 4)], (sensor // 4).astype(np.int32)),
            "sensor_id": named([f"s{i:02d}" for i in range(NUM_SENSORS)], sensor.astype(np.int32)),
            "measured_at": pa.array(START_MS + time * 600_000, pa.int64()).cast(schema.TIME),
            "state": named(["energised"], one),
            "calibrated": np.ones(num, bool),
            "score": np.exp(rng.normal(size=num)).astype(np.float32),
            "fleet_p_value": pa.nulls(num, pa.float32()),
            "time_trusted": np.ones(num, bool),
        }
    )


def test_deciding_takes_no_object_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "BATCH", 10_000)
    monkeypatch.setattr(columns, "BLOCK", 10_000)
    table = opened()
    human = Said(table.num_rows, np.array([5, 70_000]), np.array(["normal", "tone"]))
    mad(np.arange(10.0))  # it imports scipy's rooms
    tracemalloc.start()
    try:
        cuts = mad(one_chunk(table["score"]).to_numpy()[usable_rows(table)])
        compared = compare(table, 200, human)
        label = label_of_each(table, cuts, human)
        decided = decide_units(compared, cuts, UnitConfig())
        written = sum(piece.num_rows for piece in pseudo_labels(table, label, human))
        peak = tracemalloc.get_traced_memory()[1] / table.num_rows
    finally:
        tracemalloc.stop()
    assert written == table.num_rows and decided.scores.num_rows > 0
    assert peak < 64  # 56 of it room for windows, p-values and masks; a list of numbers or strings takes another 40 to 70
