import warnings

import numpy as np
import pytest
import torch

from tests.train.line import train
from vibray.train.fit import OptimConfig
from vibray.train.one_cycle import one_cycle


def torchs(num_steps: int, highest: float) -> list[float]:
    """The rates by torch's own schedule."""
    optimiser = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, highest, total_steps=num_steps, cycle_momentum=False)
    rates = []
    with warnings.catch_warnings(action="ignore"):  # the optimiser makes no step here
        for step in range(num_steps):
            rates.append(optimiser.param_groups[0]["lr"])
            if step < num_steps - 1:
                schedule.step()
    return rates


@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, 7, 10, 100])
def test_torchs_schedule_has_the_same_rates(num_steps):
    np.testing.assert_allclose([one_cycle(step, num_steps, 0.3) for step in range(num_steps)], torchs(num_steps, 0.3), rtol=1e-9)


def test_it_begins_at_a_25th_rises_to_the_highest_and_ends_near_0():
    rates = [one_cycle(step, 100, 0.5) for step in range(100)]
    assert rates[0] == pytest.approx(0.5 / 25)
    assert np.argmax(rates) == 29
    assert rates[29] == 0.5
    assert rates[99] == pytest.approx(0.5 / 25e4)


def test_it_is_one_cycle_over_the_steps_of_all_epochs_whatever_their_length():
    """1, 2, 3 and 3 records, one a step; the rate that an epoch tells is that of its last step."""
    seen = []
    optim = OptimConfig(epochs=4, batch_size=1, lr=0.1, schedule="one-cycle")
    train(optim, on_epoch=lambda epoch, metrics: seen.append(metrics.lr), joins=np.array([2, 1, 0]))
    np.testing.assert_allclose(seen, np.array(torchs(9, 0.1))[[0, 2, 5, 8]], rtol=1e-9)
