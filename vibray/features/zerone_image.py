"""The Zerone vector laid out as an image of cells, for convolutional classifiers."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int64
from pydantic import with_config
from torch import Tensor

from vibray.config import STRICT
from vibray.features.zerone import Zerone, ZeroneConfig

SIZE = 96
ROW_PIXELS = 2
CELLS_PER_ROW = {"time": 15, "stft": 32, "psd": 32, "hf": 8}
CELL_PIXELS = {"time": 6, "stft": 3, "psd": 3, "hf": 12}

PSD_FLOOR = 1e-20
"""Lowest density that log10 sees, in unit^2/Hz, absolute: white noise of rms 1e-8 at 8192 Hz lies at 2.4e-20."""


@with_config(STRICT)
@dataclass(frozen=True)
class ZeroneImageConfig:
    kind: Literal["zerone_image"] = "zerone_image"


class ZeroneImage:
    """The 1200 numbers of the Zerone vector as a (1, 96, 96) image. Bands lie on one another, each a grid of cells filled row by row:

        pixel rows                                                          cells (pixels wide)
           0 .. 1    time  | 1| 2| ... |15|......                           1 row  of 15 (6), 6 pixels unused
           2 .. 9    stft  | 1| 2| ...                |32|                  4 rows of 32 (3), the last cell unused
          10 .. 75   psd   | 1| 2| ...                |32|                  33 rows of 32 (3), the last 6 cells unused
          76 .. 77   hf    |   1   |   2   | ... |   8   |                  1 row  of 8 (12)
          78 .. 95   ......................................                 unused

    A row of cells is 2 pixels high. Unused pixels are 0: padded, not stretched. The psd block goes through log10, from a floor of
    1e-20 unit^2/Hz; the others are as they are. Scaling by quantiles of the training records is done later, pixel by pixel
    (features/scaling.py). `cells` says which number a pixel shows.
    """

    shape: tuple[int, ...] = (1, SIZE, SIZE)

    def __init__(self, config: ZeroneImageConfig) -> None:
        self.config = config
        self._zerone = Zerone(ZeroneConfig())
        self._cells = torch.from_numpy(self.cells())

    def check(self, sample_rate_hz: float, num_samples: int) -> None:
        """Raises UserError as the Zerone vector does."""
        self._zerone.check(sample_rate_hz, num_samples)

    def cells(self) -> Int64[np.ndarray, "96 96"]:
        """For each pixel the index in the Zerone vector (its name: Zerone.columns) of what it shows; -1 where unused."""
        index = np.full((SIZE, SIZE), -1, dtype=np.int64)
        top = 0
        for name, block in self._zerone.blocks.items():
            size, per_row, width = block.stop - block.start, CELLS_PER_ROW[name], CELL_PIXELS[name]
            num_rows = -(-size // per_row)
            grid = np.full(num_rows * per_row, -1, dtype=np.int64)
            grid[:size] = np.arange(block.start, block.stop)
            band = grid.reshape(num_rows, per_row).repeat(ROW_PIXELS, axis=0).repeat(width, axis=1)
            index[top : top + len(band), : band.shape[1]] = band
            top += len(band)
        return index

    def columns(self) -> tuple[str, ...]:
        """Names of the numbers that `cells` points to."""
        return self._zerone.columns()

    def __call__(self, waveforms: Float[Tensor, "batch samples"], sample_rate_hz: float) -> Float[Tensor, "batch 1 96 96"]:
        """The images, float32. Raises UserError as `check` does."""
        vectors = self._zerone(waveforms, sample_rate_hz)
        psd = self._zerone.blocks["psd"]
        vectors[:, psd] = vectors[:, psd].clamp_min(PSD_FLOOR).log10()
        cells = self._cells.to(vectors.device)
        return torch.where(cells >= 0, vectors[:, cells.clamp_min(0)], 0.0)[:, None]
