"""A trained net in the form in which a CPU scores fastest. The scores are those of the net itself to float32's rounding."""

import copy
from itertools import pairwise
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from vibray.models.backbone import BatchNorm

NUMBERS_AT_ONCE, RECORDS_AT_ONCE = 2**18, 8
"""Numbers of the images that a net is given at once, and images at least: what a ResNet-18 makes of 8 large ones stays near the core; one
at a time is half as fast, 32 no faster. Of 64 small ones (2 x 64 x 32) each takes half the time that it takes of 8."""

Net = TypeVar("Net", bound=nn.Module)


def folded(net: Net) -> Net:
    """A copy of a net for scoring: each batch norm folded into the layer before it, images channels last.

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
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _fold(layer: nn.Conv2d | nn.ConvTranspose2d | nn.Linear, norm: BatchNorm) -> None:
    mean, variance = norm.running_mean, norm.running_var
    statistics = (mean, variance, norm.eps, torch.ones_like(mean), torch.zeros_like(mean))  # it has no affine parameters
    if isinstance(layer, nn.Linear):
        layer.weight, layer.bias = fuse_linear_bn_weights(layer.weight, layer.bias, *statistics)
    else:
        transposed = isinstance(layer, nn.ConvTranspose2d)
        layer.weight, layer.bias = fuse_conv_bn_weights(layer.weight, layer.bias, *statistics, transpose=transposed)


class CpuScores:
    """The scores of a detector's net as a function of scaled images, on one core."""

    def __init__(self, net: nn.Module):
        self.net: Any = folded(net)

    def __call__(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, " batch"]:
        at_once = max(RECORDS_AT_ONCE, NUMBERS_AT_ONCE // x[0].numel())
        return torch.cat([self.net.score(self.net(part)) for part in x.split(at_once)])
