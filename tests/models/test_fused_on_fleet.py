"""The default on machines it has not seen, against every simple baseline: tests/reference/fleet_table.py prints the whole table."""

import pytest
import torch

from tests.reference.fleet_table import CALIBRATION, compared, figures, fitted, of_seed


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_the_default_beats_every_simple_baseline(seed: int) -> None:
    torch.set_num_threads(1)
    data = of_seed(seed)
    test, found = data["test"], {}
    for name, recipe in compared().items():
        judged = fitted(recipe, data["pool"], 50.0)
        found[name] = figures(judged.score(test, judged.calibrated(data["calibration"], CALIBRATION)), test.labels)
    default, *others = found.values()
    assert default["all"] > 0.94 and min(default.values()) > 0.8
    for other in others:
        assert default["all"] > other["all"] + 0.015 and default["pAUROC"] > other["pAUROC"] + 0.05
