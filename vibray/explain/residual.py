"""What a VAE could not give back, where the image itself is told by the record and not by what was put at its ends."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vibray.models.vae import Vae

TOUCHED = 1 / 16
"""Share of a cell from which the end counts: an area maximum sees it. The first of 32 columns of healthy records has 10 to 30 times a
row's usual residual below 200 Hz, 3 times at 500 Hz and no more than others from 600 Hz on, where this ends it."""


def cone_of_influence(rows_hz: Sequence[float], sigma_cycles: float, columns: int, duration_s: float) -> Bool[np.ndarray, "rows columns"]:
    """Cells so near to an end of the record that what was put beyond it tells as much of them as the record does.

    A row at f Hz reaches sqrt(2) sigma to either side, sigma = `sigma_cycles` / f seconds being the width of its wavelet's envelope
    exp(-t^2 / 2 sigma^2): the power of a step at the end has fallen by e^-2 there. A cell of which that is `TOUCHED` is left out.

    Source: Torrence and Compo 1998, "A Practical Guide to Wavelet Analysis", section 3g and table 1: sqrt(2) s for the Morlet wavelet.
    """
    reach = math.sqrt(2) * sigma_cycles / np.asarray(rows_hz, np.float64)[:, None] / duration_s * columns  # in columns
    first = np.arange(columns)
    return reach - np.minimum(first, first[::-1]) >= TOUCHED


@torch.inference_mode()
def residual_map(
    net: Vae, images: Float[Tensor, "batch channels rows columns"], left_out: Bool[np.ndarray, "rows columns"] | None = None
) -> Float[Tensor, "batch rows columns"]:
    """The residual that the VAE scores, averaged over the channels: what it could not give back, by row (Hz) and column (s).

    Its mean over rows and columns is the score without the KL divergence; cells `left_out` are 0 and are taken from it.
    """
    residual = net.residual(net(images)).mean(dim=1)
    return residual if left_out is None else residual * torch.from_numpy(~left_out).to(residual)
