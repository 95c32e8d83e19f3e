"""Classifier of faults: is a record abnormal, and which fault is it? Two questions, asked of one head."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import with_config
from torch import Tensor, nn
from torch.nn import functional as F

from vibray.config import STRICT, UserError
from vibray.models.backbone import LAYERS, TrunkConfig, build_trunk, freeze_statistics

NO_FAULT, UNKNOWN_FAULT = -1, -2
"""In place of a fault's number: the record is normal; it is abnormal and none of the faults is plain."""


@with_config(STRICT)
@dataclass(frozen=True)
class ClassifierConfig:
    """Classifier on an image, a vector or both."""

    kind: Literal["classifier"] = "classifier"
    inputs: Literal["image", "vector", "union"] = "image"
    """what the head sees: the encoder of an image, a vector, or the two side by side"""
    trunk: TrunkConfig = TrunkConfig()
    """the encoder; as wide as that of the run it is taken from"""
    hidden: tuple[int, int] = (256, 64)
    """sizes of the head's hidden layers"""
    dropout: tuple[float, float] = (0.3, 0.2)
    """share of the hidden values left out in training, by layer"""

    def __post_init__(self) -> None:
        if not all(0 <= share < 1 for share in self.dropout):
            raise UserError(f"classifier: a dropout is a share and must lie in [0, 1), not {self.dropout}")


@dataclass
class Logits:
    """Uncalibrated answers. `fault` has no columns where no fault is labelled."""

    abnormal: Float[Tensor, " batch"]
    fault: Float[Tensor, "batch faults"]


@dataclass
class Diagnosis:
    """Calibrated answers. `fault` is a fault's number, NO_FAULT or UNKNOWN_FAULT."""

    abnormal_probability: Float[Tensor, " batch"]
    fault_probability: Float[Tensor, "batch faults"]
    fault: Int[Tensor, " batch"]


class Classifier(nn.Module):
    """Encoder (the trunk before any projection, 8 * width values) and a head 512-256-64-(1 + faults) with dropout.

    The target is [batch, 2] of int64: label (0 normal, 1 abnormal, -1 not known) and the number of the fault (-1 not known). Buffers,
    fitted by training: `temperature` (abnormal, fault), `unknown_below` (the fault probability under which a fault is called unknown),
    `label_weight` and `fault_weight` (class balance). `noise_shape` is what a record needs in training for its dropout: standard normal
    noise, handed in, so that it does not depend on who computes the record; without it nothing is left out.

    Raises UserError where the shapes handed in are not those that `config.inputs` needs.
    """

    temperature: Tensor
    unknown_below: Tensor
    label_weight: Tensor
    fault_weight: Tensor

    def __init__(
        self,
        config: ClassifierConfig,
        num_faults: int,
        image_shape: tuple[int, ...] | None = None,
        vector_size: int | None = None,
    ):
        super().__init__()
        needs = {"image": (True, False), "vector": (False, True), "union": (True, True)}[config.inputs]
        if needs != (image_shape is not None, vector_size is not None):
            raise UserError(f"a classifier on inputs {config.inputs!r} was given image {image_shape} and vector {vector_size}")
        self.config, self.num_faults = config, num_faults
        self.encoder = None
        size = vector_size or 0
        if image_shape is not None:
            self.encoder = build_trunk(config.trunk, image_shape)
            size += self.encoder.out_channels
        self.noise_shape = (sum(config.hidden),)
        self.head = nn.ModuleList(nn.Linear(*sizes) for sizes in pairwise((size, *config.hidden, 1 + num_faults)))
        self.register_buffer("temperature", torch.ones(2))
        self.register_buffer("unknown_below", torch.tensor(0.5))
        self.register_buffer("label_weight", torch.ones(2))
        self.register_buffer("fault_weight", torch.ones(num_faults))

    def forward(
        self,
        x: Float[Tensor, "batch ..."] | tuple[Float[Tensor, "batch ..."], Float[Tensor, "batch dims"]],
        noise: Float[Tensor, "batch hidden"] | None = None,
    ) -> Logits:
        """`x` is the image, the vector, or for a union (image, vector)."""
        image, vector = x if isinstance(x, tuple) else (x, x)
        parts = [] if self.encoder is None else [self.encoder(image)]
        h = torch.cat([*parts, vector] if self.config.inputs != "image" else parts, dim=1)
        noises = [None, None] if noise is None else noise.split(self.config.hidden, dim=1)
        for layer, share, drawn in zip(self.head[:-1], self.config.dropout, noises, strict=True):
            h = dropout(F.relu(layer(h)), share, drawn)
        logits = self.head[-1](h)
        return Logits(logits[:, 0], logits[:, 1:])

    def loss(self, out: Logits, target: Int[Tensor, "batch 2"]) -> Float[Tensor, " batch"]:
        """Binary cross-entropy where the label is known, plus cross-entropy over the faults where a fault is; each weighed by its class."""
        label, fault = target[:, 0], target[:, 1]
        bce = F.binary_cross_entropy_with_logits(out.abnormal, label.clamp_min(0).to(out.abnormal.dtype), reduction="none")
        loss = torch.where(label >= 0, self.label_weight[label.clamp_min(0)] * bce, 0.0)
        if self.num_faults == 0:
            return loss
        ce = F.cross_entropy(out.fault, fault.clamp_min(0), reduction="none")
        return loss + torch.where(fault >= 0, self.fault_weight[fault.clamp_min(0)] * ce, 0.0)

    def score(self, out: Logits) -> Float[Tensor, " batch"]:
        """Calibrated probability that a record is abnormal."""
        return torch.sigmoid(out.abnormal / self.temperature[0])

    def diagnose(self, out: Logits) -> Diagnosis:
        """Calibrated probabilities, and the fault where a record is abnormal (probability of at least .5)."""
        abnormal = self.score(out)
        faults = torch.softmax(out.fault / self.temperature[1], dim=1)
        named = torch.full_like(abnormal, UNKNOWN_FAULT, dtype=torch.int64)
        if self.num_faults:
            highest, number = faults.max(dim=1)
            named = torch.where(highest >= self.unknown_below, number, named)
        return Diagnosis(abnormal, faults, torch.where(abnormal >= 0.5, named, NO_FAULT))

    def freeze(self) -> None:
        """Freezes the whole encoder, its batch norms included; the head stays free."""
        self._set_trainable(LAYERS if self.encoder is not None else (), False)

    def unfreeze(self, names: Iterable[str]) -> None:
        """Lets the named parts of the encoder move, their batch norms' statistics included. Raises UserError for a name it has not."""
        self._set_trainable(names, True)

    def _set_trainable(self, names: Iterable[str], trainable: bool) -> None:
        for name in names:
            if self.encoder is None or name not in LAYERS:
                raise UserError(f"the encoder has no part {name!r}: choose among {', '.join(LAYERS)}, on an image")
            part = getattr(self.encoder, name)
            part.requires_grad_(trainable)
            freeze_statistics(part, not trainable)


def dropout(h: Float[Tensor, "batch dims"], share: float, noise: Float[Tensor, "batch dims"] | None) -> Float[Tensor, "batch dims"]:
    """Leaves out the values whose standard normal noise lies below the `share` quantile and scales the others up."""
    if noise is None or share == 0:
        return h
    kept = noise > torch.special.ndtri(torch.tensor(share, dtype=torch.float64)).item()
    return h * kept / (1 - share)
