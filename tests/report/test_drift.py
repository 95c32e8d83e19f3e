"""Alarms of units and drift on the page, and unit_alarms.csv."""

import csv
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from tests.report import fleet
from vibray import schema
from vibray.config import to_json
from vibray.decide.unit_alarms import UnitAlarm, UnitConfig
from vibray.report.alarms import UNIT_COLUMNS, unit_alarms_csv
from vibray.report.data import ReportConfig, ReportData
from vibray.report.drift import drift_words, drifting
from vibray.report.page import render

AT = datetime(2024, 7, 1, 12, tzinfo=UTC)
EVIL = "=<b>unit</b>"
UNITS = (
    UnitAlarm("T12", True, AT, AT + timedelta(hours=9), AT + timedelta(hours=9), 5, 90, 1e-7, 1e-6, True, "T12-tank"),
    UnitAlarm(EVIL, False, None, AT, AT + timedelta(hours=9), 1, 90, 0.4, None, False, "s"),
    UnitAlarm("T14", False, None, None, AT, 0, 90, 0.7, 0.7, False, "s"),
)
FACTS = {
    "config": to_json(UnitConfig()), "reference": "the earliest 200", "trusted_normals": False, "num_unusable": 31, "nominal_rate": 0.01,
    "reference_rate": 0.014, "realised_rate": 0.02, "expected_per_day": 0.0056, "resampled_per_day": 0.11,
    "resampled_interval": [0.0, 0.24], "at_most_per_day": 0.57,
}  # fmt: skip


def month(sensor: str, number: int, verdict: str, median: float | None = 2.0) -> dict:
    ends = {"median": median, "low": None if median is None else median - 0.1, "high": None if median is None else median + 0.1}
    reference = {"reference_low": 0.8, "reference_median": 1.0, "reference_high": 1.2}
    when = datetime(2024, number, 1, tzinfo=UTC)
    return {"unit": "T12", "sensor_id": sensor, "month": when, "num_records": 700, "verdict": verdict, **ends, **reference}


def drift_table(*rows: dict) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=schema.DRIFT)


@pytest.fixture(scope="module")
def data() -> ReportData:
    whole = fleet.report_data(60, evidence=None, metrics=None, explanations={})
    rows = (month("a", 4, "steady", 1.0), month("a", 5, "steady", 1.0), month("b", 4, "watch"), month("b", 5, "recalibrate"))
    few = (month("b", 6, "too few records", None), month("c", 4, "too few records", None))
    return replace(whole, units=UNITS, unit_facts=FACTS, drift=drift_table(*rows, *few))


def section_of(page: str, name: str) -> str:
    return page[page.index(f'id="{name}"') :].split("</section>")[0]


def test_the_page_says_who_since_when_and_how_often_a_healthy_fleet_would(data):
    page = render(data, ReportConfig(num_records=1, num_sensors=1))
    rule = section_of(page, "scores")
    for words in (
        "3 of its last 5",
        "independent",
        "0.005600",
        "0.1100",
        "these are rates",
        "31 here",
        "about 0.77 alarms",
    ):
        assert words in rule
    assert "<h1>\n1 of 5 machines needs a look\n</h1>" in page
    assert "In alarm since 2024-07-01 12:00 UTC; most of all sensor T12-tank. 5 of its last 5 windows exceed." in page
    assert "0.0001 % of them would be expected to be healthy" in page
    assert EVIL not in page
    assert "not known" not in rule


def test_figures_a_day_that_are_not_known_are_dashes(data):
    unknown = dict.fromkeys(("expected_per_day", "resampled_per_day", "resampled_interval", "at_most_per_day"))
    page = render(replace(data, unit_facts={**FACTS, **unknown}), ReportConfig(num_records=1, num_sensors=1))
    section = page[page.index('id="rule"') :].split("</section>")[0]
    assert section.count('%</td><td class="num">–</td>') == 3
    assert "would raise an alarm is not known" in section_of(page, "scores")


def test_without_facts_one_alarm_is_enough_and_the_page_says_so(data):
    page = render(replace(data, units=(), unit_facts=None, drift=None), ReportConfig(num_records=1, num_sensors=1))
    assert 'id="rule"' not in page
    assert 'id="drift"' not in page
    assert "one record above its cut is enough" in page


def test_the_csv_is_safe_and_whole(data):
    rows = list(csv.DictReader("".join(unit_alarms_csv(data)).splitlines()))
    assert list(rows[0]) == list(UNIT_COLUMNS)
    assert [row["unit"] for row in rows] == ["T12", "'" + EVIL, "T14"]
    assert (rows[0]["since"], rows[0]["alarm"], rows[1]["since"], rows[1]["q_value"]) == ("2024-07-01T12:00:00.000Z", "yes", "", "")


def test_drift_is_the_newest_month_with_enough_records(data):
    assert [(row.sensor_id, row.month.month, row.verdict, row.num_months) for row in drifting(data)] == [
        ("b", 5, "recalibrate", 2),
        ("a", 5, "steady", 2),
        ("c", 4, "too few records", 0),
    ]
    assert drift_words(data) == "1 of 2 sensors should be recalibrated, 0 more be watched."
    section = section_of(render(data, ReportConfig(num_records=1, num_sensors=1)), "drift")
    assert "2024-05" in section
    assert "2024-06" not in section


def test_a_short_corpus_says_that_nothing_is_said(data):
    short = replace(data, drift=drift_table(month("c", 4, "too few records", None)))
    assert "nothing is said of drift" in drift_words(short)
    assert "nothing is said of drift" in drift_words(replace(data, drift=schema.DRIFT.empty_table()))


def test_a_fleet_that_moves_together_is_no_fleet_of_faults(data):
    table = drift_table(*(month(name, 5, "watch") for name in "abcd"))
    assert "Most sensors moved at once" in drift_words(replace(data, drift=table))
