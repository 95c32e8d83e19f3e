import numpy as np
import pytest
from scipy import stats

from tests.decide.fleet import fleet, replaced
from vibray import schema
from vibray.decide.drift import drift, median_interval
from vibray.decide.reference import earliest_rows, sensor_groups
from vibray.schema import Verdict

HOURS = 24 * 120  # March to June


def found(table, num_reference=200, healthy=None):
    everything = np.ones(len(table), bool)
    known = earliest_rows(sensor_groups(table), everything, num_reference)
    return drift(table, everything if healthy is None else healthy, known)


def raised(table, since_hour, factor):
    hour = np.arange(len(table)) % HOURS
    return replaced(table, "score", (table["score"].to_numpy() * np.where(hour >= since_hour, factor, 1.0)).astype(np.float32))


def test_the_interval_of_a_median_is_scipys_where_records_are_drawn_singly():
    scores = np.random.default_rng(0).lognormal(size=300)
    ours = median_interval(scores, np.zeros(300, np.int64), num_resamples=2000)
    theirs = stats.bootstrap((scores,), np.median, n_resamples=2000, method="percentile", rng=np.random.default_rng(1)).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), rel=0.03)


def test_days_that_differ_widen_it():
    rng = np.random.default_rng(0)
    day = np.repeat(np.arange(30), 24)
    scores = rng.normal(size=720) + np.repeat(rng.normal(size=30), 24)
    by_record, by_day = (np.diff(median_interval(scores, d))[0] for d in (np.zeros(720, np.int64), day))
    assert by_day > 2 * by_record


def test_a_steady_fleet_needs_no_calibration():
    table = found(fleet(3, 2, HOURS))
    assert table.schema == schema.DRIFT
    assert table.num_rows == 6 * 4
    assert set(table["verdict"].to_pylist()) == {Verdict.STEADY.value}
    for row in table.to_pylist():
        assert row["low"] <= row["median"] <= row["high"]
        assert row["reference_low"] < row["reference_median"] < row["reference_high"]


@pytest.mark.parametrize("factor", [3.5, 0.25])
def test_a_level_that_moved_is_watched_and_then_to_be_recalibrated(factor):
    table = found(raised(fleet(1, 1, HOURS), 24 * 31, factor))
    assert table["verdict"].to_pylist() == ["steady", "watch", "recalibrate", "recalibrate"]


def test_a_level_that_swings_from_side_to_side_is_only_watched():
    table = raised(raised(fleet(1, 1, HOURS), 24 * 31, 5.0), 24 * 61, 0.04)
    assert found(table)["verdict"].to_pylist() == ["steady", "watch", "watch", "recalibrate"]


def test_abnormal_records_do_not_move_the_healthy_level():
    table = fleet(1, 1, HOURS)
    hour = np.arange(HOURS)
    sick = (hour >= 24 * 61) & (hour % 3 == 0)
    loud = replaced(table, "score", np.where(sick, 1e3, table["score"].to_numpy()).astype(np.float32))
    assert set(found(loud, healthy=~sick)["verdict"].to_pylist()) == {"steady"}


def test_one_month_and_few_records_have_no_verdict():
    assert set(found(fleet(1, 2, 24 * 20))["verdict"].to_pylist()) == {Verdict.TOO_FEW.value}
    table = found(fleet(1, 1, 24 * 32))
    assert table["verdict"].to_pylist() == ["steady", "too few records"]
    assert table["median"].to_pylist()[1] is None
    assert found(fleet(1, 1, 60)).num_rows == 0  # 30 reference records are none
