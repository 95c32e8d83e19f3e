"""Alarms of whole units: the records of a unit's sensors at one time as one score, alarms that persist, discoveries over the fleet.

The rule, record to alarm:
  1. a usable record (calibrated; not off, in transition or of a faulty sensor) has a p-value from its sensor's reference (reference.py);
  2. a unit's p-values within one window are combined into one (Tippett: the smallest, corrected for their number); score = -log10 p;
  3. a window exceeds where p <= rate; a unit is in alarm where at least k of its last n windows exceed;
  4. over the fleet, the newest window of each unit has a q-value (Benjamini-Hochberg); q <= fdr is a discovery.
Reference windows (of reference records alone) raise no alarm and do not count towards one. A record whose time cannot be (clocks.py) is a
window of its own, after those of its unit: k of the last n of these raise an alarm too, which began nobody knows when; they have no q-value
and are nobody's newest.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice, pairwise
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import scipy  # its rooms (stats, optimize) are imported on first use: they take a second, which no --help needs
from jaxtyping import Bool, Float64, Int32, Int64
from pydantic import with_config

from vibray.config import STRICT
from vibray.decide.alarm_rates import AlarmRuleError, check_persist, expected_alarms_per_day, persistent, resampled_alarms, windows_per_day
from vibray.decide.groups import SensorGroups, sensor_groups
from vibray.decide.reference import FEWEST_REFERENCE, PValues, trusted_rows
from vibray.schema import UNIT_SCORES
from vibray.storage.columns import codes, flags, named, one_chunk, plain, times_ms

Combine = Literal["tippett", "fisher", "stouffer"]

HIGHEST_P = 1 - 0.5 / (FEWEST_REFERENCE + 1)
"""Stouffer's z of p = 1, the rank of any score at or below the lowest of its reference, is minus infinity: one quiet record would outweigh
whatever the others say. The middle of the last step that a rank among the fewest reference scores can take stands for it."""


@with_config(STRICT)
@dataclass(frozen=True)
class UnitConfig:
    """How records become alarms of units."""

    window_minutes: float = 60.0
    """Records of a unit within one such window (aligned to 1970-01-01 UTC) are judged together."""
    persist: tuple[int, int] = (3, 5)
    """(k, n): a unit is in alarm where at least k of its last n windows exceed."""
    rate: float = 0.01
    """A window exceeds where its p-value is at most this."""
    fdr: float = 0.05
    """False-discovery rate over the fleet, for the newest window of each unit."""
    combine: Combine = "tippett"
    """Tippett's holds its rate where the sensors of a unit rise and fall together, as they do with load and weather; Fisher's and
    Stouffer's count what they share once a sensor, and need independent records."""
    reference_records: int = 200
    """The earliest usable records of each sensor, at most half of them, are its reference where none is given."""

    def __post_init__(self) -> None:
        check_persist(*self.persist)
        if not self.window_minutes > 0:
            raise AlarmRuleError(f"the window must be longer than 0 minutes, not {self.window_minutes}")
        if not (0 < self.rate < 1 and 0 < self.fdr < 1):
            raise AlarmRuleError(f"rate and false-discovery rate must lie between 0 and 1, not {self.rate} and {self.fdr}")
        if self.reference_records < 1:
            raise AlarmRuleError(f"a reference needs records: {self.reference_records} asked for")


def combined(
    p: Float64[np.ndarray, " records"], group: Int64[np.ndarray, " records"], method: Combine = "tippett"
) -> Float64[np.ndarray, " groups"]:
    """One p-value a group, `group` counting up from 0 without a gap; groups of one size are combined in one call of scipy's."""
    order = np.argsort(group, kind="stable")
    size = np.bincount(group)
    start = np.cumsum(size) - size
    together = np.empty(len(size))
    for num in np.unique(size):
        which = np.flatnonzero(size == num)
        rows = order[start[which][:, None] + np.arange(num)]
        together[which] = scipy.stats.combine_pvalues(p[rows], method=method, axis=1).pvalue  # type: ignore[attr-defined]
    return np.clip(together, 1e-300, 1.0)


def unit_scores(
    scores: pa.Table,
    p_values: PValues,
    in_reference: Bool[np.ndarray, " records"],
    config: UnitConfig,
    groups: SensorGroups | None = None,
) -> pa.Table:
    """One row for each unit and window with a record that has a p-value, in order of (unit, window): what `as_written` makes UNIT_SCORES.

    `p_values` are each sensor's rows and p-values, in the order of `groups` (`reference.p_values_by_sensor`), NaN for one that takes no
    part. Units of one name in several corpora are one. `groups` are the table's, where they are known.
    """
    groups = sensor_groups(scores) if groups is None else groups
    time, trusted, corpora, corpus = times_ms(scores), trusted_rows(scores), *codes(scores["corpus"])
    window_ms = max(1, round(config.window_minutes * 60_000))
    of, at = _Windows.empty(scores.num_rows), 0
    for rows, unit, sensor in groups.batches():
        p = np.concatenate([own for _, own in islice(p_values, int(sensor[-1] - sensor[0]) + 1)])
        order = np.flatnonzero(np.isfinite(p))
        if len(order):
            # of a unit's records of one time the sensor, corpus and key decide, not the rows' order
            order = order[np.lexsort((sensor[order], time[rows[order]], unit[order]))]
            own = rows[order]
            taken = own, unit[order], sensor[order], p[order], time[own], trusted[own], in_reference[own]
            at = of.put(at, _windows(*taken, window_ms, config.combine))
    if not at:
        return UNIT_SCORES.empty_table().drop_columns(["score"])
    of = of.first(at)
    exceeds = of.p_value <= config.rate
    alarm, newest, gaps = np.zeros(len(of.unit), bool), list[int](), list[np.ndarray]()
    for mine in _runs(of.unit):
        dated, undated = mine[of.dated[mine]], mine[~of.dated[mine]]
        judged = dated[~of.reference[dated]]
        alarm[judged] = persistent(exceeds[judged], *config.persist)
        alarm[undated] = persistent(exceeds[undated], *config.persist)
        newest += judged[-1:].tolist()
        gaps.append((np.diff(of.start_ms[dated]) // window_ms).astype(np.int32))
    heard = np.array(newest, np.int64)
    heard = heard[of.start_ms[heard] >= _stale_before(np.concatenate(gaps) * (window_ms / 60_000), of.start_ms[heard], config)]
    q_value = scipy.stats.false_discovery_control(of.p_value[heard], method="bh") if len(heard) else np.empty(0)
    which = np.full(len(of.unit), -1, np.int32)
    which[heard] = np.arange(len(heard))
    units, sensors = [name for name, _, _ in groups.units()], sorted({sensor_id for _, sensor_id in groups.names})
    of_sensor = {name: i for i, name in enumerate(sensors)}
    columns: dict[str, Any] = {
        "corpus": named(corpora, corpus[of.latest]),
        "unit": named(units, of.unit),
        "window": pa.array(of.start_ms).view(UNIT_SCORES.field("window").type),
        "measured_at": pa.array(time[of.latest]).view(UNIT_SCORES.field("measured_at").type),
        "num_records": of.num_records,
        "num_sensors": of.num_sensors,
        "sensor_id": named(sensors, np.array([of_sensor[sensor_id] for _, sensor_id in groups.names], np.int32)[of.loudest]),
        "p_value": of.p_value,
        "exceeds": exceeds,
        "alarm": alarm,
        "reference": of.reference,
        "dated": of.dated,
        "q_value": pa.DictionaryArray.from_arrays(pa.array(which, mask=which < 0), pa.array(q_value)),  # few windows have one
    }
    return pa.table(columns)


def as_written(windows: pa.Table) -> pa.Table:
    """Some rows of what `unit_scores` gives, as schema.UNIT_SCORES."""
    score = -np.log10(one_chunk(windows["p_value"]).to_numpy())
    return plain(windows.append_column("score", pa.array(score, pa.float32()))).select(UNIT_SCORES.names).cast(UNIT_SCORES)


@dataclass(frozen=True, eq=False)
class _Windows:
    """Windows of units, in order of (unit, window); an entry a window."""

    unit: Int32[np.ndarray, " windows"]
    start_ms: Int64[np.ndarray, " windows"]
    latest: Int32[np.ndarray, " windows"]
    """the row of its latest record"""
    loudest: Int32[np.ndarray, " windows"]
    """the number of the sensor with the smallest p-value"""
    num_records: Int32[np.ndarray, " windows"]
    num_sensors: Int32[np.ndarray, " windows"]
    p_value: Float64[np.ndarray, " windows"]
    reference: Bool[np.ndarray, " windows"]
    dated: Bool[np.ndarray, " windows"]

    @classmethod
    def empty(cls, most: int) -> "_Windows":
        """Room for so many; memory that is not filled is not taken."""
        types = (np.int32, np.int64, np.int32, np.int32, np.int32, np.int32, np.float64, bool, bool)
        return cls(*(np.empty(most, dtype) for dtype in types))

    def put(self, at: int, more: "_Windows") -> int:
        """Fills in windows from one place on; returns where they end."""
        end = at + len(more.unit)
        for name, values in vars(more).items():
            getattr(self, name)[at:end] = values
        return end

    def first(self, num: int) -> "_Windows":
        return _Windows(*(values[:num] for values in vars(self).values()))


def _windows(
    rows: Int64[np.ndarray, " records"],
    unit: Int64[np.ndarray, " records"],
    sensor: Int64[np.ndarray, " records"],
    p: Float64[np.ndarray, " records"],
    time: Int64[np.ndarray, " records"],
    trusted: Bool[np.ndarray, " records"],
    in_reference: Bool[np.ndarray, " records"],
    window_ms: int,
    combine: Combine,
) -> _Windows:
    """Of records in order of (unit, time, sensor)."""
    place, first_unit = time // window_ms, int(unit[0])
    first, last = (int(place[trusted].min()), int(place[trusted].max())) if trusted.any() else (0, 0)
    # one whose time cannot be stands alone, behind the others of its unit
    number = np.where(trusted, place - first, last - first + np.cumsum(~trusted))
    keys, row, group = np.unique((unit - first_unit) * (int(number.max()) + 1) + number, return_index=True, return_inverse=True)
    group, num = group.reshape(-1).astype(np.int64), len(keys)
    latest, loudest = _last_of(group, time), _last_of(group, -p)
    width = int(sensor.max()) + 1
    reference = np.ones(num, bool)
    np.logical_and.at(reference, group, in_reference)
    return _Windows(
        unit=unit[row].astype(np.int32),
        start_ms=place[row] * window_ms,
        latest=rows[latest].astype(np.int32),
        loudest=sensor[loudest].astype(np.int32),
        num_records=np.bincount(group).astype(np.int32),
        num_sensors=np.bincount(np.unique(group * width + sensor) // width).astype(np.int32),
        p_value=combined(np.minimum(p, HIGHEST_P) if combine == "stouffer" else p, group, combine),
        reference=reference,
        dated=trusted[row],
    )


def _runs(names: np.ndarray) -> Iterator[np.ndarray]:
    """The rows of each run of equal values."""
    ends = [0, *(np.flatnonzero(names[1:] != names[:-1]) + 1).tolist(), len(names)]
    return (np.arange(a, b) for a, b in pairwise(ends) if a < b)


def unit_runs(table: pa.Table) -> Iterator[np.ndarray]:
    """The rows of each unit of what `unit_scores` gives."""
    return _runs(codes(table["unit"])[1])


def _last_of(group: np.ndarray, key: np.ndarray) -> np.ndarray:
    """The place of the largest key of each group; of equal ones the last."""
    order = np.lexsort((np.arange(len(key)), key, group))
    return order[np.flatnonzero(np.diff(group[order], append=group.max() + 1))]


def _stale_before(gaps_minutes: np.ndarray, newest_ms: np.ndarray, config: UnitConfig) -> float:
    """A unit whose newest window lies before this (ms) is silent: n of the fleet's median intervals before the fleet's newest window."""
    typical = float(np.median(gaps_minutes)) if len(gaps_minutes) else 0.0
    return float(newest_ms.max(initial=0)) - config.persist[1] * 60_000 * max(typical, config.window_minutes)


def unit_facts(table: pa.Table, config: UnitConfig, judged_units: Collection[str] | None = None) -> dict[str, Any]:
    """What is to be expected of a healthy fleet, and what its reference windows did; ready for JSON.

    The formula takes windows for independent, which they are not: the figure from resampled reference windows stands beside it, and where
    the two differ it is the one to believe. Both are alarms of a healthy fleet, not of this one. The fleet are the `judged_units` (None:
    all): one that stands in the reference alone tells how reference windows behave, and raises no alarm. Figures a day are None where no
    interval between windows is known.
    """
    (names, unit), time = codes(table["unit"]), one_chunk(table["window"]).view(pa.int64()).to_numpy()
    exceeds, reference, dated = (flags(table[name]) for name in ("exceeds", "reference", "dated"))
    num_units, between, in_reference = 0, list[float | None](), list[np.ndarray]()
    for rows in _runs(unit):
        in_reference.append(exceeds[rows[reference[rows]]])
        if judged_units is None or names[unit[rows[0]]] in judged_units:
            num_units, in_time = num_units + 1, rows[dated[rows]]
            between.append(_interval_s(time[in_time], ~reference[in_time]))
    known = [seconds for seconds in between if seconds is not None]
    # a unit with one window alone counts with the median of the others
    intervals = known + [float(np.median(known))] * (num_units - len(known)) if known else []
    k, n = config.persist
    healthy = resampled_alarms(in_reference, k, n, windows_per_day(intervals))
    a_day = healthy if intervals else None
    judged = ~reference & dated
    return {
        "num_units": num_units,
        "num_undated": int((~dated).sum()),
        "num_windows": int(judged.sum()),
        "num_reference_windows": int(reference.sum()),
        "num_alarm_windows": int(flags(table["alarm"]).sum()),
        "windows_per_day": windows_per_day(intervals) if intervals else None,
        "nominal_rate": config.rate,
        "realised_rate": float(exceeds[judged].mean()) if judged.any() else None,
        "reference_rate": None if healthy is None else healthy.exceed_rate,
        "expected_per_day": expected_alarms_per_day(config.rate, k, n, intervals) if intervals else None,
        "resampled_per_day": None if a_day is None else a_day.per_day,
        "resampled_interval": None if a_day is None else [a_day.low, a_day.high],
        "reference_onsets": None if healthy is None else healthy.num_onsets,
        "at_most_per_day": None if a_day is None else a_day.at_most,
    }


def _interval_s(time_ms: np.ndarray, judged: np.ndarray) -> float | None:
    """The time between a unit's windows in seconds, None where it has fewer than two: the median between judged windows that follow one
    another, for a reference may be older, and of another rhythm; where there are no two, that of all."""
    gaps = np.diff(time_ms) / 1000
    own = gaps[judged[1:] & judged[:-1]]
    return float(np.median(own if len(own) else gaps)) if len(gaps) else None


@dataclass(frozen=True)
class UnitAlarm:
    """How a unit stands at its newest window."""

    unit: str
    alarm: bool
    since: datetime | None
    """Start of the window in which the alarm began that stands; None where none does."""
    last_alarm: datetime | None
    """Start of its last window in alarm."""
    newest: datetime
    num_exceeding: int
    """Of its last n windows."""
    num_windows: int
    p_value: float
    q_value: float | None
    """None for a unit that is silent: its newest window is too old to be compared with the others'."""
    discovery: bool
    sensor_id: str
    """The sensor with the smallest p-value of the newest window."""
    undated: bool = False
    """In alarm by records whose time cannot be, whatever its newest window says: since when, nobody knows."""


ALARM_COLUMNS = ("unit", "window", "sensor_id", "p_value", "exceeds", "alarm", "reference", "dated", "q_value")


def unit_alarms(table: pa.Table, config: UnitConfig) -> tuple[UnitAlarm, ...]:
    """Every unit with a judged window: those in alarm first, then by q-value and name. `table`: ALARM_COLUMNS of `unit_scores`."""
    found, (names, unit) = [], codes(table["unit"])
    window = one_chunk(table["window"])
    alarm, exceeds, dated, reference = (flags(table[name]) for name in ("alarm", "exceeds", "dated", "reference"))
    for own in _runs(unit):
        mine = own[~reference[own]]
        if not len(mine):
            continue
        undated = bool(alarm[mine[-1]] and not dated[mine[-1]])
        rows = mine[dated[mine]] if dated[mine].any() else mine
        loud = rows[alarm[rows]]
        quiet = np.flatnonzero(~alarm[rows])
        began = rows[0] if not len(quiet) else rows[quiet[-1] + 1] if alarm[rows[-1]] else None
        newest = table.slice(rows[-1], 1).to_pylist()[0]
        q = newest["q_value"]
        found.append(
            UnitAlarm(
                unit=names[unit[mine[0]]],
                alarm=bool(alarm[rows[-1]]) or undated,
                since=window[began].as_py() if alarm[rows[-1]] and dated[rows[-1]] else None,
                last_alarm=window[loud[-1]].as_py() if len(loud) else None,
                newest=newest["window"],
                num_exceeding=int(exceeds[rows[-config.persist[1] :]].sum()),
                num_windows=len(rows),
                p_value=newest["p_value"],
                q_value=q,
                discovery=q is not None and q <= config.fdr,
                sensor_id=table["sensor_id"][int(mine[-1])].as_py() if undated and not alarm[rows[-1]] else newest["sensor_id"],
                undated=undated,
            )
        )
    return tuple(sorted(found, key=lambda u: (not u.alarm, 2.0 if u.q_value is None else u.q_value, u.unit)))
