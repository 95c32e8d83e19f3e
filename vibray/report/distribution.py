"""How the scores are distributed, with the cuts: a decisions folder's PNG. (histogram.py has the page's.)"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath

from vibray.report.figures import ALARM, INK, MUTED, NORMAL, figure, png, quiet
from vibray.report.scale import Scale

NUM_BINS = 90
TOP, LABEL_SIZE, LINE_HEIGHT, GAP = 18, 10.5, 13, 6
"""CSS pixels, as are all lengths here: the margin above the axes, the cuts' names in it, what lies between a name and its cut."""


def _draw(scores: np.ndarray, normal_below: float | int | None, anomaly_above: float | int | None, width: int, height: int) -> Figure:
    scale = Scale.of(scores)
    drawn = figure(width, height, top=TOP)
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
    names = []
    for cut, colour, name, before in ((normal_below, NORMAL, "normal ≤", True), (anomaly_above, ALARM, "anomaly ≥", False)):
        if cut is not None and not (scale.kind == "log" and cut <= 0):
            axes.axvline(cut, color=colour, linewidth=1.4, linestyle=(0, (4, 2)))
            names.append((f"{name} {cut:.4g}", float(cut), before))
    scale.apply(axes, "x")
    axes.get_xlim()  # or the places of the cuts would be those before their lines were drawn
    _name_cuts(drawn, axes, names, width)
    axes.set_xlabel("score (the higher, the more abnormal)", color=INK)
    axes.set_ylabel("records", color=INK)
    return drawn


def _name_cuts(drawn: Figure, axes: Axes, names: list[tuple[str, float, bool]], width: int) -> None:
    """Writes (text, cut, whether it ends at the cut) above the axes, each within the figure, and one line higher where two would meet."""
    line, free_from, font = 0, 0.0, FontProperties(size=LABEL_SIZE)
    for text, cut, before in names:
        length = TextToPath().get_text_width_height_descent(text, font, ismath=False)[0]
        at = axes.transData.transform((cut, 1))[0] * 72 / drawn.dpi
        left = max(0.0, min(at - length - GAP if before else at + GAP, width - length))
        line = line + 1 if left < free_from else 0
        free_from = left + length + GAP
        place = {"xycoords": ("figure points", "axes fraction"), "xytext": (0, LINE_HEIGHT * line + 2), "textcoords": "offset points"}
        axes.annotate(text, (left, 1), **place, color=INK, size=LABEL_SIZE, va="bottom", annotation_clip=False, parse_math=False)
    drawn.subplots_adjust(top=1 - (TOP + LINE_HEIGHT * line) / drawn.get_figheight() / 72)


def _finite(scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores)
    known = np.isfinite(scores)
    return scores if known.all() else scores[known]


def score_distribution_png(scores: np.ndarray, normal_below: float | int | None, anomaly_above: float | int | None) -> bytes:
    """A PNG file with the histogram of `scores` (records,) and both cuts; logarithmic axes where the scores are skewed."""
    return png(_draw(_finite(scores), normal_below, anomaly_above, 640, 320))
