"""The CWT image: `seed` as the original plan has it, number for number, and the analytic image that takes its place by default."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import with_config
from torch import Tensor

from vibray.config import STRICT
from vibray.signal.cwt import AnalyticMorlet, geometric_hz, morl_cwt, morl_frequencies_hz
from vibray.signal.waveform import column_edges, standardised

SEED_SCALES = 128
SEED_SIZE = 224

CYCLES_PER_RECORD = 2.70
"""A row at f Hz needs a record of 2.70 / f seconds: about three sigma of its wavelet."""

SAMPLES_PER_COLUMN = 4
HIGHEST_SHARE_OF_RATE = 0.46


@with_config(STRICT)
@dataclass(frozen=True)
class CwtImageConfig:
    kind: Literal["cwt_image"] = "cwt_image"
    mode: Literal["analytic", "seed"] = "analytic"
    """analytic: (2, rows, columns), area mean and area maximum of the analytic Morlet's envelope. seed: (3, 224, 224), the original plan's
    image through PyWavelets; the other fields then have no say."""
    rows: int = 128
    """Rows of the analytic image, geometric in Hz from min_hz to max_hz, the lowest first."""
    columns: int = 224
    """Columns of the analytic image: column j is samples floor(j N / columns) to floor((j + 1) N / columns)."""
    min_hz: float = 40.0
    """Frequency of the lowest row, in Hz whatever the rate, so that a row means the same in every corpus."""
    max_hz: float = 3700.0
    """Frequency of the highest row; at most 0.46 of the sample rate."""

    def __post_init__(self) -> None:
        if self.rows < 2 or self.columns < 1:
            raise ValueError(f"cwt_image: needs at least 2 rows and 1 column, not {self.rows} and {self.columns}")
        if not 0 < self.min_hz < self.max_hz:
            raise ValueError(f"cwt_image: must have 0 < min_hz < max_hz, not {self.min_hz:g} and {self.max_hz:g}")


class CwtImage:
    """A waveform's time-frequency image.

    `analytic` (default), (2, rows, columns): |W_f| of the analytic Morlet in the record's unit, so that a sine of amplitude A gives A on
    its row; channel 0 is its area mean, channel 1 its area maximum over a column's samples. The maximum is what sees short bursts. No
    logarithm and no scaling: they are fitted on the corpus (features/scaling.py). At 8192 Hz the rows above 3.3 kHz lose up to 18 % of
    their power to Nyquist. About 100 MB of memory beside the images, whatever the batch.

    `seed`, (3, 224, 224): scales 1 to 128 of pywt's real "morl" on the z-score, absolute value, bilinear resize without anti-aliasing
    (half-pixel centres, two taps an axis, borders clamped), min-max of the image with 1e-8 in the denominator, three identical channels.
    Computed in float64 on the CPU, one record at a time. Amplitude is lost in it, and |W| between the sampled columns.

    Source: Torrence and Compo 1998 for the analytic Morlet with omega0 = 6, here scaled to the amplitude of a sine.
    """

    def __init__(self, config: CwtImageConfig) -> None:
        self.config = config
        seed = config.mode == "seed"
        self.shape: tuple[int, ...] = (3, SEED_SIZE, SEED_SIZE) if seed else (2, config.rows, config.columns)
        self._transform: tuple[tuple[float, int, torch.device], AnalyticMorlet, Tensor] | None = None

    def check(self, sample_rate_hz: float, num_samples: int) -> None:
        """Raises ValueError where records of this rate and length do not give the image, and says what would."""
        if self.config.mode == "seed":
            if num_samples < SEED_SIZE:
                raise ValueError(f"cwt_image: {SEED_SIZE} columns need as many samples; a record has {num_samples}")
            return
        c = self.config
        if c.max_hz > HIGHEST_SHARE_OF_RATE * sample_rate_hz:
            raise ValueError(
                f"cwt_image: row {c.rows - 1} (max_hz {c.max_hz:g}) is above {HIGHEST_SHARE_OF_RATE} of the rate {sample_rate_hz:g} Hz; "
                f"the largest max_hz that works is {math.floor(HIGHEST_SHARE_OF_RATE * sample_rate_hz * 100) / 100:g}"
            )
        lowest = CYCLES_PER_RECORD * sample_rate_hz / num_samples
        if c.min_hz < lowest:
            num_bad = sum(f < lowest for f in self.rows_hz(sample_rate_hz))
            raise ValueError(
                f"cwt_image: row 0 (min_hz {c.min_hz:g}) and {num_bad - 1} more need longer records than {num_samples} samples at "
                f"{sample_rate_hz:g} Hz; the smallest min_hz that works is {math.ceil(lowest * 1000) / 1000:.10g}"
            )
        if num_samples < SAMPLES_PER_COLUMN * c.columns:
            raise ValueError(
                f"cwt_image: {c.columns} columns need {SAMPLES_PER_COLUMN * c.columns} samples; a record has {num_samples}: "
                f"at most {num_samples // SAMPLES_PER_COLUMN} columns work (min_hz {c.min_hz:g} does)"
            )

    def rows_hz(self, sample_rate_hz: float) -> tuple[float, ...]:
        """Frequency of each row in Hz. In the seed image, that of the place between two scales at which the row is read."""
        if self.config.mode == "analytic":
            return geometric_hz(self.config.min_hz, self.config.max_hz, self.config.rows)
        centres = (np.arange(SEED_SIZE) + 0.5) * SEED_SCALES / SEED_SIZE - 0.5
        scales = 1 + np.clip(centres, 0, SEED_SCALES - 1)
        return tuple(float(f) for f in morl_frequencies_hz(scales, sample_rate_hz))

    def __call__(self, waveforms: Float[Tensor, "batch samples"], sample_rate_hz: float) -> Float[Tensor, "batch channels rows columns"]:
        """The images, float32, on the waveforms' device. Raises ValueError as `check` does."""
        self.check(sample_rate_hz, waveforms.shape[-1])
        if self.config.mode == "analytic":
            transform, edges = self._analytic(sample_rate_hz, waveforms.shape[-1], waveforms.device)
            return transform.column_means_and_maxima(waveforms, edges)
        images = waveforms.new_empty((len(waveforms), *self.shape), dtype=torch.float32)
        for i in range(len(waveforms)):  # 8 MB of coefficients each
            images[i] = _seed_image(waveforms[i : i + 1], sample_rate_hz)
        return images

    def _analytic(self, sample_rate_hz: float, num_samples: int, device: torch.device) -> tuple[AnalyticMorlet, Tensor]:
        key = sample_rate_hz, num_samples, device
        if self._transform is None or self._transform[0] != key:
            transform = AnalyticMorlet(self.rows_hz(sample_rate_hz), sample_rate_hz, num_samples, device)
            self._transform = key, transform, column_edges(num_samples, self.config.columns).to(device)
        return self._transform[1:]

    def __getstate__(self) -> dict[str, Any]:
        # filters are megabytes, and made again in milliseconds where the copy arrives
        return {**self.__dict__, "_transform": None}


def _seed_image(waveform: Float[Tensor, "1 samples"], sample_rate_hz: float) -> Float[Tensor, "1 rows columns"]:
    magnitude = morl_cwt(standardised(waveform), SEED_SCALES, sample_rate_hz).abs()
    # in float64: float32 places the two taps up to 2e-4 of a sample off
    image = torch.nn.functional.interpolate(magnitude[None], size=(SEED_SIZE, SEED_SIZE), mode="bilinear", align_corners=False)[0]
    low, high = image.min(), image.max()
    return (image - low) / (high - low + 1e-8)
