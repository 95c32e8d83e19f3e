import json

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from tests.decide.fleet import START_MS, fleet, replaced
from vibray import schema
from vibray.decide.alarm_rates import AlarmRuleError
from vibray.decide.reference import earliest_rows, p_values_by_sensor, sensor_groups, trusted_rows, usable_rows
from vibray.decide.unit_alarms import UnitConfig, as_written, combined, unit_alarms, unit_facts, unit_scores
from vibray.storage.columns import plain

CONFIG = UnitConfig()


def decided(table, config=CONFIG):
    usable = usable_rows(table)
    known = earliest_rows(sensor_groups(table), usable, config.reference_records)
    return unit_scores(table, p_values_by_sensor(table, usable, known), known, config)


def one_each(p):
    """The p-values of sensors with a record each."""
    return ((np.array([row]), np.array([value])) for row, value in enumerate(p))


def moved(table, days):
    """The same records so many days later."""
    later = table["measured_at"].cast(pa.int64()).to_numpy() + days * 86_400_000
    return replaced(table, "measured_at", pa.array(later).cast(schema.TIME))


@pytest.fixture(scope="module")
def healthy():
    return decided(fleet())


@pytest.mark.parametrize("method", ["tippett", "fisher", "stouffer"])
def test_combined_is_scipys_group_by_group(method):
    rng = np.random.default_rng(0)
    group = rng.permutation(np.repeat(np.arange(30), rng.integers(1, 6, 30)))
    p = rng.uniform(1e-6, 1, len(group))
    expected = [stats.combine_pvalues(p[group == g], method=method)[1] for g in range(30)]
    assert combined(p, group, method) == pytest.approx(expected, rel=1e-12)


def test_tippett_in_closed_form_down_to_the_smallest():
    p = np.array([1e-12, 0.3, 0.9, 1e-300])
    assert combined(p, np.array([0, 0, 0, 1])) == pytest.approx([3e-12, 1e-300], rel=1e-9)


@pytest.mark.parametrize("method", ["tippett", "fisher", "stouffer"])
def test_one_quiet_record_does_not_silence_a_window(method):
    table = fleet(1, 3, 1)
    found = unit_scores(table, one_each([1.0, 4e-34, 4e-34]), np.zeros(3, bool), UnitConfig(combine=method))
    assert found["p_value"].to_pylist()[0] < 1e-30
    quiet = unit_scores(table, one_each([1.0] * 3), np.zeros(3, bool), UnitConfig(combine=method))
    assert quiet["p_value"].to_pylist()[0] > 0.99


def test_stouffer_holds_its_rate_where_records_are_independent():
    facts = unit_facts(decided(fleet(20), UnitConfig(combine="stouffer")), UnitConfig(combine="stouffer"))
    assert 0.005 < facts["reference_rate"] < 0.018


def test_windows_hold_the_records_of_their_time():
    table = fleet(2, 3, 240, interval_min=20)
    found = as_written(decided(table))
    assert found.num_rows == 2 * 80
    assert set(found["num_records"].to_pylist()) == {9}
    assert set(found["num_sensors"].to_pylist()) == {3}
    first = found.slice(0, 1).to_pylist()[0]
    assert first["window"].timestamp() * 1000 == START_MS
    assert first["measured_at"].timestamp() * 1000 == START_MS + 40 * 60_000 + 2000  # the latest of its records
    assert found["unit"].to_pylist() == sorted(found["unit"].to_pylist())
    assert found["score"].to_numpy() == pytest.approx(-np.log10(found["p_value"].to_numpy()), rel=1e-6)


def test_reference_windows_raise_no_alarm_and_do_not_count(healthy):
    reference = healthy["reference"].to_numpy(zero_copy_only=False)
    assert reference.reshape(10, 400)[:, :200].all()
    assert not reference.reshape(10, 400)[:, 200:].any()
    sick = decided(fleet(sick=[(2, 190, 6.0)]), UnitConfig(persist=(3, 3)))
    rows = sick.slice(2 * 400, 400)
    alarm = rows["alarm"].to_numpy(zero_copy_only=False)
    assert not alarm[:202].any()  # the third judged window is the first that can


def test_a_sick_unit_is_in_alarm_since_it_fell_ill_and_is_discovered():
    table = decided(fleet(20, sick=[(7, 390, 4.0)]))
    first, *others = unit_alarms(table, CONFIG)
    assert (first.unit, first.alarm, first.discovery) == ("T07", True, True)
    assert first.since is not None
    assert first.q_value is not None
    hours = (first.since.timestamp() * 1000 - START_MS) / 3_600_000
    assert 392 <= hours <= 394  # the third window that exceeds of those from 390 on
    assert first.num_exceeding >= 4
    assert first.last_alarm == first.newest
    assert first.q_value < 1e-3
    assert not any(unit.alarm for unit in others)
    assert sum(unit.discovery for unit in others) <= 1


def test_an_alarm_that_has_passed_stands_as_the_last_one():
    table = fleet(5, sick=[(1, 300, 5.0), (1, 310, -5.0)])
    found = {unit.unit: unit for unit in unit_alarms(decided(table), CONFIG)}
    assert not found["T01"].alarm
    assert found["T01"].since is None
    last = found["T01"].last_alarm
    assert last is not None
    assert 308 <= (last.timestamp() * 1000 - START_MS) / 3_600_000 <= 313


def test_q_values_are_benjamini_hochbergs_over_the_newest_windows(healthy):
    p, q = healthy["p_value"].to_numpy(), plain(healthy)["q_value"].to_numpy(zero_copy_only=False)
    known = np.isfinite(q)
    assert np.flatnonzero(known).tolist() == [400 * (u + 1) - 1 for u in range(10)]
    rank = np.argsort(p[known])
    raw = p[known][rank] * 10 / np.arange(1, 11)
    expected = np.minimum.accumulate(raw[::-1])[::-1].clip(max=1)
    assert q[known][rank] == pytest.approx(expected, rel=1e-12)


def test_a_unit_that_fell_silent_is_not_compared():
    table = fleet(4)
    late = np.array(table["unit"].to_pylist()) == "T02"
    hours = (table["measured_at"].to_numpy().astype("datetime64[ms]").astype(np.int64) - START_MS) / 3_600_000
    found = unit_alarms(decided(table.filter(~(late & (hours > 380)))), CONFIG)
    assert {unit.unit: unit.q_value is None for unit in found} == {"T00": False, "T01": False, "T02": True, "T03": False}


@pytest.mark.parametrize("change", [("state", "off"), ("state", "transient"), ("state", "sensor_fault"), ("calibrated", False)])
def test_what_is_unusable_raises_none(change):
    name, value = change
    table = fleet(4, sick=[(1, 300, 8.0)])
    values = table[name].to_pylist()
    sick = (np.array(table["unit"].to_pylist()) == "T01") & (np.arange(len(table)) % 400 >= 300)
    table = replaced(table, name, [value if ill else old for ill, old in zip(sick, values, strict=True)])
    found = decided(table)
    assert not found.filter(np.array(found["unit"].to_pylist()) == "T01")["alarm"].to_numpy(zero_copy_only=False).any()
    assert found.num_rows == 4 * 400 - 100


@pytest.mark.parametrize("shared", [0.0, 0.5, 0.9])
def test_tippett_holds_its_rate_where_sensors_rise_together_and_fisher_does_not(shared):
    table = fleet(20, shared=shared)
    rates = {name: unit_facts(decided(table, c), c) for name, c in (("t", CONFIG), ("f", UnitConfig(combine="fisher")))}
    assert rates["t"]["realised_rate"] < 0.018
    assert rates["t"]["reference_rate"] < 0.018
    if shared == 0.9:
        assert rates["f"]["realised_rate"] > 0.03


def test_facts_are_ready_for_json(healthy):
    facts = unit_facts(healthy, CONFIG)
    json.dumps(facts, allow_nan=False)
    assert facts["windows_per_day"] == pytest.approx(240)
    assert facts["expected_per_day"] == pytest.approx(240 * 0.01 * 0.99 * 6 * 1e-4 * 0.99**2)
    assert (facts["num_units"], facts["num_windows"], facts["num_reference_windows"]) == (10, 2000, 2000)
    low, high = facts["resampled_interval"]
    assert low <= facts["resampled_per_day"] <= high


def against_another(judged, reference, config=CONFIG):
    """Facts of one table judged against another."""
    both = pa.concat_tables([judged, reference])
    known = np.arange(len(both)) >= len(judged)
    found = unit_scores(both, p_values_by_sensor(both, usable_rows(both), known), known, config)
    return unit_facts(found, config, set(judged["unit"].to_pylist()))


def at_once(table):
    """The first record of each sensor."""
    return table.filter(pa.array(np.arange(len(table)) % 400 == 0))


def test_a_reference_of_more_units_does_not_count_to_the_fleet():
    reference = replaced(fleet(10, interval_min=10), "corpus", ["r"] * 12_000)
    facts = against_another(moved(fleet(1), 60), reference, UnitConfig(window_minutes=10.0))
    assert (facts["num_units"], facts["num_windows"], facts["num_reference_windows"]) == (1, 400, 4000)
    assert facts["windows_per_day"] == pytest.approx(24)  # the rhythm of what is judged, not that of the reference
    assert facts["expected_per_day"] == pytest.approx(24 * 0.01 * 0.99 * 6 * 1e-4 * 0.99**2)
    everything = against_another(moved(fleet(10), 60), reference, UnitConfig(window_minutes=10.0))
    for name in ("windows_per_day", "resampled_per_day", "at_most_per_day"):
        assert everything[name] == pytest.approx(10 * facts[name])


def test_one_window_a_unit_gives_no_figure_a_day():
    facts = against_another(at_once(fleet(10)), replaced(fleet(10), "unit", [f"R{i // 1200}" for i in range(12_000)]))
    assert (facts["num_units"], facts["num_windows"]) == (10, 10)
    for name in ("windows_per_day", "expected_per_day", "resampled_per_day", "resampled_interval", "at_most_per_day"):
        assert facts[name] is None, name
    assert facts["reference_rate"] < 0.018
    json.dumps(facts, allow_nan=False)


def test_a_unit_with_one_window_has_the_rhythm_of_the_others():
    table = fleet(4)
    new = np.array(table["unit"].to_pylist()) == "T02"
    found = unit_facts(decided(table.filter(pa.array(~new | (np.arange(len(table)) % 400 == 399)))), CONFIG)
    assert (found["num_units"], found["windows_per_day"]) == (4, pytest.approx(96))


def test_nothing_to_compare_with_is_an_empty_table():
    found = decided(fleet(1, 1, 20))
    assert found.num_rows == 0
    facts = unit_facts(found, CONFIG)
    json.dumps(facts, allow_nan=False)
    assert (facts["num_units"], facts["windows_per_day"], facts["expected_per_day"]) == (0, None, None)
    assert unit_alarms(found, CONFIG) == ()


def test_the_order_of_the_rows_changes_nothing(healthy):
    table = fleet()
    assert decided(table.take(np.random.default_rng(0).permutation(len(table)))).equals(healthy)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"persist": (4, 3)}, "1 <= k <= n"),
        ({"window_minutes": 0.0}, "longer"),
        ({"fdr": 1.0}, "between 0 and 1"),
        ({"rate": 0.0}, "between"),
    ],
)
def test_rules_that_cannot_be_applied_are_refused(options, words):
    with pytest.raises(AlarmRuleError, match=words):
        UnitConfig(**options)


def undated(table, rows):
    """The table with some records of 1970, an hour after one another."""
    time = table["measured_at"].cast(pa.int64()).to_numpy().copy()
    time[rows] = 3_600_000 * np.arange(len(rows))
    trusted = np.ones(len(table), bool)
    trusted[rows] = False
    return replaced(table, "measured_at", pa.array(time).cast(schema.TIME)).append_column(schema.TIME_TRUSTED, pa.array(trusted))


def with_trust(table):
    usable, trusted = usable_rows(table), trusted_rows(table)
    known = earliest_rows(sensor_groups(table), usable & trusted, CONFIG.reference_records)
    return unit_scores(table, p_values_by_sensor(table, usable, known), known, CONFIG), known


def test_a_sick_unit_whose_clock_was_lost_is_in_alarm_and_nobodys_reference():
    table = fleet(4, 1, 260, sick=[(3, 230, 6.0)])
    assert [u.unit for u in unit_alarms(decided(table), CONFIG) if u.alarm] == ["T03"]
    rows = np.arange(3 * 260 + 230, 4 * 260)
    found, known = with_trust(undated(table, rows))
    assert not known[rows].any()
    by_unit = {u.unit: u for u in unit_alarms(found, CONFIG)}
    sick = by_unit["T03"]
    assert sick.alarm and sick.undated and sick.since is None and not sick.discovery
    assert sick.newest == table["measured_at"][3 * 260 + 229].as_py().replace(minute=0, second=0)
    assert [u.unit for u in by_unit.values() if u.alarm] == ["T03"]
    assert unit_facts(found, CONFIG)["num_undated"] == 30
    assert not found.filter(pa.array(~found["dated"].to_numpy(zero_copy_only=False)))["q_value"].drop_null().to_pylist()


def test_one_record_of_the_far_future_changes_no_other_unit():
    table = fleet(4, 1, 260, sick=[(3, 230, 6.0)])
    before = {u.unit: u for u in unit_alarms(decided(table), CONFIG)}
    one = undated(table, np.array([100]))
    time = one["measured_at"].cast(pa.int64()).to_numpy().copy()
    time[100] = 4_070_908_800_000  # 2099
    after = {u.unit: u for u in unit_alarms(with_trust(replaced(one, "measured_at", pa.array(time).cast(schema.TIME)))[0], CONFIG)}
    assert {name: after[name] for name in ("T01", "T02")} == {name: before[name] for name in ("T01", "T02")}
    assert after["T03"].discovery and after["T03"].q_value == pytest.approx(before["T03"].q_value, rel=0.1)
    assert after["T00"].newest == before["T00"].newest and after["T00"].q_value is not None


def test_a_fleet_without_a_time_that_can_be_has_no_newest_window():
    found, _ = with_trust(undated(fleet(2, 1, 120), np.arange(240)))
    assert found.num_rows == 0  # no reference either
