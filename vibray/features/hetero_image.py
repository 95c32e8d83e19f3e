"""The hetero image: wavelet envelope, short-time spectrum and folded mains cycles as three channels of one size on one time axis."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Float64, Int64
from pydantic import with_config
from torch import Tensor

from vibray.config import STRICT, UserError
from vibray.features.cwt_image import CwtImage, CwtImageConfig
from vibray.signal.harmonics import MAINS_TOLERANCE_HZ, Mains, check_mains, mains_frequency
from vibray.signal.stft import stft_power
from vibray.signal.waveform import centred, column_edges, odd_extension

MAGNITUDE_FLOOR = 1e-12
"""Added to both magnitudes, in the record's unit, before the logarithm: absolute, far below any float32 vibration record."""

RECORDS_AT_ONCE = 8
"""About 1 MB a record: 8 stay in a core's share of the cache."""

CYCLES = 2
"""A column of the context channel is a pair of mains cycles."""


@with_config(STRICT)
@dataclass(frozen=True)
class HeteroImageConfig:
    kind: Literal["hetero_image"] = "hetero_image"
    mains_hz: float | None = None
    """Nominal mains frequency, 50 or 60. None: the corpus's own; filled in when the feature is built."""
    rows: int = 128
    """Rows of each of the three channels."""
    columns: int = 224
    """Columns: column j is samples floor(j N / columns) to floor((j + 1) N / columns) in all three channels."""
    min_hz: float = 40.0
    """Frequency of the lowest row of the CWT channel."""
    max_hz: float = 3700.0
    """Frequency of the highest row of the CWT channel; at most 0.46 of the sample rate."""
    stft_window: int = 256
    """Samples of a frame of the STFT channel; its stft_window / 2 bins above DC are resized to `rows`."""

    def __post_init__(self) -> None:
        if self.stft_window < 8 or self.stft_window % 2:
            raise UserError(f"hetero_image: stft_window must be an even number of samples, at least 8, not {self.stft_window}")
        self.cwt()

    def cwt(self) -> CwtImageConfig:
        """Config of the CWT channel."""
        return CwtImageConfig(rows=self.rows, columns=self.columns, min_hz=self.min_hz, max_hz=self.max_hz)


class HeteroImage:
    """(3, rows, columns); column j stands for the same samples in every channel, row 0 is the lowest frequency or the earliest phase.

    * 0 `cwt`: ln of the area mean of the default CWT image.
    * 1 `stft`: ln |STFT| of a Hann frame centred on the column (of as many frames, evenly spaced and averaged, as keep neighbouring
      ones overlapping by half), over odd reflection at the ends; bins 1 .. stft_window / 2 resized to the rows, linear in Hz.
    * 2 `context`: the record minus its mean, folded at the mains period estimated from it: a column is the pair of mains cycles that
      starts with the column's first sample, its rows the phase within the pair, each the mean over its share of it, in the record's
      unit and sign. A pair that the record's end cuts takes the missing phases from the pair before: folding holds them the same.

    The logarithms are taken here, since the third channel has none: scale it with transform="none".
    """

    channels = ("cwt", "stft", "context")

    def __init__(self, config: HeteroImageConfig) -> None:
        self.config = config
        self.shape: tuple[int, ...] = (3, config.rows, config.columns)
        self._cwt = CwtImage(config.cwt())

    def check(self, sample_rate_hz: float, num_samples: int) -> None:
        """Raises UserError without a mains frequency, for fewer than 8 mains cycles, for a short record, and as the CWT image does."""
        check_mains(self.config.mains_hz, sample_rate_hz, num_samples)
        self._cwt.check(sample_rate_hz, num_samples)
        if num_samples < self.config.stft_window:
            raise UserError(f"hetero_image: stft_window {self.config.stft_window} is longer than a record of {num_samples} samples")

    def rows_hz(self, sample_rate_hz: float) -> tuple[float, ...]:
        """Frequency of each row of the CWT channel, in Hz."""
        return self._cwt.rows_hz(sample_rate_hz)

    def __call__(
        self, waveforms: Float[Tensor, "batch samples"], sample_rate_hz: float, mains: Mains | None = None
    ) -> Float[Tensor, "batch 3 rows columns"]:
        """The images, float32; `mains`: the lines of these records, where they were found before. Raises UserError as `check` does."""
        self.check(sample_rate_hz, waveforms.shape[-1])
        images = torch.empty((len(waveforms), *self.shape), dtype=torch.float32, device=waveforms.device)
        if not len(waveforms):  # MKL knows no transforms of nothing
            return images
        assert self.config.mains_hz is not None
        f0 = mains_frequency(waveforms, sample_rate_hz, self.config.mains_hz).frequency_hz if mains is None else mains.frequency_hz
        for image, some, own in zip(
            images.split(RECORDS_AT_ONCE), waveforms.split(RECORDS_AT_ONCE), f0.split(RECORDS_AT_ONCE), strict=True
        ):
            self._fill(image, some, own, sample_rate_hz)
        return images

    def _fill(
        self,
        images: Float[Tensor, "batch 3 rows columns"],
        waveforms: Float[Tensor, "batch samples"],
        f0: Float64[Tensor, " batch"],
        sample_rate_hz: float,
    ) -> None:
        c = self.config
        assert c.mains_hz is not None
        torch.log(self._cwt(waveforms, sample_rate_hz)[:, 0] + MAGNITUDE_FLOOR, out=images[:, 0])
        x = centred(waveforms).float()
        images[:, 1] = _resized(_log_stft(x, c.columns, c.stft_window), c.rows)
        # at least one phase a sample, and equally many for every row
        longest = CYCLES * sample_rate_hz / (c.mains_hz - MAINS_TOLERANCE_HZ)
        per_row = math.ceil(longest / c.rows)
        context = folded(x, CYCLES * sample_rate_hz / f0, c.columns, c.rows * per_row)
        torch.mean(context.unflatten(1, (c.rows, per_row)), 2, out=images[:, 2])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cwt": CwtImage(self.config.cwt())}


def folded(
    waveforms: Float[Tensor, "batch samples"], period_samples: Float64[Tensor, " batch"], columns: int, phases: int
) -> Float[Tensor, "batch phases columns"]:
    """The waveform read linearly at column start + (p + 1/2) / phases periods, p = 0 .. phases - 1; what lies past the last sample is
    read a period earlier. `period_samples` need not be whole; the record must hold two periods."""
    last = waveforms.shape[-1] - 1
    start = column_edges(waveforms.shape[-1], columns)[:-1].to(waveforms.device)
    offset = (torch.arange(phases, dtype=torch.float64, device=waveforms.device) + 0.5) / phases * period_samples[:, None]
    # the whole and the broken part of an offset are the same in all columns: rows of windows are read, not samples
    below = offset.floor().long()
    weight = (offset - below).to(waveforms.dtype)[:, :, None]
    longest = int(below.max()) + 2
    inside = int((start + longest <= last + 1).sum())
    at = start[:inside] + torch.arange(longest, device=start.device)[:, None]
    windows = waveforms.index_select(-1, at.flatten()).view(-1, inside)
    row = (below + longest * torch.arange(len(waveforms), device=start.device)[:, None]).flatten()
    here, after = (windows.index_select(0, r).view(len(waveforms), phases, inside) for r in (row, row + 1))
    return torch.cat([torch.lerp(here, after, weight), _folded_tail(waveforms, start[inside:], offset, period_samples)], dim=-1)


def _folded_tail(
    waveforms: Float[Tensor, "batch samples"],
    start: Int64[Tensor, " columns"],
    offset: Float64[Tensor, "batch phases"],
    period_samples: Float64[Tensor, " batch"],
) -> Float[Tensor, "batch phases columns"]:
    last = waveforms.shape[-1] - 1
    at = start + offset[:, :, None]
    at = torch.where(at > last, at - period_samples[:, None, None], at)
    below = at.floor().long().clamp(0, last - 1)
    here, after = (waveforms.gather(-1, index.flatten(1)).view_as(at) for index in (below, below + 1))
    return torch.lerp(here, after, (at - below).to(waveforms.dtype))


def _log_stft(x: Float[Tensor, "batch samples"], columns: int, window: int) -> Float[Tensor, "batch bins columns"]:
    """ln of |STFT| at each column: the mean over `per_column` frames centred evenly within it; bins 1 .. window / 2."""
    n = x.shape[-1]
    per_column = math.ceil(2 * n / (columns * window))
    # frame k of column j begins half a window before the middle of its share of the column
    middles = (2 * torch.arange(columns * per_column, device=x.device) + 1) * n // (2 * columns * per_column)
    extended = odd_extension(x, window // 2, window // 2)
    index = middles[:, None] + torch.arange(window, device=x.device)
    # the frames one behind the other, so that a hop is a window
    cut = extended.index_select(-1, index.flatten())
    magnitude = stft_power(cut, window, window)[..., 1:].sqrt_()
    return torch.log(magnitude.unflatten(1, (columns, per_column)).mean(2) + MAGNITUDE_FLOOR).float().transpose(-1, -2)


def _resized(image: Float[Tensor, "batch bins columns"], rows: int) -> Float[Tensor, "batch rows columns"]:
    if image.shape[1] == rows:
        return image
    size = (rows, image.shape[2])
    return torch.nn.functional.interpolate(image[:, None], size=size, mode="bilinear", align_corners=False, antialias=True)[:, 0]
