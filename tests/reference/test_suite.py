"""The development suite: how often a classical recipe is fitted, and what its figures are means of."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.reference.corpora import FLEET, Corpus, Records
from tests.reference.suite import by_training, figure, judged
from vibray import recipes
from vibray.recipes.building import build_vector
from vibray.schema import NORMAL

RECIPE = replace(recipes.mahalanobis(), scaling=replace(recipes.mahalanobis().scaling, records_per_sensor=30))


def corpus(longest: int) -> Corpus:
    """Two sensors whose level wanders; of the test's records half are moved."""
    rng = np.random.default_rng(3)
    dims = len(build_vector(RECIPE.feature, FLEET.mains_hz)(torch.randn(1, 8192), FLEET.sample_rate_hz)[0])

    def records(sensors: list[str], moved: np.ndarray) -> Records:
        level = np.cumsum(rng.normal(size=len(sensors)))[:, None]
        x = torch.from_numpy((level + rng.normal(size=(len(sensors), dims)) + moved[:, None]).astype(np.float32))
        labels = np.where(moved > 0, "broken", NORMAL)
        return Records(x, [("u", one) for one in sensors], labels, np.arange(len(sensors)), lambda: np.empty((0, 0)))

    pool = records(["a"] * longest + ["b"] * 20, np.zeros(longest + 20))
    test = records(["a", "b"] * 40, np.repeat([0.0, 2.0], 40))
    return Corpus("made", FLEET, pool, test, np.arange(80))


@pytest.mark.parametrize(("longest", "fits"), [(30, 1), (31, 3), (60, 3)])
def test_keys_are_drawn_again_only_where_records_are_left_out(longest: int, fits: int) -> None:
    (one,) = judged(corpus(longest), {"default": RECIPE}, [0], draws=3)
    assert one.scores["default"].shape == (fits, 80)
    assert len(np.unique(one.scores["default"], axis=0)) == fits


def test_a_figure_is_the_mean_over_the_draws() -> None:
    made = corpus(60)
    one, three = (judged(made, {"default": RECIPE}, [0], draws=draws) for draws in (1, 3))
    areas = by_training("AUROC", three, "default")[0]
    assert figure("AUROC", one, "default") == areas[0] and len(np.unique(areas)) > 1
    assert figure("AUROC", three, "default") == pytest.approx(areas.mean())
