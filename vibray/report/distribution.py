"""How the scores are distributed, with the cuts."""

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from vibray.report.figures import ALARM, INK, MUTED, NORMAL, figure, png, quiet, svg
from vibray.report.scale import Scale

NUM_BINS = 90


def _draw(scores: np.ndarray, normal_below: float | int | None, anomaly_above: float | int | None, width: int, height: int) -> Figure:
    scale = Scale.of(scores)
    drawn = figure(width, height)
    axes = quiet(drawn.add_subplot())
    axes.grid(False, axis="x")
    if scores.size:
        edges = scale.edges(scores, min(NUM_BINS, max(10, scores.size // 4)))
        counts = np.histogram(scores, edges)[0]
        middle = scale.back((scale.forward(edges[1:]) + scale.forward(edges[:-1])) / 2)
        above = middle >= (np.inf if anomaly_above is None else anomaly_above)
        below = ~above & (middle <= (-np.inf if normal_below is None else normal_below))
        for part, colour in ((below, NORMAL), (~above & ~below, MUTED), (above, ALARM)):
            if part.any():
                axes.stairs(np.where(part, counts, 0), edges, fill=True, color=colour, linewidth=0, alpha=0.85)
        if scores.size > 200:
            axes.set_yscale("log")  # one record in ten thousand is what the reader looks for
            axes.set_ylim(bottom=0.6)
            axes.yaxis.set_major_formatter("{x:,.0f}")
    top = axes.get_ylim()[1]
    for cut, colour, name, side in ((normal_below, NORMAL, "normal ≤", "right"), (anomaly_above, ALARM, "anomaly ≥", "left")):
        if cut is not None and not (scale.kind == "log" and cut <= 0):
            axes.axvline(cut, color=colour, linewidth=1.4, linestyle=(0, (4, 2)))
            text = f" {name} {cut:.4g} "
            axes.annotate(text, (cut, top), color=INK, size=10.5, ha=side, va="bottom", annotation_clip=False, parse_math=False)
    scale.apply(axes, "x")
    axes.set_xlabel("score (the higher, the more abnormal)", color=INK)
    axes.set_ylabel("records", color=INK)
    return drawn


def _finite(scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores, np.float64)
    return scores[np.isfinite(scores)]


def score_distribution_png(scores: np.ndarray, normal_below: float | int | None, anomaly_above: float | int | None) -> bytes:
    """A PNG file with the histogram of `scores` (records,) and both cuts; logarithmic axes where the scores are skewed."""
    return png(_draw(_finite(scores), normal_below, anomaly_above, 640, 320))


def score_distribution_svg(
    scores: np.ndarray, normal_below: float | int | None, anomaly_above: float | int | None, width: int, height: int
) -> Markup:
    """The same histogram for the page, `width` by `height` CSS pixels."""
    alt = f"Histogram of {scores.size:,} scores"
    alt += "" if normal_below is None else f"; normal at or below {normal_below:.4g}"
    alt += "" if anomaly_above is None else f"; anomaly at or above {anomaly_above:.4g}"
    return svg(_draw(_finite(scores), normal_below, anomaly_above, width, height), alt)
