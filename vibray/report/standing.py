"""How each unit stands: whether it needs a look, since when, and what speaks for it. The order of the page."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import numpy as np
import pyarrow as pa

from vibray.decide.unit_alarms import UnitAlarm
from vibray.report import tables
from vibray.report.anchors import unit_anchor
from vibray.report.data import ReportData
from vibray.schema import NORMAL, State


class Standing(StrEnum):
    """What a unit asks of the reader."""

    LOOK = "needs a look"
    WATCH = "watch"
    QUIET = "nothing found"
    UNJUDGED = "not judged"


@dataclass(frozen=True)
class Unit:
    """A unit in numbers. Times are None where none is known."""

    place: int
    """among the names of `units_of`"""
    name: str
    anchor: str
    standing: Standing
    sensors: tuple[tables.Sensor, ...]
    num_records: int
    num_alarms: int
    highest_row: int | None
    """the row of its highest judged record; None where none is"""
    now_row: int | None
    """of the newest judged records of its sensors, one each, that with the rarest score"""
    first_alarm: datetime | None
    last_alarm: datetime | None
    alarm: UnitAlarm | None
    trend: Mapping[str, Any] | None
    """its row of `ReportData.trends`, where it is not steady"""
    diagnosis: Mapping[str, Any] | None
    """its latest row of `ReportData.unit_diagnoses` that names a fault"""
    share_off: float
    is_off: bool
    """its newest record is of a machine that is off"""

    @property
    def since(self) -> datetime | None:
        """Since when it needs a look: the beginning of its alarm, of its step or growth, or its first record above the cut."""
        if self.alarm is not None and (self.alarm.since or self.alarm.undated):
            return self.alarm.since
        if self.trend is not None:
            return self.trend["since"]
        return self.first_alarm


def units_of(data: ReportData, rows: np.ndarray) -> tuple[list[str], np.ndarray]:
    """The names of all units in order, and the place among them of each of some records, (rows,)."""
    units = data.groups.units()
    of_sensor = np.repeat(np.arange(len(units), dtype=np.int32), [b - a for _, a, b in units])
    return [name for name, _, _ in units], of_sensor[data.sensors[1][rows]]


def standing(data: ReportData, sensors: tuple[tables.Sensor, ...]) -> tuple[Unit, ...]:
    """Every unit: those that need a look first, by q-value; then by alarms and highest score.

    Which need one `ReportData.needing_a_look` says. One is to be watched where it had an alarm, or its scores went up.
    """
    times, off_rows = tables.times_ms(data), tables.in_state(data, State.OFF)
    own_sensors: dict[str, list[tables.Sensor]] = {}
    for sensor in sensors:
        own_sensors.setdefault(sensor.unit, []).append(sensor)
    alarms = {alarm.unit: alarm for alarm in data.units}
    trends, diagnoses = _trends(data.trends), _diagnoses(data.unit_diagnoses)
    found = []
    for i, (name, a, b) in enumerate(data.groups.units()):
        rows = data.groups.rows(int(data.groups.bounds[a]), int(data.groups.bounds[b]))
        rows = rows[np.argsort(times[rows], kind="stable")]
        usable, off = rows[data.judged[rows] & np.isfinite(data.score[rows])], off_rows[rows]
        loud = rows[data.alarm[rows] & data.time_trusted[rows]]
        alarm, trend, num_alarms = alarms.get(name), trends.get(name), int(data.alarm[rows].sum())
        found.append(
            Unit(
                place=i,
                name=name,
                anchor=unit_anchor(name),
                standing=_standing(name in data.needing_a_look, alarm, trend, num_alarms, bool(data.cuts) and len(usable) > 0),
                sensors=tuple(sorted(own_sensors[name], key=lambda s: s.sensor_id)),
                num_records=len(rows),
                num_alarms=num_alarms,
                highest_row=int(usable[np.argmax(data.score[usable])]) if len(usable) else None,
                now_row=_rarest_now(data, usable),
                first_alarm=tables.moment_of(int(times[loud[0]])) if len(loud) else None,
                last_alarm=tables.moment_of(int(times[loud[-1]])) if len(loud) else None,
                alarm=alarm,
                trend=trend,
                diagnosis=diagnoses.get(name),
                share_off=float(off.mean()),
                is_off=bool(off[-1]),
            )
        )
    return tuple(sorted(found, key=lambda u: _rank(u, data)))


def _rarest_now(data: ReportData, rows: np.ndarray) -> int | None:
    """`rows` in order of time."""
    place = data.sensors[1][rows]
    newest = [int(rows[np.flatnonzero(place == p)[-1]]) for p in np.unique(place)]
    return max(newest, key=lambda row: (data.rarity.rank(row), data.score[row]), default=None)


def _standing(needs: bool, alarm: UnitAlarm | None, trend: Any, num_alarms: int, is_judged: bool) -> Standing:
    if needs:
        return Standing.LOOK
    if num_alarms or trend is not None or (alarm is not None and alarm.last_alarm is not None):
        return Standing.WATCH
    return Standing.QUIET if is_judged else Standing.UNJUDGED


def _rank(unit: Unit, data: ReportData) -> tuple[Any, ...]:
    q = 2.0 if unit.alarm is None or unit.alarm.q_value is None else unit.alarm.q_value
    highest = -np.inf if unit.highest_row is None else float(data.score[unit.highest_row])
    by_q = q if unit.standing == Standing.LOOK else 0.0
    return list(Standing).index(unit.standing), by_q, -unit.num_alarms, -highest, unit.name


def _trends(table: pa.Table | None) -> dict[str, Mapping[str, Any]]:
    return {row["unit"]: row for row in ([] if table is None else table.to_pylist()) if row["verdict"] != "steady"}


def _diagnoses(table: pa.Table | None) -> dict[str, Mapping[str, Any]]:
    rows = [] if table is None else sorted(table.to_pylist(), key=lambda row: row["measured_at"])
    return {row["unit"]: row for row in rows if row["fault"] not in (None, NORMAL)}
