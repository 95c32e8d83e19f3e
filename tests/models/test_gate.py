"""The gate: what it can predict and what not, and how agreement is counted."""

import numpy as np
import pytest
import torch

from vibray.config import UserError
from vibray.models.fitted import TooFewRecords
from vibray.models.gate import Gate, GateConfig, agreement

DIMS = 12


def made(num: int, seed: int = 0, noise: float = 0.05):
    """Vectors, and scores that grow with how far two of their values are from usual, with a heavy tail."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((num, DIMS)).astype(np.float32)
    y = 3 + 2 * np.sinh(np.abs(x[:, 3]) + 0.5 * x[:, 7] + noise * rng.standard_normal(num))
    return torch.from_numpy(x), torch.from_numpy(y), rng.permutation(num).astype(np.uint64)


def gate(num: int = 1000) -> tuple[Gate, torch.Tensor, torch.Tensor]:
    x, y, keys = made(num)
    fitted = Gate(GateConfig(penalty=1.0), DIMS)
    return fitted, y, fitted.fit(x, y, keys)


def test_what_is_linear_in_values_and_magnitudes_is_predicted():
    fitted, _, _ = gate()
    x, y, _ = made(400, seed=1)
    predicted = fitted.predict(x)
    assert np.corrcoef(np.arcsinh(predicted.numpy()), np.arcsinh(y.numpy()))[0, 1] > 0.95
    torch.testing.assert_close(fitted.predict(x[:1]), predicted[:1])


def test_a_share_is_that_of_the_records_it_was_fitted_on():
    fitted, y, predicted = gate()
    assert abs((predicted >= fitted.threshold(0.2)).double().mean() - 0.2) < 0.01
    assert fitted.threshold(0.1) > fitted.threshold(0.2)
    rounding = 1 + 1e-12  # sinh of asinh is another last digit on another machine
    assert y.min() <= predicted.min() * rounding and predicted.max() <= y.max() * rounding


def test_a_record_is_not_predicted_by_a_fit_that_saw_it():
    """Scores that are noise: a fit with as many columns as a fifth of the records follows its own, out of fold nothing is followed."""
    rng = np.random.default_rng(2)
    x = torch.from_numpy(rng.standard_normal((240, 60)))
    y = torch.from_numpy(rng.standard_normal(240))
    fitted = Gate(GateConfig(penalty=1e-6), 60)
    out_of_fold = fitted.fit(x.float(), y, np.arange(240, dtype=np.uint64))
    assert np.corrcoef(fitted.predict(x.float()).numpy(), y.numpy())[0, 1] > 0.6
    assert abs(np.corrcoef(out_of_fold.numpy(), y.numpy())[0, 1]) < 0.3


def test_a_saved_gate_is_the_same():
    fitted, _, _ = gate()
    other = Gate(GateConfig(penalty=1.0), DIMS)
    other.load(fitted.state())
    x, _, _ = made(50, seed=3)
    assert torch.equal(other.predict(x), fitted.predict(x))
    assert other.threshold(0.15) == fitted.threshold(0.15)


def test_too_few_records_and_scores_that_are_all_alike_are_refused():
    x, y, keys = made(150)
    with pytest.raises(TooFewRecords, match="200"):
        Gate(GateConfig(), DIMS).fit(x, y, keys)
    x, y, keys = made(300)
    with pytest.raises(UserError, match="half of these are the same"):
        Gate(GateConfig(), DIMS).fit(x, torch.ones(300), keys)


def test_agreement_by_hand():
    """Ten records, the two highest are flagged; the gate sees the first of them and a wrong one, and calls one record too high."""
    own = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9.0])
    predicted = np.array([0, 0, 0, 0, 9.5, 0, 0, 0, 0, 9.0])
    found = agreement(own, predicted, threshold=9.2, rate=0.2)
    assert (found.num_flagged, found.share_deep) == (2, 0.1)
    assert (found.recall, found.precision) == (0.5, 1.0)  # record 9's prediction is above the cut, record 8's is not
    wrong = agreement(own, np.where(predicted == 9.5, 8.5, predicted), threshold=9.2, rate=0.2)
    assert (wrong.recall, wrong.precision) == (0.5, 0.5)
    everything = agreement(own, predicted, threshold=-1.0, rate=0.2)
    assert (everything.recall, everything.precision, everything.share_deep) == (1.0, 1.0, 1.0)
