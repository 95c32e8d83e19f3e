"""The records of a unit that are alarms, as its section lists them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa

from vibray.report.anchors import record_anchor
from vibray.report.data import ReportConfig, ReportData
from vibray.report.standing import units_of
from vibray.report.words import Words
from vibray.storage.columns import with_record_ids


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
    """By unit: its alarms, the highest first, `num_flagged` at most and fewer where the page would list too many; `cards` are the anchors
    of the records that are drawn."""
    found: dict[str, list[Flagged]] = {}
    order = data.order(data.alarm)
    names = ["corpus", "record_id", "unit", "sensor_id", "measured_at"]
    names += [] if data.faults is None else ["fault", "fault_probability"]
    units, unit = units_of(data, order)
    by_unit = np.argsort(unit, kind="stable")
    sizes = np.bincount(unit)
    rank = np.empty(len(order), np.int64)
    rank[by_unit] = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    taken = order[rank < config.num_flagged]
    looked_at = np.array([name in data.needing_a_look for name in units], bool)[unit[rank < config.num_flagged]]
    taken = taken[np.sort(np.argsort(~looked_at, kind="stable")[: config.num_listed])]
    shown = with_record_ids(data.scores.take(pa.array(taken))).select(names)
    for row, cut, values in zip(taken.tolist(), data.cut_at(taken).tolist(), shown.to_pylist(), strict=True):
        anchor = record_anchor(values["corpus"], values["record_id"])
        found.setdefault(values["unit"], []).append(
            Flagged(
                anchor,
                values["sensor_id"],
                values["measured_at"],
                bool(data.time_trusted[row]),
                float(data.score[row]),
                cut,
                data.rarity.words(row, t),
                data.rarity.rank(row),
                values.get("fault"),
                values.get("fault_probability"),
                values["record_id"],
                anchor in cards,
            )
        )
    return {unit: tuple(own) for unit, own in found.items()}
