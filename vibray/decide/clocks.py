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
from jaxtyping import Bool, Int, Int64

from vibray.decide.groups import SensorGroups
from vibray.storage.columns import key_columns, keys_of

GAP_YEARS = 2.0
"""Between islands: a year without a record is a pause, and a clock that is wrong by less moves no reference far."""
FAR_YEARS = 10.0
WHOLE_SHARE = 1 / 3
LATE_RECORDS = 0.01
LATE_UNITS = 0.5
YEAR_MS = 365.25 * 86_400_000


def trusted_times(
    unit: Int[np.ndarray, " records"], groups: SensorGroups, time_ms: Int64[np.ndarray, " records"], records: pa.Table
) -> Bool[np.ndarray, " records"]:
    """False for a time that cannot be, by the rules above. `unit` are numbers; of `records` the keys are read where a clock is doubted."""
    trusted = np.ones(len(time_ms), bool)
    firsts, lasts = _islands(groups, time_ms)
    if len(firsts) < 2:
        return trusted
    island = np.searchsorted(firsts, time_ms, side="right") - 1
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
                or _out_of_order(groups, mine, trusted & (island > i if not late else island < i), records, late)
            ):
                trusted[mine] = False
            else:
                near = i
    return trusted


def _islands(groups: SensorGroups, time_ms: Int64[np.ndarray, " records"]) -> tuple[np.ndarray, np.ndarray]:
    """The first and the last time of each island, in order; from what each sensor does without a pause, which lies in one island."""
    spans = []
    for _, rows in groups:
        time = time_ms[rows]
        cuts = np.flatnonzero(np.diff(time) > GAP_YEARS * YEAR_MS)
        spans += list(zip(time[np.r_[0, cuts + 1]].tolist(), time[np.r_[cuts, len(time) - 1]].tolist(), strict=True))
    if not spans:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    first, last = np.array(sorted(spans), np.int64).T
    last = np.maximum.accumulate(last)
    begins = np.r_[True, first[1:] - last[:-1] > GAP_YEARS * YEAR_MS]
    return first[begins], last[np.r_[begins[1:], True]]


def _whole_archives(unit: np.ndarray, mine: np.ndarray) -> bool:
    """The island holds all records of a third of the units, and of two at least."""
    of_unit = np.bincount(unit)
    whole = (np.bincount(unit[mine], minlength=len(of_unit)) == of_unit) & (of_unit > 0)
    return bool(whole.sum() >= max(2, WHOLE_SHARE * (of_unit > 0).sum()))


def _thin(unit: np.ndarray, mine: np.ndarray) -> bool:
    few_units = len(np.unique(unit[mine])) < LATE_UNITS * len(np.unique(unit))
    return bool(few_units and mine.sum() < LATE_RECORDS * len(mine))


def _out_of_order(groups: SensorGroups, mine: np.ndarray, right: np.ndarray, records: pa.Table, late: bool) -> bool:
    """Most of the lines, of those in a shard with right ones of their sensor, stand after one of a later time, or before an earlier one."""
    near = [own[(mine | right)[own]] for _, own in groups if mine[own].any()]
    rows, sensor = np.concatenate(near), np.repeat(np.arange(len(near)), [len(own) for own in near])
    _, shard, offset = keys_of(records.select(key_columns(records)).take(pa.array(rows)))
    _, place = np.unique(np.stack([sensor, shard], axis=1), axis=0, return_inverse=True)
    place, own, good = place.reshape(-1), mine[rows], right[rows]
    sign = 1 if late else -1
    furthest = np.full(int(place.max(initial=0)) + 1, np.iinfo(np.int64).min)
    np.maximum.at(furthest, place[good], sign * offset[good])
    there = np.bincount(place[good], minlength=len(furthest)) > 0
    told = own & there[place]
    num_wrong = int((sign * offset[told] < furthest[place[told]]).sum())
    return 2 * num_wrong > int(told.sum())
