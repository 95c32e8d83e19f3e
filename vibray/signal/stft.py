"""Short-time Fourier magnitudes."""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from vibray.signal.waveform import frames


def periodic_hann(window: int, device: torch.device | None = None) -> Float64[Tensor, " window"]:
    """The periodic (DFT-even) Hann window, as scipy.signal.get_window("hann", window)."""
    return torch.hann_window(window, periodic=True, dtype=torch.float64, device=device)


def stft_magnitude(waveforms: Float[Tensor, "batch samples"], window: int, hop: int) -> Float[Tensor, "batch bins frames"]:
    """|STFT| with a periodic Hann window of `window` samples every `hop`, no padding, no detrending, window // 2 + 1 bins from 0 Hz.

    Divided by the sum of the window (scipy.signal.stft's scaling="spectrum"): a sine of amplitude A on a bin gives A / 2. In the
    precision of `waveforms`. Raises ValueError for a record shorter than the window.
    """
    hann = periodic_hann(window, waveforms.device).to(waveforms.dtype)
    return torch.fft.rfft(frames(waveforms, window, hop) * (hann / hann.sum())).abs().transpose(-1, -2)
