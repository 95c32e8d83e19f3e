"""Waveforms in the time domain: centred, standardised, extended at the ends, cut into frames and into image columns."""

import torch
from jaxtyping import Float, Float64, Int64
from scipy.fft import next_fast_len
from torch import Tensor


def fast_length(at_least: int) -> int:
    """The next length whose real FFT is fast."""
    length: int = next_fast_len(at_least, real=True)  # type: ignore[assignment]
    return length


def centred(waveforms: Float[Tensor, "batch samples"]) -> Float64[Tensor, "batch samples"]:
    """The record minus its mean, in its own unit. In float64: a float32 mean of 1000 + 1e-3 noise is off by more than the noise's 1 %."""
    x = waveforms.double()
    return x - x.mean(dim=-1, keepdim=True)


def standardised(waveforms: Float[Tensor, "batch samples"]) -> Float64[Tensor, "batch samples"]:
    """The z-score of the original plan, (x - mean) / (std + 1e-8) with the population std, moments and subtraction in float64."""
    xc = centred(waveforms)
    return xc / (xc.square().mean(dim=-1, keepdim=True).sqrt() + 1e-8)


def odd_extension(waveforms: Float[Tensor, "batch samples"], left: int, right: int) -> Float[Tensor, "batch extended"]:
    """The waveform continued by odd reflection (2 x0 - x) about its first and its last sample; about the new ends again where
    `left` or `right` is longer than the record. What numpy.pad calls mode="reflect", reflect_type="odd".

    Raises ValueError for a record of fewer than 2 samples.
    """
    if waveforms.shape[-1] < 2:
        raise ValueError(f"odd reflection needs at least 2 samples; the record has {waveforms.shape[-1]}")
    x = waveforms
    while left > 0 or right > 0:
        longest = x.shape[-1] - 1
        a, b = min(left, longest), min(right, longest)
        before = 2 * x[:, :1] - x[:, 1 : a + 1].flip(-1)
        after = 2 * x[:, -1:] - x[:, longest - b : longest].flip(-1)
        x = torch.cat([before, x, after], dim=-1)
        left, right = left - a, right - b
    return x


def frames(waveforms: Float[Tensor, "batch samples"], window: int, hop: int) -> Float[Tensor, "batch frames window"]:
    """All whole frames of `window` samples that begin every `hop` samples, the first at sample 0 (a view; no padding).

    Raises ValueError for a record shorter than one frame.
    """
    if waveforms.shape[-1] < window:
        raise ValueError(f"a frame has {window} samples; the record has {waveforms.shape[-1]}")
    return waveforms.unfold(-1, window, hop)


def column_edges(num_samples: int, columns: int) -> Int64[Tensor, " edges"]:
    """The columns + 1 sample numbers that bound the columns of an image: column j is samples floor(j N / C) to floor((j + 1) N / C)."""
    return torch.arange(columns + 1, dtype=torch.int64) * num_samples // columns
