import math

import numpy as np
import pytest
import torch

from tests.reference.cwt import analytic_image
from tests.reference.waveforms import kinds
from vibray.signal.cwt import AnalyticMorlet, geometric_hz

CPU = torch.device("cpu")


def test_geometric_hz() -> None:
    hz = np.array(geometric_hz(40.0, 3700.0, 128))
    assert (hz[0], hz[-1]) == (40, 3700)
    np.testing.assert_allclose(hz[1:] / hz[:-1], (3700 / 40) ** (1 / 127))


@pytest.mark.parametrize("sample_rate_hz", [8192.0, 10000.0, 48000.0])
def test_a_sine_of_amplitude_a_gives_a_on_its_row_and_less_on_the_others(sample_rate_hz: float) -> None:
    rows = geometric_hz(40.0, 3700.0, 32)
    t = np.arange(8192) / sample_rate_hz
    morlet = AnalyticMorlet(rows, sample_rate_hz, 8192, 64, CPU)
    for row in (8, 16, 24):
        sine = torch.from_numpy(2.5 * np.sin(2 * np.pi * rows[row] * t + 0.7)).float()[None]
        inside = morlet.column_means_and_maxima(sine)[0, :, :, 16:48]
        assert inside[0].mean(-1).argmax() == row
        torch.testing.assert_close(inside[:, row], torch.full_like(inside[:, row], 2.5), rtol=1e-3, atol=0)


@pytest.mark.parametrize("kind", ["random", "impulsive", "harmonic", "constant", "offset"])
def test_against_the_full_rate_twin(kind: str) -> None:
    """Pixel by pixel: the mean to 1e-3, the maximum to 2e-2 of itself (and to the float32 noise of the row's strongest pixel)."""
    x, rows = kinds()[kind], geometric_hz(40.0, 3700.0, 128)
    image = AnalyticMorlet(rows, 8192.0, 8192, 224, CPU).column_means_and_maxima(torch.from_numpy(x)[None])[0].numpy()
    twin = analytic_image(x, 8192.0, rows, 224)
    noise = 2e-6 * twin.max()
    for channel, tolerance in ((0, 1e-3), (1, 2e-2)):
        assert (np.abs(image[channel] - twin[channel]) <= tolerance * twin[channel] + noise).all()
    assert np.median(np.abs(image / twin - 1)) < 1e-5


RATES = (8192.0, 10000.0, 12800.0, 25600.0, 48000.0)
LENGTHS = (1024, 2048, 4096, 8192, 16384, 65536)


@pytest.mark.parametrize("sample_rate_hz", RATES)
@pytest.mark.parametrize("num_samples", LENGTHS)
def test_every_rate_and_length_against_the_twin(sample_rate_hz: float, num_samples: int) -> None:
    lowest = max(40.0, 2.7 * sample_rate_hz / num_samples)
    rows = tuple(geometric_hz(lowest, 3700.0, 25)[:: 6 if num_samples > 20000 else 3])
    x = kinds(num_samples, sample_rate_hz, seed=1)["random"]
    image = AnalyticMorlet(rows, sample_rate_hz, num_samples, 224, CPU).column_means_and_maxima(torch.from_numpy(x)[None])[0].numpy()
    twin = analytic_image(x, sample_rate_hz, rows, 224)
    noise = 2e-6 * twin.max()
    assert (np.abs(image[0] - twin[0]) <= 1e-3 * twin[0] + noise).all()
    assert (np.abs(image[1] - twin[1]) <= 2e-2 * twin[1] + noise).all()


@pytest.mark.parametrize(("num_samples", "columns"), [(8191, 224), (5000, 17), (1024, 256), (4096, 1), (3001, 300)])
def test_any_columns_against_the_twin(num_samples: int, columns: int) -> None:
    x, rows = kinds(num_samples, seed=2)["random"], geometric_hz(2.7 * 8192 / num_samples, 3700.0, 9)
    image = AnalyticMorlet(rows, 8192.0, num_samples, columns, CPU).column_means_and_maxima(torch.from_numpy(x)[None])[0].numpy()
    twin = analytic_image(x, 8192.0, rows, columns)
    noise = 2e-6 * twin.max()
    assert (np.abs(image[0] - twin[0]) <= 1e-3 * twin[0] + noise).all()
    assert (np.abs(image[1] - twin[1]) <= 2e-2 * twin[1] + noise).all()


def test_a_batch_gives_each_record_its_own() -> None:
    x = torch.from_numpy(np.stack(list(kinds(2048).values())))
    morlet = AnalyticMorlet(geometric_hz(40.0, 3700.0, 16), 8192.0, 2048, 64, CPU)
    together = morlet.column_means_and_maxima(x.repeat(4, 1))
    for i, image in enumerate(together):
        assert torch.equal(image, morlet.column_means_and_maxima(x[i % 5 : i % 5 + 1])[0])  # to the last bit: parts and ranks cut otherwise
    assert math.isfinite(float(together.sum()))
