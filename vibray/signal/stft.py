"""Short-time Fourier power; batches worked on in parts that stay in the cache."""

from collections.abc import Iterator
from functools import lru_cache

import torch
from jaxtyping import Complex, Float, Float64
from torch import Tensor

from vibray.signal.waveform import frames

CPU_SAMPLES = 1 << 17
"""Samples that a CPU takes at once, 16 records of 8192: intermediates in float64 then stay in the cache and in memory that the allocator
keeps; 64 records at once take up to twice the time."""

HANN_BINS = 1.5
"""Equivalent noise bandwidth of the Hann window, in bins."""

GPU_SAMPLES = 1 << 23
"""Samples that a GPU takes at once: enough to keep it busy, at most 2 GB of intermediates by count (not measured)."""


def in_parts(
    waveforms: Float[Tensor, "batch samples"], cpu_samples: int = CPU_SAMPLES
) -> Iterator[tuple[slice, Float[Tensor, "part samples"]]]:
    """The batch in parts of a bounded number of samples, at least one record each, with their places in it."""
    at_once = max(1, (GPU_SAMPLES if waveforms.is_cuda else cpu_samples) // max(1, waveforms.shape[-1]))
    for start in range(0, len(waveforms), at_once):
        part = slice(start, start + at_once)
        yield part, waveforms[part]


@lru_cache(maxsize=64)
def periodic_hann(window: int, device: torch.device | None = None) -> Float64[Tensor, " window"]:
    """The periodic (DFT-even) Hann window, as scipy.signal.get_window("hann", window). Kept: not to be written to."""
    return torch.hann_window(window, periodic=True, dtype=torch.float64, device=device)


def squared_magnitude(spectra: Complex[Tensor, "*rest bins"]) -> Float[Tensor, "*rest bins"]:
    """|z|^2 without the square root of abs(), which takes five times as long."""
    return torch.addcmul(spectra.real.square(), spectra.imag, spectra.imag)


def stft_power(waveforms: Float[Tensor, "batch samples"], window: int, hop: int) -> Float[Tensor, "batch frames bins"]:
    """|STFT|^2 with a periodic Hann window of `window` samples every `hop`, no padding, no detrending, window // 2 + 1 bins from 0 Hz.

    Divided by the sum of the window (scipy.signal.stft's scaling="spectrum"): a sine of amplitude A on a bin gives A^2 / 4. In the
    precision of `waveforms`. Raises ValueError for a record shorter than the window.
    """
    hann = periodic_hann(window, waveforms.device).to(waveforms.dtype)
    return squared_magnitude(torch.fft.rfft(frames(waveforms, window, hop) * (hann / hann.sum())))


def frame_powers(waveforms: Float[Tensor, "batch samples"], window: int, hop: int) -> Iterator[Float[Tensor, "batch bins"]]:
    """The frames of `stft_power` without DC, one of all records after the other: each in the cache, where the one before it lay."""
    hann = periodic_hann(window, waveforms.device)
    hann = (hann / hann.sum()).to(waveforms.dtype)
    frame = waveforms.new_empty(len(waveforms), window)
    spectrum = torch.empty(len(waveforms), window // 2 + 1, dtype=waveforms.dtype.to_complex(), device=waveforms.device)
    squares = waveforms.new_empty(len(waveforms), 2 * spectrum.shape[-1])
    power = waveforms.new_empty(len(waveforms), window // 2)
    for part in frames(waveforms, window, hop).unbind(-2):
        torch.fft.rfft(torch.mul(part, hann, out=frame), out=spectrum)
        # real and imaginary parts alike, then in pairs: half the time of two passes over every other number
        torch.square(torch.view_as_real(spectrum).flatten(-2), out=squares)
        yield torch.add(squares[:, 2::2], squares[:, 3::2], out=power)
