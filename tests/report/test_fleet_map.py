"""The map: the worst judged score of each unit and span of time, empty where there is no record."""

import re
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from tests.report import fleet
from vibray import schema
from vibray.report import tables
from vibray.report.axes import DAY, HOUR
from vibray.report.data import ReportConfig, ReportData
from vibray.report.fleet_map import columns_of, fleet_map, shades
from vibray.report.scale import Scale
from vibray.report.standing import standing, units_of
from vibray.report.words import Words

CELL = re.compile(r'<path class="(\w+)" d="M(\d+) 0h.9v1h-.9z"><title>(.*?)</title></path>')


@pytest.fixture(scope="module")
def data() -> ReportData:
    return fleet.report_data(1500, evidence=None, explanations={})


def drawn(data: ReportData, config: ReportConfig = ReportConfig()):
    scale = Scale.of(data.score)
    made = fleet_map(data, standing(data, tables.sensors(data)), scale, config, Words())
    assert made is not None
    return made, scale


def test_each_cell_is_the_worst_of_its_records(data: ReportData) -> None:
    """A slow twin: go through the records."""
    made, scale = drawn(data)
    names, unit = units_of(data, np.arange(data.scores.num_rows))
    shade, times = shades(data, scale, np.arange(data.scores.num_rows)), tables.times_ms(data)
    worst: dict[tuple[int, int], int] = {}
    num: dict[tuple[int, int], int] = {}
    for row in range(data.scores.num_rows):
        at = int(unit[row]), int((times[row] - made.columns.first_ms) // made.columns.step_ms)
        num[at] = num.get(at, 0) + 1
        best = worst.get(at)
        if best is None or (data.judged[row], data.score[row]) > (data.judged[best], data.score[best]):
            worst[at] = row
    found = {(place, int(column)): (kind, said) for place, svg in made.rows.items() for kind, column, said in CELL.findall(svg)}
    assert found.keys() == worst.keys()
    states = data.scores["state"].to_pylist()
    for at, row in worst.items():
        kind, said = found[at]
        assert kind == (f"s{shade[row]}" if data.judged[row] else "off" if states[row] == "off" else "no")
        assert said.endswith(f"{num[at]} record{'s' if num[at] > 1 else ''}")
        assert data.scores["sensor_id"][row].as_py() in said
        if data.judged[row]:
            assert data.rarity.words(row) in said
    assert len(names) == len(made.rows) == 5 and len(found) < 5 * made.columns.num + 1


def test_alarm_shades_are_those_above_their_own_cut(data: ReportData) -> None:
    every = np.arange(data.scores.num_rows)
    shade = shades(data, Scale.of(data.score), every)
    above = data.score >= data.cut_at(every)
    assert (shade[above] >= 3).all() and (shade[~above] < 3).all()
    order = np.argsort(data.score[data.scores["unit"].to_numpy(zero_copy_only=False) == "T12"])
    own = shade[data.scores["unit"].to_numpy(zero_copy_only=False) == "T12"][order]
    assert (np.diff(own) >= 0).all() and set(own) == {0, 1, 2, 3, 4}
    assert shades(replace(data, cuts=None), Scale.of(data.score), every).max() == 2


SPANS = [(59 * DAY, 60, DAY), (60 * DAY, 60, 2 * DAY), (0, 60, 60_000), (5 * HOUR, 12, HOUR // 2), (900 * DAY, 60, 21 * DAY)]


@pytest.mark.parametrize(("span", "most", "step"), SPANS)
def test_columns_hold_all_times_in_round_spans(span: int, most: int, step: int) -> None:
    start = int(datetime(2024, 3, 1, tzinfo=UTC).timestamp() * 1000)
    times = start + np.linspace(0, span, 200).astype(np.int64)
    columns = columns_of(times, most)
    place = columns.of(times)
    assert place.min() == 0 and place.max() == columns.num - 1 < most
    assert columns.step_ms == step and columns.first_ms % min(step, DAY) == 0


@pytest.mark.parametrize("num_units", [5, 200])
def test_many_units_are_drawn_with_fewer_columns(num_units: int) -> None:
    data = ReportData(
        title="", generated_at=datetime(2024, 9, 1, tzinfo=UTC), scores=fleet.scores(4000, num_units), counts={}, cuts=fleet.CUTS
    )
    made, _ = drawn(data, ReportConfig(num_cells=6000))
    assert made.columns.num * num_units <= 6000 and made.columns.num >= 25
    assert len(made.rows) == num_units


def test_names_are_text(data: ReportData) -> None:
    at = data.scores.column_names.index("sensor_id")
    evil = data.scores.set_column(at, "sensor_id", pa.array(["<b>&"] * data.scores.num_rows))
    made, _ = drawn(replace(data, scores=evil))
    assert "<b>" not in "".join(made.rows.values()) and "&lt;b&gt;&amp;" in made.rows[0]


def test_where_no_time_is_trusted_there_is_no_map(data: ReportData) -> None:
    none = data.scores.append_column(schema.TIME_TRUSTED, pa.array([False] * data.scores.num_rows))
    told = replace(data, scores=none)
    assert fleet_map(told, standing(told, tables.sensors(told)), Scale("linear"), ReportConfig(), Words()) is None
