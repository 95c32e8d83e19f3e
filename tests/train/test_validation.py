import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import f1_score

from vibray.train.validation import binary_loss, f1, fault_loss, held_out_rows, temperature, validation_rows

RANDOM = np.random.default_rng(0)


def test_whole_units_are_set_aside_where_three_have_both_kinds():
    kind = np.tile([0, 2, 3], 20)
    units = np.repeat([f"u{i}" for i in range(10)], 6)
    mask = validation_rows(kind, units, 0.2)
    taken = set(units[mask])
    assert mask.sum() == 12
    assert len(taken) == 2
    assert all(mask[units == unit].all() for unit in taken)
    shuffled = RANDOM.permutation(60)  # the order of the records changes nothing
    assert set(units[shuffled][validation_rows(kind[shuffled], units[shuffled], 0.2)]) == taken


def test_no_kind_of_fault_is_left_without_a_record_to_train_on():
    kind = np.array([0, 1, 0, 1, 0, 1, 0, 7])  # one unit alone has fault 7
    units = np.repeat(["a", "b", "c", "d"], 2)
    mask = validation_rows(kind, units, 0.9)
    assert mask.any()
    assert not mask[units == "d"].any()
    assert mask.mean() <= 0.5


def test_otherwise_none_to_choose_an_epoch_by_and_the_latest_of_each_kind_to_judge_by():
    kind = np.array([0] * 10 + [2] * 5 + [4])
    times = np.arange(16)[::-1]
    units = np.repeat("only one unit", 16)
    assert not validation_rows(kind, units, 0.2).any()  # an epoch is chosen by other machines or not at all
    mask = held_out_rows(kind, units, times, 0.2)
    assert np.flatnonzero(mask).tolist() == [0, 1, 10]  # a fault of one record stays in training


@pytest.mark.parametrize("kind", [[0, 2, 0, 2, 0, 2, 0], [0] * 20, [0] * 19 + [2], [2] * 9 + [0]])
def test_too_few_labels_give_no_validation(kind):
    kind = np.array(kind)
    units = np.arange(len(kind)).astype(str)
    assert not validation_rows(kind, units, 0.2).any() and not held_out_rows(kind, units, np.arange(len(kind)), 0.2).any()


def test_f1_against_scikit_learn():
    truth, predicted = RANDOM.random(50) < 0.4, RANDOM.random(50) < 0.5
    assert f1(truth, predicted) == pytest.approx(f1_score(truth, predicted))
    assert f1(truth & False, predicted & False) == 0


def test_losses_of_plain_probabilities():
    logits, labels = np.array([2.0, -1.0, 0.0]), np.array([1, 0, 1])
    p = expit(logits)
    assert binary_loss(logits, labels) == pytest.approx(-np.mean(np.log([p[0], 1 - p[1], p[2]])))
    assert binary_loss(np.array([1e4, -1e4]), np.array([1, 0])) == 0
    assert fault_loss(np.zeros((4, 5)), np.zeros(4, dtype=int)) == pytest.approx(np.log(5))


def test_temperature_finds_by_how_much_logits_were_blown_up():
    honest = RANDOM.normal(scale=2, size=20000)
    labels = (RANDOM.random(20000) < expit(honest)).astype(int)
    assert temperature(lambda t: binary_loss(3 * honest / t, labels)) == pytest.approx(3, rel=0.05)
    separable = np.array([1.0, -1.0])
    assert temperature(lambda t: binary_loss(separable / t, np.array([1, 0]))) == pytest.approx(0.5, rel=1e-3)
