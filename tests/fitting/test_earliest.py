"""The earliest records of each sensor, from tables of origins that come in any order: against a table a sensor, and in what memory."""

import tracemalloc
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pytest

from tests.reference import earliest as slow
from vibray import schema
from vibray.fitting import earliest
from vibray.fitting.earliest import Earliest, Picked, plausible

HOUR_MS = 3_600_000
CLOCKS_MS = np.array([0, 1_700_000_000_000, 2_200_000_000_000])
"""1970, 2023 and 2039: of a clock that was never set, of one that is right, of one that is wrong."""

KNOWN = frozenset({("u0", "s1")})


def origin(rng: np.random.Generator, num: int, num_units: int) -> pa.Table:
    """Records of two sensors a unit: several at one moment, waveforms sent again, clocks that jump, ids of two forms."""
    unit, sensor = rng.integers(0, num_units, num), rng.integers(0, 2, num)
    clock, hour = rng.choice(3, num, p=[0.2, 0.75, 0.05]), rng.integers(0, 40, num)
    said = [f"{u} {s} {c} {content}" for u, s, c, content in zip(unit, sensor, clock, rng.integers(0, 60, num), strict=True)]
    columns = {
        "corpus": ["c"] * num,
        "record_id": [f"x@y/{at % 3}.jsonl@{at}" if at % 2 else f"list-{at % 5}.json#{at}" for at in rng.permutation(10 * num)[:num]],
        "line": pa.nulls(num, pa.int64()),
        "unit": [f"u{i}" for i in unit],
        "sensor_id": [f"s{i}" for i in sensor],
        "measured_at": pa.array(CLOCKS_MS[clock] + hour * HOUR_MS).cast(schema.TIME),
        "sample_rate_hz": np.full(num, 8192.0),
        "content_hash": [blake2b(text.encode(), digest_size=16).hexdigest() for text in said],
    }
    return pa.table(columns, schema=schema.ORIGIN)


def picked(tables: list[pa.Table], k: int) -> Picked:
    found = Earliest(KNOWN, k)
    for i, table in enumerate(tables):
        found.add(str(i), table)
    return found.picked()


def ids(records: Picked) -> dict[tuple[str, str], list[str]]:
    """By sensor, its record_ids in their order."""
    of_sensor: dict[tuple[str, str], list[str]] = {}
    for number, record_id in zip(records.sensor.tolist(), records.record_ids(slice(None)).to_pylist(), strict=True):
        of_sensor.setdefault(records.sensors[number], []).append(record_id)
    return of_sensor


@pytest.mark.parametrize("k", [1, 7, 100])
@pytest.mark.parametrize("settled", [1, 150, 1 << 16])
def test_they_are_those_of_a_table_a_sensor_in_whatever_pieces_they_come(monkeypatch, k, settled):
    monkeypatch.setattr(earliest, "SETTLED", settled)
    rng = np.random.default_rng(k)
    whole = origin(rng, 1500, 4)
    kept = slow.earliest([whole], KNOWN, k)
    trusted, findings = slow.plausible(kept, k)
    cuts = np.sort(rng.integers(0, 1500, 12))
    pieces = [whole.slice(a, b - a) for a, b in zip([0, *cuts], [*cuts, 1500], strict=True)]
    for order in (range(13), reversed(range(13)), rng.permutation(13).tolist()):
        found = picked([pieces[i] for i in order], k)
        assert ids(found) == {sensor: table["record_id"].to_pylist() for sensor, table in kept.items()}
        own, said = plausible(found, "c", k)
        assert ids(own) == {sensor: table["record_id"].to_pylist() for sensor, table in trusted.items()}
        assert said == findings
    assert ids(picked(pieces[:1] * 2, k)) == ids(picked(pieces[:1], k))


def test_no_record_and_no_new_sensor():
    table = origin(np.random.default_rng(0), 20, 1)
    known = table.filter(pa.array([s == "s1" for s in table["sensor_id"].to_pylist()]))
    for tables in ([], [table.slice(0, 0)], [known]):
        found = picked(tables, 3)
        assert len(found) == 0 and plausible(found, "c", 3) == (found, ())


def test_memory_is_bounded_by_the_sensors_not_the_records(monkeypatch):
    """Eight times the records of as many sensors, on and on in time."""
    monkeypatch.setattr(earliest, "SETTLED", 1000)
    tables = [origin(np.random.default_rng(i), 500, 5) for i in range(4)]

    def peak(rounds: int) -> int:
        found = Earliest(KNOWN, 10)
        tracemalloc.start()
        for i in range(rounds * len(tables)):
            table = tables[i % 4]
            later = pa.array(table["measured_at"].to_numpy() + np.timedelta64(i, "D")).cast(schema.TIME)
            found.add("0", table.set_column(table.column_names.index("measured_at"), "measured_at", later))
        assert len(found.picked()) <= 9 * 2 * 10
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(1)  # what is imported
    assert peak(16) < 1.2 * peak(2)
