"""The residual map against the score that it sums up to, and the cone of influence against what an end does to an image."""

import math

import numpy as np
import pytest
import torch

from vibray.explain.residual import cone_of_influence, residual_map
from vibray.features.cwt_image import CwtImage, CwtImageConfig
from vibray.models.backbone import TrunkConfig
from vibray.models.vae import Vae, VaeConfig
from vibray.signal.cwt import OMEGA0

RATE_HZ = 8192.0
IMAGE = CwtImage(CwtImageConfig(rows=64, columns=32))
ROWS_HZ = np.array(IMAGE.rows_hz(RATE_HZ))
LEFT_OUT = cone_of_influence(ROWS_HZ.tolist(), OMEGA0 / (2 * math.pi), 32, 1.0)


@pytest.mark.parametrize("residual", ["absolute", "excess"])
def test_the_map_sums_up_what_the_score_counts(residual) -> None:
    torch.manual_seed(0)
    net = Vae(VaeConfig(trunk=TrunkConfig(width=4), latent_channels=2, residual=residual, kl_in_score=0.0), (2, 32, 64)).eval()
    images = torch.randn(2, 2, 32, 64)
    shown = residual_map(net, images)
    assert shown.shape == (2, 32, 64)
    with torch.inference_mode():
        out = net(images)
        torch.testing.assert_close(shown.mean(dim=(1, 2)), net.score(out))
        lower = (out.reconstruction > out.image).all(dim=1)  # in both channels
    assert lower.any()
    assert bool((shown[lower] == 0).all()) == (residual == "excess")  # what is missing is not in the score of an excess
    left_out = np.zeros((32, 64), bool)
    left_out[:8, :3] = True
    less = residual_map(net, images, left_out)
    assert bool((less[:, :8, :3] == 0).all()) and torch.equal(less[:, 8:], shown[:, 8:])


def test_the_cone_is_torrence_and_compos() -> None:
    """Table 1: the e-folding time of the Morlet wavelet is sqrt(2) s, and its Fourier period with omega0 = 6 is 1.03 s."""
    period_s = 1 / 50
    s = period_s * (6 + math.sqrt(2 + 36)) / (4 * math.pi)
    fine = cone_of_influence([50.0], OMEGA0 / (2 * math.pi), 10_000, 1.0)
    reach_s = fine[0, :5000].sum() / 10_000
    # here the row's frequency is where the amplitude of a sine peaks, omega0 / (2 pi s), there where its power does: 1.4 % apart
    assert reach_s == pytest.approx(math.sqrt(2) * s, rel=0.02)
    assert (fine == fine[:, ::-1]).all()
    assert not cone_of_influence([1e6], 1.0, 32, 1.0).any() and cone_of_influence([1.0], 1.0, 32, 1.0).all()


def test_a_pure_sine_is_the_same_in_all_that_is_left_of_its_row() -> None:
    for hz in (60.0, 100.0, 400.0):
        time_s = torch.arange(8192) / RATE_HZ
        row = int(np.abs(ROWS_HZ - hz).argmin())
        sine = torch.sin(2 * torch.pi * ROWS_HZ[row] * time_s + 1.0)
        image = IMAGE(sine[None].float(), RATE_HZ)[0, 0, row].numpy()
        left = image[~LEFT_OUT[row]]
        assert left.size < 32 and np.ptp(left) < 0.03 * left.mean()
        assert np.ptp(image) > 2 * np.ptp(left)  # the ends did stand out


def test_a_burst_in_the_middle_stays_and_the_middle_of_every_row_does() -> None:
    assert not LEFT_OUT[:, 2:-2].any()
    x = torch.zeros(1, 8192)
    x[0, 4000:4050] = torch.sin(2 * torch.pi * 1500 / 8192 * torch.arange(50))
    image = IMAGE(x, RATE_HZ)[0, 1].numpy()
    assert image[~LEFT_OUT].max() == image.max()
