"""The alarms as a table for a spreadsheet."""

import csv
import io
from datetime import datetime

import numpy as np
import pyarrow as pa

from vibray.report.data import ReportData

COLUMNS = ("unit", "sensor", "time", "score", "cut", "record", "corpus")


UNIT_COLUMNS = ("unit", "alarm", "since", "last_alarm", "newest_window", "exceeding", "p_value", "q_value", "discovery", "sensor")


def safe_cell(text: str) -> str:
    """The text as a spreadsheet shows it: one that begins like a formula gets an apostrophe before it.

    Source: OWASP, "CSV Injection" (the characters are those it names).
    """
    return "'" + text if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else text


def alarms_csv(data: ReportData) -> str:
    """Every alarm, highest score first: unit, sensor, time (UTC), score, the cut that applied, record, corpus.

    A sensor without calibration raises no alarm; without cuts there is only the header.
    """
    rows = data.order(data.alarm)
    table = data.scores.take(pa.array(rows)).select(["unit", "sensor_id", "measured_at", "record_id", "corpus"])
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for row, values in zip(rows, table.to_pylist(), strict=True):
        time = _time(values["measured_at"])
        unit, sensor, record, corpus = (safe_cell(values[name]) for name in ("unit", "sensor_id", "record_id", "corpus"))
        writer.writerow([unit, sensor, time, str(np.float32(data.score[row])), f"{data.anomaly_above[row]:.9g}", record, corpus])
    return out.getvalue()


def unit_alarms_csv(data: ReportData) -> str:
    """Every unit: whether it is in alarm and since when, its last alarm, its newest window with p- and q-value (times UTC)."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(UNIT_COLUMNS)
    for u in data.units:
        times = ["" if time is None else _time(time) for time in (u.since, u.last_alarm, u.newest)]
        q = "" if u.q_value is None else f"{u.q_value:.6g}"
        yes = ["yes" if value else "no" for value in (u.alarm, u.discovery)]
        writer.writerow([safe_cell(u.unit), yes[0], *times, u.num_exceeding, f"{u.p_value:.6g}", q, yes[1], safe_cell(u.sensor_id)])
    return out.getvalue()


def _time(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
