"""What a record has that its model or its sensor's baseline does not expect: the VAE residual map, and the columns that moved."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vibray.models.vae import Vae


@torch.inference_mode()
def residual_map(net: Vae, images: Float[Tensor, "batch channels rows columns"]) -> Float[Tensor, "batch rows columns"]:
    """The residual that the VAE scores, averaged over the channels: what it could not give back, by row (Hz) and column (s).

    Its mean over rows and columns is the score without the KL divergence.
    """
    return net.residual(net(images)).mean(dim=1)


@dataclass(frozen=True)
class Moved:
    """A column against its sensor's own baseline."""

    name: str
    value: float
    location: float
    z: float
    """(value - location) / scale: positive where it rose."""


def moved_columns(
    values: Float[np.ndarray, " columns"] | Float[Tensor, " columns"],
    location: Float[np.ndarray, " columns"] | Float[Tensor, " columns"],
    scale: Float[np.ndarray, " columns"] | Float[Tensor, " columns"],
    names: Sequence[str],
    top: int = 8,
) -> tuple[Moved, ...]:
    """The `top` columns of one record (harmonics, say) that moved furthest from the sensor's robust baseline, furthest first.

    A column whose scale is 0 never changed in the baseline: it has no z-score and is left out, as is one that is not finite.

    Raises ValueError where names and values are not equally many, or a scale is negative.
    """
    x, centre, spread = (np.asarray(v.detach().cpu() if isinstance(v, torch.Tensor) else v, np.float64) for v in (values, location, scale))
    if not len(names) == x.size == centre.size == spread.size:
        raise ValueError(f"{len(names)} names, {x.size} values, {centre.size} locations, {spread.size} scales: they must be equally many")
    if (spread < 0).any():
        raise ValueError(f"column {names[int(np.argmax(spread < 0))]!r} has a negative scale")
    usable = np.flatnonzero((spread > 0) & np.isfinite(x) & np.isfinite(centre) & np.isfinite(spread))
    z = (x[usable] - centre[usable]) / spread[usable]
    order = np.argsort(-np.abs(z), kind="stable")[:top]
    return tuple(Moved(names[int(i)], float(x[i]), float(centre[i]), float(z_i)) for i, z_i in zip(usable[order], z[order], strict=True))
