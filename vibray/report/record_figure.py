"""A record as an engineer looks at it: the waveform above, its time-frequency image below, on one time axis."""

import numpy as np
import torch
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.signal import ShortTimeFFT
from scipy.signal.windows import hann

from vibray.config import UserError
from vibray.features.cwt_image import CwtImage
from vibray.report.data import Spectrum
from vibray.report.figures import ALARM, IMAGE_COLOURS, INK, NORMAL, SIGNAL, figure, quiet, svg

RANGE_DB = 50.0
"""What lies further below the record's largest value is drawn as the darkest colour."""
NUM_COLUMNS = 420
"""Columns of a drawn waveform: more samples than twice this are drawn as the lowest and highest of each column."""
DECADE_TICKS_HZ = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)


def time_frequency(image: CwtImage, waveform: np.ndarray, sample_rate_hz: float) -> tuple[np.ndarray, tuple[float, ...], str]:
    """Amplitudes (rows, columns), the rows' frequencies in Hz, and what they are.

    The image's area maximum, which is what shows short bursts; where its rows do not fit the rate or the length, a spectrogram.
    """
    try:
        image.check(sample_rate_hz, waveform.size)
    except UserError:
        return (*_spectrogram(waveform, sample_rate_hz), "STFT spectrogram (the CWT image does not fit this rate or length)")
    values = image(torch.from_numpy(np.ascontiguousarray(waveform, np.float32))[None], sample_rate_hz)[0, 1]
    return values.numpy(), tuple(image.rows_hz(sample_rate_hz)), "CWT image, area maximum"


def _spectrogram(waveform: np.ndarray, sample_rate_hz: float) -> tuple[np.ndarray, tuple[float, ...]]:
    size = max(2, min(256, waveform.size // 4))
    stft = ShortTimeFFT(hann(size, sym=False), hop=max(1, size // 4), fs=sample_rate_hz, scale_to="magnitude")
    centred = waveform.astype(np.float64) - waveform.mean(dtype=np.float64)
    amplitude = np.abs(stft.stft(centred, p0=0, p1=stft.upper_border_begin(waveform.size)[1]))
    return amplitude[1:], tuple(stft.f[1:].tolist())


def draw_waveform(axes: Axes, waveform: np.ndarray, sample_rate_hz: float) -> None:
    """The waveform over time; a long one as the band between the lowest and the highest sample of each column."""
    if waveform.size <= 2 * NUM_COLUMNS:
        axes.plot(np.arange(waveform.size) / sample_rate_hz, waveform, color=SIGNAL, linewidth=0.8)
        return
    starts = np.linspace(0, waveform.size, NUM_COLUMNS, endpoint=False).astype(int)
    low, high = np.minimum.reduceat(waveform, starts), np.maximum.reduceat(waveform, starts)
    axes.fill_between(starts / sample_rate_hz, low, high, color=SIGNAL, linewidth=0.4)


def draw_map(
    drawn: Figure, axes: Axes, values: np.ndarray, rows_hz: tuple[float, ...], duration_s: float, label: str, decibels: bool
) -> None:
    """`values` (rows, columns) as an image with axes in s and Hz; the rows need not be equally far apart."""
    if decibels:
        largest = values.max()
        values = 20 * np.log10(np.maximum(values / largest, 1e-12)) if largest > 0 else np.full(values.shape, -RANGE_DB)
    low, high = (-RANGE_DB, 0.0) if decibels else (float(values.min()), float(values.max()) or 1.0)
    rising = rows_hz[0] < rows_hz[-1]
    rows, frequencies = (values, np.array(rows_hz)) if rising else (values[::-1], np.array(rows_hz[::-1]))
    extent = (0, duration_s, -0.5, len(rows) - 0.5)
    shown = axes.imshow(rows, cmap=IMAGE_COLOURS, vmin=low, vmax=high, extent=extent, origin="lower", aspect="auto", interpolation="none")
    at = _ticks_hz(frequencies)
    axes.set_yticks(np.interp(at, frequencies, np.arange(len(rows))), [f"{f:.0f}" for f in at])
    axes.grid(False)
    axes.set_ylabel("Hz")
    axes.set_xlabel("time, s")
    bar = drawn.colorbar(shown, cax=axes.inset_axes((1.03, 0, 0.035, 1)))
    bar.set_label(label, color=INK, size=10)
    bar.ax.tick_params(colors=INK, labelsize=9.5)
    bar.outline.set_visible(False)  # type: ignore[operator]


def _ticks_hz(frequencies: np.ndarray) -> np.ndarray:
    """Where to write a frequency: 1, 2 and 5 of a decade on rows that are geometric, five equal steps on others."""
    low, high = frequencies[[0, -1]]
    if _geometric(frequencies):
        return np.array([f for f in DECADE_TICKS_HZ if low <= f <= high])
    return np.linspace(low, high, 5)


def _geometric(frequencies: np.ndarray) -> bool:
    low, high = frequencies[[0, -1]]
    middle = frequencies[len(frequencies) // 2]
    return bool(abs(middle - np.sqrt(low * high)) < abs(middle - (low + high) / 2))


def record_svg(image: CwtImage, waveform: np.ndarray, sample_rate_hz: float, signal_unit: str, alt: str) -> tuple[Markup, str]:
    """The figure of a record (waveform: (samples,)) and what its image is."""
    values, rows_hz, kind = time_frequency(image, waveform, sample_rate_hz)
    drawn = figure(400, 285, right=70, top=8)
    above, below = drawn.subplots(2, 1, height_ratios=(1, 1.7), sharex=True, gridspec_kw={"hspace": 0.1})
    quiet(above, 10)
    quiet(below, 10)
    draw_waveform(above, waveform, sample_rate_hz)
    above.set_ylabel("amplitude" if signal_unit == "unknown" else signal_unit, parse_math=False)
    draw_map(drawn, below, values, rows_hz, waveform.size / sample_rate_hz, "dB re maximum", decibels=True)
    above.tick_params(labelbottom=False)
    drawn.align_ylabels((above, below))
    above.set_xlim(0, waveform.size / sample_rate_hz)
    return svg(drawn, alt), kind


def map_svg(values: np.ndarray, rows_hz: tuple[float, ...], duration_s: float, alt: str) -> Markup:
    """An explanation over time and frequency; values as they are."""
    drawn = figure(400, 190, right=70, top=8)
    draw_map(drawn, quiet(drawn.add_subplot(), 10), values, rows_hz, duration_s, "", decibels=False)
    return svg(drawn, alt)


def spectrum_svg(spectrum: Spectrum, alt: str) -> Markup:
    """A record's spectrum over its sensor's median and usual range; red where it is outside."""
    hz = np.asarray(spectrum.hz, np.float64)
    value, low, high = (np.asarray(v, np.float64) for v in (spectrum.value, spectrum.low, spectrum.high))
    drawn = figure(400, 190, right=14, top=8)
    axes = quiet(drawn.add_subplot(), 10)
    axes.fill_between(hz, low, high, color=NORMAL, alpha=0.25, linewidth=0)
    axes.plot(hz, spectrum.median, color=NORMAL, linewidth=1.0)
    axes.plot(hz, value, color=SIGNAL, linewidth=1.2)
    outside = (value > high) | (value < low)
    axes.plot(hz[outside], value[outside], "o", color=ALARM, markersize=3)
    axes.set_xlim(hz[0], hz[-1])
    ticks = _ticks_hz(hz)
    if _geometric(hz):
        axes.set_xscale("log")
        axes.minorticks_off()
    axes.set_xticks(ticks, [f"{f:.0f}" for f in ticks])
    axes.set_xlabel("Hz")
    axes.set_ylabel(spectrum.unit, parse_math=False)
    return svg(drawn, alt)
