import numpy as np
import pytest
import torch

from vibray.decide.fleet_scores import LOWEST_P, FleetScores
from vibray.decide.reference import p_values

RNG = np.random.default_rng(0)
SCORES = {
    level: torch.from_numpy(np.sort(RNG.rayleigh(scale, 500)).astype(np.float32)) for level, scale in ((1, 2.0), (10, 1.2), (50, 1.0))
}


def test_the_level_is_the_largest_that_a_baseline_reaches():
    num = np.array([0, 1, 9, 10, 49, 50, 4000])
    p = FleetScores(SCORES).p_values(np.full(7, 2.5), num)
    assert np.isnan(p[0])
    for own, level in zip(p[1:], (1, 1, 10, 10, 50, 50), strict=True):
        assert own == pytest.approx(p_values(np.array([2.5]), SCORES[level].double().numpy())[0])
    assert p[1] > p[3] > p[5]


def test_it_is_never_zero_and_always_a_float32():
    p = FleetScores(SCORES).p_values(np.array([1e6], np.float32), np.array([5]))
    assert p.dtype == np.float32 and p[0] >= np.float32(LOWEST_P)


def test_it_says_nothing_where_nothing_was_made():
    assert np.isnan(FleetScores({}).p_values(np.ones(3), np.array([1, 20, 500]))).all()
    assert len(FleetScores(SCORES).p_values(np.empty(0), np.empty(0, np.int64))) == 0


def test_it_comes_back_from_its_state():
    back = FleetScores.load(FleetScores(SCORES).state())
    assert back.scores.keys() == SCORES.keys() and all(torch.equal(back.scores[level], SCORES[level]) for level in SCORES)
    assert FleetScores.load({}) == FleetScores({})
