"""Splits of a benchmark: nobody is on both sides, shares are exact, draws repeat, labels of the pool are not looked at."""

from dataclasses import replace

import numpy as np
import pytest

from vibray.decide.identity import identity_probe
from vibray.decide.splits import UNLABELLED, Records, Setting, SplitError, folds, independent, sizes, split
from vibray.schema import NORMAL

KINDS = np.array(["bearing", "core"], object)


def corpus(num_units=7, moments=60, sensors=2, fault_share=0.3, unlabelled=0.0, seed=0) -> Records:
    rng = np.random.default_rng(seed)
    unit = np.repeat(np.arange(num_units), moments * sensors)
    time = np.tile(np.repeat(np.arange(moments), sensors), num_units)
    sensor = unit * sensors + np.tile(np.arange(sensors), num_units * moments)
    label = np.where(rng.random(len(unit)) < fault_share, KINDS[rng.integers(2, size=len(unit))], NORMAL).astype(object)
    label[rng.random(len(unit)) < unlabelled] = UNLABELLED
    shuffled = rng.permutation(len(unit))
    order = np.lexsort((np.arange(len(unit)), time))
    rank = np.empty(len(unit), np.int64)
    rank[order] = np.arange(len(unit))
    names = np.array([f"u{u}" for u in unit], object)
    return Records(names[shuffled], sensor[shuffled], rank[shuffled], time[shuffled], label[shuffled])


@pytest.mark.parametrize("num_folds", [2, 3, 5, 7])
def test_no_unit_is_in_two_folds_and_faults_are_shared_out(num_folds):
    records = corpus()
    fold, by_unit = folds(records, num_folds)
    assert by_unit
    assert set(fold) == set(range(num_folds))
    assert all(len(set(fold[records.unit == u])) == 1 for u in set(records.unit))
    faults = np.bincount(fold, records.faulty)
    largest = max(records.faulty[records.unit == u].sum() for u in set(records.unit))
    assert faults.max() - faults.min() <= largest
    assert np.array_equal(fold, folds(records, num_folds)[0])


def test_few_units_are_cut_into_blocks_of_time_and_moments_stay_whole():
    records = corpus(num_units=2)
    fold, by_unit = folds(records, 4)
    assert not by_unit
    for u in set(records.unit):
        own = records.unit == u
        by_moment = {int(t): set(fold[own & (records.time == t)]) for t in range(60)}
        assert all(len(found) == 1 for found in by_moment.values())
        in_order = [found.pop() for _, found in sorted(by_moment.items())]
        assert in_order == sorted(in_order)
        assert np.bincount(in_order).tolist() == [15] * 4
    with pytest.raises(SplitError, match=r"3 moments, too few for 4 folds"):
        folds(corpus(num_units=2, moments=3), 4)
    rows = split(records, fold, Setting(1, 0, 0.1), 5)
    assert len(rows.calibration) == 0  # the sensors are known from training


@pytest.mark.parametrize("contamination", [0.0, 0.02, 0.05, 0.1, 0.2, 0.4])
@pytest.mark.parametrize("fault_share", [0.05, 0.3])
def test_the_contamination_is_exact_to_one_record(contamination, fault_share):
    records = corpus(fault_share=fault_share)
    fold, _ = folds(records, 3)
    for number in range(3):
        rows = split(records, fold, Setting(number, 1, contamination), 10)
        counted = sizes(records, rows)
        assert abs(counted["pool_faults"] - contamination * counted["pool"]) <= 1
        train = fold != number
        all_in = counted["pool"] - counted["pool_faults"] == (train & records.healthy).sum()
        assert all_in or counted["pool_faults"] == (train & records.faulty).sum()  # fewer normals only where faults are too few


def test_nobody_is_on_both_sides_and_calibration_records_are_never_judged():
    records = corpus(unlabelled=0.2)
    fold, _ = folds(records, 3)
    for number in range(3):
        rows = split(records, fold, Setting(number, 0, 0.1, budget=9), 12, unlabelled_pool=True)
        assert not set(records.unit[rows.pool]) & set(records.unit[[*rows.judged, *rows.calibration]])
        assert not set(records.unit[rows.labelled]) & set(records.unit[[*rows.judged, *rows.calibration]])
        assert not set(rows.calibration) & set(rows.judged)
        assert UNLABELLED not in records.label[rows.judged]
        assert (records.label[rows.pool] == UNLABELLED).any()
        assert (records.label[rows.calibration] == UNLABELLED).any()  # used as they come
        for sensor in set(records.sensor[fold == number]):
            own = np.flatnonzero(records.sensor == sensor)
            earliest = own[np.argsort(records.order[own])][:12]
            assert set(earliest) == set(rows.calibration[records.sensor[rows.calibration] == sensor])


def test_a_sensor_with_few_records_calibrates_with_half_of_them():
    records = corpus(moments=30)
    fold, _ = folds(records, 3)
    rows = split(records, fold, Setting(0, 0, 0.0), 20)
    held = set(records.sensor[fold == 0])
    assert rows.halved == len(held)
    assert len(rows.calibration) == 15 * len(held)


def test_the_same_seed_gives_the_same_rows_and_more_holds_less():
    records = corpus()
    fold, _ = folds(records, 3)
    one, again = (split(records, fold, Setting(1, 3, 0.1, 10), 10) for _ in range(2))
    for name in ("pool", "calibration", "judged", "labelled"):
        assert np.array_equal(getattr(one, name), getattr(again, name))
    other = split(records, fold, Setting(1, 4, 0.1, 10), 10)
    assert not np.array_equal(one.pool, other.pool)
    more = split(records, fold, Setting(1, 3, 0.2, 20), 10)
    assert set(one.pool) <= set(more.pool)
    assert set(one.labelled) <= set(more.labelled)
    assert np.array_equal(one.judged, more.judged)


def test_the_kinds_of_the_pools_faults_are_not_looked_at():
    records = corpus()
    fold, _ = folds(records, 3)
    renamed = replace(records, label=np.where(records.faulty, "something", records.label))
    one, other = (split(r, fold, Setting(0, 0, 0.1), 10) for r in (records, renamed))
    assert np.array_equal(one.pool, other.pool)


@pytest.mark.parametrize("budget", [0, 1, 5, 20, 50])
def test_a_budget_is_half_faults_of_all_kinds(budget):
    records = corpus()
    fold, _ = folds(records, 3)
    rows = split(records, fold, Setting(0, 0, 0.1, budget), 10)
    assert len(rows.labelled) == budget
    assert records.faulty[rows.labelled].sum() == (budget + 1) // 2
    if budget >= 3:
        assert set(records.label[rows.labelled]) == {NORMAL, *KINDS}
    assert not set(rows.labelled) & set(rows.pool[records.faulty[rows.pool]])  # enough faults are left outside the pool


def test_a_pool_that_cannot_be_had_is_refused():
    records = corpus(fault_share=0.0)
    fold, _ = folds(records, 3)
    with pytest.raises(SplitError, match="no labelled fault"):
        split(records, fold, Setting(0, 0, 0.1), 10)
    split(records, fold, Setting(0, 0, 0.0), 10)
    with pytest.raises(SplitError, match="no labelled normal record"):
        split(corpus(unlabelled=1.0), fold, Setting(0, 0, 0.0), 10)


def test_one_waveform_stands_once_and_the_labelled_one_stays():
    label = np.array(["", "normal", "core", "normal", "core", "", ""], object)
    keep = independent(["a", "a", "b", "c", "c", "d", "d"], label)
    assert keep.tolist() == [False, True, True, False, False, True, False]


def test_the_identity_probe_tells_blobs_apart_and_noise_not():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(4), 50)
    noise = rng.standard_normal((200, 8))
    blind = identity_probe(noise, group)
    seen = identity_probe(noise + 20.0 * np.eye(4, 8)[group] + 1e4, group)
    assert blind is not None and seen is not None
    assert seen["accuracy"] == 1.0
    assert abs(blind["accuracy"] - blind["chance"]) < 0.1
    assert blind["chance"] == pytest.approx(49 / 199)
    assert identity_probe(noise, np.zeros(200)) is None
