"""The family of lines that a machine on the mains shows, wherever it stands: it tells whether the stated sample rate can be right.

Transformer core and winding forces act at twice the mains frequency, so that the lines are multiples of 100 or 120 Hz; odd multiples of the
mains frequency itself may stand between them, lower. Read with a wrong rate, the same lines are multiples of something else.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float32, Float64
from torch import Tensor
from torch.nn.functional import max_pool1d

from vibray.signal.psd import kth_smallest
from vibray.signal.stft import in_parts, periodic_hann, squared_magnitude
from vibray.signal.waveform import centred

MIN_SAMPLES = 256
"""A shorter record has no room for a family: its lines, 8 bins and more apart, would be fewer than 16."""

FLOOR_BINS = 64
FLOOR_QUANTILE = 0.25
"""The noise around a line is read from this quantile of the power in so many bins: lines 8 bins apart fill half of them."""

DEEPEST = 1e-8
"""The floor lies at most 80 dB below a record's strongest line: what is lower is rounding and leakage."""

MIN_SNR = 20.0
"""A line stands so far above the noise: the 4096 bins of noise alone pass it once in 100,000 records, were the floor known exactly."""

SIDELOBE = 1e-3
"""A maximum 30 dB below one within 8 bins is that one's sidelobe (Hann's first: 31.5 dB) or the skirt of its modulation."""

NUM_LINES = 24
"""So many lines are looked at, the clearest: more are noise, or say the same."""

LEADERS = 8
ORDERS = 12
"""The candidates for the fundamental are the strongest so many lines, each as the first to the twelfth multiple."""

MIN_BINS = 7.0
"""The lowest fundamental: a comb of narrower teeth meets any line by chance."""

TOLERANCE_BINS = 0.5
"""A line is a multiple where it stands within so much of one."""

TOOTH_COST = 0.3
"""What a multiple costs below the highest one that stands, in mean lines: without it half a fundamental would explain as much."""

MIN_MATCHED = 3
MIN_SHARE = 0.5
"""A family has three lines at least and half the weight of all: gearboxes, whose lines belong to several shafts, seldom have one."""

MAX_CHANCE = 1e-4
"""A family stands where so many lines would meet multiples of one candidate by chance less often than this, of which there are 96."""

ALTERNATE_ORDERS = 12
ODD_SHARE = 0.25
"""Where the odd multiples up to the twelfth have less than a quarter of the even ones' power, the even ones are the family: a DC bias
as strong as the generated fleet's leaves them a tenth, and the 100 Hz line, an odd one of its own family, is most often the strongest."""


class Lines(NamedTuple):
    """The clearest lines of each record."""

    bins: Float32[Tensor, "batch lines"]
    """Where they stand, in units of the sample rate over the number of samples."""
    weight: Float32[Tensor, "batch lines"]
    """1 + ln(power over noise / MIN_SNR); 0 where there are fewer lines."""
    power: Float32[Tensor, "batch lines"]
    """Relative to the record's strongest bin."""


def mains_family_hz(waveforms: Float[Tensor, "batch samples"], sample_rate_hz: float) -> Float64[Tensor, " batch"]:
    """Fundamental of the family of lines in each record, in Hz of the stated rate; NaN where no family stands.

    A record of a machine on 50 Hz mains has it at 100 Hz, or at a multiple where only each second (third ...) line is there. One of 4096 Hz
    that is read as 8192 Hz has it at 200 Hz. To a thousandth in the generated fleet, most of it the mains' own wandering.
    """
    found = waveforms.new_full((len(waveforms),), math.nan, dtype=torch.float64)
    if waveforms.shape[-1] >= MIN_SAMPLES:
        for part, records in in_parts(waveforms):
            found[part] = _fundamental_bins(clearest_lines(records)).double() * (sample_rate_hz / waveforms.shape[-1])
    return found


def clearest_lines(waveforms: Float[Tensor, "batch samples"]) -> Lines:
    """The local maxima of the Hann spectrum that stand above the noise around them, the clearest first."""
    n = waveforms.shape[-1]
    x = centred(waveforms)
    # float32 has room for the squares of neither 1e30 nor 1e-30
    x = (x / x.abs().amax(-1, keepdim=True).clamp_min(1e-300) * periodic_hann(n, x.device)).float()
    power = squared_magnitude(torch.fft.rfft(x))
    power = power / power.amax(-1, keepdim=True).clamp_min(1e-30)
    num_bands = n // 2 // FLOOR_BINS
    width = n // 2 // num_bands
    bands = power[:, 1 : 1 + num_bands * width].unflatten(-1, (num_bands, width))
    # power in a bin of noise is exponential: its quantile q lies at -ln(1 - q) of its mean
    floor = kth_smallest(bands, math.ceil(FLOOR_QUANTILE * width))[..., None] / -math.log1p(-FLOOR_QUANTILE)
    snr, body = (bands / floor.clamp_min(DEEPEST)).flatten(1), bands.flatten(1)
    stands = (snr >= MIN_SNR) & (body == max_pool1d(body, 5, 1, 2)) & (body >= SIDELOBE * max_pool1d(body, 17, 1, 8))
    stands[:, :2] = stands[:, -1:] = False  # the mean's main lobe; Nyquist's bin has no neighbour
    height, at = (snr * stands).topk(min(NUM_LINES, snr.shape[-1]))
    at = at + 1
    below, top, above = (power.gather(-1, at + k).sqrt() for k in (-1, 0, 1))
    # a Hann line `shift` bins from its highest bin has (1 + shift) / (2 - shift) of that bin's amplitude in the next
    ratio = torch.maximum(below, above) / top.clamp_min(1e-15)
    shift = ((2 * ratio - 1) / (1 + ratio)).clamp(0, 0.5) * torch.where(above > below, 1.0, -1.0)
    return Lines(at + shift, torch.where(height > 0, (height / MIN_SNR).clamp_min(1).log() + 1, 0.0), top.square())


def _fundamental_bins(lines: Lines) -> Float32[Tensor, " batch"]:
    """The fundamental whose multiples explain most of the lines' weight, less what the multiples cost; NaN where that is too little."""
    bins, weight, power = lines
    leaders = (power * (weight > 0)).topk(min(LEADERS, bins.shape[-1])).indices
    orders = torch.arange(1, ORDERS + 1, device=bins.device)
    candidates = (bins.gather(-1, leaders)[..., None] / orders).flatten(1)
    order, matched = _matched(lines, candidates)
    explained = (matched * weight[:, None]).sum(-1)
    mean = weight.sum(-1, keepdim=True) / (weight > 0).sum(-1, keepdim=True).clamp_min(1)
    value = explained - TOOTH_COST * mean * (matched * order).amax(-1)
    possible = (candidates >= MIN_BINS) & (matched.sum(-1) >= MIN_MATCHED)
    best_value, best = torch.where(possible, value, -torch.inf).max(-1)
    of_best = torch.arange(len(best), device=bins.device), best
    order, w = order[of_best], weight * matched[of_best]
    fundamental = (w * order * bins).sum(-1) / (w * order.square()).sum(-1)
    # asked of the best alone: where it has less, another one that has more by narrower teeth has it by chance
    stands = (best_value > -torch.inf) & (w.sum(-1) >= MIN_SHARE * weight.sum(-1))
    # one line has given the fundamental; each other meets a multiple with the chance 2 TOLERANCE_BINS / fundamental
    others, met = (weight > 0).sum(-1) - 1, (w > 0).sum(-1) - 1
    ways = torch.lgamma(others + 1.0) - torch.lgamma(met + 1.0) - torch.lgamma(others - met + 1.0)
    stands &= ways - met * (fundamental / (2 * TOLERANCE_BINS)).log() < math.log(MAX_CHANCE)
    low = power * (w > 0) * (order <= ALTERNATE_ORDERS)
    odd, even = (low * (order % 2)).sum(-1), (low * (1 - order % 2)).sum(-1)
    fundamental = torch.where(odd < ODD_SHARE * even, 2 * fundamental, fundamental)
    return torch.where(stands, fundamental, torch.nan)


def _matched(
    lines: Lines, candidates: Float32[Tensor, "batch candidates"]
) -> tuple[Float32[Tensor, "batch candidates lines"], Bool[Tensor, "batch candidates lines"]]:
    """Of which multiple of each candidate a line is the nearest neighbour, and whether it stands there."""
    times = lines.bins[:, None] / candidates[..., None].clamp_min(1e-3)
    order = times.round()
    at_it = (times - order).abs() * candidates[..., None] <= TOLERANCE_BINS
    return order, at_it & (order >= 1) & (lines.weight[:, None] > 0)
