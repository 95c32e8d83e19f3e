"""What the records of a table say against one another."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.decide.fleet import fleet, replaced
from vibray.decide.audit import audit
from vibray.decide.findings import counts_of


def with_values(table: pa.Table, name: str, rows: Any, value: Any) -> pa.Table:
    """The table with another value in some rows of a column."""
    column = table[name].to_pylist()
    for row in np.atleast_1d(rows).tolist():
        column[row] = value(row) if callable(value) else value
    return replaced(table, name, column)


FLEET = fleet(2, 2, 50)  # rows: unit, sensor, time


def test_a_sound_table_has_no_findings() -> None:
    found = audit(FLEET)
    assert found.findings == () and found.time_trusted.all() and not found.repeats.any()
    assert audit(FLEET.slice(0, 0)).findings == ()


def test_a_waveform_sent_again_is_a_repeat_from_the_second_on() -> None:
    table = with_values(FLEET, "content_hash", np.arange(10, 40), "same")
    found = audit(table)
    assert np.flatnonzero(found.repeats).tolist() == list(range(11, 40))
    assert counts_of(found.findings) == {"repeated_waveforms": 29}
    assert "29 records of sensor T00/s0 repeat an earlier waveform" in found.findings[0].text
    shuffled = np.random.default_rng(0).permutation(len(table))
    assert (audit(table.take(pa.array(shuffled))).repeats == found.repeats[shuffled]).all()


def test_a_repeat_whose_time_cannot_be_is_the_later_one() -> None:
    table = with_values(FLEET, "content_hash", [0, 1], "same")
    early = table["measured_at"][0].as_py().replace(year=1970)
    found = audit(with_values(table, "measured_at", 1, early))
    assert np.flatnonzero(found.repeats).tolist() == [1] and np.flatnonzero(~found.time_trusted).tolist() == [1]
    assert counts_of(found.findings) == {"implausible_times": 1, "repeated_waveforms": 1}


def test_one_waveform_under_two_sensors_is_said_and_decides_nothing() -> None:
    found = audit(with_values(FLEET, "content_hash", [0, 50, 100], "same"))
    assert counts_of(found.findings) == {"shared_waveforms": 1} and not found.repeats.any()
    assert "1 waveform of 3 sensors" in found.findings[0].text


def test_moments_that_hold_different_records_are_counted_by_sensor() -> None:
    table = with_values(FLEET, "measured_at", np.arange(25), lambda row: FLEET["measured_at"][row + 25].as_py())
    found = audit(table)
    assert counts_of(found.findings) == {"differing_moments": 25}
    assert "25 moments of sensor T00/s0 hold different records" in found.findings[0].text and "--unit-pattern" in found.findings[0].text
    assert "two corpora" in audit(with_values(table, "corpus", np.arange(25), "d")).findings[0].text


@pytest.mark.parametrize(("column", "kind"), [("sensor_id", "alike_sensors"), ("unit", "alike_units")])
@pytest.mark.parametrize("spelling", ["{upper}", " {name}", "{wide}", "{name}\u00a0"])
def test_names_that_differ_only_in_form_are_said(column: str, kind: str, spelling: str) -> None:
    name = FLEET[column][0].as_py()
    wide = "".join(chr(ord(letter) + 0xFEE0) for letter in name)
    table = with_values(FLEET, column, np.arange(5), spelling.format(name=name, upper=name.swapcase(), wide=wide))
    assert counts_of(audit(table).findings)[kind] == 2


def test_records_that_stand_twice_are_said_and_counted_once() -> None:
    (found,) = audit(FLEET, 3).findings
    assert (found.kind, found.count) == ("duplicates", 3) and "3 records stand more than once" in found.text


def test_a_unit_a_record_is_no_unit() -> None:
    table = fleet(1, 1, 40)
    (found,) = audit(replaced(table, "unit", [f"{i:03d}" for i in range(40)])).findings
    assert (found.kind, found.count) == ("units_of_one_record", 40) and "--unit-pattern" in found.text
    assert audit(replaced(table, "unit", [f"{i // 2:03d}" for i in range(40)])).findings == ()
    assert audit(fleet(5, 1, 1)).findings == ()  # a fleet on its first day
