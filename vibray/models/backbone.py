"""The trunks that the deep models share, without biases: ResNet-18, or filters over time; their batch norm; a decoder."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import with_config
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vibray.config import STRICT, UserError


def _declare_operators() -> torch.library.Library | None:
    """Declares the two operators without whose schemas `import torchvision` fails beside a CPU build of torch.

    torchvision's wheels hold CUDA code only, so their library cannot be loaded there and the operators stay unknown. Nothing here calls
    them. With CUDA the real library loads, and a second declaration would be an error.
    """
    if torch.version.cuda is not None or hasattr(torch.ops.torchvision, "nms"):
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


@lru_cache(maxsize=1)
def _torchvision() -> tuple[Any, torch.library.Library | None]:
    """torchvision's residual block, and the declarations, which live as long as a reference to them does.

    Imported by the first net that is built: it takes 2 s that workers without one need not spend.
    """
    declared = _declare_operators()
    from torchvision.models.resnet import BasicBlock

    return BasicBlock, declared


LAYERS = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")
"""The trunk's parts from the input up, as they are named for unfreezing."""


class BatchNorm(_BatchNorm):
    """Batch norm without affine parameters, over every dimension but the second.

    A scale and shift could map everything to one point, which is what a one-class loss would like best. `reduce`, where it is set, sums
    a tensor over all workers, differentiably: the statistics are then those of the global batch, whatever slice of it lies here, even
    none (SyncBatchNorm does neither on a CPU). `frozen` keeps the running statistics in use and as they are, whatever `train()` says.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def __init__(self, num_features: int):
        super().__init__(num_features, affine=False)
        self.reduce: Callable[[Tensor], Tensor] | None = None
        self.frozen = False

    def train(self, mode: bool = True) -> "BatchNorm":
        return super().train(mode and not self.frozen)

    def _check_input_dim(self, input: Tensor) -> None:
        pass  # any number of dimensions

    def forward(self, input: Tensor) -> Tensor:
        # torch's own refuses a single value a channel, which is what a batch of one record gives a vector
        if not self.training or (self.reduce is None and input.numel() > self.num_features):
            return super().forward(input)
        return self._normalised(input)

    def _normalised(self, x: Tensor) -> Tensor:
        wide = x if x.dtype == torch.float64 else x.float()
        dims = [0, *range(2, x.ndim)]
        shape = [1, -1] + [1] * (x.ndim - 2)
        count = wide.numel() // self.num_features
        mean = wide.sum(dims) / max(count, 1)
        spread = (wide - mean.view(shape)).square().sum(dims)
        # moments are merged in float64: the difference of squares below would cost float32 its digits
        sums = torch.cat([count * mean.double(), spread.double() + count * mean.double().square(), mean.new_tensor([count]).double()])
        sums = sums if self.reduce is None else self.reduce(sums)
        first, second, total = sums.split([self.num_features, self.num_features, 1])
        total = total.detach().clamp_min(1)
        mean = first / total
        variance = (second / total - mean.square()).clamp_min(0)
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_((variance * total / (total - 1).clamp_min(1)).to(self.running_var.dtype), self.momentum)
        scale = (variance + self.eps).rsqrt()
        return ((wide - mean.to(wide.dtype).view(shape)) * scale.to(wide.dtype).view(shape)).to(x.dtype)


def batch_norms(net: nn.Module) -> Iterator[BatchNorm]:
    """Every BatchNorm of a net."""
    return (module for module in net.modules() if isinstance(module, BatchNorm))


def freeze_statistics(net: nn.Module, frozen: bool = True) -> None:
    """Freezes the running statistics of a net's batch norms, or lets them move again from the next `train()` on."""
    for norm in batch_norms(net):
        norm.frozen = frozen
        norm.train(norm.training)


@with_config(STRICT)
@dataclass(frozen=True)
class TrunkConfig:
    """The encoder: its kind, its width and, for the control alone, its biases."""

    kind: Literal["resnet18", "time"] = "resnet18"
    """resnet18 slides over both axes and averages; time has filters as high as the image, which slide over time alone"""
    width: int = 64
    """resnet18: channels of the first stage, the embedding has 8 times as many; time: number of filters, the embedding has 3 times as
    many"""
    bias: bool = False
    """gives every layer a bias: the control net that is expected to collapse under a one-class loss"""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise UserError(f"trunk: width must be at least 1, not {self.width}")


class Trunk(nn.Module):
    """ResNet-18 of any width for images of any number of channels: no bias, no affine batch norm, leaky ReLU.

    Source: He et al. 2016, "Deep Residual Learning for Image Recognition"; bias-free and unbounded as Ruff et al. 2018 ask
    ("Deep One-Class Classification", propositions 2 and 3).
    """

    def __init__(self, config: TrunkConfig, in_channels: int):
        super().__init__()
        width = config.width
        self.out_channels = 8 * width
        self.conv1 = nn.Conv2d(in_channels, width, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = BatchNorm(width)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = _stage(width, width, stride=1)
        self.layer2 = _stage(width, 2 * width, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, stride=2)
        self.layer4 = _stage(4 * width, 8 * width, stride=2)
        for module in list(self.modules()):
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if config.bias:
                    module.bias = nn.Parameter(torch.zeros(module.out_channels))
            for name, child in module.named_children():
                if isinstance(child, nn.ReLU):
                    setattr(module, name, nn.LeakyReLU(inplace=True))

    def feature_map(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch features rows columns"]:
        """The last stage's map: 8 * width channels, each side a 32nd of the image's, rounded up."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch features"]:
        """The map averaged over the image."""
        return self.feature_map(x).mean(dim=(2, 3))


def _stage(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    downsample = None
    if stride != 1 or in_channels != channels:
        downsample = nn.Sequential(nn.Conv2d(in_channels, channels, kernel_size=1, stride=stride, bias=False), BatchNorm(channels))
    block, _ = _torchvision()
    first = block(in_channels, channels, stride, downsample, norm_layer=BatchNorm)
    return nn.Sequential(first, block(channels, channels, norm_layer=BatchNorm))


class TimeTrunk(nn.Module):
    """Filters over time that each see all rows and channels of three columns, leaky ReLU, and how each filter's output is distributed
    over the record: mean, maximum, standard deviation.

    A row of a time-frequency image is a frequency, and a pattern two rows higher another vibration: filters that slide over frequency, and
    an average over it, throw away what tells faults apart. There is no bias and nothing that is normalised: what is scaled is the image.
    """

    def __init__(self, config: TrunkConfig, in_shape: tuple[int, ...]):
        super().__init__()
        self.out_channels = 3 * config.width
        self.conv1 = nn.Conv1d(in_shape[0] * in_shape[1], config.width, kernel_size=3, padding=1, bias=config.bias)
        self.relu = nn.LeakyReLU(inplace=True)
        if config.bias:
            nn.init.zeros_(self.conv1.bias)  # type: ignore[arg-type]
        self.bn1, self.layer1, self.layer2, self.layer3, self.layer4 = (nn.Identity() for _ in range(5))  # for unfreezing by name

    def feature_map(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch features 1 width"]:
        """The filters' outputs over time, then their maxima and standard deviations, each the same in every column."""
        y = self.relu(self.conv1(x.flatten(1, 2)))
        # the root of an exact 0 has no gradient
        spread = (y.var(dim=2, correction=0, keepdim=True) + 1e-8).sqrt()
        return torch.cat([y, y.amax(dim=2, keepdim=True).expand_as(y), spread.expand_as(y)], dim=1)[:, :, None]

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch features"]:
        """Mean, maximum and standard deviation of each filter."""
        return self.feature_map(x).mean(dim=(2, 3))


def build_trunk(config: TrunkConfig, in_shape: tuple[int, ...]) -> Trunk | TimeTrunk:
    """The trunk of a config for images (channels, height, width). Raises UserError for a shape that is no image."""
    map_shape(in_shape)
    return TimeTrunk(config, in_shape) if config.kind == "time" else Trunk(config, in_shape[0])


def map_shape(in_shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of the trunk's map of an image (channels, height, width): each a 32nd, rounded up.

    Raises UserError for a shape that is no image.
    """
    if len(in_shape) != 3:
        raise UserError(f"an image feature of shape (channels, rows, columns) is needed, not {in_shape}: choose an image, such as the CWT")
    return -(-in_shape[1] // 32), -(-in_shape[2] // 32)


class Decoder(nn.Module):
    """From a map of the trunk's size back to an image: five transposed convolutions, each doubling both sides, then a crop.

    The narrow half at full resolution keeps it at a quarter of the trunk's cost. The last layer has a bias: the decoder is not part of
    the map that a one-class loss could collapse.
    """

    def __init__(self, in_channels: int, width: int, out_shape: tuple[int, ...]):
        super().__init__()
        self.size = out_shape[1:]
        channels = [in_channels, 4 * width, 2 * width, width, max(width // 2, 4)]
        layers: list[nn.Module] = []
        for before, after in pairwise(channels):
            layers += [nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=False), BatchNorm(after), nn.LeakyReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(channels[-1], out_shape[0], 4, stride=2, padding=1))

    def forward(self, x: Float[Tensor, "batch features rows columns"]) -> Float[Tensor, "batch channels height width"]:
        height, width = self.size
        return self.layers(x)[:, :, :height, :width]


def per_record(values: Float[Tensor, "batch ..."]) -> Float[Tensor, " batch"]:
    """Mean over every dimension but the first."""
    return values.flatten(1).mean(dim=1)
