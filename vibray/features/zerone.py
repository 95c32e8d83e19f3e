"""The Zerone vector: 1200 numbers of a record in four named blocks, by its author's definitions; and vectors pooled over sensors."""

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int64
from pydantic import with_config
from torch import Tensor

from vibray.config import STRICT, UserError
from vibray.signal.psd import Reading, band_means, interpolated, linear_reading, welch_psd
from vibray.signal.statistics import TIME_STATISTICS, time_statistics
from vibray.signal.stft import in_parts, stft_power
from vibray.signal.waveform import centred

NUM_SAMPLES = 8192
MIN_RATE_HZ = 8002.0
STFT_WINDOW, STFT_HOP, STFT_FRAMES = 128, 64, 127
WELCH_SEGMENT = 4096
SINGLE_HZ, POOLED_HZ, POOL = 1000, 2000, 20
THRESHOLDS_HZ = (1000, 2000, 3000, 4000)
RATIO_FLOOR = 1e-12
"""Added to each denominator of the hf block: absolute, as the author has it. On records below about 1e-5 it dominates."""


@with_config(STRICT)
@dataclass(frozen=True)
class ZeroneConfig:
    kind: Literal["zerone"] = "zerone"


class Zerone:
    """1200 = time 15 + stft 127 + psd 1050 + hf 8, for records of 8192 samples at 8002 Hz or more; raw records, no z-score.

    * `time`: signal/statistics.py, with the author's signed `max` and his own margin factor; not the textbook's.
    * `stft`: |STFT| of the record minus its mean (periodic Hann 128, hop 64, scaled by the window's sum, DC bin dropped), mean over
      frequency of each of the 127 frames, in time order. It is a time series and says little about a stationary fault.
    * `psd`: Welch density (4096 samples, half overlap, zero-padded to 8192) read linearly at 1, 2, ... Hz: 1 to 1000 Hz as it is, then
      1001 to 2000 Hz as 50 means of 20. (The original plan's psd[:1050] would be 1 to 1050 Hz.)
    * `hf`: for 1, 2, 3, 4 kHz, mean density at or above over mean density below, and trapezoid integral at or above over the whole
      integral, over 1 .. floor(fs / 2) Hz, with 1e-12 added to each denominator: an absolute number that dominates records below 1e-5.

    Computed in float64, returned in float32.
    """

    shape: tuple[int, ...] = (1200,)
    blocks: ClassVar[dict[str, slice]] = {"time": slice(0, 15), "stft": slice(15, 142), "psd": slice(142, 1192), "hf": slice(1192, 1200)}

    def __init__(self, config: ZeroneConfig) -> None:
        self.config = config

    def check(self, sample_rate_hz: float, num_samples: int) -> None:
        """Raises UserError for any other length than 8192 samples, and below 8002 Hz, where 4 kHz is not below Nyquist."""
        if num_samples != NUM_SAMPLES or sample_rate_hz < MIN_RATE_HZ:
            raise UserError(
                f"zerone is defined for {NUM_SAMPLES} samples at {MIN_RATE_HZ:g} Hz or more, not for {num_samples} samples at "
                f"{sample_rate_hz:g} Hz: the spectral vector is there for any rate and length"
            )

    def columns(self) -> tuple[str, ...]:
        """Name of each of the 1200 numbers."""
        pooled = range(SINGLE_HZ + 1, POOLED_HZ + 1, POOL)
        return (
            *(f"time_{name}" for name in TIME_STATISTICS),
            *(f"stft_frame_{i:03d}" for i in range(STFT_FRAMES)),
            *(f"psd_{f:04d}_hz" for f in range(1, SINGLE_HZ + 1)),
            *(f"psd_{f}_{f + POOL - 1}_hz" for f in pooled),
            *(f"hf_{what}_ratio_{f}_hz" for f in THRESHOLDS_HZ for what in ("mean", "power")),
        )

    def frequencies_hz(self, sample_rate_hz: float) -> tuple[float | None, ...]:
        """Frequency of each number: the (middle of the) band in `psd`, the threshold in `hf`, None in `time` and `stft`."""
        pooled = (f + (POOL - 1) / 2 for f in range(SINGLE_HZ + 1, POOLED_HZ + 1, POOL))
        single = (float(f) for f in range(1, SINGLE_HZ + 1))
        return (*[None] * 142, *single, *pooled, *(float(f) for f in THRESHOLDS_HZ for _ in range(2)))

    def __call__(self, waveforms: Float[Tensor, "batch samples"], sample_rate_hz: float) -> Float[Tensor, "batch 1200"]:
        """The vectors, float32. Raises UserError as `check` does."""
        self.check(sample_rate_hz, waveforms.shape[-1])
        vectors = waveforms.new_empty((len(waveforms), *self.shape), dtype=torch.float32)
        bands = waveforms.new_empty((len(waveforms), 11), dtype=torch.float64)
        for part, records in in_parts(waveforms):
            xc = centred(records)
            # float32 is enough for a mean of magnitudes; a density 140 dB below the strongest line, as hf may see it, needs float64
            vectors[part, self.blocks["stft"]] = stft_power(xc.float(), STFT_WINDOW, STFT_HOP)[..., 1:].sqrt().mean(-1)
            psd = _psd_by_hz(xc, sample_rate_hz)
            pooled = band_means(psd[:, SINGLE_HZ:POOLED_HZ], (POOLED_HZ - SINGLE_HZ) // POOL)
            vectors[part, self.blocks["psd"]] = torch.cat([psd[:, :SINGLE_HZ], pooled], dim=-1).float()
            bands[part] = _bands(psd)
        vectors[:, self.blocks["time"]] = time_statistics(waveforms).float()
        vectors[:, self.blocks["hf"]] = _high_frequency_ratios(bands, int(sample_rate_hz // 2)).float()
        return vectors


def _psd_by_hz(xc: Float[Tensor, "batch samples"], sample_rate_hz: float) -> Float[Tensor, "batch hz"]:
    """Density at 1, 2, ..., floor(fs / 2) Hz: element f - 1 is f Hz."""
    n = xc.shape[-1]
    psd = welch_psd(xc, sample_rate_hz, WELCH_SEGMENT, n)
    if sample_rate_hz == n:  # the bins stand at whole Hz already
        return psd[:, 1:]
    first, reading = _whole_hz(sample_rate_hz, n, xc.device)
    return interpolated(psd[:, first:], reading)


@lru_cache(maxsize=16)
def _whole_hz(sample_rate_hz: float, num_fft: int, device: torch.device) -> tuple[int, Reading]:
    """The first bin at or above 1 Hz, and how to read whole Hz from it on."""
    frequencies = np.arange(num_fft // 2 + 1) * (sample_rate_hz / num_fft)
    first = int(np.argmax(frequencies >= 1))
    whole_hz = np.arange(1, int(sample_rate_hz // 2) + 1, dtype=np.float64)
    return first, linear_reading(frequencies[first:], whole_hz, device)


def _bands(psd: Float[Tensor, "batch hz"]) -> Float[Tensor, "batch 11"]:
    """Sums of the density over the five bands between the thresholds; its values at the first Hz of each band and at the last of all."""
    sums = [band.sum(-1, keepdim=True) for band in psd.tensor_split([f - 1 for f in THRESHOLDS_HZ], dim=-1)]
    return torch.cat([*sums, psd.index_select(-1, _ends(psd.shape[-1], psd.device))], dim=-1)


@lru_cache(maxsize=16)
def _ends(num_hz: int, device: torch.device) -> Int64[Tensor, " ends"]:
    return torch.tensor([0, *(f - 1 for f in THRESHOLDS_HZ), num_hz - 1], device=device)


def _high_frequency_ratios(bands: Float[Tensor, "batch 11"], num_hz: int) -> Float[Tensor, "batch 8"]:
    """For each threshold the mean at or above over the mean below, then the trapezoid integral at or above over the whole integral."""
    sums, first, last = bands.tensor_split([5, 10], dim=-1)
    # summed from either end: a difference from the total would lose what is small beside it
    below, above = sums.cumsum(-1), sums.flip(-1).cumsum(-1).flip(-1)
    integrals = above - (first + last) / 2
    ratios = []
    for i, threshold in enumerate(THRESHOLDS_HZ):
        num_below = threshold - 1
        ratios.append((above[:, i + 1] / (num_hz - num_below)) / (below[:, i] / num_below + RATIO_FLOOR))
        ratios.append(integrals[:, i + 1] / (integrals[:, 0] + RATIO_FLOOR))
    return torch.stack(ratios, dim=-1)


def pooled_over_sensors(
    vectors: Float[Tensor, "records dims"],
    groups: Int64[Tensor, " records"],
    how: Literal["mean", "energy", "max", "logsumexp"],
    energies: Float[Tensor, " records"] | None = None,
) -> Float[Tensor, "groups dims"]:
    """Vectors of the sensors of a unit at one time, pooled to one vector: row g of the result is over the records with groups == g.

    mean; energy: the mean weighted by `energies` (the records' mean squares, say; the plain mean where all of a group's are 0);
    max; logsumexp: ln(sum(exp(v))), which grows with ln(number of sensors). Vectors of any feature will do.
    Raises ValueError where `how` is energy and no energies are given, where the groups are not 0, 1, ... without a gap, and for others.
    """
    num_groups = int(groups.max()) + 1 if len(groups) else 0
    if len(groups.unique()) != num_groups:
        raise ValueError("pooling: groups must be numbered 0, 1, 2, ... without a gap")
    if how == "energy" and energies is None:
        raise ValueError("pooling: the energy-weighted mean needs energies, one a record")
    return torch.stack([_pooled(vectors[groups == g], None if energies is None else energies[groups == g], how) for g in range(num_groups)])


def _pooled(vectors: Float[Tensor, "sensors dims"], energies: Float[Tensor, " sensors"] | None, how: str) -> Float[Tensor, " dims"]:
    match how:
        case "mean":
            return vectors.mean(0)
        case "energy" if energies is not None:
            weights = energies.double() if energies.any() else torch.ones_like(energies, dtype=torch.float64)
            return ((weights / weights.sum()) @ vectors.double()).to(vectors.dtype)
        case "max":
            return vectors.amax(0)
        case "logsumexp":
            return vectors.logsumexp(0)
        case _:
            raise ValueError(f"pooling: {how!r} is not one of mean, energy, max, logsumexp")
