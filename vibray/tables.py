"""Finished folders as tables: what training reads of features, what decisions and reports read of scores."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vibray import schema
from vibray.config import UserError, from_json, short_hash, to_json
from vibray.decide.audit import audit
from vibray.decide.duplicates import lowest_keys
from vibray.decide.findings import Finding
from vibray.decide.groups import sensor_groups
from vibray.decide.pooling import TOLERANCE_S, over_sensors
from vibray.decide.state import SensorHistory, history_of
from vibray.features.scaling import Sensor
from vibray.storage import objects
from vibray.storage.columns import Stacked, codes, named, one_chunk, plain, rows_of
from vibray.storage.corpus import CorpusFacts
from vibray.storage.parts import Parts
from vibray.storage.since import superseded

KEYS_AT_ONCE = 100_000
"""Keys of records that stand as text at once."""

INDEX = [*schema.ORIGIN.names, "rms", "mains_snr_db"]


class InputsDiffer(UserError):
    """Two inputs cannot be used together: one corpus twice, or another rate or feature config."""


def one_corpus_each(uris: Sequence[str], corpora: Sequence[str]) -> None:
    """Raises InputsDiffer where two inputs have one corpus name."""
    seen: dict[str, str] = {}
    for uri, corpus in zip(uris, corpora, strict=True):
        if corpus in seen:
            raise InputsDiffer(f"{seen[corpus]} and {uri} are both corpus {corpus!r}: make one of them again with another --corpus")
        seen[corpus] = uri


def the_same(what: str, uris: Sequence[str], values: Sequence[Any]) -> Any:
    """The one value of all inputs. Raises InputsDiffer showing the first that differs."""
    for uri, value in zip(uris, values, strict=True):
        if value != values[0]:
            raise InputsDiffer(f"{what} differs between the inputs:\n  {uris[0]}: {values[0]}\n  {uri}: {value}")
    return values[0]


def the_same_facts(uris: Sequence[str], values: Sequence[dict[str, Any]]) -> CorpusFacts:
    """The one CorpusFacts of all inputs; a field that one was written before holds its default. Raises InputsDiffer."""
    facts = [from_json(CorpusFacts, each, uri) for uri, each in zip(uris, values, strict=True)]
    the_same("what is known of the records (rate, units, mains)", uris, [to_json(each) for each in facts])
    return facts[0]


@dataclass(frozen=True)
class TrainingTable:
    """The records of one or several features tables: where each comes from and where its row lies. Waveforms stay in storage."""

    facts: CorpusFacts
    vectors: dict[str, Any]
    """config of each stored vector feature, as JSON, by its column"""
    corpora: dict[str, str]
    """input URI by corpus"""
    index: pa.Table
    parts: tuple[str, ...]
    part: np.ndarray
    row: np.ndarray
    repeats: np.ndarray
    """bool a record: its sensor sent this waveform before; nothing is fitted on it"""
    time_trusted: np.ndarray
    """bool a record: False where its time cannot be"""
    num_duplicates: int
    findings: tuple[Finding, ...] = ()
    """what the records say against one another"""

    def __len__(self) -> int:
        return self.index.num_rows

    @cached_property
    def sensors(self) -> "Sensors":
        """(unit, sensor_id) a record."""
        return Sensors.of_table(self.index)

    @cached_property
    def key_hash(self) -> np.ndarray:
        """uint64 a record, of its key: reservoirs keep the smallest."""
        found = np.empty(len(self), np.uint64)
        for start in range(0, len(self), KEYS_AT_ONCE):
            some = self.index.slice(start, KEYS_AT_ONCE)
            keys = zip(some["corpus"].to_pylist(), some["record_id"].to_pylist(), strict=True)
            hashes = b"".join(blake2b(f"{c}/{r}".encode(), digest_size=8).digest() for c, r in keys)
            found[start : start + KEYS_AT_ONCE] = np.frombuffer(hashes, "<u8")
        return found

    @cached_property
    def histories(self) -> dict[Sensor, SensorHistory]:
        """What is known of each sensor's past."""
        rms, snr = (self.index[name].to_numpy(zero_copy_only=False) for name in ("rms", "mains_snr_db"))
        found = {}
        for sensor, rows in self.sensors.rows(np.arange(len(self))):
            own = rows[~self.repeats[rows]] if not self.repeats[rows].all() else rows[:1]  # one at least of each sensor
            found[sensor] = history_of(rms[own], None if self.facts.mains_hz is None else snr[own])
        return found

    def take(self, rows: np.ndarray) -> "TrainingTable":
        """Only these records, in this order."""
        own = {name: getattr(self, name)[rows] for name in ("part", "row", "repeats", "time_trusted")}
        return replace(self, index=self.index.take(pa.array(rows)), **own)

    def rows_of(self, keyed: pa.Table) -> tuple[np.ndarray, pa.Table]:
        """Row numbers of the records that a table with their keys names, and these of its rows, in the same order."""
        rows = rows_of(self.index, keyed)
        return rows[rows >= 0], keyed.filter(pa.array(rows >= 0))

    def in_order(self, rows: np.ndarray) -> np.ndarray:
        """These row numbers by (measured_at, record_id), those left out whose time cannot be."""
        rows = rows[self.time_trusted[rows]]
        return rows[order_of_time(self.index.select(["measured_at", "record_id"]).take(pa.array(rows)))]

    def by_part(self, rows: np.ndarray) -> list[np.ndarray]:
        """These row numbers, part by part in the order of the parts: what a pass over them reads at a time."""
        rows = rows[np.argsort(self.part[rows], kind="stable")]
        return np.split(rows, np.flatnonzero(np.diff(self.part[rows])) + 1)

    def slices(self, rows: np.ndarray) -> "Slices":
        """The same as what a worker is sent of each part."""
        return Slices(self, self.by_part(rows))

    def read(self, column: str, rows: np.ndarray, progress: Callable[[int, int], None] = lambda done, total: None) -> np.ndarray:
        """Vectors or waveforms of these records, float32 (rows, size); a part is read once."""
        ends = np.flatnonzero(np.diff(self.part[rows])) + 1
        found = []
        for done, own in enumerate(np.split(rows, ends), 1):
            found.append(read_vectors(self.parts[self.part[own[0]]], column)[self.row[own]])
            progress(done, len(ends) + 1)
        return np.concatenate(found)

    def fill(self, waveforms: np.ndarray, rank: int, size: int, progress: Callable[[int, int], None]) -> None:
        """Writes the waveforms into an array (records, samples): every `size`-th part, from the `rank`-th on."""
        mine = np.unique(self.part)[rank::size]
        for done, p in enumerate(mine):
            at = np.flatnonzero(self.part == p)
            waveforms[at] = read_vectors(self.parts[p], "waveform")[self.row[at]]
            progress(done + 1, len(mine))


@dataclass(frozen=True)
class Slice:
    """Some records of one part: all that a pass over them is sent. Its size does not depend on the table's."""

    uri: str
    """the part's file"""
    row: np.ndarray
    """where in it they lie"""
    index: np.ndarray
    """their row numbers of the table"""
    sensors: "Sensors"
    key_hash: np.ndarray

    @property
    def names(self) -> tuple[Sensor, ...]:
        """Its sensors, each once."""
        return self.sensors.names

    def read(self, column: str) -> np.ndarray:
        """Their vectors, float32 (rows, size)."""
        return read_vectors(self.uri, column)[self.row]


@dataclass(frozen=True)
class Slices(Sequence[Slice]):
    """The slices of a table's parts, each made when it is asked for."""

    table: TrainingTable
    rows: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Slice:  # type: ignore[override]
        rows, table = self.rows[i], self.table
        return Slice(table.parts[table.part[rows[0]]], table.row[rows], rows, table.sensors.take(rows), table.key_hash[rows])


@dataclass(frozen=True)
class Sensors(Sequence[Sensor]):
    """The sensor of each record: every name once, and a number a record."""

    names: tuple[Sensor, ...]
    """(unit, sensor_id), in the order of their first record"""
    code: np.ndarray
    """int32 a record"""

    @classmethod
    def of_table(cls, table: pa.Table) -> "Sensors":
        """Of a table with the columns of a sensor."""
        (units, unit), (ids, sensor_id) = (codes(table[name]) for name in schema.SENSOR)
        pairs, code = _in_order(unit.astype(np.int64) * max(1, len(ids)) + sensor_id)
        return cls(tuple((units[pair // len(ids)], ids[pair % len(ids)]) for pair in pairs.tolist()), code)

    @classmethod
    def of_list(cls, sensors: Iterable[Sensor]) -> "Sensors":
        """Of the sensor of each record."""
        number: dict[Sensor, int] = {}
        code = [number.setdefault(sensor, len(number)) for sensor in sensors]
        return cls(tuple(number), np.array(code, np.int32))

    def __len__(self) -> int:
        return len(self.code)

    def __getitem__(self, row: int | np.integer) -> Sensor:  # type: ignore[override]
        return self.names[self.code[row]]

    def of(self, rows: np.ndarray) -> list[Sensor]:
        """Those of some row numbers."""
        return [self.names[code] for code in self.code[rows].tolist()]

    def take(self, rows: np.ndarray) -> "Sensors":
        """Of these rows alone, with no other name."""
        numbers, code = _in_order(self.code[rows])
        return Sensors(tuple(self.names[i] for i in numbers.tolist()), code)

    def rows(self, rows: np.ndarray) -> Iterator[tuple[Sensor, np.ndarray]]:
        """Each sensor of these row numbers, with its own in their order; the sensor whose row comes first is the first."""
        order = np.argsort(self.code[rows], kind="stable")
        starts = np.flatnonzero(np.diff(self.code[rows][order], prepend=-1))
        for places in sorted(np.split(order, starts[1:]) if len(rows) else (), key=lambda places: places[0]):
            own = rows[places]
            yield self.names[self.code[own[0]]], own


def _in_order(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct values in the order of their first, and the int32 place of each among them."""
    distinct, first, place = np.unique(values, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return distinct[order], np.argsort(order).astype(np.int32)[place.reshape(-1)]


def open_features(uris: Sequence[str]) -> TrainingTable:
    """The features tables as one, duplicates left out and counted.

    Raises InputsDiffer for one corpus twice, or other facts or feature configs; UserError for a table that is not finished or empty.
    """
    facts_of = [objects.read_json(objects.join(uri, "feature.json")) for uri in uris]
    one_corpus_each(uris, [values["corpus"] for values in facts_of])
    facts = the_same_facts(uris, [values["facts"] for values in facts_of])
    configs = [{name: vector["config"] for name, vector in values["vectors"].items()} for values in facts_of]
    tables, names, part, row = [], [], [], []
    for uri in uris:
        parts = Parts(uri)
        for part_id, table in zip(parts.markers, parts.tables(INDEX), strict=True):
            part.append(np.full(table.num_rows, len(names), np.int32))
            row.append(np.arange(table.num_rows, dtype=np.int32))
            names.append(str(parts.uri(part_id)))
            tables.append(table)
    index = pa.concat_tables(tables) if tables else schema.features(1, {}).empty_table().select(INDEX)
    if not index.num_rows:
        raise UserError(f"{', '.join(uris)}: no record was kept; look at bad/ for the reasons")
    corpora = {values["corpus"]: uri for uri, values in zip(uris, facts_of, strict=True)}
    keep = np.flatnonzero(lowest_keys(index))
    num_duplicates, index = index.num_rows - len(keep), index.take(pa.array(keep))
    found = audit(index, num_duplicates)
    where = tuple(names), np.concatenate(part)[keep], np.concatenate(row)[keep]
    vectors = the_same("the feature config", uris, configs)
    return TrainingTable(facts, vectors, corpora, index, *where, found.repeats, found.time_trusted, num_duplicates, found.findings)


@dataclass(frozen=True)
class ScoresTable:
    """One or several scores tables of one run."""

    scores: pa.Table
    """schema.scores(...), `state` and `state_cause` being the effective ones, and bool `time_trusted`: False where the time cannot be.

    Held small (storage/columns.py): names are dictionaries, PLACE stands for `record_id`; without `line`, `sample_rate_hz` and
    `content_hash`. Rows are in the order of (unit, sensor_id, measured_at, corpus, shard, offset)."""
    identities: list[dict[str, Any]]
    folders: list[Parts]
    num_duplicates: int
    findings: tuple[Finding, ...] = ()
    """what the records say against one another"""

    @property
    def run(self) -> dict[str, Any]:
        """What the scores say of their run."""
        return self.identities[0]["run"]

    @property
    def facts(self) -> CorpusFacts:
        return from_json(CorpusFacts, self.identities[0]["facts"])

    @property
    def faults(self) -> tuple[str, ...] | None:
        return None if self.run["faults"] is None else tuple(self.run["faults"])

    def bad_records(self) -> pa.Table:
        """The lines set aside, of all inputs."""
        return pa.concat_tables([parts.read(name="bad", schema=schema.BAD_RECORDS) for parts in self.folders])

    def over_sensors(self, tolerance_s: float = TOLERANCE_S) -> tuple["ScoresTable", int]:
        """The same records with the mean scores of their unit's sensors at their time (decide/pooling.py); how many found a partner."""
        scores, num_partners = over_sensors(self.scores, tolerance_s)
        return replace(self, scores=scores), num_partners

    def evidence(self) -> pa.Table | None:
        """The highest records of all parts, those alone whose scores are kept, without their waveforms; None where scoring kept none.

        Scores (which may be means over sensors), states and trust in times are those of this table; `row` is a record's row in it, `part`
        and `in_part` say where its waveform lies.
        """
        wanted = [
            name for name in schema.evidence(1, tuple(self.run["members"]), self.faults).names if name not in ("waveform", "content_hash")
        ]
        tables = []
        for folder, parts in enumerate(self.folders):
            for i, part_id in enumerate(parts.markers):
                uri = parts.uri(part_id, "evidence")
                if uri is None:
                    continue
                table = objects.read_table(uri, wanted, names=("corpus", *schema.SENSOR), if_there=optional_columns(self.run))
                number = pa.array(np.full(table.num_rows, i, np.int32)), pa.array(np.full(table.num_rows, folder, np.int32))
                table = table.append_column("part", number[0]).append_column("folder", number[1])
                tables.append(table.append_column("in_part", pa.array(np.arange(table.num_rows, dtype=np.int32))))
        if not tables:
            return None
        evidence = pa.concat_tables(tables, promote_options="default").unify_dictionaries().combine_chunks()
        tables.clear()
        pa.default_memory_pool().release_unused()  # as in open_scores
        rows = rows_of(self.scores, evidence)
        evidence = evidence.filter(pa.array(rows >= 0)).append_column("row", pa.array(rows[rows >= 0]))
        own = plain(self.scores.select([name for name in EFFECTIVE if name in self.scores.column_names]).take(evidence["row"]))
        for name in own.column_names:
            evidence = evidence.drop_columns([name]) if name in evidence.column_names else evidence
            evidence = evidence.append_column(own.schema.field(name), own[name])
        return evidence

    def waveforms(self, evidence: pa.Table, rows: np.ndarray) -> pa.Array:
        """The waveforms of these rows of `evidence`, null in the others; a part is read once."""
        found: list[Any] = [None] * evidence.num_rows
        folder, part, in_part = (one_chunk(evidence[name]).to_numpy() for name in ("folder", "part", "in_part"))
        where: dict[tuple[int, int], list[int]] = {}
        for row in rows.tolist():
            where.setdefault((int(folder[row]), int(part[row])), []).append(row)
        for (f, p), own in where.items():
            parts = self.folders[f]
            uri = parts.uri(list(parts.markers)[p], "evidence")
            assert uri is not None
            stored = one_chunk(objects.read_table(uri, ["waveform"])["waveform"])
            for row in own:
                found[row] = stored[int(in_part[row])].values.to_numpy()
        return pa.array(found, pa.list_(pa.float32()))


EFFECTIVE = ("state", "state_cause", schema.TIME_TRUSTED.name, "score")
"""Columns of a record of the evidence that are those of the whole table: a record that was scored alone did not know of the others."""


def optional_columns(run: dict[str, Any]) -> tuple[str, ...]:
    """Columns that scores of an earlier version, or of most runs have not."""
    return ("state_cause", schema.FLEET_P_VALUE.name, *(schema.MEMBER_PREFIX + name for name in run["members"]))


def open_scores(uris: Sequence[str]) -> ScoresTable:
    """The scores tables as one, duplicates left out and counted. Raises InputsDiffer for one corpus twice, or for another run or rate.

    Where one of them continued another and names a shard as changed since, that shard's records are the later ones alone.
    """
    folders = [Parts(uri) for uri in uris]
    identities = [parts.plan.identity for parts in folders]
    for uri, identity in zip(uris, identities, strict=True):
        if "run" not in identity:
            raise InputsDiffer(f"{uri} is no scores table, but one of features: give a folder that jobs/score.py made")
    one_corpus_each(uris, [identity["corpus"] for identity in identities])
    the_same("the run", uris, [identity["run"] for identity in identities])
    the_same_facts(uris, [identity["facts"] for identity in identities])
    for parts in folders:
        parts.check_accounts()
    later = superseded({parts.folder_uri: parts.plan for parts in folders})
    members, faults = identities[0]["run"]["members"], identities[0]["run"]["faults"]
    wanted = schema.scores(tuple(members), None if faults is None else tuple(faults)).names
    wanted = [name for name in wanted if name not in ("line", "sample_rate_hz")]
    stacked = Stacked(sum(parts.total("num_kept") for parts in folders))
    for parts in folders:
        for table in parts.tables(wanted, if_there=optional_columns(identities[0]["run"])):
            stacked.append(without_shards(table, later.get(parts.folder_uri.rstrip("/"))))
    if not stacked.at:
        raise UserError(f"{', '.join(uris)}: no record was scored; look at bad/ for the reasons")
    columns = stacked.columns()
    order = sensor_groups(pa.table(columns)).order
    if order is not None:
        for name in columns:
            columns[name] = columns[name].take(pa.array(order))
    del order
    scores, num_duplicates, findings = audited(pa.table(columns))
    del columns
    pa.default_memory_pool().release_unused()  # what reading thousands of small files leaves there: 8 bytes a record
    return ScoresTable(scores, identities, folders, num_duplicates, findings)


def without_shards(table: pa.Table, shards: frozenset[str] | None) -> pa.Table:
    """The records of no such shard: a record's id is its shard's key and a place in it."""
    if not shards:
        return table
    keys = pc.replace_substring_regex(table["record_id"], r"[@#]\d+$", "")  # type: ignore[attr-defined]
    return table.filter(pc.invert(pc.is_in(keys, pa.array(sorted(shards)))))  # type: ignore[attr-defined]


def audited(scores: pa.Table) -> tuple[pa.Table, int, tuple[Finding, ...]]:
    """A table of scores as Stacked holds it, with effective states and `time_trusted`, records that stand twice left out; how many these
    are, and what the others say against one another."""
    groups = sensor_groups(scores)
    keep = lowest_keys(scores, groups)
    num_duplicates = int((~keep).sum())
    if num_duplicates:
        scores = scores.filter(pa.array(keep))
        groups = sensor_groups(scores)
    found = audit(scores, num_duplicates, groups)
    scores = scores.drop_columns(["content"])
    for name in ("state_cause", schema.FLEET_P_VALUE.name):
        if name not in scores.column_names:
            nothing = pa.nulls(scores.num_rows, pa.string() if name == "state_cause" else pa.float32())
            scores = scores.append_column(name, pc.dictionary_encode(nothing) if name == "state_cause" else nothing)  # type: ignore[attr-defined]
    if found.repeats.any():
        for name, value in (("state", schema.State.SENSOR_FAULT.value), ("state_cause", schema.Cause.REPEATS.value)):
            names, number = codes(scores[name])
            whole = sorted({*names, value})
            number = np.array([*map(whole.index, names), -1], np.int8)[number]
            number[found.repeats] = whole.index(value)
            scores = scores.set_column(scores.column_names.index(name), name, named(whole, number))
    return scores.append_column(schema.TIME_TRUSTED, pa.array(found.time_trusted)), num_duplicates, found.findings


def identity_hash(parts: Iterable[Parts]) -> str:
    """Names the content of finished folders: the checksums of their parts."""
    return short_hash([[marker["files"] for marker in p.markers.values()] for p in parts])


def read_vectors(uri: str, column: str) -> np.ndarray:
    """A column of vectors of a part's file, float32 (records, size)."""
    stored = objects.read_table(uri, [column])[column].combine_chunks()
    return stored.flatten().to_numpy().reshape(len(stored), -1)


def waveforms_of(table: pa.Table) -> np.ndarray:
    """The waveforms of a table, (records, samples) float32, copied so that torch may have them."""
    chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in table["waveform"].chunks]
    size = table.schema.field("waveform").type.list_size
    return np.concatenate([np.empty(0, np.float32), *chunks]).reshape(-1, size)


def vector_column(values: np.ndarray) -> pa.FixedSizeListArray:
    """A (records, size) float32 array as a column of vectors."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values, np.float32).reshape(-1)), values.shape[1])


def order_of_time(table: pa.Table) -> np.ndarray:
    """The rows of a table of records by (measured_at, record_id). (`sort_by` of the table itself knows no vectors.)"""
    keys = table.select(["measured_at", "record_id"]).append_column("row", pa.array(np.arange(table.num_rows)))
    return keys.sort_by([("measured_at", "ascending"), ("record_id", "ascending")])["row"].to_numpy()


def sensors_of(table: pa.Table) -> list[tuple[str, str]]:
    """(unit, sensor_id) a row."""
    return list(zip(table["unit"].to_pylist(), table["sensor_id"].to_pylist(), strict=True))
