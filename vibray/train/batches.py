"""Who computes which record when: global batches from one seeded permutation, whatever the number of workers."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from vibray.config import UserError
from vibray.train.reduce import World

Inputs = Tensor | tuple[Tensor, ...]

WATCHED_RECORDS = 256
"""training records, and as many faults where there are any, that are looked at after each epoch"""


@dataclass(frozen=True)
class TrainingSet:
    """The records to train on. All arrays but `indices` are indexed as `read` is: by row number, not by position in `indices`."""

    read: Callable[[np.ndarray], Inputs]
    """row numbers (int64, at least one) -> scaled inputs, one row each; a tuple for a net of several inputs"""
    indices: np.ndarray
    """row numbers that take part"""
    targets: np.ndarray | None = None
    weights: np.ndarray | None = None
    joins: np.ndarray | None = None
    """epoch, from 0, in which a row is trained on for the first time; None: every row in each"""
    window: int | None = None
    """rows that `read` can hold, where it cannot read all in any order"""

    def __post_init__(self) -> None:
        if len(self.indices) == 0:
            raise UserError("there is no record to train on: are all of them left out by labels, trimming or duplicates?")

    def __len__(self) -> int:
        return len(self.indices)


@dataclass(frozen=True)
class Batch:
    """This worker's slice of a global batch; it may be empty."""

    x: Inputs
    target: Tensor | None
    weight: Tensor
    """float64 [slice]"""
    total_weight: float
    """sum of the weights of the whole global batch"""
    start: int
    """where in the global batch the slice begins"""
    size: int
    """records in the global batch"""


class Batches:
    """Global batches of at most `batch_size` records; worker r takes slice r of each. Every record that has joined comes once an epoch.

    The order is a permutation seeded by (seed, epoch). The batches of an epoch differ in size by one record at most: a last batch of one
    record would leave the batch norms the statistics of that record. Slices differ by one record at most, too.

    Where the rows have a `window`, blocks of an eighth of it change places, and rows change places inside a window only, so that a reader
    needs to hold no more than that.
    """

    def __init__(self, rows: TrainingSet, batch_size: int, seed: int, world: World):
        self.rows, self.batch_size, self.seed, self.world = rows, batch_size, seed, world

    def order(self, epoch: int) -> np.ndarray:
        """Row numbers in the order of an epoch, the same on every worker. Raises UserError where none has joined."""
        random = np.random.default_rng((self.seed, epoch))
        indices = self._joined(epoch)
        if len(indices) == 0:
            raise UserError(f"no record takes part in epoch {epoch}: at least one has to join in epoch 0")
        window = self.rows.window
        if window is None or window >= len(indices):
            return random.permutation(indices)
        block = max(window // 8, 1)
        blocks = [indices[start : start + block] for start in range(0, len(indices), block)]
        moved = np.concatenate([blocks[i] for i in random.permutation(len(blocks))])
        return np.concatenate([random.permutation(moved[start : start + window]) for start in range(0, len(moved), window)])

    def num_steps(self, epoch: int) -> int:
        """Global batches of an epoch."""
        return -(-len(self._joined(epoch)) // self.batch_size)

    def _joined(self, epoch: int) -> np.ndarray:
        indices = np.asarray(self.rows.indices, dtype=np.int64)
        return indices if self.rows.joins is None else indices[self.rows.joins[indices] <= epoch]

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """This worker's slices of the global batches of an epoch."""
        order = self.order(epoch)
        for indices in np.array_split(order, self.num_steps(epoch)):
            ends = _ends(len(indices), self.world)
            yield self._batch(indices[slice(*ends)], indices, ends[0])

    def shares(self) -> Iterator[Batch]:
        """This worker's share of all records, each exactly once and in the order of `indices`."""
        indices = np.asarray(self.rows.indices, dtype=np.int64)
        start, stop = _ends(len(indices), self.world)
        for at in range(start, stop, self.batch_size):
            part = indices[at : min(at + self.batch_size, stop)]
            yield self._batch(part, part, 0)

    def _batch(self, mine: np.ndarray, whole: np.ndarray, start: int) -> Batch:
        x = self.rows.read(mine if len(mine) else whole[:1])
        if len(mine) == 0:
            x = tuple(part[:0] for part in x) if isinstance(x, tuple) else x[:0]
        target = None if self.rows.targets is None else torch.from_numpy(self.rows.targets[mine])
        weights = np.ones(len(whole)) if self.rows.weights is None else self.rows.weights[whole].astype(np.float64)
        weight = torch.from_numpy(weights[start : start + len(mine)])
        return Batch(x, target, weight, float(weights.sum()), start, len(whole))

    @torch.no_grad()
    def collect(self, net: nn.Module, figures: Callable[[Batch], Tensor]) -> np.ndarray:
        """What `figures` makes of each record, the net being in eval mode: float64, all records in the order of `indices`, on every worker.

        The mode of the net is put back. Every worker has to call it.
        """
        training = net.training
        net.eval()
        rows = [figures(batch).double().cpu().numpy() for batch in self.shares()]
        net.train(training)
        if not rows:  # fewer records than workers: the shape of a row is still needed
            rows = [figures(self._batch(self.rows.indices[:1], self.rows.indices[:1], 0)).double().cpu().numpy()[:0]]
        return self.world.gather(np.concatenate(rows))


def thinned(rows: TrainingSet, limit: int) -> TrainingSet:
    """At most `limit` of the records, evenly spaced."""
    count = len(rows.indices)
    return replace(rows, indices=np.asarray(rows.indices)[np.linspace(0, count - 1, min(count, limit)).astype(np.int64)])


def _ends(count: int, world: World) -> tuple[int, int]:
    """First and behind-last position of this worker's slice; earlier workers have the longer ones."""
    base, longer = divmod(count, world.size)
    start = world.rank * base + min(world.rank, longer)
    return start, start + base + (world.rank < longer)


def to(x: Inputs, device: torch.device) -> Inputs:
    """Inputs on another device."""
    return tuple(part.to(device, non_blocking=True) for part in x) if isinstance(x, tuple) else x.to(device, non_blocking=True)
