import itertools

import numpy as np
import pyarrow as pa

from vibray.decide.duplicates import lowest_keys
from vibray.schema import ORIGIN


def table(rows):
    """(corpus, record_id, unit, sensor_id, milliseconds, hash) to an origin table."""
    corpus, record_id, unit, sensor_id, time, content = zip(*rows, strict=True) if rows else [[]] * 6
    columns = [corpus, record_id, [None] * len(rows), unit, sensor_id, time, [8192.0] * len(rows), content]
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, ORIGIN, strict=True)], schema=ORIGIN)


ROWS = [
    ("b", "x@0", "u1", "1", 5, "h"),  # the same as the next two; corpus a comes first
    ("a", "y@10", "u1", "1", 5, "h"),
    ("a", "y@9", "u1", "1", 5, "h"),  # offsets are numbers
    ("a", "z@0", "u1", "2", 5, "h"),  # another sensor
    ("a", "z@1", "u2", "1", 5, "h"),  # another unit
    ("a", "z@2", "u1", "1", 6, "h"),  # another time
    ("a", "z@3", "u1", "1", 5, "g"),  # another waveform
]


def test_the_lowest_key_of_equal_records_is_kept():
    assert lowest_keys(table(ROWS)).tolist() == [False, False, True, True, True, True, True]


def test_what_is_kept_does_not_depend_on_the_order_of_rows():
    for order in itertools.islice(itertools.permutations(ROWS), 0, 5040, 97):
        kept = lowest_keys(table(order))
        assert {row for row, keep in zip(order, kept, strict=True) if keep} == set(ROWS[2:])


def test_chunks_and_no_rows():
    chunked = pa.concat_tables([table(ROWS[:3]), table(ROWS[3:])])
    assert np.array_equal(lowest_keys(chunked), lowest_keys(table(ROWS)))
    assert lowest_keys(table([])).tolist() == []
