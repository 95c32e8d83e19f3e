import pickle

import numpy as np
import pytest
import torch

from tests.reference import zerone as reference
from tests.reference.harmonics import transformer
from vibray.config import UserError
from vibray.features.zerone import Zerone, ZeroneConfig, pooled_over_sensors

ZERONE = Zerone(ZeroneConfig())


def records() -> dict[str, np.ndarray]:
    """float32 records of many kinds, by name."""
    rng = np.random.default_rng(0)
    noise, t = rng.standard_normal(8192), np.arange(8192) / 8192
    impulses = np.zeros(8192)
    impulses[rng.integers(0, 8192, 20)] = 10 * rng.standard_normal(20)
    kinds = {
        "random": noise,
        "impulsive": impulses + 0.01 * noise,
        "impulses alone": impulses,
        "harmonic": transformer(50.03, 8192, 8192, noise=0.1),
        "harmonic without noise": transformer(50.03, 8192, 8192),
        "a sine between bins": np.sin(2 * np.pi * 300.3 * t),
        "a sine on a bin": np.sin(2 * np.pi * 300 * t),
        "constant and noise": 1000 + 1e-3 * noise,
        "tiny": 1e-6 * noise,
        "huge": 1e6 * noise,
    }
    return {name: x.astype(np.float32) for name, x in kinds.items()}


@pytest.mark.parametrize("rate", [8002.0, 8192.0, 10000.0, 12800.5, 25600.0, 48000.0])
def test_slow_twin(rate: float) -> None:
    """Each block to 1e-5 of its largest value, whatever the record."""
    vectors = ZERONE(torch.from_numpy(np.stack(list(records().values()))), rate).numpy()
    assert vectors.shape == (10, 1200)
    for (name, record), vector in zip(records().items(), vectors, strict=True):
        expected = reference.zerone(record, rate)
        for block, part in ZERONE.blocks.items():
            scale = np.abs(expected[part]).max()
            np.testing.assert_allclose(vector[part], expected[part], rtol=0, atol=1e-5 * scale, err_msg=f"{name}: {block}")


def test_a_line_stands_in_its_columns() -> None:
    t = np.arange(8192) / 8192
    vector = ZERONE(torch.from_numpy(np.sin(2 * np.pi * 300 * t)).float()[None], 8192.0)[0]
    names, hz = ZERONE.columns(), ZERONE.frequencies_hz(8192.0)
    assert names[int(vector[ZERONE.blocks["psd"]].argmax()) + 142] == "psd_0300_hz"
    assert vector[names.index("time_rms")].item() == pytest.approx(1 / np.sqrt(2), rel=1e-6)
    assert hz[names.index("psd_0300_hz")] == 300 and hz[names.index("psd_1981_2000_hz")] == 1990.5
    # the total density is the mean square, Welch's window notwithstanding
    assert vector[ZERONE.blocks["psd"]][:1000].sum().item() == pytest.approx(0.5, rel=1e-3)


def test_high_frequency_ratios_see_a_line_at_4_khz() -> None:
    t = np.arange(8192) / 12800
    vector = ZERONE(torch.from_numpy(np.sin(2 * np.pi * 4500 * t)).float()[None], 12800.0)[0]
    power = vector[ZERONE.blocks["hf"]][1::2]
    torch.testing.assert_close(power, torch.ones(4), rtol=1e-3, atol=0)


def test_names_and_blocks_cover_the_vector() -> None:
    names = ZERONE.columns()
    assert len(set(names)) == len(names) == len(ZERONE.frequencies_hz(8192.0)) == 1200
    assert [b.stop - b.start for b in ZERONE.blocks.values()] == [15, 127, 1050, 8]
    for block, part in ZERONE.blocks.items():
        assert all(name.startswith(block + "_") for name in names[part])


@pytest.mark.parametrize(("rate", "length"), [(8001.9, 8192), (8192.0, 8191), (10000.0, 16384)])
def test_anything_else_is_refused(rate: float, length: int) -> None:
    with pytest.raises(UserError, match="8192 samples at 8002 Hz or more"):
        ZERONE(torch.zeros(1, length), rate)


def test_batch_mates_chunks_pickle_and_silence() -> None:
    rng = np.random.default_rng(1)
    x = torch.from_numpy(rng.standard_normal((70, 8192))).float()  # more than are taken at once
    x[1], x[2] = 0, 5 + 1e-6 * x[2]
    vectors = ZERONE(x, 8192.0)
    assert vectors.isfinite().all() and vectors.dtype == torch.float32
    assert not vectors[1].any()
    assert torch.equal(ZERONE(x[69:], 8192.0), vectors[69:]) and torch.equal(ZERONE(x[3:12], 8192.0), vectors[3:12])
    assert torch.equal(pickle.loads(pickle.dumps(ZERONE))(x[:3], 8192.0), ZERONE(x[:3], 8192.0))
    assert ZERONE(x[:0], 8192.0).shape == (0, 1200)


def test_pooling_over_the_sensors_of_a_unit() -> None:
    v = torch.tensor([[1.0, 10.0], [3.0, 0.0], [5.0, 5.0]])
    groups, energies = torch.tensor([1, 1, 0]), torch.tensor([3.0, 1.0, 0.0])
    assert pooled_over_sensors(v, groups, "mean").tolist() == [[5, 5], [2, 5]]
    assert pooled_over_sensors(v, groups, "max").tolist() == [[5, 5], [3, 10]]
    assert pooled_over_sensors(v, groups, "energy", energies).tolist() == [[5, 5], [1.5, 7.5]]
    expected = torch.tensor([[5.0, 5.0], [np.log(np.exp(1) + np.exp(3)), np.log(np.exp(10) + 1)]], dtype=torch.float32)
    torch.testing.assert_close(pooled_over_sensors(v, groups, "logsumexp"), expected)


def test_pooling_refuses_what_it_cannot_do() -> None:
    v = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="without a gap"):
        pooled_over_sensors(v, torch.tensor([0, 2]), "mean")
    with pytest.raises(ValueError, match="needs energies"):
        pooled_over_sensors(v, torch.tensor([0, 0]), "energy")
