from typing import Any

import numpy as np
import pytest
import torch

from vibray.config import UserError
from vibray.models.backbone import TrunkConfig, batch_norms
from vibray.models.classifier import NO_FAULT, UNKNOWN_FAULT, Classifier, ClassifierConfig, Logits, dropout

TINY = TrunkConfig(width=4)


def net(inputs: Any = "image", num_faults=3, **changes) -> Classifier:
    torch.manual_seed(0)
    shapes = {"image": {"image_shape": (1, 32, 32)}, "vector": {"vector_size": 5}}
    shapes["union"] = shapes["image"] | shapes["vector"]
    return Classifier(ClassifierConfig(inputs=inputs, trunk=TINY, hidden=(8, 4), **changes), num_faults, **shapes[inputs]).eval()


def test_inputs():
    image, vector = torch.randn(2, 1, 32, 32), torch.randn(2, 5)
    for inputs, x in {"image": image, "vector": vector, "union": (image, vector)}.items():
        out = net(inputs)(x)
        assert out.abnormal.shape == (2,)
        assert out.fault.shape == (2, 3)
    both = net("union")
    assert not torch.equal(both((image, vector)).abnormal, both((image, 2 * vector)).abnormal)
    assert not torch.equal(both((image, vector)).abnormal, both((2 * image, vector)).abnormal)


@pytest.mark.parametrize("inputs", ["image", "vector", "union"])
def test_shapes_that_do_not_fit_the_inputs_are_refused(inputs):
    given = {"image": {"vector_size": 5}, "vector": {"image_shape": (1, 32, 32)}, "union": {"image_shape": (1, 32, 32)}}[inputs]
    with pytest.raises(UserError, match="was given"):
        Classifier(ClassifierConfig(inputs=inputs), 2, **given)


def test_loss_against_the_formula_record_by_record():
    model = net()
    model.label_weight.copy_(torch.tensor([0.5, 2.0]))
    model.fault_weight.copy_(torch.tensor([1.0, 3.0, 0.25]))
    random = np.random.default_rng(0)
    abnormal, fault = random.normal(size=6), random.normal(size=(6, 3))
    targets = np.array([[0, -1], [1, -1], [1, 0], [1, 2], [-1, 1], [-1, -1]])
    expected = []
    for logit, logits, (label, number) in zip(abnormal, fault, targets, strict=True):
        loss = 0.0
        if label >= 0:
            p = 1 / (1 + np.exp(-logit))
            loss -= model.label_weight[label].item() * np.log(p if label == 1 else 1 - p)
        if number >= 0:
            loss -= model.fault_weight[number].item() * np.log(np.exp(logits[number]) / np.exp(logits).sum())
        expected.append(loss)
    out = Logits(torch.from_numpy(abnormal), torch.from_numpy(fault))
    np.testing.assert_allclose(model.double().loss(out, torch.from_numpy(targets)).numpy(), expected, rtol=1e-9)


def test_without_faults_it_answers_one_question():
    model = net(num_faults=0)
    out = model(torch.randn(2, 1, 32, 32))
    assert model.loss(out, torch.tensor([[1, -1], [0, -1]])).shape == (2,)
    out = Logits(torch.tensor([3.0, -3.0]), torch.empty(2, 0))
    assert model.diagnose(out).fault.tolist() == [UNKNOWN_FAULT, NO_FAULT]


def test_diagnosis():
    model = net()
    model.temperature.copy_(torch.tensor([2.0, 0.5]))
    out = Logits(torch.tensor([4.0, 4.0, -4.0]), torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.1, 0.0], [0.0, 2.0, 0.0]]))
    found = model.diagnose(out)
    assert found.fault.tolist() == [1, UNKNOWN_FAULT, NO_FAULT]
    torch.testing.assert_close(found.abnormal_probability, torch.sigmoid(torch.tensor([2.0, 2.0, -2.0])))
    torch.testing.assert_close(model.score(out), found.abnormal_probability)
    torch.testing.assert_close(found.fault_probability, torch.softmax(2 * out.fault, dim=1))


def test_dropout_leaves_out_its_share_and_keeps_the_mean():
    h = torch.ones(1000, 100)
    dropped = dropout(h, 0.3, torch.randn(1000, 100, generator=torch.Generator().manual_seed(0)))
    assert (dropped == 0).float().mean().item() == pytest.approx(0.3, abs=0.005)
    assert dropped.mean().item() == pytest.approx(1, abs=0.005)
    assert torch.equal(dropout(h, 0.3, None), h)


def test_without_noise_nothing_is_left_out_and_a_score_does_not_depend_on_its_batch():
    model, x = net(), torch.randn(4, 1, 32, 32)
    model.train()
    model.freeze()  # batch norms to eval mode, whatever the net's
    scores = model.score(model(x))
    torch.testing.assert_close(torch.cat([model.score(model(row[None])) for row in x]), scores, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(model.score(model(x, torch.randn(4, 12))), scores)


def test_unfreezing_by_name():
    model = net()
    model.freeze()
    model.train()
    assert {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad} == {"head"}
    assert not any(norm.training for norm in batch_norms(model))
    model.unfreeze(["layer4"])
    model.train()
    free = {".".join(name.split(".")[:2]) for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name in free if name.startswith("encoder")} == {"encoder.layer4"}
    assert model.encoder is not None
    assert all(norm.training for norm in batch_norms(model.encoder.layer4))
    assert not any(norm.training for norm in batch_norms(model.encoder.layer3))
    with pytest.raises(UserError, match="no part 'layer5'"):
        model.unfreeze(["layer5"])
    with pytest.raises(UserError, match="on an image"):
        net("vector").unfreeze(["layer4"])


def test_a_dropout_that_is_no_share_is_refused():
    with pytest.raises(UserError, match=r"must lie in \[0, 1\)"):
        ClassifierConfig(dropout=(1.0, 0.2))
