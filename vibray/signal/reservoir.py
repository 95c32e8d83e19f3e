"""A sample of bounded size that is the same whatever the order, the split or the number of workers."""

import numpy as np
from jaxtyping import Float32, UInt64


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
