"""How the scores are distributed, with the cuts, as SVG for the page. (distribution.py has the PNG of a decisions folder.)"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from markupsafe import Markup, escape

from vibray.report.axes import score_ticks, text_width
from vibray.report.scale import Scale
from vibray.report.words import Words

NUM_BINS = 90
LEFT, RIGHT, BOTTOM, LINE, SIZE, GAP = 52, 10, 38, 14, 11, 6
"""CSS pixels, as are all lengths here."""
LOGARITHMIC = 200
"""From so many records on the counts are logarithmic: one record in ten thousand is what the reader looks for."""
LOWEST = 0.6
"""Where a logarithmic axis of counts begins, so that one record has a height."""


@dataclass(frozen=True)
class _Axes:
    """Where a score and a count stand in the figure."""

    scale: Scale
    width: int
    height: int
    top: int
    low: float
    """along the scale's axis"""
    high: float
    most: float
    logarithmic: bool

    def x(self, place: float | int) -> float:
        return LEFT + (self.width - LEFT - RIGHT) * (place - self.low) / (self.high - self.low)

    def y(self, num: float | int) -> float:
        if self.logarithmic:
            share = float(np.log(max(num, LOWEST) / LOWEST) / np.log(self.most * 1.1 / LOWEST))
        else:
            share = num / (self.most * 1.05)
        return self.bottom - (self.bottom - self.top) * share

    @property
    def bottom(self) -> int:
        return self.height - BOTTOM


@dataclass(frozen=True)
class _Cut:
    """A cut and its name above the axes: `left` end and `line` of the text."""

    score: float | int
    kind: str
    text: str
    left: float
    line: int


def histogram_svg(
    scores: Float[np.ndarray, " records"],
    normal_below: float | int | None,
    anomaly_above: float | int | None,
    width: int,
    height: int,
    t: Words,
) -> Markup:
    """Finite `scores`, at least one."""
    scale = Scale.of(scores)
    edges = scale.edges(scores, min(NUM_BINS, max(10, scores.size // 4)))
    counts, along = np.histogram(scores, edges)[0], scale.forward(edges)
    drawn = [cut for cut in (normal_below, anomaly_above) if cut is not None and not (scale.kind == "log" and cut <= 0)]
    ends = np.array([along[0], along[-1], *map(scale.at, drawn)])
    margin = 0.02 * float(np.ptp(ends))
    low, high = float(ends.min()) - margin, float(ends.max()) + margin
    on = _Axes(scale, width, height, 8, low, high, float(counts.max()), scores.size > LOGARITHMIC)
    cuts = []
    if normal_below in drawn and normal_below is not None:
        cuts.append(_named(on, cuts, normal_below, "normal", t.plain("normal ≤ {cut}", cut=f"{normal_below:.4g}")))
    if anomaly_above in drawn and anomaly_above is not None:
        cuts.append(_named(on, cuts, anomaly_above, "alarm", t.plain("anomaly ≥ {cut}", cut=f"{anomaly_above:.4g}")))
    on = _Axes(scale, width, height, 8 + LINE * (1 + max((cut.line for cut in cuts), default=-1)), low, high, on.most, on.logarithmic)
    rows = [_counts_axis(on), _score_axis(on), *_bars(on, counts, along, normal_below, anomaly_above)]
    for cut in cuts:
        x = on.x(scale.at(cut.score))
        rows.append(f'<line class="cut {cut.kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{on.top - 4}" y2="{on.bottom}"/>')
        rows.append(f'<text x="{cut.left:.1f}" y="{on.top - 8 - LINE * cut.line}">{escape(cut.text)}</text>')
    rows.append(f'<text class="mid" x="{(LEFT + width - RIGHT) / 2}" y="{height - 5}">{t("score (the higher, the more abnormal)")}</text>')
    middle = (on.top + on.bottom) / 2
    rows.append(f'<text class="mid" transform="translate(11 {middle:.0f}) rotate(-90)">{t("records")}</text>')
    alt = "; ".join([t.plain("Histogram of {n} scores", n=f"{scores.size:,}"), *(cut.text for cut in cuts)])
    return Markup(f'<svg class="plot hist" role="img" aria-label="{escape(alt)}" viewBox="0 0 {width} {height}">{"".join(rows)}</svg>')


def _named(on: _Axes, before: list[_Cut], score: float | int, kind: str, text: str) -> _Cut:
    """The normal cut's name ends at it, the other's begins there; within the figure, and a line higher where two would meet."""
    length, at = text_width(text, SIZE), on.x(on.scale.at(score))
    left = max(0.0, min(at - length - GAP if kind == "normal" else at + GAP, on.width - length))
    meets = any(left < cut.left + text_width(cut.text, SIZE) + GAP for cut in before)
    return _Cut(score, kind, text, left, 1 if meets else 0)


def _bars(
    on: _Axes, counts: np.ndarray, along: np.ndarray, normal_below: float | int | None, anomaly_above: float | int | None
) -> list[str]:
    """One path for each colour."""
    middle = on.scale.back((along[1:] + along[:-1]) / 2)
    paths: dict[str, list[str]] = {}
    for count, left, right, at in zip(counts.tolist(), along[:-1].tolist(), along[1:].tolist(), middle.tolist(), strict=True):
        if count:
            kind = "alarm" if anomaly_above is not None and at >= anomaly_above else "between"
            kind = "normal" if kind == "between" and normal_below is not None and at <= normal_below else kind
            paths.setdefault(kind, []).append(f"M{on.x(left):.1f} {on.bottom}V{on.y(count):.1f}H{on.x(right):.1f}V{on.bottom}z")
    return [f'<path class="{kind}" d="{"".join(path)}"/>' for kind, path in paths.items()]


def _counts_axis(on: _Axes) -> str:
    ticks = [10.0**e for e in range(int(np.log10(on.most)) + 1)] if on.logarithmic else sorted({0, round(on.most / 2), round(on.most)})
    lines = [f'<line x1="{LEFT}" x2="{on.width - RIGHT}" y1="{on.y(n):.1f}" y2="{on.y(n):.1f}"/>' for n in ticks]
    texts = [f'<text class="end" x="{LEFT - 6}" y="{on.y(n) + 4:.1f}">{n:,.0f}</text>' for n in ticks]
    return f'<g class="ground">{"".join([*lines, *texts])}</g>'


def _score_axis(on: _Axes) -> str:
    ends, free_from, rows = on.scale.back(np.array([on.low, on.high])), 0.0, []
    for score, label in score_ticks(on.scale, float(ends[0]), float(ends[1]), max(2, on.width // 75)):
        at, half = on.x(on.scale.at(score)), text_width(label, SIZE) / 2
        left = min(max(at, half), on.width - half) - half
        rows.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{on.bottom}" y2="{on.bottom + 4}"/>')
        if left >= free_from:
            rows.append(f'<text class="mid" x="{left + half:.1f}" y="{on.bottom + 16}">{label}</text>')
            free_from = left + 2 * half + GAP
    return f'<g class="ground">{"".join(rows)}</g>'
