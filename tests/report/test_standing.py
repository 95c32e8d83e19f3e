"""Which unit needs a look, since when, and in which order; what is off, and which sensor is faulty."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.report import fleet
from tests.report.test_drift import FACTS
from vibray import schema
from vibray.decide.unit_alarms import UnitAlarm
from vibray.report import out_of_service, tables
from vibray.report.anchors import record_anchor, unit_anchor
from vibray.report.data import ReportConfig, ReportData
from vibray.report.page import render
from vibray.report.standing import Standing, Unit, standing

AT = datetime(2024, 7, 1, 12, tzinfo=UTC)
TRENDS = pa.table(
    {
        "unit": ["T11", "T12", "T13"],
        "verdict": ["steady", "growing", "step"],
        "since": pa.array([None, AT, AT], schema.TIME),
        "change": [0.1, 3.25, 6.0],
        "per_month": [None, 1.5, None],
    }
)
DIAGNOSES = pa.table(
    {
        "unit": ["T12", "T12", "T12", "T13"],
        "measured_at": pa.array([AT, AT - timedelta(days=1), AT + timedelta(days=1), AT], schema.TIME),
        "abnormal_probability": [0.9, 0.8, 0.1, 0.7],
        "fault": ["直流偏磁", "core_looseness", "normal", "unknown"],
        "fault_probability": [0.87, 0.5, None, None],
        "sensors": [["a", "b"], ["a"], ["a"], ["a"]],
    }
)


@pytest.fixture(scope="module")
def data() -> ReportData:
    return fleet.report_data(900, evidence=None, explanations={})


def told(data: ReportData, **changes: Any) -> dict[str, Unit]:
    changed = replace(data, **changes)
    return {unit.name: unit for unit in standing(changed, tables.sensors(changed))}


def alarm(unit: str, **changes: Any) -> UnitAlarm:
    values = {"alarm": False, "since": None, "last_alarm": None, "newest": AT, "num_exceeding": 0, "num_windows": 9, "p_value": 0.5}
    return UnitAlarm(unit=unit, **{**values, "q_value": 0.6, "discovery": False, "sensor_id": "s", **changes})


def test_with_alarms_of_units_those_decide(data: ReportData) -> None:
    units = (
        alarm("T11", alarm=True, since=AT, q_value=0.01),
        alarm("T12", discovery=True, q_value=0.001),
        alarm("T13", last_alarm=AT),
        alarm("T14"),
    )
    found = told(data, units=units, unit_facts=FACTS)
    assert list(found)[:2] == ["T12", "T11"]  # by q-value
    assert [found[name].standing for name in ("T11", "T12", "T13")] == [Standing.LOOK, Standing.LOOK, Standing.WATCH]
    assert found["T11"].since == AT
    assert found["T15"].standing == Standing.UNJUDGED  # never calibrated
    assert found["T14"].standing == (Standing.WATCH if found["T14"].num_alarms else Standing.QUIET)


def test_without_them_an_alarm_is_enough_and_without_cuts_nothing_is(data: ReportData) -> None:
    found = told(data)
    alarms = dict(zip(*np.unique(data.scores["unit"].to_numpy(zero_copy_only=False)[data.alarm], return_counts=True), strict=True))
    assert {name: unit.num_alarms for name, unit in found.items() if unit.num_alarms} == alarms
    assert all((unit.standing == Standing.LOOK) == (name in alarms) for name, unit in found.items())
    assert [u.num_alarms for u in found.values() if u.num_alarms] == sorted(alarms.values(), reverse=True)
    assert {unit.standing for unit in told(data, cuts=None).values()} == {Standing.UNJUDGED}  # nothing was found, for nobody looked


def test_first_and_last_alarm_and_the_rarest_of_the_newest(data: ReportData) -> None:
    unit = told(data)["T12"]
    mine = data.scores["unit"].to_numpy(zero_copy_only=False) == "T12"
    times = tables.times_ms(data)
    assert unit.first_alarm is not None and unit.last_alarm is not None
    assert [int(t.timestamp() * 1000) for t in (unit.first_alarm, unit.last_alarm)] == [
        times[mine & data.alarm].min(),
        times[mine & data.alarm].max(),
    ]
    newest = {}
    for row in np.argsort(times, kind="stable"):
        if mine[row] and data.judged[row]:
            newest[data.sensors[1][row]] = row
    assert unit.now_row in newest.values() and len(newest) == 3
    assert data.rarity.rank(unit.now_row) == max(data.rarity.rank(int(row)) for row in newest.values())
    assert unit.highest_row == max(np.flatnonzero(mine & data.judged), key=lambda row: data.score[row])


def test_trends_and_diagnoses_are_said_where_they_are_known(data: ReportData) -> None:
    units = told(data, trends=TRENDS, unit_diagnoses=DIAGNOSES)
    assert units["T11"].trend is None and units["T13"].trend is not None
    assert units["T12"].diagnosis == DIAGNOSES.to_pylist()[0]  # the latest abnormal one
    page = render(replace(data, trends=TRENDS, unit_diagnoses=DIAGNOSES, cuts=fleet.CUTS))
    assert "growing, +1.5 spreads a month" in page and "step of +6.0 spreads" in page
    assert "Its scores have been growing since 2024-07-01, by 3.2 spreads" in page
    assert "Latest diagnosis of its sensors together: 直流偏磁, 87 % (2024-07-01 12:00 UTC)." in page
    assert "diagnosis" not in render(data).split('<section id="ranking"')[1].split("</thead>")[0]


def test_a_budget_is_said_with_what_it_would_have_missed(data: ReportData) -> None:
    budget = {"per_week": 5.0, "expected_per_week": 1.25, "upper_per_week": 4.5, "missed": {"dc_bias": [1, 10], "<b>": [0, 2]}}
    page = render(replace(data, budget=budget))
    assert "a budget of 5 alarms a week: a healthy fleet is expected to raise 1.25, with an upper bound of 4.5" in page
    assert "would have missed: dc_bias: 1 of 10; &lt;b&gt;: 0 of 2." in page
    assert "<b>:" not in page


def test_flagged_records_have_their_anchors(data: ReportData) -> None:
    page = render(data, ReportConfig(num_flagged=3))
    rows = data.order(data.alarm & (data.scores["unit"].to_numpy(zero_copy_only=False) == "T12"))[:4]
    keys = data.scores.select(["corpus", "record_id"]).take(pa.array(rows)).to_pylist()
    assert [f'id="{record_anchor(**key)}"' in page for key in keys] == [True, True, True, False]
    assert f'<section class="unit" id="{unit_anchor("T12")}"' in page


def test_anchors_are_of_the_key_alone() -> None:
    assert record_anchor("a", "b@1") == "record-" + sha256(b"a\x00b@1").hexdigest()[:12]
    assert record_anchor("a", "b@1") != record_anchor("ab", "@1")
    assert unit_anchor("主变 1") == unit_anchor("主变 1") != unit_anchor("主变 2")
    assert unit_anchor("主变 1").isascii() and len(unit_anchor("x")) == len("unit-") + 12


def states(data: ReportData, state: dict[int, str], cause: dict[int, str] | None = None) -> ReportData:
    table = data.scores
    for name, values in (("state", state), ("state_cause", cause or {})):
        own = [values.get(row) for row in range(table.num_rows)]
        own = [value or ("energised" if name == "state" else None) for value in own]
        table = table.set_column(table.column_names.index(name), table.schema.field(name), pa.array(own, pa.string()))
    return replace(data, scores=table)


def test_machines_that_are_off_and_faulty_sensors_are_counted(data: ReportData) -> None:
    unit = data.scores["unit"].to_numpy(zero_copy_only=False)
    sensor, times = data.scores["sensor_id"].to_numpy(zero_copy_only=False), tables.times_ms(data)
    mine = np.flatnonzero(unit == "T12")
    by_time = mine[np.argsort(times[mine])]
    off = {int(row): "off" for row in by_time[-4:]} | {int(row): "transient" for row in np.flatnonzero(unit == "T13")[:2]}
    broken = np.flatnonzero(sensor == "T14-tank")
    broken = broken[np.argsort(times[broken])][:5]
    changed = states(
        data, off | {int(row): "sensor_fault" for row in broken}, {int(row): "hangs" for row in broken[:3]} | {int(broken[3]): "line cut"}
    )
    rows = {row.unit: row for row in out_of_service.resting(changed)}
    assert list(rows) == ["T12", "T13"]
    assert (rows["T12"].num_off, rows["T12"].is_off, rows["T12"].num_records) == (4, True, len(mine))
    assert (rows["T13"].num_off, rows["T13"].num_transient) == (0, 2)
    (sick,) = out_of_service.faulty_sensors(changed)
    assert (sick.unit, sick.sensor_id, sick.num_faulty, sick.still) == ("T14", "T14-tank", 5, False)
    assert sick.causes == (("hangs", 3), ("line cut", 1))
    assert sick.first is not None and int(sick.first.timestamp() * 1000) == times[broken].min()
    page = render(changed)
    assert "1 machine is off." in page and "hangs (3), line cut (1)" in page
