"""Residual map and moved columns against what is put in."""

import numpy as np
import pytest
import torch

from vibray.explain.residual import moved_columns, residual_map


def test_residual_is_where_the_reconstruction_differs() -> None:
    image = torch.randn(2, 2, 8, 10)
    reconstruction = image.clone()
    reconstruction[0, 0, 3, 4] += 2.0
    reconstruction[1, 1, 5, 6] -= 1.0
    residual = residual_map(image, reconstruction)
    assert residual.shape == (2, 8, 10)
    assert residual[0, 3, 4].item() == pytest.approx(1.0)
    assert residual[1, 5, 6].item() == pytest.approx(0.5)
    assert (residual > 0).sum() == 2
    l1 = torch.nn.functional.l1_loss(image, reconstruction, reduction="none").mean(dim=(1, 2, 3))
    torch.testing.assert_close(residual.mean(dim=(1, 2)), l1)


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
