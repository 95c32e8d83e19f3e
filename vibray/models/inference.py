"""A trained net in the form in which a CPU scores fastest. The scores are those of the net itself to float32's rounding."""

import copy
from itertools import pairwise
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from vibray.models.backbone import BatchNorm

NUMBERS_AT_ONCE, RECORDS_AT_ONCE = 2**18, 8
"""Numbers of the images that a net is given at once, and images at least: what a ResNet-18 makes of 8 large ones stays near the core; one
at a time is half as fast, 32 no faster. Of 64 small ones (2 x 64 x 32) each takes half the time that it takes of 8."""

NARROW_CHANNELS = 32
"""Channels up to which a convolution to four times as many takes less time than a transposed one."""

Net = TypeVar("Net", bound=nn.Module)


def folded(net: Net) -> Net:
    """A copy of a net for scoring: each batch norm folded into the layer before it, narrow transposed convolutions as `Doubling`, images
    channels last.

    Our nets name a batch norm right behind the layer that it follows; a layer without one stays as it is. Raises ValueError for a net in
    training mode: its batch norms would not use what was fitted.
    """
    if net.training:
        raise ValueError("a net is folded for scoring: call eval() first")
    net = copy.deepcopy(net)
    for module in list(net.modules()):
        for (_, layer), (name, norm) in pairwise(module.named_children()):
            if isinstance(norm, BatchNorm) and isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                _fold(layer, norm)
                setattr(module, name, nn.Identity())
        for name, layer in list(module.named_children()):
            if isinstance(layer, nn.ConvTranspose2d) and Doubling.replaces(layer):
                setattr(module, name, Doubling(layer))
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _fold(layer: nn.Conv2d | nn.ConvTranspose2d | nn.Linear, norm: BatchNorm) -> None:
    mean, variance = norm.running_mean, norm.running_var
    statistics = (mean, variance, norm.eps, torch.ones_like(mean), torch.zeros_like(mean))  # it has no affine parameters
    if isinstance(layer, nn.Linear):
        layer.weight, layer.bias = fuse_linear_bn_weights(layer.weight, layer.bias, *statistics)
    else:
        transposed = isinstance(layer, nn.ConvTranspose2d)
        layer.weight, layer.bias = fuse_conv_bn_weights(layer.weight, layer.bias, *statistics, transpose=transposed)


class Doubling(nn.Module):
    """A transposed convolution of 4 x 4 pixels that doubles both sides, as a convolution that makes all four pixels that come of one."""

    def __init__(self, layer: nn.ConvTranspose2d):
        super().__init__()
        # the kernel's rows that the pixel before, the pixel itself and the one behind give the first and the second of its two; 4 is none
        rows = torch.tensor([[3, 1, 4], [4, 2, 0]])
        weight = pad(layer.weight.detach(), (0, 1, 0, 1))[:, :, rows][..., rows]
        self.weight = nn.Parameter(weight.permute(2, 4, 1, 0, 3, 5).flatten(0, 2).contiguous(memory_format=torch.channels_last))
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().repeat(4))

    @staticmethod
    def replaces(layer: nn.ConvTranspose2d) -> bool:
        """Whether it is one of these, and narrow enough to gain by it."""
        same = (layer.kernel_size, layer.stride, layer.padding, layer.output_padding) == ((4, 4), (2, 2), (1, 1), (0, 0))
        return same and layer.groups == 1 and layer.dilation == (1, 1) and layer.in_channels <= NARROW_CHANNELS

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch out 2*height 2*width"]:
        pixels = conv2d(x, self.weight, self.bias, padding=1).unflatten(1, (2, 2, -1))
        return pixels.permute(0, 4, 1, 5, 2, 3).flatten(1, 2).flatten(2, 3).permute(0, 3, 1, 2)


class CpuScores:
    """The scores of a detector's net as a function of scaled images, on one core."""

    def __init__(self, net: nn.Module):
        self.net: Any = folded(net)

    def __call__(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, " batch"]:
        at_once = max(RECORDS_AT_ONCE, NUMBERS_AT_ONCE // x.shape[1:].numel())
        return torch.cat([self.net.score(self.net(part)) for part in x.split(at_once)])
