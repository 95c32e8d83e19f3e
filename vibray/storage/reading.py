"""From a part of the plan to its tables: shards.py and records.py joined, in bounded memory; a pure generator that a worker runs."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from vibray.storage.corpus import CorpusFacts
from vibray.storage.lines import Broken, RawItem, RawLine
from vibray.storage.objects import below
from vibray.storage.plan import PartPlan
from vibray.storage.records import BadRecord, Record, parse_line, parse_object, to_tables
from vibray.storage.shards import read_lines

ROWS_PER_BATCH = 2500
"""Parsed lines that wait as Python objects before they become columns: a usual part is one batch, whose waveforms are not copied again."""

COUNTED = ("num_naive", "num_ambiguous", "num_nonexistent", "num_fitted", "num_other_rate", "num_glued", "num_glued_lines")
"""What is counted of a part beside its lines."""


@dataclass(frozen=True, eq=False)
class ReadPart:
    """One part, read: its records and bad_records tables and what was counted."""

    part_id: str
    key: str
    start: int
    number: int
    last: bool
    records: pa.Table
    bad: pa.Table
    num_read: int
    num_naive: int
    num_ambiguous: int
    num_nonexistent: int
    num_fitted: int
    num_other_rate: int
    num_glued: int
    num_glued_lines: int

    @property
    def marker(self) -> dict[str, Any]:
        """What `commit_part` wants to know of it."""
        names = ("key", "start", "number", "last", "num_read", *COUNTED)
        return {name: getattr(self, name) for name in names}


class _Tables:
    """Records and bad records of one part, turned into columns batch by batch."""

    def __init__(self, num_samples: int):
        self.num_samples = num_samples
        self.batches: list[tuple[pa.Table, pa.Table]] = []
        self.records: list[Record] = []
        self.bad: list[BadRecord] = []
        self.num_read = 0
        self.counts = dict.fromkeys(COUNTED, 0)

    def add(self, row: Record | BadRecord) -> None:
        self.num_read += 1
        if isinstance(row, Record):
            self.records.append(row)
            if row.naive_time:
                self.counts["num_naive"] += 1
                self.counts["num_ambiguous"] += row.ambiguous_time
                self.counts["num_nonexistent"] += row.nonexistent_time
            self.counts["num_fitted"] += row.fitted
            self.counts["num_other_rate"] += row.other_rate
        else:
            self.bad.append(row)
            if row.num_objects > 1:
                self.counts["num_glued"] += row.num_objects
                self.counts["num_glued_lines"] += 1
        if len(self.records) + len(self.bad) >= ROWS_PER_BATCH:
            self.flush()

    def flush(self) -> None:
        self.batches.append(to_tables(self.records, self.bad, self.num_samples))
        self.records, self.bad = [], []

    def part(self, plan: PartPlan, number: int, last: bool) -> ReadPart:
        if self.records or self.bad or not self.batches:
            self.flush()
        records, bad = (pa.concat_tables(tables).combine_chunks() for tables in zip(*self.batches, strict=True))
        return ReadPart(plan.part_id(number), plan.key, plan.start, number, last, records, bad, self.num_read, **self.counts)


def read_shard(
    part: PartPlan, facts: CorpusFacts, corpus: str, base_uri: str, numbers_done: frozenset[int] = frozenset()
) -> Iterator[ReadPart]:
    """Reads a byte range, giving one ReadPart, or a chain, giving one for each number not done; the lines of those done are not parsed.

    `base_uri` is the plan's. Raises ObjectChanged where an object is not the planned one, UnitError where a unit cannot be told.
    """
    number, num_lines, num_bytes = 0, 0, 0
    tables = _Tables(facts.num_samples)
    for key, raw in _lines(part, base_uri):
        if part.max_lines and part.max_bytes and (num_lines >= part.max_lines or num_bytes >= part.max_bytes):
            if number not in numbers_done:
                yield tables.part(part, number, last=False)
            number, num_lines, num_bytes = number + 1, 0, 0
            tables = _Tables(facts.num_samples)
        num_lines, num_bytes = num_lines + 1, num_bytes + raw.size
        if number not in numbers_done:
            tables.add(_parse(raw, key, corpus, facts))
    if number not in numbers_done:
        yield tables.part(part, number, last=True)


def read_records(part: PartPlan, facts: CorpusFacts, corpus: str, base_uri: str, wanted: Collection[str]) -> pa.Table:
    """The records of a byte range or a chain that have one of these ids: no other line is parsed, none after the last of them is read."""
    left, tables = set(wanted), _Tables(facts.num_samples)
    for key, raw in _lines(part, base_uri) if left else ():
        record_id = f"{key}{'#' if isinstance(raw, RawItem) else '@'}{raw.offset}"
        if record_id in left:
            left.remove(record_id)
            tables.add(_parse(raw, key, corpus, facts))
            if not left:
                break
    return tables.part(part, 0, last=True).records


def _lines(part: PartPlan, base_uri: str) -> Iterator[tuple[str, RawLine | RawItem | Broken]]:
    for key, etag, size in part.objects:
        for raw in read_lines(below(base_uri, key), part.start, part.end, etag, size=size):
            yield key, raw


def _parse(raw: RawLine | RawItem | Broken, shard: str, corpus: str, facts: CorpusFacts) -> Record | BadRecord:
    if isinstance(raw, RawLine):
        return parse_line(raw.raw, shard, raw.offset, raw.line, corpus, facts)
    if isinstance(raw, RawItem):
        return parse_object(raw.value, shard, raw.offset, corpus, facts)
    return BadRecord(corpus, shard, raw.offset, raw.line, raw.reason, raw.detail, raw.head, raw.num_objects)
