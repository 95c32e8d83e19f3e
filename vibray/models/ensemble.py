"""Several detectors as one: members standardised by statistics fitted once on training scores, then fused record by record."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float64
from pydantic import with_config
from torch import Tensor

from vibray.config import STRICT, UserError
from vibray.signal.robust import median_mad


@with_config(STRICT)
@dataclass(frozen=True)
class EnsembleConfig:
    kind: Literal["ensemble"] = "ensemble"
    weights: tuple[tuple[str, float], ...] = (("svdd", 0.6), ("vae", 0.4))
    """Members by name and their weight: 0.6 SVDD + 0.4 VAE as in the original plan; equal weights make the plain mean."""
    fusion: Literal["weighted", "mean", "min", "max"] = "weighted"
    """Of the standardised scores: weighted mean, plain mean, the least abnormal member's or the most abnormal one's."""

    def __post_init__(self) -> None:
        names = [name for name, _ in self.weights]
        if not names or len(set(names)) < len(names):
            raise UserError(f"ensemble: members must have names of their own, not {names}")
        if min(weight for _, weight in self.weights) < 0 or sum(weight for _, weight in self.weights) <= 0:
            raise UserError(f"ensemble: weights must not be negative, and one must be above 0: {dict(self.weights)}")


class Ensemble:
    """Score: fusion over members m of (score_m - median_m) / (1.4826 MAD_m), medians and MADs those of the training scores."""

    def __init__(self, config: EnsembleConfig) -> None:
        self.config = config
        self.members = tuple(name for name, _ in config.weights)
        self.location: Tensor | None = None
        self.scale: Tensor | None = None

    def fit(self, scores: Mapping[str, Float[Tensor, " records"]]) -> None:
        """Takes location and scale of each member from all training scores.

        Raises ValueError where a member is missing or unknown or has no scores, UserError where its scores are not finite or have no spread
        (it has collapsed and can say nothing).
        """
        table = self._table(scores).cpu().numpy()
        if not table.shape[1]:
            raise ValueError("ensemble: there are no training scores to fit it on")
        location, scale = median_mad(table)
        self.load({"location": torch.from_numpy(location), "scale": torch.from_numpy(scale)})

    def fuse(self, scores: Mapping[str, Float[Tensor, " batch"]]) -> Float64[Tensor, " batch"]:
        """The fused score, record by record; the higher, the more abnormal.

        Raises ValueError where a member is missing or unknown, or nothing was fitted or loaded; UserError where a score is not finite.
        """
        if self.location is None or self.scale is None:
            raise ValueError("ensemble: its members are not standardised yet; call fit or load first")
        table = self._table(scores)
        z = (table - self.location.to(table.device)[:, None]) / self.scale.to(table.device)[:, None]
        match self.config.fusion:
            case "weighted":
                weights = torch.tensor([weight for _, weight in self.config.weights], dtype=torch.float64, device=z.device)
                return weights @ z / weights.sum()
            case "mean":
                return z.mean(dim=0)
            case "min":
                return z.min(dim=0).values
            case "max":
                return z.max(dim=0).values

    def state(self) -> dict[str, Tensor]:
        """Location and scale of each member, in the order of the config, for safetensors."""
        if self.location is None or self.scale is None:
            raise ValueError("ensemble: there is nothing to save before fit")
        return {"location": self.location, "scale": self.scale}

    def load(self, state: dict[str, Tensor]) -> None:
        """Takes a saved state. Raises UserError where it is of another number of members, or one of them has collapsed."""
        if any(state[name].shape != (len(self.members),) for name in ("location", "scale")):
            raise UserError(f"ensemble: the saved statistics are of {len(state['location'])} members, the config's are {self.members}")
        for name, spread in zip(self.members, state["scale"].tolist(), strict=True):
            if not spread > 0:
                raise UserError(f"ensemble: half of the training scores of member {name} are the same; it has collapsed, train it again")
        self.location, self.scale = state["location"], state["scale"]

    def _table(self, scores: Mapping[str, Float[Tensor, " batch"]]) -> Float64[Tensor, "member batch"]:
        missing, unknown = [name for name in self.members if name not in scores], [name for name in scores if name not in self.members]
        if missing or unknown:
            raise ValueError(f"ensemble of {', '.join(self.members)}: missing {missing or 'none'}, unknown {unknown or 'none'}")
        for name in self.members:
            if not scores[name].isfinite().all():
                raise UserError(f"ensemble: member {name} has scores that are NaN or infinite")
        return torch.stack([scores[name].to(torch.float64) for name in self.members])


def score_statistics(scores: np.ndarray) -> torch.Tensor:
    """Median and 1.4826 MAD of the training scores: what an ensemble standardises a member by."""
    return torch.tensor(median_mad(scores), dtype=torch.float64)
