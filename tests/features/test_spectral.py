import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.bench.vectors import time_statistics
from tests.reference import spectral as reference
from vibray.config import UserError
from vibray.features.spectral import Spectral, SpectralConfig
from vibray.signal.harmonics import Mains

DEFAULT = Spectral(SpectralConfig())


@pytest.mark.parametrize("rate", [8192.0, 10000.0, 12800.0, 25600.0, 48000.0])
@pytest.mark.parametrize("length", [1024, 2048, 4096, 5000, 8192, 16384, 65536])
def test_slow_twin(rate: float, length: int) -> None:
    x = (3 + np.random.default_rng(0).standard_normal((2, length))).astype(np.float32)
    vectors = DEFAULT(torch.from_numpy(x), rate).numpy()
    assert vectors.shape == (2, 464)
    for record, vector in zip(x, vectors, strict=True):
        blocks = {name: vector[part] for name, part in DEFAULT.blocks.items()}
        np.testing.assert_allclose(blocks["time"], time_statistics(record.astype(np.float64)), rtol=1e-6)
        np.testing.assert_allclose(np.r_[blocks["log_mean"], blocks["log_cv"]], reference.log_mean_and_cv(record), atol=1e-5)
        np.testing.assert_allclose(blocks["bands"], reference.log_bands(record, rate), atol=1e-5)
        np.testing.assert_allclose(blocks["movement"], np.r_[reference.movement(record, 128), reference.movement(record, 512)], atol=1e-5)


@pytest.mark.parametrize(("length", "window", "octave_window"), [(8192, 2048, 4096), (4096, 2048, 2048), (1500, 512, 512)])
def test_steady_bands_by_the_slow_twin(length: int, window: int, octave_window: int) -> None:
    x = (3 + np.random.default_rng(4).standard_normal(length)).astype(np.float32)
    vector = DEFAULT(torch.from_numpy(x)[None], 8192.0)[0].numpy()
    for name, num, own in (("steady", 64, window), ("coarse", 16, window)):
        edges = np.linspace(0.5, own // 2 + 0.5, num + 1)
        np.testing.assert_allclose(vector[DEFAULT.blocks[name]], reference.mean_log_energies(x, own, edges), atol=1e-5)
    edges = np.geomspace(40, 4096, 49) / 8192 * octave_window
    wide = edges[1:] > 0.5  # what lies below the first bin takes its value
    expected = reference.mean_log_energies(x, octave_window, np.clip(edges, 0.5, None)[np.flatnonzero(wide)[0] :])
    np.testing.assert_allclose(vector[DEFAULT.blocks["octaves"]][wide], expected, atol=1e-5)


def test_a_knock_raises_the_bands_and_hardly_what_is_steady() -> None:
    rng = np.random.default_rng(5)
    t = np.arange(8192) / 8192
    x = rng.standard_normal(8192)
    knock = 30 * np.exp(-np.clip(t - 0.4, 0, None) / 0.005) * np.sin(2 * np.pi * 700 * t) * (t >= 0.4)
    vectors = DEFAULT(torch.from_numpy(np.stack([x, x + knock])).float(), 8192.0)
    change = (vectors[1] - vectors[0]).abs()
    assert change[DEFAULT.blocks["bands"]].max() > 2.5 * change[DEFAULT.blocks["steady"]].max()


def test_a_line_stands_in_its_band_and_does_not_move() -> None:
    t = np.arange(8192) / 8192
    hz = np.array(DEFAULT.frequencies_hz(8192.0), float)
    noise = 1e-3 * np.random.default_rng(1).standard_normal(8192)
    vector = DEFAULT(torch.from_numpy(np.sin(2 * np.pi * 1024 * t) + noise).float()[None], 8192.0)[0].numpy()
    bands, log_cv = DEFAULT.blocks["bands"], DEFAULT.blocks["log_cv"]
    assert abs(hz[bands][vector[bands].argmax()] - 1024) <= 64
    assert hz[log_cv][vector[log_cv].argmin()] == 1024
    mean = DEFAULT.blocks["log_mean"]
    assert vector[mean].max() == pytest.approx(np.log(0.5), abs=1e-2)


def test_the_level_is_the_logarithm_of_the_standard_deviation() -> None:
    x = 3 + torch.from_numpy(np.random.default_rng(4).normal(0, 0.02, (2, 8192))).float()
    np.testing.assert_allclose(DEFAULT(x, 8192.0)[:, DEFAULT.level], np.log(x.double().numpy().std(axis=1)), atol=1e-6)


def test_movement_sees_what_the_mean_spectrum_hides() -> None:
    rng = np.random.default_rng(2)
    t = np.arange(8192) / 8192
    steady = rng.standard_normal(8192)
    modulated = steady * (1 + 0.9 * np.sin(2 * np.pi * 4 * t)) / np.sqrt(1 + 0.9**2 / 2)
    vectors = DEFAULT(torch.from_numpy(np.stack([steady, modulated])).float(), 8192.0)
    change = (vectors[1] - vectors[0]).abs()
    assert change[DEFAULT.blocks["bands"]].mean() < 0.3
    assert change[DEFAULT.blocks["movement"]].mean() > 0.5


def test_names_frequencies_and_blocks() -> None:
    names, hz = DEFAULT.columns(), DEFAULT.frequencies_hz(8192.0)
    assert len(set(names)) == len(names) == len(hz) == 464
    sizes = {
        "time": 15,
        "log_mean": 64,
        "log_cv": 64,
        "bands": 64,
        "movement": 128,
        "steady": 64,
        "coarse": 16,
        "octaves": 48,
        "level": 1,
        "lines": 0,
    }
    assert {name: part.stop - part.start for name, part in DEFAULT.blocks.items()} == sizes
    assert hz[:15] == (None,) * 15 and (hz[15], hz[78]) == (64, 4096)
    assert hz[names.index("band01")] == 36  # bins 1 to 8 of 8 Hz
    assert (hz[names.index("steady01")], hz[names.index("coarse16")]) == (32, 3968)
    octaves = np.array(hz[DEFAULT.blocks["octaves"]], float)
    assert 40 < octaves[0] < 45 and 3900 < octaves[-1] < 4096
    assert hz[names.index("movement_512_peak_band32")] == pytest.approx((249 + 256) / 2 * 16)


@pytest.mark.parametrize(
    ("mains_hz", "sample_rate_hz", "num_samples"), [(50.0, 8192.0, 8192), (60.0, 25600.0, 16384), (50.0, 3000.0, 4096)]
)
def test_lines_are_the_logarithms_of_the_mains_amplitudes(mains_hz: float, sample_rate_hz: float, num_samples: int) -> None:
    feature = Spectral(SpectralConfig(mains_hz=mains_hz))
    orders = np.array([int(name.removeprefix("line")) for name in feature.columns()[feature.blocks["lines"]]])
    assert orders.tolist() == [*range(2, 41, 2), *range(1, 20, 2)]
    np.testing.assert_allclose(np.array(feature.frequencies_hz(sample_rate_hz)[feature.blocks["lines"]], float), orders * mains_hz)
    f0, t = mains_hz - 0.13, np.arange(num_samples) / sample_rate_hz
    amplitude = np.exp(-0.1 * orders)
    there = orders * f0 < 0.49 * sample_rate_hz
    x = (amplitude[there, None] * np.cos(2 * np.pi * orders[there, None] * f0 * t + orders[there, None])).sum(0)
    lines = feature(torch.from_numpy(x).float()[None], sample_rate_hz)[0, feature.blocks["lines"]].numpy()
    np.testing.assert_allclose(lines[there], np.log(amplitude[there]), atol=2e-3)
    assert (lines[orders * (mains_hz - 0.5) >= sample_rate_hz / 2] == np.float32(np.log(1e-12))).all()


def test_without_a_mains_frequency_there_are_no_lines_and_all_else_is_the_same() -> None:
    x = torch.from_numpy(np.random.default_rng(5).standard_normal((3, 8192))).float()
    with_lines = Spectral(SpectralConfig(mains_hz=50.0))
    assert DEFAULT.shape == (464,) and with_lines.shape == (494,)
    assert torch.equal(with_lines(x, 8192.0)[:, :464], DEFAULT(x, 8192.0))
    with pytest.raises(UserError, match=r"50 Hz is above Nyquist .*--mains none"):
        with_lines.check(200.0, 8192)


def test_other_sizes_and_those_that_cannot_be() -> None:
    config = SpectralConfig(stft_window=64, stft_hop=16, welch_window=256, num_bands=32, windows=(), movement_bands=8)
    small = Spectral(config)
    assert small.shape == (240,) and small(torch.randn(2, 256), 1000.0).shape == (2, 240)
    with pytest.raises(UserError, match="need 1024 samples; a record has 1023"):
        DEFAULT.check(8192.0, 1023)
    with pytest.raises(UserError, match="octave_min_hz 40 is not below"):
        DEFAULT.check(80.0, 8192)
    for change in (
        {"stft_window": 127},
        {"stft_hop": 0},
        {"num_bands": 60},
        {"movement_bands": 48},
        {"windows": (128, 2)},
        {"steady_window": 1000},
    ):
        with pytest.raises(UserError, match="spectral"):
            replace(SpectralConfig(), **change)


def test_batch_mates_pickle_and_silence() -> None:
    x = torch.from_numpy(np.random.default_rng(3).standard_normal((66, 2048))).float()
    x[1], x[2] = 0, 5 + 1e-5 * x[2]
    vectors = DEFAULT(x, 8192.0)
    assert vectors.isfinite().all() and vectors.dtype == torch.float32
    assert torch.equal(DEFAULT(x[65:], 8192.0), vectors[65:]) and torch.equal(DEFAULT(x[3:12], 8192.0), vectors[3:12])
    assert torch.equal(pickle.loads(pickle.dumps(DEFAULT))(x[:3], 8192.0), DEFAULT(x[:3], 8192.0))
    assert DEFAULT(x[:0], 8192.0).shape == (0, 464)


def test_blocks_alone_are_the_same_and_the_others_nan() -> None:
    feature = Spectral(SpectralConfig(mains_hz=50.0))
    t, rng = np.arange(8192) / 8192, np.random.default_rng(6)
    hum = np.sin(2 * np.pi * 100 * t)
    # the last has lines 100 dB above its noise, which float32 cannot show
    x = torch.from_numpy(np.stack([rng.standard_normal(8192), hum + 0.1 * rng.standard_normal(8192), 1e3 * hum])).float()
    x[2] += torch.from_numpy(1e-2 * rng.standard_normal(8192)).float()
    wanted = {"bands", "steady", "octaves", "level", "lines"}
    whole, some = feature(x, 8192.0), feature(x, 8192.0, Mains(x, 8192.0, 50.0), wanted)
    for name, block in feature.blocks.items():
        if name in wanted:
            torch.testing.assert_close(some[:, block], whole[:, block], rtol=0, atol=2e-5 if name in ("steady", "octaves") else 1e-6)
        else:
            assert some[:, block].isnan().all()
    steady = feature.blocks["steady"]
    assert torch.equal(some[2, steady], whole[2, steady]) and not torch.equal(some[1, steady], whole[1, steady])
