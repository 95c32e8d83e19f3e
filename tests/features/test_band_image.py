import numpy as np
import pytest
import torch

from vibray.config import UserError
from vibray.features.band_image import BandImage, BandImageConfig

DEFAULT = BandImage(BandImageConfig())


def batch(*records: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(records).astype(np.float32))


def sine(hz: float, rate: float, num: int = 8192, amplitude: float = 1.7) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * hz * np.arange(num) / rate)


@pytest.mark.parametrize("rate", [8192.0, 10000.0, 20000.0, 25600.0])
def test_a_row_means_the_same_hz_at_every_rate(rate: float) -> None:
    """Wide bands, and a sine in the middle of one: all of its power, A^2 / 2 spread over the band, is in that row."""
    rows = DEFAULT.rows_hz(rate)
    assert rows == DEFAULT.rows_hz(8192.0)
    for row in (40, 60, 80):
        image = DEFAULT(batch(sine(rows[row], rate)), rate)[0]
        assert image[0, : DEFAULT.num_heard(rate)].mean(-1).argmax() == row
        assert image[0, row].mean() - image[0, row - 20].mean() > 10  # e^10


def test_twice_the_amplitude_is_ln_4_louder_and_moves_no_more() -> None:
    x = np.random.default_rng(0).standard_normal(8192)
    one, two = DEFAULT(batch(x), 8192.0)[0], DEFAULT(batch(2 * x), 8192.0)[0]
    heard = DEFAULT.num_heard(8192.0)
    torch.testing.assert_close(two[0, :heard] - one[0, :heard], torch.full((heard, 2), float(np.log(4))), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(two[1], one[1], rtol=1e-4, atol=1e-5)


def test_what_is_above_nyquist_is_0_and_nothing_else_is() -> None:
    edges = BandImageConfig().edges_hz()
    for rate in (8192.0, 20000.0, 48000.0):
        image = DEFAULT(batch(np.random.default_rng(1).standard_normal(8192)), rate)[0]
        heard = int((edges[1:] <= rate / 2).sum())
        assert DEFAULT.num_heard(rate) == heard and (image[:, heard:] == 0).all() and (image[:, :heard] != 0).all()


def test_a_burst_moves_the_second_channel_of_its_stretch() -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal(8192)
    burst = x.copy()
    burst[6000:6200] += 20 * rng.standard_normal(200)
    plain, moved = DEFAULT(batch(x, burst), 8192.0)[:, 1, 70:85].mean(dim=1)
    assert moved[1] > 2 * plain[1] and moved[0] == pytest.approx(float(plain[0]))


def test_bands_and_white_noise() -> None:
    """White noise has the same power in every bin: the geometric mean of a band's is below its mean, the less the more bins it holds."""
    x = np.random.default_rng(3).standard_normal((64, 8192))
    level = DEFAULT(batch(*x), 8192.0)[:, 0, :85].mean(dim=(0, 2))
    assert abs(level[80] - level[60]) < 0.1 and level[5:20].mean() < level[70:85].mean()


@pytest.mark.parametrize(("rate", "num"), [(8192.0, 4096), (25600.0, 10240), (8192.0, 65536), (12800.0, 8192)])
def test_any_rate_and_length(rate: float, num: int) -> None:
    image = DEFAULT(batch(sine(1000, rate, num) + 0.1 * np.random.default_rng(4).standard_normal(num)), rate)
    assert image.shape == (1, 2, 128, 2) and image.isfinite().all()
    assert image[0, 0, : DEFAULT.num_heard(rate)].mean(-1).argmax() == np.argmin(np.abs(np.array(DEFAULT.rows_hz(rate)) - 1000))


def test_each_record_by_itself() -> None:
    x = batch(*np.random.default_rng(5).standard_normal((40, 8192)))
    torch.testing.assert_close(DEFAULT(x, 8192.0)[7:8], DEFAULT(x[7:8], 8192.0), rtol=1e-6, atol=1e-6)


def test_what_cannot_be_had_is_told() -> None:
    with pytest.raises(UserError, match="choose fewer columns"):
        DEFAULT.check(8192.0, 300)
    with pytest.raises(UserError, match="fewer than 8 bands"):
        BandImage(BandImageConfig(rows=8)).check(8192.0, 8192)
    with pytest.raises(UserError, match="linear_hz < max_hz"):
        BandImageConfig(linear_hz=0.0)
