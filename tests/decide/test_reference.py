import numpy as np
import pytest
from scipy import stats

from tests.decide.fleet import fleet, replaced
from vibray.decide.reference import earliest_rows, estimated_sensors, p_values, record_p_values, sensor_groups, usable_rows

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


def test_a_sensor_with_few_takes_the_pooled_reference_and_none_without():
    table = fleet(1, 3, 60)
    usable = np.ones(180, bool)
    few = (np.arange(180) % 60) < 20
    p = record_p_values(table, usable, few)
    score = table["score"].to_numpy().astype(float)
    assert p[~few] == pytest.approx(p_values(score[~few], score[few]))
    assert np.isnan(record_p_values(table, usable, (np.arange(180) % 60) < 10)).all()
    usable[5] = False
    assert np.isnan(record_p_values(table, usable, few)[5])


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
