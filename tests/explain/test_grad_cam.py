"""Grad-CAM on small networks whose answer is known."""

import pytest
import torch
from torch import nn

from vibray.explain.grad_cam import grad_cam


def two_spots() -> torch.Tensor:
    """(2, 1, 16, 32): a spot of +1 in the upper left of the first image, in the lower right of the second."""
    images = torch.zeros(2, 1, 16, 32)
    images[0, 0, 4:8, 4:8] = 1
    images[1, 0, 8:12, 24:28] = 1
    return images


def trunk(images: torch.Tensor) -> torch.Tensor:
    """Two maps at a quarter of the size: the image, and its negative part (which says nothing)."""
    pooled = nn.functional.avg_pool2d(images, 4)
    return torch.cat([pooled, torch.relu(-pooled)], dim=1)


def test_the_spot_is_found_and_only_the_spot() -> None:
    cam = grad_cam(trunk, lambda maps: maps.mean(dim=(2, 3))[:, 0], two_spots())
    assert cam.shape == (2, 16, 32)
    assert cam.amin() >= 0
    assert torch.equal(cam.amax(dim=(1, 2)), torch.ones(2))
    for record, (row, column) in enumerate([(5, 5), (9, 25)]):
        peak = divmod(int(cam[record].argmax()), 32)
        assert peak[0] - row in (0, 1)
        assert peak[1] - column in (0, 1)
        assert cam[record, 15 - row, 31 - column] == 0  # the other image's spot


def test_equation_by_hand() -> None:
    """The head is linear in the maps: weights are known, so the map is relu(sum_k w_k A_k) / max before resizing."""
    torch.manual_seed(0)
    images = torch.randn(3, 4, 6, 8)
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0])
    cam = grad_cam(lambda x: x, lambda maps: (maps.mean(dim=(2, 3)) * weights).sum(1), images)
    expected = torch.relu((weights[None, :, None, None] * images).sum(1))
    torch.testing.assert_close(cam, expected / expected.amax(dim=(1, 2), keepdim=True))


def test_the_target_class_decides() -> None:
    def head(maps: torch.Tensor) -> torch.Tensor:
        return torch.stack([maps[:, 0].mean(dim=(1, 2)), -maps[:, 0].mean(dim=(1, 2))], dim=1)

    images = two_spots()
    torch.testing.assert_close(grad_cam(trunk, head, images), grad_cam(trunk, head, images, target=0))
    assert grad_cam(trunk, head, images, target=1).abs().sum() == 0  # nothing speaks for it
    mixed = grad_cam(trunk, head, images, target=torch.tensor([0, 1]))
    assert mixed[0].amax() == 1
    assert mixed[1].amax() == 0


def test_a_record_does_not_depend_on_its_mates_and_parameters_get_no_gradient() -> None:
    torch.manual_seed(1)
    body = nn.Sequential(nn.Conv2d(2, 5, 3, stride=2, padding=1), nn.BatchNorm2d(5), nn.ReLU()).eval()
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3)).eval()
    images = torch.randn(4, 2, 12, 20)
    with torch.no_grad():
        together = grad_cam(body, head, images)
    alone = torch.cat([grad_cam(body, head, image[None]) for image in images])
    torch.testing.assert_close(together, alone)
    assert all(p.grad is None for p in [*body.parameters(), *head.parameters()])
    assert not together.requires_grad


def test_wrong_shapes_are_said() -> None:
    with pytest.raises(ValueError, match="trunk must return"):
        grad_cam(lambda x: x.flatten(1), lambda m: m.sum(1), two_spots())
    with pytest.raises(ValueError, match="head must return"):
        grad_cam(trunk, lambda m: m, two_spots())
    with pytest.raises(ValueError, match="one score a record"):
        grad_cam(trunk, lambda m: m.mean(dim=(1, 2, 3)), two_spots(), target=0)
