"""A sensor as its unit's section shows it: what is usual for it, what it scores now, and its scores over time."""

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from vibray.report import tables
from vibray.report.data import ReportConfig, ReportData
from vibray.report.scale import Scale
from vibray.report.sensor_plot import frame, sensor_svg
from vibray.report.standing import Unit
from vibray.report.words import Words

FEWEST_USUAL = 20
"""With fewer reference records nothing is said of the middle nine tenths of them."""
NUM_NEWEST = 10


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


def sensor_views(data: ReportData, units: tuple[Unit, ...], scale: Scale, config: ReportConfig, t: Words) -> dict[int, SensorView]:
    """By the sensor's place; drawn in the order of the units, on the same axes."""
    place, times = data.sensors[1], tables.times_ms(data)
    drawn = np.isfinite(data.score) & data.time_trusted
    on = frame(scale, times[drawn], data.score[drawn], t) if drawn.any() else None
    order = np.lexsort((times, place))
    starts = np.searchsorted(place[order], np.arange(len(data.sensors[0]) + 1))
    found: dict[int, SensorView] = {}
    for sensor in (sensor for unit in units for sensor in unit.sensors):
        rows = order[starts[sensor.place] : starts[sensor.place + 1]]
        seen, mine = rows[drawn[rows]], rows[data.judged[rows] & np.isfinite(data.score[rows])]
        reference, judged = data.score[rows[data.rarity.in_reference[rows]]], data.score[mine]
        usual = None
        if len(reference) >= FEWEST_USUAL:
            usual = (float(np.quantile(reference, 0.05)), float(np.quantile(reference, 0.95)))
        highest = int(mine[np.argmax(data.score[mine])]) if len(mine) else None
        picture = None
        if on is not None and len(seen) and len(found) < config.num_sensors:
            values = {"sensor": sensor.sensor_id, "n": f"{len(rows):,}", "m": f"{sensor.num_alarms:,}"}
            alt = t.plain("Scores over time of {sensor}: {n} records, {m} alarms", **values)
            picture = sensor_svg(on, times[seen], data.score[seen], data.alarm[seen], sensor.cut, usual, alt)
        found[sensor.place] = SensorView(
            sensor,
            usual,
            float(np.median(judged[-NUM_NEWEST:])) if len(judged) else None,
            data.rarity.words(highest, t),
            data.rarity.rank(highest),
            picture,
        )
    return found
