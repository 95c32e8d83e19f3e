from dataclasses import replace

import pytest
import torch

from vibray.models.backbone import TrunkConfig, batch_norms
from vibray.models.band_transformer import BandTransformer, BandTransformerConfig
from vibray.models.deep_svdd import DeepSvdd, DeepSvddConfig
from vibray.models.pruning import narrowed, thinned

CONFIG = DeepSvddConfig(trunk=TrunkConfig(width=6), hidden=8, latent_dim=5)
SMALL = replace(CONFIG, trunk=TrunkConfig(width=4))
SHAPE = (2, 32, 40)


@pytest.fixture
def net() -> DeepSvdd:
    """Random weights, statistics that are no defaults, a centre."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    made = DeepSvdd(CONFIG, SHAPE).eval()
    for norm in batch_norms(made):
        norm.running_mean.copy_(torch.randn(norm.num_features, generator=generator) / 4)
        norm.running_var.copy_(torch.rand(norm.num_features, generator=generator) + 0.5)
    made.center.copy_(torch.randn(5, generator=generator))
    made.radius.fill_(0.7)
    return made


def silenced(net: DeepSvdd, width: int) -> None:
    """Has every layer that reads channels pay attention to a random `width` of 6, of each stage's and each block's own."""
    generator = torch.Generator().manual_seed(1)

    def silence(channels: int, *layers: torch.nn.Module) -> None:
        gone = torch.randperm(channels, generator=generator)[: channels - channels * width // 6]
        for layer in layers:
            layer.weight.data[:, gone] = 0  # type: ignore[index]

    trunk = net.trunk
    stages: list = [trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4]
    for number, (first, second) in enumerate(stages):
        channels = 6 * 2**number
        silence(channels, first.conv2)
        silence(channels, second.conv2)
        later = [stages[number + 1][0].conv1, stages[number + 1][0].downsample[0]] if number < 3 else [net.projection[0]]
        silence(channels, second.conv1, *later, *([first.conv1] if number == 0 else []))


def test_channels_that_nothing_reads_go_without_a_trace(net):
    silenced(net, 4)
    small, x = narrowed(net, SMALL), torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(2))
    assert small.trunk.out_channels == 32
    with torch.no_grad():
        own, whole = small(x), net(x)
        torch.testing.assert_close(own.embedding, whole.embedding, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(small.score(own), net.score(whole))
    assert torch.equal(small.center, net.center) and torch.equal(small.radius, net.radius)


def test_channels_that_are_read_do_not(net):
    small, x = narrowed(net, SMALL), torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert not torch.allclose(small(x).embedding, net(x).embedding, rtol=0.1)


@pytest.mark.parametrize("bias", [False, True])
def test_of_its_own_width_it_is_the_net(bias):
    torch.manual_seed(0)
    net = DeepSvdd(replace(CONFIG, trunk=TrunkConfig(width=6, bias=bias)), SHAPE).eval()
    same = narrowed(net, net.config)
    for name, value in net.state_dict().items():
        assert torch.equal(same.state_dict()[name], value), name
    assert not any(a.data_ptr() == b.data_ptr() for a, b in zip(same.parameters(), net.parameters(), strict=True))


BANDS = BandTransformerConfig(rows_per_token=4, width=12, layers=2, heads=3, head_width=4, feedforward=16, hidden=8)


def test_heads_and_hidden_units_that_do_nothing_go_without_a_trace():
    torch.manual_seed(0)
    net = BandTransformer(BANDS, (2, 16, 2)).eval()
    with torch.no_grad():
        torch.nn.init.normal_(net.scorer[-1].weight)  # type: ignore[arg-type]
        for layer in net.encoder:
            layer.attention.from_heads.weight[:, 4:8] = 0  # type: ignore[union-attr,index]
            layer.feedforward[2].weight[:, ::2] = 0  # type: ignore[union-attr,index]
    small = thinned(net, replace(BANDS, heads=2, feedforward=8))
    x = torch.randn(5, 2, 16, 2, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(small(x).logit, net(x).logit, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(thinned(net, replace(BANDS, heads=2, feedforward=4))(x).logit, net(x).logit, rtol=1e-2)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in net.parameters())
