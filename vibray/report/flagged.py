"""The records of a unit that are alarms, as its section lists them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa

from vibray.report.anchors import record_anchor
from vibray.report.data import ReportConfig, ReportData
from vibray.report.words import Words


@dataclass(frozen=True)
class Flagged:
    """A record above its cut."""

    anchor: str
    sensor_id: str
    measured_at: datetime
    time_trusted: bool
    score: float
    cut: float
    rarity: str
    rarity_rank: int
    fault: str | None
    fault_probability: float | None
    record_id: str
    has_card: bool


def flagged(data: ReportData, config: ReportConfig, cards: frozenset[str], t: Words) -> Mapping[str, tuple[Flagged, ...]]:
    """By unit: its alarms, the highest first, `num_flagged` at most; `cards` are the anchors of the records that are drawn."""
    found: dict[str, list[Flagged]] = {}
    order = data.order(data.alarm)
    names = ["corpus", "record_id", "unit", "sensor_id", "measured_at"]
    names += [] if data.faults is None else ["fault", "fault_probability"]
    rows = data.scores.select(["unit"]).take(pa.array(order))["unit"].to_pylist()
    taken, num = [], dict[str, int]()
    for row, unit in zip(order.tolist(), rows, strict=True):
        num[unit] = num.get(unit, 0) + 1
        if num[unit] <= config.num_flagged:
            taken.append(row)
    for row, values in zip(taken, data.scores.select(names).take(pa.array(taken, pa.int64())).to_pylist(), strict=True):
        anchor = record_anchor(values["corpus"], values["record_id"])
        found.setdefault(values["unit"], []).append(
            Flagged(
                anchor,
                values["sensor_id"],
                values["measured_at"],
                bool(data.time_trusted[row]),
                float(data.score[row]),
                float(data.anomaly_above[row]),
                data.rarity.words(row, t),
                data.rarity.rank(row),
                values.get("fault"),
                values.get("fault_probability"),
                values["record_id"],
                anchor in cards,
            )
        )
    return {unit: tuple(own) for unit, own in found.items()}
