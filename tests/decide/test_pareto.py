import math

import numpy as np
import pytest
from scipy import stats

from vibray.decide import pareto
from vibray.decide.pareto import Pareto


@pytest.mark.parametrize("shape", [-0.9, -0.3, 0.0, 0.2, 0.9])
def test_height_is_scipys_quantile(shape):
    for probability in (0.9, 0.1, 1e-3, 1e-6):
        assert Pareto(shape, 2.5).height(probability) == pytest.approx(stats.genpareto.isf(probability, shape, scale=2.5), rel=1e-10)


def test_height_is_continuous_through_shape_zero():
    at_zero = Pareto(0.0, 2.0).height(1e-4)
    assert at_zero == pytest.approx(-2.0 * math.log(1e-4), rel=1e-15)
    for shape in (1e-300, 1e-16, 1e-12, 1e-9, -1e-9, -1e-12, -1e-16):
        # the next term of the expansion is shape log(p)^2 / 2; computing the power and subtracting 1 loses all digits at 1e-16
        assert Pareto(shape, 2.0).height(1e-4) == pytest.approx(at_zero * (1 - shape * math.log(1e-4) / 2), rel=1e-13)


def test_uniform_height_at_shape_minus_one():
    assert Pareto(-1.0, 3.0).height(0.25) == pytest.approx(2.25, rel=1e-14)


@pytest.mark.parametrize("shape", [-0.7, -0.4, -0.1, 0.0, 0.3, 0.8])
@pytest.mark.parametrize("num", [60, 3000])
def test_fit_is_scipys_with_location_zero(shape, num):
    y = np.asarray(stats.genpareto.rvs(shape, scale=0.02, size=num, random_state=num))
    ours = pareto.fit(y)
    theirs_shape, _, theirs_scale = stats.genpareto.fit(y, floc=0)

    def loss(shape, scale):
        return -stats.genpareto.logpdf(y, shape, scale=scale).mean()

    assert loss(*ours) <= loss(theirs_shape, theirs_scale) + 1e-9  # at least as likely
    assert ours.shape == pytest.approx(theirs_shape, abs=2e-3)
    assert ours.scale == pytest.approx(theirs_scale, rel=2e-3)


@pytest.mark.parametrize("shape", [-0.5, 0.0, 0.5])
def test_fit_finds_the_parameters_of_much_data(shape):
    y = np.asarray(stats.genpareto.rvs(shape, scale=7.0, size=20_000, random_state=0))
    tail = pareto.fit(y)
    assert tail.shape == pytest.approx(shape, abs=0.03)
    assert tail.scale == pytest.approx(7.0, rel=0.04)


def test_a_uniform_tail_ends_at_its_largest_excess():
    y = np.random.default_rng(0).uniform(0, 5, 3000)
    tail = pareto.fit(y)
    assert tail.shape == pytest.approx(-1, abs=0.01)
    assert y.max() <= -tail.scale / tail.shape < 5.01


@pytest.mark.parametrize("factor", [1e-9, 3.7, 1e12])
def test_fit_scales_with_the_excesses(factor):
    y = np.random.default_rng(1).exponential(size=500)
    one, other = pareto.fit(y), pareto.fit(factor * y)
    assert other.shape == pytest.approx(one.shape, abs=1e-7)
    assert other.scale == pytest.approx(factor * one.scale, rel=1e-6)


def test_a_tail_without_a_mean_is_seen_as_one():
    assert pareto.fit(np.asarray(stats.genpareto.rvs(1.5, size=2000, random_state=0))).shape > 1


@pytest.mark.parametrize("shape", [0.0, 1e-3, 0.3, 0.9])
def test_its_survival_is_scipys(shape):
    excess = np.array([0.0, 0.1, 2.0, 50.0, 1e4])
    assert Pareto(shape, 1.7).log_survival(excess) == pytest.approx(stats.genpareto(shape, scale=1.7).logsf(excess), rel=1e-12)
