"""What a rate on the page means, in words."""

from collections.abc import Iterator, Mapping
from typing import Any

from markupsafe import Markup

from vibray.report import formats
from vibray.report.data import GLOBAL, ReportData
from vibray.report.words import Words

KINDS = {
    "rate": "rate of whatever was scored, faults included",
    "false-alarm probability": "false-alarm probability, from records known to be normal",
    "rule": "rule; nominal is what a Gaussian would pass",
}
"""What a cut's nominal rate is a share of."""


def rate_words(data: ReportData, t: Words) -> Iterator[Markup]:
    """A paragraph each: the cut of all records, the alarms of units, the budget."""
    cut = (data.cuts or {}).get(GLOBAL)
    if cut:
        yield from _of_cut(cut, t)
    if data.unit_facts is not None:
        yield _of_units(data.unit_facts, t)
    if data.budget is not None:
        yield from _of_budget(data.budget, t)


def _of_cut(cut: Mapping[str, Any], t: Words) -> Iterator[Markup]:
    nominal, realised = cut.get("nominal_rate"), cut.get("realised_rate")
    values = {"cut": formats.number(cut.get("anomaly_above")), "nominal": formats.percent(nominal)}
    match cut.get("rate_kind"):
        case "rate" if nominal is not None:
            yield t(
                "The cut {cut} was set so that {nominal} of whatever was scored lies above it, faults included. It is a rate, not the "
                "probability that a healthy machine is called faulty.",
                **values,
            )
        case "rate":
            yield t("The cut {cut} promises no rate. The share above it is of whatever was scored, faults included.", **values)
        case "false-alarm probability":
            said = "Of the records of healthy machines about {nominal} lie above the cut {cut}: it was set on records known to be normal."
            yield t(said, **values)
        case "rule":
            said = "The cut {cut} is a rule of thumb. Were the scores Gaussian, {nominal} of them would lie above it; scores rarely are."
            yield t(said, **values)
    if realised is not None:
        values = {"n": formats.number(cut.get("num_records")), "share": formats.percent(realised)}
        yield t("Of {n} records here that can raise an alarm, {share} lie above the cut.", **values)


def _of_units(facts: Mapping[str, Any], t: Words) -> Markup:
    a_day = facts.get("resampled_per_day")
    if a_day is None:
        return t("How often a healthy fleet would raise an alarm is not known: no unit has records in two windows.")
    values = {"week": f"{7 * a_day:.2g}"}
    if facts.get("at_most_per_day") is not None:
        values["most"] = f"{7 * facts['at_most_per_day']:.2g}"
        return t("Were all machines healthy, about {week} alarms of machines a week would be raised, at most {most}.", **values)
    return t("Were all machines healthy, about {week} alarms of machines a week would be raised.", **values)


def _of_budget(budget: Mapping[str, Any], t: Words) -> Iterator[Markup]:
    names = ("per_week", "expected_per_week", "upper_per_week")
    values = {name: "–" if budget.get(name) is None else f"{budget[name]:.3g}" for name in names}
    yield t(
        "The cuts keep to a budget of {per_week} alarms a week: a healthy fleet is expected to raise {expected_per_week}, with an upper "
        "bound of {upper_per_week}.",
        **values,
    )
    missed = budget.get("missed") or {}
    if missed:
        each = "; ".join(t.plain("{fault}: {n} of {m}", fault=fault, n=n, m=m) for fault, (n, m) in missed.items())
        yield t("Of the labelled faults such a cut would have missed: {each}.", each=each)
