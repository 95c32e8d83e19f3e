import numpy as np
import pytest
import pywt
import torch

from tests.reference.cwt import magnitudes
from vibray.signal.pywt_cwt import PywtScalogram, bilinear_taps, wavelet_filters

CPU = torch.device("cpu")


def scalogram(x: np.ndarray, scales: np.ndarray, wavelet: str, columns: int) -> tuple[np.ndarray, str]:
    transform = PywtScalogram(wavelet, scales.tolist(), len(x), columns, CPU)
    return transform(torch.from_numpy(x)[None].float())[..., 0].numpy(), type(transform._columns).__name__


@pytest.mark.parametrize("wavelet", ["morl", "mexh", "gaus3", "cgau2", "cmor1.5-1.0", "shan1.5-1.0"])
def test_filters_are_pywts_to_the_last_digit(wavelet: str) -> None:
    x = np.random.default_rng(0).standard_normal(400)
    scales = np.array([1.0, 2.5, 7.0, 19.3])
    expected, _ = pywt.cwt(x, scales, wavelet)
    for (first, w), row in zip(wavelet_filters(wavelet, scales.tolist()), expected, strict=True):
        padded = np.concatenate([np.zeros(len(w)), x, np.zeros(len(w))])
        got = [(w * padded[t + first + len(w) : t + first + 2 * len(w)]).sum() for t in range(len(x))]
        np.testing.assert_allclose(got, row, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("num_samples", "columns", "route"),
    [
        (8192, 224, "_Blocks"),
        (8192, 64, "_Blocks"),
        (10000, 224, "_Blocks"),
        (1024, 224, "_Blocks"),
        (65536, 224, "_Blocks"),
        (4096, 100, "_Blocks"),
        (1024, 1024, "_Blocks"),
        (8191, 224, "_Bank"),  # a prime: no two columns lie alike
        (1000, 999, "_Bank"),
        (512, 700, "_Bank"),  # more columns than samples: the borders are clamped
        (300, 1, "_Bank"),
    ],
)
def test_against_pywt_at_any_length_and_width(num_samples: int, columns: int, route: str) -> None:
    x = np.random.default_rng(1).standard_normal(num_samples).astype(np.float32)
    scales = np.arange(1.0, 129.0, 9 if num_samples < 20000 else 40)
    scales = scales[16 * scales + 1 < num_samples]  # pywt keeps the middle of longer filters in another way
    got, taken = scalogram(x, scales, "morl", columns)
    assert taken == route
    expected = magnitudes(x.astype(np.float64), scales, "morl", columns)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * expected.max())


@pytest.mark.parametrize("wavelet", ["morl", "mexh", "gaus1", "gaus8", "cgau1", "cgau5", "cmor1.5-1.0", "fbsp2-1.0-1.0", "shan0.5-2.0"])
@pytest.mark.parametrize(("num_samples", "columns"), [(2048, 56), (2039, 50)])
def test_against_pywt_with_any_wavelet_and_scales(wavelet: str, num_samples: int, columns: int) -> None:
    x = np.random.default_rng(2).standard_normal(num_samples).astype(np.float32)
    scales = np.array([31.0, 1.0, 3.7, 12.25, 2.0])  # in no order
    got, taken = scalogram(x, scales, wavelet, columns)
    assert taken == ("_Blocks" if num_samples == 2048 else "_Bank")
    expected = magnitudes(x.astype(np.float64), scales, wavelet, columns)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * expected.max())


def test_filters_longer_than_the_record() -> None:
    x = np.random.default_rng(3).standard_normal(512).astype(np.float32)
    scales = np.array([8.0, 64.0, 100.0])
    got, _ = scalogram(x, scales, "morl", 32)
    expected = magnitudes(x.astype(np.float64), scales, "morl", 32)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * expected.max())


def test_a_batch_gives_each_record_its_own() -> None:
    x = torch.from_numpy(np.random.default_rng(4).standard_normal((5, 2048))).float()
    for columns in (56, 57):
        transform = PywtScalogram("morl", np.arange(1.0, 17.0).tolist(), 2048, columns, CPU)
        together = transform(x)
        assert together.shape == (16, columns, 5)
        for i in range(5):
            torch.testing.assert_close(transform(x[i : i + 1])[..., 0], together[..., i], rtol=0, atol=2e-6)


def test_a_scale_too_small_for_pywt_is_refused() -> None:
    with pytest.raises(ValueError, match=r"scale 0\.05 is too small for morl"):
        PywtScalogram("morl", [0.05], 1024, 32, CPU)


def test_bilinear_taps_at_the_borders() -> None:
    low, weight = bilinear_taps(3, 6)
    np.testing.assert_array_equal(low, [0, 0, 0, 1, 1, 2])
    np.testing.assert_allclose(weight, [0, 0.25, 0.75, 0.25, 0.75, 0])
