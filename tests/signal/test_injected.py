import numpy as np
import pytest
import torch

from vibray.signal.injected import Kind, inject

KINDS: tuple[Kind, ...] = ("impulses", "modulation", "band")
KEYS = np.arange(100, 108, dtype=np.uint64) * np.uint64(2**60 + 7)


@pytest.fixture
def records() -> torch.Tensor:
    t = torch.arange(8192) / 8192
    return (3 + torch.sin(2 * torch.pi * 100 * t))[None].repeat(8, 1) * torch.logspace(-3, 3, 8)[:, None]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("snr_db", [-10.0, 3.0])
def test_power_stands_at_the_stated_ratio_to_the_record(records: torch.Tensor, kind: Kind, snr_db: float) -> None:
    added = inject(records, 8192.0, kind, snr_db, KEYS).double() - records.double()
    ratio = added.square().mean(1) / records.double().var(1, correction=0)
    np.testing.assert_allclose(10 * torch.log10(ratio).numpy(), snr_db, atol=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_gets_the_same_fault_in_any_batch(records: torch.Tensor, kind: Kind) -> None:
    whole = inject(records, 8192.0, kind, 0.0, KEYS)
    order = [5, 2]
    assert torch.equal(inject(records[order], 8192.0, kind, 0.0, KEYS[order]), whole[order])
    same = records[:1].repeat(2, 1)
    by_key, by_seed = inject(same, 8192.0, kind, 0.0, KEYS[:2]), inject(same, 8192.0, kind, 0.0, KEYS[:2], seed=1)
    assert not torch.equal(by_key[0], by_key[1]) and not torch.equal(by_key, by_seed)


def added(kind: Kind, num_samples: int = 8192, rate: float = 8192.0) -> np.ndarray:
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((8, num_samples)).astype(np.float32))
    return (inject(noise, rate, kind, 10.0, KEYS) - noise).numpy()


def test_records_given_are_left_as_they_are(records: torch.Tensor) -> None:
    before = records.clone()
    inject(records, 8192.0, "band", 20.0, KEYS)
    assert torch.equal(records, before)


def test_impulses_are_short_and_modulation_swells_and_a_band_does_neither() -> None:
    kurtosis = {kind: np.mean([np.mean(x**4) / np.mean(x**2) ** 2 for x in added(kind)]) for kind in KINDS}
    assert kurtosis["impulses"] > 6 and 3.6 < kurtosis["modulation"] < 6 and 2.7 < kurtosis["band"] < 3.3


@pytest.mark.parametrize("kind", ["modulation", "band"])
def test_a_band_is_narrow(kind: Kind) -> None:
    for x in added(kind):
        power = np.abs(np.fft.rfft(x)) ** 2
        centre = np.sum(power * np.arange(len(power))) / power.sum()
        assert power[int(centre - 260) : int(centre + 260)].sum() > 0.98 * power.sum()


@pytest.mark.parametrize("kind", KINDS)
def test_any_rate_and_length(kind: Kind) -> None:
    for num_samples, rate in ((700, 10_000.0), (4096, 25_600.0)):
        x = added(kind, num_samples, rate)
        assert x.shape == (8, num_samples) and np.isfinite(x).all() and (x.std(axis=1) > 1).all()
