import math

import numpy as np
import pytest
import torch

from tests.reference.harmonics import HEALTHY, transformer
from tests.reference.mains_family import fundamental_hz
from vibray.signal.mains_family import clearest_lines, mains_family_hz
from vibray.signal.synthetic import FleetConfig, place, waveform
from vibray.signal.waveform import centred

RATES = (2048.0, 4096.0, 5000.0, 6400.0, 8000.0, 8192.0, 10000.0, 12800.0, 16384.0, 20000.0, 25600.0)


def stack(*records: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(records))


@pytest.mark.parametrize("mains", [50, 60])
@pytest.mark.parametrize("rate", RATES)
def test_the_family_stands_where_the_rates_say(rate: float, mains: int) -> None:
    """At twice the mains frequency, times the stated rate over the true one; to a tenth of a bin, in which it is looked for."""
    true = mains + np.array([-0.4, 0.0, 0.17])
    lines = {hz: a for hz, a in HEALTHY.items() if hz / 50 * mains < 0.45 * rate}
    records = stack(*(transformer(f, rate, 8192, noise=0.03, lines=lines, seed=i) for i, f in enumerate(true)))
    for stated in RATES:
        np.testing.assert_allclose(mains_family_hz(records, stated).numpy(), 2 * true * stated / rate, rtol=0, atol=0.1 * stated / 8192)


@pytest.mark.parametrize(
    ("lines", "expected_hz"),
    [
        ({200: 1.0, 400: 0.4, 600: 0.2, 800: 0.1}, 200),  # only each second line stands
        ({100: 1.0, 200: 0.1, 300: 0.2, 600: 0.3, 50: 0.3, 150: 0.2, 250: 0.2, 350: 0.1}, 100),  # a DC bias, lower than the even lines
        ({50: 1.0, 100: 0.8, 150: 1.0, 200: 0.5, 250: 0.9, 300: 0.7}, 50),  # as strong as those
        ({400: 1.0, 600: 0.5, 1000: 0.5}, 200),  # the fundamental itself is not there
        ({100: 1.0, 200: 0.5}, math.nan),  # two lines are no family
        ({100: 1.0, 237: 1.0, 391: 1.0, 613: 1.0, 1009: 1.0}, math.nan),
    ],
)
def test_the_lines_that_stand_decide(lines: dict[int, float], expected_hz: float) -> None:
    found = mains_family_hz(stack(transformer(50.02, 8192, 8192, noise=0.02, lines=lines)), 8192.0)
    np.testing.assert_allclose(found.numpy(), [expected_hz * 1.0004], atol=0.05)


def test_one_loud_line_or_impacts_or_noise_have_no_family() -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((100, 8192)).astype(np.float32)
    loud = noise + 100 * np.sin(2 * np.pi * 1234.5 * np.arange(8192) / 8192).astype(np.float32)
    step = np.repeat(np.r_[0.0, 1.0], 4096).astype(np.float32)[None] + 1e-3 * noise[:1]
    for records in (noise, noise.cumsum(-1), loud, step, np.zeros((2, 8192), np.float32), np.full((1, 8192), 7.0, np.float32)):
        assert mains_family_hz(torch.from_numpy(records), 8192.0).isnan().all()


def test_the_fleets_records_and_their_slow_twin() -> None:
    """Nearly every record of an energised machine, healthy or not, has its family at 100 Hz."""
    fleet = FleetConfig(num_records=72, contamination=0.5, off_share=0.0, seed=2)
    records = stack(*(waveform(fleet, place(fleet, i)) for i in range(72)))
    found = mains_family_hz(records, 8192.0).numpy()
    assert np.mean(np.abs(found / 100 - 1) < 1e-3) > 0.95
    np.testing.assert_allclose(found, [fundamental_hz(record.numpy(), 8192.0) for record in records], rtol=1e-5)


@pytest.mark.parametrize("length", [256, 777, 1000, 2047, 8191])
def test_other_lengths_as_their_slow_twin(length: int) -> None:
    records = stack(
        *(transformer(50.1, 2048, length, noise=0.1, seed=i) for i in range(6)),
        *np.random.default_rng(length).standard_normal((3, length)).astype(np.float32),
    )
    np.testing.assert_allclose(mains_family_hz(records, 2048.0).numpy(), [fundamental_hz(r.numpy(), 2048.0) for r in records], rtol=1e-5)


def test_places_and_powers_of_lines() -> None:
    """A line anywhere between two bins: to a fiftieth of a bin, where no other is near."""
    bins = np.array([100.0, 313.27, 800.5, 1500.73])
    x = sum(a * np.cos(2 * np.pi * b * np.arange(8192) / 8192 + b) for a, b in zip((1.0, 0.5, 0.25, 0.1), bins, strict=True))
    lines = clearest_lines(torch.from_numpy(x + 1e-3 * np.random.default_rng(0).standard_normal(8192))[None])
    stands = lines.weight[0] > 0
    order = lines.bins[0][stands].argsort()
    np.testing.assert_allclose(lines.bins[0][stands][order].numpy(), bins, atol=0.02)
    assert lines.power[0].max() == 1


def test_nothing_that_a_record_holds_stops_it() -> None:
    good = torch.from_numpy(transformer(50.0, 8192, 8192))
    hostile = [torch.full((8192,), math.nan), good * 1e37, good * 1e-30, good + 1e5, torch.full((8192,), math.inf)]
    found = mains_family_hz(torch.stack(hostile), 8192.0)
    assert found[[0, 4]].isnan().all()
    np.testing.assert_allclose(found[1:4].numpy(), 100, atol=0.05)
    assert centred(good[None]).isfinite().all()
    for length in (0, 1, 2, 17, 255):
        assert mains_family_hz(torch.ones(2, length), 8192.0).isnan().all()
    assert mains_family_hz(torch.zeros(0, 8192), 8192.0).shape == (0,)


def test_records_do_not_know_their_batch() -> None:
    records = stack(*(transformer(49.8 + 0.01 * i, 8192, 8192, noise=0.2, seed=i) for i in range(35)))
    assert torch.equal(mains_family_hz(records, 8192.0)[34:], mains_family_hz(records[34:], 8192.0))
