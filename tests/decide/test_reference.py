import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from tests.decide.fleet import fleet, record_p_values, replaced
from vibray.decide.reference import (
    PRIOR_RECORDS,
    earliest_rows,
    estimated_sensors,
    p_values,
    sensor_groups,
    usable_rows,
    with_out_of_sample,
)
from vibray.schema import OUT_OF_SAMPLE

RNG = np.random.default_rng(0)


def test_within_the_reference_it_is_the_rank():
    reference = RNG.integers(0, 40, 250).astype(float)
    new = RNG.uniform(-3, reference.max(), 100)
    assert p_values(new, reference) == pytest.approx([(1 + np.sum(reference >= s)) / 251 for s in new], rel=1e-14)


@pytest.mark.parametrize("draw", [RNG.exponential, RNG.normal, RNG.uniform, lambda size: RNG.lognormal(0, 1, size)])
@pytest.mark.parametrize("num", [60, 200, 1000])
def test_it_falls_without_a_jump_at_the_largest_and_is_never_zero(draw, num):
    reference = draw(size=num)
    top, spread = reference.max(), np.ptp(reference)
    p = p_values(top + spread * np.array([-1e-9, 1e-9, 0.1, 1.0, 1e6]), reference)
    assert p[0] == pytest.approx(2 / (num + 1))  # it ties with none and one is above
    assert p[1] == pytest.approx(1 / (num + 1), rel=1e-3)
    assert np.all(np.diff(p) < 0)
    assert p[-1] > 0


def test_a_healthy_record_passes_q_with_probability_q_at_most():
    """Where the rank decides, exactly floor(q (n + 1)) / (n + 1) in the mean."""
    for q in (0.02, 0.1):
        rates = [stats.norm.sf(np.sort(RNG.normal(size=199))[-int(q * 200)]) for _ in range(200)]
        found = [float(np.mean(p_values(RNG.normal(size=500), RNG.normal(size=199)) <= q)) for _ in range(200)]
        assert np.mean(found) == pytest.approx(q, abs=5 * float(np.std(rates)) / np.sqrt(200))


def test_smoothed_a_reference_record_passes_any_q_with_probability_q():
    """Against 160 others the rank is at most 1 % for 1 of 161; drawn within its step, for 1 %. New records keep their rank."""
    table = fleet(40, 1, 400, seed=3)
    usable, groups = usable_rows(table), sensor_groups(table)
    known = earliest_rows(groups, usable, 200)
    plain, smoothed = (record_p_values(table, usable, known, groups, smoothed=way) for way in (False, True))
    for q in (0.01, 0.03, 0.052):
        spread = np.sqrt(q * (1 - q) / known.sum())
        assert np.mean(smoothed[known] <= q) == pytest.approx(q, abs=4 * spread)
    assert np.mean(plain[known] <= 0.01) < 0.0075
    assert (smoothed <= plain).all() and (plain - smoothed <= 1 / 161).all() and (smoothed > 0).all()
    assert np.array_equal(plain[~known], smoothed[~known])
    order = np.random.default_rng(0).permutation(table.num_rows)
    assert np.array_equal(record_p_values(table.take(pa.array(order)), usable[order], known[order], smoothed=True), smoothed[order])


def test_beyond_the_largest_a_thousandth_is_of_the_right_order():
    for dist in (stats.norm(), stats.expon(), stats.lognorm(0.5)):
        p = np.concatenate([p_values(dist.rvs(500, random_state=i), dist.rvs(1000, random_state=900 + i)) for i in range(60)])
        assert 0.35 < np.mean(p <= 0.001) / 0.001 < 1.7


def test_few_scores_carry_nothing_on():
    reference = np.arange(19.0)
    assert p_values(np.array([18.5, 1e9]), reference).tolist() == [1 / 20, 1 / 20]


def test_what_is_usable():
    table = fleet(1, 1, 6)
    table = replaced(table, "state", ["energised", "off", "transient", "sensor_fault", "unknown", "energised"])
    table = replaced(table, "calibrated", [True, True, True, True, True, False])
    assert usable_rows(table).tolist() == [True, False, False, False, True, False]


def test_the_earliest_usable_and_at_most_half():
    table = fleet(2, 2, 100)
    usable = np.ones(400, bool)
    usable[:10] = False
    chosen = earliest_rows(sensor_groups(table), usable, 30)
    assert chosen.reshape(4, 100)[0].nonzero()[0].tolist() == list(range(10, 40))
    assert chosen.reshape(4, 100)[1].nonzero()[0].tolist() == list(range(30))
    assert earliest_rows(sensor_groups(table), usable, 1000).sum() == 45 + 3 * 50


def test_a_reference_record_is_compared_with_others_only():
    """A record that is its own reference would never be surprising; one of a fold of others may be."""
    table = fleet(1, 1, 200)
    score = table["score"].to_numpy().copy()
    score[50] = 1e6
    p = record_p_values(replaced(table, "score", score), np.ones(200, bool), np.arange(200) < 150)
    assert p[50] < 1e-3
    assert np.isfinite(p).all()


def test_a_sensor_with_few_is_drawn_towards_the_reference_of_all_and_has_no_p_value_without():
    table = fleet(1, 3, 60)
    usable = np.ones(180, bool)
    few = (np.arange(180) % 60) < 20
    p = record_p_values(table, usable, few)
    score = table["score"].to_numpy().astype(float)
    for sensor in range(3):
        own, new = (60 * sensor + np.flatnonzero(one[:60]) for one in (few, ~few))
        above = (score[own][None] >= score[new][:, None]).sum(axis=1)
        expected = (above + PRIOR_RECORDS * p_values(score[new], score[few])) / (20 + PRIOR_RECORDS)
        assert p[new] == pytest.approx(expected, rel=1e-12)
    assert np.isnan(record_p_values(table, usable, (np.arange(180) % 60) < 10)).all()
    usable[5] = False
    assert np.isnan(record_p_values(table, usable, few)[5])


def test_what_the_machines_of_training_say_comes_before_the_reference_of_all():
    table = fleet(1, 1, 30)
    told = np.where(np.arange(30) < 25, 0.5, np.nan)
    table = replaced(table, "fleet_p_value", pa.array(told, from_pandas=True))
    usable, nobody = np.ones(30, bool), np.zeros(30, bool)
    assert np.array_equal(record_p_values(table, usable, nobody), told, equal_nan=True)
    score = table["score"].to_numpy()
    one = np.arange(30) == 0
    p = record_p_values(table, usable, one)
    assert p[1:25] == pytest.approx(((score[1:25] <= score[0]) + PRIOR_RECORDS * 0.5) / (1 + PRIOR_RECORDS))
    assert np.isnan(p[25:]).all()


@pytest.mark.parametrize("num", [5, 20, 60])
@pytest.mark.parametrize("louder", [1.0, 1.5])
def test_drawn_together_the_rate_is_near_what_is_asked_though_a_sensor_is_louder(num, louder):
    """By what the machines of training say alone, 1 % would be 13 % of a Rayleigh score half as high again."""
    found = {0.01: [], 0.05: []}
    for seed in range(200):
        table = fleet(1, 1, num + 300, seed=seed)
        z = np.random.default_rng(seed).rayleigh(size=num + 300)
        table = replaced(table, "score", louder * z)
        table = replaced(table, "fleet_p_value", stats.rayleigh.sf(louder * z))
        p = record_p_values(table, np.ones(num + 300, bool), np.arange(num + 300) < num)
        for rate, own in found.items():
            own.append(np.mean(p[num:] <= rate))
    for rate, own in found.items():
        alone = stats.rayleigh.sf(stats.rayleigh.isf(rate) / louder)
        if louder == 1:
            assert 0.5 * rate < np.mean(own) < 1.75 * rate  # its own few leave steps of a rank
        else:
            assert np.mean(own) < alone  # its own few records bring it nearer to the truth


def test_scores_out_of_sample_bring_their_p_values():
    table = replaced(fleet(1, 1, 4), "fleet_p_value", [0.1, 0.2, 0.3, 0.4])
    own = with_out_of_sample(table, pa.table([["c", "c"], ["r@1", "r@2"], [9.0, 8.0], [0.01, None]], schema=OUT_OF_SAMPLE))
    assert own["score"].to_pylist()[1:3] == [9.0, 8.0]
    assert own["fleet_p_value"].to_pylist() == [pytest.approx(0.1), pytest.approx(0.01), None, pytest.approx(0.4)]
    assert own.schema == table.schema


def test_the_order_of_the_rows_changes_nothing():
    table = fleet(2, 2, 150)
    order = np.random.default_rng(1).permutation(len(table))
    usable = np.ones(len(table), bool)
    known = earliest_rows(sensor_groups(table), usable, 60)
    again = earliest_rows(sensor_groups(table.take(order)), usable, 60)
    assert np.array_equal(again, known[order])
    assert np.array_equal(record_p_values(table.take(order), usable, again), record_p_values(table, usable, known)[order])


def test_below_99_reference_records_a_p_value_is_an_estimate():
    table = fleet(1, 3, 200)
    sensor, time = np.divmod(np.arange(600), 200)
    usable, known = sensor < 2, time < np.array([98, 99, 50])[sensor]
    assert estimated_sensors(sensor_groups(table), usable, known) == 1  # of the third nothing is judged
    assert estimated_sensors(sensor_groups(table), usable & (time > 0), known) == 2
