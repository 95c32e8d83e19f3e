import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vibray.decide.alarm_rates import (
    AlarmRuleError,
    expected_alarms_per_day,
    onset_probability,
    onsets,
    persistent,
    resampled_alarms,
    windows_per_day,
)


@settings(max_examples=60, deadline=None)
@given(sequence=st.lists(st.booleans(), max_size=30), n=st.integers(1, 7), data=st.data())
def test_persistence_is_a_count_of_the_last_n(sequence, n, data):
    k = data.draw(st.integers(1, n))
    found = persistent(np.array(sequence, bool), k, n)
    assert found.tolist() == [sum(sequence[max(0, i - n + 1) : i + 1]) >= k for i in range(len(sequence))]
    assert onsets(found) == sum(found[i] and not (i and found[i - 1]) for i in range(len(found)))


@pytest.mark.parametrize(("rate", "k", "n"), [(0.2, 3, 5), (0.3, 1, 1), (0.1, 1, 4), (0.4, 4, 4), (0.05, 2, 3)])
def test_the_formula_is_what_independent_windows_do(rate, k, n):
    exceeds = np.random.default_rng(0).random(400_000) < rate
    seen = int(onsets(persistent(exceeds, k, n)))
    assert seen == pytest.approx(onset_probability(rate, k, n) * 400_000, abs=6 * np.sqrt(seen))


def test_alarms_a_day_in_closed_form():
    assert windows_per_day([3600, 600]) == 24 + 144
    assert expected_alarms_per_day(0.01, 1, 1, [3600]) == pytest.approx(24 * 0.01 * 0.99)
    assert expected_alarms_per_day(0.01, 3, 5, [3600] * 40) == pytest.approx(24 * 40 * 0.01 * 0.99 * 6 * 0.01**2 * 0.99**2)


def test_independent_windows_resampled_give_the_formula():
    rng = np.random.default_rng(0)
    sequences = [rng.random(2000) < 0.15 for _ in range(10)]
    found = resampled_alarms(sequences, 3, 5, per_day=240.0)
    assert found is not None
    assert found.exceed_rate == pytest.approx(0.15, abs=0.01)
    assert found.per_day == pytest.approx(240 * onset_probability(0.15, 3, 5), rel=0.12)
    assert found.low < found.per_day < found.high < found.at_most * 1.2


def test_windows_that_stay_high_alarm_more_often_than_the_formula_says():
    rng = np.random.default_rng(0)
    runs = [np.repeat(rng.random(500) < 0.02, 4) for _ in range(10)]  # bad weather lasts four windows
    found = resampled_alarms(runs, 3, 5, per_day=240.0)
    assert found is not None
    assert found.exceed_rate == pytest.approx(0.02, abs=0.005)
    assert found.per_day > 50 * 240 * onset_probability(0.02, 3, 5)


def test_none_seen_still_allows_three_in_so_many():
    found = resampled_alarms([np.zeros(1000, bool)], 3, 5, per_day=24.0)
    assert found is not None
    assert (found.num_onsets, found.per_day) == (0, 0.0)
    assert found.at_most == pytest.approx(2.9957 / 1000 * 24, rel=1e-4)  # -ln .05
    assert resampled_alarms([], 3, 5, 24.0) is None


def test_rules_that_cannot_be_applied_are_refused():
    for k, n in ((0, 3), (4, 3)):
        with pytest.raises(AlarmRuleError, match="--persist 3 5"):
            persistent(np.zeros(4, bool), k, n)
    with pytest.raises(AlarmRuleError, match="between 0 and 1"):
        onset_probability(1.5, 1, 1)
