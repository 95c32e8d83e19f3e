"""Machines that are off or switching, and faulty sensors: lists of their own, for what they score says nothing of a fault."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from vibray.report import tables
from vibray.report.data import ReportData
from vibray.schema import State


@dataclass(frozen=True)
class Resting:
    """A unit with records of a machine that was off, or switching. Times are None where none is trusted."""

    unit: str
    num_off: int
    num_transient: int
    num_records: int
    first: datetime | None
    last: datetime | None
    is_off: bool
    """its newest record is"""
    num_above: int
    """of these records above the cut, which are no alarms"""


@dataclass(frozen=True)
class FaultySensor:
    """A sensor with records that say it is faulty."""

    unit: str
    sensor_id: str
    num_faulty: int
    num_records: int
    causes: tuple[tuple[str, int], ...]
    first: datetime | None
    last: datetime | None
    still: bool
    """its newest record says so"""
    num_above: int
    highest: float


def resting(data: ReportData) -> tuple[Resting, ...]:
    """Those that are off now first, then by records."""
    off, transient, times, found = tables.in_state(data, State.OFF), tables.in_state(data, State.TRANSIENT), tables.times_ms(data), []
    for name, a, b in data.groups.units():
        rows = data.groups.rows(int(data.groups.bounds[a]), int(data.groups.bounds[b]))
        own = rows[off[rows] | transient[rows]]
        if not len(own):
            continue
        newest, (first, last) = rows[np.argmax(times[rows])], _span(data, times, own)
        found.append(
            Resting(
                unit=name,
                num_off=int(off[own].sum()),
                num_transient=int(transient[own].sum()),
                num_records=len(rows),
                first=first,
                last=last,
                is_off=bool(off[newest]),
                num_above=int(data.no_alarm[own].sum()),
            )
        )
    return tuple(sorted(found, key=lambda r: (not r.is_off, -r.num_off, -r.num_transient, r.unit)))


def faulty_sensors(data: ReportData) -> tuple[FaultySensor, ...]:
    """Those that are faulty now first, then by records."""
    faulty, times, found = tables.in_state(data, State.SENSOR_FAULT), tables.times_ms(data), []
    for (unit, sensor_id), rows in data.groups:
        own = rows[faulty[rows]]
        if not len(own):
            continue
        first, last = _span(data, times, own)
        causes = Counter(cause for cause in data.causes(own) if cause is not None)
        found.append(
            FaultySensor(
                unit=unit,
                sensor_id=sensor_id,
                num_faulty=len(own),
                num_records=len(rows),
                causes=tuple(sorted(causes.items(), key=lambda pair: (-pair[1], pair[0]))),
                first=first,
                last=last,
                still=bool(faulty[rows[np.argmax(times[rows])]]),
                num_above=int(data.no_alarm[own].sum()),
                highest=float(data.score[own].max()),
            )
        )
    return tuple(sorted(found, key=lambda r: (not r.still, -r.num_faulty, r.unit, r.sensor_id)))


def _span(data: ReportData, times: np.ndarray, rows: np.ndarray) -> tuple[datetime | None, datetime | None]:
    """The first and the last trusted time."""
    dated = times[rows[data.time_trusted[rows]]]
    return (tables.moment_of(int(dated.min())), tables.moment_of(int(dated.max()))) if len(dated) else (None, None)
