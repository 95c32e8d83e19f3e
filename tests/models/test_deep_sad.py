import pytest
import torch

from vibray import schema
from vibray.models.backbone import TrunkConfig
from vibray.models.deep_sad import DeepSad, DeepSadConfig, deep_sad_loss, semi_supervised
from vibray.models.deep_svdd import Embedded


def test_labels_become_the_papers_y():
    ours = torch.tensor([schema.LABEL_NORMAL, schema.LABEL_ABNORMAL, schema.UNDECIDED])
    assert semi_supervised(ours).tolist() == [1, -1, 0]


def test_a_label_that_is_none_is_refused():
    with pytest.raises(ValueError, match="a label is 0"):
        semi_supervised(torch.tensor([0, 2]))


def test_loss_by_label():
    distance = torch.tensor([4.0, 4.0, 4.0, 0.0])
    y = torch.tensor([1, 0, -1, -1])
    torch.testing.assert_close(deep_sad_loss(distance, y, eps=1e-6, ceiling=100.0), torch.tensor([4.0, 4.0, 0.25, 100.0]))


def test_known_faults_are_pushed_away_and_the_rest_is_drawn_in():
    model = DeepSad(DeepSadConfig(trunk=TrunkConfig(width=4), hidden=8, latent_dim=3), (1, 32, 32))
    z = torch.ones(3, 3, requires_grad=True)
    model.loss(Embedded(z), torch.tensor([0, -1, 1])).sum().backward()
    assert z.grad is not None
    assert (z.grad[:2] > 0).all()  # a step against the gradient leads towards the centre, which is 0
    assert (z.grad[2] < 0).all()
    torch.testing.assert_close(model.loss(Embedded(z)), model.score(Embedded(z)))  # without labels it is Deep SVDD


def test_the_hypersphere_objective_pushes_known_faults_away_too():
    config = DeepSadConfig(trunk=TrunkConfig(kind="time", width=4), hidden=8, latent_dim=3, objective="hypersphere")
    model = DeepSad(config, (1, 32, 32))
    z = torch.ones(3, 3, requires_grad=True)
    model.loss(Embedded(z), torch.tensor([0, -1, 1])).sum().backward()
    assert z.grad is not None
    assert (z.grad[:2] > 0).all()
    assert (z.grad[2] < 0).all()
