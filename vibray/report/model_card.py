"""What made the scores, how good it is where that is known, and what it does on machines like these."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vibray.report import formats
from vibray.report.data import ReportData
from vibray.report.expectations import Expected, expected
from vibray.report.words import Words


@dataclass(frozen=True)
class Figure:
    """A figure on the labels given, and its spread: a word on what the spread is of."""

    name: str
    value: str
    spread: str


def facts(data: ReportData) -> list[tuple[str, Any]]:
    """Everything known of the run, None left out."""
    return [(name, value) for name, value in {**data.run, **data.model.trained_on}.items() if value is not None]


def suite_rows(data: ReportData) -> tuple[Expected, ...]:
    """Rows of the development suite for this kind of machine; none where nobody said whether it has a mains frequency."""
    return () if data.model.mains is None else expected(data.model.mains, data.model.num_context)


def figures(data: ReportData, t: Words) -> Iterator[Figure]:
    """The figures a reader asks for first; all of them stand in the section on the labels."""
    metrics = data.metrics or {}
    by_unit = metrics.get("spread_by_unit") or {}
    for name, label in (("auroc", "AUROC"), ("auprc", "AUPRC"), ("partial_auroc", t.plain("partial AUROC"))):
        if metrics.get(name) is None:
            continue
        interval, std = (by_unit.get(name) or {}).get("interval"), metrics.get("auroc_std") if name == "auroc" else None
        spread = "" if std is None else t.plain("standard error {error} (Hanley-McNeil)", error=f"{std:.3f}")
        if interval:
            spread = t.plain(
                "95 %: {low} to {high}, bootstrap of {n} units", low=f"{interval[0]:.3f}", high=f"{interval[1]:.3f}", n=by_unit["num_units"]
            )
        yield Figure(label, f"{metrics[name]:.3f}", spread)
    at = metrics.get("at_cut") or {}
    for name, label in (("recall", t.plain("recall at the cut")), ("realised_rate", t.plain("false alarms at the cut"))):
        if at.get(name) is None:
            continue
        low, high = (formats.percent(end) for end in at.get(f"{name}_interval") or (None, None))
        yield Figure(label, formats.percent(at[name]), t.plain("95 %: {low} to {high}, Clopper-Pearson", low=low, high=high))
    if metrics.get("macro_f1") is not None:
        yield Figure(t.plain("macro-F1 over the faults"), f"{metrics['macro_f1']:.3f}", "")
