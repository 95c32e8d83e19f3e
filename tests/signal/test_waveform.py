import numpy as np
import pytest
import torch

from vibray.signal.waveform import centred, column_edges, frames, odd_extension, standardised


def test_centred_and_standardised_keep_a_small_vibration_on_a_large_offset() -> None:
    noise = 1e-3 * np.random.default_rng(0).standard_normal(8192)
    record = (1000 + noise).astype(np.float32)
    exact = record.astype(np.float64)
    expected = (exact - exact.mean()) / (exact.std() + 1e-8)
    x = torch.from_numpy(record)[None]
    np.testing.assert_allclose(standardised(x)[0].numpy(), expected, rtol=0, atol=1e-12)
    assert abs(centred(x).mean().item()) < 1e-12
    in_float32 = (record - record.mean(dtype=np.float32)) / (record.std(dtype=np.float32) + np.float32(1e-8))
    assert np.abs(in_float32 - expected).max() > 1e-3  # what the float64 is for


@pytest.mark.parametrize(("left", "right"), [(0, 0), (3, 5), (9, 9), (9, 12), (25, 40)])
def test_odd_extension_is_numpys(left: int, right: int) -> None:
    x = np.random.default_rng(1).standard_normal((2, 10))
    expected = np.pad(x, ((0, 0), (left, right)), mode="reflect", reflect_type="odd")
    np.testing.assert_allclose(odd_extension(torch.from_numpy(x), left, right).numpy(), expected, atol=1e-12)


def test_odd_extension_continues_a_straight_line() -> None:
    line = torch.arange(5, dtype=torch.float64)[None]
    assert odd_extension(line, 2, 3)[0].tolist() == [-2, -1, 0, 1, 2, 3, 4, 5, 6, 7]
    with pytest.raises(ValueError, match="at least 2 samples"):
        odd_extension(line[:, :1], 1, 1)


def test_frames() -> None:
    x = torch.arange(10.0)[None]
    assert frames(x, 4, 3)[0].tolist() == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]
    with pytest.raises(ValueError, match="11 samples; the record has 10"):
        frames(x, 11, 3)


@pytest.mark.parametrize(("num_samples", "columns"), [(8192, 224), (1000, 224), (1024, 7), (50, 50)])
def test_columns_cover_every_sample_once(num_samples: int, columns: int) -> None:
    edges = column_edges(num_samples, columns)
    assert (edges[0], edges[-1], len(edges)) == (0, num_samples, columns + 1)
    assert set(edges.diff().tolist()) <= {num_samples // columns, -(-num_samples // columns)}
    assert edges.tolist() == [j * num_samples // columns for j in range(columns + 1)]
