"""The report's tables, computed from the data: inputs, reasons, states, sensors, diagnoses, metrics."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from vibray.report.data import ReportData
from vibray.schema import NORMAL, State
from vibray.storage import columns
from vibray.storage.columns import codes


@dataclass(frozen=True)
class Input:
    """What was read of one corpus."""

    corpus: str
    read: int
    kept: int
    set_aside: int

    @property
    def adds_up(self) -> bool:
        return self.read == self.kept + self.set_aside


def inputs(data: ReportData) -> tuple[Input, ...]:
    """One row a corpus, and their sum where there are several."""
    rows = [Input(corpus, c["read"], c["kept"], sum(c["set_aside"].values())) for corpus, c in data.counts.items()]
    if len(rows) > 1:
        rows.append(Input("all", sum(r.read for r in rows), sum(r.kept for r in rows), sum(r.set_aside for r in rows)))
    return tuple(rows)


def reasons(data: ReportData) -> tuple[tuple[str, int, dict[str, Any] | None], ...]:
    """(reason, lines, an example of bad_records or None), most lines first."""
    counts: dict[str, int] = {}
    for corpus in data.counts.values():
        for reason, count in corpus["set_aside"].items():
            counts[reason] = counts.get(reason, 0) + count
    examples: dict[str, dict[str, Any]] = {}
    for row in [] if data.bad_records is None else data.bad_records.slice(0, 100_000).to_pylist():
        examples.setdefault(row["reason"], row)
    return tuple((reason, n, examples.get(reason)) for reason, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if n)


def states(data: ReportData) -> tuple[tuple[str, int, int, int], ...]:
    """(state, records, alarms among them, those above the cut without being one) for every state that occurs."""
    rows = []
    for state in State:
        mask = in_state(data, state)
        if mask.any():
            rows.append((state.value, int(mask.sum()), int((mask & data.alarm).sum()), int((mask & data.no_alarm).sum())))
    return tuple(rows)


def in_state(data: ReportData, state: State) -> np.ndarray:
    """(records,) bool: those in this state."""
    names, number = codes(data.scores["state"])
    return number == (names.index(state.value) if state.value in names else len(names))


@dataclass(frozen=True)
class Sensor:
    """A sensor's records in numbers; `last_alarm_ms` since 1970 UTC, None without one at a plausible time."""

    place: int
    unit: str
    sensor_id: str
    num_records: int
    num_alarms: int
    median: float
    highest: float
    cut: float | int | None
    calibrated: bool
    last_alarm_ms: int | None


def moment_of(ms: int) -> datetime:
    """A time of `times_ms`."""
    return datetime.fromtimestamp(ms / 1000, UTC)


def times_ms(data: ReportData) -> np.ndarray:
    """(records,) int64, ms since 1970 UTC."""
    return columns.times_ms(data.scores)


def sensors(data: ReportData) -> tuple[Sensor, ...]:
    """All sensors, those with most alarms first, then those with the highest score."""
    times, calibrated, found = times_ms(data), data.calibrated, []
    for i, ((unit, sensor_id), rows) in enumerate(data.groups):
        score, alarm = data.score[rows].astype(np.float64), data.alarm[rows]
        dated = times[rows[alarm & data.time_trusted[rows]]]
        found.append(
            Sensor(
                place=i,
                unit=unit,
                sensor_id=sensor_id,
                num_records=rows.size,
                num_alarms=int(alarm.sum()),
                median=float(np.median(score)),
                highest=float(np.sort(score)[-1]),
                cut=data.cut_of(unit, sensor_id).get("anomaly_above"),
                calibrated=bool(calibrated[rows].all()),
                last_alarm_ms=int(dated.max()) if len(dated) else None,
            )
        )
    return tuple(sorted(found, key=lambda s: (-s.num_alarms, -s.highest, s.unit, s.sensor_id)))


def diagnoses(data: ReportData) -> tuple[tuple[str, int, int, float | None], ...]:
    """(fault, records, alarms among them, median probability) over the records that are not "normal", most records first."""
    if data.faults is None:
        return ()
    names, number = codes(data.scores["fault"])
    probability = data.scores["fault_probability"].to_numpy(zero_copy_only=False)
    rows = []
    for i, fault in enumerate(names):
        mask = number == i
        if fault != NORMAL and mask.any():
            known = probability[mask & np.isfinite(probability)].astype(np.float64)
            rows.append((fault, int(mask.sum()), int((mask & data.alarm).sum()), float(np.median(known)) if known.size else None))
    return tuple(sorted(rows, key=lambda row: (-row[1], row[0])))


@dataclass(frozen=True)
class MetricTable:
    """Metrics under one heading; `title` is empty for those of the whole corpus."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Any, ...]], ...]


def metric_tables(metrics: Mapping[str, Any]) -> Iterator[MetricTable]:
    """Any JSON of numbers as tables: plain values first, a mapping of values, or of mappings of values, under its own heading."""
    plain = tuple((words(name), (value,)) for name, value in metrics.items() if not isinstance(value, Mapping))
    if plain:
        yield MetricTable("", ("value",), plain)
    for name, value in metrics.items():
        if not isinstance(value, Mapping) or not value:
            continue
        inner = [v for v in value.values() if isinstance(v, Mapping)]
        if len(inner) == len(value) and not any(isinstance(x, Mapping) for v in inner for x in v.values()):
            columns = tuple(dict.fromkeys(column for v in inner for column in v))
            rows = tuple((str(key), tuple(v.get(column) for column in columns)) for key, v in value.items())
            yield MetricTable(words(name), tuple(map(words, columns)), rows)
            continue
        flat = tuple((str(k), (v,)) for k, v in value.items() if not isinstance(v, Mapping))
        if flat:
            yield MetricTable(words(name), ("value",), flat)
        yield from metric_tables({f"{name}, {k}": v for k, v in value.items() if isinstance(v, Mapping)})


ACRONYMS = {"auroc": "AUROC", "auprc": "AUPRC", "f1": "F1", "fpr": "FPR", "tpr": "TPR", "auc": "AUC"}


def words(name: str) -> str:
    """A name of JSON as words: macro_f1 -> macro F1."""
    return " ".join(ACRONYMS.get(word, word) for word in name.replace("_", " ").split(" "))
