"""The tables of alarms, and of what is none: which records, in which order, and safe to open."""

import csv
import io
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from tests.report import fleet
from vibray.report.alarms import COLUMNS, NO_ALARM_COLUMNS, alarms_csv, no_alarm_csv, safe_cell
from vibray.report.data import ReportData


@pytest.fixture(scope="module")
def data() -> ReportData:
    return fleet.report_data(1500, evidence=None)


def read(pieces: Iterable[str]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO("".join(pieces), newline="")))


def test_above_its_own_cut_a_record_is_an_alarm_or_its_state_says_why_not(data: ReportData) -> None:
    wanted = {"alarm": [], "not": []}
    for row in data.scores.to_pylist():
        cut = fleet.CUTS["groups"].get(row["unit"], fleet.CUTS["global"])["anomaly_above"]
        if row["score"] >= cut:
            decided = row["state"] in ("energised", "unknown")
            if decided <= row["calibrated"]:
                wanted["alarm" if decided else "not"].append((-row["score"], row["record_id"], row["unit"], row["sensor_id"], cut))
    rows, others = read(alarms_csv(data)), read(no_alarm_csv(data))
    for found, own in ((rows, wanted["alarm"]), (others, wanted["not"])):
        assert len(found) > 3
        assert [(r["record"], r["unit"], r["sensor"], float(r["cut"])) for r in found] == [w[1:] for w in sorted(own)]
        assert [np.float32(r["score"]) for r in found] == [np.float32(-w[0]) for w in sorted(own)]
        assert {r["corpus"] for r in found} == {"substations-2024"}
    state = dict(zip(data.scores["record_id"].to_pylist(), data.scores["state"].to_pylist(), strict=True))
    assert [row["state"] for row in others] == [state[row["record"]] for row in others]
    assert {row["cause"] for row in others} == {""}


def test_the_cause_of_a_faulty_sensor_is_said(data: ReportData) -> None:
    causes = ["=hangs" if state == "sensor_fault" else None for state in data.scores["state"].to_pylist()]
    told = replace(
        data, scores=data.scores.set_column(data.scores.column_names.index("state_cause"), "state_cause", pa.array(causes, pa.string()))
    )
    assert {(row["state"], row["cause"]) for row in read(no_alarm_csv(told))} == {
        ("off", ""),
        ("transient", ""),
        ("sensor_fault", "'=hangs"),
    }


def test_time_is_utc(data: ReportData) -> None:
    first = read(alarms_csv(data))[0]
    row = next(r for r in data.scores.to_pylist() if r["record_id"] == first["record"])
    assert first["time"] == row["measured_at"].strftime("%Y-%m-%dT%H:%M:%S.") + f"{row['measured_at'].microsecond // 1000:03d}Z"


def test_a_time_that_is_not_trusted_is_marked(data: ReportData) -> None:
    """It stands as it is, and the alarm with it."""
    doubtful = np.arange(1500) % 3 == 0
    told = replace(data, scores=data.scores.append_column("time_trusted", pa.array(~doubtful)))
    marked = dict(zip(data.scores["record_id"].to_pylist(), doubtful.tolist(), strict=True))
    for table in (alarms_csv, no_alarm_csv):
        plain, rows = read(table(data)), read(table(told))
        assert {row["time_note"] for row in plain} == {""}
        assert [row | {"time_note": ""} for row in rows] == plain
        assert [row["time_note"] == "implausible" for row in rows] == [marked[row["record"]] for row in rows]
        assert {row["time_note"] for row in rows} == {"", "implausible"}


def test_a_score_equal_to_the_cut_is_an_alarm_and_the_next_lower_is_not(data: ReportData) -> None:
    cut = np.float32(3.3)
    values = np.array([cut, np.nextafter(cut, np.float32(0))], np.float32)
    table = data.scores.filter(pa.array(data.calibrated & ~data.undecided)).slice(0, 2)
    table = table.set_column(table.column_names.index("score"), table.schema.field("score"), pa.array(values))
    two = replace(data, scores=table, cuts={"global": {"normal_below": 0.0, "anomaly_above": float(cut)}})
    assert two.alarm.tolist() == [True, False]


def test_a_sensors_own_cut_stands_before_its_units(data: ReportData) -> None:
    cuts = {"global": {"anomaly_above": 1.0}, "groups": {"T12": {"anomaly_above": 2.0}, "T12/T12-tank": {"anomaly_above": 3.0}}}
    both = replace(data, cuts=cuts)
    assert [both.cut_of(*s)["anomaly_above"] for s in (("T11", "T11-tank"), ("T12", "T12-OLTC"), ("T12", "T12-tank"))] == [1.0, 2.0, 3.0]
    units = both.scores["sensor_id"].to_numpy(zero_copy_only=False)
    assert set(both.cut_at(units == "T12-tank")) == {3.0}
    assert set(both.cut_at(units == "T13-tank")) == {1.0}


def test_without_cuts_there_is_only_the_header(data: ReportData) -> None:
    assert "".join(alarms_csv(replace(data, cuts=None))) == ",".join(COLUMNS) + "\r\n"
    assert "".join(no_alarm_csv(replace(data, cuts=None))) == ",".join(NO_ALARM_COLUMNS) + "\r\n"


@pytest.mark.parametrize("evil", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://x";"y")', "=1,2\n=3"])
def test_a_formula_is_shown_as_text(evil: str, data: ReportData) -> None:
    assert safe_cell(evil) == "'" + evil
    table = data.scores.slice(0, 1)
    for name in ("unit", "sensor_id", "record_id", "corpus"):
        table = table.set_column(table.column_names.index(name), table.schema.field(name), pa.array([evil]))
    table = table.set_column(table.column_names.index("calibrated"), table.schema.field("calibrated"), pa.array([True]))
    (row,) = read(alarms_csv(replace(data, scores=table, cuts={"global": {"anomaly_above": -100.0}})))
    assert [row[name] for name in ("unit", "sensor", "record", "corpus")] == ["'" + evil] * 4
    assert row["cut"] == "-100"  # a number stays one


def test_other_text_is_left_as_it_is() -> None:
    assert [safe_cell(text) for text in ("T-1", "1=1", "", " =1", "变压器")] == ["T-1", "1=1", "", " =1", "变压器"]
