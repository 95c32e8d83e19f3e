import json
import logging

import numpy as np
import pytest
import torch

from tests.train.cases import deep_svdd, records
from tests.train.line import Shifted, train
from vibray.train.batches import Batches
from vibray.train.checkpoints import Checkpoints
from vibray.train.fit import OptimConfig, Progress, fit
from vibray.train.reduce import World


@pytest.fixture
def trained():
    net, progress, optim = deep_svdd(), Progress(), OptimConfig(epochs=2, batch_size=4)
    fit(net, Batches(records(6), 4, 0, World()), optim, lambda epoch, metrics: None, progress)
    return net, progress


def test_what_is_saved_comes_back(tmp_path, trained):
    net, progress = trained
    net.radius.fill_(0.7)
    checkpoints = Checkpoints(str(tmp_path))
    checkpoints.save("train", net, progress, {"best/a": torch.ones(2)}, note=3)
    found = checkpoints.latest("train")
    assert found is not None
    other = deep_svdd()
    restored = found.restore(other)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in net.state_dict().items())
    assert restored.values() == progress.values()
    assert restored.epoch == found.epoch == 2
    assert found.values["note"] == 3
    assert found.group("best")["a"].tolist() == [1, 1]
    moments = progress.tensors(net)
    assert moments.keys() == restored.moments.keys()
    assert {"trunk.conv1.weight/exp_avg", "trunk.conv1.weight/step"} <= moments.keys()
    optimiser = restored.prepare(other, OptimConfig(epochs=4))
    for name, parameter in other.named_parameters():
        for key, value in optimiser.state[parameter].items():
            assert torch.equal(value, moments[f"{name}/{key}"])


def test_only_the_newest_is_kept_and_nothing_is_pickled(tmp_path, trained):
    net, progress = trained
    checkpoints = Checkpoints(str(tmp_path))
    assert checkpoints.latest("train") is None
    for stage, epoch in [("pretrain", 9), ("pretrain", 10), ("train", 0), ("train", 1)]:
        progress.epoch = epoch
        checkpoints.save(stage, net, progress)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["train-1.json", "train-1.safetensors"]
    assert json.loads((tmp_path / "checkpoints" / "train-1.json").read_bytes())["format_version"] == 1
    assert checkpoints.latest("pretrain") is None
    checkpoints.clear()
    assert checkpoints.latest("train") is None
    assert not list((tmp_path / "checkpoints").iterdir())


def test_tensors_without_their_marker_or_damaged_are_passed_over(tmp_path, trained, caplog):
    net, progress = trained
    checkpoints = Checkpoints(str(tmp_path))
    progress.epoch = 5
    checkpoints.save("train", net, progress)
    whole = (tmp_path / "checkpoints" / "train-5.safetensors").read_bytes()
    (tmp_path / "checkpoints" / "train-6.safetensors").write_bytes(whole)  # killed before its marker
    found = checkpoints.latest("train")
    assert found is not None
    assert found.epoch == 5
    (tmp_path / "checkpoints" / "train-5.safetensors").write_bytes(whole[:-1])
    with caplog.at_level(logging.WARNING):
        assert checkpoints.latest("train") is None
    assert "damaged" in caplog.text


@pytest.mark.parametrize("changes", [{"lookahead": True}, {"adversarial": 0.1}, {"schedule": "one-cycle", "clip": 0.5}], ids=str)
def test_every_way_to_train_goes_on_as_if_it_had_never_stopped(tmp_path, changes):
    """8 steps of a and 2 of b, which joins in the middle, stand in the checkpoint; the third record joins after it."""
    optim = OptimConfig(**{"epochs": 6, "batch_size": 1, "lr": 0.1, "schedule": "constant", **changes})
    checkpoints = Checkpoints(str(tmp_path))

    def run(net, progress, last):
        def on_epoch(epoch, metrics):
            net.b.requires_grad_(progress.epoch >= 3)
            checkpoints.save("train", net, progress)
            return epoch == last

        net.b.requires_grad_(progress.epoch >= 3)
        train(optim, on_epoch=on_epoch, net=net, joins=np.array([0, 0, 5]), progress=progress)
        return net.a.item(), net.b.item()

    whole = run(Shifted(), Progress(), None)
    assert run(Shifted(), Progress(), 3) != whole
    found, net = checkpoints.latest("train"), Shifted()
    assert found is not None
    assert found.epoch == 4
    assert run(net, found.restore(net), None) == whole


def test_a_marker_that_a_killed_worker_left_half_written_is_passed_over(tmp_path, trained, caplog):
    net, progress = trained
    checkpoints = Checkpoints(str(tmp_path))
    progress.epoch = 5
    checkpoints.note("train", 4, {"loss": 1.0})
    checkpoints.save("train", net, progress)
    for left in (b"", (tmp_path / "checkpoints" / "train-5.json").read_bytes()[:40]):
        (tmp_path / "checkpoints" / "train-6.json").write_bytes(left)
        with caplog.at_level(logging.WARNING):
            found = Checkpoints(str(tmp_path)).latest("train")
        assert found is not None
        assert found.epoch == 5
    assert "goes on from an earlier checkpoint" in caplog.text
    checkpoints.save("train", net, progress)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["train-5.json", "train-5.safetensors"]
