"""Features tables as training reads them: an index of records; vectors and waveforms stay in storage."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa

from vibray import schema
from vibray.config import UserError
from vibray.decide.audit import audit
from vibray.decide.duplicates import lowest_keys
from vibray.decide.findings import Finding
from vibray.decide.state import SensorHistory, history_of
from vibray.features.scaling import Sensor
from vibray.storage import objects
from vibray.storage.columns import order_of_time, rows_of
from vibray.storage.corpus import CorpusFacts, one_corpus_each, the_same, the_same_facts
from vibray.storage.parts import Parts
from vibray.storage.vectors import read_vectors
from vibray.tables.sensors import Sensors

KEYS_AT_ONCE = 100_000
"""Keys of records that stand as text at once."""

INDEX = [*schema.ORIGIN.names, "rms", "mains_snr_db"]


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
    def sensors(self) -> Sensors:
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
    sensors: Sensors
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
