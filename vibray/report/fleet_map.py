"""The fleet as a map: a row a unit, a column a span of time, the worst score as its shade; empty where there is no record.

A row is an SVG without text that takes whatever width it gets, so that the map is read on a telephone as on a wall; the axis above is one
whose labels stand at shares of that width.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Int64
from markupsafe import Markup, escape

from vibray.report import formats, tables
from vibray.report.axes import DAY, STEPS, text_width, time_ticks
from vibray.report.data import ReportConfig, ReportData
from vibray.report.scale import Scale, quantiles
from vibray.report.standing import Unit
from vibray.report.words import Words
from vibray.schema import State

LEVELS = (0.0, 0.35, 0.7, 1.0, 1.35)
"""Where a shade begins: how far the score has come from the median of all (0) to its cut (1), along the axis of the scores."""
SHARES = (0.5, 0.8)
"""Without cuts: shares of all scores that lie below the second and the third shade. Those of alarms then do not occur."""
FEWEST_COLUMNS = 6
NUM_LABELS, NARROW_LABELS = 9, 3
LAST_SHARE, LAST_NARROW = 86, 70
"""Percent of the width beyond which no label begins, on a wide screen and a narrow one: it would not end inside."""
SPARK_HEIGHT, NAME_SIZE = 18, 13.2


@dataclass(frozen=True)
class Columns:
    """Spans of time, one after the other: `num` of `step_ms` from `first_ms` on."""

    first_ms: int
    step_ms: int
    num: int

    def of(self, times_ms: Int64[np.ndarray, " records"]) -> Int64[np.ndarray, " records"]:
        return (times_ms - self.first_ms) // self.step_ms

    def label(self, column: int) -> str:
        start = self.first_ms + column * self.step_ms
        if self.step_ms < DAY:
            return formats.minute(start)
        if self.step_ms == DAY:
            return formats.day(start)
        return f"{formats.day(start)} – {formats.day(start + self.step_ms - DAY)}"


def columns_of(times_ms: Int64[np.ndarray, " records"], most: int) -> Columns:
    """Columns that hold all the times: whole minutes, hours or days, and at most `most` of them."""
    first, last = int(times_ms.min()), int(times_ms.max())
    days = [DAY * n for n in (1, 2, 3, 4, 5, 7, 10, 14, 21, 30, 60, 90, 180, 365, 730, 3650)]
    for step in (*STEPS, *days):
        start = first // min(step, DAY) * min(step, DAY)
        num = (last - start) // step + 1
        if num <= most:
            return Columns(start, step, int(num))
    return Columns(first, (last - first) // most + 1, most)


@dataclass(frozen=True)
class FleetMap:
    """The map's parts; rows by the unit's place."""

    columns: Columns
    name_width: int
    """CSS pixels that the longest name needs"""
    axis: Markup
    rows: dict[int, Markup]
    sparks: dict[int, Markup]
    """the worst score of each column as a line, for the ranking"""


def shades(data: ReportData, scale: Scale, rows: Int64[np.ndarray, " rows"]) -> Int64[np.ndarray, " rows"]:
    """The shade of some records' scores, 0 to 4; from 3 on it is at or above its cut."""
    score, ordered = data.score[rows].astype(np.float64), data.ordered
    if data.cuts:
        lowest = float(ordered[0])
        middle, at, cut = (_along(scale, values, lowest) for values in (np.array(quantiles(ordered, (0.5,))), score, data.cut_at(rows)))
        with np.errstate(divide="ignore", invalid="ignore"):
            place = np.where(cut > middle, (at - middle) / (cut - middle), 0.0)
        shade = np.searchsorted(LEVELS, place, side="right") - 1
        return np.where(score >= data.cut_at(rows), np.maximum(shade, 3), np.clip(shade, 0, 2))
    return np.minimum(np.searchsorted(quantiles(ordered, SHARES), score, side="right"), 2)


def _along(scale: Scale, scores: np.ndarray, lowest: float) -> np.ndarray:
    """Where scores lie along the axis; a cut at or below 0 has no place on a logarithmic one and stands at its beginning."""
    return scale.forward(np.maximum(scores, lowest) if scale.kind == "log" else scores)


def fleet_map(data: ReportData, units: tuple[Unit, ...], scale: Scale, config: ReportConfig, t: Words) -> FleetMap | None:
    """None where no record has a time and a score that can be drawn."""
    drawn, times = np.isfinite(data.score) & data.time_trusted, tables.times_ms(data)
    if not drawn.any():
        return None
    most = max(FEWEST_COLUMNS, min(config.num_columns, config.num_cells // max(1, len(units))))
    ends = np.iinfo(np.int64)
    extent = np.array([times.min(where=drawn, initial=ends.max), times.max(where=drawn, initial=ends.min)])
    columns = columns_of(extent, most)
    rows, places, counts = _worst(data, drawn, columns)
    shade, words = shades(data, scale, rows), _Hover(data, t)
    cells: dict[int, list[str]] = {}
    line: dict[int, list[tuple[int, float]]] = {}
    told = data.scores.select(["sensor_id", "state"]).take(pa.array(rows)).to_pylist()
    for row, at, num, one, values in zip(rows.tolist(), places.tolist(), counts.tolist(), shade.tolist(), told, strict=True):
        place, column = divmod(at, columns.num)
        judged, state = bool(data.judged[row]), values["state"]
        kind = f"s{one}" if judged else "off" if state == State.OFF else "no"
        said = escape(f"{columns.label(column)} · {words.of(row, judged, state)} · {values['sensor_id']} · {words.records(num)}")
        cells.setdefault(place, []).append(f'<path class="{kind}" d="M{column} 0h.9v1h-.9z"><title>{said}</title></path>')
        if judged:
            line.setdefault(place, []).append((column, float(data.score[row])))
    alt = {u.place: t.plain("{unit}: worst score by time", unit=u.name) for u in units}
    head = f'<svg class="strip" role="img" viewBox="0 0 {columns.num} 1" preserveAspectRatio="none"'
    made = {place: Markup(f'{head} aria-label="{escape(alt[place])}">{"".join(own)}</svg>') for place, own in cells.items()}
    longest = round(max(text_width(u.name, NAME_SIZE) for u in units))
    return FleetMap(columns, longest, _axis(columns, t), made, _sparks(line, scale, data.ordered, columns.num))


def _worst(data: ReportData, drawn: np.ndarray, columns: Columns) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each cell that has a record: the judged one with the highest score, or of those that are not judged; the cell, which is
    unit * columns + column; how many records it has."""
    times, found = tables.times_ms(data), []
    for own, unit, _ in data.groups.batches():
        can = drawn[own]
        own, unit = own[can], unit[can]
        if not len(own):
            continue
        cell = unit * columns.num + columns.of(times[own])
        order = np.lexsort((data.score[own], data.judged[own], cell))
        last = order[np.flatnonzero(np.diff(cell[order], append=-1))]
        found.append((own[last], cell[last], np.bincount(cell - cell.min())[cell[last] - cell.min()]))
    rows, cells, counts = (np.concatenate(each) for each in zip(*found, strict=True))
    return rows, cells, counts


class _Hover:
    """What a cell says; the sentences are looked up once."""

    def __init__(self, data: ReportData, t: Words):
        self.data, self.t = data, t
        self._score, self._one, self._many = t.plain("score {score}, {rarity}"), t.plain("{n} record"), t.plain("{n} records")

    def of(self, row: int, judged: bool, state: str) -> str:
        if judged:
            rare = self.data.rarity.words(row, self.t)
            score = formats.number(float(self.data.score[row]))
            return f"{self.t.plain('score')} {score}" if rare == "–" else self._score.format(score=score, rarity=rare)
        return self.t.plain("not calibrated") if state in (State.ENERGISED, State.UNKNOWN) else self.t.plain(state.replace("_", " "))

    def records(self, num: int) -> str:
        return (self._one if num == 1 else self._many).format(n=f"{num:,}")


def _axis(columns: Columns, t: Words) -> Markup:
    """Labels at shares of the width; a narrow screen leaves some out."""
    end = columns.first_ms + columns.num * columns.step_ms
    ticks = time_ticks(columns.first_ms, end - 1, NUM_LABELS, t)
    every = -(-len(ticks) // NARROW_LABELS)
    marks = []
    for i, (ms, label) in enumerate(ticks):
        share = 100 * (ms - columns.first_ms) / (end - columns.first_ms)
        if share > LAST_SHARE:
            continue  # its label would end outside
        at, minor = f"{share:.2f}%", ' class="minor"' if i % every or share > LAST_NARROW else ""
        marks.append(f'<g{minor}><line x1="{at}" x2="{at}" y1="15" y2="20"/><text x="{at}" y="11">{label}</text></g>')
    return Markup(f'<svg class="axis" role="img" aria-label="{t("time axis, UTC")}">{"".join(marks)}</svg>')


def _sparks(worst: dict[int, list[tuple[int, float]]], scale: Scale, ordered: np.ndarray, num: int) -> dict[int, Markup]:
    low, high = scale.at(float(ordered[0])), scale.at(float(ordered[-1]))
    found = {}
    for place, points in worst.items():
        y = SPARK_HEIGHT - 1 - (SPARK_HEIGHT - 2) * (scale.forward(np.array([s for _, s in points])) - low) / max(high - low, 1e-12)
        path = " ".join(f"{column + 0.5:g},{at:.1f}" for (column, _), at in zip(points, y, strict=True))
        head = f'<svg class="spark" aria-hidden="true" viewBox="0 0 {num} {SPARK_HEIGHT}" preserveAspectRatio="none">'
        found[place] = Markup(f'{head}<polyline points="{path}" vector-effect="non-scaling-stroke"/></svg>')
    return found
