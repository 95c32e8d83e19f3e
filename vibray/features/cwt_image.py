"""The CWT image: area means and maxima of the analytic Morlet's envelope."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import with_config
from torch import Tensor

from vibray.config import STRICT, UserError
from vibray.signal.cwt import AnalyticMorlet, geometric_hz

CYCLES_PER_RECORD = 2.70
"""A row at f Hz needs a record of 2.70 / f seconds: about three sigma of its wavelet."""

SAMPLES_PER_COLUMN = 4
HIGHEST_SHARE_OF_RATE = 0.46


@with_config(STRICT)
@dataclass(frozen=True)
class CwtImageConfig:
    kind: Literal["cwt_image"] = "cwt_image"
    rows: int = 128
    """Rows, geometric in Hz from min_hz to max_hz, the lowest first."""
    columns: int = 224
    """Columns: column j is samples floor(j N / columns) to floor((j + 1) N / columns)."""
    min_hz: float = 40.0
    """Frequency of the lowest row, in Hz whatever the rate, so that a row means the same in every corpus."""
    max_hz: float = 3700.0
    """Frequency of the highest row; at most 0.46 of the sample rate."""

    def __post_init__(self) -> None:
        if self.rows < 2 or self.columns < 1:
            raise UserError(f"cwt_image: needs at least 2 rows and 1 column, not {self.rows} and {self.columns}")
        if not 0 < self.min_hz < self.max_hz:
            raise UserError(f"cwt_image: must have 0 < min_hz < max_hz, not {self.min_hz:g} and {self.max_hz:g}")


class CwtImage:
    """A waveform's time-frequency image, (2, rows, columns): |W_f| of the analytic Morlet in the record's unit, so that a sine of amplitude
    A gives A on its row; channel 0 is its area mean, channel 1 its area maximum over a column's samples. The maximum is what sees short
    bursts. No logarithm and no scaling: they are fitted on the corpus (features/scaling.py). At 8192 Hz the rows above 3.3 kHz lose up to
    18 % of their power to Nyquist.

    Source: Torrence and Compo 1998 for the analytic Morlet with omega0 = 6, here scaled to the amplitude of a sine.
    """

    def __init__(self, config: CwtImageConfig) -> None:
        self.config = config
        self.shape: tuple[int, ...] = (2, config.rows, config.columns)
        self._transform: tuple[tuple[float, int, torch.device], AnalyticMorlet] | None = None

    def check(self, sample_rate_hz: float, num_samples: int) -> None:
        """Raises UserError where records of this rate and length do not give the image, and says what would."""
        c = self.config
        if c.max_hz > HIGHEST_SHARE_OF_RATE * sample_rate_hz:
            raise UserError(
                f"cwt_image: row {c.rows - 1} (max_hz {c.max_hz:g}) is above {HIGHEST_SHARE_OF_RATE} of the rate {sample_rate_hz:g} Hz; "
                f"the largest max_hz that works is {math.floor(HIGHEST_SHARE_OF_RATE * sample_rate_hz * 100) / 100:g}"
            )
        lowest = CYCLES_PER_RECORD * sample_rate_hz / num_samples
        if c.min_hz < lowest:
            num_bad = sum(f < lowest for f in self.rows_hz(sample_rate_hz))
            raise UserError(
                f"cwt_image: row 0 (min_hz {c.min_hz:g}) and {num_bad - 1} more need longer records than {num_samples} samples at "
                f"{sample_rate_hz:g} Hz; the smallest min_hz that works is {math.ceil(lowest * 1000) / 1000:.10g}"
            )
        if num_samples < SAMPLES_PER_COLUMN * c.columns:
            raise UserError(
                f"cwt_image: {c.columns} columns need {SAMPLES_PER_COLUMN * c.columns} samples; a record has {num_samples}: "
                f"at most {num_samples // SAMPLES_PER_COLUMN} columns work (min_hz {c.min_hz:g} does)"
            )

    def rows_hz(self, sample_rate_hz: float) -> tuple[float, ...]:
        """Frequency of each row in Hz, the same at every rate."""
        return geometric_hz(self.config.min_hz, self.config.max_hz, self.config.rows)

    def __call__(self, waveforms: Float[Tensor, "batch samples"], sample_rate_hz: float) -> Float[Tensor, "batch 2 rows columns"]:
        """The images, float32, on the waveforms' device. Raises UserError as `check` does."""
        self.check(sample_rate_hz, waveforms.shape[-1])
        key = sample_rate_hz, waveforms.shape[-1], waveforms.device
        if self._transform is None or self._transform[0] != key:
            rows_hz = self.rows_hz(sample_rate_hz)
            self._transform = key, AnalyticMorlet(rows_hz, sample_rate_hz, waveforms.shape[-1], self.config.columns, waveforms.device)
        return self._transform[1].column_means_and_maxima(waveforms)

    def __getstate__(self) -> dict[str, Any]:
        # filters are megabytes, and made again in milliseconds where the copy arrives
        return {**self.__dict__, "_transform": None}
