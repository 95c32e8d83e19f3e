import numpy as np
import pytest
import pywt
import torch

from vibray.signal.cwt import AnalyticMorlet, geometric_hz, morl_cwt, morl_frequencies_hz
from vibray.signal.waveform import column_edges


def test_morl_cwt_is_pywts_default() -> None:
    z = np.random.default_rng(0).standard_normal((2, 2048))
    expected, frequencies = pywt.cwt(z, np.arange(1, 129), "morl", sampling_period=1e-4)
    got = morl_cwt(torch.from_numpy(z), 128, 1e4).numpy()
    assert got.shape == (2, 128, 2048)
    np.testing.assert_allclose(got, expected.swapaxes(0, 1), atol=1e-11)
    np.testing.assert_allclose(morl_frequencies_hz(np.arange(1.0, 129.0), 1e4), frequencies, rtol=1e-12)


def test_geometric_hz() -> None:
    hz = np.array(geometric_hz(40.0, 3700.0, 128))
    assert (hz[0], hz[-1]) == (40, 3700)
    np.testing.assert_allclose(hz[1:] / hz[:-1], (3700 / 40) ** (1 / 127))


@pytest.mark.parametrize("sample_rate_hz", [8192.0, 10000.0, 48000.0])
def test_a_sine_of_amplitude_a_gives_a_on_its_row_and_less_on_the_others(sample_rate_hz: float) -> None:
    rows = geometric_hz(40.0, 3700.0, 32)
    t = np.arange(8192) / sample_rate_hz
    morlet = AnalyticMorlet(rows, sample_rate_hz, 8192, torch.device("cpu"))
    edges = column_edges(8192, 64)
    for row in (8, 16, 24):
        sine = torch.from_numpy(2.5 * np.sin(2 * np.pi * rows[row] * t + 0.7)).float()[None]
        image = morlet.column_means_and_maxima(sine, edges)[0]
        inside = image[:, :, 16:48]
        assert inside[0].mean(-1).argmax() == row
        torch.testing.assert_close(inside[:, row], torch.full_like(inside[:, row], 2.5), rtol=1e-3, atol=0)


def test_rows_taken_in_chunks_are_the_rows_taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((1, 2048))).float()
    morlet, edges = AnalyticMorlet(geometric_hz(40.0, 3700.0, 16), 8192.0, 2048, torch.device("cpu")), column_edges(2048, 64)
    at_once = morlet.column_means_and_maxima(x, edges)
    monkeypatch.setattr("vibray.signal.cwt.CHUNK_ELEMENTS", 3 * morlet.num_fft)
    torch.testing.assert_close(morlet.column_means_and_maxima(x, edges), at_once, rtol=1e-5, atol=1e-6)
