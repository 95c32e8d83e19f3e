import pickle

import numpy as np
import pytest
import torch

from tests.reference.harmonics import transformer
from vibray.config import UserError
from vibray.features.cwt_image import CwtImage, CwtImageConfig
from vibray.features.hetero_image import HeteroImage, HeteroImageConfig, folded

DEFAULT = HeteroImage(HeteroImageConfig(mains_hz=50.0))


def batch(*records: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(records).astype(np.float32))


def test_channel_0_is_the_cwt_image_in_ln() -> None:
    x = batch(transformer(50.02, 8192, 8192, noise=0.05))
    expected = CwtImage(CwtImageConfig())(x, 8192.0)[:, 0].log()
    torch.testing.assert_close(DEFAULT(x, 8192.0)[:, 0], expected, rtol=0, atol=1e-5)
    assert DEFAULT.rows_hz(8192.0) == CwtImage(CwtImageConfig()).rows_hz(8192.0)


def test_channel_1_has_a_sine_on_its_row_at_half_its_amplitude() -> None:
    # 256 samples at 8192 Hz: row r is bin r + 1, of 32 Hz
    image = DEFAULT(batch(3 * np.sin(2 * np.pi * 1024 * np.arange(8192) / 8192)), 8192.0)[0, 1]
    assert (image[:, 4:-4].argmax(0) == 31).all()
    torch.testing.assert_close(image[31, 4:-4], torch.full((216,), float(np.log(1.5))), rtol=0, atol=1e-3)


def test_channel_2_is_the_pair_of_cycles_that_starts_with_the_column() -> None:
    f0, rate = 50.2, 8192.0
    t = np.arange(8192) / rate
    context = DEFAULT(batch(np.cos(2 * np.pi * 2 * f0 * t)), rate)[0, 2].numpy()
    for j in (0, 50, 123, 200, 223):  # the last columns begin too late for a whole pair: the folding fills them
        begin = (j * 8192 // 224) / rate
        expected = np.cos(2 * np.pi * 2 * f0 * (begin + (np.arange(128) + 0.5) / 128 * 2 / f0))
        np.testing.assert_allclose(context[:, j], expected, atol=0.02)


def test_one_time_axis() -> None:
    """A burst stands in the same columns of every channel; in the context, in the pairs that begin within two cycles before it."""
    quiet = transformer(50.0, 8192, 8192, noise=0.01)
    burst = quiet.copy()
    burst[5000:5040] += np.random.default_rng(0).standard_normal(40)
    change = (DEFAULT(batch(burst), 8192.0) - DEFAULT(batch(quiet), 8192.0))[0].abs()
    column = 5020 * 224 // 8192
    for channel in (0, 1):
        high = change[channel, 64:].mean(0)
        assert abs(int(high.argmax()) - column) <= 3
    touched = (change[2].amax(0) > 0.1).nonzero().flatten()
    pair = 2 / 50 * 224
    assert column - pair - 2 <= touched.min() and touched.max() <= column + 2 and len(touched) >= pair - 3


def test_folded_reads_linearly_and_wraps_by_whole_periods() -> None:
    ramp = torch.arange(40, dtype=torch.float64)[None]
    got = folded(ramp, torch.tensor([8.0], dtype=torch.float64), 5, 4)[0]
    assert got[:, 1].tolist() == [9, 11, 13, 15]
    assert got[:, 4].tolist() == [33, 35, 37, 39]
    late = folded(ramp, torch.tensor([16.0], dtype=torch.float64), 5, 4)[0]
    assert late[:, 4].tolist() == [34, 38, 26, 30]


@pytest.mark.parametrize(
    ("rate", "length", "rows", "columns"), [(10000.0, 8192, 64, 96), (12800.0, 4096, 160, 224), (48000.0, 65536, 32, 64)]
)
def test_other_rates_lengths_and_sizes(rate: float, length: int, rows: int, columns: int) -> None:
    feature = HeteroImage(HeteroImageConfig(mains_hz=60.0, rows=rows, columns=columns))
    image = feature(batch(transformer(60.0, rate, length, noise=0.1)), rate)
    assert image.shape == (1, 3, rows, columns) and image.isfinite().all()


def test_long_columns_average_as_many_frames_as_they_need() -> None:
    # 65536 samples in 32 columns: 2048 samples a column, 16 frames of 256; one frame would miss a click most of the time
    feature = HeteroImage(HeteroImageConfig(mains_hz=50.0, rows=16, columns=32))
    noise = 1e-3 * np.random.default_rng(1).standard_normal(65536)
    for place in (20500, 21300):
        click = noise.copy()
        click[place] += 10
        change = (feature(batch(click), 8192.0) - feature(batch(noise), 8192.0))[0, 1].mean(0)
        assert int(change.argmax()) == place * 32 // 65536 and change.max() > 2


def test_check() -> None:
    with pytest.raises(UserError, match="--mains 50 or --mains 60"):
        HeteroImage(HeteroImageConfig()).check(8192.0, 8192)
    with pytest.raises(UserError, match="8 cycles of 50 Hz"):
        DEFAULT.check(48000.0, 7000)
    with pytest.raises(UserError, match="max_hz"):
        DEFAULT.check(8000.0, 8192)
    with pytest.raises(UserError, match="stft_window 4096 is longer"):
        HeteroImage(HeteroImageConfig(mains_hz=50.0, stft_window=4096)).check(8192.0, 2048)
    with pytest.raises(UserError, match="stft_window"):
        HeteroImageConfig(stft_window=7)


def test_batch_mates_pickle_and_silence() -> None:
    records = batch(transformer(50.0, 8192, 4096, noise=0.1), 5 + 1e-5 * transformer(50.0, 8192, 4096, noise=0.1), np.zeros(4096))
    images = DEFAULT(records, 8192.0)
    assert images.isfinite().all() and images.dtype == torch.float32
    # a product of matrices rounds differently with another number of columns
    torch.testing.assert_close(DEFAULT(records[1:2], 8192.0), images[1:2], rtol=0, atol=1e-3)
    copied = pickle.dumps(DEFAULT)
    assert len(copied) < 1000 and torch.equal(pickle.loads(copied)(records, 8192.0), images)
    assert DEFAULT(records[:0], 8192.0).shape == (0, 3, 128, 224)
