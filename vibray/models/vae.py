"""Spatial ResNet-VAE: its latent is a map, its score how badly a record is reconstructed. With beta = 0 it is an autoencoder."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import with_config
from torch import Tensor, nn

from vibray.config import STRICT, UserError
from vibray.models.backbone import Decoder, Trunk, TrunkConfig, map_shape, per_record

MAX_LOGVAR = 10.0
"""Log variances are kept within +- this, so that exp() stays finite early in training."""


def kl_divergence(mu: Float[Tensor, "batch ..."], logvar: Float[Tensor, "batch ..."]) -> Float[Tensor, " batch"]:
    """KL divergence of N(mu, exp(logvar)) from N(0, 1): the **mean** per dimension, in nats.

    As a sum over thousands of dimensions it would drown the reconstruction error that it is added to.

    Source: Kingma and Welling 2014, "Auto-Encoding Variational Bayes", appendix B, divided by the number of dimensions.
    """
    return per_record((mu**2 + logvar.exp() - logvar - 1) / 2)


@with_config(STRICT)
@dataclass(frozen=True)
class VaeConfig:
    """Spatial variational autoencoder on an image."""

    kind: Literal["vae"] = "vae"
    trunk: TrunkConfig = TrunkConfig()
    latent_channels: int = 64
    """channels of the latent map"""
    beta: float = 0.01
    """weight of the KL divergence (mean per dimension) in the loss; at 0.1 nothing is learnt; 0: an autoencoder, nothing is drawn"""
    warmup_epochs: int = 10
    """epochs over which beta rises from 0 to its value"""
    kl_in_score: float = 0.1
    """weight of the KL divergence (mean per dimension) in the score"""
    residual: Literal["absolute", "excess"] = "absolute"
    """what of an image's difference from its reconstruction is scored; "excess": only where the image is brighter, as faults add energy.
    Training takes the absolute difference either way."""

    def __post_init__(self) -> None:
        if self.beta < 0:
            raise UserError(f"vae: beta must not be negative, not {self.beta}")
        if self.trunk.kind != "resnet18":
            raise UserError("vae: the latent is a map of the image, which only the trunk resnet18 has")


@dataclass
class Decoded:
    """An image, its latent map and what was made of it. `logvar` is None in an autoencoder."""

    image: Float[Tensor, "batch channels height width"]
    reconstruction: Float[Tensor, "batch channels height width"]
    mu: Float[Tensor, "batch latent rows columns"]
    logvar: Float[Tensor, "batch latent rows columns"] | None


class Vae(nn.Module):
    """Trunk, 1x1 convolutions to mu and log variance, transposed convolutions back. The input is a scaled image of any sign.

    Both terms of the loss being means, the evidence lower bound itself would weigh the KL divergence by latent dimensions over pixels times
    the error's scale: about 0.015 for a 2 x 128 x 224 image. With 0.1 every latent dimension fell to its prior on small striped images.

    `beta` is the weight in force; training raises it to the config's. `noise_shape` is the shape of the standard normal noise a record
    needs in training: it is handed in, so that it does not depend on who computes the record. Without it the map is mu itself, so
    scoring is deterministic. Raises UserError for a feature that is no image.
    """

    def __init__(self, config: VaeConfig, in_shape: tuple[int, ...]):
        super().__init__()
        latent_shape = (config.latent_channels, *map_shape(in_shape))
        self.config, self.in_shape = config, in_shape
        self.beta = config.beta
        self.noise_shape = latent_shape if config.beta > 0 else None
        self.trunk = Trunk(config.trunk, in_shape[0])
        self.mu = nn.Conv2d(self.trunk.out_channels, config.latent_channels, kernel_size=1)
        # an autoencoder's would stay without gradient, which distributed training takes for a mistake
        self.logvar = nn.Conv2d(self.trunk.out_channels, config.latent_channels, kernel_size=1) if config.beta > 0 else None
        self.decoder = Decoder(config.latent_channels, config.trunk.width, in_shape)

    def forward(
        self,
        x: Float[Tensor, "batch channels height width"],
        noise: Float[Tensor, "batch latent rows columns"] | None = None,
    ) -> Decoded:
        features = self.trunk.feature_map(x)
        latent = mu = self.mu(features)
        logvar = None if self.logvar is None else self.logvar(features).clamp(-MAX_LOGVAR, MAX_LOGVAR)
        if noise is not None and logvar is not None:
            latent = mu + torch.exp(logvar / 2) * noise
        return Decoded(x, self.decoder(latent), mu, logvar)

    def loss(self, out: Decoded, target: Tensor | None = None) -> Float[Tensor, " batch"]:
        """L1 (mean over pixels) + beta KL (mean over dimensions) of each record."""
        return per_record((out.image - out.reconstruction).abs()) + self.beta * _divergence(out)

    def score(self, out: Decoded) -> Float[Tensor, " batch"]:
        """Residual (mean over pixels) + 0.1 KL (mean over dimensions); higher is more abnormal. `out` is of a forward without noise."""
        return per_record(self.residual(out)) + self.config.kl_in_score * _divergence(out)

    def residual(self, out: Decoded) -> Float[Tensor, "batch channels height width"]:
        """|x - reconstruction|, or its positive part: where in the image a record differs from what was learnt."""
        difference = out.image - out.reconstruction
        return difference.abs() if self.config.residual == "absolute" else difference.clamp(min=0)


def _divergence(out: Decoded) -> Float[Tensor, " batch"]:
    """The KL divergence; 0 in an autoencoder."""
    return out.mu.new_zeros(len(out.mu)) if out.logvar is None else kl_divergence(out.mu, out.logvar)
