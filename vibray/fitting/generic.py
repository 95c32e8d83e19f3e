"""Generic faults: a healthy record's deviations as an unnamed fault would leave them.

What is moved is moved by frequency, alike in every description of the spectrum: a net that was shown faults in one block of a vector and
not in the others learns that they contradict one another, and is blind to a fault that it was not shown (DECISIONS.md).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64

from vibray.features.spectral import Spectral
from vibray.recipes.building import Image, Vector, columns_of

SHIFT = 0.7, 8.0
"""By so many spreads a row is moved, up or down."""
AWAY = 1.3, 4.0
"""So many times as far from its context is a record moved."""
BASES_HZ = 25.0, 50.0, 100.0
"""Of half of the combs; the others' are drawn."""


@dataclass(frozen=True)
class Axis:
    """What the rows of an example's deviations are."""

    hz: Float64[np.ndarray, " rows"]
    block: Int64[np.ndarray, " rows"]
    """number of the description, a block of a vector or a channel of an image: each holds the spectrum once"""

    def reach_hz(self) -> Float64[np.ndarray, " rows"]:
        """How far from its frequency a row hears a line: half way to the next of its block."""
        reach = np.empty(len(self.hz))
        for number in np.unique(self.block):
            own = np.flatnonzero(self.block == number)
            order = own[np.argsort(self.hz[own])]
            reach[order] = np.gradient(self.hz[order]) / 2 if len(order) > 1 else np.inf
        return reach


def axis_of(feature: Vector | Image, blocks: tuple[str, ...], sample_rate_hz: float) -> Axis:
    """The axis of an image, or of these blocks of a spectral vector."""
    if isinstance(feature, Spectral):
        hz = np.array(feature.frequencies_hz(sample_rate_hz), np.float64)
        columns = [columns_of(feature, (name,)) for name in blocks]
        return Axis(hz[np.concatenate(columns)], np.repeat(np.arange(len(blocks)), [len(own) for own in columns]))
    hz, channels = np.array(feature.rows_hz(sample_rate_hz)), feature.shape[0]  # type: ignore[union-attr] (those that a recipe admits)
    return Axis(np.tile(hz, channels), np.repeat(np.arange(channels), len(hz)))


def generic_fault(
    z: Float[np.ndarray, "sensors rows columns"], axis: Axis, rng: np.random.Generator
) -> Float[np.ndarray, "sensors rows columns"]:
    """A healthy example made abnormal: further from its context, this way or the opposite one; a band of frequencies moved; a comb of
    lines; single rows; or neighbouring rows disturbed. Each sensor hears it in its degree. What is 0 everywhere, which no sensor hears,
    stays so."""
    kind, by = rng.random(), rng.uniform(*SHIFT) * rng.choice([-1, 1])
    if kind < 0.25:
        return z * rng.uniform(*AWAY) * rng.choice([-1, 1])
    heard = (z != 0).any(axis=(0, 2))
    there = np.flatnonzero(heard)
    shift = np.zeros((len(axis.hz), z.shape[2]))
    if kind < 0.5:
        band = _band(axis, heard, rng)
        shift[band] = by * rng.uniform(0.5, 1, (len(band), 1))
    elif kind < 0.7:
        shift += by * _comb(axis, axis.hz[there].max(), rng)[:, None]
    elif kind < 0.85:
        rows = rng.choice(there, min(len(there), int(rng.integers(1, 6))), replace=False)
        shift[rows] = by * rng.choice([-1, 1], (len(rows), 1))
    else:
        width = min(len(there), int(rng.integers(10, 64)))
        start = int(rng.integers(0, len(there) - width + 1))
        shift[there[start : start + width]] = rng.uniform(0.5, 3) * rng.normal(size=(width, z.shape[2]))
    degree = rng.uniform(0.5, 1, (len(z), 1, 1)) if len(z) > 1 else 1.0
    return z + degree * shift * ((z != 0).any(axis=(1, 2), keepdims=True) & heard[:, None])


def _band(axis: Axis, heard: np.ndarray, rng: np.random.Generator) -> Int64[np.ndarray, " rows"]:
    """Rows between a third and three times a frequency at most, and the nearest of each block at least."""
    low, high = axis.hz[heard].min(), axis.hz[heard].max()
    distance = np.abs(np.log(axis.hz / np.exp(rng.uniform(np.log(low), np.log(high)))))
    nearest = [own[np.argmin(distance[own])] for n in np.unique(axis.block) for own in [np.flatnonzero(axis.block == n)]]
    wide = np.flatnonzero(distance < np.exp(rng.uniform(np.log(0.05), 0)))
    return np.union1d(wide, nearest)


def _comb(axis: Axis, highest_hz: float, rng: np.random.Generator) -> Float64[np.ndarray, " rows"]:
    """How much of a comb of 2 to 11 lines each row hears; higher lines are weaker."""
    base = rng.choice(BASES_HZ) if rng.random() < 0.5 else np.exp(rng.uniform(np.log(20), np.log(400)))
    lines_hz = base * (rng.integers(1, 8) + rng.integers(1, 3) * np.arange(rng.integers(2, 12)))
    lines_hz = np.minimum(lines_hz, highest_hz)
    strength = np.exp(-rng.uniform(0, 0.5) * np.arange(len(lines_hz)))
    hears = np.abs(axis.hz[:, None] - lines_hz) <= axis.reach_hz()[:, None]
    return (hears * strength).max(axis=1) * rng.uniform(0.5, 1, len(axis.hz))
