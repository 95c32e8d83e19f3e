"""Waveforms and images of a run on this node's own disk: computed once, shared by the ranks of the node, read again each epoch."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

CHUNK = 32
"""Records whose images are made at once."""


class NodeArray:
    """A float32 array (records, *shape) in a file that all ranks of a node map into memory."""

    def __init__(self, path: Path, num_records: int, shape: tuple[int, ...]):
        self.path, self.shape = path, (num_records, *shape)
        size = 4 * int(np.prod(self.shape))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:  # whichever rank comes first makes it, sparse; the others find it
            file.truncate(size)
        self.rows = np.memmap(path, np.float32, "r+", shape=self.shape) if size else np.empty(self.shape, np.float32)


class Images:
    """A feature of every record by its number: kept up to `limit_bytes`, made again each time above that.

    `waveforms` gives those of row numbers, of which there are `num_records`; `make` is the feature at the corpus's rate. On a GPU nothing
    is kept: a waveform of 32 kB goes there and its image is made where it is used, sooner than an image of 230 kB could follow it.
    """

    def __init__(
        self,
        make: Callable[[Float[Tensor, "batch samples"]], Float[Tensor, "batch ..."]],
        shape: tuple[int, ...],
        waveforms: Callable[[Int64[np.ndarray, " batch"]], Float[Tensor, "batch samples"]],
        num_records: int,
        path: Path,
        limit_bytes: int,
        device: torch.device = torch.device("cpu"),
    ):
        self.make, self.shape, self.waveforms, self.device = make, shape, waveforms, device
        num_kept = min(num_records, limit_bytes // (4 * int(np.prod(shape)))) if device.type == "cpu" else 0
        self.kept = NodeArray(path, num_kept, shape).rows

    def fill(self, rank: int, size: int, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Makes this rank's share of the kept images; `rank` of `size` ranks on this node. The caller waits for the other ranks."""
        mine = np.array_split(np.arange(len(self.kept)), size)[rank]
        for start in range(0, len(mine), CHUNK):
            index = mine[start : start + CHUNK]
            self.kept[index] = self.make(self._waveforms(index)).numpy()
            progress(start + len(index), len(mine))

    def __call__(self, index: Int64[np.ndarray, " batch"]) -> Float[Tensor, "batch ..."]:
        """The images of these records, unscaled, on the device."""
        if len(index) == 0:
            return torch.empty(0, *self.shape, device=self.device)
        if index.max(initial=-1) < len(self.kept):
            return torch.from_numpy(self.kept[index])
        kept = index < len(self.kept)
        if not kept.any():
            return self.make(self._waveforms(index))
        out = torch.empty(len(index), *self.shape)
        out[torch.from_numpy(kept)] = torch.from_numpy(self.kept[index[kept]])
        out[torch.from_numpy(~kept)] = self.make(self._waveforms(index[~kept])).to(out)
        return out

    def _waveforms(self, index: Int64[np.ndarray, " batch"]) -> Float[Tensor, "batch samples"]:
        return self.waveforms(index).to(self.device)
