"""Scores over time: the whole corpus as counts, and one small figure a sensor."""

from datetime import UTC, datetime

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.dates import HOURLY, MINUTELY, AutoDateLocator, ConciseDateFormatter, date2num

from vibray.report.figures import ACCENT, ALARM, INK, MUTED, figure, quiet, svg
from vibray.report.scale import Scale

NUM_POINTS = 160
"""Points of a sensor: above, one a bin of time, its highest, so that no alarm is thinned away."""


def highest_of_bins(times: np.ndarray, scores: np.ndarray, num_bins: int = NUM_POINTS) -> np.ndarray:
    """Places of the records to draw, in order of time: all where they are few, else the highest of each of `num_bins` bins of time."""
    by_time = np.argsort(times, kind="stable")
    if times.size <= num_bins:
        return by_time
    first, last = times[by_time[[0, -1]]].astype(np.float64)
    place = np.minimum(((times[by_time] - first) * (num_bins / max(last - first, 1.0))).astype(int), num_bins - 1)
    order = np.lexsort((scores[by_time], place))  # the highest of a bin comes last
    last_of_bin = np.flatnonzero(np.diff(place[order], append=num_bins))
    return by_time[order[last_of_bin]]


def _days(times: np.ndarray) -> np.ndarray:
    return np.asarray(date2num(times.astype("datetime64[ms]")))


def _date_axis(axes: Axes, span: tuple[float, float], num_ticks: int) -> None:
    low, high = span
    edge = max((high - low) * 0.02, 1e-4)
    axes.set_xlim(low - edge, high + edge)
    locator = AutoDateLocator(minticks=2, maxticks=num_ticks, tz=UTC)
    # or nothing fits 4 ticks to a span of 36 to 48 hours, or of 90 to 120 minutes
    locator.intervald[HOURLY] = [*locator.intervald[HOURLY], 24]
    locator.intervald[MINUTELY] = [*locator.intervald[MINUTELY], 60]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=UTC, show_offset=False))


def sensor_svg(
    times: np.ndarray,
    scores: np.ndarray,
    alarm: np.ndarray,
    cut: float | int | None,
    scale: Scale,
    span: tuple[np.ndarray, np.ndarray],
    alt: str,
) -> Markup:
    """Scores of one sensor; all sensors share the axes.

    `times` (records,) int64 ms since 1970 UTC, `scores` (records,), `alarm` (records,) bool; `span` the corpus' (first, last) time and
    (lowest, highest) score.
    """
    drawn = figure(300, 128, left=40, bottom=20, top=6)
    axes = quiet(drawn.add_subplot(), 9.5)
    rows = highest_of_bins(times, scores)
    loud = np.flatnonzero(alarm)[highest_of_bins(times[alarm], scores[alarm])]
    axes.plot(_days(times[rows]), scores[rows], "o", markersize=2.3, color=ACCENT, markeredgewidth=0)
    axes.plot(_days(times[loud]), scores[loud], "o", markersize=4.2, color=ALARM, markeredgewidth=0)
    if cut is not None:
        axes.axhline(cut, color=ALARM, linewidth=1, linestyle=(0, (4, 2)))
    first, last = _days(span[0])
    _date_axis(axes, (float(first), float(last)), 4)
    _score_axis(axes, scale, span[1])
    return svg(drawn, alt)


def _score_axis(axes: Axes, scale: Scale, span: np.ndarray) -> None:
    low, high = scale.forward(np.asarray(span, np.float64))
    margin = max((high - low) * 0.06, 1e-9 * max(abs(low), abs(high), 1.0))
    axes.set_ylim(*scale.back(np.array([low - margin, high + margin])))
    scale.apply(axes, "y")


def corpus_svg(times: np.ndarray, scores: np.ndarray, cut: float | int | None, scale: Scale, width: int, height: int) -> Markup:
    """All records over time and score, as counts: what the whole fleet does at once (weather, a grid event) stands out from one machine."""
    drawn = figure(width, height, bottom=22, top=8)
    axes = quiet(drawn.add_subplot())
    days = _days(times)
    edges = scale.edges(scores, 48)
    columns = np.linspace(days.min(), max(days.max(), days.min() + 1e-3), int(width / 5) + 1)
    counts = np.histogram2d(days, scores, (columns, edges))[0].T
    low, high = scale.forward(edges[[0, -1]])
    # one image instead of thousands of cells: drawn along the axis' own places, the labels written by hand of the scale below
    image = np.ma.masked_equal(counts, 0)
    ground = axes.inset_axes((0, 0, 1, 1))
    shades = LogNorm(0.5, max(counts.max(), 1))
    extent = (columns[0], columns[-1], low, high)
    ground.imshow(image, cmap="viridis", norm=shades, extent=extent, origin="lower", aspect="auto", interpolation="none")
    ground.set_axis_off()
    axes.set_ylim(edges[0], edges[-1])
    scale.apply(axes, "y")
    _date_axis(axes, (float(columns[0]), float(columns[-1])), 8)
    axes.set_xlim(columns[0], columns[-1])
    axes.grid(False)
    if cut is not None:
        axes.axhline(cut, color=ALARM, linewidth=1.2, linestyle=(0, (4, 2)))
    axes.set_ylabel("score", color=INK)
    axes.tick_params(axis="both", colors=INK)
    axes.spines["left"].set_color(MUTED)
    first, last = (datetime.fromtimestamp(int(t) / 1000, UTC).date() for t in (times.min(), times.max()))
    return svg(drawn, f"Counts of {times.size:,} records by time, {first} to {last}, and score")
