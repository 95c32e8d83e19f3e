"""The alarms as a table for a spreadsheet."""

import csv
import io

import numpy as np
import pyarrow as pa

from vibray.report.data import ReportData

COLUMNS = ("unit", "sensor", "time", "score", "cut", "record", "corpus")


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
        time = values["measured_at"].isoformat(timespec="milliseconds").replace("+00:00", "Z")
        unit, sensor, record, corpus = (safe_cell(values[name]) for name in ("unit", "sensor_id", "record_id", "corpus"))
        writer.writerow([unit, sensor, time, str(np.float32(data.score[row])), f"{data.anomaly_above[row]:.9g}", record, corpus])
    return out.getvalue()
