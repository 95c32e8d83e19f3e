"""The inner level of a search: every threshold on scores made once."""

import numpy as np
import pytest

from vibray.compare.thresholds import SETTINGS, FoldScores, best_setting, threshold_table
from vibray.decide.thresholds import ConformalConfig, MadConfig, PercentileConfig


def fold(seed: int, num_trusted: int = 200, shift: float = 4.0) -> FoldScores:
    """Normals are N(0, 1), faults N(shift, 1), 40 of each; 5 % of the pool are faults."""
    rng = np.random.default_rng(seed)
    pool = np.concatenate([rng.normal(size=950), rng.normal(shift, 1, 50)])
    judged = np.concatenate([rng.normal(size=40), rng.normal(shift, 1, 40)])
    return FoldScores(pool, rng.normal(size=num_trusted), judged, np.arange(80) >= 40, np.ones(80, bool))


def test_f1_of_a_percentile_is_what_counting_gives():
    folds = [fold(0), fold(1)]
    (row,) = threshold_table(folds, [PercentileConfig(anomaly=95.0)])
    expected = []
    for one in folds:
        alarm = one.judged >= np.percentile(one.pool, 95.0)
        hit, wrong, missed = (alarm & one.abnormal).sum(), (alarm & ~one.abnormal).sum(), (~alarm & one.abnormal).sum()
        expected.append(2 * hit / (2 * hit + wrong + missed))
    assert row["f1"] == pytest.approx(np.mean(expected))
    assert row["num_folds"] == 2 and row["reason"] == ""


def test_every_setting_has_its_row_and_the_best_is_the_highest():
    table = threshold_table([fold(0), fold(1), fold(2)])
    assert [row["setting"]["kind"] for row in table] == [setting.kind for setting in SETTINGS]
    best = best_setting(table)
    assert best is not None
    assert best["f1"] == max(row["f1"] for row in table) > 0.9
    # a rate of 5 % is right for a pool with 5 % of faults; half a per cent misses nine in ten
    rates = {row["setting"]["anomaly"]: row["f1"] for row in table if row["setting"]["kind"] == "percentile"}
    assert rates[95.0] > rates[99.5] + 0.2


def test_a_setting_that_cannot_cut_somewhere_is_not_the_best():
    """9 trusted normals bear no rate below 10 %, none bear nothing."""
    few, none = (threshold_table([fold(0), fold(1, num)], [ConformalConfig(q=0.05), MadConfig()]) for num in (9, 0))
    assert few[0]["f1"] is None and "needs 19 trusted normals" in few[0]["reason"] and few[0]["num_folds"] == 1
    assert none[0]["f1"] is None and "outside the training pool" in none[0]["reason"]
    for table in (few, none):
        best = best_setting(table)
        assert best is not None and best["setting"]["kind"] == "mad"
    assert best_setting(few[:1]) is None


def test_conformal_keeps_its_rate_whatever_the_pool_holds():
    row = threshold_table([fold(seed, 999) for seed in range(40)], [ConformalConfig(q=0.05)])[0]
    assert row["realised_rate"] == pytest.approx(0.05, abs=0.012)  # 1,600 normals: std .0055


def test_a_sensor_without_a_baseline_raises_no_alarm():
    one = fold(0)
    blind = FoldScores(one.pool, one.trusted, one.judged, one.abnormal, np.zeros(80, bool))
    row = threshold_table([blind], [PercentileConfig()])[0]
    assert row["recall"] == row["f1"] == 0.0
