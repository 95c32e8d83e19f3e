"""The seed image: the original plan's CWT image, number for number."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pywt
import torch
from jaxtyping import Float
from pydantic import with_config
from torch import Tensor

from vibray.config import STRICT, UserError
from vibray.signal.pywt_cwt import PywtScalogram, bilinear_taps
from vibray.signal.waveform import standardised

FAST_CUT = 5.5
"""Scales from a filter's middle to its end in the fast setting."""

RECORDS_AT_ONCE = {"cpu": 8, "cuda": 256}
"""About 1 MB a record: 8 stay in a core's share of the cache; 64 take a third longer each."""


@with_config(STRICT)
@dataclass(frozen=True)
class SeedImageConfig:
    kind: Literal["seed_image"] = "seed_image"
    wavelet: str = "morl"
    """A continuous wavelet of PyWavelets."""
    num_scales: int = 128
    """The scales are 1, 2, ... up to this one."""
    rows: int = 224
    """Rows that the scales are resized to, scale 1 (the highest frequency) first."""
    columns: int = 224
    """Columns that the samples are resized to."""
    fast: bool = False
    """Shorter filters: a quarter less time, images within 2e-4 of the exact ones."""

    def __post_init__(self) -> None:
        try:
            pywt.ContinuousWavelet(self.wavelet)  # type: ignore[attr-defined]
        except ValueError as error:
            raise UserError(f"seed_image: {self.wavelet!r} is none of PyWavelets' continuous wavelets, such as morl: {error}") from None
        if min(self.num_scales, self.rows, self.columns) < 1:
            raise UserError(f"seed_image: {self.num_scales} scales, {self.rows} rows and {self.columns} columns must all be at least 1")


class SeedImage:
    """(3, rows, columns): scales 1 to 128 of pywt's real "morl" on the z-score, absolute value, bilinear resize without anti-aliasing
    (half-pixel centres, two taps an axis, borders clamped), min-max of the image with 1e-8 in the denominator, three identical channels
    (one in memory). What pywt.cwt and cv2.resize give in float64, to 1e-6.

    For comparison. Amplitude is lost in it, and |W| between the sampled columns; scale 1 lies above Nyquist.
    """

    def __init__(self, config: SeedImageConfig) -> None:
        self.config = config
        self.shape: tuple[int, ...] = (3, config.rows, config.columns)
        low, weight = bilinear_taps(config.num_scales, config.rows)
        self._low, self._weight = torch.from_numpy(low), torch.from_numpy(weight).float()[:, None, None]
        self._scalogram: tuple[tuple[int, torch.device], PywtScalogram] | None = None

    def check(self, sample_rate_hz: float, num_samples: int) -> None:
        """Raises UserError where a record is shorter than the image is wide, and says what would do."""
        if num_samples < self.config.columns:
            raise UserError(f"seed_image: {self.config.columns} columns need as many samples; a record has {num_samples}")

    def rows_hz(self, sample_rate_hz: float) -> tuple[float, ...]:
        """Centre frequency of the scale, or the place between two scales, at which each row is read."""
        scales = 1 + np.clip(self._low.numpy() + self._weight.numpy()[:, 0, 0], 0, self.config.num_scales - 1)
        return tuple((pywt.central_frequency(self.config.wavelet) * sample_rate_hz / scales).tolist())

    def __call__(self, waveforms: Float[Tensor, "batch samples"], sample_rate_hz: float) -> Float[Tensor, "batch 3 rows columns"]:
        """The images, float32, on the waveforms' device. Raises UserError as `check` does."""
        self.check(sample_rate_hz, waveforms.shape[-1])
        scalogram = self._built(waveforms.shape[-1], waveforms.device)
        images = torch.empty(len(waveforms), *self.shape[1:], dtype=torch.float32, device=waveforms.device)
        at_once = RECORDS_AT_ONCE[waveforms.device.type]
        for some, image in zip(waveforms.split(at_once), images.split(at_once), strict=True):
            scales = scalogram(standardised(some))
            low = self._low.to(scales.device)
            high = (low + 1).clamp_max(self.config.num_scales - 1)
            image.copy_(torch.lerp(scales[low], scales[high], self._weight.to(scales.device)).permute(2, 0, 1))
            lowest, highest = image.aminmax(dim=-1)
            lowest, highest = lowest.amin(-1)[:, None, None], highest.amax(-1)[:, None, None]
            image.sub_(lowest).div_(highest - lowest + 1e-8)
        return images[:, None].expand(-1, 3, -1, -1)

    def _built(self, num_samples: int, device: torch.device) -> PywtScalogram:
        c, key = self.config, (num_samples, device)
        if self._scalogram is None or self._scalogram[0] != key:
            cut = FAST_CUT if c.fast else None
            scales = [float(scale) for scale in range(1, c.num_scales + 1)]
            self._scalogram = key, PywtScalogram(c.wavelet, scales, num_samples, c.columns, device, cut)
        return self._scalogram[1]

    def __getstate__(self) -> dict[str, Any]:
        # filters are megabytes, and made again in milliseconds where the copy arrives
        return {**self.__dict__, "_scalogram": None}
