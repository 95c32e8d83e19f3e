"""The sensors of a unit at one time, together."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from vibray import schema
from vibray.decide.unit_diagnoses import unit_diagnoses

START = datetime(2026, 1, 1, tzinfo=UTC)
FAULTS = ("arc", "松动")


def scores(rows: Sequence[tuple[str, str, float, float, str, float]], **states: str) -> pa.Table:
    """(unit, sensor, second, abnormal probability, fault, probability of arc) a record; `states` by sensor."""
    at = range(len(rows))
    columns = {
        "corpus": ["c"] * len(rows),
        "record_id": [f"s@{i}" for i in at],
        "line": [None] * len(rows),
        "unit": [row[0] for row in rows],
        "sensor_id": [row[1] for row in rows],
        "measured_at": [START + timedelta(seconds=row[2]) for row in rows],
        "sample_rate_hz": [8192.0] * len(rows),
        "content_hash": [str(i) for i in at],
        "state": [states.get(row[1], "energised") for row in rows],
        "state_cause": [None] * len(rows),
        "calibrated": [row[1] != "new" for row in rows],
        "score": [row[3] for row in rows],
        "fleet_p_value": [None] * len(rows),
        "abnormal_probability": [row[3] for row in rows],
        "fault": [row[4] for row in rows],
        "fault_probability": [None if row[4] in ("normal", "unknown") else max(row[5], 1 - row[5]) for row in rows],
        "fault_p_arc": [row[5] for row in rows],
        "fault_p_松动": [1 - row[5] for row in rows],
    }
    table = pa.table(columns, schema=schema.scores((), FAULTS))
    return table.append_column(schema.TIME_TRUSTED, pa.array([True] * len(rows)))


def test_log_odds_and_log_probabilities_are_averaged_by_moment():
    found = unit_diagnoses(
        scores([("u", "a", 0, 0.9, "arc", 0.8), ("u", "b", 0.1, 0.6, "arc", 0.6), ("u", "a", 60, 0.1, "normal", 0.5)]), FAULTS
    )
    assert found.schema == schema.UNIT_DIAGNOSES and found.num_rows == 2
    together, alone = found.to_pylist()
    odds = (0.9 / 0.1 * 0.6 / 0.4) ** 0.5
    assert together["abnormal_probability"] == pytest.approx(odds / (1 + odds), rel=1e-5)
    arc, loose = (0.8 * 0.6) ** 0.5, (0.2 * 0.4) ** 0.5
    assert together["fault"] == "arc" and together["fault_probability"] == pytest.approx(arc / (arc + loose), rel=1e-5)
    assert together["sensors"] == ["a", "b"] and together["measured_at"] == START
    assert alone == {**alone, "fault": "normal", "fault_probability": None, "sensors": ["a"]}
    assert alone["abnormal_probability"] == pytest.approx(0.1, rel=1e-5)


def test_a_missing_sensor_is_normal_and_one_record_is_its_own_diagnosis():
    rows = [("u", "a", 0, 0.7, "松动", 0.3), ("v", "a", 0, 0.7, "松动", 0.3)]
    found = unit_diagnoses(scores(rows), FAULTS).to_pylist()
    assert [(row["unit"], row["fault"]) for row in found] == [("u", "松动"), ("v", "松动")]
    assert found[0]["fault_probability"] == pytest.approx(0.7, rel=1e-5)


def test_what_cannot_speak_of_the_machine_takes_no_part():
    rows = [("u", "a", 0, 0.9, "arc", 0.8), ("u", "off", 0, 0.001, "normal", 0.5), ("u", "new", 0, 0.001, "normal", 0.5)]
    found = unit_diagnoses(scores(rows, off="off"), FAULTS).to_pylist()
    assert [row["sensors"] for row in found] == [["a"]]
    assert unit_diagnoses(scores(rows[1:], off="off"), FAULTS).num_rows == 0


def test_a_fault_is_unknown_where_most_of_those_that_call_it_abnormal_say_so():
    rows = [("u", s, 0, 0.9, fault, 0.8) for s, fault in (("a", "unknown"), ("b", "unknown"), ("c", "arc"))] + [
        ("u", "d", 0, 0.4, "normal", 0.8)
    ]
    assert unit_diagnoses(scores(rows), FAULTS)["fault"].to_pylist() == ["unknown"]
    assert unit_diagnoses(scores(rows[1:]), FAULTS)["fault"].to_pylist() == ["arc"]


def test_the_order_of_records_changes_nothing():
    rng = np.random.default_rng(0)
    rows = [(f"u{i % 3}", f"s{i % 4}", float(i // 12) * 60, float(rng.random()), "arc", float(rng.random())) for i in range(96)]
    table = scores(rows)
    shuffled = table.take(pa.array(rng.permutation(96)))
    assert unit_diagnoses(table, FAULTS).equals(unit_diagnoses(shuffled, FAULTS))
