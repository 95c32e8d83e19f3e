"""Waveforms of each kind that an image or a vector may meet, float32."""

import numpy as np


def kinds(num_samples: int = 8192, sample_rate_hz: float = 8192.0, seed: int = 0) -> dict[str, np.ndarray]:
    """random, impulsive, harmonic, and two of a constant plus noise, one of them 1000 + 1e-3 noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(num_samples) / sample_rate_hz
    noise = rng.standard_normal(num_samples)
    impulsive = 0.01 * noise
    for begin in rng.uniform(0, t[-1], 9):
        after = np.maximum(t - begin, 0)
        impulsive += (t >= begin) * np.exp(-800 * after) * np.sin(2 * np.pi * 2200 * after)
    harmonic = 0.003 * noise
    for k in range(1, 12):
        harmonic += np.sin(2 * np.pi * 100.03 * k * t + k) / k**1.5
    found = {"random": noise, "impulsive": impulsive, "harmonic": harmonic, "constant": 5 + 0.1 * noise, "offset": 1000 + 1e-3 * noise}
    return {name: x.astype(np.float32) for name, x in found.items()}
