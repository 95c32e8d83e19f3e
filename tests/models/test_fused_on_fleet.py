"""The default on machines it has not seen, against every simple baseline: tests/reference/suite.py prints the whole table."""

import numpy as np
import pytest

from tests.reference.corpora import fleet
from tests.reference.suite import RECIPES, judged
from vibray import recipes
from vibray.decide.areas import auroc, partial_auroc
from vibray.recipes.kinds import ClassicalRecipe


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_the_default_beats_every_simple_baseline(seed: int) -> None:
    those = {name: recipe for name in RECIPES if isinstance(recipe := recipes.NAMED[name](), ClassicalRecipe)}
    for at_k in judged(fleet(seed), those, [0]):
        areas, partial = (
            {name: measure(s, at_k.abnormal) or np.nan for name, s in at_k.scores.items()} for measure in (auroc, partial_auroc)
        )
        default, best = areas.pop("fused"), max(areas.values())
        assert default > best - 0.003 and default > (0.9 if at_k.where[1] == 1 else 0.925)
        assert at_k.where[1] == 1 or partial.pop("fused") > max(partial.values())
