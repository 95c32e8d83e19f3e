import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.reference.cwt import analytic_image
from tests.reference.harmonics import transformer
from vibray.config import UserError
from vibray.features.cwt_image import CwtImage, CwtImageConfig

DEFAULT = CwtImage(CwtImageConfig())


def batch(*records: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(records).astype(np.float32))


@pytest.mark.parametrize("rate", [8192.0, 10000.0, 12800.0, 25600.0, 48000.0])
def test_a_sine_of_amplitude_a_gives_a_on_its_row(rate: float) -> None:
    row = 50
    sine = 1.7 * np.sin(2 * np.pi * DEFAULT.rows_hz(rate)[row] * np.arange(8192) / rate)
    image = DEFAULT(batch(sine), rate)[0]
    inside = image[:, row, 40:-40]
    torch.testing.assert_close(inside, torch.full_like(inside, 1.7), rtol=1e-3, atol=0)
    assert (image[0].mean(-1).argmax(), image[1].mean(-1).argmax()) == (row, row)


def test_edges_of_a_steady_record_show_no_burst() -> None:
    """Above the lines, area max in the first and last columns over the row's median: near 1 with odd reflection, not with other ends."""
    rows = DEFAULT.rows_hz(8192.0)[100::4]
    ratios: dict[str, list[float]] = {"ours": [], "zero": [], "circular": []}
    for seed in range(4):
        record = transformer(50.015, 8192, 8192, noise=0.02, seed=seed)
        ours = DEFAULT(batch(record), 8192.0)[0, 1, 100::4].numpy()
        images = {"ours": ours} | {ends: analytic_image(record, 8192, rows, 224, ends)[1] for ends in ("zero", "circular")}
        for ends, image in images.items():
            ratios[ends] += (image[:, [0, -1]] / np.median(image, axis=1, keepdims=True)).ravel().tolist()
    mean = {ends: np.mean(values) for ends, values in ratios.items()}
    assert mean["ours"] < 1.25
    assert mean["zero"] > 4 and mean["circular"] > 1.6


def test_a_short_burst_shows_in_the_maximum_wherever_it_falls() -> None:
    highest = []
    for place in range(4000, 4037, 4):
        x = np.zeros(8192)
        x[place : place + 4] = [1, -1, 1, -1]
        highest.append(DEFAULT(batch(x), 8192.0)[0, 1].max().item())
    assert max(highest) / min(highest) < 1.01


@pytest.mark.parametrize("rate", [8192.0, 10000.0, 12800.0, 25600.0, 48000.0])
@pytest.mark.parametrize("length", [1024, 2048, 4096, 8192, 16384, 65536])
def test_rates_and_lengths(rate: float, length: int) -> None:
    x = batch(np.random.default_rng(4).standard_normal(length))
    if length / rate < 2.7 / 40:  # 1,024 samples at 25.6 and 48 kHz, 2,048 at 48 kHz
        with pytest.raises(UserError, match="smallest min_hz that works"):
            DEFAULT(x, rate)
        return
    image = DEFAULT(x, rate)
    assert image.shape == (1, 2, 128, 224) and image.isfinite().all()
    assert (image[:, 1] >= 0.999 * image[:, 0]).all() and (image > 0).all()


def test_check_names_the_row_the_length_and_what_would_do() -> None:
    with pytest.raises(UserError, match=r"row 127 \(max_hz 3700\).*8000 Hz.*largest max_hz that works is 3680"):
        DEFAULT.check(8000.0, 8192)
    with pytest.raises(UserError, match=r"row 0 \(min_hz 40\).*1024 samples.*smallest min_hz that works is 67.5"):
        DEFAULT.check(25600.0, 1024)
    CwtImage(CwtImageConfig(min_hz=67.5)).check(25600.0, 1024)
    awkward = 2.7 * 48000 / 4999
    with pytest.raises(UserError) as caught:
        CwtImage(CwtImageConfig(min_hz=awkward - 0.01)).check(48000.0, 4999)
    CwtImage(CwtImageConfig(min_hz=float(str(caught.value).rsplit(" ", 1)[1]))).check(48000.0, 4999)
    with pytest.raises(UserError, match=r"224 columns need 896 samples; a record has 895.*at most 223 columns"):
        CwtImage(CwtImageConfig(min_hz=100.0)).check(8192.0, 895)
    with pytest.raises(UserError, match="row 127"):
        DEFAULT(torch.zeros(1, 8192), 8000.0)


@pytest.mark.parametrize("change", [{"rows": 1}, {"columns": 0}, {"min_hz": 0.0}, {"min_hz": 4000.0}])
def test_impossible_configs_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(UserError, match="cwt_image"):
        replace(CwtImageConfig(), **change)


def test_batch_mates_pickling_and_nearly_constant_records() -> None:
    feature = DEFAULT
    rng = np.random.default_rng(5)
    records = batch(rng.standard_normal(2048), 1e3 * rng.standard_normal(2048), 5 + 1e-5 * rng.standard_normal(2048))
    images = feature(records, 8192.0)
    assert images.isfinite().all() and images.shape == (3, *feature.shape)
    # a product of matrices rounds differently with another number of columns
    torch.testing.assert_close(feature(records[2:], 8192.0), images[2:], rtol=1e-4, atol=1e-6 * float(images[2].max()))
    copied = pickle.dumps(feature)
    assert len(copied) < 1000  # the filters stay behind
    assert torch.equal(pickle.loads(copied)(records, 8192.0), images)
    assert feature(records[:0], 8192.0).shape == (0, *feature.shape)
