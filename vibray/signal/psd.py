"""Power spectral densities, their bands and their values at given frequencies."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vibray.signal.stft import periodic_hann
from vibray.signal.waveform import frames


def welch_psd(waveforms: Float[Tensor, "batch samples"], sample_rate_hz: float, segment: int, num_fft: int) -> Float[Tensor, "batch bins"]:
    """One-sided power spectral density in unit^2/Hz at k fs / num_fft, k = 0 .. num_fft // 2, by Welch's method: periodic Hann segments
    of `segment` samples, half overlapping, zero-padded to `num_fft`, no detrending (subtract the mean first), plain mean.

    In the precision of `waveforms`. Raises ValueError for a record shorter than a segment.
    Source: Welch 1967; scipy.signal.welch(window="hann", detrend=False) gives the same.
    """
    hann = periodic_hann(segment, waveforms.device).to(waveforms.dtype)
    spectra = torch.fft.rfft(frames(waveforms, segment, segment - segment // 2) * hann, n=num_fft)
    psd = spectra.abs().square().mean(dim=-2) / (sample_rate_hz * hann.square().sum())
    # every bin but DC, and Nyquist where there is one, stands for two
    psd[..., 1 : (num_fft + 1) // 2] *= 2
    return psd


def interpolated(
    values: Float[Tensor, "batch points"], at: Float[np.ndarray, " points"], to: Float[np.ndarray, " targets"]
) -> Float[Tensor, "batch targets"]:
    """numpy.interp for a batch: values given at the rising places `at`, read linearly at `to`; the end values hold beyond the ends."""
    high = np.clip(np.searchsorted(at, to), 1, len(at) - 1)
    weight = np.clip((to - at[high - 1]) / (at[high] - at[high - 1]), 0, 1)
    w = torch.from_numpy(weight).to(values)
    upper = torch.from_numpy(high).to(values.device)
    return values[:, upper - 1] * (1 - w) + values[:, upper] * w


def band_means(values: Float[Tensor, "*rest bins"], num_bands: int) -> Float[Tensor, "*rest bands"]:
    """Means of `num_bands` equal bands of neighbouring bins along the last axis.

    Raises ValueError where the bins do not divide into equal bands.
    """
    bins = values.shape[-1]
    if bins % num_bands:
        raise ValueError(f"{bins} bins do not divide into {num_bands} equal bands")
    return values.unflatten(-1, (num_bands, bins // num_bands)).mean(-1)
