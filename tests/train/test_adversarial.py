import numpy as np
import pytest
import torch
from torch import nn

from tests.train.line import Line, X, Y, train
from vibray.train.adversarial import adversarial_loss
from vibray.train.fit import OptimConfig, Progress


def test_the_inputs_move_to_where_the_loss_rises():
    """The line lies below all records: smaller inputs make it worse."""
    seen, progress = [], Progress()
    optim = OptimConfig(epochs=1, adversarial=0.25, weight_decay=0.0)
    net = train(optim, on_epoch=lambda epoch, metrics: seen.append(metrics.loss), progress=progress)
    inputs = np.concatenate([X, X - 0.25])
    residuals = inputs - np.concatenate([Y, Y])
    assert seen == [pytest.approx(np.square(residuals).mean())]
    assert progress.tensors(net)["a/exp_avg"].item() == pytest.approx(0.1 * (2 * residuals * inputs).mean())


def test_of_several_inputs_the_floating_ones_move_and_no_zero_does():
    seen = []

    def loss(x):
        seen.append([part.detach().clone() for part in x])
        image, token, vector, shown, unused = x
        return ((image * shown).sum() - vector.sum()) * token.sum() + 0 * unused.detach().sum()

    image, vector = torch.tensor([[1.0, 0.0, -2.0], [0.0, 3.0, 4.0]]), torch.tensor([[0.5], [0.0]])
    token, shown, unused = torch.tensor([[1], [2]]), torch.tensor([[True], [False]]), torch.ones(2, 1)
    total = adversarial_loss(loss, (image, token, vector, shown, unused), 0.1)
    plain, moved = seen
    for given, own in zip((image, token, vector, shown, unused), plain, strict=True):
        assert torch.equal(given, own)
    torch.testing.assert_close(moved[0], torch.tensor([[1.1, 0.0, -1.9], [0.0, 3.0, 4.0]]))  # what is not shown has no gradient
    torch.testing.assert_close(moved[2], torch.tensor([[0.4], [0.0]]))
    assert all(torch.equal(moved[i], (image, token, vector, shown, unused)[i]) for i in (1, 3, 4))
    assert total.item() == pytest.approx(((-1 - 0.5) * 3 + (-0.8 - 0.4) * 3) / 2)
    assert not image.requires_grad


def test_both_forwards_have_the_same_noise():
    seen = []

    class Noisy(Line):
        noise_shape = (2,)

        def forward(self, x, noise):
            seen.append((x.detach().clone(), noise))
            return self.a * x + noise.sum(dim=1)

    train(OptimConfig(epochs=1, adversarial=0.1), net=Noisy())
    (x, noise), (moved, again) = seen
    assert torch.equal(noise, again)
    assert not torch.equal(x, moved)


def test_no_record_has_a_loss_of_0_and_a_gradient_all_the_same():
    net = nn.Linear(3, 1)
    loss = adversarial_loss(lambda x: net(x).sum(), torch.empty(0, 3), 0.1)
    loss.backward()
    assert loss.item() == 0
    assert net.weight.grad is not None
    assert not net.weight.grad.any()
