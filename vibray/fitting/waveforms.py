"""The waveforms that nets learn from: a node's own disk holds all of them, or they are read part by part as the order asks for them."""

import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from vibray.storage.vectors import read_vectors
from vibray.tables.training import TrainingTable
from vibray.train.images import NodeArray

HELD_BYTES = 2 << 30
"""Of waveforms that a worker holds in memory where no disk holds them all: a window of the order is as many records."""
DISK_SHARE = 0.9
"""Of what is free on a node's disk, that waveforms and images may take."""


class PartWaveforms:
    """The waveforms of a table's records by row number, read from storage: the parts that were asked for last stay in memory.

    In the windowed order (train/batches.py) each part is read about once an epoch, by each worker.
    """

    def __init__(self, table: TrainingTable, held_bytes: int = HELD_BYTES) -> None:
        self.table, self.shape = table, (len(table), table.facts.num_samples)
        self.window = max(1, held_bytes // (4 * table.facts.num_samples))
        largest = int(np.bincount(table.part).max(initial=1))
        self.num_held = -(-self.window // largest) + 9  # a window is of eight runs of rows, each of which begins and ends inside a part
        self.parts: OrderedDict[int, np.ndarray] = OrderedDict()
        self.num_read = 0

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: Int64[np.ndarray, " batch"]) -> Float32[np.ndarray, "batch samples"]:
        out, part = np.empty((len(index), self.shape[1]), np.float32), self.table.part[index]
        for number in np.unique(part).tolist():
            mine = np.flatnonzero(part == number)
            out[mine] = self._part(number)[self.table.row[index[mine]]]
        return out

    def _part(self, number: int) -> np.ndarray:
        if number not in self.parts:
            self.num_read += 1
            self.parts[number] = read_vectors(self.table.parts[number], "waveform")
            if len(self.parts) > self.num_held:
                self.parts.popitem(last=False)
        self.parts.move_to_end(number)
        return self.parts[number]


Waveforms = np.ndarray | PartWaveforms


def fits(folder: Path, num_bytes: int, disk_gb: float | None = None) -> bool:
    """Whether so many bytes find room beside the folder's own files, on its disk or within `disk_gb` GiB."""
    there = sum(512 * file.stat().st_blocks for file in folder.glob("*")) if folder.exists() else 0
    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    most = DISK_SHARE * (shutil.disk_usage(nearest).free + there)
    return num_bytes <= (most if disk_gb is None else min(most, disk_gb * 2**30))


def waveforms_on(folder: Path, table: TrainingTable, whole: bool, rank: int, size: int, progress: Callable[[int, int], None]) -> Waveforms:
    """The waveforms as one of `size` workers of a node has them: `whole`, in a file of the folder, of which each writes its share; the
    caller waits for the others. Else part by part."""
    if not whole:
        return PartWaveforms(table)
    rows = NodeArray(folder / "waveforms", len(table), (table.facts.num_samples,)).rows
    table.fill(rows, rank, size, progress)
    return rows
