"""How the scores are distributed, with the cuts, as SVG for the page. (distribution.py has the PNG of a decisions folder.)"""

import numpy as np
from jaxtyping import Float64
from markupsafe import Markup, escape

from vibray.report.axes import score_ticks, text_width
from vibray.report.scale import Scale
from vibray.report.words import Words

NUM_BINS = 90
LEFT, RIGHT, BOTTOM, LINE, SIZE, GAP = 52, 10, 38, 14, 11, 6
"""CSS pixels, as are all lengths here."""
LOGARITHMIC = 200
"""From so many records on the counts are logarithmic: one record in ten thousand is what the reader looks for."""


def histogram_svg(
    scores: Float64[np.ndarray, " records"],
    normal_below: float | int | None,
    anomaly_above: float | int | None,
    width: int,
    height: int,
    t: Words,
) -> Markup:
    """Finite `scores`, at least one."""
    scale = Scale.of(scores)
    edges = scale.edges(scores, min(NUM_BINS, max(10, scores.size // 4)))
    counts = np.histogram(scores, edges)[0]
    along = scale.forward(edges)
    cuts = [(cut, name, text, before) for cut, name, text, before in (
        (normal_below, "normal", t.plain("normal ≤ {cut}", cut=f"{normal_below or 0:.4g}"), True),
        (anomaly_above, "alarm", t.plain("anomaly ≥ {cut}", cut=f"{anomaly_above or 0:.4g}"), False),
    ) if cut is not None and not (scale.kind == "log" and cut <= 0)]  # fmt: skip
    ends = np.array([along[0], along[-1], *(float(scale.forward(np.float64(cut))) for cut, *_ in cuts)])
    margin = 0.02 * float(np.ptp(ends))
    low, high = float(ends.min()) - margin, float(ends.max()) + margin

    def x(place: float) -> float:
        return LEFT + (width - LEFT - RIGHT) * (place - low) / (high - low)

    named, num_lines = _names([(x(float(scale.forward(np.float64(cut)))), name, text, before) for cut, name, text, before in cuts], width)
    top = 8 + LINE * num_lines
    tall = height - BOTTOM - top
    logarithmic = scores.size > LOGARITHMIC
    most = float(counts.max())

    def y(num: float) -> float:
        share = np.log(num / 0.6) / np.log(most * 1.1 / 0.6) if logarithmic else num / (most * 1.05)
        return height - BOTTOM - tall * max(0.0, float(share))

    middle = scale.back((along[1:] + along[:-1]) / 2)
    bars: dict[str, list[str]] = {"normal": [], "between": [], "alarm": []}
    for count, left, right, at in zip(counts.tolist(), along[:-1].tolist(), along[1:].tolist(), middle.tolist(), strict=True):
        if count:
            kind = "alarm" if anomaly_above is not None and at >= anomaly_above else "between"
            kind = "normal" if kind == "between" and normal_below is not None and at <= normal_below else kind
            bars[kind].append(f"M{x(left):.1f} {height - BOTTOM}V{y(count):.1f}H{x(right):.1f}V{height - BOTTOM}z")
    rows = [_counts_axis(most, logarithmic, y, width), _score_axis(scale, low, high, x, width, height)]
    rows += [f'<path class="{kind}" d="{"".join(path)}"/>' for kind, path in bars.items() if path]
    rows += [f'<line class="cut {name}" x1="{at:.1f}" x2="{at:.1f}" y1="{top - 4}" y2="{height - BOTTOM}"/>' for at, name, *_ in named]
    rows += [f'<text x="{left:.1f}" y="{top - 8 - LINE * line}">{escape(text)}</text>' for _, _, text, left, line in named]
    rows.append(f'<text class="mid" x="{(LEFT + width - RIGHT) / 2}" y="{height - 5}">{t("score (the higher, the more abnormal)")}</text>')
    rows.append(f'<text class="mid" transform="translate(11 {top + tall / 2:.0f}) rotate(-90)">{t("records")}</text>')
    alt = "; ".join([t.plain("Histogram of {n} scores", n=f"{scores.size:,}"), *(text for _, _, text, _ in cuts)])
    return Markup(f'<svg class="plot hist" role="img" aria-label="{escape(alt)}" viewBox="0 0 {width} {height}">{"".join(rows)}</svg>')


def _names(cuts: list[tuple[float, str, str, bool]], width: int) -> tuple[list[tuple[float, str, str, float, int]], int]:
    """(place of the cut, class, text, left end of the text, line above the axes): within the figure, a line higher where two would meet."""
    found, line, free_from = [], 0, 0.0
    for at, name, text, before in cuts:
        length = text_width(text, SIZE)
        left = max(0.0, min(at - length - GAP if before else at + GAP, width - length))
        line = line + 1 if left < free_from else 0
        free_from = left + length + GAP
        found.append((at, name, text, left, line))
    return found, 1 + max((line for *_, line in found), default=-1)


def _counts_axis(most: float, logarithmic: bool, y, width: int) -> str:
    ticks = [10.0**e for e in range(int(np.log10(most)) + 1)] if logarithmic else sorted({0.0, *(float(round(most * s)) for s in (0.5, 1))})
    lines = [f'<line x1="{LEFT}" x2="{width - RIGHT}" y1="{y(n):.1f}" y2="{y(n):.1f}"/>' for n in ticks]
    texts = [f'<text class="end" x="{LEFT - 6}" y="{y(n) + 4:.1f}">{n:,.0f}</text>' for n in ticks]
    return f'<g class="ground">{"".join([*lines, *texts])}</g>'


def _score_axis(scale: Scale, low: float, high: float, x, width: int, height: int) -> str:
    ends, free_from, rows = scale.back(np.array([low, high])), 0.0, []
    for score, label in score_ticks(scale, float(ends[0]), float(ends[1]), max(2, width // 75)):
        at, half = x(float(scale.forward(np.float64(score)))), text_width(label, SIZE) / 2
        left = min(max(at, half), width - half) - half
        rows.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{height - BOTTOM}" y2="{height - BOTTOM + 4}"/>')
        if left >= free_from:
            rows.append(f'<text class="mid" x="{left + half:.1f}" y="{height - BOTTOM + 16}">{label}</text>')
            free_from = left + 2 * half + GAP
    return f'<g class="ground">{"".join(rows)}</g>'
