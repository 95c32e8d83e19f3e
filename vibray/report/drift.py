"""What the page says of drift, ready for its table."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from markupsafe import Markup

from vibray.report.data import ReportData
from vibray.report.words import ENGLISH, Words
from vibray.schema import Verdict


@dataclass(frozen=True)
class Drifting:
    """A sensor's newest month with enough records beside its reference."""

    unit: str
    sensor_id: str
    month: datetime
    num_records: int
    median: float | None
    low: float | None
    high: float | None
    reference: tuple[float, float, float]
    verdict: str
    num_months: int
    """Months with enough records."""


def drifting(data: ReportData) -> tuple[Drifting, ...]:
    """One row a sensor, those to be recalibrated first, then those to watch."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in [] if data.drift is None else data.drift.to_pylist():
        found.setdefault((row["unit"], row["sensor_id"]), []).append(row)
    rows = []
    for (unit, sensor_id), months in found.items():
        enough = [month for month in months if month["verdict"] != Verdict.TOO_FEW]
        newest = (enough or months)[-1]
        reference = (newest["reference_low"], newest["reference_median"], newest["reference_high"])
        values = {name: newest[name] for name in ("month", "num_records", "median", "low", "high", "verdict")}
        rows.append(Drifting(unit, sensor_id, reference=reference, num_months=len(enough), **values))
    order = [Verdict.RECALIBRATE, Verdict.WATCH, Verdict.STEADY, Verdict.TOO_FEW]
    return tuple(sorted(rows, key=lambda r: (order.index(Verdict(r.verdict)), r.unit, r.sensor_id)))


def drift_words(data: ReportData, t: Words = ENGLISH) -> Markup:
    """Why there is no table of drift, or how the sensors stand together; empty where nothing is to be said of drift."""
    rows = drifting(data)
    if data.drift is None:
        return Markup("")
    judged = [row for row in rows if row.num_months]
    if not judged:
        return t(
            "No sensor's records span two calendar months with 30 healthy records in one of them besides its reference: nothing is said of "
            "drift."
        )
    moved = [row for row in judged if row.verdict != Verdict.STEADY]
    to_do = sum(row.verdict == Verdict.RECALIBRATE for row in judged)
    values = {"n": f"{to_do:,}", "m": f"{len(judged):,}", "k": f"{len(moved) - to_do:,}"}
    said = t("{n} of {m} sensors should be recalibrated, {k} more be watched.", **values)
    if 2 * len(moved) > len(judged) > 2:
        said += " " + t("Most sensors moved at once: season, load or another run rather than faults.")
    return said
