"""Slow twin of the Zerone vector: scipy and numpy, one record, one number at a time, in float64."""

import itertools

import numpy as np
import scipy.signal
import scipy.stats


def time_statistics(x: np.ndarray) -> np.ndarray:
    mean_abs = np.mean(np.abs(x))
    rms = np.sqrt(np.mean(x**2))
    crossings = sum(bool(np.signbit(a)) != bool(np.signbit(b)) for a, b in itertools.pairwise(x))
    statistics = [
        np.mean(x),
        rms,
        np.var(x),
        np.std(x),
        np.max(x),
        np.min(x),
        np.max(x) - np.min(x),
        scipy.stats.kurtosis(x, fisher=False),
        scipy.stats.skew(x),
        crossings / (len(x) - 1),
        mean_abs,
        np.max(x) / rms,
        np.max(x) / mean_abs,
        np.max(x) / np.mean(x**4) ** 0.25,
        rms / mean_abs,
    ]
    return np.array(statistics)


def zerone(waveform: np.ndarray, sample_rate_hz: float) -> np.ndarray:
    x = waveform.astype(np.float64)
    xc = x - x.mean()
    n = len(x)
    _, _, stft = scipy.signal.stft(xc, sample_rate_hz, "hann", 128, 64, detrend=False, boundary=None, padded=False, scaling="spectrum")  # type: ignore[arg-type]
    frames = np.abs(stft)[1:].mean(axis=0)
    f, density = scipy.signal.welch(xc, sample_rate_hz, "hann", 4096, 2048, nfft=n, detrend=False)  # type: ignore[arg-type]
    hz = np.arange(1, int(np.floor(sample_rate_hz / 2)) + 1)
    psd = np.interp(hz, f[f >= 1], density[f >= 1])
    single = [psd[hz == h][0] for h in range(1, 1001)]
    pooled = [psd[(hz > h) & (hz <= h + 20)].mean() for h in range(1000, 2000, 20)]
    hf = []
    for threshold in (1000, 2000, 3000, 4000):
        above = hz >= threshold
        hf.append(psd[above].mean() / (psd[~above].mean() + 1e-12))
        hf.append(np.trapezoid(psd[above], hz[above]) / (np.trapezoid(psd, hz) + 1e-12))
    return np.array([*time_statistics(x), *frames, *single, *pooled, *hf])
