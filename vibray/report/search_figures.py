"""A search in figures: how the best came about, what mattered, where it lies, and what it costs."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes

from vibray.report.figures import ACCENT, INK, MUTED, SIGNAL, figure, quiet, svg

Trials = Sequence[Mapping[str, Any]]

MAX_SLICES = 8
SLICES_IN_A_ROW = 4


def _complete(trials: Trials) -> list[Mapping[str, Any]]:
    return [trial for trial in trials if trial["state"] == "complete"]


def history_svg(trials: Trials, objective: str, width: int = 760, height: int = 260) -> Markup:
    """The objective of each trial by its number, and the best so far; a trial that was ended early stands where it was then."""
    drawn = figure(width, height)
    axes = quiet(drawn.add_subplot())
    complete = _complete(trials)
    axes.plot([t["number"] for t in complete], [t["values"][0] for t in complete], "o", color=ACCENT, markersize=5)
    ended = [(t["number"], t["rungs"][max(t["rungs"], key=int)]) for t in trials if t["state"] != "complete" and t["rungs"]]
    if ended:
        axes.plot(*zip(*ended, strict=True), "x", color=MUTED, markersize=5)
    best, steps = float("-inf"), []
    for trial in complete:
        best = max(best, trial["values"][0])
        steps.append((trial["number"], best))
    axes.plot(*zip(*steps, strict=True), color=INK, linewidth=1.2, drawstyle="steps-post")
    axes.set_xlabel("trial", color=INK)
    axes.set_ylabel(objective, color=INK)
    alt = f"{objective} of {len(complete)} complete trials, {len(ended)} ended early; the best is {best:.4f}"
    return svg(drawn, alt)


def importance_svg(importance: Mapping[str, float], width: int = 420) -> Markup:
    """How much each value moved the objective."""
    names = list(importance)[::-1]
    drawn = figure(width, 40 + 24 * len(names), left=120)
    axes = quiet(drawn.add_subplot())
    axes.barh(names, [importance[name] for name in names], color=ACCENT, height=0.6)
    axes.set_xlabel("importance (fANOVA)", color=INK)
    return svg(drawn, "Importance: " + ", ".join(f"{name} {share:.2f}" for name, share in importance.items()))


def slices_svg(trials: Trials, objective: str, order: Sequence[str], width: int = 760) -> Markup:
    """The objective over each value that was drawn, the most important first."""
    complete = _complete(trials)
    drawn_names = list(dict.fromkeys(name for trial in complete for name in trial["params"]))
    names = sorted(drawn_names, key=lambda name: list(order).index(name) if name in order else len(order))[:MAX_SLICES]
    columns = min(len(names), SLICES_IN_A_ROW)
    rows = -(-len(names) // columns)
    drawn = figure(width, 190 * rows, bottom=44)
    drawn.subplots_adjust(hspace=0.45, wspace=0.3)
    for place, name in enumerate(names):
        axes = quiet(drawn.add_subplot(rows, columns, place + 1), 9)
        _slice(axes, [(t["params"][name], t["values"][0]) for t in complete if name in t["params"]])
        axes.set_xlabel(name, color=INK, fontsize=9)
        if place % columns == 0:
            axes.set_ylabel(objective, color=INK, fontsize=9)
    return svg(drawn, f"{objective} by {', '.join(names)}")


def _slice(axes: Axes, points: list[tuple[Any, float]]) -> None:
    if any(isinstance(value, str) for value, _ in points):
        kinds = sorted({str(value) for value, _ in points})
        axes.plot([kinds.index(str(value)) for value, _ in points], [y for _, y in points], "o", color=ACCENT, markersize=4, alpha=0.7)
        axes.set_xticks(range(len(kinds)), kinds)
        axes.set_xlim(-0.5, len(kinds) - 0.5)
        return
    values = [value for value, _ in points]
    axes.plot(values, [y for _, y in points], "o", color=ACCENT, markersize=4, alpha=0.7)
    if min(values) > 0 and max(values) > 10 * min(values):
        axes.set_xscale("log")


def front_svg(trials: Trials, objective: str, front: Sequence[int], width: int = 520, height: int = 280) -> Markup:
    """Objective over cost; the trials on the front are joined."""
    drawn = figure(width, height)
    axes = quiet(drawn.add_subplot())
    complete = _complete(trials)
    axes.plot([t["mflop"] for t in complete], [t["values"][0] for t in complete], "o", color=MUTED, markersize=4)
    best = sorted((t["mflop"], t["values"][0], t["number"]) for t in complete if t["number"] in front)
    axes.plot([cost for cost, _, _ in best], [value for _, value, _ in best], "o-", color=SIGNAL, markersize=6, drawstyle="steps-post")
    for cost, value, number in best:
        axes.annotate(f" {number}", (cost, value), color=INK, size=9, va="bottom")
    axes.set_xlabel("MFLOP a record", color=INK)
    axes.set_ylabel(objective, color=INK)
    axes.set_xscale("log")
    return svg(drawn, f"{objective} over cost of {len(complete)} trials; {len(best)} of them on the front")
