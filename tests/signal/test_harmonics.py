import math

import numpy as np
import pytest
import torch

from tests.reference.harmonics import (
    HANN_AMPLITUDE_LOSS,
    HEALTHY,
    amplitude_bound,
    fleet_record,
    frequency_bound_hz,
    hann_frequency_loss,
    least_squares_amplitudes,
    noise_variance_around,
    transformer,
)
from vibray.config import UserError
from vibray.signal.harmonics import (
    MAINS_MULTIPLES,
    check_mains,
    comb,
    cycle_peak_volatility,
    line_amplitudes,
    mains_frequency,
)
from vibray.signal.synthetic import FleetConfig

RATES = [(8192.0, 8192), (10000.0, 8192), (12800.0, 12800), (25600.0, 16384), (48000.0, 65536), (12800.0, 2560)]


def stack(*records: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(records))


@pytest.mark.parametrize(("rate", "length"), RATES)
@pytest.mark.parametrize("mains", [50.0, 60.0])
def test_mains_frequency_of_clean_harmonics_to_5_mhz(rate: float, length: int, mains: float) -> None:
    true = mains + np.array([-0.5, -0.31, 0.0, 0.123, 0.5])
    records = stack(*(transformer(f, rate, length, seed=i) for i, f in enumerate(true)))
    found = mains_frequency(records, rate, mains)
    assert np.abs(found.frequency_hz.numpy() - true).max() < (5e-4 if length / rate > 0.3 else 5e-3)
    assert found.snr_db.min() > 30


def test_mains_frequency_in_noise_and_beside_a_loud_foreign_line() -> None:
    true = [49.7, 50.02, 50.33]
    noisy = stack(*(transformer(f, 8192, 8192, noise=0.06, seed=i) for i, f in enumerate(true)))
    np.testing.assert_allclose(mains_frequency(noisy, 8192.0, 50.0).frequency_hz.numpy(), true, atol=5e-3)
    fan = 3 * torch.sin(2 * torch.pi * 1993.0 * torch.arange(8192) / 8192)
    np.testing.assert_allclose(mains_frequency(noisy + fan, 8192.0, 50.0).frequency_hz.numpy(), true, atol=1e-2)


@pytest.mark.parametrize("mains", [50, 60])
def test_fleet_f0_to_5_mhz_and_amplitudes_to_1_percent_or_the_bound(mains: int) -> None:
    """All energised records. f0 can be known to 5 mHz where three standard deviations at the top of a Hann spectrum are less than that:
    here everywhere. An amplitude is right within 1 % or three standard deviations, of which noise may pass 0.3 %, and never five."""
    fleet = FleetConfig(num_records=36, mains_hz=50 if mains == 50 else 60)
    found = [record for i in range(36) if (record := fleet_record(fleet, i)) is not None]
    n, rate = fleet.num_samples, fleet.sample_rate_hz
    f0 = mains_frequency(stack(*(r.waveform for r in found)), rate, float(mains)).frequency_hz.numpy()
    even = np.array(MAINS_MULTIPLES)
    orders = np.concatenate([even, np.arange(1, 20, 2)])
    lines = line_amplitudes(stack(*(r.waveform for r in found)), rate, torch.from_numpy(f0[:, None] * orders)).numpy()
    errors = []
    for record, frequency, amplitudes in zip(found, f0, lines, strict=True):
        hz = orders * record.f0_hz
        truth = least_squares_amplitudes(record.waveform.astype(np.float64) - record.rest, rate, hz)
        variance = noise_variance_around(record.rest, rate, hz)
        sigma_hz = frequency_bound_hz(truth[:20], even, variance[:20], n, rate) * math.sqrt(hann_frequency_loss(n))
        assert 3 * sigma_hz < 5e-3
        assert abs(frequency - record.f0_hz) < 5e-3
        known = np.abs(hz[:, None] - record.blades_hz).min(axis=1) > 3 * rate / n
        sigma = amplitude_bound(variance, n) * math.sqrt(HANN_AMPLITUDE_LOSS)
        errors.append(((np.abs(amplitudes - truth) - 0.01 * truth).clip(0) / sigma, np.abs(amplitudes - truth) / sigma, known))
    beyond_1_percent, sigmas, known = (np.concatenate(parts) for parts in zip(*errors, strict=True))
    outside = known & (beyond_1_percent > 0) & (sigmas > 3)
    assert known.mean() > 0.9 and outside.mean() < 0.006
    assert sigmas[outside].max(initial=0) < 5


@pytest.mark.parametrize("mains", [50.0, 60.0])
@pytest.mark.parametrize("noise", [0.01, 0.1, 0.3, 1.0, 3.0])
def test_planted_comb_is_known_as_well_as_it_can_be(mains: float, noise: float) -> None:
    """40 records of 20 lines of amplitude 1 in white noise of this standard deviation: at 3.0 a line has 1 / 18 of its power."""
    rng = np.random.default_rng(int(100 * noise))
    true = mains + rng.uniform(-0.5, 0.5, 40)
    lines = {50 * m: 1.0 for m in MAINS_MULTIPLES}
    records = stack(*(transformer(f, 8192, 8192, noise, lines, seed=i) for i, f in enumerate(true)))
    found = mains_frequency(records, 8192.0, mains)
    error_hz = np.abs(found.frequency_hz.numpy() - true)
    even = np.array(MAINS_MULTIPLES)
    sigma_hz = frequency_bound_hz(np.ones(20), even, noise**2, 8192, 8192.0) * math.sqrt(hann_frequency_loss(8192))
    assert error_hz.max() < (5e-3 if 4 * sigma_hz < 5e-3 else 4 * sigma_hz)
    sigma = float(amplitude_bound(noise**2, 8192)) * math.sqrt(HANN_AMPLITUDE_LOSS)
    error = np.abs(line_amplitudes(records, 8192.0, found.frequency_hz[:, None] * torch.from_numpy(even)).numpy() - 1)
    assert np.mean(error > max(0.01, 3 * sigma)) < 0.012  # of 800 lines; 0.3 % of noise passes three standard deviations
    assert error.max() < max(0.01, 5 * sigma)


def test_snr_tells_a_mains_line_from_noise() -> None:
    rng = np.random.default_rng(0)
    noise = stack(*rng.standard_normal((50, 8192)).astype(np.float32))
    assert mains_frequency(noise, 8192.0, 50.0).snr_db.max() < 8
    assert mains_frequency(noise[:20].cumsum(-1), 8192.0, 50.0).snr_db.max() < 8
    weak = stack(transformer(50.1, 8192, 8192, noise=4.0))  # the strongest line is 15 dB below the noise
    assert mains_frequency(weak, 8192.0, 50.0).snr_db.item() > 8
    silent = mains_frequency(torch.zeros(1, 8192), 8192.0, 50.0)
    assert silent.snr_db.item() == 0 and 49.5 <= silent.frequency_hz.item() <= 50.5


@pytest.mark.parametrize(("rate", "length"), RATES)
def test_amplitudes_within_1_percent_and_as_least_squares(rate: float, length: int) -> None:
    record = transformer(50.07, rate, length)
    frequencies = np.array([nominal / 50 * 50.07 for nominal in HEALTHY])
    got = line_amplitudes(stack(record), rate, torch.from_numpy(frequencies)[None])[0].numpy()
    np.testing.assert_allclose(got, list(HEALTHY.values()), rtol=0.01)
    np.testing.assert_allclose(got, least_squares_amplitudes(record, rate, frequencies), rtol=0.01)


def test_line_amplitudes_are_the_transform_by_its_definition() -> None:
    x = np.random.default_rng(3).standard_normal((2, 777)).astype(np.float32)
    frequencies = np.array([[3.3, 100.0, 481.7], [50.5, 0.1, 499.9]])
    t = np.arange(777) / 1000
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(777) / 777)
    xc = x.astype(np.float64) - x.mean(axis=1, keepdims=True, dtype=np.float64)
    direct = np.abs(np.einsum("bn,bkn->bk", xc * hann, np.exp(-2j * np.pi * frequencies[..., None] * t))) * 2 / hann.sum()
    np.testing.assert_allclose(
        line_amplitudes(torch.from_numpy(x), 1000.0, torch.from_numpy(frequencies)).numpy(), direct, rtol=0, atol=2e-7 * direct.max()
    )


@pytest.mark.parametrize("length", [1024, 1777, 8192])
def test_kernel_between_half_bins(length: int) -> None:
    """A spectrum read anywhere is the transform by its definition, to 2e-7 of the strongest line."""
    t = np.arange(length) / 1000
    x = np.sin(2 * np.pi * 100.23 * t + 0.3) + 1e-3 * np.sin(2 * np.pi * 300.0 * t)
    hz = np.sort(np.random.default_rng(0).uniform(0, 500, 400))
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    direct = np.abs(np.exp(-2j * np.pi * np.outer(hz, t)) @ ((x - x.mean()) * hann)) * 2 / hann.sum()
    got = line_amplitudes(torch.from_numpy(x)[None], 1000.0, torch.from_numpy(hz)[None])[0].numpy()
    np.testing.assert_allclose(got, direct, rtol=0, atol=2e-7)


def test_cycle_peak_volatility() -> None:
    t = np.arange(8192) / 8192
    steady = np.sin(2 * np.pi * 50 * t)
    modulated = (1 + 0.5 * np.sign(np.sin(2 * np.pi * 25 * t + 1e-9))) * steady  # peaks 1.5, 0.5, 1.5, ...
    records = torch.from_numpy(np.stack([steady, modulated, np.zeros(8192)])).float()
    got = cycle_peak_volatility(records, 8192.0, torch.full((3,), 50.0), 50.5)
    np.testing.assert_allclose(got.numpy(), [0, 0.5, 0], atol=5e-3)


def test_records_do_not_know_their_batch() -> None:
    """Not by a bit: the frequency steers what is read next, so that a difference would grow."""
    records = stack(*(transformer(49.8 + 0.01 * i, 8192, 8192, noise=0.2, seed=i) for i in range(35)))  # more than are taken at once
    together, alone = mains_frequency(records, 8192.0, 50.0), mains_frequency(records[34:], 8192.0, 50.0)
    assert torch.equal(together.frequency_hz[34:], alone.frequency_hz) and torch.equal(together.snr_db[34:], alone.snr_db)
    assert mains_frequency(records[:0], 8192.0, 50.0).snr_db.shape == (0,)


@pytest.mark.parametrize("length", [64, 100, 1000, 1024, 2047])
def test_short_records_have_a_mains_line_too(length: int) -> None:
    x = torch.from_numpy(np.random.default_rng(5).standard_normal((3, length))).float()
    line = comb(x, 8192.0, 90.0, 135.0, tuple(range(1, 11)))
    assert line.snr_db.isfinite().all() and ((line.frequency_hz >= 90) & (line.frequency_hz <= 135)).all()


def test_check_mains() -> None:
    assert check_mains(50.0, 8192.0, 8192) == 50
    with pytest.raises(UserError, match="--mains 50 or --mains 60"):
        check_mains(None, 8192.0, 8192)
    needed = math.ceil(8 * 8192 / 49.5)
    check_mains(50.0, 8192.0, needed)
    with pytest.raises(UserError, match=f"need {needed} samples"):
        check_mains(50.0, 8192.0, needed - 1)
    with pytest.raises(UserError, match="above Nyquist"):
        check_mains(50.0, 200.0, 8192)
    with pytest.raises(UserError, match="no line of a comb"):
        comb(torch.zeros(1, 1000), 100.0, 90.0, 135.0, (1, 2))
