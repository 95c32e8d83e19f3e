"""Records that stand more than once in the inputs."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vibray.decide.groups import SensorGroups, sensor_groups
from vibray.storage.columns import one_chunk, times_ms

SAME = ("unit", "sensor_id", "measured_at", "content_hash")
"""Records equal in these are one record read twice."""


def lowest_keys(records: pa.Table, groups: SensorGroups | None = None) -> np.ndarray:
    """bool per row: True for the one with the lowest (corpus, shard, offset) among rows of equal unit, sensor, time and content hash.

    Training and evaluation keep these and count the rest, before labels are matched. Names compare as UTF-8 strings and offsets as numbers,
    so that the choice does not depend on the order of the rows.
    """
    groups = sensor_groups(records) if groups is None else groups
    keep, time, sensor = np.ones(records.num_rows, bool), times_ms(records), groups.numbers()
    if groups.order is not None:
        time, sensor = time[groups.order], sensor[groups.order]
    same = (sensor[1:] == sensor[:-1]) & (time[1:] == time[:-1])
    tied = np.flatnonzero(np.r_[False, same] | np.r_[same, False])
    if not len(tied):
        return keep
    moment = np.cumsum(~np.r_[False, same][tied])
    rows = tied if groups.order is None else groups.order[tied]
    hashes = contents(records.take(pa.array(rows)))
    order = np.lexsort((np.arange(len(rows)), hashes, moment))
    again = (moment[order[1:]] == moment[order[:-1]]) & (hashes[order[1:]] == hashes[order[:-1]])
    keep[rows[order[1:][again]]] = False
    return keep


def contents(records: pa.Table) -> np.ndarray:
    """A number a row, equal where the waveforms are: `content` of a table that was opened so, or of its `content_hash`."""
    if "content" in records.column_names:
        return one_chunk(records["content"]).to_numpy()
    # of waveforms there are as many as records: their names would be as many objects
    return pc.dictionary_encode(one_chunk(records["content_hash"])).indices.to_numpy()  # type: ignore[attr-defined]
