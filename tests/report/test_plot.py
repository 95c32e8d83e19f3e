"""Drawings written by hand: places by arithmetic, the PNG by another reader, labels that do not touch."""

import io
import re
from xml.etree import ElementTree as ET

import matplotlib
import numpy as np
import pytest
from markupsafe import Markup
from matplotlib.image import imread

from vibray.features.cwt_image import CwtImage, CwtImageConfig
from vibray.report.axes import text_width
from vibray.report.data import Spectrum
from vibray.report.plot import SIZE, Axis, Panel, drawing, linear_axis, png
from vibray.report.record_figure import map_svg, record_svg, spectrum_svg


def test_a_png_reads_back_as_its_colours() -> None:
    indices = np.random.default_rng(0).integers(0, 256, (5, 7), dtype=np.uint8)
    read = imread(io.BytesIO(png(indices)))
    np.testing.assert_allclose(read[..., :3], matplotlib.colormaps["magma"](indices)[..., :3], atol=1 / 255)


def test_places_are_those_of_the_axes() -> None:
    panel = Panel(10.0, 20.0, 100.0, 50.0, Axis(1.0, 100.0, (), log=True), Axis(-1.0, 1.0, ()))
    assert panel.at(np.array([1.0, 10.0, 100.0]), np.array([-1.0, 0.0, 1.0])) == [(10, 70), (60, 45), (110, 20)]
    assert str(panel.line(np.array([1.0, 100.0]), np.array([-1.0, 1.0]), "ink")).endswith('d="M10.0 70.0L110.0 20.0"/>')


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-83.2, -17.5), (0.0, 4092.0), (1e-9, 3e-9), (5.0, 5.0)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    axis = linear_axis(low, high)
    assert 2 <= len(axis.ticks) <= 8
    steps = np.diff([value for value, _ in axis.ticks])
    assert np.allclose(steps, steps[0]) and float(f"{steps[0]:.0e}") == pytest.approx(steps[0])
    assert all(axis.low - 1e-12 <= value <= axis.high + 1e-12 and float(text) == pytest.approx(value) for value, text in axis.ticks)


def texts(svg: str) -> list[tuple[float, float, float, str]]:
    """(left, right, baseline, text) of each text that is not turned."""
    found = []
    for x, y, anchor, text in re.findall(r'<text x="([\d.-]+)" y="([\d.-]+)"(?: text-anchor="(\w+)")?>([^<]*)', svg):
        left = float(x) - {"": 0.0, "middle": 0.5, "end": 1.0}[anchor] * text_width(text, SIZE)
        found.append((left, left + text_width(text, SIZE), float(y), text))
    return found


def spectrum(hz: np.ndarray, value: np.ndarray, unit: str) -> Spectrum:
    return Spectrum("t", tuple(hz.tolist()), value, value - 20, value - 10, value + 5, unit)


def record(waveform: np.ndarray, sample_rate_hz: float, unit: str, alt: str) -> Markup:
    return record_svg(CwtImage(CwtImageConfig()), waveform.astype(np.float32), sample_rate_hz, unit, alt)[0]


def hz_of(frequencies: np.ndarray) -> tuple[float, ...]:
    return tuple(frequencies.tolist())


DRAWN = {
    "geometric": lambda: map_svg(np.ones((64, 8)), hz_of(np.geomspace(40, 3700, 64)), 1.0, "a"),
    "linear": lambda: map_svg(np.random.default_rng(0).random((256, 32)), hz_of(8.0 + 16 * np.arange(256)), 0.5, "a"),
    "falling": lambda: map_svg(np.ones((8, 8)), hz_of(np.geomspace(4000, 50, 8)), 30.0, "a"),
    "record": lambda: record(np.sin(np.arange(8192.0)), 8192.0, "m/s2 <b>", "a & b"),
    "short": lambda: record(np.zeros(400), 25_600.0, "g", "a"),
    "spectrum": lambda: spectrum_svg(spectrum(np.geomspace(40, 4096, 48), np.linspace(-90, -10, 48), "dB re 1 g"), "a"),
    "flat": lambda: spectrum_svg(spectrum(np.array([100.0, 200.0, 300.0]), np.zeros(3), "dB"), "a"),
}


@pytest.mark.parametrize("name", DRAWN)
def test_labels_do_not_touch_and_stay_inside(name: str) -> None:
    drawn = str(DRAWN[name]())
    ET.fromstring(drawn)
    _, _, width, height = (float(v) for v in re.search(r'viewBox="([^"]*)"', drawn)[1].split())  # type: ignore[index]
    labels = texts(drawn)
    assert len(labels) >= 4
    for i, (left, right, base, _) in enumerate(labels):
        assert left >= 0 and right <= width and 5 < base < height
        for other_left, other_right, other_base, _ in labels[:i]:
            assert right <= other_left or other_right <= left or abs(base - other_base) >= 10


def test_a_map_has_its_lowest_row_at_the_bottom_and_nothing_below_0() -> None:
    values = np.array([[1.0, 1.0], [-5.0, 0.0]])
    for rows_hz, own in (((100.0, 200.0), values), ((200.0, 100.0), values[::-1])):
        drawn = str(map_svg(own, rows_hz, 1.0, "a"))
        assert 'aria-label="a"' in drawn
        assert drawn == str(map_svg(np.maximum(values, 0), (100.0, 200.0), 1.0, "a"))


def test_text_of_the_data_is_text() -> None:
    drawn = str(DRAWN["record"]())
    assert "<b>" not in drawn and 'aria-label="a &amp; b"' in drawn
    assert str(drawing(1, 2, [], '"><script>')).count("<script") == 0


def test_dots_mark_what_is_outside() -> None:
    hz, middle = tuple(np.linspace(0, 1000, 11)), np.zeros(11)
    value = np.where(np.arange(11) == 4, 9.0, np.where(np.arange(11) == 7, -9.0, 0.0))
    drawn = str(spectrum_svg(Spectrum("t", hz, value, middle - 1, middle, middle + 1, "dB"), "a"))
    assert drawn.count("h0") == 2 and "var(--alarm)" in drawn
