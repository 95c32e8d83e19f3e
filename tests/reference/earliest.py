"""Slow and obvious: the earliest records of each sensor, a table of Arrow a sensor, merged with those of each part as it comes."""

from collections.abc import Collection, Iterable

import numpy as np
import pyarrow as pa

from vibray.decide.audit import COLUMNS, audit
from vibray.decide.clocks import GAP_YEARS, YEAR_MS
from vibray.decide.findings import Finding
from vibray.features.scaling import Sensor
from vibray.fitting.earliest import by_sensor
from vibray.storage.columns import order_of_time

Earliest = dict[Sensor, pa.Table]
"""By sensor, its records in order of (measured_at, record_id)."""


def earliest(tables: Iterable[pa.Table], known: Collection[Sensor], k: int) -> Earliest:
    """The k earliest records of each sensor that is not known."""
    kept: Earliest = {}
    for table in tables:
        for sensor, own in by_sensor(table):
            if sensor not in known:
                kept[sensor] = first_records([kept[sensor], own] if sensor in kept else [own], k)
    return kept


def first_records(tables: list[pa.Table], k: int) -> pa.Table:
    """The k earliest by (measured_at, record_id), a waveform that comes again counting once; where the sensor's times then jump by more
    than two years, the k earliest after the jump too."""
    table = pa.concat_tables(tables)
    rows = order_of_time(table)
    content = np.array(table["content_hash"].to_pylist(), np.str_)[rows]
    rows = rows[np.sort(np.unique(content, return_index=True)[1])]
    time_ms = table["measured_at"].to_numpy().astype("datetime64[ms]").astype(np.int64)[rows]
    jumps = np.flatnonzero(np.diff(time_ms) > GAP_YEARS * YEAR_MS) + 1
    kept = np.concatenate([island[:k] for island in np.split(rows, jumps)[:2]])
    return table.take(pa.array(kept, pa.int64())).combine_chunks()


def plausible(records: Earliest, k: int) -> tuple[Earliest, tuple[Finding, ...]]:
    """The k earliest records of each sensor whose time can be, and what the records say against one another."""
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
