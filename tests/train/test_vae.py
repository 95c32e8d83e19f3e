import numpy as np
import pytest
import torch

from tests.train.cases import SHAPE, TRUNK, records
from vibray.models.vae import Vae, VaeConfig
from vibray.train.batches import TrainingSet
from vibray.train.checkpoints import Checkpoints
from vibray.train.fit import OptimConfig
from vibray.train.vae import beta_at, train_vae


class Killed(Exception):
    pass


def net(**changes) -> Vae:
    torch.manual_seed(0)
    return Vae(VaeConfig(**{"trunk": TRUNK, "latent_channels": 4, **changes}), SHAPE)


def test_beta_rises_linearly():
    assert [beta_at(epoch, 0.5, 4) for epoch in range(6)] == [0, 0.125, 0.25, 0.375, 0.5, 0.5]
    assert beta_at(0, 0.5, 0) == 0.5


def test_training_warms_beta_up_and_ends_with_the_configs():
    seen = []
    model = net(beta=0.4, warmup_epochs=2)
    train_vae(model, records(6), OptimConfig(epochs=3, batch_size=4), lambda stage, epoch, figures: seen.append(figures["beta"]))
    assert seen == [0, 0.2, 0.4]
    assert model.beta == 0.4
    assert not model.training


@pytest.mark.parametrize(("beta", "epochs"), [(0.01, 60), (0.0, 30)])
def test_what_was_learnt_scores_lower_than_what_was_not(beta, epochs):
    """Records are horizontal stripes of differing strength: vertical ones are reconstructed worse."""
    stripes = torch.sin(torch.arange(32.0) * 2 * np.pi / 16).expand(32, 32)
    basis = torch.stack([stripes.T, stripes])[:, None, None]
    amounts = torch.linspace(-2, 2, 32)[:, None, None, None]
    rows = TrainingSet(lambda index: basis[0] * amounts[index], np.arange(32))
    model = net(beta=beta)
    trained = train_vae(model, rows, OptimConfig(epochs=epochs, batch_size=16, lr=5e-3))
    assert trained.guards.passed
    with torch.no_grad():
        known, other = (model.score(model(row * amounts)).numpy() for row in basis)
    np.testing.assert_allclose(trained.scores, known, rtol=1e-4)
    size = np.abs(amounts.numpy()).ravel() > 0.5
    assert (known[size] < 0.8 * other[size]).mean() > 0.9


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path):
    optim = OptimConfig(epochs=4, batch_size=4)

    def train(checkpoints, report=lambda *seen: None):
        return train_vae(net(warmup_epochs=3), records(7), optim, report, checkpoints).scores

    def kill(stage, epoch, figures):
        if epoch == 1:
            raise Killed

    whole = train(None)
    with pytest.raises(Killed):
        train(Checkpoints(str(tmp_path)), kill)
    seen = []
    resumed = train(Checkpoints(str(tmp_path)), lambda stage, epoch, figures: seen.append(epoch))
    assert seen == [2, 3]
    np.testing.assert_allclose(resumed, whole, rtol=1e-6)
