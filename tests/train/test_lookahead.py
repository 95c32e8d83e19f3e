import numpy as np
import pytest

from tests.reference.lookahead import lookahead
from tests.train.line import Shifted, X, Y, train
from vibray.train.fit import OptimConfig

PLAIN = {"lr": 0.1, "weight_decay": 0.0, "schedule": "constant"}


@pytest.mark.parametrize("epochs", [4, 5])
def test_the_fifth_step_goes_half_the_way(epochs):
    fast = train(OptimConfig(epochs=epochs, **PLAIN)).a.item()
    expected = 1 + 0.5 * (fast - 1) if epochs == 5 else fast
    assert train(OptimConfig(epochs=epochs, lookahead=True, **PLAIN)).a.item() == expected


def test_a_slow_twin_takes_the_same_steps_also_with_a_weight_that_joins():
    """One step an epoch; b joins after the third, and meets its own slow weight at the eighth."""
    net, seen = Shifted(), []

    def on_epoch(epoch, metrics):
        seen.append([net.a.item(), net.b.item()])
        net.b.requires_grad_(epoch >= 2)

    def gradients(weights):
        a, b = weights
        residual = a * X + b - Y
        return [2 * (residual * X).mean(), 2 * residual.mean()]

    train(OptimConfig(epochs=17, lookahead=True, **PLAIN), on_epoch=on_epoch, net=net)
    np.testing.assert_allclose(seen, lookahead(gradients, [1.0, 0.0], [0, 3], 17, 0.1), rtol=1e-12)
