"""An alarm budget: cuts of records and units at which a healthy fleet raises at most so many alarms a week.

An alarm of a record is a record at or above the cut; an alarm of a unit is a unit that goes into alarm (unit_alarms.py), not each of its
windows. Both are counted on the reference, which is taken as healthy, and both keep the budget by their upper limit (one-sided, 95 %), not
by what is expected:

  records   k of the n reference scores lie at or above the cut, the fleet has R records a week: k is the largest number for which the
            Clopper-Pearson limit of k of n, times R, is within the budget. The limit is exact although the cut is made from the same
            scores: the share of new scores above the (k + 1)-th largest of n is Beta(k + 1, n - k).
  units     the windows of the reference are T weeks of the fleet; c alarms begin in them where windows exceed at p <= rate. The rate is
            the largest of a grid up to which the limit of a Poisson count of c, over T, is within the budget.

Where not even 0 of what there is keeps the budget, the reference is too short to promise it: the cut then lies above all reference scores
(for units: no alarm in the reference, and the budget by the formula for independent windows), and it is said what can be promised and how
much reference would be needed.

Neighbouring records are not independent, nor are the sensors of a unit, and later records are not quite like the reference. On five
generated fleets of ten healthy units with 200 records a sensor as reference (`python -m tests.reference.budget`) a budget of 5 a week let
1.7 records and 2.5 units alarm, one of 20 a week 11 and 19: two of the five had a little over 20 units. Faults in the reference put the
cuts too high: with 5 % of them there, 5 a week finds .03 of the faulty records; once a person has labelled the 105 moments of it that lie
above the default cut, .66, as with a reference of labelled normals.

Source: Clopper and Pearson 1934; Garwood 1936; Wilks 1941, "Determination of sample sizes for setting tolerance limits".
"""

import math
import re
from bisect import bisect_right
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import scipy  # its rooms are imported on first use: they take a second, which no --help needs
from jaxtyping import Bool, Float64

from vibray.config import UserError
from vibray.decide.alarm_rates import onset_probability, onsets, persistent
from vibray.decide.cuts import Cuts
from vibray.decide.groups import SensorGroups
from vibray.decide.unit_alarms import UnitConfig, unit_runs
from vibray.schema import NORMAL

CONFIDENCE = 0.95
WEEKS = {"day": 1 / 7, "week": 1.0, "month": 365.2425 / 12 / 7}
WEEK_MS = 7 * 86_400_000
RATES = tuple(float(rate) for rate in np.geomspace(1e-6, 0.5, 115))


class BudgetError(UserError):
    """A budget that cannot be read, or of which no cuts can be made."""


def budget_per_week(text: str) -> float:
    """Alarms a week of "5/week", "1/day" or "2/month". Raises BudgetError."""
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*/\s*(day|week|month)\s*", text)
    if found is None or not float(found[1]) > 0:
        raise BudgetError(f"--budget {text!r}: give a number of alarms above 0 per day, week or month, as 5/week")
    return float(found[1]) / WEEKS[found[2]]


@dataclass(frozen=True)
class Promise:
    """What a cut does on the reference, as alarms a week of this fleet."""

    limit: float
    """the score from which a record alarms, or the p-value up to which a window exceeds"""
    seen: int
    """alarms in the reference"""
    reference: int
    """records or windows of it"""
    reference_weeks: float
    """in which this fleet has as many"""
    expected_per_week: float
    upper_per_week: float
    """one-sided limit, 95 %"""
    kept: bool
    """the limit is within the budget"""
    weeks_needed: float
    """of reference, for a promise of this budget with no alarm in it"""


def record_promise(per_week: float, reference: Float64[np.ndarray, " reference"], records_per_week: float) -> Promise:
    """The lowest cut of records that keeps the budget, from the scores of reference records. Raises BudgetError without one."""
    num = len(reference)
    if not num or not records_per_week > 0:
        raise BudgetError("--budget needs reference records, and sensors with more than one record: there is nothing to count alarms on")

    def upper(seen: int) -> float:
        return float(scipy.stats.beta.ppf(CONFIDENCE, seen + 1, num - seen) * records_per_week)

    k = max(0, bisect_right(range(num), per_week, key=upper) - 1)
    above = float(np.nextafter(np.sort(reference)[::-1][k], np.inf))
    k = int((reference >= above).sum())  # fewer where scores are equal
    share = per_week / records_per_week
    needed = math.log(1 - CONFIDENCE) / math.log1p(-share) if share < 1 else 1.0
    return Promise(
        limit=above,
        seen=k,
        reference=num,
        reference_weeks=num / records_per_week,
        expected_per_week=k / num * records_per_week,
        upper_per_week=upper(k),
        kept=upper(k) <= per_week,
        weeks_needed=needed / records_per_week,
    )


def unit_promise(per_week: float, windows: pa.Table, config: UnitConfig, windows_per_week: float | None) -> Promise | None:
    """The highest rate of windows that keeps the budget, from schema.UNIT_SCORES; None without a window of reference, or a rhythm."""
    reference = windows["reference"].to_numpy(zero_copy_only=False) & windows["dated"].to_numpy(zero_copy_only=False)
    if not reference.any() or not windows_per_week:
        return None
    p = windows["p_value"].to_numpy()
    of_unit = [rows[reference[rows]] for rows in unit_runs(windows)]
    weeks, (k, n) = int(reference.sum()) / windows_per_week, config.persist

    def begun(rate: float) -> int:
        return int(sum(int(onsets(persistent(p[rows] <= rate, k, n))) for rows in of_unit if len(rows)))

    def upper(seen: int) -> float:
        return float(scipy.stats.chi2.ppf(CONFIDENCE, 2 * seen + 2) / 2 / weeks)

    can = upper(0) <= per_week
    rate, seen = RATES[0], begun(RATES[0])
    for higher in RATES[1:]:
        count = begun(higher)
        if upper(count) > per_week if can else count or onset_probability(higher, k, n) * windows_per_week > per_week:
            break
        rate, seen = higher, count
    return Promise(
        limit=rate,
        seen=seen,
        reference=int(reference.sum()),
        reference_weeks=weeks,
        expected_per_week=seen / weeks,
        upper_per_week=upper(seen),
        kept=upper(seen) <= per_week,
        weeks_needed=-math.log(1 - CONFIDENCE) / per_week,
    )


def records_per_week(groups: SensorGroups, time_ms: np.ndarray, rows: Bool[np.ndarray, " records"]) -> float:
    """Of a fleet: over its sensors, records by the time from first to last; one with a single record counts as the median of the others.

    `groups` are the rows of each sensor in order of time, `rows` those that count.
    """
    rates, lone = [], 0
    for _, mine in groups:
        own = time_ms[mine[rows[mine]]]
        if len(own) and own[-1] > own[0]:
            rates.append((len(own) - 1) / (own[-1] - own[0]) * WEEK_MS)
        else:
            lone += len(own) > 0
    return float(np.sum(rates) + lone * np.median(rates)) if rates else 0.0


def budget_cuts(cuts: Cuts, promise: Promise, per_week: float, trusted: bool) -> Cuts:
    """The cuts with the budget's in place of the abnormal one, which never falls to the normal one."""
    above = max(promise.limit, float(np.nextafter(cuts.normal_below, np.inf)))
    return Cuts(
        cuts.normal_below,
        above,
        method="budget",
        kind="false-alarm probability" if trusted else "rate",
        nominal_rate=min(1.0, per_week * promise.reference_weeks / promise.reference),
        num_scores=promise.reference,
    )


def unit_config(config: UnitConfig, promise: Promise | None) -> UnitConfig:
    """The rule of units with the budget's rate."""
    return config if promise is None else replace(config, rate=promise.limit)


def missed(labels: np.ndarray, alarms: Bool[np.ndarray, " labelled"]) -> dict[str, list[int]]:
    """By fault: how many of the records that a person gave its name raise no alarm, and how many there are."""
    faults, number = np.unique(labels[labels != NORMAL], return_inverse=True)
    quiet, whole = (
        np.bincount(number.reshape(-1), ~alarms[labels != NORMAL], len(faults)),
        np.bincount(number.reshape(-1), minlength=len(faults)),
    )
    return {fault: [int(q), int(w)] for fault, q, w in zip(faults.tolist(), quiet, whole, strict=True)}


def budget_facts(
    asked: str, per_week: float, records: Promise, units: Promise | None, doubtful: int, faults: dict[str, list[int]] | None
) -> dict[str, Any]:
    """What cuts.json says of a budget: the figures of records and of units, and on top the higher of the two. `doubtful` reference records
    lie between the abnormal cut of the method on the command line and a higher one of the budget."""
    both = [promise for promise in (records, units) if promise is not None]
    facts: dict[str, Any] = {
        "asked": asked,
        "per_week": per_week,
        "expected_per_week": max(promise.expected_per_week for promise in both),
        "upper_per_week": max(promise.upper_per_week for promise in both),
        "records": asdict(records),
        "units": None if units is None else asdict(units),
        "doubtful": doubtful,
    }
    return facts if faults is None else facts | {"missed": faults}


def print_budget(facts: dict[str, Any], trusted: bool) -> None:
    """What is promised, by how much reference, and what it costs."""
    print(f"budget: {facts['asked']}, of records and of units; an alarm of a unit is its going into alarm, not each window")
    words = {"records": "a record alarms from score {limit:.6g} on", "units": "a window exceeds where p <= {limit:.3g}"}
    for name, said in words.items():
        promise = facts[name]
        if promise is None:
            print(f"  {name}: no reference window or no two windows of a unit, so their rate stays as it was")
            continue
        print(f"  {name}: {said.format(**promise)}: {promise['expected_per_week']:.2g} a week expected,", end=" ")
        print(f"at most {promise['upper_per_week']:.2g} (95 %; {promise['seen']} in {promise['reference_weeks']:.2g} weeks of reference)")
        if not promise["kept"]:
            more = promise["weeks_needed"] - promise["reference_weeks"]
            need = (
                f"it takes {promise['weeks_needed']:.2g} weeks of reference, {more:.2g} more than there are"
                if more > 0
                else "alarms stand in it"
            )
            print(f"    the reference cannot promise {facts['per_week']:.2g} a week: {need}")
    if not trusted and facts["doubtful"]:
        print(
            f"  {facts['doubtful']:,} reference records lie below this cut and above the method's own: faults among them put it too high;"
        )
        print("    label them (--review): what is called faulty leaves the reference; or give healthy scores as --unit-reference")
    if faults := facts.get("missed"):
        print(f"  missed at this cut: {', '.join(f'{num} of {whole} {fault}' for fault, (num, whole) in faults.items())}")
