"""Alarm budgets: the limits by scipy, the promise kept over draws of the reference, what a short one can promise."""

import numpy as np
import pyarrow as pa
import pytest
import scipy.stats

from tests.decide.fleet import at_one_time, replaced
from tests.decide.fleet import fleet as scores_of_fleet
from vibray import schema
from vibray.decide.alarm_rates import onsets, persistent
from vibray.decide.budget import (
    RATES,
    BudgetError,
    budget_cuts,
    budget_per_week,
    missed,
    record_promise,
    records_per_week,
    unit_promise,
)
from vibray.decide.cuts import Cuts
from vibray.decide.reference import sensor_groups
from vibray.decide.unit_alarms import UnitConfig, unit_runs
from vibray.decide.units import compare, decide_units, keep_budget


def fleet(*sizes, **options) -> pa.Table:
    """Scores of a fleet as they are opened: all times can be."""
    table = scores_of_fleet(*sizes, **options)
    return table.append_column(schema.TIME_TRUSTED, pa.array(np.ones(table.num_rows, bool)))


@pytest.mark.parametrize(("text", "per_week"), [("5/week", 5), ("1/day", 7), (" .5 / week ", 0.5), ("10/month", 10 / (365.2425 / 84))])
def test_a_budget_is_read(text, per_week):
    assert budget_per_week(text) == pytest.approx(per_week)


@pytest.mark.parametrize("text", ["5", "5/year", "-1/week", "0/week", "five/week", "5 per week", ""])
def test_what_is_no_budget_says_how_one_is_written(text):
    with pytest.raises(BudgetError, match="as 5/week"):
        budget_per_week(text)


@pytest.mark.parametrize(("num", "a_week", "budget"), [(6000, 3000.0, 5.0), (6000, 3000.0, 50.0), (500, 100.0, 20.0)])
def test_the_cut_is_the_lowest_whose_exact_limit_is_within_the_budget(num, a_week, budget):
    reference = np.random.default_rng(0).normal(size=num)
    found = record_promise(budget, reference, a_week)
    assert found.kept and found.seen == (reference >= found.limit).sum()
    for seen, within in ((found.seen, True), (found.seen + 1, False)):
        limit = scipy.stats.binomtest(seen, num).proportion_ci(0.90, "exact").high * a_week  # two-sided 90 % is one-sided 95 %
        assert (limit <= budget) == within
    assert found.upper_per_week == pytest.approx(scipy.stats.binomtest(found.seen, num).proportion_ci(0.90, "exact").high * a_week)
    assert found.expected_per_week == pytest.approx(found.seen / num * a_week)
    assert found.reference_weeks == pytest.approx(num / a_week)


def test_nineteen_references_in_twenty_keep_the_promise():
    """Of normal scores, whose survival function is known: the true number a week at the cut."""
    rng, a_week, budget = np.random.default_rng(1), 1000.0, 10.0
    true = np.array([scipy.stats.norm.sf(record_promise(budget, rng.normal(size=1500), a_week).limit) * a_week for _ in range(2000)])
    kept = (true <= budget).mean()
    assert 0.945 < kept < 0.99  # k is whole: the limit is a little below the budget
    assert true.mean() > budget / 4  # and not by having no alarms at all


def test_a_reference_that_is_too_short_says_what_it_can_promise():
    reference = np.random.default_rng(0).normal(size=200)
    found = record_promise(1.0, reference, 100.0)
    assert not found.kept and found.seen == 0 and found.limit > reference.max()
    assert found.upper_per_week == pytest.approx(100 * (1 - 0.05 ** (1 / 200)))  # of none in 200
    assert found.weeks_needed > found.reference_weeks == 2.0
    enough = int(np.ceil(found.weeks_needed * 100))
    assert record_promise(1.0, np.zeros(enough), 100.0).upper_per_week <= 1.0
    assert record_promise(1.0, np.zeros(enough - 1), 100.0).upper_per_week > 1.0
    with pytest.raises(BudgetError, match="needs reference records"):
        record_promise(1.0, np.empty(0), 100.0)


def test_equal_scores_are_not_split():
    reference = np.array([1.0] * 900 + [2.0] * 100)
    found = record_promise(5.0, reference, 100.0)  # 5 % are 50 of 1,000, and 100 are equal
    assert found.limit == np.nextafter(2.0, 3.0) and found.seen == (reference >= found.limit).sum() == 0


def test_records_a_week_are_those_of_all_sensors():
    table = fleet(4, 3, 100)  # hourly
    time_ms = table["measured_at"].to_numpy().astype("datetime64[ms]").astype(np.int64)
    groups, rows = sensor_groups(table), np.ones(table.num_rows, bool)
    assert records_per_week(groups, time_ms, rows) == pytest.approx(12 * 168)
    rows[np.arange(100, 200)] = False
    rows[150] = True  # a sensor with one record
    assert records_per_week(groups, time_ms, rows) == pytest.approx(12 * 168)
    assert records_per_week(groups, time_ms, np.arange(table.num_rows) == 3) == 0.0


# ---- units


def decided(table: pa.Table, config: UnitConfig):
    return decide_units(compare(table, config.reference_records), Cuts(-1e9, 1e9), config)


def begun(windows: pa.Table, reference: bool) -> int:
    of = windows["reference"].to_numpy(zero_copy_only=False) == reference
    exceeds, p = windows["exceeds"].to_numpy(zero_copy_only=False), UnitConfig().persist
    return sum(int(onsets(persistent(exceeds[rows[of[rows]]], *p))) for rows in unit_runs(windows))


@pytest.mark.parametrize("budget", [2.0, 10.0])
def test_the_rate_is_the_highest_of_the_grid_that_keeps_the_budget(budget):
    table, config = fleet(12, 2, 800, shared=0.3, seed=5), UnitConfig(reference_records=400)
    found = decided(table, config)
    a_week = 7 * found.facts["windows_per_day"]
    promise = unit_promise(budget, found.scores, config, a_week)
    assert promise is not None and promise.kept and a_week == pytest.approx(12 * 168)
    at = RATES.index(promise.limit)
    for rate, within in ((RATES[at], True), (RATES[at + 1], False)):
        seen = begun(decided(table, UnitConfig(rate=rate, reference_records=400)).scores, reference=True)
        weeks = 12 * 400 / a_week
        most = next(c for c in range(1000) if scipy.stats.poisson.cdf(c, budget * weeks) > 0.05) - 1  # P(at most c) <= 5 % at the budget
        assert (seen <= most) == within


def test_units_of_which_the_reference_says_too_little():
    table, config = fleet(3, 2, 100), UnitConfig()
    found = decided(table, config)
    promise = unit_promise(0.5, found.scores, config, 7 * found.facts["windows_per_day"])
    assert promise is not None and not promise.kept and promise.seen == 0
    assert promise.upper_per_week == pytest.approx(-np.log(0.05) / promise.reference_weeks)
    assert promise.weeks_needed == pytest.approx(-np.log(0.05) / 0.5)
    assert unit_promise(5.0, found.scores, config, None) is None
    assert unit_promise(5.0, found.scores.filter(pa.array([False] * found.scores.num_rows)), config, 10.0) is None


@pytest.mark.parametrize("budget", ["2/week", "10/week"])
def test_healthy_fleets_keep_to_it_and_use_it(budget):
    """Eight fleets, records and units, over what comes after the reference: the mean is within the budget, and no tenth of it."""
    records, units = [], []
    for seed in range(8):
        table = fleet(12, 2, 800, shared=0.3, seed=seed)
        table = replaced(table, "score", np.log(table["score"].to_numpy()))
        of = compare(table, 400)
        cuts, rule, facts = keep_budget(budget, of, Cuts(-1e9, 1e9), UnitConfig(reference_records=400), None)
        assert facts["records"]["kept"] and facts["units"]["kept"] and facts["upper_per_week"] <= facts["per_week"]
        weeks = 400 / 168
        records.append(((table["score"].to_numpy() >= cuts.anomaly_above) & ~of.in_reference).sum() / weeks)
        units.append(begun(decide_units(of, cuts, rule).scores, reference=False) / weeks)
    per_week = budget_per_week(budget)
    assert per_week / 10 < np.mean(records) < per_week
    assert per_week / 10 < np.mean(units) < per_week
    assert np.mean(np.array(records) > per_week) < 0.35  # single fleets, of two weeks each


def test_what_it_costs_is_counted_by_fault():
    table = fleet(6, sick=[(3, 300, 1.0), (4, 300, 9.0)])
    time, unit = np.tile(np.arange(400), 18), np.array(table["unit"].to_pylist())
    human = [None if t < 300 else {"T03": "绕组松动", "T04": "tone", "T05": "normal"}.get(u) for t, u in zip(time, unit, strict=True)]
    of = compare(table, 200, human)
    cuts, _, facts = keep_budget("5/week", of, Cuts(-1e9, 1e9), UnitConfig(), human)
    above = table["score"].to_numpy() >= cuts.anomaly_above
    assert facts["missed"] == {name: [int((~above & (np.array(human, object) == name)).sum()), 300] for name in ("tone", "绕组松动")}
    assert facts["missed"]["tone"][0] < 5 < 200 < facts["missed"]["绕组松动"][0]
    off = replaced(table, "state", np.where(unit == "T04", "off", "energised"))  # what raises no alarm is missed
    assert keep_budget("5/week", compare(off, 200, human), Cuts(-1e9, 1e9), UnitConfig(), human)[2]["missed"]["tone"] == [300, 300]
    assert missed(np.array(["normal"]), np.array([False])) == {}


def test_what_a_person_calls_faulty_is_in_no_reference():
    """One record in twenty is faulty, in the reference too; naming those lowers the cut."""
    table = at_one_time(fleet(6, 2, 600, seed=2))
    faulty = np.arange(table.num_rows) % 20 == 3
    table = replaced(table, "score", (table["score"].to_numpy() + 200 * faulty).astype(np.float32))
    once = np.arange(table.num_rows) // 600 % 2 == 0  # of a moment one sensor's record
    human: list[str | None] = ["tone" if sick else None for sick in faulty & once]
    named, unnamed = compare(table, 200, human), compare(table, 200)
    assert not (named.in_reference & faulty).any() and (unnamed.in_reference & faulty).any()
    assert named.in_reference.sum() == unnamed.in_reference.sum() == 12 * 200
    (low, _, facts), (high, _, other) = (keep_budget("20/week", of, Cuts(-1e9, 100.0), UnitConfig(), human) for of in (named, unnamed))
    assert low.anomaly_above < 200 < high.anomaly_above
    assert facts["missed"]["tone"][0] == 0 < other["missed"]["tone"][0]
    assert facts["doubtful"] == 0 < other["doubtful"]


def test_a_lavish_budget_leaves_the_normal_cut_below():
    promise = record_promise(1e6, np.arange(100.0), 100.0)
    cuts = budget_cuts(Cuts(50.0, 60.0, "mad"), promise, 1e6, trusted=True)
    assert cuts.normal_below == 50.0 < cuts.anomaly_above
    assert (cuts.method, cuts.kind, cuts.num_scores, cuts.nominal_rate) == ("budget", "false-alarm probability", 100, 1.0)
