"""Lines at the multiples of one frequency: where the comb stands, how far above the noise, how high each line is.

Transformer core and winding forces act at twice the mains frequency, so its family is 100, 200, 300 ... or 120, 240, 360 ... Hz.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from vibray.signal.stft import periodic_hann
from vibray.signal.waveform import centred

MIN_CYCLES = 8
"""A record must hold so many mains cycles: with fewer, the main lobes of neighbouring lines leave no gap for the noise between."""

MAINS_TOLERANCE_HZ = 0.5
"""The mains frequency is looked for within so much of the nominal 50 or 60 Hz."""

SNR_LINES = 10
"""The SNR of a comb is the mean over its lowest so many lines."""

FLOOR_BAND_HZ = 100.0
FLOOR_QUANTILE = 0.25
"""The noise around a line is read from this quantile of the power in its 100 Hz band: lines fill less than three quarters of it."""

LEAKAGE = 1e-4
"""Lines 40 dB below a record's strongest have no vote in finding a comb."""

CLIMBS = 4
"""Steps of the climb to a comb's frequency: the last one is 1 / 54 of the grid's step."""

RECORDS_AT_ONCE = 32
"""The grid of a search takes about 0.5 MB a record of 1 s: this bounds the memory of a large batch."""

TINY_POWER = 1e-30
"""Added to both powers of every SNR, in unit^2 and absolute, so that a record without noise, or without anything, has a finite one."""


class Comb(NamedTuple):
    """A comb of lines found in each record."""

    frequency_hz: Float64[Tensor, " batch"]
    """Frequency of which the lines are multiples."""
    snr_db: Float64[Tensor, " batch"]
    """10 log10 of the mean, over the comb's lowest 10 lines, of line power over noise power. White noise has about 1 dB, and seldom 6."""


class MainsLine(NamedTuple):
    """Where the family of twice the mains frequency stands in each record, were the stated sample rate right."""

    frequency_hz: Float64[Tensor, " batch"]
    """Fundamental of the strongest comb."""
    snr_db: Float64[Tensor, " batch"]
    nominal_hz: Float64[Tensor, " batch"]
    """100 or 120 where the comb stands there; NaN where it stands elsewhere or is lost in the noise."""


def check_mains(mains_hz: float | None, sample_rate_hz: float, num_samples: int) -> float:
    """The mains frequency, if a record of this rate and length lets it be estimated.

    Raises ValueError where mains_hz is not given, where the record has fewer than MIN_CYCLES cycles or where 2 f0 is not below Nyquist.
    """
    if mains_hz is None:
        raise ValueError("this feature needs the mains frequency: featurize with --mains 50 or --mains 60")
    needed = math.ceil(MIN_CYCLES * sample_rate_hz / (mains_hz - MAINS_TOLERANCE_HZ))
    if num_samples < needed:
        raise ValueError(
            f"{MIN_CYCLES} cycles of {mains_hz:g} Hz mains need {needed} samples at {sample_rate_hz:g} Hz; a record has {num_samples}: "
            "take longer records, or the spectral vector"
        )
    if sample_rate_hz <= 4 * (mains_hz + MAINS_TOLERANCE_HZ):
        raise ValueError(f"twice the mains frequency of {mains_hz:g} Hz is above Nyquist at {sample_rate_hz:g} Hz")
    return mains_hz


def line_amplitudes(
    waveforms: Float[Tensor, "batch samples"], sample_rate_hz: float, frequencies_hz: Float[Tensor, "batch lines"]
) -> Float64[Tensor, "batch lines"]:
    """Amplitudes at any frequencies, each record's own: 2 |sum w x exp(-2 pi i f t)| / sum w, w a periodic Hann window, mean removed.

    A sine of amplitude A at exactly f gives A where no other line is nearer than 2 / T. Evaluated exactly, not on a grid of bins.
    """
    x = centred(waveforms)
    n = x.shape[-1]
    hann = periodic_hann(n, x.device)
    # exp(-i w (m B + j)) = exp(-i w m B) exp(-i w j): sqrt(N) instead of N exponentials a line
    block = math.isqrt(n) + 1
    blocks = torch.nn.functional.pad(x * (2 * hann / hann.sum()), (0, -n % block)).unflatten(-1, (-1, block))
    omega = 2 * math.pi / sample_rate_hz * frequencies_hz.double()[:, None, :]
    inner = torch.arange(block, device=x.device)[:, None] * omega
    outer = block * torch.arange(blocks.shape[1], device=x.device)[:, None] * omega
    partial = torch.complex(blocks @ inner.cos(), -(blocks @ inner.sin()))
    return (partial * torch.polar(torch.ones_like(outer), -outer)).sum(dim=1).abs()


def comb(
    waveforms: Float[Tensor, "batch samples"], sample_rate_hz: float, low_hz: float, high_hz: float, multiples: tuple[int, ...]
) -> Comb:
    """The comb m f, m in `multiples`, whose f in [low_hz, high_hz] explains most: multiples at or above Nyquist are left out.

    First the maximum of sum ln(1 + line power / noise) on a grid, so that one loud foreign line cannot decide; then the summit of the
    summed line power nearest to it: joint least squares for lines that the window keeps apart.
    Raises ValueError where not even the first multiple is below Nyquist.
    """
    multiples = tuple(m for m in multiples if m * high_hz < sample_rate_hz / 2)
    if not multiples:
        raise ValueError(f"no line of a comb from {low_hz:g} Hz is below Nyquist at {sample_rate_hz:g} Hz")
    parts = [_comb(part, sample_rate_hz, low_hz, high_hz, multiples) for part in waveforms.split(RECORDS_AT_ONCE)]
    return Comb(*(torch.cat(values) for values in zip(*parts, strict=True)))


def mains_frequency(waveforms: Float[Tensor, "batch samples"], sample_rate_hz: float, mains_hz: float) -> Comb:
    """The mains frequency f0 within 0.5 Hz of the nominal one, from the even multiples 2 f0 ... 40 f0 (those below Nyquist)."""
    even = tuple(range(2, 41, 2))
    return comb(waveforms, sample_rate_hz, mains_hz - MAINS_TOLERANCE_HZ, mains_hz + MAINS_TOLERANCE_HZ, even)


def mains_line_hz(
    waveforms: Float[Tensor, "batch samples"], sample_rate_hz: float, low_hz: float = 90.0, high_hz: float = 135.0, min_snr_db: float = 10.0
) -> MainsLine:
    """The comb of twice the mains frequency, wherever in [low_hz, high_hz] it stands: a check of the stated sample rate.

    A comb at g Hz that should be at 100 Hz says that the true rate is 100 / g times the stated one: a record of 8192 Hz read as
    10,000 Hz has it at 122 Hz. nominal_hz is 100 or 120 within 1 Hz of them (0.5 Hz of mains) and min_snr_db above the noise.
    """
    frequency, snr_db = comb(waveforms, sample_rate_hz, low_hz, high_hz, tuple(range(1, 11)))
    nominal = torch.full_like(frequency, math.nan)
    for stand in (100.0, 120.0):
        there = ((frequency - stand).abs() <= 2 * MAINS_TOLERANCE_HZ + 0.05) & (snr_db >= min_snr_db)
        nominal = torch.where(there, stand, nominal)
    return MainsLine(frequency, snr_db, nominal)


def cycle_peak_volatility(
    waveforms: Float[Tensor, "batch samples"], sample_rate_hz: float, frequency_hz: Float[Tensor, " batch"]
) -> Float64[Tensor, " batch"]:
    """Standard deviation over mean of the peaks of |x - mean| in the whole cycles of `frequency_hz`, each record's own; 0 for silence."""
    x = centred(waveforms).abs()
    cycles_per_sample = frequency_hz.double() / sample_rate_hz
    cycle = (torch.arange(x.shape[-1], device=x.device) * cycles_per_sample[:, None]).floor().long()
    whole = (x.shape[-1] * cycles_per_sample).floor().long()
    most = int(cycle.max()) + 1 if cycle.numel() else 1
    peaks = x.new_zeros(len(x), most).scatter_reduce(-1, cycle, x, "amax")
    counted = (torch.arange(most, device=x.device) < whole[:, None]).double()
    num = counted.sum(-1)
    mean = (peaks * counted).sum(-1) / num
    variance = ((peaks - mean[:, None]).square() * counted).sum(-1) / num
    return torch.where(mean > 0, variance.sqrt() / torch.where(mean > 0, mean, 1.0), 0.0)


def _comb(
    waveforms: Float[Tensor, "batch samples"], sample_rate_hz: float, low_hz: float, high_hz: float, multiples: tuple[int, ...]
) -> Comb:
    duration = waveforms.shape[-1] / sample_rate_hz
    # the highest line moves a quarter of a bin from one step to the next
    steps = math.ceil((high_hz - low_hz) * multiples[-1] * duration * 4) + 1
    grid = torch.linspace(low_hz, high_hz, steps, dtype=torch.float64, device=waveforms.device)
    m = torch.tensor(multiples, dtype=torch.float64, device=waveforms.device)
    power, floor = _power_and_floor(waveforms, sample_rate_hz, grid[:, None] * m)
    # below the window's own leakage a line says nothing
    floor = torch.maximum(floor, LEAKAGE * power.amax(dim=(-2, -1), keepdim=True))
    frequency = grid[torch.log1p(power / floor).sum(-1).argmax(-1)]

    # the main lobe of the highest line is eight steps of the grid to either side
    step = 4 * (high_hz - low_hz) / (steps - 1)
    for _ in range(CLIMBS):
        frequency = _climbed(waveforms, sample_rate_hz, frequency, step, m)
        step /= 6
    frequency = frequency.clamp(low_hz, high_hz)
    lines = frequency[:, None] * m[:SNR_LINES]
    power = line_amplitudes(waveforms, sample_rate_hz, lines).square() / 2
    bands = _noise_floor(waveforms, sample_rate_hz)
    floor = bands.gather(-1, _band(lines, bands.shape[-1], sample_rate_hz))
    return Comb(frequency, 10 * torch.log10(((power + TINY_POWER) / (floor + TINY_POWER)).mean(-1)))


def _climbed(
    waveforms: Float[Tensor, "batch samples"],
    sample_rate_hz: float,
    frequency: Float64[Tensor, " batch"],
    step: float,
    multiples: Float64[Tensor, " lines"],
) -> Float64[Tensor, " batch"]:
    """The best of five frequencies around `frequency`, a step apart, moved to the top of the parabola through it and its neighbours."""
    offsets = torch.arange(-2, 3, dtype=torch.float64, device=frequency.device) * step
    candidates = frequency[:, None] + offsets
    lines = candidates[:, :, None] * multiples
    total = line_amplitudes(waveforms, sample_rate_hz, lines.flatten(1)).square().unflatten(-1, lines.shape[1:]).sum(-1)
    best = total[:, 1:4].argmax(-1, keepdim=True) + 1
    below, top, above = (total.gather(-1, best + k) for k in (-1, 0, 1))
    curvature = (2 * top - below - above).clamp_min(TINY_POWER)
    shift = ((above - below) / (2 * curvature)).clamp(-1, 1)
    return (candidates.gather(-1, best) + shift * step).squeeze(-1)


def _power_and_floor(
    waveforms: Float[Tensor, "batch samples"], sample_rate_hz: float, frequencies_hz: Float64[Tensor, "grid lines"]
) -> tuple[Float64[Tensor, "batch grid lines"], Float64[Tensor, "batch grid lines"]]:
    """Line power (A^2 / 2) at the nearest bin of a fourfold zero-padded FFT, and the noise power around it, both + TINY_POWER."""
    x = centred(waveforms)
    hann = periodic_hann(x.shape[-1], x.device)
    num_fft = 4 * x.shape[-1]
    power = 2 * torch.fft.rfft(x * (hann / hann.sum()), n=num_fft).abs().square()
    bands = _noise_floor(waveforms, sample_rate_hz)
    nearest = (frequencies_hz * (num_fft / sample_rate_hz)).round().long()
    return power[:, nearest] + TINY_POWER, bands[:, _band(frequencies_hz, bands.shape[-1], sample_rate_hz)] + TINY_POWER


def _noise_floor(waveforms: Float[Tensor, "batch samples"], sample_rate_hz: float) -> Float64[Tensor, "batch bands"]:
    """Noise power a line of the Hann spectrum would have by chance, in equal bands of about 100 Hz (8 bins at least) up to Nyquist."""
    x = centred(waveforms)
    hann = periodic_hann(x.shape[-1], x.device)
    power = 2 * torch.fft.rfft(x * (hann / hann.sum())).abs().square()[:, 1:]
    bins = max(8, round(FLOOR_BAND_HZ * x.shape[-1] / sample_rate_hz))
    num_bands = max(1, power.shape[-1] // bins)
    bins = power.shape[-1] // num_bands
    rank = max(1, math.ceil(FLOOR_QUANTILE * bins))
    # power in a bin of noise is exponential: its quantile q lies at -ln(1 - q) of its mean
    low = power[:, : num_bands * bins].unflatten(-1, (num_bands, bins)).sort(-1).values[..., rank - 1]
    return low / -math.log1p(-FLOOR_QUANTILE)


def _band(frequencies_hz: Float64[Tensor, "*any"], num_bands: int, sample_rate_hz: float) -> Tensor:
    return (frequencies_hz * (2 * num_bands / sample_rate_hz)).long().clamp(0, num_bands - 1)
