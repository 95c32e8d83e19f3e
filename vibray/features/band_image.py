"""The band image: how loud each band of fixed Hz is, and how much it moves, stretch by stretch of a record of any rate and length."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float64
from pydantic import with_config
from torch import Tensor

from vibray.config import STRICT, UserError
from vibray.signal.psd import band_weights
from vibray.signal.stft import in_parts, stft_power
from vibray.signal.waveform import centred

POWER_FLOOR = 1e-30
"""Added to a band's power before its logarithm."""


@with_config(STRICT)
@dataclass(frozen=True)
class BandImageConfig:
    kind: Literal["band_image"] = "band_image"
    rows: int = 128
    """Bands. Band i lies between linear_hz sinh(a i) and linear_hz sinh(a (i + 1)), a such that the last ends at max_hz."""
    columns: int = 2
    """Equal stretches of the record."""
    linear_hz: float = 200.0
    """Below this the bands are about equally wide (9 Hz), above it about equally wide on a logarithmic scale (4 %)."""
    max_hz: float = 25600.0
    """Upper end of the last band, whatever the rate: a band means the same Hz in every corpus."""
    window_s: float = 0.125
    """Window of the levels: the longer, the finer the lowest bands."""
    burst_window_s: float = 0.016
    """Window of the movement: the shorter, the shorter the bursts that show."""

    def __post_init__(self) -> None:
        if self.rows < 2 or self.columns < 1:
            raise UserError(f"band_image: needs at least 2 rows and 1 column, not {self.rows} and {self.columns}")
        if not 0 < self.linear_hz < self.max_hz or not 0 < self.burst_window_s <= self.window_s:
            raise UserError("band_image: must have 0 < linear_hz < max_hz and 0 < burst_window_s <= window_s")

    def edges_hz(self) -> Float64[np.ndarray, " edges"]:
        """The rows + 1 ends of the bands."""
        return self.linear_hz * np.sinh(np.linspace(0, math.asinh(self.max_hz / self.linear_hz), self.rows + 1))


class BandImage:
    """A waveform's bands over its stretches, (2, rows, columns): channel 0 is the mean over the windows of a stretch of ln band power,
    channel 1 the standard deviation of the same over shorter windows. A band that ends above half the sample rate is 0 throughout.

    Of a record shorter than a window and a half a stretch, the window is what fits. Computed in float64, returned in float32.
    """

    def __init__(self, config: BandImageConfig) -> None:
        self.config = config
        self.shape: tuple[int, ...] = (2, config.rows, config.columns)

    def check(self, sample_rate_hz: float, num_samples: int) -> None:
        """Raises UserError where a stretch does not hold two of the shorter windows, or fewer than 8 bands lie below Nyquist."""
        stretch, window = num_samples // self.config.columns, _window(self.config.burst_window_s, sample_rate_hz)
        if stretch < 2 * window:
            raise UserError(
                f"band_image: {self.config.columns} columns of a record of {num_samples} samples are shorter than two windows of "
                f"{self.config.burst_window_s:g} s at {sample_rate_hz:g} Hz: choose fewer columns or a shorter burst_window_s"
            )
        if self.num_heard(sample_rate_hz) < 8:
            raise UserError(f"band_image: fewer than 8 bands lie below half of {sample_rate_hz:g} Hz: choose more rows or a lower max_hz")

    def num_heard(self, sample_rate_hz: float) -> int:
        """How many bands end below half the sample rate."""
        return int((self.config.edges_hz()[1:] <= sample_rate_hz / 2).sum())

    def rows_hz(self, sample_rate_hz: float) -> tuple[float, ...]:
        """Middle of each band in Hz, the same at every rate."""
        edges = self.config.edges_hz()
        return tuple(((edges[1:] + edges[:-1]) / 2).tolist())

    def __call__(self, waveforms: Float[Tensor, "batch samples"], sample_rate_hz: float) -> Float[Tensor, "batch 2 rows columns"]:
        """The images, float32, on the waveforms' device. Raises UserError as `check` does."""
        self.check(sample_rate_hz, waveforms.shape[-1])
        images = waveforms.new_zeros((len(waveforms), *self.shape), dtype=torch.float32)
        heard = self.num_heard(sample_rate_hz)
        for part, records in in_parts(waveforms):
            images[part, :, :heard] = self._images(centred(records), sample_rate_hz).float()
        return images

    def _images(self, x: Float64[Tensor, "batch samples"], sample_rate_hz: float) -> Float64[Tensor, "batch 2 heard columns"]:
        c = self.config
        stretch = x.shape[-1] // c.columns
        x = x[:, : stretch * c.columns].unflatten(-1, (c.columns, stretch)).flatten(0, 1)
        burst = _window(c.burst_window_s, sample_rate_hz)
        window = max(burst, min(_window(c.window_s, sample_rate_hz), 1 << ((2 * stretch // 3).bit_length() - 1)))
        level = self._log_power(x, window, sample_rate_hz).mean(1)
        moves = self._log_power(x, burst, sample_rate_hz).std(1, correction=0)
        return torch.stack([level, moves], dim=1).unflatten(0, (-1, c.columns)).permute(0, 2, 3, 1)

    def _log_power(self, x: Float64[Tensor, "batch samples"], window: int, sample_rate_hz: float) -> Float64[Tensor, "batch windows heard"]:
        power = stft_power(x, window, window // 2)[..., 1:]
        return torch.log(power @ _weights(self.config, window, sample_rate_hz, x.device) + POWER_FLOOR)


def _window(seconds: float, sample_rate_hz: float) -> int:
    """The power of two that is nearest to so long."""
    return 1 << max(2, round(math.log2(seconds * sample_rate_hz)))


@lru_cache(maxsize=32)
def _weights(config: BandImageConfig, window: int, sample_rate_hz: float, device: torch.device) -> Float64[Tensor, "bins heard"]:
    """How each band that ends below half the sample rate averages the power of the bins of a window."""
    edges_hz = config.edges_hz()
    heard = edges_hz[edges_hz <= sample_rate_hz / 2]
    return torch.from_numpy(band_weights(np.maximum(heard * window / sample_rate_hz, 0.5), window // 2)).to(device)
