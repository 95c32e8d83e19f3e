"""Who wins a search: gains that chance explains change nothing, gains that it does not explain do."""

import numpy as np
import pytest

from vibray.compare import winner
from vibray.compare.winner import Judged, gain_error, verdict
from vibray.decide.areas import auroc, auroc_std

RNG = np.random.default_rng(5)
FAULTY = np.arange(400) % 2 == 0
FOLD = Judged(FAULTY, np.arange(400) // 10)


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(winner, "DRAWS", 150)


def trial(number: int, scores: np.ndarray, own: str) -> dict:
    return {"number": number, "hash": own, "state": "complete", "values": [auroc(scores, FAULTY)], "folds": [{"scores": scores.tolist()}]}


def scores(gap: float) -> np.ndarray:
    return RNG.normal(size=400) + gap * FAULTY


def test_the_error_of_two_independent_trials_is_that_of_hanley_and_mcneil():
    found = [gain_error([scores(1.5)], [scores(1.5)], [FOLD]) for _ in range(5)]
    area = auroc(scores(1.5), FAULTY)
    assert area is not None and None not in found
    assert np.mean(found) == pytest.approx(np.sqrt(2) * auroc_std(area, 200, 200), rel=0.2)  # type: ignore[arg-type]


def test_records_are_compared_in_pairs():
    a = scores(1.5)
    nearly = gain_error([a], [a + 0.01 * RNG.normal(size=400)], [FOLD])
    assert nearly is not None and nearly < 0.003
    assert gain_error([a], [a], [FOLD]) == 0


def test_a_gain_by_chance_leaves_the_recipe_as_it_is_and_a_true_one_does_not():
    own = trial(0, scores(1.5), "own")
    luck = trial(1, np.asarray(own["folds"][0]["scores"]) + 0.3 * RNG.normal(size=400) + 0.02 * FAULTY, "luck")
    luck["values"] = [own["values"][0] + 0.002]
    better = trial(2, scores(3.0), "better")
    found = verdict({0: own, 1: luck}, "own", "auroc", [FOLD])
    assert found is not None and (found.winner, found.best) == (0, 1) and found.error is not None and found.error > 0.002
    found = verdict({0: own, 1: luck, 2: better}, "own", "auroc", [FOLD])
    assert found is not None and (found.winner, found.best) == (2, 2)
    assert found.gain == pytest.approx(better["values"][0] - own["values"][0])
    # nothing to compare with: the recipe as it is was not tried, or another objective is asked for
    assert verdict({0: own, 1: luck}, "another", "auroc", [FOLD]).winner == 1  # type: ignore[union-attr]
    assert verdict({0: own, 1: luck}, "own", "f1", [FOLD]).winner == 1  # type: ignore[union-attr]
    assert verdict({1: {**luck, "state": "pruned"}}, "own", "auroc", [FOLD]) is None


def test_folds_that_cannot_be_judged_and_folds_of_few_units():
    empty = Judged(np.empty(0, bool), np.empty(0, int))
    a, b = scores(1.0), scores(1.0)
    one_unit = Judged(FAULTY, np.zeros(400, int))
    assert gain_error([a, np.empty(0)], [b, np.empty(0)], [one_unit, empty]) == pytest.approx(gain_error([a], [b], [FOLD]), rel=0.4)
    assert gain_error([np.empty(0)], [np.empty(0)], [empty]) is None
