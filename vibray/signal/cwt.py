"""The analytic Morlet's envelope, as means and maxima over the columns of an image."""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from vibray.signal.resampled import Resampled
from vibray.signal.waveform import column_edges

OMEGA0 = 6.0
"""Centre frequency of the analytic Morlet in radians per unit of its width: H_f(v) = exp(-(6 (v/f - 1))^2 / 2)."""

EXTENSION_SIGMAS = 3.0
"""The record is extended at both ends over this many sigma of the lowest row, sigma = 6 / (2 pi f) seconds."""

KERNEL_SIGMAS = 4.6
"""Half-length of the wavelet in time, in sigma: what is cut off is below 3e-5 of its middle."""

LOW_KERNEL_SIGMAS = 5.5
"""The same in the octaves that are decimated: they lie between the strongest lines, and cost little."""

BAND = 3.6
"""Lowest sampling rate over a row's frequency: half of it is 4.8 sigma of the wavelet's spectrum away from the row."""

LONGEST_CELL = 64
"""Samples of a cell at most."""

CUSP, CUSP_POINTS = 0.045, 25
"""Cycles of a row from one point of its envelope to the next, and points of a column, where a mean takes not every sample: |W| has
cusps, its zeros."""

RECORDS_AT_ONCE = {"cpu": 16, "cuda": 256}
"""They lie side by side, sample by sample, so that a gathered sample is a line of the cache; and MKL plans a transform anew in every
call, which costs as much as 10 transforms."""

NUMBERS_AT_ONCE = {"cpu": 3 * 2**17, "cuda": 2**30}
"""float32 numbers from gathered samples to envelopes that stand in memory at once: 1.5 MB stay in a core's second-level cache; with less
the calls cost more."""


def geometric_hz(min_hz: float, max_hz: float, rows: int) -> tuple[float, ...]:
    """`rows` frequencies in geometric progression, both ends included, lowest first."""
    return tuple(float(f) for f in np.geomspace(min_hz, max_hz, rows))


class AnalyticMorlet:
    """Envelopes |W_f| of the analytic Morlet for one rate and length: W_f = inverse FFT of 2 H_f X over the frequencies
    0 < v < fs/2, H_f(v) = exp(-(6 (v/f - 1))^2 / 2), so that a sine of amplitude A at f gives A; of each, the area mean and the area
    maximum over the samples of every column, as if |W_f| were there at every sample.

    X is the FFT of the record minus its mean, extended by odd reflection over 3 sigma of the lowest row (zero padding and circular ends
    make false bursts at the edges). The rows are taken an octave at a time (`_Octave`), each from the record decimated to what it needs.
    """

    def __init__(self, rows_hz: tuple[float, ...], sample_rate_hz: float, num_samples: int, columns: int, device: torch.device) -> None:
        self.shape = (2, len(rows_hz), columns)
        # a row's record is sampled at the lowest rate that carries it: 1/2, 1, 2, 4 .. samples apart
        octaves = [max(-1, math.floor(math.log2(sample_rate_hz / (BAND * f)))) for f in rows_hz]
        longest = OMEGA0 / (2 * math.pi * rows_hz[0]) * sample_rate_hz
        extension, reach = (math.ceil(sigmas * longest) for sigmas in (EXTENSION_SIGMAS, LOW_KERNEL_SIGMAS))
        near = 1 + math.ceil(KERNEL_SIGMAS * OMEGA0 / (2 * math.pi) * BAND)
        self.record = Resampled(num_samples, extension, reach, near, max(octaves), device)
        edges = column_edges(num_samples, columns).numpy()
        lengths = np.diff(edges)  # two of them at most: the columns are worked on by length, and put in order at the end
        by_length = np.argsort(lengths, kind="stable")
        self.in_order = torch.from_numpy(np.argsort(by_length)).to(device) if len(np.unique(lengths)) > 1 else None
        self.parts: list[tuple[slice, slice, _Octave]] = []
        for octave in sorted(set(octaves)):
            rows = slice(octaves.index(octave), len(octaves) - octaves[::-1].index(octave))
            for length in np.unique(lengths):
                some = slice(int((lengths < length).sum()), int((lengths <= length).sum()))
                begin = edges[by_length[some]]
                part = _Octave(np.array(rows_hz[rows]), sample_rate_hz, octave, begin, int(length), self.record, device)
                self.parts.append((rows, some, part))

    def column_means_and_maxima(self, waveforms: Float[Tensor, "batch samples"]) -> Float32[Tensor, "batch 2 rows columns"]:
        """Area mean (channel 0) and area maximum (channel 1) of |W_f| over each column's samples, in the record's unit."""
        images = torch.empty((len(waveforms), *self.shape), dtype=torch.float32, device=waveforms.device)
        if not len(waveforms):  # MKL knows no transforms of nothing
            return images
        at_once = RECORDS_AT_ONCE[waveforms.device.type]
        if waveforms.device.type == "cuda":
            at_once = min(at_once, len(waveforms))
        image = images.new_empty((*self.shape, at_once))
        work = images.new_empty(max(part.num_work(at_once) for _, _, part in self.parts))
        blocks = [part.blocks(at_once) for _, _, part in self.parts]
        for some, result in zip(waveforms.split(at_once), images.split(at_once), strict=True):
            # always as many, or a product's last bits would depend on how many there are: records of nothing fill up
            octaves = self.record(torch.nn.functional.pad(some, (0, 0, 0, at_once - len(some))))
            for (rows, columns, part), own in zip(self.parts, blocks, strict=True):
                part.column_means_and_maxima(octaves[part.octave], own, work, image[:, rows, columns])
            whole = image if self.in_order is None else image.index_select(2, self.in_order)
            result.copy_(whole[..., : len(some)].permute(3, 0, 1, 2))
        return images


class _Octave:
    """Rows within a factor of two and columns of equally many samples, from the record sampled every `step` = 2^octave samples.

    Every column is covered by `cells` of equally many samples, the first and the last flush with the column's ends. W_f at a cell's nodes
    is a product of the record around the cell with the wavelet. Nodes come in pairs at the same distance d from the cell's middle, and the
    wavelet's real part is even, its imaginary part odd: with the record folded about the middle, s_k = x_k + x_-k and a_k = x_k - x_-k,

        W(+-d) = (s . E_re +- a . O_re) + i (a . O_im +- s . E_im),

    E and O being the even and odd parts of k -> w(d - k): half the multiplications. Where the row moves slowly over a cell, the nodes are
    Chebyshev's, fewer than its samples, and |W|^2, which is smooth even where |W| has a cusp, is interpolated to as many as the mean needs.
    """

    def __init__(
        self,
        rows_hz: Float64[np.ndarray, " rows"],
        sample_rate_hz: float,
        octave: int,
        begin: Int64[np.ndarray, " columns"],
        length: int,
        record: Resampled,
        device: torch.device,
    ) -> None:
        self.octave = octave
        step = 2.0**octave
        sigmas = LOW_KERNEL_SIGMAS if octave > 0 else KERNEL_SIGMAS
        reach = sigmas * OMEGA0 / (2 * math.pi * rows_hz[0]) * sample_rate_hz
        cycles = rows_hz[-1] / sample_rate_hz
        cells, size, num_nodes, num_points = _cheapest_cells(length, step, reach, cycles)
        start = (length - size) * np.arange(cells) // max(1, cells - 1)

        # the record at the middle of the cell + k step, k = 0 or 1/2, ..: those places are samples of the decimated record
        middle = size // 2 if step > 1 else (size - 1) / 2
        k = np.arange(0.0 if middle % min(step, 1.0) == 0 else 0.5, (reach + middle) / step + 1)
        at = start[:, None] + begin + middle
        self.right, self.left = (
            torch.from_numpy(record.places(at + side * k[:, None, None] * step, octave)).to(device) for side in (1, -1)
        )

        num_pairs = (num_nodes + 1) // 2
        # from the farthest to the nearest, -d before d; all samples are nodes, or Chebyshev's
        d = middle - np.arange(num_pairs) if num_nodes == size else middle * np.cos(np.pi * np.arange(num_pairs) / (num_nodes - 1))
        near, far = (_wavelet((d[:, None, None] - side * k * step) / sample_rate_hz, rows_hz[:, None]) for side in (1, -1))
        scale = step / sample_rate_hz * np.where(k == 0, 0.25, 0.5)  # of s_0 = 2 x_0 the half
        even, odd = (near + far) * scale, (near - far) * scale
        self.from_sums, self.from_differences = (
            torch.from_numpy(np.stack(parts).reshape(2, -1, len(k))).float().to(device)
            for parts in ((even.real, even.imag), (odd.real, odd.imag))
        )
        self.num_nodes = num_nodes
        self.num_rows = len(rows_hz)

        points, samples = np.linspace(0, size - 1, num_points) - middle, np.arange(size) - float(middle)
        self.to_points = self.weights = None
        if num_nodes < size:
            self.to_points = torch.from_numpy(_lagrange(np.concatenate([-d, d[: num_nodes // 2]]), points)).float().to(device)
        if num_points < size:
            self.weights = torch.from_numpy(_lagrange_nearest(points, samples).mean(0)).float().to(device)
        # a cell's first samples that the cell before has too do not count twice in the mean
        overlap = size - np.diff(start, prepend=start[0] - size)
        self.again = [torch.from_numpy((overlap > i)[:, None, None]).to(device, torch.float32) for i in range(overlap.max())]
        self.length = length
        num_points = 0 if self.to_points is None else num_points
        self.work_per_column = cells * (4 * num_pairs * self.num_rows + max(3 * len(k), num_points * self.num_rows))
        self.most_work = NUMBERS_AT_ONCE[device.type]

    def num_columns(self, num_records: int) -> int:
        """Columns of so many records that are worked on at once."""
        return min(self.right.shape[2], max(1, self.most_work // (num_records * self.work_per_column)))

    def num_work(self, num_records: int) -> int:
        """Numbers of memory that these take."""
        return self.num_columns(num_records) * num_records * self.work_per_column

    def blocks(self, num_records: int) -> list[tuple[slice, Tensor, Tensor]]:
        """The columns in groups that are worked on at once, with their places to the right and to the left."""
        num = self.num_columns(num_records)
        columns = [slice(first, first + num) for first in range(0, self.right.shape[2], num)]
        return [(some, self.right[:, :, some].flatten(), self.left[:, :, some].flatten()) for some in columns]

    def column_means_and_maxima(
        self,
        x: Float32[Tensor, "places batch"],
        blocks: list[tuple[slice, Tensor, Tensor]],
        work: Float32[Tensor, " num_work"],
        image: Float32[Tensor, "2 rows columns batch"],
    ) -> None:
        """Into `image`, of the record sampled for this octave; see AnalyticMorlet."""
        views: dict[int, _Views] = {}
        for columns, right, left in blocks:
            if len(right) not in views:
                views[len(right)] = self._views(work, len(right) // len(self.right), x.shape[1])
            self._some_columns(x, right, left, views[len(right)], image[:, :, columns])

    def _views(self, work: Tensor, num_cells: int, num_records: int) -> "_Views":
        """Of memory for so many cells of as many records."""
        (taps, cells), (_, half, _), rows = self.right.shape[:2], self.from_sums.shape, self.num_rows
        num_all = num_cells * num_records
        w, free = work[: 4 * half * num_all].view(2, 2, half, num_all), work[4 * half * num_all :]
        right, left, sums = free[: 3 * taps * num_all].view(3, -1, num_records)
        re, im = w.flatten(1, 2)[:, : self.num_nodes * rows]
        products = []
        for part in range(2):  # E_re and E_im of the sums, O_re and O_im of the differences
            products += [(self.from_sums[part], sums.view(taps, num_all), w[part, 0])]
            products += [(self.from_differences[part], left.view(taps, num_all), w[part, 1])]
        power = points = re
        if self.to_points is not None:  # where the gathered samples were
            points = free[: len(self.to_points) * rows * num_all].view(len(self.to_points), -1)
            power = re.view(self.num_nodes, -1)
        columns = points.view(-1, rows, cells, num_cells // cells, num_records)
        return _Views(right, left, sums, products, w[:, 0], w[:, 1], re, im, power, points, columns)

    def _some_columns(self, x: Tensor, right: Tensor, left: Tensor, of: "_Views", image: Tensor) -> None:
        torch.index_select(x, 0, right, out=of.right)
        torch.index_select(x, 0, left, out=of.left)
        torch.add(of.right, of.left, out=of.sums)
        torch.sub(of.right, of.left, out=of.left)
        for matrix, samples, product in of.products:
            torch.mm(matrix, samples, out=product)
        torch.sub(of.first, of.second, out=of.first)  # at -d, its imaginary part with the other sign
        torch.add(of.first, of.second, alpha=2, out=of.second)  # at d
        of.re.square_().addcmul_(of.im, of.im)
        if self.to_points is not None:
            torch.mm(self.to_points, of.power, out=of.points).clamp_min_(0)
        torch.amax(of.columns.amax(0), 1, out=image[1]).sqrt_()
        envelope = of.columns.sqrt_()
        if self.weights is not None:
            image[0] = torch.matmul(self.weights, envelope.flatten(1)).view(image[0].shape)
            return
        total = envelope.sum(0)
        for i, again in enumerate(self.again):
            total.addcmul_(envelope[i], again, value=-1)
        torch.sum(total, 1, out=image[0]).div_(self.length)


class _Views(NamedTuple):
    """Of one piece of memory, what each step of `_Octave` from gathered samples to envelopes reads and writes."""

    right: Float32[Tensor, "places batch"]
    left: Float32[Tensor, "places batch"]
    sums: Float32[Tensor, "places batch"]
    products: list[tuple[Tensor, Tensor, Tensor]]
    """matrix, samples and where their product goes"""
    first: Float32[Tensor, "2 half cells"]
    second: Float32[Tensor, "2 half cells"]
    re: Float32[Tensor, "nodes cells"]
    im: Float32[Tensor, "nodes cells"]
    power: Tensor
    """`re`, a row a node"""
    points: Tensor
    """interpolated, a row a point; `re` where nothing is"""
    columns: Float32[Tensor, "points rows cells columns batch"]


def _wavelet(time_s: Float64[np.ndarray, "nodes 1 taps"], rows_hz: Float64[np.ndarray, "rows 1"]) -> np.ndarray:
    """The inverse Fourier transform of 2 H_f, per second; (nodes, rows, taps), complex."""
    sigma_hz = rows_hz / OMEGA0
    envelope = 2 * sigma_hz * math.sqrt(2 * math.pi) * np.exp(-((2 * np.pi * sigma_hz * time_s) ** 2) / 2)
    return envelope * np.exp(2j * np.pi * rows_hz * time_s)


def _lagrange(nodes: Float64[np.ndarray, " nodes"], places: Float64[np.ndarray, " places"]) -> Float64[np.ndarray, "places nodes"]:
    """Weights of the polynomial through all nodes, at these places."""
    weights = np.ones((len(places), len(nodes)))
    for i, node in enumerate(nodes):
        for other in np.delete(nodes, i):
            weights[:, i] *= (places - other) / (node - other)
    return weights


def _lagrange_nearest(nodes: Float64[np.ndarray, " nodes"], places: Float64[np.ndarray, " places"]) -> Float64[np.ndarray, "places nodes"]:
    """Weights of the cubic through the four nodes around each place (of the parabola where there are but three)."""
    weights, num = np.zeros((len(places), len(nodes))), min(4, len(nodes))
    for i, place in enumerate(places):
        first = int(np.clip(np.searchsorted(nodes, place) - num // 2, 0, len(nodes) - num))
        weights[i, first : first + num] = _lagrange(nodes[first : first + num], places[i : i + 1])
    return weights


def _cheapest_cells(length: int, step: float, reach: float, cycles_per_sample: float) -> tuple[int, int, int, int]:
    """(cells, samples, nodes and points of a cell) with the fewest operations for a column of `length` samples."""
    best: tuple[float, tuple[int, int, int, int]] | None = None
    for cells in range(1, length + 1):
        size = math.ceil(length / cells)
        if size > LONGEST_CELL:
            continue
        cycles = cycles_per_sample * (size - 1)
        num_points = max(CUSP_POINTS, math.ceil(cycles / CUSP) + 2) if cells == 1 else size
        num_points = size if num_points > 0.8 * size else num_points
        # interpolation of |W|^2 to 1e-3 of |W|, found by trial on noise
        num_nodes = min(num_points, math.ceil(4.2 + 3.2 * cycles))
        if num_nodes > 0.7 * num_points:
            num_nodes = num_points = size
            if step > 1 and size % 2 == 0:  # its middle is no sample
                continue
        taps = (reach + size / 2) / step
        interpolation = 0 if num_nodes == num_points else 4 * num_points * num_nodes
        # in multiplications: of the product; for a gathered number, shared by the rows; for passing over the nodes, over the points
        cost = cells * (taps * (4 * num_nodes + 8) + interpolation + 60 * num_nodes + 60 * num_points)
        if best is None or cost < best[0]:
            best = cost, (cells, size, num_nodes, num_points)
    assert best is not None, "a column can be cut into cells of one sample"
    return best[1]
