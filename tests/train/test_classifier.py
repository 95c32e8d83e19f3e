import logging

import numpy as np
import pytest
import torch

from tests.train.cases import SHAPE, TRUNK, images
from vibray.config import UserError
from vibray.models.backbone import batch_norms
from vibray.models.classifier import Classifier, ClassifierConfig
from vibray.train.batches import TrainingSet
from vibray.train.checkpoints import Checkpoints
from vibray.train.classifier import Labelled, TuningConfig, balance, train_classifier
from vibray.train.fit import OptimConfig


class Killed(Exception):
    pass


NUM = 36
FAULT = np.arange(NUM) % 3 - 1  # -1 normal, 0, 1
TARGETS = np.stack([(FAULT >= 0).astype(np.int64), FAULT], axis=1)


def rows(targets=TARGETS, weights=None) -> TrainingSet:
    """Normal records are quiet, fault 0 is loud on the left, fault 1 on the right."""
    x = images(NUM).clone()
    left, right = (FAULT == 0)[:, None, None, None], (FAULT == 1)[:, None, None, None]
    x[..., :16] *= torch.from_numpy(np.where(left, 4.0, 1.0)).float()
    x[..., 16:] *= torch.from_numpy(np.where(right, 4.0, 1.0)).float()
    return TrainingSet(lambda index: x[index], np.arange(NUM), targets, weights)


def labelled(real=None) -> Labelled:
    units = np.array([f"unit {i // 6}" for i in range(NUM)])
    return Labelled(np.ones(NUM, dtype=bool) if real is None else real, units)


def net(**changes) -> Classifier:
    torch.manual_seed(0)
    return Classifier(ClassifierConfig(**{"trunk": TRUNK, "hidden": (16, 8), **changes}), num_faults=2, image_shape=SHAPE)


OPTIM = OptimConfig(epochs=4, batch_size=8, lr=3e-3, method="adamw", weight_decay=1e-4, schedule="plateau", patience=1)


def test_balance_makes_every_class_count_alike():
    targets = np.array([[0, -1]] * 6 + [[1, 0]] * 3 + [[1, 2]])
    weights = np.array([1.0] * 9 + [0.5])
    label, fault = balance(targets, weights, num_faults=3)
    assert label[0] * 6 == pytest.approx(label[1] * 3.5)
    assert label[0] * 6 + label[1] * 3.5 == pytest.approx(9.5)
    assert fault[0] * 3 == pytest.approx(fault[2] * 0.5)
    assert fault[1] == 1
    with pytest.raises(UserError, match="no abnormal record"):
        balance(targets[:6], weights[:6], 3)
    with pytest.raises(UserError, match="no normal record"):
        balance(targets[6:], weights[6:], 3)


def test_what_is_unfrozen_moves_and_what_is_frozen_does_not():
    model, states = net(), []

    def report(stage, epoch, figures):
        states.append({name: value.clone() for name, value in model.state_dict().items()})

    before = {name: value.clone() for name, value in model.state_dict().items()}
    train_classifier(model, rows(), labelled(), OPTIM, TuningConfig(unfreeze=((2, "layer4"), (3, "layer3"))), report=report)

    def parts(since, until):
        moved = [name for name in since if name.startswith("encoder") and not torch.equal(since[name], until[name])]
        return {".".join(name.split(".")[:2]) for name in moved}

    assert parts(before, states[1]) == set()
    assert parts(states[1], states[2]) == {"encoder.layer4"}
    assert parts(states[2], states[3]) == {"encoder.layer3", "encoder.layer4"}
    assert any(not torch.equal(states[0][name], states[1][name]) for name in before if name.startswith("head"))
    for name in before:  # frozen batch norms keep their statistics, unfrozen ones follow
        if "running_mean" in name:
            assert torch.equal(before[name], states[1][name])
            assert torch.equal(states[1][name], states[2][name]) != ("layer4" in name)
    assert not any(norm.training for norm in batch_norms(model))


def test_an_encoder_that_was_not_pretrained_moves_from_the_start():
    model = net()
    assert model.encoder is not None
    before = model.encoder.conv1.weight.clone()
    train_classifier(model, rows(), labelled(), OptimConfig(epochs=1, batch_size=8), pretrained=False)
    assert not torch.equal(before, model.encoder.conv1.weight)


def test_it_learns_to_tell_the_faults_apart_and_calibrates():
    model = net()
    trained = train_classifier(model, rows(), labelled(), OptimConfig(epochs=25, batch_size=8, lr=3e-3, method="adamw"), pretrained=False)
    assert trained.figures["abnormal_f1"] > 0.9
    assert trained.figures["fault_f1"] > 0.9
    assert (model.temperature != 1).all()
    units = set(labelled().units[trained.validation].tolist())
    assert all(set(np.flatnonzero(labelled().units == unit)) <= set(trained.validation.tolist()) for unit in units)
    found = model.diagnose(model(rows().read(trained.validation)))
    assert (found.fault.numpy() == FAULT[trained.validation]).mean() > 0.8


def test_validation_is_on_real_labels_and_none_of_it_is_trained_on():
    real = np.arange(NUM) < 24
    read: list[int] = []
    data = rows()

    def spy(index):
        read.extend(index.tolist())
        return data.read(index)

    model = net()
    spied = TrainingSet(spy, data.indices, data.targets)
    seen: list[list[int]] = []

    def report(stage, epoch, figures):
        seen.append(list(read))
        read.clear()

    trained = train_classifier(model, spied, labelled(real), OptimConfig(epochs=2, batch_size=8), report=report)
    assert set(trained.validation) <= set(range(24))
    assert len(trained.validation) >= 4
    assert sorted(seen[0]) == list(range(NUM))  # each once: trained on or judged


def test_too_few_labels_are_all_trained_on(caplog):
    real = np.arange(NUM) < 5
    model = net()
    with caplog.at_level(logging.WARNING):
        trained = train_classifier(model, rows(), labelled(real), OptimConfig(epochs=1, batch_size=8))
    assert "5 real labels are of too few units" in caplog.text
    assert len(trained.validation) == 0
    assert trained.figures == {}
    assert model.temperature.tolist() == [1, 1]


def test_weights_count_pseudo_labels_less():
    """Wrong pseudo-labels of weight 0 leave the training as it is without them."""
    wrong = TARGETS.copy()
    wrong[30:] = [[1, -1]] * 6
    weights = np.where(np.arange(NUM) < 30, 1.0, 0.0)
    real = np.arange(NUM) < 30
    weight = {}
    for name, targets in {"wrong": wrong, "right": TARGETS}.items():
        model = net(dropout=(0.0, 0.0))
        train_classifier(model, rows(targets, weights), labelled(real), OptimConfig(epochs=2, batch_size=64))
        weight[name] = model.state_dict()["head.0.weight"].clone()
    torch.testing.assert_close(weight["wrong"], weight["right"])


@pytest.mark.parametrize("killed_at", [0, 2])
def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path, killed_at):
    """Dropout, a plateau, a layer that joins between, and the best epoch."""
    tuning = TuningConfig(unfreeze=((2, "layer4"),))

    def train(checkpoints, report=lambda *seen: None):
        model = net()
        return model, train_classifier(model, rows(), labelled(), OPTIM, tuning, report=report, checkpoints=checkpoints)

    def kill(stage, epoch, figures):
        if epoch == killed_at:
            raise Killed

    whole, trained = train(None)
    with pytest.raises(Killed):
        train(Checkpoints(str(tmp_path)), kill)
    seen = []
    resumed, again = train(Checkpoints(str(tmp_path)), lambda stage, epoch, figures: seen.append(epoch))
    assert seen == list(range(killed_at + 1, 4))
    assert again.figures == pytest.approx(trained.figures)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=1e-6, atol=1e-7, msg=name)


def test_a_vector_classifier_has_no_encoder_to_unfreeze():
    torch.manual_seed(0)
    model = Classifier(ClassifierConfig(inputs="vector", hidden=(16, 8)), num_faults=2, vector_size=2)
    x = torch.from_numpy(np.eye(3)[FAULT + 1][:, 1:]).float()
    data = TrainingSet(lambda index: x[index], np.arange(NUM), TARGETS)
    trained = train_classifier(model, data, labelled(), OptimConfig(epochs=40, batch_size=8, lr=1e-2, method="adamw"))
    assert trained.figures["f1"] == 1


def test_a_part_that_the_encoder_has_not_is_refused():
    with pytest.raises(UserError, match="no part layer9"):
        TuningConfig(unfreeze=((1, "layer9"),))
