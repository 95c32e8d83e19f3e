"""Slow, obvious twins of the robust statistics and of B64, in numpy, scipy and scikit-learn."""

import math

import numpy as np
from scipy import signal
from sklearn.covariance import LedoitWolf


def median_mad(values: np.ndarray) -> tuple[float, float]:
    """Median and 1.4826 MAD of one list of numbers, by sorting."""

    def median(numbers: np.ndarray) -> float:
        ordered, n = sorted(numbers.tolist()), len(numbers)
        return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2

    centre = median(values)
    return centre, 1.4826 * median(np.abs(values - centre))


def shrunk(pool: dict, own: np.ndarray, prior_records: float) -> tuple[float, float]:
    """Location and scale of one number of a sensor by its own values, `pool` being those of the training sensors by sensor."""
    squares = sorted(median_mad(values)[1] ** 2 for values in pool.values() if len(values) > 1)
    usual = (squares[(len(squares) - 1) // 2] + squares[len(squares) // 2]) / 2 if squares else 0.0
    if usual == 0:
        usual = median_mad(np.concatenate(list(pool.values())))[1] ** 2 or 1.0
    centre, scale = median_mad(own)
    n = len(own)
    return centre, (((n - 1) * scale**2 + prior_records * usual) / (n - 1 + prior_records) * (1 + math.pi / (2 * n))) ** 0.5


def limited(z: float, num_records: float, fall: float, upper: float, level: float | None) -> float:
    """One scaled value between its limits, case by case."""
    if z > upper:
        value = upper + math.log(1 + z - upper)
    elif num_records < math.inf:
        value = max(z, -(1 + (fall - 1) * (1 - 1 / math.sqrt(num_records))))
    else:
        value = max(z, -fall)
    if level is None or level >= -5:
        return value
    still = max(-1.0, min(1.0, value))
    return still if level <= -10 else still + (value - still) * (level + 10) / 5


def log_bands(waveform: np.ndarray, sample_rate_hz: float) -> np.ndarray:
    """ln of the mean power of 64 equal bands of 8 bins of a 1024-point Welch, DC dropped."""
    options: dict = {"window": signal.get_window("hann", 1024), "nperseg": 1024, "noverlap": 512, "detrend": False}  # periodic
    _, power = signal.welch(waveform - waveform.mean(), sample_rate_hz, **options)
    return np.log(power[1:].reshape(64, 8).mean(axis=1))


def b64(pool: np.ndarray, pool_sensors: list, test: np.ndarray, test_sensors: list) -> np.ndarray:
    """Scores of `test` by METHODS' yardstick: log bands by sensor median and MAD in the pool, one Ledoit-Wolf covariance, Mahalanobis."""

    def scaled(bands: np.ndarray, sensors: list) -> np.ndarray:
        out = np.empty(bands.shape)
        for i, sensor in enumerate(sensors):
            own = np.array([row for row, other in zip(pool, pool_sensors, strict=True) if other == sensor])
            for j in range(bands.shape[1]):
                location, scale = median_mad(own[:, j])
                out[i, j] = (bands[i, j] - location) / scale
        return out

    return np.sqrt(LedoitWolf().fit(scaled(pool, pool_sensors)).mahalanobis(scaled(test, test_sensors)))
