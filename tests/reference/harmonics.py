"""A transformer's record written down line by line, and the slow, obvious way to its line amplitudes."""

import numpy as np

HEALTHY = {50: 0.17, 100: 1.0, 150: 0.03, 200: 0.03, 250: 0.03, 300: 0.16, 400: 0.05, 500: 0.06, 600: 0.32, 700: 0.09, 800: 0.08, 900: 0.05}
"""Amplitude at each nominal frequency, relative to 100 Hz: one real healthy record."""


def transformer(
    f0: float, sample_rate_hz: float, num_samples: int, noise: float = 0.0, lines: dict[int, float] = HEALTHY, seed: int = 0
) -> np.ndarray:
    """float32 record whose lines, given at the nominal 50 Hz, stand at the multiples of f0 with random phases."""
    rng = np.random.default_rng(seed)
    t = np.arange(num_samples) / sample_rate_hz
    x = noise * rng.standard_normal(num_samples)
    for nominal, amplitude in lines.items():
        x += amplitude * np.sin(2 * np.pi * nominal / 50 * f0 * t + rng.uniform(0, 2 * np.pi))
    return x.astype(np.float32)


def least_squares_amplitudes(waveform: np.ndarray, sample_rate_hz: float, frequencies_hz: np.ndarray) -> np.ndarray:
    """Amplitudes of sine and cosine at all frequencies at once and a constant, by linear least squares."""
    t = np.arange(len(waveform))[:, None] / sample_rate_hz
    phase = 2 * np.pi * t * frequencies_hz
    design = np.hstack([np.ones_like(t), np.cos(phase), np.sin(phase)])
    solution = np.linalg.lstsq(design, waveform.astype(np.float64), rcond=None)[0][1:]
    cosine, sine = np.split(solution, 2)
    return np.hypot(cosine, sine)
