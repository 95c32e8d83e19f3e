"""Deep SVDD: normal records are mapped close to a fixed centre; the squared distance to it, or to the features' mean, is the score."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import with_config
from torch import Tensor, nn

from vibray.config import STRICT, UserError
from vibray.models.backbone import BatchNorm, Decoder, TrunkConfig, build_trunk, map_shape, per_record


def soft_boundary_loss(distance: Float[Tensor, " batch"], radius: Float[Tensor, ""], nu: float) -> Float[Tensor, " batch"]:
    """Soft-boundary Deep SVDD loss of each record, R^2 + max(0, d - R^2) / nu; its mean is the paper's.

    `distance` is squared, as is everything compared with `radius**2`. R^2 belongs to no record and is added to each alike. `nu` bounds
    from above the fraction of training records outside.

    Source: Ruff et al. 2018, "Deep One-Class Classification", eq. 3, without weight decay (the optimiser has it).
    """
    return radius**2 + (distance - radius**2).clamp_min(0) / nu


def hypersphere_loss(distance: Float[Tensor, " batch"], outlier: Bool[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Hypersphere classification loss of each record: h where it is no outlier, else -ln(1 - exp(-h)), h = sqrt(d + 1) - 1.

    `distance` is squared. exp(-h) reads as the probability of being normal; the loss of an outlier is at most 13.8, at the centre itself.

    Source: Ruff et al. 2020, "Rethinking Assumptions in Deep Anomaly Detection", the HSC objective with the pseudo-Huber distance.
    """
    h = (distance + 1).sqrt() - 1
    return torch.where(outlier, -(1e-6 - torch.expm1(-h)).log(), h)


@with_config(STRICT)
@dataclass(frozen=True)
class DeepSvddConfig:
    """Deep SVDD on an image."""

    kind: Literal["deep_svdd"] = "deep_svdd"
    trunk: TrunkConfig = TrunkConfig()
    hidden: int = 256
    """size of the layer between the trunk and the embedding"""
    latent_dim: int = 128
    """size of the embedding"""
    objective: Literal["one-class", "soft-boundary", "hypersphere"] = "one-class"
    """one-class: mean squared distance; soft-boundary: only what lies outside the radius counts; hypersphere: records labelled abnormal
    are told from the others by their distance, which needs injected faults (the recipe's `exposure`) or labels"""
    metric: Literal["distance", "mahalanobis"] = "distance"
    """the score: squared distance of the embedding to the centre, or squared Mahalanobis distance of the trunk's features, whose mean and
    covariance are fitted after training, trimmed; the projection then only serves training"""
    nu: float = 0.05
    """share of the training records that may lie outside the radius"""
    warmup_epochs: int = 10
    """epochs before the radius is first set (soft-boundary)"""

    def __post_init__(self) -> None:
        if not 0 < self.nu < 1:
            raise UserError(f"deep_svdd: nu is a share and must lie between 0 and 1, not {self.nu}")
        if self.objective == "soft-boundary" and self.metric != "distance":
            raise UserError("deep_svdd: the soft boundary is a radius around the centre: it goes with metric distance")


@dataclass
class Embedded:
    """What Deep SVDD makes of a batch."""

    embedding: Float[Tensor, "batch latent"]
    features: Float[Tensor, "batch features"] | None = None
    """the trunk's, before the projection; only a Mahalanobis score needs them"""


class DeepSvdd(nn.Module):
    """Trunk, projection, and the sphere that was fitted: the buffers `center` and `radius` (not squared; 0 until it is set).

    With metric="mahalanobis" also the buffers `location` and `whitening`: the score is |(features - location) whitening|^2.
    `in_shape` is (channels, height, width). Raises UserError for a feature that is no image.

    Source: Ruff et al. 2018, "Deep One-Class Classification".
    """

    noise_shape: tuple[int, ...] | None = None
    center: Tensor
    radius: Tensor
    location: Tensor
    whitening: Tensor

    def __init__(self, config: DeepSvddConfig, in_shape: tuple[int, ...]):
        super().__init__()
        self.config, self.in_shape = config, in_shape
        self.trunk = build_trunk(config.trunk, in_shape)
        bias = config.trunk.bias
        self.projection = nn.Sequential(
            nn.Linear(self.trunk.out_channels, config.hidden, bias=bias),
            BatchNorm(config.hidden),
            nn.LeakyReLU(inplace=True),
            nn.Linear(config.hidden, config.latent_dim, bias=bias),
        )
        self.register_buffer("center", torch.zeros(config.latent_dim))
        self.register_buffer("radius", torch.zeros(()))
        if config.metric == "mahalanobis":
            self.register_buffer("location", torch.zeros(self.trunk.out_channels))
            self.register_buffer("whitening", torch.eye(self.trunk.out_channels))

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Embedded:
        features = self.trunk(x)
        return Embedded(self.projection(features), features)

    def distance(self, out: Embedded) -> Float[Tensor, " batch"]:
        """Squared distance of the embedding to the centre, which training is about."""
        return (out.embedding - self.center).square().sum(dim=1)

    def score(self, out: Embedded) -> Float[Tensor, " batch"]:
        """Squared distance by the config's metric: the higher, the more abnormal."""
        if self.config.metric == "mahalanobis":
            assert out.features is not None
            return ((out.features - self.location) @ self.whitening).square().sum(dim=1)
        return self.distance(out)

    def loss(self, out: Embedded, target: Tensor | None = None) -> Float[Tensor, " batch"]:
        """Loss of each record under the config's objective; one-class is the squared distance (Ruff et al. 2018, eq. 4).

        `target` are labels as schema.py has them; only hypersphere asks for them, and takes what is not labelled abnormal for normal.
        """
        distance = self.distance(out)
        match self.config.objective:
            case "soft-boundary":
                return soft_boundary_loss(distance, self.radius, self.config.nu)
            case "hypersphere":
                assert target is not None, "the objective hypersphere needs labels or injected faults"
                return hypersphere_loss(distance, target == 1)
            case "one-class":
                return distance


@dataclass
class Reconstructed:
    """An image and what an autoencoder made of it."""

    image: Float[Tensor, "batch channels height width"]
    reconstruction: Float[Tensor, "batch channels height width"]


class Autoencoder(nn.Module):
    """A Deep SVDD net and a decoder from its embedding, for pretraining; the decoder is dropped afterwards.

    A linear decoder to the pixels of a 3 x 224 x 224 image would have 77 M weights against 11 M in the encoder; this one has under 2 M.
    """

    noise_shape: tuple[int, ...] | None = None

    def __init__(self, encoder: DeepSvdd):
        super().__init__()
        width = encoder.config.trunk.width
        self.map_shape = (4 * width, *map_shape(encoder.in_shape))
        self.encoder = encoder
        self.unproject = nn.Linear(encoder.config.latent_dim, math.prod(self.map_shape), bias=False)
        self.decoder = Decoder(4 * width, width, encoder.in_shape)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Reconstructed:
        embedding = self.encoder(x).embedding
        return Reconstructed(x, self.decoder(self.unproject(embedding).unflatten(1, self.map_shape)))

    def loss(self, out: Reconstructed, target: Tensor | None = None) -> Float[Tensor, " batch"]:
        """Mean squared error of each record."""
        return per_record((out.reconstruction - out.image).square())

    def score(self, out: Reconstructed) -> Float[Tensor, " batch"]:
        return self.loss(out)
