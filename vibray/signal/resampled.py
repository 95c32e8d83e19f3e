"""Records sampled at other steps than their own: every half, every, or every 2, 4, .. samples, as a wavelet's octaves want them."""

import math

import numpy as np
import torch
from jaxtyping import Complex64, Float, Float32, Float64, Int64
from torch import Tensor

from vibray.signal.waveform import centred, fast_length, odd_extension


class Resampled:
    """The record minus its mean, extended by odd reflection over `extension` samples at both ends and closed to a circle, sampled every
    2^octave samples, the content that such samples cannot carry left out. Of the 2^octave series of such samples only those are made that
    `places` was asked for.

    `reach`: how far a wavelet reaches. Where that is farther than the extension, it goes round the circle, as it does in the inverse FFT.
    `near`: how far around the record its half samples are asked for.
    """

    def __init__(self, num_samples: int, extension: int, reach: int, near: int, highest: int, device: torch.device) -> None:
        self.num_samples, self.extension = num_samples, extension
        self.circle = num_samples + 2 * extension
        # halves of a sample and their Nyquist frequency see the whole circle: its own convolution, read around the record alone
        first, stop = (extension - near, extension + num_samples + near) if near <= extension else (0, self.circle)
        self.num_halves_fft = fast_length(self.circle + stop - first)
        lag = np.arange(self.num_halves_fft) + 0.5
        lag[stop:] -= self.num_halves_fft
        angle, even = np.pi * lag / self.circle, self.circle % 2 == 0  # an even circle has a bin at Nyquist: it is left out
        kernel = np.sin(angle * (self.circle - even)) / np.sin(angle) / self.circle - 1 / self.circle
        self.halves = torch.fft.rfft(torch.from_numpy(kernel)).to(device, torch.complex64)
        self.alternating = (1.0 - 2.0 * (torch.arange(self.circle) % 2)).mul(even).to(device)
        # decimation sees little of it: the circle cut open, with a bridge from its end back to its beginning behind both seams, up to a
        # length that all steps divide and whose FFT is fast
        unit, beyond = 2 << max(0, highest), reach - extension
        self.num_fft = unit * fast_length(math.ceil((self.circle + 2 * beyond + extension) / unit))
        ramp = torch.linspace(0, math.pi, self.num_fft - self.circle - 2 * beyond, dtype=torch.float64)
        self.bridge = torch.nn.functional.pad(torch.cat([0.5 - 0.5 * torch.cos(ramp), torch.ones(beyond)]), (beyond, 0)).float().to(device)

        self.phases: dict[int, list[int]] = {}
        self.shifts: dict[int, Complex64[Tensor, "phases bins"]] = {}

    def __call__(self, waveforms: Float[Tensor, "batch samples"]) -> dict[int, Float32[Tensor, "places batch"]]:
        x = odd_extension(centred(waveforms).float(), self.extension, self.extension)
        ends = x if len(self.bridge) <= self.circle else torch.cat([x, x], dim=-1)  # a short record's bridge can be longer than its circle
        opened = torch.cat([x, torch.lerp(ends[:, : len(self.bridge)], ends[:, -len(self.bridge) :], self.bridge)], dim=-1)
        spectrum = torch.fft.rfft(opened) if max(self.phases) > 0 else opened
        side_by_side = opened.t().contiguous()
        return {
            octave: self._halves(x, side_by_side[: self.circle])
            if octave < 0
            else side_by_side
            if octave == 0
            else self._decimated(spectrum, octave).t().contiguous()
            for octave in self.phases
        }

    def _halves(self, x: Float32[Tensor, "batch circle"], whole: Float32[Tensor, "circle batch"]) -> Float32[Tensor, "places batch"]:
        """At the whole samples, then at the halves."""
        between = torch.fft.irfft(torch.fft.rfft(x, n=self.num_halves_fft).mul_(self.halves), n=self.num_halves_fft)
        both = whole.new_empty(2, *whole.shape)
        torch.addr(whole, self.alternating, torch.mv(x, self.alternating), alpha=-1 / self.circle, out=both[0])
        both[1] = between[:, : self.circle].t()
        return both.flatten(0, 1)

    def _decimated(self, spectrum: Complex64[Tensor, "batch bins"], octave: int) -> Float32[Tensor, "batch places"]:
        """One phase after another, each shifted to begin with its own first sample."""
        shifts = self.shifts[octave]
        return torch.fft.irfft(spectrum[:, None, : shifts.shape[1]] * shifts, n=self.num_fft >> octave).flatten(1)

    def places(self, samples: Float64[np.ndarray, "*any"], octave: int) -> Int64[np.ndarray, "*any"]:
        """Where the record sampled every 2^octave samples has these, counted from its first sample before the extension: sorted by what
        is left on division by the step, the phase."""
        extended = samples + self.extension
        if octave < 0:
            length, (whole, phase) = self.circle, np.divmod(np.rint(2 * extended).astype(np.int64), 2)
        else:
            length, (whole, phase) = self.num_fft >> octave, np.divmod(np.rint(extended).astype(np.int64), 1 << octave)
        own = self.phases.setdefault(octave, [0, 1] if octave < 0 else [])
        own += sorted(set(np.unique(phase).tolist()) - set(own))
        if octave > 0:
            bins = torch.arange(length // 2 + 1, dtype=torch.float64)
            angle = 2 * math.pi / self.num_fft * torch.tensor(own)[:, None] * bins
            shifts = torch.polar((bins < length // 2).double() / (1 << octave), angle)  # zeros from the new Nyquist frequency on
            self.shifts[octave] = shifts.to(self.bridge.device, torch.complex64)
        number = np.zeros(max(own) + 1, np.int64)
        number[own] = np.arange(len(own))
        return number[phase] * length + whole % length
