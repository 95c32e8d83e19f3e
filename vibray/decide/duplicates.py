"""Records that stand more than once in the inputs."""

import numpy as np
import pyarrow as pa

from vibray.schema import KEY

SAME = ("unit", "sensor_id", "measured_at", "content_hash")
"""Records equal in these are one record read twice."""


def lowest_keys(records: pa.Table) -> np.ndarray:
    """bool per row: True for the one with the lowest (corpus, record_id) among rows of equal unit, sensor, time and content hash.

    Training and evaluation keep these and count the rest, before labels are matched. Keys compare as UTF-8 strings, so that the choice does
    not depend on the order of the rows.
    """
    columns = records.select([*SAME, *KEY]).append_column("row", pa.array(np.arange(len(records))))
    ordered = columns.sort_by([(name, "ascending") for name in (*SAME, *KEY)])
    first = np.ones(len(records), bool)
    first[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in (ordered[name].to_numpy() for name in SAME)])
    keep = np.zeros(len(records), bool)
    keep[ordered["row"].to_numpy()[first]] = True
    return keep
