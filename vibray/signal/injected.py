"""Faults added to records of any machine, at a stated ratio to the record's own vibration: what a detector must at least see."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt64
from torch import Tensor

Kind = Literal["impulses", "modulation", "band"]

Series = Float[np.ndarray, " samples"]


def inject(
    waveforms: Float[Tensor, "batch samples"],
    sample_rate_hz: float,
    kind: Kind,
    snr_db: float,
    key_hash: UInt64[np.ndarray, " batch"],
    seed: int = 0,
) -> Float[Tensor, "batch samples"]:
    """The records with a fault in each: its mean power stands `snr_db` above (below, if negative) that of the record less its mean.

    `impulses` ring at a steady rate, `modulation` is a band of noise that swells and fades, `band` one that does not. Rates and frequencies
    are drawn for each record from `seed` and its own key alone, so that a record gets the same fault in any batch.
    """
    make = _KINDS[kind]
    faulty = waveforms.clone()
    for row, key in enumerate(key_hash.tolist()):
        rng = np.random.Generator(np.random.SFC64(np.random.SeedSequence([seed, key, list(_KINDS).index(kind)])))
        x = waveforms[row].double()
        fault = make(rng, len(x), sample_rate_hz)
        fault *= np.sqrt(10 ** (snr_db / 10) / np.mean(fault**2))
        faulty[row] += (x.std(correction=0) * torch.as_tensor(fault, device=x.device)).to(waveforms.dtype)
    return faulty


def impulses(rng: np.random.Generator, num_samples: int, sample_rate_hz: float) -> Series:
    """4 to 30 hits a second, each ringing at one resonance (.15-.4 of the rate) for a few milliseconds, their distances 2 % irregular."""
    t = np.arange(num_samples) / sample_rate_hz
    period_s = 1 / rng.uniform(4, 30)
    # the first hit comes at once in a record that is shorter than the period
    first_s = rng.random() * min(period_s, t[-1] / 2)
    at_s = first_s + period_s * np.cumsum(np.r_[0, 1 + 0.02 * rng.standard_normal(int(t[-1] / period_s) + 1)])
    resonance_hz, decay_s = rng.uniform(0.15, 0.4) * sample_rate_hz, rng.uniform(0.002, 0.006)
    x = np.zeros(num_samples)
    for start_s in at_s[at_s < t[-1]]:
        after = t[t >= start_s] - start_s
        x[t >= start_s] += np.exp(-after / decay_s) * np.cos(2 * np.pi * resonance_hz * after)
    return x


def modulation(rng: np.random.Generator, num_samples: int, sample_rate_hz: float) -> Series:
    """A band of noise times 1 + cos of 4 to 40 Hz."""
    t = np.arange(num_samples) / sample_rate_hz
    return band(rng, num_samples, sample_rate_hz) * (1 + np.cos(2 * np.pi * (rng.uniform(4, 40) * t + rng.random())))


def band(rng: np.random.Generator, num_samples: int, sample_rate_hz: float) -> Series:
    """Noise within .02 of the rate around a centre of .05 to .4 of it."""
    f = np.fft.rfftfreq(num_samples)
    shape = np.exp(-(((f - rng.uniform(0.05, 0.4)) / 0.02) ** 4))
    return np.fft.irfft(shape * rng.standard_normal(2 * len(f)).view(np.complex128), num_samples)


_KINDS: dict[str, Callable[[np.random.Generator, int, float], Series]] = {"impulses": impulses, "modulation": modulation, "band": band}
