"""The harmonic vector: the lines of the mains and of twice the mains frequency, what lies between and above them. For transformers."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Float64
from pydantic import with_config
from torch import Tensor

from vibray.config import STRICT, UserError
from vibray.signal.harmonics import MAINS_TOLERANCE_HZ, SEARCHED_SAMPLES, Mains, check_mains, cycle_peak_volatility
from vibray.signal.psd import mean_squares
from vibray.signal.statistics import safe_ratio, standard_deviation
from vibray.signal.stft import HANN_BINS, in_parts

EVEN_ORDERS = tuple(range(2, 41, 2))
ODD_ORDERS = tuple(range(1, 20, 2))
GAP_ORDERS = tuple(m + 0.5 for m in range(1, 40))

AMPLITUDE_FLOOR = 1e-12
POWER_FLOOR = 1e-24
"""Added, in the record's unit (its square), before a logarithm: absolute, far below any float32 vibration record."""

ENERGY_EDGES_HZ = (1000.0, 2000.0)


@with_config(STRICT)
@dataclass(frozen=True)
class HarmonicConfig:
    kind: Literal["harmonic"] = "harmonic"
    mains_hz: float | None = None
    """Nominal mains frequency, 50 or 60. None: the corpus's own; filled in when the feature is built."""


class Harmonic:
    """40 numbers in named blocks; f0 is each record's own mains frequency, estimated within 0.5 Hz of the nominal one, A_m the amplitude
    at m f0 (signal/harmonics.py), in the record's unit:

    * `even` (20): ln A_m, m = 2, 4 .. 40: core and winding forces. `odd` (10): ln A_m, m = 1, 3 .. 19: DC bias.
    * `ratios` (4): share of 2 f0, A_2^2 over the energy of all 30 lines; THD re 2 f0, sqrt(sum of A_4^2 .. A_40^2) / A_2; odd over even
      energy; entropy of the 30 lines' energies over ln 30 (0: one line, 1: all alike). A zero denominator gives 0.
    * `floor` (1): ln of the noise density in unit^2/Hz: median over the gaps' middles (m + 1/2) f0, m = 1 .. 39.
    * `energy` (3): ln of the mean square from 1 to 2 kHz and from 2 kHz up, and ln rms, mean removed.
    * `volatility` (1): std over mean of the peaks of the single mains cycles.
    * `quality` (1): SNR of f0 in dB (`Comb.snr_db`): how far to trust the rest. Noise alone has about 1 dB.

    Computed in float64, returned in float32.
    """

    shape: tuple[int, ...] = (40,)
    blocks: ClassVar[dict[str, slice]] = {
        "even": slice(0, 20),
        "odd": slice(20, 30),
        "ratios": slice(30, 34),
        "floor": slice(34, 35),
        "energy": slice(35, 38),
        "volatility": slice(38, 39),
        "quality": slice(39, 40),
    }
    mains_snr_db = 39
    """Index of the SNR of f0."""

    def __init__(self, config: HarmonicConfig) -> None:
        self.config = config

    def check(self, sample_rate_hz: float, num_samples: int) -> None:
        """Raises UserError without a mains frequency, for fewer than 8 mains cycles, and where the 40th multiple is above Nyquist."""
        mains_hz = check_mains(self.config.mains_hz, sample_rate_hz, num_samples)
        lowest = 2 * EVEN_ORDERS[-1] * (mains_hz + MAINS_TOLERANCE_HZ)
        if sample_rate_hz <= lowest:
            raise UserError(
                f"harmonic: line {EVEN_ORDERS[-1]} of {mains_hz:g} Hz mains needs more than {lowest:g} Hz of sample rate; "
                f"this corpus has {sample_rate_hz:g} Hz: the spectral vector is there for any rate"
            )

    def columns(self) -> tuple[str, ...]:
        """Name of each of the 40 numbers."""
        return (
            *(f"ln_amplitude_h{m:02d}" for m in EVEN_ORDERS + ODD_ORDERS),
            *("share_h02", "thd_re_h02", "odd_even_ratio", "harmonic_entropy"),
            *("ln_noise_floor", "ln_energy_1_2_khz", "ln_energy_above_2_khz", "ln_rms", "cycle_peak_volatility", "mains_snr_db"),
        )

    def frequencies_hz(self, sample_rate_hz: float) -> tuple[float | None, ...]:
        """Nominal frequency of the lines; None for what has no single one."""
        mains_hz = self.config.mains_hz
        lines = EVEN_ORDERS + ODD_ORDERS
        return (*(m * mains_hz if mains_hz else None for m in lines), *[None] * (self.shape[0] - len(lines)))

    def __call__(
        self, waveforms: Float[Tensor, "batch samples"], sample_rate_hz: float, mains: Mains | None = None
    ) -> Float[Tensor, "batch 40"]:
        """The vectors, float32; `mains`: the lines of these records, where they were found before. Raises UserError as `check` does."""
        self.check(sample_rate_hz, waveforms.shape[-1])
        assert self.config.mains_hz is not None
        if mains is not None:
            return _vectors(waveforms, sample_rate_hz, mains).float()
        vectors = waveforms.new_empty((len(waveforms), *self.shape), dtype=torch.float32)
        for part, records in in_parts(waveforms, SEARCHED_SAMPLES):
            vectors[part] = _vectors(records, sample_rate_hz, Mains(records, sample_rate_hz, self.config.mains_hz))
        return vectors


def _vectors(waveforms: Float[Tensor, "batch samples"], sample_rate_hz: float, mains: Mains) -> Float[Tensor, "batch 40"]:
    f0 = mains.frequency_hz
    amplitudes = mains.spectrum.amplitudes(f0[:, None] * _orders(waveforms.device))
    lines, gaps = amplitudes.tensor_split([len(EVEN_ORDERS + ODD_ORDERS)], dim=-1)
    columns = [
        *_ratios(lines.square()),
        _log_noise_density(gaps, waveforms.shape[-1] / sample_rate_hz),
        *torch.log(mean_squares(waveforms, sample_rate_hz, ENERGY_EDGES_HZ) + POWER_FLOOR).unbind(-1),
        torch.log(standard_deviation(waveforms).square() + POWER_FLOOR) / 2,
        cycle_peak_volatility(waveforms, sample_rate_hz, f0, mains.highest_hz),
        mains.snr_db,
    ]
    return torch.cat([torch.log(lines + AMPLITUDE_FLOOR), torch.stack(columns, dim=-1)], dim=-1)


@lru_cache(maxsize=8)
def _orders(device: torch.device) -> Float64[Tensor, " orders"]:
    return torch.tensor(EVEN_ORDERS + ODD_ORDERS + GAP_ORDERS, dtype=torch.float64, device=device)


def _ratios(energy: Float[Tensor, "batch lines"]) -> tuple[Tensor, ...]:
    """Share of 2 f0, THD re 2 f0, odd/even, entropy; `energy` in the order of EVEN_ORDERS, ODD_ORDERS."""
    even, odd = energy.tensor_split([len(EVEN_ORDERS)], dim=-1)
    first, total = even[:, 0], energy.sum(-1)
    share = safe_ratio(energy, total[:, None])
    entropy = torch.special.entr(share).sum(-1) / math.log(energy.shape[-1])
    return safe_ratio(first, total), safe_ratio(even[:, 1:].sum(-1), first).sqrt(), safe_ratio(odd.sum(-1), even.sum(-1)), entropy


def _log_noise_density(gaps: Float[Tensor, "batch gaps"], duration_s: float) -> Float[Tensor, " batch"]:
    # power of noise in one bin is exponential: its median is ln 2 of its mean
    power = gaps.square().median(-1).values / 2 / math.log(2)
    return torch.log(power * duration_s / HANN_BINS + POWER_FLOOR)
