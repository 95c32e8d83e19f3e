"""What the page says of units and of drift, ready for its tables."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from vibray.report.data import ReportData
from vibray.schema import Verdict

RATE_WORDS = {
    "rate": "rate of whatever was scored, faults included",
    "false-alarm probability": "false-alarm probability, from records known to be normal",
    "rule": "rule; nominal is what a Gaussian would pass",
}
"""What a cut's nominal rate is a share of."""


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


def drift_words(data: ReportData) -> str:
    """Why there is no table of drift, or how the sensors stand together; empty where nothing is to be said of drift."""
    rows = drifting(data)
    if data.drift is None:
        return ""
    judged = [row for row in rows if row.num_months]
    if not judged:
        return (
            "No sensor's records span two calendar months with 30 healthy records in one of them besides its reference: nothing is said of "
            "drift."
        )
    moved = [row for row in judged if row.verdict != Verdict.STEADY]
    together = " Most sensors moved at once: season, load or another run rather than faults." if 2 * len(moved) > len(judged) > 2 else ""
    to_do = sum(row.verdict == Verdict.RECALIBRATE for row in judged)
    return f"{to_do:,} of {len(judged):,} sensors should be recalibrated, {len(moved) - to_do:,} more be watched.{together}"
