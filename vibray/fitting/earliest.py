"""The earliest records of each sensor that a run does not know: which they are, and their waveforms.

Two steps. A pass over the input writes, part by part, where each record comes from, so that a job that was killed goes on where it stopped
and no waveform is copied; of these small tables the earliest records are picked. Their waveforms are then read again, some sensors at a
time and on as many workers as there are: no other line is parsed. Which worker read what, and in which order, changes nothing.

Memory: the process that picks holds ORIGIN_BYTES for each of at most 2 k records of a sensor, a worker GROUP_BYTES of waveforms, or those
of one sensor where its k records are more, and for a moment twice as much.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from vibray.decide.audit import COLUMNS, audit
from vibray.decide.clocks import GAP_YEARS, YEAR_MS
from vibray.decide.findings import Finding
from vibray.features.scaling import Sensor
from vibray.schema import ORIGIN
from vibray.storage.corpus import CorpusFacts
from vibray.storage.parts import Parts, commit_part
from vibray.storage.plan import PartPlan, Plan
from vibray.storage.reading import ReadPart, read_records
from vibray.tables import order_of_time, sensors_of

ORIGIN_BYTES = 250
"""Of a record's row of a table of origins."""

GROUP_BYTES = 128 << 20
"""Waveforms that a worker holds at most, but for a single sensor's."""

Earliest = dict[Sensor, pa.Table]
"""By sensor, its records in order of (measured_at, record_id)."""


def keep_origins(read: ReadPart, parts_uri: str) -> dict[str, Any]:
    """The stage of the first step: where each record of a part comes from."""
    return commit_part(parts_uri, read.part_id, {"": read.records.select(ORIGIN.names), "bad": read.bad}, read.marker)


def origins(parts: Parts) -> Iterator[pa.Table]:
    """What `keep_origins` wrote, part by part in the order of the plan, with the id of the plan's entry as `part`."""
    for part_id, table in zip(parts.markers, parts.tables(), strict=True):
        yield table.append_column("part", pa.array([part_id.partition("-")[0]] * table.num_rows, pa.string()))


def earliest(tables: Iterable[pa.Table], known: Collection[Sensor], k: int) -> Earliest:
    """The k earliest records of each sensor that is not known."""
    kept: Earliest = {}
    for table in tables:
        for sensor, own in by_sensor(table):
            if sensor not in known:
                kept[sensor] = first_records([kept[sensor], own] if sensor in kept else [own], k)
    return kept


def by_sensor(records: pa.Table) -> Iterator[tuple[Sensor, pa.Table]]:
    """The rows of each sensor."""
    rows: dict[Sensor, list[int]] = {}
    for i, sensor in enumerate(sensors_of(records)):
        rows.setdefault(sensor, []).append(i)
    for sensor, index in rows.items():
        yield sensor, records.take(pa.array(index))


def first_records(tables: list[pa.Table], k: int) -> pa.Table:
    """The k earliest by (measured_at, record_id), a waveform that comes again counting once; where the sensor's times then jump by more
    than two years, the k earliest after the jump too: the first may turn out to be of a clock that was never set."""
    table = pa.concat_tables(tables)
    rows = order_of_time(table)
    content = np.array(table["content_hash"].to_pylist(), np.str_)[rows]
    rows = rows[np.sort(np.unique(content, return_index=True)[1])]
    time_ms = table["measured_at"].to_numpy().astype("datetime64[ms]").astype(np.int64)[rows]
    jumps = np.flatnonzero(np.diff(time_ms) > GAP_YEARS * YEAR_MS) + 1
    kept = np.concatenate([island[:k] for island in np.split(rows, jumps)[:2]])
    return table.take(pa.array(kept, pa.int64())).combine_chunks()


def plausible(records: Earliest, k: int) -> tuple[Earliest, tuple[Finding, ...]]:
    """The k earliest records of each sensor whose time can be, and what the records say against one another.

    The audit sees the records that were kept, which are the earliest of each sensor: it counts those alone.
    """
    if not records:
        return records, ()
    found = audit(pa.concat_tables([table.select(COLUMNS) for table in records.values()]))
    first, trusted = 0, {}
    for sensor, table in records.items():
        own = found.time_trusted[first : first + table.num_rows]
        first += table.num_rows
        if own.any():
            trusted[sensor] = table.filter(pa.array(own)).slice(0, k).combine_chunks()
    return trusted, found.findings


@dataclass(frozen=True)
class Group:
    """Some sensors whose records are read together: plan entries, and which records of each are wanted."""

    base_uri: str
    corpus: str
    facts: CorpusFacts
    picked: tuple[tuple[PartPlan, tuple[str, ...]], ...]

    def records(self) -> Earliest:
        """Their records, with waveforms. Raises ObjectChanged where a shard is not the planned one."""
        tables = [read_records(part, self.facts, self.corpus, self.base_uri, frozenset(ids)) for part, ids in self.picked]
        return {sensor: own.take(pa.array(order_of_time(own))).combine_chunks() for sensor, own in by_sensor(pa.concat_tables(tables))}


def groups(records: Earliest, plan: Plan, facts: CorpusFacts) -> list[Group]:
    """All sensors, in groups of GROUP_BYTES; those whose records begin in one part stand together, so that few parts are read twice."""
    place = {part.id: i for i, part in enumerate(plan.parts)}
    of_sensor = {sensor: list(zip(t["part"].to_pylist(), t["record_id"].to_pylist(), strict=True)) for sensor, t in records.items()}
    made: list[list[tuple[str, str]]] = []
    most = GROUP_BYTES // (4 * facts.num_samples)
    for sensor in sorted(of_sensor, key=lambda sensor: (place[of_sensor[sensor][0][0]], sensor)):
        if made and len(made[-1]) + len(of_sensor[sensor]) <= most:
            made[-1] += of_sensor[sensor]
        else:
            made.append(list(of_sensor[sensor]))
    return [Group(plan.base_uri, plan.corpus, facts, _picked(own, plan.parts)) for own in made]


def _picked(records: list[tuple[str, str]], parts: Sequence[PartPlan]) -> tuple[tuple[PartPlan, tuple[str, ...]], ...]:
    wanted: dict[str, list[str]] = {}
    for part_id, record_id in records:
        wanted.setdefault(part_id, []).append(record_id)
    return tuple((part, tuple(sorted(wanted[part.id]))) for part in parts if part.id in wanted)
