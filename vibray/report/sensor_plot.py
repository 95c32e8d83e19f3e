"""One sensor's scores over time, written by hand: small SVGs cost a twentieth of matplotlib's."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from markupsafe import Markup, escape

from vibray.report.axes import score_ticks, text_width, time_ticks
from vibray.report.scale import Scale
from vibray.report.words import Words

WIDTH, HEIGHT = 300, 124
LEFT, RIGHT, TOP, BOTTOM = 44, 8, 6, 20
SIZE = 10.5
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


@dataclass(frozen=True)
class Frame:
    """The axes that all sensors share, and their labels: drawn once, placed many times."""

    scale: Scale
    first_ms: int
    last_ms: int
    low: float
    """along the scale's axis"""
    high: float
    ground: Markup

    def x(self, times_ms: Int64[np.ndarray, " _"]) -> Float64[np.ndarray, " _"]:
        return LEFT + (WIDTH - LEFT - RIGHT) * (times_ms - self.first_ms) / max(1, self.last_ms - self.first_ms)

    def y(self, scores: Float64[np.ndarray, " _"]) -> Float64[np.ndarray, " _"]:
        share = (self.scale.forward(scores) - self.low) / (self.high - self.low)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share


def frame(scale: Scale, times_ms: Int64[np.ndarray, " records"], scores: Float64[np.ndarray, " records"], t: Words) -> Frame:
    """Axes from the first to the last time and from the lowest to the highest score, with a margin."""
    low, high = scale.forward(np.array([scores.min(), scores.max()]))
    margin = max((high - low) * 0.06, 1e-9 * max(abs(low), abs(high), 1.0))
    first, last = int(times_ms.min()), int(times_ms.max())
    edge = max(int((last - first) * 0.02), 5_000)
    empty = Frame(scale, first - edge, last + edge, float(low - margin), float(high + margin), Markup(""))
    ends = scale.back(np.array([empty.low, empty.high]))
    rows, free_above = [], HEIGHT
    for score, label in score_ticks(scale, float(ends[0]), float(ends[1]), 6):
        y = float(empty.y(np.array([score]))[0])
        rows.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        if y <= free_above:  # a label needs its height
            rows.append(f'<text class="end" x="{LEFT - 4}" y="{y + 3.5:.1f}">{label}</text>')
            free_above = y - 1.3 * SIZE
    free_from = 0.0
    for ms, label in time_ticks(first, last, 5, t):
        x, half = float(empty.x(np.array([ms]))[0]), text_width(label, SIZE) / 2
        rows.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        at = min(max(x, half), WIDTH - half)
        if at - half >= free_from:
            rows.append(f'<text class="mid" x="{at:.1f}" y="{HEIGHT - 6}">{label}</text>')
            free_from = at + half + SIZE / 2
    return Frame(scale, empty.first_ms, empty.last_ms, empty.low, empty.high, Markup(f'<g class="ground">{"".join(rows)}</g>'))


def sensor_svg(
    on: Frame,
    times_ms: Int64[np.ndarray, " records"],
    scores: Float64[np.ndarray, " records"],
    alarm: Bool[np.ndarray, " records"],
    cut: float | int | None,
    usual: tuple[float, float] | None,
    alt: str,
    num_points: int = NUM_POINTS,
) -> Markup:
    """Scores of one sensor, `num_points` of them and of its alarms at most; `usual` is the range of its reference, drawn as a band, the cut
    as a dashed line, alarms larger."""
    drawn = [on.ground]
    if usual is not None:
        high, low = on.y(np.array(usual[::-1]))
        size = f'width="{WIDTH - LEFT - RIGHT}" height="{max(low - high, 1):.1f}"'
        drawn.append(Markup(f'<rect class="usual" x="{LEFT}" y="{high:.1f}" {size}/>'))
    if cut is not None and (on.scale.kind != "log" or cut > 0):
        y = float(on.y(np.array([float(cut)]))[0])
        if TOP <= y <= HEIGHT - BOTTOM:
            drawn.append(Markup(f'<line class="cut" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'))
    for name, rows in (("dots", np.flatnonzero(~alarm)), ("loud", np.flatnonzero(alarm))):
        rows = rows[highest_of_bins(times_ms[rows], scores[rows], num_points)]
        path = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in zip(on.x(times_ms[rows]).tolist(), on.y(scores[rows]).tolist(), strict=True))
        if path:
            drawn.append(Markup(f'<path class="{name}" d="{path}"/>'))
    return Markup(f'<svg class="plot" role="img" aria-label="{escape(alt)}" viewBox="0 0 {WIDTH} {HEIGHT}">{"".join(drawn)}</svg>')
