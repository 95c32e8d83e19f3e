"""A record as an engineer looks at it: the waveform above, its time-frequency image below, on one time axis."""

import numpy as np
import torch
from markupsafe import Markup
from scipy.signal import ShortTimeFFT
from scipy.signal.windows import hann

from vibray.config import UserError
from vibray.features.cwt_image import CwtImage
from vibray.report.data import Spectrum
from vibray.report.plot import Axis, Panel, drawing, linear_axis

RANGE_DB = 50.0
"""What lies further below the record's largest value is drawn as the darkest colour."""
NUM_COLUMNS = 420
"""Columns of a drawn waveform: more samples than twice this are drawn as the lowest and highest of each column."""
WIDTH, LEFT, INNER = 400, 52.0, 278.0
"""Of a figure and of what stands between its labels and its scale of colours, in CSS pixels."""
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


def waveform_panel(waveform: np.ndarray, sample_rate_hz: float, label: str) -> list[Markup]:
    """The waveform over time; a long one as the band between the lowest and the highest sample of each column."""
    low, high = float(waveform.min()), float(waveform.max())
    margin = 0.05 * (high - low)
    panel = Panel(
        LEFT, 8.0, INNER, 84.0, linear_axis(0.0, waveform.size / sample_rate_hz), linear_axis(low - margin, high + margin, label, 4)
    )
    x = waveform.astype(np.float64)
    if waveform.size <= 2 * NUM_COLUMNS:
        return [panel.frame(named=False), panel.line(np.arange(waveform.size) / sample_rate_hz, x, "signal")]
    starts = np.linspace(0, waveform.size, NUM_COLUMNS, endpoint=False).astype(int)
    fill = 'fill="var(--signal)" stroke="var(--signal)" stroke-width=".4"'
    return [
        panel.frame(named=False),
        panel.band(starts / sample_rate_hz, np.minimum.reduceat(x, starts), np.maximum.reduceat(x, starts), fill),
    ]


def map_panel(
    top: float, height: float, values: np.ndarray, rows_hz: tuple[float, ...], duration_s: float, label: str, decibels: bool
) -> list[Markup]:
    """`values` (rows, columns) as an image with axes in s and Hz; the rows need not be equally far apart. What is negative is as 0."""
    if decibels:
        largest = values.max()
        values = 20 * np.log10(np.maximum(values / largest, 1e-12)) if largest > 0 else np.full(values.shape, -RANGE_DB)
    low, high = (-RANGE_DB, 0.0) if decibels else (0.0, float(max(values.max(), 0.0)) or 1.0)
    rising = rows_hz[0] < rows_hz[-1]
    rows, frequencies = (values, np.array(rows_hz)) if rising else (values[::-1], np.array(rows_hz[::-1]))
    at = _ticks_hz(frequencies)
    places = np.interp(at, frequencies, np.arange(len(rows)))
    hz = Axis(-0.5, len(rows) - 0.5, tuple(zip(places.tolist(), (f"{f:.0f}" for f in at), strict=True)), "Hz")
    panel = Panel(LEFT, top, INNER, height, linear_axis(0.0, duration_s, "time, s"), hz)
    bar = Panel(LEFT + INNER + 8, top, 10.0, height, Axis(0.0, 1.0, ()), linear_axis(low, high))
    made = [panel.image(rows, low, high), panel.frame(grid=False), bar.image(np.linspace(low, high, 64)[:, None], low, high)]
    for value, text in bar.y.ticks:
        y = top + height * (1 - float(bar.y.share(np.array([value]))[0]))
        made.append(Markup('<text x="{}" y="{:.1f}">{}</text>').format(LEFT + INNER + 22, y + 3.5, text))
    if label:
        turned = f"translate({WIDTH - 2} {top + height / 2:.1f}) rotate(-90)"
        made.append(Markup('<text transform="{}" text-anchor="middle">{}</text>').format(turned, label))
    return made


def _ticks_hz(frequencies: np.ndarray) -> np.ndarray:
    """Where to write a frequency: 1, 2 and 5 of a decade on rows that are geometric, round ones on others."""
    low, high = frequencies[[0, -1]]
    if _geometric(frequencies):
        return np.array([f for f in DECADE_TICKS_HZ if low <= f <= high], np.float64)
    return np.array([value for value, _ in linear_axis(low, high).ticks])


def _geometric(frequencies: np.ndarray) -> bool:
    low, high = frequencies[[0, -1]]
    middle = frequencies[len(frequencies) // 2]
    return bool(abs(middle - np.sqrt(low * high)) < abs(middle - (low + high) / 2))


def record_svg(image: CwtImage, waveform: np.ndarray, sample_rate_hz: float, signal_unit: str, alt: str) -> tuple[Markup, str]:
    """The figure of a record (waveform: (samples,)) and what its image is."""
    values, rows_hz, kind = time_frequency(image, waveform, sample_rate_hz)
    above = waveform_panel(waveform, sample_rate_hz, "amplitude" if signal_unit == "unknown" else signal_unit)
    below = map_panel(102.0, 145.0, values, rows_hz, waveform.size / sample_rate_hz, "dB re maximum", decibels=True)
    return drawing(WIDTH, 285, [*above, *below], alt), kind


def map_svg(values: np.ndarray, rows_hz: tuple[float, ...], duration_s: float, alt: str) -> Markup:
    """An explanation over time and frequency; what is negative is as 0."""
    return drawing(WIDTH, 190, map_panel(8.0, 144.0, values, rows_hz, duration_s, "", decibels=False), alt)


def spectrum_svg(spectrum: Spectrum, alt: str) -> Markup:
    """A record's spectrum over its sensor's median and usual range, with dots where it is outside."""
    hz = np.asarray(spectrum.hz, np.float64)
    value, low, middle, high = (np.asarray(v, np.float64) for v in (spectrum.value, spectrum.low, spectrum.median, spectrum.high))
    ticks = tuple((float(f), f"{f:.0f}") for f in _ticks_hz(hz))
    lowest, highest = float(min(value.min(), low.min())), float(max(value.max(), high.max()))
    margin = 0.05 * (highest - lowest)
    across = Axis(float(hz[0]), float(hz[-1]), ticks, "Hz", log=_geometric(hz))
    panel = Panel(LEFT, 8.0, WIDTH - LEFT - 14, 144.0, across, linear_axis(lowest - margin, highest + margin, spectrum.unit))
    outside = (value > high) | (value < low)
    parts = [
        panel.frame(),
        panel.band(hz, low, high, 'fill="var(--normal)" fill-opacity=".25"'),
        panel.line(hz, middle, "normal"),
        panel.line(hz, value, "signal"),
        panel.dots(hz[outside], value[outside], "alarm"),
    ]
    return drawing(WIDTH, 190, parts, alt)
