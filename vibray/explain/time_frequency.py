"""Where in a record, by time and frequency, the columns of its vector have their energy from."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from vibray.signal.stft import stft_power
from vibray.signal.waveform import centred

BIN_S = 0.125
"""Length of a frame: bins of 8 Hz tell the lines of the mains apart, 50 Hz and even their sidebands."""

HOPS = 4
"""Frames that begin within the length of one."""

ROWS = 256
"""Rows of the plane at most: neighbouring bins are taken together."""


@dataclass(frozen=True)
class Column:
    """What a column of a vector looks at."""

    low_hz: float
    high_hz: float
    """its band; a line is a band of no width"""
    order: float
    """the column is ln of a power (1), of an amplitude (2) or of something that tells no level (0)"""


def plane_hz(sample_rate_hz: float, num_samples: int) -> tuple[int, tuple[float, ...]]:
    """Samples of a frame, and the frequencies of the plane's rows."""
    window = min(1 << round(math.log2(BIN_S * sample_rate_hz)), 1 << (num_samples.bit_length() - 2))
    bins, width = window // 2, sample_rate_hz / window
    taken = max(1, bins // ROWS)
    return window, tuple(((i + 0.5) * taken + 0.5) * width for i in range(bins // taken))


def plane(waveforms: Float[Tensor, "batch samples"], sample_rate_hz: float) -> Float[Tensor, "batch rows frames"]:
    """Power of each record by frequency and time, its mean removed, in Hann frames of about 1/8 s, a quarter of one apart."""
    window, rows_hz = plane_hz(sample_rate_hz, waveforms.shape[-1])
    hop = window // HOPS
    # mirrored at both ends, so that the frames' middles divide the record into equal columns
    extended = pad(centred(waveforms), ((window - hop) // 2,) * 2, mode="reflect")
    power = stft_power(extended, window, hop)[..., 1:]
    taken = window // 2 // len(rows_hz)
    return power.unflatten(-1, (len(rows_hz), taken)).mean(-1).transpose(1, 2)


def over_time(
    shares: Float[Tensor, "batch columns"],
    risen: Float[Tensor, "batch columns"],
    columns: Sequence[Column | None],
    power: Float[Tensor, "batch rows frames"],
    rows_hz: Sequence[float],
) -> Float[Tensor, "batch rows frames"]:
    """The shares of the columns that have risen, each in its band where the record has more energy than is usual there.

    `risen` is a column's value less its sensor's median, before any limit. A column d above its median has e^(order d) times its usual
    power (a column of order 0: as much as usual); a cell of its band has of its share as much as it has of the power beyond that. What
    is missing cannot be pointed at: a column that fell, or that has no frequency (None), is nowhere.
    """
    hz = torch.as_tensor(rows_hz, dtype=power.dtype)
    half = (hz[1] - hz[0]) / 2
    found = torch.zeros_like(power)
    for i, column in enumerate(columns):
        if column is None or column.low_hz > hz[-1] + half:
            continue
        # a row counts by what of it lies in the band; a line has the row that it stands in, or both beside it
        low, high = min(column.low_hz, column.high_hz - half.item()), max(column.high_hz, column.low_hz + half.item())
        overlap = (torch.minimum(hz + half, torch.tensor(high)) - torch.maximum(hz - half, torch.tensor(low))).clamp(min=0)
        rows = overlap.nonzero()[:, 0]
        if not len(rows):
            continue
        weight = overlap[rows, None] / overlap.sum()
        own = power[:, rows] * weight
        usual = own.sum(1).mean(1) * torch.exp(-column.order * risen[:, i].clamp(min=0)).to(power.dtype)
        excess = (own - usual[:, None, None] * weight).clamp(min=0)
        told = torch.where(risen[:, i] > 0, shares[:, i], 0).to(power.dtype)
        found[:, rows] += told[:, None, None] * excess / excess.sum((1, 2), keepdim=True).clamp(min=torch.finfo(power.dtype).tiny)
    return found
