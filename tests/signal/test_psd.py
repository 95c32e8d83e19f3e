import numpy as np
import pytest
import scipy.signal
import torch

from vibray.signal.psd import band_means, interpolated, linear_reading, mean_squares, welch_psd


@pytest.mark.parametrize(("segment", "num_fft", "length"), [(4096, 8192, 8192), (1024, 1024, 10000), (1000, 1001, 5000), (255, 255, 999)])
def test_scipy(segment: int, num_fft: int, length: int) -> None:
    x = np.random.default_rng(0).standard_normal(length)
    _, expected = scipy.signal.welch(x, 9000.0, "hann", segment, segment // 2, num_fft, detrend=False)  # type: ignore[arg-type]
    np.testing.assert_allclose(welch_psd(torch.from_numpy(x)[None], 9000.0, segment, num_fft)[0].numpy(), expected, rtol=1e-10)


def test_integral_is_the_mean_square() -> None:
    x = torch.from_numpy(2 * np.random.default_rng(1).standard_normal((4, 65536)))
    psd = welch_psd(x, 10000.0, 1024, 1024)
    np.testing.assert_allclose((psd.sum(-1) * 10000 / 1024).numpy(), 4.0, rtol=0.03)


def test_interpolated_is_numpys_with_the_ends_held() -> None:
    rng = np.random.default_rng(2)
    at, to = np.sort(rng.uniform(0, 10, 20)), np.linspace(-1, 11, 57)
    values = rng.standard_normal((3, 20))
    expected = np.stack([np.interp(to, at, row) for row in values])
    np.testing.assert_allclose(interpolated(torch.from_numpy(values), linear_reading(at, to)).numpy(), expected, atol=1e-12)


def test_band_means() -> None:
    assert band_means(torch.arange(6.0), 3).tolist() == [0.5, 2.5, 4.5]
    with pytest.raises(ValueError, match="6 bins do not divide into 4"):
        band_means(torch.arange(6.0), 4)


def test_mean_squares_of_bands() -> None:
    t = np.arange(4096) / 8192
    x = (
        0.3 * np.sin(2 * np.pi * 1500 * t)
        + 0.1 * np.sin(2 * np.pi * 3000 * t)
        + np.sin(2 * np.pi * 100 * t)
        + 0.2 * np.cos(2 * np.pi * 4096 * t)
    )
    got = mean_squares(torch.from_numpy(x)[None], 8192.0, (1000.0, 2000.0))[0]
    np.testing.assert_allclose(got.numpy(), [0.3**2 / 2, 0.1**2 / 2 + 0.2**2], rtol=1e-3)
