"""Lines at the multiples of one frequency: where the comb stands, how far above the noise, how high each line is.

Transformer core and winding forces act at twice the mains frequency, so its family is 100, 200, 300 ... or 120, 240, 360 ... Hz.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Complex128, Float, Float64, Int64
from torch import Tensor

from vibray.config import UserError
from vibray.signal.psd import kth_smallest
from vibray.signal.stft import in_parts, periodic_hann, squared_magnitude
from vibray.signal.waveform import centred

MIN_CYCLES = 8
"""A record must hold so many mains cycles: with fewer, the main lobes of neighbouring lines leave no gap for the noise between."""

MAINS_TOLERANCE_HZ = 0.5
"""The mains frequency is looked for within so much of the nominal 50 or 60 Hz."""

MAINS_MULTIPLES = tuple(range(2, 41, 2))
"""The mains frequency is found by its multiples 2 f0 ... 40 f0."""

SNR_LINES = 10
"""The SNR of a comb is the mean over its lowest so many lines."""

FLOOR_BAND_HZ = 100.0
FLOOR_QUANTILE = 0.25
"""The noise around a line is read from this quantile of the power in its 100 Hz band: lines fill less than three quarters of it."""

LEAKAGE = 1e-4
"""Lines 40 dB below a record's strongest have no vote in finding a comb."""

CLIMBS = (2, 1, 1)
"""Candidates to either side in each step of the climb to a comb's frequency. The last step is 1 / 9 of the grid's, and the top of its
parabola is within 1e-6 of a bin."""

CLIMB_HALF_BINS = 6
"""The highest line climbs no further than so many half-bins beyond the range of the search."""

REACH = 8
SHARPNESS = 14.8
"""A line is read from so many half-bins to either side by a kernel of this shape: right to 2e-7 of the record's strongest line."""

SEARCHED_SAMPLES = 1 << 18
"""Samples searched at once on a CPU, 32 records of 8192: with fewer the many small steps of a search cost more than the spectra, with more
the memory they take."""

TINY_POWER = 1e-30
"""Added to both powers of every SNR, in unit^2 and absolute, so that a record without noise, or without anything, has a finite one."""


class Comb(NamedTuple):
    """A comb of lines found in each record."""

    frequency_hz: Float64[Tensor, " batch"]
    """Frequency of which the lines are multiples."""
    snr_db: Float64[Tensor, " batch"]
    """10 log10 of the mean, over the comb's lowest 10 lines, of line power over noise power. White noise has about 1 dB, and seldom 6."""


def check_mains(mains_hz: float | None, sample_rate_hz: float, num_samples: int) -> float:
    """The mains frequency, if a record of this rate and length lets it be estimated.

    Raises UserError where mains_hz is not given, where the record has fewer than MIN_CYCLES cycles or where 2 f0 is not below Nyquist.
    """
    if mains_hz is None:
        raise UserError("this feature needs the mains frequency: featurize with --mains 50 or --mains 60")
    needed = math.ceil(MIN_CYCLES * sample_rate_hz / (mains_hz - MAINS_TOLERANCE_HZ))
    if num_samples < needed:
        raise UserError(
            f"{MIN_CYCLES} cycles of {mains_hz:g} Hz mains need {needed} samples at {sample_rate_hz:g} Hz; a record has {num_samples}: "
            "take longer records, or the spectral vector"
        )
    if sample_rate_hz <= 4 * (mains_hz + MAINS_TOLERANCE_HZ):
        raise UserError(f"twice the mains frequency of {mains_hz:g} Hz is above Nyquist at {sample_rate_hz:g} Hz")
    return mains_hz


class LineSpectrum:
    """Hann spectra of some records, minus their means, at every half bin up to `highest_hz`: searches, floors and amplitudes read it.

    A sine of amplitude A has |value| A at its frequency. The phase is counted from the record's middle, where the window stands, and turned
    by half a circle from one half-bin to the next, as the kernel of `amplitudes` wants it.
    """

    def __init__(self, waveforms: Float[Tensor, "batch samples"], sample_rate_hz: float, highest_hz: float) -> None:
        self.sample_rate_hz = sample_rate_hz
        self.num_samples = n = waveforms.shape[-1]
        hann = periodic_hann(n, waveforms.device)
        hann = hann * (2 / hann.sum())
        # to the end of the band of noise around the highest line; REACH half-bins more on either side: below 0 and above Nyquist the
        # spectrum of a real record is its own mirror image
        num_bands, bins = _noise_bands(sample_rate_hz, n)
        self.num_bands = min(num_bands, math.floor(highest_hz * 2 * num_bands / sample_rate_hz) + 1)
        self.top = min(n, max(math.ceil(highest_hz * 2 * n / sample_rate_hz) + CLIMB_HALF_BINS, 2 * bins * self.num_bands))
        stop = min(self.top + REACH, n) + 1
        mirrored = self.top + REACH + 1 - stop
        self.half_bins: Complex128[Tensor, "batch half_bins"] = hann.new_empty(
            (len(waveforms), REACH + stop + mirrored), dtype=torch.complex128
        )
        """At -REACH, ..., 0, 1, 2, ... times fs / 2N."""
        parts = list(in_parts(waveforms))
        # each record in the middle of twice its length; one buffer for all parts, whose ends stay 0
        padded = hann.new_zeros(len(parts[0][1]) if parts else 0, 2 * n)
        for part, records in parts:
            torch.mul(centred(records), hann, out=padded[: len(records), n - n // 2 : 2 * n - n // 2])
            self.half_bins[part, REACH : REACH + stop] = torch.fft.rfft(padded[: len(records)])[:, :stop]
        self.half_bins[:, :REACH] = self.half_bins[:, REACH + 1 : 2 * REACH + 1].flip(-1).conj()
        self.half_bins[:, REACH + stop :] = self.half_bins[:, REACH + stop - 1 - mirrored : REACH + stop - 1].flip(-1).conj()

    def amplitudes(self, frequencies_hz: Float[Tensor, "batch lines"]) -> Float64[Tensor, "batch lines"]:
        """|value| at any frequencies from 0 to highest_hz, each record's own.

        Between the half-bins by sin(pi d) / (pi d) under the window exp(b (sqrt(1 - (d / w)^2) - 1)), w half-bins to either side: padding
        to twice the length leaves the interpolation room to be as good as that. Window: Barnett, Magland & af Klinteberg 2019, eq. 1.8.
        """
        place = (frequencies_hz.double() * (2 * self.num_samples / self.sample_rate_hz)).abs().clamp_max(self.top)
        nearest = place.round()
        # never 0, where sin(pi d) / d would be 0 / 0
        offset = (place - nearest).abs().clamp_min(1e-30).copysign(place - nearest)
        taps = torch.arange(-REACH, REACH + 1, device=place.device)
        distance = offset[..., None] - taps
        # in one array, as fast memory goes
        kernel = (distance / (REACH + 0.5)).square_().neg_().add_(1).sqrt_().mul_(SHARPNESS).sub_(SHARPNESS).exp_().div_(distance)
        at = (nearest.long()[..., None] + (taps + REACH)).flatten(1)
        values = self.half_bins.gather(-1, at).view(kernel.shape)
        real, imaginary = ((part * kernel).sum(-1) for part in (values.real, values.imag))
        return (real.square() + imaginary.square()).sqrt() * ((math.pi * offset).sin() / math.pi).abs()

    def noise(self) -> Float64[Tensor, "batch bands"]:
        """Noise power (A^2 / 2) a line would have by chance, in equal bands of about 100 Hz (8 bins at least) from 0 Hz."""
        bins = _noise_bands(self.sample_rate_hz, self.num_samples)[1]
        power = squared_magnitude(self.half_bins[:, REACH + 2 : REACH + 2 * self.num_bands * bins + 1 : 2]) / 2
        rank = max(1, math.ceil(FLOOR_QUANTILE * bins))
        # power in a bin of noise is exponential: its quantile q lies at -ln(1 - q) of its mean
        return kth_smallest(power.unflatten(-1, (self.num_bands, bins)), rank) / -math.log1p(-FLOOR_QUANTILE)

    def comb(self, low_hz: float, high_hz: float, multiples: tuple[int, ...]) -> Comb:
        """As the function `comb`."""
        multiples = tuple(m for m in multiples if m * high_hz < self.sample_rate_hz / 2)
        if not multiples:
            raise UserError(
                f"no line of a comb from {low_hz:g} Hz is below Nyquist at {self.sample_rate_hz:g} Hz: featurize with --mains none"
            )
        noise = self.noise()
        search = _search(self.sample_rate_hz, self.num_samples, low_hz, high_hz, multiples, noise.device)
        power = squared_magnitude(self.half_bins.index_select(-1, search.half_bins + REACH)) / 2 + TINY_POWER
        floor = noise.index_select(-1, self._band(search.half_bins.double() * (self.sample_rate_hz / (2 * self.num_samples)))) + TINY_POWER
        # below the window's own leakage a line says nothing
        floor = torch.maximum(floor, LEAKAGE * power.amax(dim=-1, keepdim=True))
        votes = (power / floor).float().log1p().index_select(-1, search.places.flatten()).unflatten(-1, search.places.shape).sum(1)
        frequency = search.grid[votes.argmax(-1)]

        # the main lobe of the highest line is eight steps of the grid to either side
        step = 4 * (high_hz - low_hz) / (len(search.grid) - 1)
        for steps in CLIMBS:
            frequency = self._climbed(frequency, steps, step, search.multiples)
            step /= 6
        frequency = frequency.clamp(low_hz, high_hz)
        lines = frequency[:, None] * search.multiples[:SNR_LINES]
        power = self.amplitudes(lines).square() / 2
        floor = noise.gather(-1, self._band(lines))
        return Comb(frequency, 10 * torch.log10(((power + TINY_POWER) / (floor + TINY_POWER)).mean(-1)))

    def _band(self, frequencies_hz: Float64[Tensor, "*any"]) -> Int64[Tensor, "*any"]:
        num_bands = _noise_bands(self.sample_rate_hz, self.num_samples)[0]
        return (frequencies_hz * (2 * num_bands / self.sample_rate_hz)).long().clamp_max(self.num_bands - 1)

    def _climbed(
        self, frequency: Float64[Tensor, " batch"], steps: int, step: float, multiples: Float64[Tensor, " lines"]
    ) -> Float64[Tensor, " batch"]:
        """The best of the frequencies up to so many steps around `frequency`, the two ends apart, moved to the top of the parabola through
        it and its neighbours."""
        offsets = torch.arange(-steps, steps + 1, dtype=torch.float64, device=frequency.device) * step
        candidates = frequency[:, None] + offsets
        lines = candidates[:, :, None] * multiples
        total = self.amplitudes(lines.flatten(1)).square().unflatten(-1, lines.shape[1:]).sum(-1)
        best = total[:, 1:-1].argmax(-1, keepdim=True) + 1
        below, top, above = (total.gather(-1, best + k) for k in (-1, 0, 1))
        curvature = (2 * top - below - above).clamp_min(TINY_POWER)
        shift = ((above - below) / (2 * curvature)).clamp(-1, 1)
        return (candidates.gather(-1, best) + shift * step).squeeze(-1)


class Search(NamedTuple):
    """Where a comb is looked for; the same for all records of one rate and length."""

    multiples: Float64[Tensor, " lines"]
    grid: Float64[Tensor, " steps"]
    """Frequencies of the comb; the highest line moves a quarter of a bin from one to the next."""
    half_bins: Int64[Tensor, " places"]
    """The half-bins nearest to any line of any of them."""
    places: Int64[Tensor, "lines steps"]
    """Where in `half_bins` each line's stands."""


@lru_cache(maxsize=64)
def _search(
    sample_rate_hz: float, num_samples: int, low_hz: float, high_hz: float, multiples: tuple[int, ...], device: torch.device
) -> Search:
    steps = math.ceil((high_hz - low_hz) * multiples[-1] * num_samples / sample_rate_hz * 4) + 1
    grid = torch.linspace(low_hz, high_hz, steps, dtype=torch.float64, device=device)
    m = torch.tensor(multiples, dtype=torch.float64, device=device)
    nearest = (m[:, None] * grid * (2 * num_samples / sample_rate_hz)).round().long()
    half_bins, places = nearest.unique(return_inverse=True)
    return Search(m, grid, half_bins, places)


def _noise_bands(sample_rate_hz: float, num_samples: int) -> tuple[int, int]:
    """Number of the bands of noise up to Nyquist, and bins of each."""
    bins = max(8, round(FLOOR_BAND_HZ * num_samples / sample_rate_hz))
    num_bands = max(1, num_samples // 2 // bins)
    return num_bands, num_samples // 2 // num_bands


def line_amplitudes(
    waveforms: Float[Tensor, "batch samples"], sample_rate_hz: float, frequencies_hz: Float[Tensor, "batch lines"]
) -> Float64[Tensor, "batch lines"]:
    """Amplitudes at any frequencies, each record's own: 2 |sum w x exp(-2 pi i f t)| / sum w, w a periodic Hann window, mean removed.

    A sine of amplitude A at exactly f gives A where no other line is nearer than 2 / T. To 1e-7 of the record's strongest line.
    """
    amplitudes = torch.empty_like(frequencies_hz, dtype=torch.float64)
    for part, records in in_parts(waveforms, SEARCHED_SAMPLES):
        amplitudes[part] = LineSpectrum(records, sample_rate_hz, sample_rate_hz / 2).amplitudes(frequencies_hz[part])
    return amplitudes


def comb(
    waveforms: Float[Tensor, "batch samples"], sample_rate_hz: float, low_hz: float, high_hz: float, multiples: tuple[int, ...]
) -> Comb:
    """The comb m f, m in `multiples`, whose f in [low_hz, high_hz] explains most: multiples at or above Nyquist are left out.

    First the maximum of sum ln(1 + line power / noise) on a grid, so that one loud foreign line cannot decide; then the summit of the
    summed line power nearest to it: joint least squares for lines that the window keeps apart.
    Raises UserError where not even the first multiple is below Nyquist.
    """
    highest_hz = min(multiples[-1] * high_hz, sample_rate_hz / 2)
    found = waveforms.new_empty((2, len(waveforms)), dtype=torch.float64)
    for part, records in in_parts(waveforms, SEARCHED_SAMPLES):
        found[:, part] = torch.stack(LineSpectrum(records, sample_rate_hz, highest_hz).comb(low_hz, high_hz, multiples))
    return Comb(*found.unbind())


class Mains:
    """The mains' lines of some records: their spectrum and, found in it once for all who ask, the frequency f0 they are multiples of.

    f0 lies within 0.5 Hz of the nominal one and is found by the even multiples 2 f0 ... 40 f0 (those below Nyquist).
    """

    def __init__(self, waveforms: Float[Tensor, "batch samples"], sample_rate_hz: float, mains_hz: float) -> None:
        low_hz, self.highest_hz = mains_hz - MAINS_TOLERANCE_HZ, mains_hz + MAINS_TOLERANCE_HZ
        self.spectrum = LineSpectrum(waveforms, sample_rate_hz, min(MAINS_MULTIPLES[-1] * self.highest_hz, sample_rate_hz / 2))
        self.frequency_hz, self.snr_db = self.spectrum.comb(low_hz, self.highest_hz, MAINS_MULTIPLES)


def mains_frequency(waveforms: Float[Tensor, "batch samples"], sample_rate_hz: float, mains_hz: float) -> Comb:
    """The mains frequency of any number of records, as `Mains` finds it."""
    return comb(waveforms, sample_rate_hz, mains_hz - MAINS_TOLERANCE_HZ, mains_hz + MAINS_TOLERANCE_HZ, MAINS_MULTIPLES)


def cycle_peak_volatility(
    waveforms: Float[Tensor, "batch samples"], sample_rate_hz: float, frequency_hz: Float[Tensor, " batch"], highest_hz: float
) -> Float64[Tensor, " batch"]:
    """Standard deviation over mean of the peaks of |x - mean| in the whole cycles of `frequency_hz`, each record's own; 0 for silence.

    No frequency is above `highest_hz`: the memory for the peaks is known without a look at the tensor, which a GPU would wait for.
    """
    cycles_per_sample = frequency_hz.double()[:, None] / sample_rate_hz
    num_samples = waveforms.shape[-1]
    at = torch.arange(num_samples, dtype=torch.float64, device=waveforms.device)
    most = math.floor(num_samples * highest_hz / sample_rate_hz) + 1
    peaks = at.new_zeros(len(waveforms), most)
    for part, records in in_parts(waveforms):
        cycle = (at * cycles_per_sample[part]).long()
        peaks[part] = peaks[part].scatter_reduce(-1, cycle, centred(records).abs_(), "amax")
    whole = (num_samples * cycles_per_sample).floor()
    counted = (torch.arange(most, device=at.device) < whole).double()
    num = counted.sum(-1)
    mean = (peaks * counted).sum(-1) / num
    variance = ((peaks - mean[:, None]).square() * counted).sum(-1) / num
    return torch.where(mean > 0, variance.sqrt() / torch.where(mean > 0, mean, 1.0), 0.0)
