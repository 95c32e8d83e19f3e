"""The alarms, and what is above the cut without being one, as tables for a spreadsheet."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from vibray.decide.unit_alarms import UnitAlarm
from vibray.report.data import ReportData
from vibray.storage.columns import with_record_ids

PIECE = 20_000
"""Rows that are text at a time."""

COLUMNS = ("unit", "sensor", "time", "score", "cut", "record", "corpus", "time_note")

NO_ALARM_COLUMNS = (*COLUMNS, "state", "cause")

UNIT_COLUMNS = ("unit", "alarm", "since", "last_alarm", "newest_window", "exceeding", "p_value", "q_value", "discovery", "sensor")


def safe_cell(text: str) -> str:
    """The text as a spreadsheet shows it: one that begins like a formula gets an apostrophe before it.

    Source: OWASP, "CSV Injection" (the characters are those it names).
    """
    return "'" + text if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else text


def alarms_csv(data: ReportData) -> Iterator[str]:
    """Every alarm, highest score first: unit, sensor, time (UTC), score, the cut that applied, record, corpus.

    `time_note` is "implausible" where the time is. Without cuts there is only the header. In pieces, for there may be many.
    """
    yield _written([COLUMNS])
    for rows in _pieces(data.order(data.alarm)):
        yield _written(_rows(data, rows))


def no_alarm_csv(data: ReportData) -> Iterator[str]:
    """Every record above the cut whose state keeps it from being an alarm, highest score first: as `alarms_csv`, state and cause."""
    yield _written([NO_ALARM_COLUMNS])
    for rows in _pieces(data.order(data.no_alarm)):
        states = data.scores["state"].take(pa.array(rows)).to_pylist()
        more = zip(_rows(data, rows), states, data.causes(rows), strict=True)
        yield _written([*row, safe_cell(state), safe_cell(cause or "")] for row, state, cause in more)


def _pieces(rows: np.ndarray) -> Iterator[np.ndarray]:
    return (rows[at : at + PIECE] for at in range(0, len(rows), PIECE))


def unit_alarms_csv(data: ReportData) -> Iterator[str]:
    """Every unit: whether it is in alarm and since when, its last alarm, its newest window with p- and q-value (times UTC)."""
    yield _written([UNIT_COLUMNS, *map(_unit_row, data.units)])


def _rows(data: ReportData, rows: np.ndarray) -> Iterator[list[str]]:
    table = with_record_ids(data.scores.take(pa.array(rows))).select(["unit", "sensor_id", "measured_at", "record_id", "corpus"])
    told = zip(data.score[rows], data.cut_at(rows).tolist(), data.time_trusted[rows].tolist(), table.to_pylist(), strict=True)
    for score, cut, trusted, values in told:
        unit, sensor, record, corpus = (safe_cell(values[name]) for name in ("unit", "sensor_id", "record_id", "corpus"))
        yield [unit, sensor, _time(values["measured_at"]), str(score), f"{cut:.9g}", record, corpus, "" if trusted else "implausible"]


def _unit_row(u: UnitAlarm) -> list[Any]:
    times = ["" if time is None else _time(time) for time in (u.since, u.last_alarm, u.newest)]
    times[0] = "time unknown" if u.undated and u.since is None else times[0]
    q = "" if u.q_value is None else f"{u.q_value:.6g}"
    yes = ["yes" if value else "no" for value in (u.alarm, u.discovery)]
    return [safe_cell(u.unit), yes[0], *times, u.num_exceeding, f"{u.p_value:.6g}", q, yes[1], safe_cell(u.sensor_id)]


def _written(rows: Iterable[Sequence[Any]]) -> str:
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\r\n").writerows(rows)
    return out.getvalue()


def _time(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
