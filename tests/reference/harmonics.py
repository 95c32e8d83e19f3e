"""A transformer's record written down line by line, the slow, obvious way to its line amplitudes, and how well these can be known."""

from dataclasses import dataclass, replace

import numpy as np

from vibray.signal.synthetic import START, FleetConfig, condition, measured_at, place
from vibray.signal.transformer import heard, moment, unit

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


HANN_AMPLITUDE_LOSS = 1.5
"""Variance of an amplitude read through a Hann window over that without one: its equivalent noise bandwidth, N sum w^2 / (sum w)^2."""


def amplitude_bound(noise_variance: float | np.ndarray, num_samples: int) -> np.ndarray:
    """Cramer-Rao bound of the standard deviation of a sine's amplitude in white noise: sqrt(2 sigma^2 / N). Kay 1993, eq. 3.41."""
    return np.sqrt(2 * np.asarray(noise_variance) / num_samples)


def frequency_bound_hz(
    amplitudes: np.ndarray, orders: np.ndarray, noise_variance: float | np.ndarray, num_samples: int, sample_rate_hz: float
) -> float:
    """Cramer-Rao bound of the standard deviation of f0 from lines at `orders` x f0, each in the noise around it.

    Kay 1993, eq. 3.41 gives var(omega) >= 24 sigma^2 / (A^2 N (N^2 - 1)) for one line; line m at m omega adds m^2 times its information.
    """
    information = np.sum(np.square(amplitudes * orders) / noise_variance) * num_samples * (num_samples**2 - 1) / 24
    return float(sample_rate_hz / 2 / np.pi / np.sqrt(information))


def hann_frequency_loss(num_samples: int) -> float:
    """Variance of the top of a line's Hann spectrum over the bound, to first order in the noise: sum w^2 t^2 sum t^2 / (sum w t^2)^2."""
    t = np.arange(num_samples) - (num_samples - 1) / 2
    w = 1 + np.cos(2 * np.pi * t / num_samples)
    return float(np.sum((w * t) ** 2) * np.sum(t**2) / np.sum(w * t**2) ** 2)


@dataclass(frozen=True)
class FleetRecord:
    """A record of the synthetic fleet, taken apart."""

    f0_hz: float
    waveform: np.ndarray
    rest: np.ndarray
    """The same record, had the core and the winding been silent."""
    blades_hz: np.ndarray
    """Lines of its fans: a line of the comb within three bins of one of them cannot be known."""


def fleet_record(config: FleetConfig, index: int) -> FleetRecord | None:
    """Record `index`, healthy and undisturbed; None where its machine is off."""
    at = place(config, index)
    if not condition(config, at).energised:
        return None
    time_s = (measured_at(config, at.unit, at.step) - START).total_seconds()
    m = moment(config.seed, at.unit, at.step, time_s, float(config.mains_hz), True, config.num_samples)
    silent = replace(m, core=0 * m.core, winding=0 * m.winding, odd=0 * m.odd)
    # heard() draws the same random numbers whatever the amplitudes
    whole, rest = (heard(config.seed, at.unit, at.sensor, at.step, n, config.num_samples, config.sample_rate_hz) for n in (m, silent))
    u = unit(config.seed, at.unit)
    return FleetRecord(m.f0_hz, whole, rest, u.fan_hz * (1 - 2e-4 * m.temperature) * u.fan_blades * np.arange(1, 4))


def noise_variance_around(record: np.ndarray, sample_rate_hz: float, frequencies_hz: np.ndarray, bins: int = 20) -> np.ndarray:
    """Variance of white noise as dense as this record around each frequency: the median of the Hann periodogram `bins` to either side."""
    n = len(record)
    hann = 1 - np.cos(2 * np.pi * np.arange(n) / n)
    power = np.abs(np.fft.rfft((record - record.mean(dtype=np.float64)) * hann)) ** 2 / np.sum(hann**2)
    around = np.rint(frequencies_hz * n / sample_rate_hz).astype(int)[:, None] + np.arange(-bins, bins + 1)
    return np.median(power[np.clip(around, 1, n // 2 - 1)], axis=1) / np.log(2)
