"""A sample of bounded size that is the same whatever the order, the split or the number of workers."""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32, UInt64

WAITING_ROWS = 4096
"""Of few rows nothing is dropped."""


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


Block = tuple[Int32[np.ndarray, "..."], UInt64[np.ndarray, "..."], Float32[np.ndarray, "..."]]
"""Number of the name, key and row, each."""


class Reservoirs:
    """A reservoir of `size` rows for each of many names, in one table: whatever their number, none costs an object of its own.

    What is too much is dropped each time that the rows have become as many again, so that this costs no more a row in a larger table.
    Memory: at most twice 4 bytes * rows kept * row.
    """

    def __init__(self, size: int, row_shape: tuple[int, ...]) -> None:
        self.size, self.row_shape = size, row_shape
        self.code: dict[Any, int] = {}
        """number of each name"""
        self.num_offered = np.empty(0, np.int64)
        """by number"""
        self.blocks: list[Block] = []
        self.num_rows = self.num_settled = 0
        """rows held, and those that were left when what is too much was dropped last"""

    def offer(self, names: Sequence[Hashable], keys: UInt64[np.ndarray, " batch"], rows: Float32[np.ndarray, " batch *row"]) -> None:
        """Takes the rows, each of a name. Every record is offered once."""
        code = np.array([self.code.setdefault(name, len(self.code)) for name in names], np.int32)
        self._count(np.bincount(code, minlength=len(self.code)))
        self._take([(code, keys.copy(), rows.copy())])

    def merge(self, other: "Reservoirs") -> None:
        """Takes another worker's in, of the same size."""
        number = np.array([self.code.setdefault(name, len(self.code)) for name in other.code], np.int32)
        offered = np.zeros(len(self.code), np.int64)
        offered[number] = other.num_offered
        self._count(offered)
        # copied: what comes from a worker may lie in Ray's store, which would keep all of it as long as a row is held
        self._take([(number[code], keys.copy(), rows.copy()) for code, keys, rows in other.blocks])

    def _count(self, offered: np.ndarray) -> None:
        offered[: len(self.num_offered)] += self.num_offered
        self.num_offered = offered

    def _take(self, blocks: list[Block]) -> None:
        self.blocks += [block for block in blocks if len(block[0])]
        self.num_rows += sum(len(code) for code, _, _ in blocks)
        if self.num_rows > self.num_settled + max(WAITING_ROWS, self.num_settled):
            self.settle()

    def settle(self) -> None:
        """Drops what is too much."""
        order, rank = self._ranked()
        kept = np.ones(len(order), bool)
        kept[order[rank >= self.size]] = False
        masks = np.split(kept, np.cumsum([len(code) for code, _, _ in self.blocks])[:-1]) if self.blocks else []
        for i, mask in enumerate(masks):
            if not mask.all():
                code, keys, rows = self.blocks[i]
                self.blocks[i] = code[mask], keys[mask], rows[mask]
        self.num_rows = self.num_settled = int(kept.sum())

    def table(self) -> Block:
        """What is kept, in the order of number and key. It is handed over: nothing is left here."""
        self.settle()
        order, _ = self._ranked()
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        whole = np.empty(len(order), np.int32), np.empty(len(order), np.uint64), np.empty((len(order), *self.row_shape), np.float32)
        while self.blocks:  # each is freed once it is copied
            block = self.blocks.pop()
            own, place = place[len(place) - len(block[0]) :], place[: len(place) - len(block[0])]
            for column, values in zip(whole, block, strict=True):
                column[own] = values
        self.num_rows = self.num_settled = 0
        return whole

    def _ranked(self) -> tuple[np.ndarray, np.ndarray]:
        """The order of rows by number and key, and the rank of each, in this order, among those of its number."""
        code = np.concatenate([np.empty(0, np.int32), *(code for code, _, _ in self.blocks)])
        keys = np.concatenate([np.empty(0, np.uint64), *(keys for _, keys, _ in self.blocks)])
        order = np.lexsort((keys, code))
        starts = np.flatnonzero(np.diff(code[order], prepend=-1))
        return order, np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))

    def __getstate__(self) -> dict[str, Any]:
        self.settle()  # what is too much is not sent
        return vars(self)
