"""Labels of axes: round, inside, and apart from one another as a font measures them."""

from itertools import pairwise

import numpy as np
import pytest
from markupsafe import Markup
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath

from vibray.report.axes import DAY, HOUR, score_ticks, text_width, time_ticks
from vibray.report.histogram import histogram_svg
from vibray.report.scale import Scale
from vibray.report.sensor_plot import HEIGHT, SIZE, WIDTH, frame, highest_of_bins, sensor_svg
from vibray.report.words import Words

START = 1_709_251_200_000  # 2024-03-01 UTC
SPANS = [60_000, HOUR, 5 * HOUR, 36 * HOUR, 3 * DAY, 17 * DAY, 60 * DAY, 150 * DAY, 400 * DAY, 4000 * DAY]


def measured(text: str, size: float) -> float:
    """As matplotlib's font has it, Latin text alone."""
    return TextToPath().get_text_width_height_descent(text, FontProperties(size=size), ismath=False)[0]


@pytest.mark.parametrize("text", ["0.5", "1,000,000", "Mar 12", "12:30", "Apr 2024", "anomaly ≥ 3.913"])
def test_no_text_is_wider_than_it_is_taken_for(text: str) -> None:
    assert measured(text, 10.5) <= text_width(text, 10.5) < 2 * measured(text, 10.5)
    assert text_width("3月12日", 10) >= 2 * 10 + 3 * 6  # characters as broad as high


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("start", [START, START + 12_345_678])
def test_times_are_round_inside_and_no_more_than_asked(span: int, start: int) -> None:
    ticks = time_ticks(start, start + span, 5, Words())
    assert 1 <= len(ticks) <= 5
    assert all(start <= ms <= start + span and ms % 60_000 == 0 for ms, _ in ticks) or len(ticks) == 1
    assert all(a != b for (_, a), (_, b) in pairwise(ticks))
    if len(ticks) == 5 and span < 100 * DAY:
        assert len(set(np.diff([ms for ms, _ in ticks]).tolist())) == 1


def test_days_and_months_in_both_languages() -> None:
    assert [label for _, label in time_ticks(START, START + 3 * DAY, 5, Words())] == ["Mar 1", "Mar 2", "Mar 3", "Mar 4"]
    assert time_ticks(START, START + 90 * DAY, 3, Words("zh"))[0][1] == "2024年3月"


@pytest.mark.parametrize(
    ("scale", "low", "high", "labels"),
    [
        (Scale("linear"), 0.0, 1.0, ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        (Scale("log"), 0.4, 12.0, ["0.5", "1", "2", "5", "10"]),
        (Scale("log"), 0.01, 5000.0, ["0.01", "0.1", "1", "10", "100", "1000"]),
        (Scale("asinh", 1.0), -50.0, 200.0, ["-10", "-1", "0", "1", "10", "100"]),
    ],
)
def test_scores_are_round(scale: Scale, low: float, high: float, labels: list[str]) -> None:
    assert [label for _, label in score_ticks(scale, low, high, 6)] == labels


@pytest.mark.parametrize("scale", [Scale("linear"), Scale("log"), Scale("asinh", 0.3)])
@pytest.mark.parametrize("factor", [1e-9, 1.0, 3e7])
def test_scores_lie_inside_and_are_few(scale: Scale, factor: float) -> None:
    for low, high in ((1.0, 1.2), (1.0, 30.0), (2.0, 3000.0), (4.0, 4.0)):
        ticks = score_ticks(scale, low * factor, high * factor, 6)
        assert 1 <= len(ticks) <= 6
        assert all(low * factor * (1 - 1e-6) <= score <= high * factor * (1 + 1e-6) for score, _ in ticks)


def boxes(svg: Markup, size: float, width: float, height: float) -> list[tuple[float, float, float, float, str]]:
    """(left, right, top, bottom, text) of each upright label."""
    import xml.etree.ElementTree as ET

    found = []
    for text in ET.fromstring(svg).iter("text"):
        if "transform" in text.attrib:
            continue
        x, y, long = float(text.attrib["x"]), float(text.attrib["y"]), measured(text.text or "", size)
        left = x - {"mid": long / 2, "end": long}.get(text.attrib.get("class", ""), 0.0)
        found.append((left, left + long, y - 0.75 * size, y, text.text or ""))
        assert left >= -0.5 and left + long <= width + 0.5 and 0 <= y <= height
    return found


def apart(found: list[tuple[float, float, float, float, str]]) -> None:
    for i, (left, right, top, bottom, text) in enumerate(found):
        for other in found[i + 1 :]:
            assert right <= other[0] or other[1] <= left or bottom <= other[2] or other[3] <= top, (text, other[4])


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize(("low", "high"), [(0.4, 12.0), (1e-7, 2e6), (1.0, 1.0), (-40.0, 900.0)])
def test_labels_of_a_sensors_drawing_are_apart(span: int, low: float, high: float) -> None:
    times = np.linspace(START, START + span, 40).astype(np.int64)
    scores = np.geomspace(low, high, 40) if low > 0 else np.linspace(low, high, 40)
    on = frame(Scale.of(scores), times, scores, Words())
    drawn = sensor_svg(on, times, scores, scores > 5, 5.0, (low, high), "alt")
    apart(boxes(drawn, SIZE, WIDTH, HEIGHT))


@pytest.mark.parametrize("size", [(760, 280), (360, 250)])
@pytest.mark.parametrize("shares", [(0.0, 0.99), (0.01, 0.02), (0.5, 1.0), (0.999, 1.0), (0.0, 0.0)])
@pytest.mark.parametrize("kind", ["log", "linear", "same", "few"])
def test_labels_of_the_histogram_are_apart(kind: str, shares: tuple[float, float], size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    made = {"log": rng.lognormal(0, 1, 30_000), "linear": rng.standard_normal(3000), "same": np.full(9, 1.0), "few": np.arange(1.0, 6.0)}
    scores = made[kind]
    low, high = np.quantile(scores, shares)
    apart(boxes(histogram_svg(scores, float(low), float(high), *size, Words()), 11, *size))


def test_a_score_is_drawn_where_its_axis_says() -> None:
    """A record at the height of a label's line."""
    times, scores = np.array([START, START + 10 * DAY]), np.array([1.0, 10.0])
    on = frame(Scale("log"), times, scores, Words())
    assert on.y(np.array([10.0])) < on.y(np.array([1.0]))
    middle = on.y(np.array([10.0**0.5]))
    assert middle == pytest.approx((on.y(np.array([1.0])) + on.y(np.array([10.0]))) / 2)
    assert f"M{on.x(times)[1]:.1f} {on.y(scores)[1]:.1f}h0" in sensor_svg(on, times, scores, scores > 5, None, None, "alt")


def test_thinning_keeps_each_bins_highest() -> None:
    rng = np.random.default_rng(0)
    times = rng.permutation(np.arange(10_000)).astype(np.int64) * 1000
    scores = rng.standard_normal(10_000)
    rows = highest_of_bins(times, scores, 100)
    assert len(rows) == 100
    assert all(a < b for a, b in pairwise(times[rows].tolist()))
    bins = np.minimum((times * (100 / times.max())).astype(int), 99)
    np.testing.assert_array_equal(np.sort(scores[rows]), np.sort([scores[bins == b].max() for b in range(100)]))


def test_few_records_are_all_kept_in_order_of_time() -> None:
    times = np.array([30, 10, 20], np.int64)
    assert highest_of_bins(times, np.zeros(3)).tolist() == [1, 2, 0]
    assert highest_of_bins(times[:0], np.zeros(0)).tolist() == []
    assert highest_of_bins(np.zeros(500, np.int64), np.arange(500.0)).tolist() == [499]
