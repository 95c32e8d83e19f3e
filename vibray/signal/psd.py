"""Power spectral densities, their bands and their values at given frequencies."""

import functools
import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from vibray.signal.stft import CPU_SAMPLES, HANN_BINS, in_parts, periodic_hann, squared_magnitude
from vibray.signal.waveform import centred, frames

NARROW = 4
"""Bands of so few bins are summed bin by bin: a reduction over 2 neighbours takes fifteen times as long."""


def welch_psd(waveforms: Float[Tensor, "batch samples"], sample_rate_hz: float, segment: int, num_fft: int) -> Float[Tensor, "batch bins"]:
    """One-sided power spectral density in unit^2/Hz at k fs / num_fft, k = 0 .. num_fft // 2, by Welch's method: periodic Hann segments
    of `segment` samples, half overlapping, zero-padded to `num_fft`, no detrending (subtract the mean first), plain mean.

    In the precision of `waveforms`. Raises ValueError for a record shorter than a segment.
    Source: Welch 1967; scipy.signal.welch(window="hann", detrend=False) gives the same.
    """
    segments = frames(waveforms, segment, segment - segment // 2).unbind(-2)
    hann = periodic_hann(segment, waveforms.device)
    # every bin but DC, and Nyquist where there is one, stands for two
    scaled = (hann * (2 / (sample_rate_hz * hann.square().sum() * len(segments))).sqrt()).to(waveforms.dtype)
    # one segment of all records at a time, in one buffer whose end stays 0, real and imaginary parts squared alike: a third less time
    padded = waveforms.new_zeros(len(waveforms), num_fft)
    squares = waveforms.new_zeros(len(waveforms), 2 * (num_fft // 2 + 1))
    spectrum = torch.empty(len(waveforms), num_fft // 2 + 1, dtype=waveforms.dtype.to_complex(), device=waveforms.device)
    parts = torch.view_as_real(spectrum).flatten(-2)
    for part in segments:
        torch.mul(part, scaled, out=padded[:, :segment])
        torch.fft.rfft(padded, out=spectrum)
        squares.addcmul_(parts, parts)
    psd = squares[:, 0::2] + squares[:, 1::2]
    psd[:, 0] /= 2
    if num_fft % 2 == 0:
        psd[:, -1] /= 2
    return psd


def mean_squares(
    waveforms: Float[Tensor, "batch samples"], sample_rate_hz: float, edges_hz: tuple[float, ...]
) -> Float64[Tensor, "batch bands"]:
    """Mean square of each record minus its mean from each of `edges_hz` to the next, from the last to Nyquist: of one Hann spectrum."""
    n = waveforms.shape[-1]
    hann = periodic_hann(n, waveforms.device)
    hann = hann * (2 / hann.sum())
    edges = [*(math.ceil(hz * n / sample_rate_hz) for hz in edges_hz), n // 2 + 1]
    found = hann.new_empty(len(waveforms), len(edges_hz))
    for part, records in in_parts(waveforms, CPU_SAMPLES // 2):
        power = squared_magnitude(torch.fft.rfft(centred(records) * hann)) / (2 * HANN_BINS)
        if n % 2 == 0:  # the bin at Nyquist stands for itself alone
            power[:, -1] /= 2
        for i in range(len(edges_hz)):
            found[part, i] = power[:, edges[i] : edges[i + 1]].sum(-1)
    return found


class Reading(NamedTuple):
    """Where numpy.interp reads: between points `below` and `below` + 1, with this weight of the latter."""

    below: Int64[Tensor, " targets"]
    weight: Float64[Tensor, " targets"]


def linear_reading(at: Float[np.ndarray, " points"], to: Float[np.ndarray, " targets"], device: torch.device | None = None) -> Reading:
    """How to read at `to` what is known at the rising places `at`; beyond their ends the end values hold."""
    high = np.clip(np.searchsorted(at, to), 1, len(at) - 1)
    weight = np.clip((to - at[high - 1]) / (at[high] - at[high - 1]), 0, 1)
    return Reading(torch.from_numpy(high - 1).to(device), torch.from_numpy(weight).to(device))


def interpolated(values: Float[Tensor, "batch points"], reading: Reading) -> Float[Tensor, "batch targets"]:
    """numpy.interp for a batch, as `linear_reading` says."""
    below, weight = reading
    return torch.lerp(values.index_select(-1, below), values.index_select(-1, below + 1), weight.to(values.dtype))


def band_weights(edges: Float64[np.ndarray, " edges"], num_bins: int) -> Float64[np.ndarray, "bins bands"]:
    """Weights that average the power of bins over the bands between neighbouring `edges`, in bins, none below 1/2.

    Bin k, DC dropped, covers k - 1/2 to k + 1/2, and counts by what of it lies in a band: a band may be narrower than a bin. One below the
    first bin has that bin: there is nothing nearer.
    """
    bins = np.arange(1, num_bins + 1)[:, None]
    overlap = np.minimum(bins + 0.5, edges[1:]) - np.maximum(bins - 0.5, edges[:-1])
    weights = np.clip(overlap, 0, None)
    weights[0, weights.sum(axis=0) == 0] = 1
    return weights / weights.sum(axis=0)


def band_means(values: Float[Tensor, "*rest bins"], num_bands: int) -> Float[Tensor, "*rest bands"]:
    """Means of `num_bands` equal bands of neighbouring bins along the last axis.

    Raises ValueError where the bins do not divide into equal bands.
    """
    bins = values.shape[-1]
    if bins % num_bands:
        raise ValueError(f"{bins} bins do not divide into {num_bands} equal bands")
    width = bins // num_bands
    if width > NARROW:
        return values.unflatten(-1, (num_bands, width)) @ values.new_full((width,), 1 / width)  # a third of mean's time
    return functools.reduce(torch.add, (values[..., i::width] for i in range(width))) / width


def kth_smallest(values: Float[Tensor, "*rest values"], k: int) -> Float[Tensor, "*rest"]:
    """The k-th smallest (from 1) along the last axis. numpy's selection takes a fifth of torch's time for rows of a hundred."""
    if values.is_cuda:
        return values.kthvalue(k, dim=-1).values
    return torch.from_numpy(np.partition(values.numpy(), k - 1, axis=-1)[..., k - 1])
