"""Everything that is computed of a waveform, on a GPU as on a CPU."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.reference.waveforms import kinds
from vibray.features.band_image import BandImage, BandImageConfig
from vibray.features.cwt_image import CwtImage, CwtImageConfig
from vibray.features.harmonic import Harmonic, HarmonicConfig
from vibray.features.hetero_image import HeteroImage, HeteroImageConfig
from vibray.features.scaling import ScalingConfig
from vibray.features.scaling_fit import ScalingFit
from vibray.features.seed_image import SeedImage, SeedImageConfig
from vibray.features.spectral import Spectral, SpectralConfig
from vibray.features.zerone import Zerone, ZeroneConfig
from vibray.features.zerone_image import ZeroneImage, ZeroneImageConfig
from vibray.fitting.pretraining import large_transformer, small_transformer
from vibray.models.band_transformer import BandTransformer
from vibray.train.images import Images

pytestmark = pytest.mark.gpu

RATE_HZ = 8192.0

FEATURES: dict[str, tuple[Callable[[Tensor, float], Tensor], float]] = {
    "seed": (SeedImage(SeedImageConfig()), 1e-5),
    "seed by FFT": (SeedImage(SeedImageConfig(columns=223)), 1e-5),
    "analytic": (CwtImage(CwtImageConfig()), 1e-5),
    "hetero": (HeteroImage(HeteroImageConfig(mains_hz=50.0)), 1e-3),
    "zerone": (Zerone(ZeroneConfig()), 1e-5),
    "zerone image": (ZeroneImage(ZeroneImageConfig()), 1e-4),
    "bands": (BandImage(BandImageConfig()), 1e-4),
    "spectral": (Spectral(SpectralConfig()), 1e-4),
    "harmonic": (Harmonic(HarmonicConfig(mains_hz=50.0)), 1e-4),
}


@pytest.mark.parametrize("name", list(FEATURES))
def test_a_feature_on_a_gpu_is_the_feature(name: str) -> None:
    """In float32, whatever torch is told about TF32 in convolutions: the products here are not convolutions."""
    feature, tolerance = FEATURES[name]
    x = torch.from_numpy(np.stack(list(kinds(seed=7).values())))
    expected, got = feature(x, RATE_HZ), feature(x.cuda(), RATE_HZ)
    assert got.is_cuda and got.dtype == torch.float32
    for record, (a, b) in zip(kinds(), zip(expected, got.cpu(), strict=True), strict=True):
        assert (a - b).abs().max() <= tolerance * a.abs().max(), record
    torch.testing.assert_close(feature(x.cuda()[:2], RATE_HZ).cpu(), got[:2].cpu(), rtol=0, atol=tolerance * float(got.abs().max()))


def test_scaling_and_the_images_of_a_training_stay_on_the_gpu(tmp_path) -> None:
    waveforms = np.stack(list(kinds(seed=8).values()))
    feature = CwtImage(CwtImageConfig(rows=16, columns=32))
    device = torch.device("cuda")
    images = Images(
        lambda w: feature(w, RATE_HZ),
        feature.shape,
        lambda index: torch.from_numpy(waveforms[index]),
        len(waveforms),
        tmp_path / "images",
        1 << 30,
        device,
    )
    images.fill(0, 1)
    fit = ScalingFit(ScalingConfig(transform="log", by="fleet", per="row"), feature.shape)
    sensors = [("unit", str(i)) for i in range(len(waveforms))]
    index = np.arange(len(waveforms))
    fit.update(images(index), sensors, index.astype(np.uint64))
    scaled = fit.finish()(images(index), sensors)
    assert scaled.is_cuda and not list(tmp_path.glob("*.npy"))
    assert images(index[:0]).shape == (0, *feature.shape)


@pytest.mark.parametrize("recipe", [small_transformer(), large_transformer()], ids=["small", "large"])
def test_a_pretrained_net_scores_and_learns_there(recipe) -> None:
    """The same scores as on a CPU, and a step in bf16 that leaves them finite."""
    torch.manual_seed(0)
    net = BandTransformer(recipe.detector, (2, 128, 2)).eval()
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(32, 3, 2, 2, 128, 2)).astype(np.float32))
    x[::2, :, 1], x[..., 85:, :] = 0, 0
    with torch.no_grad():
        expected = net.score(net(x[:, 0]))
        net.cuda()
        torch.testing.assert_close(net.score(net(x[:, 0].cuda())).cpu(), expected, rtol=1e-3, atol=1e-4)
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-4)
    with torch.autocast("cuda", torch.bfloat16):
        loss = net.loss(net(x.cuda(), torch.randn(32, *net.noise_shape, device="cuda"))).mean()
    loss.backward()
    optimiser.step()
    with torch.no_grad():
        assert net.score(net(x[:, 0].cuda())).isfinite().all()
