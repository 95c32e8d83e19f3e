"""A search as one self-contained HTML file, and as a section of the report."""

from collections.abc import Mapping
from typing import Any

from vibray.report.search import Trials, setting_text, time_text, value_text, verdict_text
from vibray.report.search_figures import front_svg, history_svg, importance_svg, slices_svg
from vibray.report.templating import environment
from vibray.report.words import ENGLISH


def search_context(plan: Mapping[str, Any], trials: Trials, summary: Mapping[str, Any]) -> dict[str, Any]:
    """What search_section.html.j2 shows."""
    objective = summary["objective"]
    complete = sorted((t for t in trials if t["state"] == "complete"), key=lambda t: (-t["values"][0], t["number"]))
    return {
        "objective": objective,
        "num_folds": plan["num_folds"],
        "num_trials": len(trials),
        "num_complete": len(complete),
        "time": time_text(summary["seconds"]),
        "winner": next(trial for trial in trials if trial["number"] == summary["winner"]),
        "verdict": verdict_text(summary),
        "complete": complete,
        "ended": [t for t in trials if t["state"] != "complete"],
        "names": list(dict.fromkeys(name for t in trials for name in t["params"])),
        "history": history_svg(trials, objective),
        "importance": importance_svg(summary["importance"]) if summary["importance"] else None,
        "slices": slices_svg(trials, objective, list(summary["importance"])) if any(t["params"] for t in complete) else None,
        "front": front_svg(trials, objective, summary["front"]) if summary["front"] else None,
        "front_numbers": summary["front"],
        "value_text": value_text,
        "setting_text": setting_text,
    }


def search_page(plan: Mapping[str, Any], trials: Trials, summary: Mapping[str, Any]) -> str:
    """search.html."""
    return environment().get_template("search.html.j2").render(search=search_context(plan, trials, summary), t=ENGLISH)
