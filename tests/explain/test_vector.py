"""The columns of a vector by hand: where each looks, and which of them the words read."""

import math

import numpy as np
import pytest

from vibray.explain.time_frequency import Column
from vibray.explain.vector import groups, looked_at
from vibray.features.harmonic import Harmonic, HarmonicConfig
from vibray.features.spectral import Spectral, SpectralConfig

RATE_HZ = 8192.0
FEATURE = Spectral(SpectralConfig(mains_hz=50.0))


def test_bands_lie_side_by_side_and_lines_have_no_width() -> None:
    found = looked_at(FEATURE, RATE_HZ)
    steady = found[FEATURE.blocks["steady"]]
    assert steady[0] == Column(0.0, 64.0, 1.0) and steady[63] == Column(4032.0, 4096.0, 1.0)
    lines = found[FEATURE.blocks["lines"]]
    assert lines[0] == Column(100.0, 100.0, 2.0) and lines[20] == Column(50.0, 50.0, 2.0)
    assert all(column is None for column in found[FEATURE.blocks["time"]]) and found[FEATURE.level] is None
    octaves = [column for column in found[FEATURE.blocks["octaves"]] if column is not None]
    assert [c.high_hz for c in octaves[:-1]] == pytest.approx([c.low_hz for c in octaves[1:]])
    assert octaves[10].high_hz == pytest.approx(40 * (4096 / 40) ** (11 / 48), rel=0.003)  # halfway, not the geometric middle


def test_each_spectrum_of_a_block_has_its_own_bands() -> None:
    movement = looked_at(FEATURE, RATE_HZ)[FEATURE.blocks["movement"]]
    assert len(movement) == 128 and all(column is not None and column.order == 0 for column in movement)
    widths = [column.high_hz - column.low_hz for column in movement if column is not None]
    assert widths == pytest.approx([128.0] * 128)


def test_harmonics_are_lines_and_ratios_are_nowhere() -> None:
    feature = Harmonic(HarmonicConfig(mains_hz=60.0))
    found = looked_at(feature, RATE_HZ)
    assert found[0] == Column(120.0, 120.0, 2.0) and found[30:] == [None] * 10


def test_the_words_read_each_group_in_decibels() -> None:
    moved, z = np.zeros(FEATURE.shape[0]), np.arange(FEATURE.shape[0], dtype=np.float64)
    names = FEATURE.columns()
    moved[names.index("line03")], moved[names.index("steady05")] = math.log(10), math.log(10)
    found = groups(FEATURE, RATE_HZ, moved, z)
    assert [(m.hz, m.decibels) for m in found["odd"]][1] == (150.0, pytest.approx(20.0))
    assert (found["bands"][4].hz, found["bands"][4].decibels) == (288.0, pytest.approx(10.0))
    assert [m.hz for m in found["even"]] == [100.0 * k for k in range(1, 21)]
    assert found["bursts"][0].z == names.index("movement_128_peak_band01") and found["swelling"][0].z == names.index(
        "movement_512_std_band01"
    )
    without = groups(Spectral(SpectralConfig()), RATE_HZ, moved[:-30], z[:-30])
    assert without["odd"] == without["even"] == []
