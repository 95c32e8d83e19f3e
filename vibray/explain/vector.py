"""What the columns of a vector look at: their bands, and what of them the words are read from."""

import math
from collections.abc import Sequence
from typing import cast

import numpy as np
from jaxtyping import Float

from vibray.explain.time_frequency import Column
from vibray.explain.words import Group, Moved
from vibray.features.harmonic import Harmonic
from vibray.features.spectral import Spectral
from vibray.features.zerone import Zerone

DB = 10 / math.log(10)
"""Decibels of a neper of power."""

ORDER = {"bands": 1.0, "steady": 1.0, "coarse": 1.0, "octaves": 1.0, "log_mean": 2.0, "lines": 2.0, "even": 2.0, "odd": 2.0}
"""Blocks whose columns are ln of a power (1) or of an amplitude (2); the others tell no level."""

LINES = ("lines", "even", "odd")
"""Blocks whose columns are lines, not bands."""


def looked_at(feature: Spectral | Harmonic | Zerone, sample_rate_hz: float) -> list[Column | None]:
    """What each column looks at; None for one without a frequency. A band reaches halfway to its neighbours."""
    hz = feature.frequencies_hz(sample_rate_hz)
    found: list[Column | None] = [None] * len(hz)
    for name, block in feature.blocks.items():
        order = ORDER.get(name, 0.0)
        for own in _rising(hz, block):
            middles = np.array([hz[i] for i in own], np.float64)
            half = np.diff(middles) / 2 if name not in LINES and len(own) > 1 else np.zeros(len(own) - 1 or 1)
            below, above = (np.r_[ends][: len(own)] for ends in ((half[:1], half), (half, half[-1:])))
            for i, low, high in zip(own, (middles - below).tolist(), (middles + above).tolist(), strict=True):
                found[i] = Column(max(low, 0.0), high, order)
    return found


def _rising(hz: Sequence[float | None], block: slice) -> list[list[int]]:
    """A block's columns with a frequency, in stretches along which it rises: `movement` holds several spectra one after another."""
    stretches: list[list[int]] = []
    for i in range(*block.indices(len(hz))):
        if hz[i] is not None:
            if not stretches or cast(float, hz[i]) <= cast(float, hz[stretches[-1][-1]]):
                stretches.append([])
            stretches[-1].append(i)
    return stretches


def groups(
    feature: Spectral, sample_rate_hz: float, moved: Float[np.ndarray, " columns"], z: Float[np.ndarray, " columns"]
) -> dict[Group, list[Moved]]:
    """What the words are read from, of a record's spectral vector: how far each column moved, in nepers and in spreads."""
    hz, names, windows = feature.frequencies_hz(sample_rate_hz), feature.columns(), feature.config.windows

    def of(indices: Sequence[int], order: int) -> list[Moved]:
        return [Moved(cast(float, hz[i]), DB * order * float(moved[i]), float(z[i])) for i in indices]

    def block(name: str) -> range:
        return range(*feature.blocks[name].indices(len(names)))

    odd = [i for i in block("lines") if int(names[i].removeprefix("line")) % 2]
    made: dict[Group, list[Moved]] = {
        "odd": of(odd, 2),
        "even": of([i for i in block("lines") if i not in odd], 2),
        "bands": of(block("steady"), 1),
    }
    if windows:  # the shortest frames see impacts, the longest slow modulation
        movement, bands = block("movement"), feature.config.movement_bands
        made["bursts"] = of(movement[bands : 2 * bands], 1)
        made["swelling"] = of(movement[-2 * bands : -bands], 1)
    return made
