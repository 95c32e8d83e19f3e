"""A benchmark in one figure: AUROC with its spread, by contamination, by number of labels."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from vibray.report.figures import ACCENT, INK, MUTED, figure, png, quiet

Rows = Sequence[Mapping[str, Any]]

SHADES = "#1f5f8b", "#c2410c", "#3b8a63", "#7a4fa3", "#b08a00", "#00838f", "#a1343c", "#5b6b3a"
"""Line colours of recipes in turn; controls are grey and dashed."""


def benchmark_png(rows: Rows, contamination: float) -> bytes:
    """A PNG file; `rows` are report/benchmark.py's standings."""
    main = [row for row in rows if row["contamination"] == contamination and row["auroc"]["mean"] is not None]
    by_labels = [row for row in main if row["budget"]]
    several = len({row["contamination"] for row in rows}) > 1
    panels = 1 + several + bool(by_labels)
    drawn = figure(330 * panels + 150, max(240, 22 * len(main) + 90), left=170, right=10, top=26)
    axes = [quiet(a) for a in drawn.subplots(1, panels, squeeze=False)[0]]
    drawn.subplots_adjust(wspace=0.3)
    _bars(axes[0], main, contamination)
    if several:
        _lines(axes[1], [row for row in rows if row["budget"] is None], "contamination", "faults in the pool")
    if by_labels:
        _lines(axes[-1], by_labels, "budget", "labels")
    return png(drawn)


def _bars(axes: Axes, rows: Rows, contamination: float) -> None:
    for place, row in enumerate(reversed(rows)):
        colour = MUTED if row["control"] else ACCENT
        axes.errorbar(row["auroc"]["mean"], place, xerr=row["auroc"]["std"] or 0, color=colour, marker="o", markersize=5, capsize=3)
    names = [row["recipe"] if row["budget"] is None else f"{row['recipe']}, {row['budget']} labels" for row in reversed(rows)]
    axes.set_yticks(range(len(rows)), names)
    axes.axvline(0.5, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
    axes.set_xlabel("AUROC, mean and standard deviation (grey: controls)", color=INK)
    axes.set_title(f"{100 * contamination:g} % faults in the pool", color=INK, size=10.5)


def _lines(axes: Axes, rows: Rows, key: str, label: str) -> None:
    shades = iter(SHADES * 8)
    ends = []
    for name in dict.fromkeys(row["recipe"] for row in rows):
        own = sorted((r for r in rows if r["recipe"] == name and r["auroc"]["mean"] is not None), key=lambda r: r[key])
        if own:
            style: dict[str, Any] = {"color": MUTED, "linestyle": (0, (4, 2))} if own[0]["control"] else {"color": next(shades)}
            x, y = [row[key] for row in own], [row["auroc"]["mean"] for row in own]
            axes.plot(x, y, marker=".", linewidth=1.4, **style)
            ends.append((y[-1], x[-1], name, style["color"]))
    low, high = axes.get_xlim()
    axes.set_xlim(low, high + 0.45 * (high - low))  # room for the names
    step, place = 0.055 * (axes.get_ylim()[1] - axes.get_ylim()[0]), -1.0
    for y, x, name, colour in sorted(ends):
        place = max(y, place + step)  # names of lines that end together stand one above the other
        axes.annotate(f"  {name}", (x, place), color=colour, size=8, va="center", annotation_clip=False)
    axes.set_xticks(sorted({row[key] for row in rows}))
    axes.set_xlabel(label, color=INK)
    axes.set_title("AUROC", color=INK, size=10.5)
