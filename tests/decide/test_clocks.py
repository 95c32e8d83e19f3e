"""Times that cannot be, beside the rest of the sensor and of the fleet."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from vibray.decide.clocks import trusted_times
from vibray.decide.groups import sensor_groups
from vibray.schema import TIME

START = datetime(2024, 1, 1, tzinfo=UTC)
Row = tuple[str, str, datetime, str]
"""unit, sensor, time, record id"""


def hourly(unit: str, num: int, start: datetime = START, shard: str = "", first: int = 0, hours: float = 1.0) -> list[Row]:
    return [(unit, f"{unit}-a", start + timedelta(hours=hours * i), f"{shard or unit}@{100 * (first + i)}") for i in range(num)]


def trusted(rows: list[Row]) -> np.ndarray:
    time = np.array([round(row[2].timestamp() * 1000) for row in rows], np.int64)
    unit, sensor_id, _, record_id = zip(*rows, strict=True) if rows else [pa.array([], pa.string())] * 4
    columns = {"corpus": pa.array(["c"] * len(rows), pa.string()), "record_id": record_id, "unit": unit, "sensor_id": sensor_id}
    records = pa.table({**columns, "measured_at": pa.array(time).cast(TIME)})
    return trusted_times(np.unique(np.array(unit, np.str_), return_inverse=True)[1], sensor_groups(records), time, records)


def wrong(rows: list[Row]) -> list[Row]:
    return [row for row, good in zip(rows, trusted(rows), strict=True) if not good]


FLEET = [row for unit in ("a", "b", "c") for row in hourly(unit, 260)]


@pytest.mark.parametrize("year", [1, 1970, 1980, 2000, 2013, 2037, 2099, 9999])
def test_a_clock_that_was_never_set_is_found_by_the_fleet(year: int) -> None:
    lost = hourly("d", 30, datetime(year, 1, 2, tzinfo=UTC), first=230)
    assert wrong([*FLEET, *hourly("d", 230), *lost]) == lost
    assert wrong([*FLEET, *hourly("d", 30, datetime(year, 1, 2, tzinfo=UTC))]) == hourly("d", 30, datetime(year, 1, 2, tzinfo=UTC))


def test_one_stamp_of_the_far_future_is_found() -> None:
    one = [("b", "b-a", datetime(2099, 6, 1, tzinfo=UTC), "b@999999")]
    assert wrong([*FLEET, *one]) == one
    soon = [("b", "b-a", datetime(2027, 6, 1, tzinfo=UTC), "b@999999")]  # last in its shard: the fleet alone tells
    assert wrong([*FLEET, *soon]) == soon


def test_the_order_of_the_rows_does_not_matter() -> None:
    rows = [
        *FLEET,
        *hourly("d", 230),
        *hourly("d", 30, datetime(1970, 1, 1, tzinfo=UTC), first=230),
        *hourly("e", 5, datetime(2099, 1, 1, tzinfo=UTC)),
    ]
    order = np.random.default_rng(0).permutation(len(rows))
    assert (trusted([rows[i] for i in order]) == trusted(rows)[order]).all()
    assert (~trusted(rows)).sum() == 35


def test_a_clock_that_went_back_by_a_few_years_is_found_by_the_order_of_the_lines() -> None:
    back = hourly("d", 30, datetime(2015, 1, 1, tzinfo=UTC), first=230)  # behind those of 2024 in the shard
    assert wrong([*FLEET, *hourly("d", 230), *back]) == back
    before = hourly("d", 30, datetime(2015, 1, 1, tzinfo=UTC))  # before them: an older campaign
    assert wrong([*FLEET, *hourly("d", 230, first=30), *before]) == []
    ahead = hourly("d", 30, datetime(2028, 1, 1, tzinfo=UTC))
    assert wrong([*FLEET, *hourly("d", 230, first=30), *ahead]) == ahead


@pytest.mark.parametrize("seed", range(10))
def test_ten_years_with_gaps_are_no_error(seed: int) -> None:
    """Campaigns of any length, years apart, by any units, in any order of the shards."""
    rng = np.random.default_rng(seed)
    rows, units = [], [f"u{i}" for i in range(6)]
    for number, year in enumerate(sorted(rng.choice(np.arange(2014, 2025), 5, replace=False).tolist())):
        for unit in rng.choice(units, rng.integers(1, 7), replace=False).tolist():
            start = datetime(year, int(rng.integers(1, 13)), 1, tzinfo=UTC)
            rows += hourly(
                unit, int(rng.integers(20, 300)), start, shard=f"{rng.integers(1000)}-{number}", hours=float(rng.choice([1, 24]))
            )
    assert wrong(rows) == []


def test_a_first_campaign_of_few_records_and_an_older_archive_are_no_error() -> None:
    assert wrong([*hourly("a", 3, datetime(2015, 5, 1, tzinfo=UTC), shard="accepted"), *FLEET]) == []
    old = [row for unit in ("x", "y") for row in hourly(unit, 400, datetime(2003, 10, 22, tzinfo=UTC))]
    assert wrong([*old, *FLEET]) == []


def test_where_all_stand_in_1970_nothing_is_wrong() -> None:
    assert wrong([row for unit in ("a", "b") for row in hourly(unit, 100, datetime(1970, 1, 1, tzinfo=UTC))]) == []
    assert trusted([]).tolist() == [] and trusted(FLEET[:1]).all()
