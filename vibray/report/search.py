"""What a search says: trials to tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from vibray.report.benchmark import table

Trials = Sequence[Mapping[str, Any]]
"""Finished trials by number, as their files have them."""

SHOWN = 40
"""Trials in the table that is printed, the best first."""


def trial_table(trials: Trials, objective: str, limit: int = SHOWN) -> str:
    """The best trials first, then those that were ended early by how far they came."""
    complete = sorted((t for t in trials if t["state"] == "complete"), key=lambda t: (-t["values"][0], t["number"]))
    pruned = sorted((t for t in trials if t["state"] != "complete"), key=lambda t: (-t["clock"], t["number"]))
    names = list(dict.fromkeys(name for t in trials for name in t["params"]))
    cost = any(t.get("mflop") is not None for t in complete)
    columns = [
        "trial",
        objective,
        *(["AUROC"] if objective != "auroc" else []),
        "F1",
        "cut",
        *(["MFLOP"] if cost else []),
        "s",
        *names,
        "end",
    ]
    body = []
    for trial in [*complete, *pruned][:limit]:
        best = trial.get("best_setting")
        value = f"{trial['values'][0]:.4f}" if trial["state"] == "complete" else _reached(trial)
        area = [_mean_auroc(trial)] if objective != "auroc" else []
        flops = [f"{trial['mflop']:.2f}" if trial.get("mflop") is not None else "-"] if cost else []
        spent = sum(trial["seconds"].get(what, 0.0) for what in ("training", "evaluation"))
        drawn = [value_text(trial["params"].get(name)) for name in names]
        f1 = "-" if best is None or best["f1"] is None else f"{best['f1']:.3f}"
        end = "" if trial["state"] == "complete" else f"{trial['cause']} at {trial['clock']}"
        body.append([str(trial["number"]), value, *area, f1, setting_text(best), *flops, f"{spent:.1f}", *drawn, end])
    more = f"\nand {len(trials) - limit} more in trials/" if len(trials) > limit else ""
    return table(columns, body) + more


def _reached(trial: Mapping[str, Any]) -> str:
    """What a trial was worth when it was ended, in parentheses."""
    told = trial["rungs"]
    return f"({told[max(told, key=int)]:.4f})" if told else "-"


def _mean_auroc(trial: Mapping[str, Any]) -> str:
    known = [fold["auroc"] for fold in trial["folds"] if fold["auroc"] is not None]
    return f"{sum(known) / len(known):.4f}" if known else "-"


def value_text(value: Any) -> str:
    """A drawn value, short; empty where the trial did not draw it."""
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def setting_text(row: Mapping[str, Any] | None) -> str:
    """A threshold setting, short: percentile 99."""
    if row is None:
        return "-"
    setting = row["setting"]
    return f"{setting['kind']} {setting['anomaly' if 'anomaly' in setting else 'q']:g}"


def threshold_rows(trial: Mapping[str, Any]) -> str:
    """The table of a trial's threshold settings, the highest F1 first."""

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    rows = sorted(trial["thresholds"], key=lambda row: -1.0 if row["f1"] is None else row["f1"], reverse=True)
    body = [[setting_text(r), *(number(r[name]) for name in ("f1", "precision", "recall", "realised_rate")), r["reason"]] for r in rows]
    return table(["cut", "F1", "precision", "recall", "false alarms", "no cut where"], body)


def importance_table(importance: Mapping[str, float]) -> str:
    return table(["value", "importance"], [[name, f"{share:.2f}"] for name, share in importance.items()])


def time_text(seconds: Mapping[str, float]) -> str:
    """Where the time went."""
    return (
        f"{seconds['wall']:,.0f} s of wall-clock; trials trained for {seconds['training']:,.0f} s and evaluated for "
        f"{seconds['evaluation']:,.0f} s; {100 * seconds['overhead']:.1f} % of the time was neither"
    )


def verdict_text(summary: Mapping[str, Any]) -> str:
    """What speaks for the winner."""
    if summary["gain"] is None:
        return "No trial has a higher objective."
    error = "" if summary["error"] is None else f", standard error {summary['error']:.4f}"
    said = f"Over the recipe as it is trial {summary['best']} gains {summary['gain']:+.4f}{error}"
    if summary["winner"] == summary["best"]:
        return f"{said}."
    return f"{said}: no more than chance does, so the recipe stays as it is."


def document(plan: Mapping[str, Any], trials: Trials, summary: Mapping[str, Any]) -> str:
    """search.md: the tables, and what they were made of."""
    winner = next(trial for trial in trials if trial["number"] == summary["winner"])
    states = {state: sum(t["state"] == state for t in trials) for state in ("complete", "pruned")}
    parts = [
        "# Search",
        f"{len(trials)} trials, {states['complete']} complete and {states['pruned']} ended early. Objective: {summary['objective']}, "
        f"mean over {plan['num_folds']} folds. {time_text(summary['seconds'])}.",
        f"Winner: trial {winner['number']}, recipe {winner['hash']}. {verdict_text(summary)}",
        trial_table(trials, summary["objective"], len(trials)),
        "In parentheses: what a trial that was ended early was worth then. F1 is the highest of all threshold settings, on the same labels "
        "that chose the setting, mean over the folds; it depends on the share of faults among the labels.",
    ]
    if summary["front"]:
        parts += ["## Front of objective and cost", "Trials that no other beats in both: " + ", ".join(map(str, summary["front"]))]
    if summary["importance"]:
        parts += ["## What mattered", importance_table(summary["importance"]), "Optuna's fANOVA over the complete trials."]
    if winner["thresholds"]:
        parts += ["## Thresholds of the winner", threshold_rows(winner)]
    ended = [t for t in trials if t["state"] != "complete" and t["cause"] != "halving"]
    if ended:
        parts += ["## Trials that failed", "\n".join(f"* {t['number']}: {t['reason']}" for t in ended)]
    return "\n\n".join(parts) + "\n"
