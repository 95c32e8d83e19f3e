"""The spectral vector: time statistics, mean spectrum and its variation, bands of several kinds, what moves, lines of the mains.

Any rate and length.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float64
from pydantic import with_config
from torch import Tensor

from vibray.config import STRICT, UserError
from vibray.features.harmonic import EVEN_ORDERS, ODD_ORDERS
from vibray.signal.harmonics import MAINS_TOLERANCE_HZ, SEARCHED_SAMPLES, Mains
from vibray.signal.psd import band_means, band_weights, welch_psd
from vibray.signal.statistics import TIME_STATISTICS, time_statistics
from vibray.signal.stft import CPU_SAMPLES, frame_powers, in_parts, stft_power
from vibray.signal.waveform import centred

AMPLITUDE_FLOOR = 1e-12
POWER_FLOOR = 1e-24
"""Added, in the record's unit (its square; its square per Hz), before a logarithm: absolute, far below any float32 vibration record."""

CV_FLOOR = 1e-4
"""Added to the coefficient of variation before its logarithm: a steady sine has 0."""

FRAME_BANDS = ("steady", "coarse", "octaves")
"""Blocks for whose spectra float32 is enough where nothing is stored: ln power is right to 1e-6, in a record's weakest bands to 1e-5."""

FLOAT32_RANGE = 15.0
"""It is not where a record's bands lie further apart than this, in ln power (65 dB): float32 leaves in every bin some 1e-7 of the strongest
one's amplitude."""


SPECTRA_SAMPLES = 2 * CPU_SAMPLES
"""Samples that a CPU takes at once, frame by frame: a frame of 32 records lies in the cache, and fewer records would pay for the calls."""


@with_config(STRICT)
@dataclass(frozen=True)
class SpectralConfig:
    kind: Literal["spectral"] = "spectral"
    stft_window: int = 128
    """Samples of the Hann window of log_mean and log_cv, which have stft_window / 2 numbers each."""
    stft_hop: int = 64
    """Samples from one frame of log_mean and log_cv to the next."""
    welch_window: int = 1024
    """Samples of a segment of the Welch spectrum behind `bands`; segments overlap by half."""
    num_bands: int = 64
    """Equal bands of the Welch spectrum; must divide welch_window / 2."""
    windows: tuple[int, ...] = (128, 512)
    """Samples of the frames of `movement`, which overlap by half: 128 sees impacts, 512 slow modulation of the mains lines. () for none."""
    movement_bands: int = 32
    """Equal bands whose energy is followed from frame to frame; must divide half of each of `windows`."""
    steady_window: int = 2048
    """Samples of the frames of `steady` and `coarse`; a short record has the largest power of two up to its half. Frames overlap by 3/4."""
    steady_bands: int = 64
    """Equal bands of `steady`."""
    coarse_bands: int = 16
    """Equal bands of `coarse`."""
    octave_window: int = 4096
    """Samples of the frames of `octaves`, as steady_window: their resolution is what tells a line from its sidebands."""
    octave_bands: int = 48
    """Bands of `octaves`, all equally wide on a logarithmic scale."""
    octave_min_hz: float = 40.0
    """Where the lowest of them begins; the highest ends at half the sample rate."""
    mains_hz: float | None = None
    """Nominal mains frequency of `lines`, 50 or 60. None: the corpus's own, filled in when the feature is built; a corpus without one
    has no `lines`."""

    def __post_init__(self) -> None:
        for window in (self.stft_window, self.welch_window, *self.windows):
            if window < 4 or window % 2:
                raise UserError(f"spectral: a window must be an even number of samples, at least 4, not {window}")
        if not 1 <= self.stft_hop <= self.stft_window:
            raise UserError(f"spectral: stft_hop must lie between 1 and stft_window {self.stft_window}, not {self.stft_hop}")
        if self.num_bands < 1 or (self.welch_window // 2) % self.num_bands:
            raise UserError(f"spectral: num_bands {self.num_bands} does not divide the {self.welch_window // 2} bins of welch_window")
        for window in self.windows:
            if self.movement_bands < 1 or (window // 2) % self.movement_bands:
                raise UserError(f"spectral: movement_bands {self.movement_bands} does not divide the {window // 2} bins of {window}")
        for window in (self.steady_window, self.octave_window):
            if window < 4 or window & (window - 1):
                raise UserError(f"spectral: steady_window and octave_window must be powers of two, at least 4, not {window}")
        if min(self.steady_bands, self.coarse_bands, self.octave_bands) < 1 or self.octave_min_hz <= 0:
            raise UserError("spectral: steady_bands, coarse_bands and octave_bands must be at least 1, octave_min_hz above 0")


class Spectral:
    """Ten blocks. All but `time` are of the record minus its mean; Hann windows are periodic, nothing is padded, DC bins are dropped.

    * `time`: the 15 statistics of signal/statistics.py, of the raw record.
    * `log_mean`: ln of the mean over time of |STFT|, per bin.
    * `log_cv`: ln of its coefficient of variation over time (population std over mean), per bin.
    * `bands`: ln of the mean power density of equal bands of a Welch spectrum; with the defaults, 64 bands of 8 bins of 1024 samples.
    * `movement`: for each of `windows`, the standard deviation over the frames of ln band energy, then the highest ln band energy minus
      its mean, per band. Mean spectra hide amplitude modulation and bursts; these show them.
    * `steady`, `coarse`, `octaves`: mean over the frames of ln band energy, in 64 equal, 16 equal and 48 geometric bands. The geometric
      mean over time is what the machine does all along: a knock or a click raises one frame and hardly this. Few wide bands gather
      weak broadband noise, many narrow ones at low frequencies part a line from its sidebands.
    * `level`: ln of the standard deviation. A scaling tells by it that a machine stands still (features/limits.py).
    * `lines` (30, or none without a mains frequency): ln of the amplitude at m f0, m = 2, 4 .. 40 and then 1, 3 .. 19, f0 being the
      record's own mains frequency within 0.5 Hz of the nominal one (signal/harmonics.py). Bands are as wide as the lines' distance: an
      odd line that rises beside a strong even one is lost in them. A line at or above Nyquist has the floor's logarithm.

    Computed in float64, returned in float32. Where some of the blocks are all that is wanted, to score by them and not to be stored, the
    spectra of FRAME_BANDS are in float32 (but see FLOAT32_RANGE): half their time, for scores within 1e-5 of their standard deviation.
    Those of `bands` as well would leave 1.1e-5.
    """

    def __init__(self, config: SpectralConfig) -> None:
        self.config = config
        bins, moved = config.stft_window // 2, 2 * config.movement_bands * len(config.windows)
        self.orders = () if config.mains_hz is None else EVEN_ORDERS + ODD_ORDERS
        kept = [config.steady_bands, config.coarse_bands, config.octave_bands, 1, len(self.orders)]
        ends = np.cumsum([0, len(TIME_STATISTICS), bins, bins, config.num_bands, moved, *kept]).tolist()
        names = ("time", "log_mean", "log_cv", "bands", "movement", "steady", "coarse", "octaves", "level", "lines")
        self.blocks: dict[str, slice] = {name: slice(ends[i], ends[i + 1]) for i, name in enumerate(names)}
        self.shape: tuple[int, ...] = (ends[-1],)
        self.level = self.blocks["level"].start

    def check(self, sample_rate_hz: float, num_samples: int) -> None:
        """Raises UserError where a record is shorter than a Welch segment, or holds fewer than two frames of a window, and where
        octave_min_hz or twice the mains frequency is not below half the sample rate."""
        c = self.config
        if c.mains_hz is not None and sample_rate_hz <= 4 * (c.mains_hz + MAINS_TOLERANCE_HZ):
            raise UserError(f"twice the mains frequency of {c.mains_hz:g} Hz is above Nyquist at {sample_rate_hz:g} Hz: --mains none")
        if c.octave_min_hz >= sample_rate_hz / 2:
            raise UserError(f"spectral: octave_min_hz {c.octave_min_hz:g} is not below half of the sample rate {sample_rate_hz:g} Hz")
        needed = max(c.welch_window, c.stft_window + c.stft_hop, *(w + w // 2 for w in c.windows), 0)
        if num_samples < needed:
            raise UserError(f"spectral: these windows need {needed} samples; a record has {num_samples}: choose shorter windows")

    def columns(self) -> tuple[str, ...]:
        """Name of each number; bins and bands count from 1, the lowest (bin 0 is DC). frequencies_hz has their Hz."""
        c = self.config
        bins, bands = range(1, c.stft_window // 2 + 1), range(1, c.num_bands + 1)
        moved = [f"movement_{w}_{what}_band{i:02d}" for w in c.windows for what in ("std", "peak") for i in range(1, c.movement_bands + 1)]
        return (
            *TIME_STATISTICS,
            *(f"log_mean_bin{i:02d}" for i in bins),
            *(f"log_cv_bin{i:02d}" for i in bins),
            *(f"band{i:02d}" for i in bands),
            *moved,
            *(f"steady{i:02d}" for i in range(1, c.steady_bands + 1)),
            *(f"coarse{i:02d}" for i in range(1, c.coarse_bands + 1)),
            *(f"octave{i:02d}" for i in range(1, c.octave_bands + 1)),
            "level",
            *(f"line{m:02d}" for m in self.orders),
        )

    def frequencies_hz(self, sample_rate_hz: float) -> tuple[float | None, ...]:
        """Frequency of each number's bin, or the middle of its band (of `octaves` the geometric one), in Hz; a line's nominal one. None
        for a time statistic and the level."""
        c = self.config

        def middles(window: int, num_bands: int) -> list[float]:
            bins = np.arange(1, window // 2 + 1) * (sample_rate_hz / window)
            return bins.reshape(num_bands, -1).mean(axis=1).tolist()

        stft = middles(c.stft_window, c.stft_window // 2)
        moved = [f for w in c.windows for _ in range(2) for f in middles(w, c.movement_bands)]
        equal = [((np.arange(num) + 0.5) * (sample_rate_hz / 2 / num)).tolist() for num in (c.steady_bands, c.coarse_bands)]
        edges = np.geomspace(c.octave_min_hz, sample_rate_hz / 2, c.octave_bands + 1)
        octaves = np.sqrt(edges[1:] * edges[:-1]).tolist()
        welch = middles(c.welch_window, c.num_bands)
        lines = [m * (c.mains_hz or 0.0) for m in self.orders]
        return (*[None] * len(TIME_STATISTICS), *stft, *stft, *welch, *moved, *equal[0], *equal[1], *octaves, None, *lines)

    def __call__(
        self,
        waveforms: Float[Tensor, "batch samples"],
        sample_rate_hz: float,
        mains: Mains | None = None,
        blocks: Collection[str] | None = None,
    ) -> Float[Tensor, "batch dims"]:
        """The vectors, float32. Raises UserError as `check` does.

        `mains`: the lines of these records, where they were found before. `blocks`: the only ones wanted; the others are NaN.
        """
        self.check(sample_rate_hz, waveforms.shape[-1])
        wanted = set(self.blocks if blocks is None else blocks)
        vectors = waveforms.new_full((len(waveforms), *self.shape), torch.nan, dtype=torch.float32)
        for part, records in in_parts(waveforms, SPECTRA_SAMPLES):
            for name, values in self._made(records, sample_rate_hz, wanted, precise=blocks is None).items():
                vectors[part, self.blocks[name]] = values.float()
        if self.config.mains_hz is not None and "lines" in wanted:
            for part, records in in_parts(waveforms, SEARCHED_SAMPLES) if mains is None else [(slice(None), waveforms)]:
                own = Mains(records, sample_rate_hz, self.config.mains_hz) if mains is None else mains
                vectors[part, self.blocks["lines"]] = _lines(own, sample_rate_hz).float()
        return vectors

    def _made(
        self, waveforms: Float[Tensor, "batch samples"], sample_rate_hz: float, wanted: set[str], precise: bool
    ) -> dict[str, Float[Tensor, "batch _"]]:
        """Those of the blocks that are wanted, but for the lines."""
        c, xc, made = self.config, centred(waveforms), {}
        if "time" in wanted:
            made["time"] = time_statistics(waveforms)
        if "level" in wanted:
            made["level"] = torch.log(torch.linalg.vector_norm(xc, dim=-1, keepdim=True) / xc.shape[-1] ** 0.5 + AMPLITUDE_FLOOR)
        stft = (c.stft_window, c.stft_hop) if wanted & {"log_mean", "log_cv"} else None
        windows = [(w, w // 2) for w in c.windows] if "movement" in wanted else []
        power = {(w, h): stft_power(xc, w, h)[..., 1:] for w, h in {*windows, *([stft] if stft else [])}}
        if stft:
            magnitude = power[stft].sqrt()
            mean = magnitude.mean(1)
            std = magnitude.sub_(mean[:, None]).square_().mean(1).sqrt()
            made["log_mean"] = torch.log(mean + AMPLITUDE_FLOOR)
            made["log_cv"] = torch.log(std / (mean + AMPLITUDE_FLOOR) + CV_FLOOR)
        if windows:
            made["movement"] = torch.cat([_movement(power[each], c.movement_bands) for each in windows], dim=-1)
        if "bands" in wanted:
            psd = welch_psd(xc, sample_rate_hz, c.welch_window, c.welch_window)[:, 1:]
            made["bands"] = torch.log(band_means(psd, c.num_bands) + POWER_FLOOR)
        return made | self._frame_bands(xc, sample_rate_hz, [name for name in FRAME_BANDS if name in wanted], precise)

    def _frame_bands(
        self, xc: Float64[Tensor, "batch samples"], sample_rate_hz: float, names: list[str], precise: bool
    ) -> dict[str, Float64[Tensor, "batch _"]]:
        """The blocks of FRAME_BANDS by name, in float64 or where it will do in float32."""
        x = xc if precise else xc.float()
        made = {name: self._mean_log_bands(x, sample_rate_hz, name) for name in names}
        if made and not precise:
            wide = torch.stack([values.amax(-1) - values.amin(-1) for values in made.values()]).amax(0) > FLOAT32_RANGE
            if wide.any():
                for name, values in self._frame_bands(xc[wide], sample_rate_hz, names, precise=True).items():
                    made[name][wide] = values
        return made

    def _mean_log_bands(self, x: Float[Tensor, "batch samples"], sample_rate_hz: float, name: str) -> Float64[Tensor, "batch bands"]:
        """Mean over the frames of ln power in a block's bands, by spectra in the precision of `x`."""
        c = self.config
        window = _fitting(c.octave_window if name == "octaves" else c.steady_window, x.shape[-1])
        low = 2 * c.octave_min_hz / sample_rate_hz if name == "octaves" else None
        num_bands = {"steady": c.steady_bands, "coarse": c.coarse_bands, "octaves": c.octave_bands}[name]
        whole_bins = low is None and window // 2 % num_bands == 0
        weights = None if whole_bins else _bands(window // 2, num_bands, low, x.dtype, x.device)
        powers = frame_powers(x, window, max(1, window // 4))
        energies = [band_means(power, num_bands) if weights is None else power @ weights for power in powers]
        return torch.stack(energies).double().add_(POWER_FLOOR).log_().mean(0)


def _fitting(window: int, num_samples: int) -> int:
    """`window`, or the largest power of two up to half the record."""
    return min(window, 1 << max(1, (num_samples // 2).bit_length() - 1))


@lru_cache(maxsize=32)
def _bands(num_bins: int, num_bands: int, low: float | None, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "bins bands"]:
    """Weights that average power over bands from `low` (a share of the Nyquist frequency) up, geometric; None: from 0, equal."""
    edges = np.linspace(0, 1, num_bands + 1) if low is None else np.geomspace(low, 1, num_bands + 1)
    if low is None:
        edges = edges * num_bins + 0.5  # whole bins where they divide
    else:
        edges = np.clip(edges * num_bins, 0.5, None)
    return torch.from_numpy(band_weights(edges, num_bins)).to(device, dtype)


def _lines(mains: Mains, sample_rate_hz: float) -> Float64[Tensor, "batch lines"]:
    """ln of the amplitudes of the mains' lines, even orders first."""
    hz = mains.frequency_hz[:, None] * mains.frequency_hz.new_tensor(EVEN_ORDERS + ODD_ORDERS)
    return torch.log(torch.where(hz < sample_rate_hz / 2, mains.spectrum.amplitudes(hz), 0) + AMPLITUDE_FLOOR)


def _movement(power: Float[Tensor, "batch frames bins"], num_bands: int) -> Float[Tensor, "batch dims"]:
    """Over the frames: std of ln band energy, then its peak minus its mean; `num_bands` numbers each."""
    log_energy = torch.log(band_means(power, num_bands) + POWER_FLOOR)
    mean, peak = log_energy.mean(1), log_energy.amax(1)
    std = log_energy.sub_(mean[:, None]).square_().mean(1).sqrt()
    return torch.cat([std, peak - mean], dim=-1)
