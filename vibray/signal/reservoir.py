"""A sample of bounded size that is the same whatever the order, the split or the number of workers."""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt64

WAITING_ROWS = 4096


class Reservoir:
    """The `size` rows with the smallest key hash among all that were offered, in the order of their hash.

    A hash is as good as a random number drawn once for the record: the rows kept are a uniform sample, and since the smallest of a
    union are the smallest of its parts' smallest, merging is exact, associative and commutative. Memory: 4 bytes * size * row.
    """

    def __init__(self, size: int, row_shape: tuple[int, ...]) -> None:
        self.size = size
        self.num_offered = 0
        self.keys = np.empty(0, np.uint64)
        self.rows = np.empty((0, *row_shape), np.float32)

    def offer(self, keys: UInt64[np.ndarray, " batch"], rows: Float32[np.ndarray, " batch *row"]) -> None:
        """Takes what belongs among the smallest. Every record is offered once: a key that comes again is a second record."""
        self.num_offered += len(keys)
        self._take(keys, rows)

    def merge(self, other: "Reservoir") -> None:
        """Takes another worker's reservoir of the same size in."""
        self.num_offered += other.num_offered
        self._take(other.keys, other.rows)

    def _take(self, keys: UInt64[np.ndarray, " batch"], rows: Float32[np.ndarray, " batch *row"]) -> None:
        if len(self.keys) == self.size:  # most batches of a large corpus hold nothing new: no copy for those
            smaller = keys < self.keys[-1]
            keys, rows = keys[smaller], rows[smaller]
        if not len(keys):
            return
        keys = np.concatenate([self.keys, keys])
        order = np.argsort(keys, kind="stable")[: self.size]
        # indexing copies: a slice of the caller's batch is never held on to
        self.keys, self.rows = keys[order], np.concatenate([self.rows, rows])[order]


class Reservoirs:
    """A reservoir of `size` rows for each of many names, in one table: whatever their number, none costs an object of its own.

    Rows wait unsorted until they are as many again as those that were kept, so that sorting costs no more a row in a larger table. Memory:
    twice 4 bytes * rows kept * row.
    """

    def __init__(self, size: int, row_shape: tuple[int, ...]) -> None:
        self.size = size
        self.code: dict[Any, int] = {}
        """number of each name"""
        self.num_offered = np.empty(0, np.int64)
        """by number"""
        self.kept = (np.empty(0, np.int32), np.empty(0, np.uint64), np.empty((0, *row_shape), np.float32))
        """number, key and row, in the order of number and key"""
        self.waiting: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def offer(self, names: Sequence[Hashable], keys: UInt64[np.ndarray, " batch"], rows: Float32[np.ndarray, " batch *row"]) -> None:
        """Takes the rows, each of a name. Every record is offered once."""
        code = np.array([self.code.setdefault(name, len(self.code)) for name in names], np.int32)
        self._take(code, np.bincount(code, minlength=len(self.code)), keys, rows.copy())

    def merge(self, other: "Reservoirs") -> None:
        """Takes another worker's in, of the same size."""
        number = np.array([self.code.setdefault(name, len(self.code)) for name in other.code], np.int32)
        offered = np.zeros(len(self.code), np.int64)
        offered[number] = other.num_offered
        for code, keys, rows in (other.kept, *other.waiting):
            self._take(number[code], offered, keys, rows)
            offered = np.zeros_like(offered)

    def _take(self, code: np.ndarray, offered: np.ndarray, keys: np.ndarray, rows: np.ndarray) -> None:
        more = np.zeros(len(self.code), np.int64)
        more[: len(self.num_offered)] += self.num_offered
        more[: len(offered)] += offered
        self.num_offered = more
        if len(code):
            self.waiting.append((code, keys, rows))
        if sum(len(own) for own, _, _ in self.waiting) > max(WAITING_ROWS, len(self.kept[0])):
            self.settle()

    def settle(self) -> None:
        """Leaves nothing waiting."""
        if not self.waiting:
            return
        code, keys, rows = (np.concatenate(columns) for columns in zip(self.kept, *self.waiting, strict=True))
        self.waiting = []
        order = np.lexsort((keys, code))
        starts = np.flatnonzero(np.diff(code[order], prepend=-1))
        rank = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
        order = order[rank < self.size]
        self.kept = code[order], keys[order], rows[order]

    def __getstate__(self) -> dict[str, Any]:
        self.settle()  # what was not kept is not sent
        return vars(self)
