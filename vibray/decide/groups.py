"""The rows of each sensor in order of time, and of each unit: the one sorting that the decisions share.

An opened table (tables.open_scores) stands in that order already: then nothing is sorted, and a sensor's rows are a range.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
from jaxtyping import Int, Int64

from vibray.storage.columns import codes, key_columns, keys_of, times_ms

BATCH = 50_000
"""Records that are worked on at a time where units can be taken one after another: their intermediates are small beside the table."""


@dataclass(frozen=True, eq=False)
class SensorGroups:
    """Each (unit, sensor_id), in order, with its rows in order of (measured_at, corpus, shard, offset)."""

    names: list[tuple[str, str]]
    bounds: Int64[np.ndarray, " ends"]
    """where each begins in `order`, and the end of the last"""
    order: Int64[np.ndarray, " records"] | None
    """None: the rows stand in that order"""

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[tuple[tuple[str, str], Int64[np.ndarray, " _"]]]:
        for name, (a, b) in zip(self.names, pairwise(self.bounds.tolist()), strict=True):
            yield name, self.rows(a, b)

    def rows(self, a: int, b: int) -> Int64[np.ndarray, " _"]:
        """The rows from place a to place b."""
        return np.arange(a, b) if self.order is None else self.order[a:b]

    def units(self) -> list[tuple[str, int, int]]:
        """Each unit, in order, with its first sensor and the one after its last."""
        starts = [i for i in range(len(self.names)) if i == 0 or self.names[i][0] != self.names[i - 1][0]]
        return [(self.names[a][0], a, b) for a, b in pairwise([*starts, len(self.names)])]

    def batches(self) -> Iterator[tuple[Int64[np.ndarray, " _"], Int64[np.ndarray, " _"], Int64[np.ndarray, " _"]]]:
        """The rows of some whole units in their order, BATCH of them where units are not larger; the numbers of each row's unit and
        sensor."""
        units, at = self.units(), 0
        for i, (_, _, last) in enumerate(units):
            if i + 1 < len(units) and self.bounds[units[i + 1][2]] - self.bounds[units[at][1]] <= BATCH:
                continue
            own = units[at : i + 1]
            sensors = np.arange(own[0][1], last)
            sizes = np.diff(self.bounds[own[0][1] : last + 1])
            unit = np.repeat(np.arange(at, i + 1), [b - a for _, a, b in own])
            yield self.rows(int(self.bounds[own[0][1]]), int(self.bounds[last])), np.repeat(unit, sizes), np.repeat(sensors, sizes)
            at = i + 1

    def numbers(self) -> Int[np.ndarray, " records"]:
        """The number of each record's sensor, int16 where that is enough."""
        sizes = np.diff(self.bounds)
        found = np.repeat(np.arange(len(sizes), dtype=np.int16 if len(sizes) < 2**15 else np.int32), sizes)
        if self.order is None:
            return found
        number = np.empty_like(found)
        number[self.order] = found
        return number


def sensor_groups(scores: pa.Table) -> SensorGroups:
    """The sensors of a table, which is sorted where it does not stand in that order."""
    (units, unit), (sensors, sensor), time = codes(scores["unit"]), codes(scores["sensor_id"]), times_ms(scores)
    wide = len(units) * len(sensors) >= 2**31
    pair = unit.astype(np.int64 if wide else np.int32) * max(1, len(sensors)) + sensor
    order = None
    if not _rises(pair) or not _in_time(scores, pair, time):
        order = np.argsort(pair, kind="stable")
        pair = pair[order]
    starts = np.r_[0, np.flatnonzero(pair[1:] != pair[:-1]) + 1] if len(pair) else np.empty(0, np.int64)
    names = [(units[code // len(sensors)], sensors[code % len(sensors)]) for code in pair[starts].tolist()]
    bounds = np.r_[starts, len(pair)].astype(np.int64)
    if order is not None:
        keys: tuple[np.ndarray, ...] | None = None
        for a, b in pairwise(bounds.tolist()):
            own = order[a:b]
            later = np.diff(time[own])
            if (later > 0).all():
                continue
            if (later == 0).any() or keys is not None:
                keys = keys_of(scores) if keys is None else keys
            ties = () if keys is None else tuple(key[own] for key in reversed(keys))
            order[a:b] = own[np.lexsort((*ties, time[own]))]
    return SensorGroups(names, bounds, order)


def _rises(values: np.ndarray) -> bool:
    return bool((values[1:] >= values[:-1]).all())


def _in_time(scores: pa.Table, pair: np.ndarray, time: np.ndarray) -> bool:
    """Sorted sensors have their records in order of time, equal times in that of their keys."""
    same = pair[1:] == pair[:-1]
    if (same & (time[1:] < time[:-1])).any():
        return False
    ties = np.flatnonzero(same & (time[1:] == time[:-1]))
    if not len(ties):
        return True
    near = scores.select(key_columns(scores)).take(pa.array(np.stack([ties, ties + 1], axis=1).reshape(-1)))
    keys = [key.reshape(-1, 2) for key in keys_of(near)]
    less, equal = np.zeros(len(ties), bool), np.ones(len(ties), bool)
    for key in keys:
        less |= equal & (key[:, 0] < key[:, 1])
        equal &= key[:, 0] == key[:, 1]
    return bool((less | equal).all())
