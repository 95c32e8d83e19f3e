"""Integrated gradients on scores whose shares are known, and on nets whose shares must sum up to the score."""

import math
from typing import Any

import pytest
import torch

from vibray.explain.attribution import integrated_gradients, standing_out
from vibray.models.backbone import TrunkConfig
from vibray.models.classical import Mahalanobis, MahalanobisConfig
from vibray.models.classifier import Classifier, ClassifierConfig
from vibray.models.deep_svdd import DeepSvdd, DeepSvddConfig
from vibray.models.vae import Vae, VaeConfig


def test_a_linear_scores_shares_are_its_terms() -> None:
    weight, x = torch.tensor([1.0, -2.0, 0.5]).double(), torch.randn(4, 3, dtype=torch.float64)
    torch.testing.assert_close(integrated_gradients(lambda at: at @ weight + 7, x, steps=3), weight * x)


def test_a_quadratic_forms_shares_are_exact_from_one_step_on() -> None:
    """d x'Ax / d x = 2 A x is linear along the path: the midpoint has the integral, x_i (A x)_i."""
    root = torch.randn(5, 5, dtype=torch.float64)
    form, x = root @ root.T, torch.randn(6, 5, dtype=torch.float64)
    expected = x * (x @ form)
    for steps in (1, 7):
        torch.testing.assert_close(integrated_gradients(lambda at: (at @ form * at).sum(1), x, steps), expected)


def test_a_mahalanobis_distance_about_0_is_shared_exactly() -> None:
    detector = Mahalanobis(MahalanobisConfig(), 3)
    detector.mean, detector.whitening = torch.zeros(3).double(), torch.randn(3, 3, dtype=torch.float64)
    x = torch.randn(5, 3, dtype=torch.float64)
    precision = detector.whitening @ detector.whitening.T
    expected = x * (x @ precision) / detector.score(x)[:, None]
    torch.testing.assert_close(integrated_gradients(detector.score, x), expected)


def test_steps_of_a_score_are_shared_where_the_midpoint_misses_them() -> None:
    """A kink between two points of the path: the shares still sum up to the whole rise."""
    x = torch.tensor([[3.0, 1.0]]).double()
    shares = integrated_gradients(lambda at: (at.sum(1) - 2.3).clamp(min=0), x, steps=4)
    assert shares.sum().item() == pytest.approx(1.7)
    assert shares[0, 0] / shares[0, 1] == pytest.approx(3)


def nets() -> dict[str, Any]:
    torch.manual_seed(0)
    svdd = DeepSvdd(DeepSvddConfig(trunk=TrunkConfig(kind="time", width=4), hidden=6, latent_dim=3, metric="mahalanobis"), (2, 16, 24))
    svdd.location.normal_()
    svdd.whitening.normal_()
    resnet = DeepSvdd(DeepSvddConfig(trunk=TrunkConfig(width=4), hidden=6, latent_dim=3), (2, 32, 32))
    resnet.center.normal_()
    return {"svdd": svdd, "resnet": resnet, "vae": Vae(VaeConfig(trunk=TrunkConfig(width=4), latent_channels=2), (2, 32, 32))}


@pytest.mark.parametrize("name", ["svdd", "resnet", "vae"])
def test_the_shares_of_a_net_sum_up_to_its_scores_rise(name: str) -> None:
    net = nets()[name].eval()
    images = torch.randn(3, *net.in_shape)
    with torch.no_grad():
        shares = integrated_gradients(lambda at: net.score(net(at)), images)
        rise = net.score(net(images)) - net.score(net(0 * images))
    torch.testing.assert_close(shares.flatten(1).sum(1), rise, rtol=1e-3, atol=1e-4)
    assert all(p.grad is None for p in net.parameters()) and not shares.requires_grad
    alone = torch.cat([integrated_gradients(lambda at: net.score(net(at)), image[None]) for image in images])
    torch.testing.assert_close(shares, alone, rtol=1e-3, atol=1e-4)


def test_each_answer_of_a_classifier_has_its_own_shares() -> None:
    torch.manual_seed(0)
    net = Classifier(ClassifierConfig(trunk=TrunkConfig(kind="time", width=4)), 2, (2, 16, 24)).eval()
    images = torch.randn(3, 2, 16, 24)
    with torch.no_grad():
        rise = net(images).fault[:, 1] - net(0 * images).fault[:, 1]
    shares = integrated_gradients(lambda at: net(at).fault[:, 1], images)
    torch.testing.assert_close(shares.flatten(1).sum(1), rise, rtol=1e-3, atol=1e-5)
    assert not torch.allclose(shares, integrated_gradients(lambda at: net(at).abnormal, images))


@pytest.mark.parametrize(("rows", "columns"), [((3, 6), (0, 24)), ((0, 16), (10, 12)), ((8, 12), (5, 9))])
def test_only_what_was_planted_has_a_share(rows: tuple[int, int], columns: tuple[int, int]) -> None:
    """A band, a burst and a patch in an image that is the baseline elsewhere."""
    net = nets()["svdd"].eval()
    image = torch.zeros(1, 2, 16, 24)
    image[:, :, slice(*rows), slice(*columns)] = 3
    shares = integrated_gradients(lambda at: net.score(net(at)), image)
    assert bool((shares[image == 0] == 0).all()) and bool((shares[image > 0] != 0).any())


def test_wrong_scores_are_said() -> None:
    with pytest.raises(ValueError, match="one value a record"):
        integrated_gradients(lambda at: at, torch.ones(2, 3))
    with pytest.raises(ValueError, match="no gradient"):
        integrated_gradients(lambda at: at.detach().sum(1), torch.ones(2, 3))


def test_more_steps_come_nearer_to_the_integral() -> None:
    """sin(x1 + x2) from 0: each value has x_i / (x1 + x2) of the rise, at any number of steps; of sin(x1) x2 the split is known too."""
    x = torch.tensor([[1.3, 0.7]]).double()
    first = math.sin(1.3) * 0.7 - 0.7 / 1.3 * (1 - math.cos(1.3))  # x1 x2 integral of a cos(a x1)
    errors = [abs(integrated_gradients(lambda at: at[:, 0].sin() * at[:, 1], x, steps)[0, 0].item() - first) for steps in (2, 16, 128)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-4


def test_a_tenth_of_the_cells_stands_out_by_what_it_is_above_the_others() -> None:
    values = torch.rand(3, 10, 20)
    values[0, 4, 5] = 9.0
    shown = standing_out(values)
    assert bool(((shown > 0).sum((1, 2)) == 20).all()) and shown[0, 4, 5] == shown[0].max()
    least = values.flatten(1).sort(dim=1).values[:, 179:181]
    high = shown > 0
    offset = (values - shown)[high].reshape(3, -1)
    assert bool((offset >= least[:, :1]).all()) and bool((offset <= least[:, 1:]).all())
    assert not standing_out(torch.ones(1, 4, 4)).any()
