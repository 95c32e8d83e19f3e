"""Deep SAD: Deep SVDD with a few labels. Known normals are drawn to the centre, known faults are pushed away from it."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import with_config
from torch import Tensor

from vibray.config import STRICT, UserError
from vibray.models.backbone import TrunkConfig
from vibray.models.deep_svdd import DeepSvdd, DeepSvddConfig, Embedded

# labels as in schema.py: 0 normal, 1 abnormal, -1 undecided


def semi_supervised(label: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
    """The paper's y of a label: normal (0) is +1, abnormal (1) is -1, undecided (-1) is 0.

    Raises ValueError for any other label.
    """
    if not torch.isin(label, label.new_tensor([-1, 0, 1])).all():
        raise ValueError("a label is 0 (normal), 1 (abnormal) or -1 (undecided)")
    return torch.where(label == 0, 1, torch.where(label == 1, -1, 0))


def deep_sad_loss(distance: Float[Tensor, " batch"], y: Int[Tensor, " batch"], eps: float, ceiling: float) -> Float[Tensor, " batch"]:
    """Deep SAD loss of each record: d where y is 0 or +1, 1 / (d + eps), at most `ceiling`, where y is -1. `distance` is squared.

    Source: Ruff et al. 2020, "Deep Semi-Supervised Anomaly Detection", eq. 7; how much labels count is left to the records' weights.
    """
    return torch.where(y == -1, (distance + eps).reciprocal().clamp_max(ceiling), distance)


@with_config(STRICT)
@dataclass(frozen=True)
class DeepSadConfig:
    """Deep SAD on an image."""

    kind: Literal["deep_sad"] = "deep_sad"
    trunk: TrunkConfig = TrunkConfig()
    hidden: int = 256
    """size of the layer between the trunk and the embedding"""
    latent_dim: int = 128
    """size of the embedding"""
    objective: Literal["inverse", "hypersphere"] = "inverse"
    """inverse: the paper's 1 / distance of a known fault; hypersphere: as in deep_svdd.py, which injected faults may join"""
    metric: Literal["distance", "mahalanobis"] = "distance"
    """the score, as in deep_svdd.py"""
    label_weight: float = 1.0
    """weight of a record that a person labelled, beside 1 of an unlabelled one (the paper's eta)"""
    nu: float = 0.05
    """share of the training records that lie outside the radius"""
    eps: float = 1e-6
    """added to the squared distance of a known fault before it is inverted"""
    ceiling: float = 1e3
    """largest loss of a known fault; closer to the centre than its inverse nothing pushes the record away"""

    def __post_init__(self) -> None:
        if not self.label_weight > 0:
            raise UserError(f"deep_sad: label_weight must be above 0, not {self.label_weight}")


class DeepSad(DeepSvdd):
    """A Deep SVDD net whose loss knows labels. `loss` takes them as schema.py has them; without them every record is unlabelled."""

    def __init__(self, config: DeepSadConfig, in_shape: tuple[int, ...]):
        super().__init__(
            DeepSvddConfig(
                trunk=config.trunk,
                hidden=config.hidden,
                latent_dim=config.latent_dim,
                objective="hypersphere" if config.objective == "hypersphere" else "one-class",
                metric=config.metric,
                nu=config.nu,
            ),
            in_shape,
        )
        self.eps, self.ceiling = config.eps, config.ceiling

    def loss(self, out: Embedded, target: Tensor | None = None) -> Float[Tensor, " batch"]:
        if self.config.objective == "hypersphere":
            return super().loss(out, target)
        distance = self.distance(out)
        return distance if target is None else deep_sad_loss(distance, semi_supervised(target), self.eps, self.ceiling)
