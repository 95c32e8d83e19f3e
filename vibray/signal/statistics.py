"""Statistics of a waveform in the time domain, with the definitions of the Zerone vector."""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from vibray.signal.stft import in_parts
from vibray.signal.waveform import centred

TIME_STATISTICS = (
    "mean",
    "rms",
    "variance",
    "std",
    "max",
    "min",
    "peak_to_peak",
    "kurtosis",
    "skewness",
    "zero_crossing_rate",
    "mean_abs",
    "crest_factor",
    "impulse_factor",
    "margin_factor",
    "waveform_factor",
)


def safe_ratio(numerator: Float[Tensor, "..."], denominator: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """numerator / denominator, and 0 where the denominator is 0."""
    zero = denominator == 0
    return torch.where(zero, 0.0, numerator / torch.where(zero, 1.0, denominator))


def rms(waveforms: Float[Tensor, "batch samples"]) -> Float64[Tensor, " batch"]:
    """Root of the mean square of the record as it is, mean included."""
    return waveforms.double().square().mean(-1).sqrt()


def standard_deviation(waveforms: Float[Tensor, "batch samples"]) -> Float64[Tensor, " batch"]:
    """Root of the mean square of the record less its mean."""
    parts = [centred(records).square().mean(-1).sqrt() for _, records in in_parts(waveforms)]
    return torch.cat(parts) if parts else waveforms.new_empty(0, dtype=torch.float64)


def time_statistics(waveforms: Float[Tensor, "batch samples"]) -> Float64[Tensor, "batch 15"]:
    """The 15 statistics named in TIME_STATISTICS, of the raw record, in float64.

    Moments are the population's (ddof 0); kurtosis is Pearson's m4 / m2^2 (3 for a Gaussian), skewness m3 / std^3; zero_crossing_rate
    counts changes of the sign bit over N - 1; a zero denominator gives 0. Two definitions are the author's, not the textbook's: `max`
    is the signed maximum, also in crest (max / rms), impulse (max / mean|x|) and margin; and margin is max / (mean x^4)^(1/4).
    """
    moments = waveforms.new_empty((len(waveforms), 8), dtype=torch.float64)
    for part, records in in_parts(waveforms):
        moments[part] = _moments(records)
    # ratios once for the whole batch: for a few records at a time they would take as long as the passes over the samples
    mean, m2, m3, m4, highest, lowest, mean_abs, crossings = moments.unbind(-1)
    std = m2.sqrt()
    # moments of x itself from those about the mean: no pass over the samples, and nothing cancels
    root_mean_square = (m2 + mean.square()).sqrt()
    mean_fourth = m4 + 4 * mean * m3 + 6 * mean.square() * m2 + mean.pow(4)
    columns = (
        mean,
        root_mean_square,
        m2,
        std,
        highest,
        lowest,
        highest - lowest,
        safe_ratio(m4, m2.square()),
        safe_ratio(m3, std.pow(3)),
        crossings / max(1, waveforms.shape[-1] - 1),
        mean_abs,
        safe_ratio(highest, root_mean_square),
        safe_ratio(highest, mean_abs),
        safe_ratio(highest, mean_fourth.pow(0.25)),
        safe_ratio(root_mean_square, mean_abs),
    )
    return torch.stack(columns, dim=-1)


def _moments(waveforms: Float[Tensor, "batch samples"]) -> Float64[Tensor, "batch 8"]:
    """Mean; m2, m3, m4 about it; maximum, minimum, mean |x|, number of changes of the sign bit."""
    x = waveforms.double()
    mean = x.mean(-1)
    xc = x - mean[:, None]
    squares = xc.square()
    negative = torch.signbit(waveforms)
    columns = (
        mean,
        squares.mean(-1),
        xc.mul_(squares).mean(-1),
        squares.square_().mean(-1),
        waveforms.amax(-1),
        waveforms.amin(-1),
        x.abs().mean(-1),
        (negative[:, 1:] ^ negative[:, :-1]).sum(-1),
    )
    return torch.stack([column.double() for column in columns], dim=-1)
