import math
import pickle

import numpy as np
import pytest
import torch

from tests.reference.harmonics import HEALTHY, transformer
from vibray.config import UserError
from vibray.features.harmonic import Harmonic, HarmonicConfig

HARMONIC = Harmonic(HarmonicConfig(mains_hz=50.0))
NAMES = HARMONIC.columns()


def named(record: np.ndarray, rate: float) -> dict[str, float]:
    return dict(zip(NAMES, HARMONIC(torch.from_numpy(record)[None], rate)[0].tolist(), strict=True))


@pytest.mark.parametrize(("rate", "length"), [(8192.0, 8192), (10000.0, 8192), (12800.0, 4096), (25600.0, 32768), (48000.0, 65536)])
def test_planted_harmonics_within_1_percent(rate: float, length: int) -> None:
    lines = HEALTHY | {1700: 0.05, 2000: 0.02}
    v = named(transformer(50.13, rate, length, lines=lines), rate)
    for nominal, amplitude in lines.items():
        assert math.exp(v[f"ln_amplitude_h{nominal // 50:02d}"]) == pytest.approx(amplitude, rel=0.01)
    even = [a for hz, a in lines.items() if hz % 100 == 0]
    odd = [a for hz, a in lines.items() if hz % 100]
    energies = np.square(even + odd)
    shares = energies / energies.sum()
    assert v["share_h02"] == pytest.approx(1 / energies.sum(), rel=0.01)
    assert v["thd_re_h02"] == pytest.approx(math.sqrt(sum(a * a for a in even) - 1), rel=0.01)
    assert v["odd_even_ratio"] == pytest.approx(np.square(odd).sum() / np.square(even).sum(), rel=0.02)
    assert v["harmonic_entropy"] == pytest.approx(-(shares * np.log(shares)).sum() / math.log(30), rel=0.02)
    assert v["ln_rms"] == pytest.approx(math.log(energies.sum() / 2) / 2, abs=0.01)
    assert v["ln_energy_1_2_khz"] == pytest.approx(math.log(0.05**2 / 2), abs=0.05)


@pytest.mark.parametrize("rate", [8192.0, 10000.0, 12800.0, 25600.0, 48000.0])
@pytest.mark.parametrize("length", [1024, 2048, 4096, 8192, 16384, 65536])
def test_rates_and_lengths(rate: float, length: int) -> None:
    """Lines of known amplitude within 1 % wherever 8 cycles fit in the record; refused with the length that would do elsewhere."""
    even = {50 * m: 1.0 / m for m in range(2, 41, 2)}
    odd = {50 * m: 0.1 for m in range(1, 20, 2)}
    record = torch.from_numpy(transformer(49.93, rate, length, lines=even | odd))[None]
    needed = math.ceil(8 * rate / 49.5)
    if length < needed:
        with pytest.raises(UserError, match=f"need {needed} samples at {rate:g} Hz; a record has {length}"):
            HARMONIC(record, rate)
        return
    vector = HARMONIC(record, rate)[0]
    assert vector.isfinite().all()
    np.testing.assert_allclose(vector[:30].exp().numpy(), [*even.values(), *odd.values()], rtol=0.01)


def test_noise_floor_and_high_energy_of_white_noise() -> None:
    rate, noise = 8192.0, 0.3
    records = torch.from_numpy(np.stack([transformer(50.0, rate, 8192, noise=noise, seed=i) for i in range(8)]))
    v = dict(zip(NAMES, HARMONIC(records, rate).mean(0).tolist(), strict=True))
    density = noise**2 / (rate / 2)
    assert v["ln_noise_floor"] == pytest.approx(math.log(density), abs=0.3)
    assert v["ln_energy_above_2_khz"] == pytest.approx(math.log(density * (rate / 2 - 2000)), abs=0.1)
    assert v["mains_snr_db"] > 20


def test_snr_is_where_the_state_rules_look() -> None:
    assert NAMES[HARMONIC.mains_snr_db] == "mains_snr_db"
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((8, 8192))).float()
    assert HARMONIC(noise, 8192.0)[:, HARMONIC.mains_snr_db].max() < 8


def test_names_frequencies_and_blocks() -> None:
    hz = HARMONIC.frequencies_hz(8192.0)
    assert len(set(NAMES)) == len(NAMES) == len(hz) == HARMONIC.shape[0] == 40
    assert hz[NAMES.index("ln_amplitude_h40")] == 2000 and hz[NAMES.index("ln_amplitude_h01")] == 50 and hz[-1] is None
    parts = list(HARMONIC.blocks.values())
    assert [p.start for p in parts] == [0, *(p.stop for p in parts[:-1])] and parts[-1].stop == 40
    assert Harmonic(HarmonicConfig()).frequencies_hz(8192.0) == (None,) * 40


def test_check() -> None:
    HARMONIC.check(4041.0, 4096)
    with pytest.raises(UserError, match="line 40 of 50 Hz mains needs more than 4040 Hz"):
        HARMONIC.check(4040.0, 4096)
    with pytest.raises(UserError, match="8 cycles of 50 Hz"):
        HARMONIC.check(8192.0, 1024)
    with pytest.raises(UserError, match="--mains 50 or --mains 60"):
        Harmonic(HarmonicConfig())(torch.zeros(1, 8192), 8192.0)


def test_batch_mates_pickle_and_silence() -> None:
    records = np.stack([transformer(49.6 + 0.02 * i, 8192, 4096, noise=0.1, seed=i) for i in range(34)])
    records[1], records[2] = 0, 5 + 1e-5 * records[2]
    x = torch.from_numpy(records)
    vectors = HARMONIC(x, 8192.0)
    assert vectors.isfinite().all() and vectors.dtype == torch.float32
    assert torch.equal(HARMONIC(x[33:], 8192.0), vectors[33:]) and torch.equal(HARMONIC(x[3:12], 8192.0), vectors[3:12])
    assert torch.equal(pickle.loads(pickle.dumps(HARMONIC))(x[:3], 8192.0), HARMONIC(x[:3], 8192.0))
    assert HARMONIC(x[:0], 8192.0).shape == (0, 40)
