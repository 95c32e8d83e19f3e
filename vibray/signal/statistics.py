"""Statistics of a waveform in the time domain, with the definitions of the Zerone vector."""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

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


def time_statistics(waveforms: Float[Tensor, "batch samples"]) -> Float64[Tensor, "batch 15"]:
    """The 15 statistics named in TIME_STATISTICS, of the raw record, in float64.

    Moments are the population's (ddof 0); kurtosis is Pearson's m4 / m2^2 (3 for a Gaussian), skewness m3 / std^3; zero_crossing_rate
    counts changes of the sign bit over N - 1; a zero denominator gives 0. Two definitions are the author's, not the textbook's: `max`
    is the signed maximum, also in crest (max / rms), impulse (max / mean|x|) and margin; and margin is max / (mean x^4)^(1/4).
    """
    x = waveforms.double()
    mean = x.mean(-1)
    xc = x - mean[:, None]
    m2, m3, m4 = (xc.pow(k).mean(-1) for k in (2, 3, 4))
    std = m2.sqrt()
    highest, lowest = x.amax(-1), x.amin(-1)
    root_mean_square, mean_abs = rms(waveforms), x.abs().mean(-1)
    crossings = torch.signbit(x).diff(dim=-1).double().mean(-1)
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
        crossings,
        mean_abs,
        safe_ratio(highest, root_mean_square),
        safe_ratio(highest, mean_abs),
        safe_ratio(highest, x.pow(4).mean(-1).pow(0.25)),
        safe_ratio(root_mean_square, mean_abs),
    )
    return torch.stack(columns, dim=-1)
