"""Continuous wavelet transforms: pywt's real Morlet, as the original plan has it, and the analytic Morlet of the default image."""

import math

import numpy as np
import pywt
import torch
from jaxtyping import Complex64, Float, Float64, Int64
from scipy.fft import next_fast_len
from torch import Tensor

from vibray.signal.waveform import centred, column_means_and_maxima, odd_extension

OMEGA0 = 6.0
"""Centre frequency of the analytic Morlet in radians per unit of its width: H_f(v) = exp(-(6 (v/f - 1))^2 / 2)."""

EXTENSION_SIGMAS = 3.0
"""The record is extended at both ends over this many sigma of the lowest row, sigma = 6 / (2 pi f) seconds."""

CHUNK_ELEMENTS = 1 << 22
"""Complex values of one inverse FFT: about 32 MB, and three times that with the envelope and the gathered columns."""


def morl_cwt(signals: Float64[Tensor, "batch samples"], scales: int, sample_rate_hz: float) -> Float64[Tensor, "batch scales samples"]:
    """pywt's CWT with the wavelet "morl" at the scales 1, 2, ..., `scales`, on the CPU, in float64; 8 MB a record of 8192 samples.

    pywt convolves with its table of the integrated wavelet (precision 12), which is 11 % of relative L2 away from precision 20 on
    white noise; the numbers of the original plan contain that error, so these do. Scale 1 lies above Nyquist.
    """
    # method="fft" differs from pywt's default "conv" by 1e-13 and takes half the time
    step = 1.0 / sample_rate_hz
    coefficients, _ = pywt.cwt(signals.cpu().numpy(), np.arange(1, scales + 1), "morl", sampling_period=step, method="fft", axis=-1)
    return torch.from_numpy(np.ascontiguousarray(np.swapaxes(coefficients, 0, 1)))


def morl_frequencies_hz(scales: Float[np.ndarray, " scales"], sample_rate_hz: float) -> Float[np.ndarray, " scales"]:
    """Centre frequencies of pywt's "morl" at these scales: 0.8125 fs / scale."""
    return pywt.central_frequency("morl") * sample_rate_hz / scales


def geometric_hz(min_hz: float, max_hz: float, rows: int) -> tuple[float, ...]:
    """`rows` frequencies in geometric progression, both ends included, lowest first."""
    return tuple(float(f) for f in np.geomspace(min_hz, max_hz, rows))


class AnalyticMorlet:
    """Envelopes |W_f| of the analytic Morlet for one rate and length: W_f = inverse FFT of 2 H_f X over the frequencies
    0 < v < fs/2, H_f(v) = exp(-(6 (v/f - 1))^2 / 2), so that a sine of amplitude A at f gives A.

    X is the FFT of the record minus its mean, extended by odd reflection over 3 sigma of the lowest row (zero padding and circular ends
    make false bursts at the edges), at the full rate. Filters are float32, rows x bins.
    """

    def __init__(self, rows_hz: tuple[float, ...], sample_rate_hz: float, num_samples: int, device: torch.device) -> None:
        self.num_samples = num_samples
        self.left = math.ceil(EXTENSION_SIGMAS * OMEGA0 / (2 * math.pi * rows_hz[0]) * sample_rate_hz)
        # the reflection goes on at the right to a length whose FFT is fast, here three times faster than the exact one; an even one,
        # so that Nyquist is a bin, and left out: with an odd length the rows near it come out 1 % different
        half: int = next_fast_len((num_samples + 1) // 2 + self.left)  # type: ignore[assignment]
        self.num_fft = 2 * half
        self.right = self.num_fft - num_samples - self.left
        v = torch.arange(self.num_fft // 2 + 1, dtype=torch.float64) * (sample_rate_hz / self.num_fft)
        f = torch.tensor(rows_hz, dtype=torch.float64)[:, None]
        h = torch.exp(-((OMEGA0 * (v / f - 1)) ** 2) / 2)
        h[:, (v <= 0) | (v >= sample_rate_hz / 2)] = 0
        self.filters = (2 * h).float().to(device)

    def column_means_and_maxima(
        self, waveforms: Float[Tensor, "batch samples"], edges: Int64[Tensor, " edges"]
    ) -> Float[Tensor, "batch 2 rows columns"]:
        """Area mean (channel 0) and area maximum (channel 1) of |W_f| over each column's samples, float32, in the record's unit.

        Rows and records are taken in chunks, so that memory stays near 100 MB beside the result whatever the batch and the length.
        """
        num_rows = len(self.filters)
        images = waveforms.new_empty((len(waveforms), 2, num_rows, len(edges) - 1), dtype=torch.float32)
        rows_at_once = max(1, CHUNK_ELEMENTS // self.num_fft)
        # records one at a time: one record's rows are work enough, and the batch mates cannot change the arithmetic
        for i in range(len(waveforms)):
            spectrum = torch.fft.rfft(odd_extension(centred(waveforms[i : i + 1]), self.left, self.right).float())
            for first in range(0, num_rows, rows_at_once):
                rows = slice(first, first + rows_at_once)
                envelope = self._envelope(spectrum, self.filters[rows])
                images[i, 0, rows], images[i, 1, rows] = column_means_and_maxima(envelope, edges)
        return images

    def _envelope(self, spectrum: Complex64[Tensor, "1 bins"], filters: Float[Tensor, "rows bins"]) -> Float[Tensor, "rows samples"]:
        # in real arithmetic: torch would copy the filters to complex, pad by copying and take abs through a complex result
        one_sided = torch.zeros(len(filters), self.num_fft, 2, dtype=torch.float32, device=filters.device)
        torch.mul(filters[:, :, None], torch.view_as_real(spectrum), out=one_sided[:, : filters.shape[1]])
        w = torch.fft.ifft(torch.view_as_complex(one_sided))[:, self.left : self.left + self.num_samples]
        return w.real.square().addcmul_(w.imag, w.imag).sqrt_()
