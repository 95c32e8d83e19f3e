"""Residual map and moved columns against what is put in."""

import numpy as np
import pytest
import torch

from vibray.explain.residual import moved_columns, residual_map
from vibray.models.backbone import TrunkConfig
from vibray.models.vae import Vae, VaeConfig


@pytest.mark.parametrize("residual", ["absolute", "excess"])
def test_the_map_sums_up_what_the_score_counts(residual) -> None:
    torch.manual_seed(0)
    net = Vae(VaeConfig(trunk=TrunkConfig(width=4), latent_channels=2, residual=residual, kl_in_score=0.0), (2, 32, 64)).eval()
    images = torch.randn(2, 2, 32, 64)
    shown = residual_map(net, images)
    assert shown.shape == (2, 32, 64)
    with torch.inference_mode():
        out = net(images)
        torch.testing.assert_close(shown.mean(dim=(1, 2)), net.score(out))
        lower = (out.reconstruction > out.image).all(dim=1)  # in both channels
    assert lower.any()
    assert bool((shown[lower] == 0).all()) == (residual == "excess")  # what is missing is not in the score of an excess


def test_moved_columns_are_ranked_by_distance_with_their_sign() -> None:
    names = ("100 Hz", "200 Hz", "300 Hz", "50 Hz", "dead", "broken")
    values, location, scale = np.array([1.0, 5.0, -3.0, 2.0, 9.0, np.nan]), np.zeros(6), np.array([1.0, 1.0, 0.5, 1.0, 0.0, 1.0])
    moved = moved_columns(values, location, scale, names, top=3)
    assert [(m.name, m.z) for m in moved] == [("300 Hz", -6.0), ("200 Hz", 5.0), ("50 Hz", 2.0)]
    assert moved[0].value == -3.0
    assert {m.name for m in moved_columns(values, location, scale, names, top=99)} == set(names) - {"dead", "broken"}
    assert moved_columns(torch.tensor(values), torch.tensor(location), torch.tensor(scale), names, top=3) == moved


def test_baseline_itself_has_not_moved() -> None:
    location = np.array([3.0, 4.0])
    assert [m.z for m in moved_columns(location, location, np.ones(2), ("a", "b"))] == [0.0, 0.0]


def test_wrong_counts_and_scales_are_said() -> None:
    with pytest.raises(ValueError, match="2 names, 3 values"):
        moved_columns(np.ones(3), np.ones(3), np.ones(3), ("a", "b"))
    with pytest.raises(ValueError, match="'b' has a negative scale"):
        moved_columns(np.ones(2), np.ones(2), np.array([1.0, -1.0]), ("a", "b"))
