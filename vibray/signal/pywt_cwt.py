"""pywt.cwt's numbers, without pywt's work: its filters made once, and applied only where an image looks."""

import math
from collections.abc import Sequence

import numpy as np
import pywt
import torch
from jaxtyping import Float, Float64, Inexact, Int64
from torch import Tensor

from vibray.signal.waveform import fast_length

PRECISION = 12
"""pywt.cwt's own default: its table of the integrated wavelet has 2^12 points. The table is coarse (11 % of relative L2 away from 2^20
points on white noise), but the numbers of pywt contain that error, so these do."""

BLOCK = 128
"""Samples of a block of the product, about: longer ones multiply zeros of the short filters, shorter ones run slower."""

MIN_PERIODS = 4
"""A pattern of columns that comes fewer times in a record is not worth its products."""

MAX_PATTERN = 64
"""Nor is one of more columns."""

FFT_ELEMENTS = 1 << 21
"""Values of one inverse FFT of the bank: 8 MB, and three times that beside it."""


def wavelet_filters(wavelet: str, scales: Sequence[float], cut: float | None = None) -> list[tuple[int, Inexact[np.ndarray, " taps"]]]:
    """pywt.cwt as a filter a scale: (first, w) with coefficient[t] = sum_i w[i] x[t + first + i], x zero outside the record.

    w = sqrt(s) diff(integrated wavelet at the steps of 1 / s), reversed; complex for a complex wavelet, else real; in float64.
    `cut`: only the taps within `cut` scales of the middle. The outermost two are not small in pywt, whose integral neither begins nor ends
    at 0: without them an image is off by 1e-4, wherever the cut is.
    Source: pywt/_cwt.py, method "conv": convolve, differentiate, keep the middle.
    """
    table, x = pywt.integrate_wavelet(wavelet, precision=PRECISION)  # type: ignore[misc]
    table = np.conj(table)
    step = x[1] - x[0]
    filters = []
    for scale in scales:
        at = (np.arange(scale * (x[-1] - x[0]) + 1) / (scale * step)).astype(int)
        h = table[at[at < len(table)]]  # pywt reverses it for its convolution: here, as a correlation, it stays
        w = math.sqrt(scale) * np.diff(h, prepend=0, append=0)
        first = (len(h) - 2) // 2 + 1 - len(h)
        if cut is not None:
            dropped = max(0, math.ceil(-first - cut * scale))
            first, w = first + dropped, w[dropped : len(w) - dropped]
        filters.append((first, w))
    return filters


class PywtScalogram:
    """|pywt.cwt(x, scales, wavelet)|, read along time as a bilinear resize to `columns` reads it: two neighbouring samples a column.

    The columns of an image repeat every p samples where N / columns = p / q in lowest terms (8192 / 224 = 256 / 7): all records' columns
    are then one block product with the filters, a block of samples at a time, shorter filters joining as the blocks come nearer to the
    middle. Elsewhere each scale is an inverse FFT. Both are float32; the filters are megabytes, made once.
    """

    def __init__(
        self, wavelet: str, scales: Sequence[float], num_samples: int, columns: int, device: torch.device, cut: float | None = None
    ) -> None:
        for scale, (_, w) in zip(scales, filters := wavelet_filters(wavelet, scales, cut), strict=True):
            if len(w) < 3:
                raise ValueError(f"scale {scale:g} is too small for {wavelet}: pywt.cwt refuses it")
        low, weight = bilinear_taps(num_samples, columns)
        pattern = _pattern(low, num_samples, columns)
        self._columns = (
            _Bank(filters, num_samples, low, weight, device)
            if pattern is None
            else _Blocks(filters, num_samples, columns, pattern, low, weight, device)
        )

    def __call__(self, waveforms: Float[Tensor, "batch samples"]) -> Float[Tensor, "scales columns batch"]:
        """The magnitudes; waveforms in float32, at the scale and offset that pywt would be given them."""
        return self._columns(waveforms.float())


def bilinear_taps(size: int, target: int) -> tuple[Int64[np.ndarray, " target"], Float64[np.ndarray, " target"]]:
    """Bilinear resize, half-pixel centres, borders clamped: pixel i is (1 - weight) x[low] + weight x[min(low + 1, size - 1)]."""
    place = np.clip((np.arange(target) + 0.5) * (size / target) - 0.5, 0, size - 1)
    low = np.minimum(np.floor(place).astype(np.int64), size - 1)
    return low, place - low


def _pattern(low: Int64[np.ndarray, " columns"], num_samples: int, columns: int) -> tuple[int, int] | None:
    """(samples, columns) of the shortest useful pattern of columns, or None where there is none."""
    common = math.gcd(num_samples, columns)
    samples, count = num_samples // common, columns // common
    repeat = max(1, min(common // MIN_PERIODS, round(BLOCK / samples), MAX_PATTERN // count))
    while common % repeat:
        repeat -= 1
    samples, count = samples * repeat, count * repeat
    periods = num_samples // samples
    if periods < MIN_PERIODS or count > MAX_PATTERN:
        return None
    # at the borders of an image larger than the record, places are clamped out of the pattern
    regular = (low.reshape(periods, count) == low[:count] + samples * np.arange(periods)[:, None]).all()
    return (samples, count) if regular else None


class _Blocks:
    """Columns that repeat every `period` samples, as products of frames of the record with blocks of the filters."""

    def __init__(
        self,
        filters: list[tuple[int, np.ndarray]],
        num_samples: int,
        columns: int,
        pattern: tuple[int, int],
        low: np.ndarray,
        weight: np.ndarray,
        device: torch.device,
    ) -> None:
        self.period, self.num_residues = pattern
        self.residues = [int(r) for r in low[: self.num_residues]]
        self.num_periods = num_samples // self.period
        self.width = self.period // max(1, round(self.period / BLOCK))
        # the second sample of a column is the first one's neighbour: its filter is the same, a sample later
        first = min(f for f, _ in filters)
        num_blocks = math.ceil((max(f + len(w) for f, w in filters) + 1 - first) / self.width)
        self.num_frames = self.num_periods + math.ceil(num_blocks * self.width / self.period)
        self.left, self.right = max(0, -first), max(0, self.num_frames * self.period + max(self.residues) + first - num_samples)
        self.start = max(0, first)
        # longest filters first: those that reach into a block are the first so many
        self.order = sorted(range(len(filters)), key=lambda i: -len(filters[i][1]))
        parts = 2 if any(np.iscomplexobj(w) for _, w in filters) else 1
        dense = np.zeros((len(filters), 2, parts, num_blocks * self.width))
        for row, i in enumerate(self.order):
            f, w = filters[i]
            for tap in (0, 1):
                at = slice(f - first + tap, f - first + tap + len(w))
                dense[row, tap, 0, at] = np.real(w)
                if parts == 2:
                    dense[row, tap, 1, at] = np.imag(w)
        blocks = dense.reshape(len(filters), 2, parts, num_blocks, self.width)
        reach = [int(np.flatnonzero(blocks[:, :, :, b].any(axis=(1, 2, 3)))[-1:].sum()) + 1 for b in range(num_blocks)]
        self.blocks = [
            torch.from_numpy(np.ascontiguousarray(blocks[: reach[b], :, :, b])).flatten(0, 2).float().to(device) for b in range(num_blocks)
        ]
        self.shape = (len(filters), 2, parts)
        self.inverse = torch.from_numpy(np.argsort(self.order)).to(device) if self.order != list(range(len(filters))) else None
        self.weight = torch.from_numpy(weight).float().to(device)[:, None]
        self.columns = columns

    def __call__(self, waveforms: Float[Tensor, "batch samples"]) -> Float[Tensor, "scales columns batch"]:
        batch = len(waveforms)
        padded = torch.nn.functional.pad(waveforms, (self.left, self.right))
        frames = waveforms.new_empty(self.num_frames, self.num_residues, batch, self.period)
        for i, residue in enumerate(self.residues):
            begin = self.start + residue
            view = padded[:, begin : begin + self.num_frames * self.period].unflatten(-1, (self.num_frames, self.period))
            frames[:, i] = view.transpose(0, 1)
        out = waveforms.new_zeros(math.prod(self.shape), self.num_periods * self.num_residues * batch)
        for b, block in enumerate(self.blocks):
            frame, offset = divmod(b * self.width, self.period)
            samples = frames[frame : frame + self.num_periods, ..., offset : offset + self.width]
            out[: len(block)].addmm_(block, samples.flatten(0, 2).T)
        taps = out.unflatten(0, self.shape)
        magnitude = taps[:, :, 0].abs_() if self.shape[2] == 1 else torch.hypot(taps[:, :, 0], taps[:, :, 1])
        both = magnitude.unflatten(-1, (self.columns, batch))
        image = torch.lerp(both[:, 0], both[:, 1], self.weight)
        return image if self.inverse is None else image[self.inverse]


class _Bank:
    """Any columns: each scale by an inverse FFT, read at the columns."""

    def __init__(
        self, filters: list[tuple[int, np.ndarray]], num_samples: int, low: np.ndarray, weight: np.ndarray, device: torch.device
    ) -> None:
        longest = max(len(w) for _, w in filters)
        self.num_fft = fast_length(num_samples + longest)
        self.complex = any(np.iscomplexobj(w) for _, w in filters)
        rows = []
        for first, w in filters:
            # as a convolution: x[t + first + i] w[i] is the filter reversed, whose tap i stands at lag -(first + i)
            kernel = np.zeros(self.num_fft, w.dtype)
            kernel[(-(first + np.arange(len(w)))) % self.num_fft] = w
            parts = (np.real(kernel), np.imag(kernel)) if self.complex else (kernel,)
            rows += [np.fft.rfft(part) for part in parts]
        self.filters = torch.from_numpy(np.stack(rows)).to(torch.complex64).to(device)
        self.low = torch.from_numpy(low).to(device)
        self.high = torch.from_numpy(np.minimum(low + 1, num_samples - 1)).to(device)
        self.weight = torch.from_numpy(weight).float().to(device)[:, None]

    def __call__(self, waveforms: Float[Tensor, "batch samples"]) -> Float[Tensor, "scales columns batch"]:
        parts = 2 if self.complex else 1
        image = waveforms.new_empty(len(self.filters) // parts, len(self.low), len(waveforms))
        at_once = max(1, FFT_ELEMENTS // (self.num_fft * parts)) * parts
        for i, spectrum in enumerate(torch.fft.rfft(waveforms, n=self.num_fft)):
            for row in range(0, len(self.filters), at_once):
                x = torch.fft.irfft(self.filters[row : row + at_once] * spectrum, n=self.num_fft)
                low, high = (x.index_select(-1, at).unflatten(0, (-1, parts)).transpose(0, 1) for at in (self.low, self.high))
                low, high = (torch.hypot(v[0], v[1]) if self.complex else v[0].abs() for v in (low, high))
                image[row // parts : (row + at_once) // parts, :, i] = torch.lerp(low, high, self.weight[:, 0])
        return image
