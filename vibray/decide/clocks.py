"""Which times cannot be: a clock that was never set (1970), or set wrongly (2099), beside the rest of the sensor and of the fleet.

The fleet's times are cut into islands wherever two years pass without a record of anybody. The island where most of the fleet lives is
right: each unit has one vote, shared out over its records. From there outwards, on either side, an island is wrong where

  its gap to the last right one is longer than ten years;
  or, in shards that hold both, most of its lines stand on the wrong side of lines of the right ones: a line of 2015 after one of 2024;
  or it lies in the future of the rest with less than a hundredth of the records, of fewer than half of the units: it would make all
  others look silent, and an early one of that size harms nobody.

An island that holds whole archives, those of a third of the units and of two at least, is another archive and right. So an archive of ten
years with gaps of years is never wrong, whoever took part in what year; two wrong clocks that agree are not seen.
"""

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int64

from vibray.schema import place

GAP_YEARS = 2.0
"""Between islands: a year without a record is a pause, and a clock that is wrong by less moves no reference far."""
FAR_YEARS = 10.0
WHOLE_SHARE = 1 / 3
LATE_RECORDS = 0.01
LATE_UNITS = 0.5
YEAR_MS = 365.25 * 86_400_000


def trusted_times(
    unit: Int64[np.ndarray, " records"],
    sensor: Int64[np.ndarray, " records"],
    time_ms: Int64[np.ndarray, " records"],
    record_id: pa.ChunkedArray,
) -> Bool[np.ndarray, " records"]:
    """False for a time that cannot be, by the rules above. `unit` and `sensor` are numbers; the order of the rows does not matter."""
    trusted = np.ones(len(time_ms), bool)
    if not len(time_ms):
        return trusted
    order = np.argsort(time_ms, kind="stable")
    cuts = np.flatnonzero(np.diff(time_ms[order]) > GAP_YEARS * YEAR_MS)
    if not len(cuts):
        return trusted
    island = np.empty(len(time_ms), np.int64)
    island[order] = np.searchsorted(cuts, np.arange(len(time_ms)) - 1, side="right")
    firsts, lasts = time_ms[order[np.r_[0, cuts + 1]]], time_ms[order[np.r_[cuts, len(time_ms) - 1]]]
    votes = np.bincount(island, 1 / np.bincount(unit)[unit]).round(9)
    main = max(range(len(votes)), key=lambda i: (votes[i], int((island == i).sum()), i))
    for outwards, late in ((range(main - 1, -1, -1), False), (range(main + 1, len(votes)), True)):
        near = main
        for i in outwards:
            gap_ms = firsts[i] - lasts[near] if late else firsts[near] - lasts[i]
            mine = island == i
            if not _whole_archives(unit, mine) and (
                gap_ms > FAR_YEARS * YEAR_MS
                or (late and _thin(unit, mine))
                or _out_of_order(sensor, mine, trusted & (island > i if not late else island < i), record_id, late)
            ):
                trusted[mine] = False
            else:
                near = i
    return trusted


def _whole_archives(unit: np.ndarray, mine: np.ndarray) -> bool:
    """The island holds all records of a third of the units, and of two at least."""
    of_unit = np.bincount(unit)
    whole = (np.bincount(unit[mine], minlength=len(of_unit)) == of_unit) & (of_unit > 0)
    return bool(whole.sum() >= max(2, WHOLE_SHARE * (of_unit > 0).sum()))


def _thin(unit: np.ndarray, mine: np.ndarray) -> bool:
    few_units = len(np.unique(unit[mine])) < LATE_UNITS * len(np.unique(unit))
    return bool(few_units and mine.sum() < LATE_RECORDS * len(mine))


def _out_of_order(sensor: np.ndarray, mine: np.ndarray, right: np.ndarray, record_id: pa.ChunkedArray, late: bool) -> bool:
    """Most of the lines, of those in a shard with right ones of their sensor, stand after one of a later time, or before an earlier one."""
    rows = np.flatnonzero((mine | right) & np.isin(sensor, sensor[mine]))
    places: dict[tuple[int, str], tuple[list[int], list[int]]] = {}
    for row, name in zip(rows.tolist(), record_id.take(pa.array(rows)).to_pylist(), strict=True):
        shard, offset = place(name)
        places.setdefault((int(sensor[row]), shard), ([], []))[int(mine[row])].append(offset)
    num_lines, num_wrong = 0, 0
    for good, own in places.values():
        if good and own:
            num_lines += len(own)
            num_wrong += sum(at < max(good) for at in own) if late else sum(at > min(good) for at in own)
    return 2 * num_wrong > num_lines
