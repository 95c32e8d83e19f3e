"""What a benchmark says: cells to standings, standings to tables."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

Cell = Mapping[str, Any]
"""A finished cell: recipe, control, setting (fold, seed, contamination, budget), sizes, figures, identity, notes."""


def standings(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """One row a (recipe, contamination, budget), the highest mean AUROC of a contamination first; ready for JSON.

    A figure is {"mean", "std", "n"} over folds x seeds, std the sample standard deviation (of one cell: None); cells where a figure is not
    defined do not count. `against` is the difference of AUROC to the best control, paired by fold and seed: the control with the highest
    mean AUROC among those of the same contamination that see no labels or as many. A control is compared with the best of the others.
    """
    groups: dict[tuple[str, float, int | None], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell["recipe"], cell["setting"]["contamination"], cell["setting"]["budget"]), []).append(cell)
    rows = [_standing(key, group) for key, group in groups.items()]
    for row in rows:
        rivals = [r for r in rows if r["control"] and r is not row and _comparable(r, row) and r["auroc"]["mean"] is not None]
        best = max(rivals, key=lambda r: r["auroc"]["mean"], default=None)
        row["against"] = None
        if best is not None:
            own, other = (_by_place(groups[_key(r)]) for r in (row, best))
            row["against"] = {"control": _name(best), **_spread([own[place] - other[place] for place in own.keys() & other.keys()])}
    return sorted(rows, key=lambda r: (r["contamination"], -1 if r["auroc"]["mean"] is None else -r["auroc"]["mean"], _name(r)))


def _key(row: Mapping[str, Any]) -> tuple[str, float, int | None]:
    return row["recipe"], row["contamination"], row["budget"]


def _name(row: Mapping[str, Any]) -> str:
    return row["recipe"] if row["budget"] is None else f"{row['recipe']} ({row['budget']} labels)"


def _comparable(control: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    return control["contamination"] == row["contamination"] and control["budget"] in (None, row["budget"])


def _by_place(cells: Iterable[Cell]) -> dict[tuple[int, int], float]:
    found = {(c["setting"]["fold"], c["setting"]["seed"]): c["figures"]["auroc"] for c in cells}
    return {place: value for place, value in found.items() if value is not None}


def _spread(values: Iterable[float | None]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    return {
        "mean": float(np.mean(known)) if known else None,
        "std": float(np.std(known, ddof=1)) if len(known) > 1 else None,
        "n": len(known),
    }


def _standing(key: tuple[str, float, int | None], cells: list[Cell]) -> dict[str, Any]:
    figures = [cell["figures"] for cell in cells]
    faults = sorted({fault for f in figures for fault in f["auroc_by_fault"]})
    identity = [cell["identity"] for cell in cells if cell["identity"]]
    probes = {what: [i[what] for i in identity if i[what]] for what in ("unit", "sensor")}
    return {
        "recipe": key[0],
        "control": cells[0]["control"],
        "contamination": key[1],
        "budget": key[2],
        "num_cells": len(cells),
        "num_noted": sum(bool(cell["notes"]) for cell in cells),
        "pool": _spread(cell["sizes"]["pool"] for cell in cells),
        "pool_faults": _spread(cell["sizes"]["pool_faults"] for cell in cells),
        **{name: _spread(f[name] for f in figures) for name in ("auroc", "auprc", "prevalence", "partial_auroc")},
        "auroc_over_sensors": _spread(f.get("auroc_over_sensors") for f in figures),
        "false_alarms": _spread(None if f["at_cut"] is None else f["at_cut"]["realised_rate"] for f in figures),
        "recall": _spread(None if f["at_cut"] is None else f["at_cut"]["recall"] for f in figures),
        "auroc_by_fault": {fault: _spread(f["auroc_by_fault"].get(fault) for f in figures) for fault in faults},
        "identity": {what: {name: _spread(p[name] for p in found) for name in ("accuracy", "chance")} for what, found in probes.items()},
        "seconds": _spread(cell["seconds"] for cell in cells),
    }


# ---------------------------------------------------------------- tables


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns stand under one another, so that it reads on a terminal too; the first is aligned to the left."""
    widths = [max(3, len(name), *(len(row[i]) for row in rows)) if rows else max(3, len(name)) for i, name in enumerate(columns)]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))) + " |"

    rule = "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return "\n".join([line(columns), rule, *(line(row) for row in rows)])


def figure_text(figure: Mapping[str, Any], signed: bool = False, percent: bool = False) -> str:
    """Mean and spread: .912 (.031)."""
    if figure["mean"] is None:
        return "-"
    if percent:
        return f"{100 * figure['mean']:.2f} %"
    mean = f"{figure['mean']:{'+' if signed else ''}.3f}"
    return mean if figure["std"] is None else f"{mean} ({figure['std']:.3f})"


def main_table(rows: Sequence[Mapping[str, Any]], contamination: float) -> str:
    """Everything that is judged at one contamination."""
    columns = ["recipe", "AUROC", "over sensors", "AUPRC", "prevalence", "pAUC", "false alarms", "recall"]
    columns += ["to best control", "1-NN unit (chance)", "cells"]
    body = []
    for row in rows:
        if row["contamination"] != contamination:
            continue
        unit = row["identity"]["unit"]
        probe = "-" if unit["accuracy"]["mean"] is None else f"{unit['accuracy']['mean']:.2f} ({unit['chance']['mean']:.2f})"
        against = "-" if row["against"] is None else f"{figure_text(row['against'], signed=True)} {row['against']['control']}"
        figures = [figure_text(row[name]) for name in ("auroc", "auroc_over_sensors", "auprc")]
        prevalence = "-" if row["prevalence"]["mean"] is None else f"{row['prevalence']['mean']:.3f}"
        alarms = [figure_text(row[name], percent=True) for name in ("false_alarms", "recall")]
        body.append(
            [
                _name(row) + (" *" if row["control"] else ""),
                *figures,
                prevalence,
                figure_text(row["partial_auroc"]),
                *alarms,
                against,
                probe,
                str(row["num_cells"]) + ("!" if row["num_noted"] else ""),
            ]
        )
    return table(columns, body)


def sweep_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """AUROC by contamination of the pool, for what sees no labels."""
    shares = sorted({row["contamination"] for row in rows})
    found = {(row["recipe"], row["contamination"]): row for row in rows if row["budget"] is None}
    names = list(dict.fromkeys(recipe for recipe, _ in found))
    names.sort(key=lambda name: -np.mean([found[name, s]["auroc"]["mean"] or 0 for s in shares if (name, s) in found]))
    body = [[name, *(figure_text(found[name, s]["auroc"]) if (name, s) in found else "" for s in shares)] for name in names]
    sizes = [next((row for row in rows if row["contamination"] == s), None) for s in shares]
    body.append(["records in the pool", *("" if r is None else f"{r['pool']['mean']:.0f}" for r in sizes)])
    return table(["recipe", *(f"{100 * s:g} % faults" for s in shares)], body)


def fault_table(rows: Sequence[Mapping[str, Any]], contamination: float) -> str:
    """AUROC of each fault against all normal records, at one contamination."""
    here = [row for row in rows if row["contamination"] == contamination]
    faults = sorted({fault for row in here for fault in row["auroc_by_fault"]})
    none = {"mean": None, "std": None}
    return table(["recipe", *faults], [[_name(r), *(figure_text(r["auroc_by_fault"].get(f, none)) for f in faults)] for r in here])


def document(rows: Sequence[Mapping[str, Any]], contamination: float, facts: Sequence[str], failed: Sequence[str]) -> str:
    """benchmark.md: the tables, and what they were made of."""
    parts = [
        "# Benchmark",
        "\n".join(f"* {line}" for line in facts),
        f"## {100 * contamination:g} % faults in the pool",
        main_table(rows, contamination),
        "Mean and, in parentheses, standard deviation over folds x seeds; highest AUROC first. * a control. Over sensors: AUROC of the"
        " mean score of a unit's sensors at one time, - where no time is shared. AUPRC without skill is the prevalence. pAUC: up to a "
        "false-alarm rate of .1, chance .5. False alarms and recall: at the pool's 99th percentile. To best control: difference of "
        "AUROC paired by fold and seed; the folds share training records, so its spread is no standard error. 1-NN: how often the "
        "nearest neighbour of a healthy record, by what the detector is shown, is of its own unit. ! notes stand in benchmark.json.",
        "## AUROC by fault",
        fault_table(rows, contamination),
        "## AUROC by contamination",
        sweep_table(rows),
        "![AUROC of the recipes](benchmark.png)",
    ]
    if failed:
        parts += ["## Cells that failed", "\n".join(f"* {line}" for line in failed)]
    return "\n\n".join(parts) + "\n"
