"""A sensor as its unit's section shows it: what is usual for it, what it scores now, and its scores over time."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from vibray.report import tables
from vibray.report.data import ReportConfig, ReportData
from vibray.report.scale import Scale
from vibray.report.sensor_plot import NUM_POINTS, frame, sensor_svg
from vibray.report.standing import Unit
from vibray.report.words import Words

FEWEST_USUAL = 20
"""With fewer reference records nothing is said of the middle nine tenths of them."""
NUM_NEWEST = 10
FEWEST_POINTS = 40
LARGE = 600 * 600
"""Sensors times those that are drawn: of 600 all are, of 4,000 ninety, or the tables of the many and the drawings make too large a page."""


@dataclass(frozen=True)
class SensorView:
    """A sensor, and what a reader compares."""

    sensor: tables.Sensor
    usual: tuple[float, float] | None
    """the middle nine tenths of its reference's scores"""
    now: float | None
    """median of its newest judged records, ten at most; None where none is judged"""
    rarity: str
    """of its highest judged record"""
    rarity_rank: int
    picture: Markup | None
    """None where it has no record to draw, or too many sensors are drawn already"""


def one_in(views: Mapping[int, SensorView]) -> int:
    """One in so many records of the sensors that are drawn is a point of a drawing, 1 where all are."""
    drawn = [view for view in views.values() if view.picture is not None]
    num_points = sum(str(view.picture).count("h0") for view in drawn)  # a point is a line without length
    return round(sum(view.sensor.num_records for view in drawn) / max(1, num_points))


def _extent(times: np.ndarray, scores: np.ndarray, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and last time, lowest and highest score."""
    ends = np.iinfo(np.int64)
    first, last = times.min(where=drawn, initial=ends.max), times.max(where=drawn, initial=ends.min)
    low, high = scores.min(where=drawn, initial=np.inf), scores.max(where=drawn, initial=-np.inf)
    return np.array([first, last]), np.array([low, high], np.float64)


def sensor_views(data: ReportData, units: tuple[Unit, ...], scale: Scale, config: ReportConfig, t: Words) -> dict[int, SensorView]:
    """By the sensor's place; drawn in the order of the units, on the same axes."""
    times, drawn = tables.times_ms(data), np.isfinite(data.score) & data.time_trusted
    on = frame(scale, *_extent(times, data.score, drawn), t) if drawn.any() else None
    bounds = data.groups.bounds.tolist()
    num_sensors = min(config.num_sensors, LARGE // max(1, len(data.groups)))
    num_points = max(FEWEST_POINTS, min(NUM_POINTS, config.num_points // max(1, min(num_sensors, len(data.groups)))))
    found: dict[int, SensorView] = {}
    for sensor in (sensor for unit in units for sensor in unit.sensors):
        rows = data.groups.rows(bounds[sensor.place], bounds[sensor.place + 1])
        seen, mine = rows[drawn[rows]], rows[data.judged[rows] & np.isfinite(data.score[rows])]
        reference, judged = (data.score[own].astype(np.float64) for own in (rows[data.rarity.in_reference[rows]], mine))
        usual = None
        if len(reference) >= FEWEST_USUAL:
            usual = (float(np.quantile(reference, 0.05)), float(np.quantile(reference, 0.95)))
        highest = int(mine[np.argmax(data.score[mine])]) if len(mine) else None
        picture = None
        if on is not None and len(seen) and len(found) < num_sensors:
            values = {"sensor": sensor.sensor_id, "n": f"{len(rows):,}", "m": f"{sensor.num_alarms:,}"}
            alt = t.plain("Scores over time of {sensor}: {n} records, {m} alarms", **values)
            picture = sensor_svg(on, times[seen], data.score[seen].astype(np.float64), data.alarm[seen], sensor.cut, usual, alt, num_points)
        found[sensor.place] = SensorView(
            sensor,
            usual,
            float(np.median(judged[-NUM_NEWEST:])) if len(judged) else None,
            data.rarity.words(highest, t),
            data.rarity.rank(highest),
            picture,
        )
    return found
