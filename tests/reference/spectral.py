"""Slow twin of the spectral vector with its default sizes: scipy, one record, one band at a time, in float64."""

from itertools import pairwise

import numpy as np
import scipy.signal


def log_bands(waveform: np.ndarray, sample_rate_hz: float) -> np.ndarray:
    """ln of the mean power of 64 bands of 8 bins of a 1024-point Welch spectrum, DC dropped."""
    x = waveform.astype(np.float64)
    _, psd = scipy.signal.welch(x - x.mean(), sample_rate_hz, "hann", 1024, 512, detrend=False)  # type: ignore[arg-type]
    return np.array([np.log(np.mean(psd[1 + 8 * b : 9 + 8 * b])) for b in range(64)])


def _magnitudes(waveform: np.ndarray, window: int) -> np.ndarray:
    x = waveform.astype(np.float64)
    options = {"noverlap": window // 2, "detrend": False, "boundary": None, "padded": False, "scaling": "spectrum"}
    _, _, stft = scipy.signal.stft(x - x.mean(), 1.0, "hann", window, **options)
    return np.abs(stft)[1:]


def log_mean_and_cv(waveform: np.ndarray) -> np.ndarray:
    magnitude = _magnitudes(waveform, 128)
    return np.concatenate([np.log(magnitude.mean(1)), np.log(magnitude.std(1) / magnitude.mean(1) + 1e-4)])


def movement(waveform: np.ndarray, window: int) -> np.ndarray:
    power = _magnitudes(waveform, window) ** 2
    size = len(power) // 32
    energy = np.log([power[b * size : (b + 1) * size].mean(axis=0) for b in range(32)])
    return np.concatenate([energy.std(axis=1), energy.max(axis=1) - energy.mean(axis=1)])


def mean_log_energies(waveform: np.ndarray, window: int, edges_in_bins: np.ndarray) -> np.ndarray:
    """Mean over the frames, overlapping by 3/4, of ln mean power between the edges; bin k covers k - 1/2 to k + 1/2, from bin 1 up."""
    x = waveform.astype(np.float64)
    hann = np.asarray(scipy.signal.get_window("hann", window))
    found = []
    for start in range(0, len(x) - window + 1, window // 4):
        power = np.abs(np.fft.rfft((x - x.mean())[start : start + window] * hann / hann.sum())) ** 2
        energies = []
        for low, high in pairwise(edges_in_bins):
            share = [max(0.0, min(k + 0.5, high) - max(k - 0.5, low)) for k in range(1, window // 2 + 1)]
            energies.append(np.dot(share, power[1:]) / sum(share))
        found.append(np.log(energies))
    return np.mean(found, axis=0)
