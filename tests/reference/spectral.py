"""Slow twin of the spectral vector with its default sizes: scipy, one record, one band at a time, in float64."""

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
