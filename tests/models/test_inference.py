"""The form in which a CPU scores: the scores of the net itself, no batch norm left, the net untouched."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from vibray.models.backbone import TrunkConfig, batch_norms
from vibray.models.classifier import Classifier, ClassifierConfig
from vibray.models.deep_svdd import DeepSvdd, DeepSvddConfig
from vibray.models.inference import NARROW_CHANNELS, CpuScores, Doubling, folded
from vibray.models.vae import Vae, VaeConfig

SHAPE = (2, 40, 72)
NARROW = TrunkConfig(width=8)
SVDD = DeepSvddConfig(trunk=NARROW, hidden=16, latent_dim=8)
NETS = {
    "svdd": lambda: DeepSvdd(SVDD, SHAPE),
    "mahalanobis": lambda: DeepSvdd(replace(SVDD, metric="mahalanobis"), SHAPE),
    "time": lambda: DeepSvdd(replace(SVDD, trunk=TrunkConfig(kind="time", width=8)), SHAPE),
    "with biases": lambda: DeepSvdd(replace(SVDD, trunk=TrunkConfig(width=8, bias=True)), SHAPE),
    "vae": lambda: Vae(VaeConfig(trunk=NARROW, latent_channels=8), SHAPE),
    "autoencoder": lambda: Vae(VaeConfig(trunk=NARROW, latent_channels=8, beta=0.0), SHAPE),
}


def used(net):
    """The net after a batch of training, so that its running statistics are no longer 0 and 1."""
    torch.manual_seed(3)
    net.train()
    with torch.no_grad():
        for _ in range(5):
            net(3 * torch.randn(8, *SHAPE) + 1)
    return net.eval()


@pytest.mark.parametrize("name", NETS)
def test_folded_scores_are_the_nets_own(name):
    net = used(NETS[name]())
    before = {key: value.clone() for key, value in net.state_dict().items()}
    x = 3 * torch.randn(11, *SHAPE) + 1
    with torch.inference_mode():
        wanted = net.score(net(x))
        torch.testing.assert_close(CpuScores(net)(x), wanted, rtol=2e-5, atol=1e-6)
        torch.testing.assert_close(CpuScores(net)(x[:1]), wanted[:1], rtol=2e-5, atol=1e-6)
    assert wanted.std() > 1e-3 * wanted.mean()  # scores that could not differ would agree
    assert not list(batch_norms(folded(net)))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(1, 1), (2, 1), (5, 7)])
def test_a_doubling_is_the_transposed_convolution(size, bias):
    layer = nn.ConvTranspose2d(3, 5, 4, stride=2, padding=1, bias=bias)
    x = torch.randn(4, 3, *size)
    with torch.inference_mode():
        assert Doubling.replaces(layer)
        torch.testing.assert_close(Doubling(layer)(x), layer(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "layer", [nn.ConvTranspose2d(NARROW_CHANNELS + 1, 2, 4, 2, 1), nn.ConvTranspose2d(3, 2, 2, 2), nn.ConvTranspose2d(3, 2, 4, 2, 2)]
)
def test_other_transposed_convolutions_stay(layer):
    assert not Doubling.replaces(layer)


def test_a_classifier_is_folded_too():
    net = Classifier(ClassifierConfig(trunk=NARROW), 3, SHAPE)
    used(net)
    x = torch.randn(5, *SHAPE)
    with torch.inference_mode():
        for own, other in zip(vars(net(x)).values(), vars(folded(net)(x)).values(), strict=True):
            torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)


def test_a_net_in_training_is_refused():
    with pytest.raises(ValueError, match="eval"):
        folded(NETS["vae"]().train())
