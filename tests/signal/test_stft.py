import numpy as np
import pytest
import scipy.signal
import torch

from vibray.signal.stft import stft_power


def test_sine_on_a_bin_gives_half_its_amplitude() -> None:
    t = torch.arange(1024, dtype=torch.float64)
    magnitude = stft_power(3 * torch.sin(2 * torch.pi * 10 / 128 * t)[None], 128, 64).sqrt().transpose(-1, -2)
    assert magnitude.shape == (1, 65, 15)
    torch.testing.assert_close(magnitude[0, 10], torch.full((15,), 1.5, dtype=torch.float64))
    assert magnitude[0, 13:].max() < 1e-12  # a Hann line is three bins wide


@pytest.mark.parametrize(("window", "hop", "length"), [(128, 64, 8192), (512, 256, 5000), (100, 30, 1024)])
def test_scipy(window: int, hop: int, length: int) -> None:
    x = np.random.default_rng(0).standard_normal(length)
    _, _, expected = scipy.signal.stft(x, 1.0, "hann", window, window - hop, detrend=False, boundary=None, padded=False, scaling="spectrum")  # type: ignore[arg-type]
    magnitude = stft_power(torch.from_numpy(x)[None], window, hop)[0].sqrt().T
    np.testing.assert_allclose(magnitude.numpy(), np.abs(expected), atol=1e-12)
