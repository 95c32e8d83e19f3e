"""Nets made smaller: the channels, heads and hidden units that stay keep their weights, the others are gone, not masked."""

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from vibray.models.band_transformer import BandTransformer, BandTransformerConfig
from vibray.models.deep_svdd import DeepSvdd, DeepSvddConfig

ALL = slice(None)


def narrowed(net: DeepSvdd, config: DeepSvddConfig) -> DeepSvdd:
    """The net of a config that is `net`'s own but for a smaller width, with the weights, statistics and centre of what it keeps.

    The blocks of a stage add to one another, so a stage keeps one set of channels; between the two convolutions of a block there is
    another. Of each set those stay which the layers behind them weigh most, by the sum of squared weights: our batch norms have no scale,
    they give each channel the same spread, and how large its own filter is says nothing. What no layer reads goes without a trace.
    """
    small = DeepSvdd(config, net.in_shape).to(net.center.device).eval()
    old, new = _stages(net), _stages(small)
    readers: list[list[Any]] = [[second.conv1] for _, second in old]
    readers[0].append(old[0][0].conv1)  # the first stage begins with what the first convolution wrote
    for own, (first, _) in zip(readers, old[1:], strict=False):
        own += [first.conv1, first.downsample[0]]
    readers[-1].append(net.projection[0])
    kept = [_most_read(own, second.conv2.out_channels) for own, (_, second) in zip(readers, new, strict=True)]
    _cut(net.trunk.conv1, small.trunk.conv1, kept[0])
    _cut(net.trunk.bn1, small.trunk.bn1, kept[0])
    read = kept[0]
    for blocks, narrow, written in zip(old, new, kept, strict=True):
        for block, own in zip(blocks, narrow, strict=True):
            inner = _most_read([block.conv2], own.conv2.in_channels)
            _cut(block.conv1, own.conv1, inner, read)
            _cut(block.bn1, own.bn1, inner)
            _cut(block.conv2, own.conv2, written, inner)
            _cut(block.bn2, own.bn2, written)
            if block.downsample is not None:
                _cut(block.downsample[0], own.downsample[0], written, read)
                _cut(block.downsample[1], own.downsample[1], written)
            read = written
    _cut(net.projection[0], small.projection[0], ALL, read)
    for number in (1, 3):
        small.projection[number].load_state_dict(net.projection[number].state_dict())
    small.center.copy_(net.center)
    small.radius.copy_(net.radius)
    return small


def _stages(net: DeepSvdd) -> list[Any]:
    trunk: Any = net.trunk
    return [trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4]


def _most_read(readers: list[Any], count: int) -> Int[Tensor, " kept"]:
    """Numbers of the channels that these layers weigh most, in their order."""
    weight = torch.stack([layer.weight.detach().transpose(0, 1).flatten(1).square().sum(dim=1) for layer in readers]).sum(dim=0)
    return weight.topk(count).indices.sort().values


def _cut(layer: nn.Module, own: nn.Module, written: Tensor | slice, read: Tensor | slice = ALL) -> None:
    """Copies of a layer's tensors the outputs `written` and, of weights, the inputs `read`."""
    tensors = layer.state_dict()
    for name, value in own.state_dict().items():
        whole = tensors[name]
        if whole.ndim:
            whole = whole[written]
        value.copy_(whole[:, read] if whole.ndim > 1 else whole)


def thinned(net: BandTransformer, config: BandTransformerConfig) -> BandTransformer:
    """The net of a config that is `net`'s own but for fewer heads, a narrower feed-forward part and fewer tokens, with the weights of what
    it keeps: of each layer the heads and hidden units whose inputs and outputs weigh most."""
    small = BandTransformer(config, net.in_shape).to(net.start.device).eval()
    state, width = dict(net.state_dict()), config.head_width
    for number in range(config.layers):
        at = f"encoder.{number}."
        into, out = state[at + "attention.to_heads.weight"].unflatten(0, (3, -1, width)), state[at + "attention.from_heads.weight"]
        of_head = into.square().sum((0, 2, 3)) * out.unflatten(1, (-1, width)).square().sum((0, 2))
        heads = of_head.topk(config.heads).indices.sort().values
        state[at + "attention.to_heads.weight"] = into[:, heads].flatten(0, 2)
        state[at + "attention.to_heads.bias"] = state[at + "attention.to_heads.bias"].unflatten(0, (3, -1, width))[:, heads].flatten()
        state[at + "attention.from_heads.weight"] = out.unflatten(1, (-1, width))[:, heads].flatten(1)
        into, out = state[at + "feedforward.0.weight"], state[at + "feedforward.2.weight"]
        units = (into.square().sum(1) * out.square().sum(0)).topk(config.feedforward).indices.sort().values
        state[at + "feedforward.0.weight"], state[at + "feedforward.2.weight"] = into[units], out[:, units]
        state[at + "feedforward.0.bias"] = state[at + "feedforward.0.bias"][units]
    small.load_state_dict(state)
    return small
