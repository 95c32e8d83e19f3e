import pickle

import numpy as np
import torch

from vibray.features.zerone import Zerone, ZeroneConfig
from vibray.features.zerone_image import PSD_FLOOR, ZeroneImage, ZeroneImageConfig

IMAGE, ZERONE = ZeroneImage(ZeroneImageConfig()), Zerone(ZeroneConfig())


def test_cells_lie_as_drawn() -> None:
    cells = IMAGE.cells()
    assert cells.shape == (96, 96)
    assert sorted(set(cells.ravel().tolist())) == list(range(-1, 1200))
    np.testing.assert_array_equal(cells[0::2], cells[1::2])  # rows are two pixels high
    assert (cells[0, :6] == 0).all() and cells[0, 6] == 1 and cells[1, 89] == 14 and (cells[0, 90:] == -1).all()
    assert cells[2, 0] == 15 and cells[2, 95] == 15 + 31 and cells[4, 0] == 15 + 32 and cells[9, 92] == 141 and cells[9, 93] == -1
    assert cells[10, 0] == 142 and cells[75, 77] == 1191 and (cells[75, 78:] == -1).all()
    assert (cells[76, :12] == 1192).all() and cells[77, 95] == 1199
    assert (cells[78:] == -1).all()
    pixels = np.bincount(cells[cells >= 0])
    for name, size in {"time": 12, "stft": 6, "psd": 6, "hf": 24}.items():
        assert (pixels[ZERONE.blocks[name]] == size).all()


def test_pixels_show_the_vector_with_the_density_in_log10() -> None:
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 8192))).float()
    x[1] = 0
    images, vectors = IMAGE(x, 8192.0), ZERONE(x, 8192.0)
    assert images.shape == (2, 1, 96, 96)
    cells = IMAGE.cells()
    for i, name in ((0, "time"), (100, "stft"), (1192, "hf")):
        assert name and (images[0, 0].numpy()[cells == i] == vectors[0, i].item()).all()
    np.testing.assert_allclose(images[0, 0].numpy()[cells == 500], np.log10(vectors[0, 500].item()), rtol=1e-6)
    assert not images[:, 0].numpy()[:, cells == -1].any()
    np.testing.assert_allclose(images[1, 0].numpy()[cells == 500], np.log10(PSD_FLOOR))
    assert images.isfinite().all()
    assert torch.equal(IMAGE(x[1:], 8192.0), images[1:])
    assert torch.equal(pickle.loads(pickle.dumps(IMAGE))(x, 8192.0), images)
    assert IMAGE.columns()[cells[10, 0]] == "psd_0001_hz"
