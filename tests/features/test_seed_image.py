import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.reference.cwt import seed_image
from tests.reference.waveforms import kinds
from vibray.config import UserError
from vibray.features.seed_image import SeedImage, SeedImageConfig

SEED = SeedImage(SeedImageConfig())
KINDS = ["random", "impulsive", "harmonic", "constant", "offset"]


def batch(*records: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(records).astype(np.float32))


@pytest.mark.parametrize("kind", KINDS)
def test_the_original_plan_through_pywt_in_float64(kind: str) -> None:
    x = kinds(seed=3)[kind]
    expected = seed_image(x, 10000.0)
    image = SEED(batch(x), 10000.0)[0]
    assert image.shape == (3, 224, 224) and image.dtype == torch.float32
    assert np.abs(image.numpy() - expected).max() <= 1e-5
    fast = SeedImage(SeedImageConfig(fast=True))(batch(x), 10000.0)[0]
    assert np.abs(fast.numpy() - expected).max() <= 2e-4


@pytest.mark.parametrize(("rows", "columns"), [(64, 64), (100, 57), (300, 224)])
def test_another_size(rows: int, columns: int) -> None:
    x = kinds(4096, seed=4)["random"]
    image = SeedImage(SeedImageConfig(rows=rows, columns=columns))(batch(x), 8192.0)[0]
    assert np.abs(image.numpy() - seed_image(x, 8192.0, rows, columns)).max() <= 1e-5


@pytest.mark.parametrize("length", [1024, 2048, 4096, 16384, 65536])
def test_another_length(length: int) -> None:
    x = kinds(length, seed=5)["impulsive"]
    assert np.abs(SEED(batch(x), 8192.0)[0].numpy() - seed_image(x, 8192.0)).max() <= 1e-5


def test_amplitude_is_erased_and_a_constant_gives_zeros() -> None:
    x = batch(np.random.default_rng(1).standard_normal(1024))
    images = SEED(torch.cat([x, 3 * x, torch.full_like(x, 7.0)]), 8192.0)
    torch.testing.assert_close(images[0], images[1], rtol=0, atol=1e-5)
    assert not images[2].any()


def test_rows_stand_at_their_frequency() -> None:
    t = np.arange(8192) / 10000
    for hz in (90.0, 200.0, 500.0):
        row = int(SEED(batch(np.sin(2 * np.pi * hz * t)), 10000.0)[0, 0].mean(-1).argmax())
        assert SEED.rows_hz(10000.0)[row] == pytest.approx(hz, rel=0.06)


def test_batch_mates_pickling_and_nearly_constant_records() -> None:
    rng = np.random.default_rng(5)
    records = batch(rng.standard_normal(2048), 1e3 * rng.standard_normal(2048), 5 + 1e-5 * rng.standard_normal(2048))
    images = SEED(records, 8192.0)
    assert images.isfinite().all() and images.shape == (3, *SEED.shape)
    # a product of matrices rounds differently with another number of columns
    torch.testing.assert_close(SEED(records[2:], 8192.0), images[2:], rtol=0, atol=2e-6)
    copied = pickle.dumps(SEED)
    assert len(copied) < 4000  # the filters stay behind
    assert torch.equal(pickle.loads(copied)(records, 8192.0), images)
    assert SEED(records[:0], 8192.0).shape == (0, *SEED.shape)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match="224 columns need as many samples; a record has 223"):
        SEED.check(8192.0, 223)
    for change in ({"num_scales": 0}, {"wavelet": "db4"}):
        with pytest.raises(UserError, match="seed_image"):
            replace(SeedImageConfig(), **change)
