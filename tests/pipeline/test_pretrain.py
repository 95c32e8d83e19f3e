"""Small fleets to weights: whoever makes the examples, and wherever the job was stopped, the same net."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.pipeline.lines import killed
from vibray.config import UserError
from vibray.decide.areas import auroc
from vibray.fitting.context_scorer import NAMES, ContextScorerTraining, Examples, examples_of, fit_context_net, generic_fault
from vibray.fitting.jobs import PretrainJob
from vibray.models.context_scorer import SIZES
from vibray.pipeline import pretrain as stage
from vibray.pipeline.pretrain import WEIGHTS, PretrainingMismatch, pretrain, read_examples

SMALL = ContextScorerTraining(fleets=2, units=8, records=36, epochs=2, severity=(0.8, 1.0))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    pretrain(PretrainJob(str(folder), SMALL, local=True))
    return folder


def area(score: np.ndarray, abnormal: np.ndarray) -> float:
    found = auroc(score, abnormal)
    assert found is not None
    return found


def test_examples_are_a_function_of_the_fleet(whole):
    made, there = examples_of(SMALL.fleet(1), SMALL.spoiled), read_examples(str(whole / "examples/0001.safetensors"))
    assert np.array_equal(made.z, there.z) and np.array_equal(made.fault, there.fault)
    assert made.z.shape[1] == sum(SIZES) and np.isfinite(made.z).all()
    assert {NAMES[i] for i in set(made.fault.tolist()) - {-1}} <= set(SMALL.faults)
    far = np.abs(made.z).mean(axis=1)
    assert area(far, made.fault >= 0) > 0.8
    left = made.without("dc_bias")
    assert len(left.z) == (made.fault != NAMES.index("dc_bias")).sum() > 0


def test_killed_and_started_again_it_goes_on(whole, tmp_path, monkeypatch, capsys):
    with killed(monkeypatch, stage, "fit_context_net", 0):
        pretrain(PretrainJob(str(tmp_path), SMALL, local=True))
    monkeypatch.setattr(stage, "examples_of", None)  # they stand there
    pretrain(PretrainJob(str(tmp_path), SMALL, local=True))
    assert (tmp_path / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    pretrain(PretrainJob(str(tmp_path), SMALL, local=True))
    assert "finished already" in capsys.readouterr().out
    with pytest.raises(PretrainingMismatch, match="epochs"):
        pretrain(PretrainJob(str(tmp_path), replace(SMALL, epochs=3), local=True))


def test_it_learns():
    """What is planted in few columns is found, where the distance alone does not find it."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(4000, sum(SIZES))).astype(np.float32)
    fault = np.where(rng.random(4000) < 0.5, 0, -1)
    z[fault == 0, 100:103] += 2
    config = ContextScorerTraining(epochs=20, generic=0.0)
    net = fit_context_net([Examples(z[:3000], fault[:3000])], config)
    with torch.no_grad():
        found = net(torch.from_numpy(z[3000:])).numpy()
    assert area(found, fault[3000:] == 0) > 0.95 > 0.8 > area(np.abs(z[3000:]).mean(axis=1), fault[3000:] == 0)


def test_generic_faults_change_a_record_and_leave_the_given_one():
    rng = np.random.default_rng(0)
    z = rng.normal(size=sum(SIZES)).astype(np.float32)
    kept = z.copy()
    made = [generic_fault(z, rng) for _ in range(200)]
    assert np.array_equal(z, kept)
    assert all(each.dtype == np.float32 and not np.array_equal(each, z) for each in made)
    moved = np.array([(each != z).sum() for each in made])
    assert moved.min() <= 5 and (moved == len(z)).any() and ((moved > 5) & (moved < 64)).any()


def test_what_cannot_be_taught_is_refused():
    with pytest.raises(UserError, match="records at least 36"):
        ContextScorerTraining(records=10)
    with pytest.raises(UserError, match="faulty records alone, or none"):
        fit_context_net([Examples(np.zeros((4, sum(SIZES)), np.float32), np.full(4, -1))], SMALL)
