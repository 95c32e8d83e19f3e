"""The earliest records of each sensor that a run does not know: which they are, and their waveforms.

Two steps. A pass over the input writes, part by part, where each record comes from, so that a job that was killed goes on where it stopped
and no waveform is copied; of these small tables the earliest records are picked. Their waveforms are then read again, some sensors at a
time and on as many workers as there are: no other line is parsed. Which worker read what, and in which order, changes nothing.

Memory: the process that picks needs HELD_BYTES for each of k records of a sensor, or of 2 k where its times jump, however many there are; a
worker GROUP_BYTES of waveforms, or those of one sensor where its k records are more, and for a moment twice as much.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int32, Int64, UInt64

from vibray.decide.audit import audit
from vibray.decide.clocks import GAP_YEARS, YEAR_MS
from vibray.decide.findings import Finding
from vibray.features.scaling import Sensor
from vibray.schema import ORIGIN, TIME
from vibray.storage.columns import codes, content_codes, order_of_time, places, record_ids, times_ms
from vibray.storage.corpus import CorpusFacts
from vibray.storage.parts import Parts, commit_part
from vibray.storage.plan import PartPlan, Plan
from vibray.storage.reading import ReadPart, read_records
from vibray.tables.sensors import Sensors

HELD_BYTES = 350
"""Of a record that is picked: 32 are held, the rest is taken while they are sorted and audited (python -m tests.bench.calibrating)."""

GROUP_BYTES = 128 << 20
"""Waveforms that a worker holds at most, but for a single sensor's."""

SETTLED = 1 << 16
"""Records that wait at least before they are sorted into those that are held."""

GAP_MS = int(GAP_YEARS * YEAR_MS)
NEVER = np.iinfo(np.int64).max

READ = ["record_id", "unit", "sensor_id", "measured_at", "content_hash"]


def keep_origins(read: ReadPart, parts_uri: str) -> dict[str, Any]:
    """The stage of the first step: where each record of a part comes from."""
    return commit_part(parts_uri, read.part_id, {"": read.records.select(ORIGIN.names), "bad": read.bad}, read.marker)


def origins(parts: Parts) -> Iterator[tuple[str, pa.Table]]:
    """What `keep_origins` wrote, part by part in the order of the plan, READ of it, each behind the id of the plan's entry."""
    for part_id, table in zip(parts.markers, parts.tables(READ), strict=True):
        yield part_id.partition("-")[0], table


@dataclass(frozen=True, eq=False)
class Picked:
    """Records in order of (number of the sensor, measured_at, record_id), as numbers: no string is held a record."""

    sensors: list[Sensor]
    """in order of their first record"""
    places: list[tuple[str, str]]
    """id of the plan's entry, and what stands before the number in a record_id"""
    sensor: Int32[np.ndarray, " records"]
    time_ms: Int64[np.ndarray, " records"]
    content: UInt64[np.ndarray, " records"]
    """the first half of the waveform's hash: among 10,000,000 records two that differ share it with a chance of 3e-6"""
    place: Int32[np.ndarray, " records"]
    at: Int64[np.ndarray, " records"]

    def __len__(self) -> int:
        return len(self.sensor)

    def take(self, rows: np.ndarray) -> "Picked":
        """These rows of it."""
        return replace(self, **{name: getattr(self, name)[rows] for name in COLUMNS})

    def record_ids(self, rows: np.ndarray | slice) -> pa.Array:
        """Of these rows."""
        return _record_ids(self.places, self.place[rows], self.at[rows])


COLUMNS = [field.name for field in fields(Picked)][2:]


class Earliest:
    """The k earliest records of each sensor that is not known, as tables of origins come: by (measured_at, record_id), a waveform that
    comes again counting once; where the sensor's times then jump by more than two years, the k earliest after the jump too: the first may
    turn out to be of a clock that was never set.
    """

    def __init__(self, known: Collection[Sensor], k: int) -> None:
        self.known, self.k = known, k
        self.sensors: list[Sensor] = []
        self._numbers: dict[Sensor, int] = {}
        self._places: dict[tuple[str, str], int] = {}
        self._chunks: dict[str, list[np.ndarray]] = {name: [] for name in COLUMNS}
        self._num_settled = self._num_waiting = 0
        # by sensor: what is later than the first and not later than the second is not among those that are looked for
        self._after, self._until = np.zeros(0, np.int64), np.zeros(0, np.int64)

    def add(self, part: str, table: pa.Table) -> None:
        """The records of a part; `part` is the id of the plan's entry."""
        sensor = self._sensors_of(table)
        time_ms = times_ms(table)
        rows = np.flatnonzero(sensor >= 0)
        own, at_ms = sensor[rows], time_ms[rows]
        late = (at_ms > self._after[own]) & (at_ms <= self._until[own])
        # a later one matters where it stands between two that are far from each other: all of a sensor's are left out, or none
        self._after[own[~late]] = NEVER
        rows = rows[self._after[own] == NEVER]
        if not len(rows):
            return
        place, at = self._places_of(part, table["record_id"].take(pa.array(rows)))
        half = content_codes(table["content_hash"].take(pa.array(rows)))
        for name, values in zip(COLUMNS, (sensor[rows], time_ms[rows], half, place, at), strict=True):
            self._chunks[name].append(values)
        self._num_waiting += len(rows)
        if self._num_waiting >= max(SETTLED, self._num_settled):
            self._settle()

    def picked(self) -> Picked:
        """Those of all tables so far."""
        self._settle()
        return Picked(self.sensors, list(self._places), *(self._joined(name) for name in COLUMNS))

    def _sensors_of(self, table: pa.Table) -> Int32[np.ndarray, " records"]:
        """Each record's number of its sensor, -1 for one that is known."""
        sensors = Sensors.of_table(table)
        numbers = np.array([self._number(sensor) for sensor in sensors.names], np.int32)
        if (new := len(self.sensors) - len(self._after)) > 0:
            never = np.full(new, NEVER)
            self._after, self._until = np.concatenate([self._after, never]), np.concatenate([self._until, never])
        return numbers[sensors.code]

    def _number(self, sensor: Sensor) -> int:
        number = self._numbers.get(sensor)
        if number is None:
            number = -1 if sensor in self.known else len(self.sensors)
            self._numbers[sensor] = number
            if number >= 0:
                self.sensors.append(sensor)
        return number

    def _places_of(self, part: str, record_ids: pa.ChunkedArray) -> tuple[Int32[np.ndarray, " records"], Int64[np.ndarray, " records"]]:
        shard, at = places(record_ids)
        names, number = codes(shard)
        numbers = np.array([self._places.setdefault((part, name), len(self._places)) for name in names], np.int32)
        return numbers[number], at

    def _joined(self, name: str) -> np.ndarray:
        """A column in one piece, which takes the place of the pieces."""
        chunks = self._chunks[name]
        if len(chunks) != 1:
            dtype = {"content": np.uint64, "time_ms": np.int64, "at": np.int64}.get(name, np.int32)
            chunks[:] = [np.concatenate([np.empty(0, dtype), *chunks])]
        return chunks[0]

    def _settle(self) -> None:
        """Sorts those that wait into those that are held, and lets go of what is not among the earliest."""
        sensor, time_ms = self._joined("sensor"), self._joined("time_ms")
        order = self._by_time(sensor, time_ms)
        own = sensor[order]
        order = order[~_again(own, self._joined("content")[order])]
        own, at_ms = sensor[order], time_ms[order]
        new = np.r_[True, own[1:] != own[:-1]][: len(own)]
        begins = np.flatnonzero(new | np.r_[True, np.diff(at_ms) > GAP_MS][: len(own)])  # islands of all sensors
        island = np.repeat(np.arange(len(begins)), np.diff(np.r_[begins, len(own)]))
        first = np.flatnonzero(new)  # row of each sensor's first
        of_sensor = np.repeat(np.arange(len(first)), np.diff(np.r_[first, len(own)]))
        number = island - island[first][of_sensor]
        rank = np.arange(len(own)) - begins[island]
        kept = (number < 2) & (rank < self.k)
        self._note_limits(own, at_ms, number, rank, kept)
        order = order[kept]
        for name in COLUMNS:
            self._chunks[name] = [self._joined(name)[order]]
        self._num_settled, self._num_waiting = len(order), 0

    def _note_limits(self, own: np.ndarray, at_ms: np.ndarray, number: np.ndarray, rank: np.ndarray, kept: np.ndarray) -> None:
        """Nothing later matters behind k records after a jump, nor up to the next jump behind k records that no jump follows."""
        self._after[:], self._until[:] = NEVER, NEVER
        full = kept & (rank == self.k - 1)
        jumped = np.zeros(len(self._after), bool)
        jumped[own[kept & (number == 1)]] = True
        one, two = full & (number == 0) & ~jumped[own], full & (number == 1)
        self._after[own[one | two]] = at_ms[one | two]
        self._until[own[one]] = at_ms[one] + GAP_MS

    def _by_time(self, sensor: np.ndarray, time_ms: np.ndarray) -> Int64[np.ndarray, " records"]:
        """The rows by (sensor, measured_at, record_id); a record_id is written out only where the times of a sensor are equal."""
        order = np.lexsort((time_ms, sensor))
        equal = np.flatnonzero((np.diff(sensor[order]) == 0) & (np.diff(time_ms[order]) == 0))
        if len(equal):
            where = np.unique(np.r_[equal, equal + 1])
            rows = order[where]
            moment = np.cumsum(np.r_[True, ~np.isin(where[1:] - 1, equal)])
            ids = _record_ids(list(self._places), self._joined("place")[rows], self._joined("at")[rows])
            keys = pa.table({"moment": moment, "record_id": ids, "row": rows})
            order[where] = keys.sort_by([("moment", "ascending"), ("record_id", "ascending")])["row"].to_numpy()
        return order


def _again(sensor: np.ndarray, content: np.ndarray) -> np.ndarray:
    """bool a row: an earlier row of its sensor has its waveform."""
    order = np.lexsort((content, sensor))  # stable: of equal ones the earlier first
    same = (np.diff(sensor[order]) == 0) & (np.diff(content[order]) == 0)
    again = np.zeros(len(order), bool)
    again[order[1:][same]] = True
    return again


def _record_ids(found: list[tuple[str, str]], place: np.ndarray, at: np.ndarray) -> pa.Array:
    used, inverse = np.unique(place, return_inverse=True)
    shard = pa.array([found[i][1] for i in used.tolist()], pa.string()).take(pa.array(inverse.reshape(-1)))
    return record_ids(pa.table({"shard": shard, "offset": at}))


def by_sensor(records: pa.Table) -> Iterator[tuple[Sensor, pa.Table]]:
    """The rows of each sensor."""
    for sensor, rows in Sensors.of_table(records).rows(np.arange(records.num_rows)):
        yield sensor, records.take(pa.array(rows))


def pick(parts: Parts, known: Collection[Sensor], k: int) -> tuple[Picked, tuple[Finding, ...]]:
    """Of what `keep_origins` wrote, the records that calibrate the sensors that are not known."""
    earliest = Earliest(known, k)
    for part, table in origins(parts):
        earliest.add(part, table)
    return plausible(earliest.picked(), parts.plan.corpus, k)


def plausible(records: Picked, corpus: str, k: int) -> tuple[Picked, tuple[Finding, ...]]:
    """The k earliest records of each sensor whose time can be, and what the records say against one another.

    The audit sees the records that were kept, which are the earliest of each sensor: it counts those alone.
    """
    if not len(records):
        return records, ()
    names = {"unit": [unit for unit, _ in records.sensors], "sensor_id": [sensor_id for _, sensor_id in records.sensors]}
    columns = {name: pc.dictionary_encode(pa.array(values)).take(pa.array(records.sensor)) for name, values in names.items()}  # type: ignore[attr-defined]
    columns["corpus"] = pa.DictionaryArray.from_arrays(np.zeros(len(records), np.int8), [corpus])
    columns["record_id"] = records.record_ids(slice(None))
    columns["measured_at"] = pa.array(records.time_ms).cast(TIME)
    columns["content"] = pa.array(records.content)
    found = audit(pa.table(columns))
    records = records.take(np.flatnonzero(found.time_trusted))
    begins = np.flatnonzero(np.r_[True, np.diff(records.sensor) != 0][: len(records)])
    rank = np.arange(len(records)) - np.repeat(begins, np.diff(np.r_[begins, len(records)]))
    return records.take(np.flatnonzero(rank < k)), found.findings


@dataclass(frozen=True)
class Group:
    """Some sensors whose records are read together: plan entries, and which records of each are wanted."""

    base_uri: str
    corpus: str
    facts: CorpusFacts
    picked: tuple[tuple[PartPlan, tuple[str, ...]], ...]

    def records(self) -> dict[Sensor, pa.Table]:
        """By sensor, its records in order of (measured_at, record_id), with waveforms. Raises ObjectChanged where a shard is not the
        planned one."""
        tables = [read_records(part, self.facts, self.corpus, self.base_uri, frozenset(ids)) for part, ids in self.picked]
        return {sensor: own.take(pa.array(order_of_time(own))).combine_chunks() for sensor, own in by_sensor(pa.concat_tables(tables))}


class Groups(Sequence[Group]):
    """All sensors, in groups of GROUP_BYTES; those whose records begin in one part stand together, so that few parts are read twice. A
    group is written out when it is asked for."""

    def __init__(self, records: Picked, plan: Plan, facts: CorpusFacts) -> None:
        self.records, self.plan, self.facts = records, plan, facts
        entry = {part.id: i for i, part in enumerate(plan.parts)}
        self._entries = np.array([entry[part] for part, _ in records.places], np.int64)
        begins = np.flatnonzero(np.r_[True, np.diff(records.sensor) != 0][: len(records)])
        ends = np.r_[begins[1:], len(records)]
        firsts = self._entries[records.place[begins]]
        self._rows: list[list[tuple[int, int]]] = []
        most, held = GROUP_BYTES // (4 * facts.num_samples), 0
        for i in sorted(range(len(begins)), key=lambda i: (firsts[i], records.sensors[records.sensor[begins[i]]])):
            num = int(ends[i] - begins[i])
            if not self._rows or held + num > most:
                self._rows.append([])
                held = 0
            self._rows[-1].append((int(begins[i]), int(ends[i])))
            held += num

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Group:  # type: ignore[override]
        rows = np.concatenate([np.arange(begin, end) for begin, end in self._rows[index]])
        ids, entries = self.records.record_ids(rows), self._entries[self.records.place[rows]]
        wanted = ((i, ids.filter(pa.array(entries == i)).to_pylist()) for i in np.unique(entries).tolist())
        picked = tuple((self.plan.parts[i], tuple(sorted(own))) for i, own in wanted)
        return Group(self.plan.base_uri, self.plan.corpus, self.facts, picked)
