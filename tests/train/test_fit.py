import numpy as np
import pytest
import torch

from tests.train.line import Line, Shifted, X, Y, train
from vibray.config import UserError, from_json, to_json
from vibray.train.batches import Batch, Batches, TrainingSet
from vibray.train.fit import Diverged, OptimConfig, Progress, _noise, fit
from vibray.train.reduce import World


def test_the_loss_is_the_weighted_mean_and_its_gradient_is_followed():
    seen = []
    weights = np.array([1.0, 0.5, 2.0])
    net = train(OptimConfig(epochs=1, lr=0.1, weight_decay=0.0), weights, lambda epoch, metrics: seen.append(metrics))
    assert seen[0].loss == pytest.approx((1 * 4 + 0.5 * 9 + 2 * 1) / 3.5)
    assert seen[0].step_losses == (seen[0].loss,)
    assert net.a.item() == pytest.approx(1.1)  # Adam's first step is as long as the learning rate, against the gradient's sign


def test_a_record_of_weight_0_counts_for_nothing():
    kept = train(OptimConfig(epochs=5, lr=0.1, batch_size=1), np.array([1.0, 0.0, 1.0]))
    without = TrainingSet(lambda index: torch.from_numpy(X[index]), np.array([0, 2]), Y)
    assert kept.a.item() > 1
    everything = train(OptimConfig(epochs=150, lr=0.1, weight_decay=0.0), np.array([1.0, 0.0, 1.0]))
    net = Line()
    fit(net, Batches(without, 32, 0, World()), OptimConfig(epochs=150, lr=0.1, weight_decay=0.0), lambda epoch, metrics: None)
    assert everything.a.item() == pytest.approx(net.a.item())
    assert net.a.item() == pytest.approx((1 * 3 + 3 * 4) / (1 + 9), abs=0.01)  # least squares
    with pytest.raises(UserError, match="weight 0"):
        train(OptimConfig(epochs=1), np.zeros(3))


def test_schedules():
    rates = []
    train(OptimConfig(epochs=4, lr=1.0), on_epoch=lambda epoch, metrics: rates.append(metrics.lr))
    np.testing.assert_allclose(rates, [(1 + np.cos(np.pi * epoch / 4)) / 2 for epoch in range(4)])
    optim = OptimConfig(lr=1.0, schedule="plateau", patience=2)
    progress = Progress()
    rates = []
    for figure in [0.1, 0.5, 0.5, 0.4, 0.5, 0.6, 0.6, 0.6]:
        progress.watch(figure, optim)
        rates.append(progress.learning_rate(optim))
    assert rates == [1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25]
    assert Progress(epoch=3).learning_rate(OptimConfig(lr=1.0, schedule="constant")) == 1


def test_on_epoch_stops():
    seen = []

    def on_epoch(epoch, metrics):
        seen.append(epoch)
        return epoch == 2

    train(OptimConfig(epochs=10), on_epoch=on_epoch)
    assert seen == [0, 1, 2]


def test_no_epochs_leave_the_weights():
    assert train(OptimConfig(epochs=0)).a.item() == 1


def test_a_loss_that_is_no_number_is_an_error():
    net = Line()
    net.a.data.fill_(float("inf"))
    with pytest.raises(Diverged, match="epoch 0"):
        train(OptimConfig(epochs=3), net=net)


def test_parameters_that_become_trainable_join_the_optimiser():
    net, seen = Shifted(), []

    def on_epoch(epoch, metrics):
        seen.append(net.b.item())
        net.b.requires_grad_(epoch >= 1)

    train(OptimConfig(epochs=4, lr=0.1), on_epoch=on_epoch, net=net)
    assert seen[:2] == [0, 0]
    assert seen[2] != 0


def test_noise_is_the_global_batchs_whoever_asks():
    net = Line()
    net.noise_shape = (3,)

    def noise(start, count, step=0):
        drawn = _noise(net, Batch(torch.empty(count), None, torch.ones(count), 5.0, start, 5), (0, 1, step))
        assert drawn is not None
        return drawn

    whole = noise(0, 5)
    assert torch.equal(torch.cat([noise(0, 2), noise(2, 3)]), whole)
    assert not torch.equal(noise(0, 5, step=1), whole)
    assert whole.dtype == torch.float64


def test_a_gradient_that_is_too_long_is_cut_and_a_shorter_one_stays():
    def followed(clip):
        """Ten times Adam's first mean of the gradient."""
        net, progress = Shifted(), Progress()
        net.b.requires_grad_(True)
        train(OptimConfig(epochs=1, clip=clip, weight_decay=0.0), net=net, progress=progress)
        moments = progress.tensors(net)
        return 10 * np.array([moments["a/exp_avg"].item(), moments["b/exp_avg"].item()])

    gradient = np.array([2 * ((X - Y) * X).mean(), 2 * (X - Y).mean()])
    np.testing.assert_allclose(followed(0.0), gradient)
    np.testing.assert_allclose(followed(0.5), 0.5 * gradient / np.linalg.norm(gradient), rtol=1e-6)
    assert np.array_equal(followed(1e3), followed(0.0))


def test_a_config_of_before_a_field_existed_has_its_default():
    values = to_json(OptimConfig(lr=0.5))
    for name in ("lookahead", "adversarial", "clip"):
        del values[name]
    assert from_json(OptimConfig, values) == OptimConfig(lr=0.5)


def test_config_to_json_and_refusals():
    config = OptimConfig(precision="bf16", schedule="plateau")
    assert from_json(OptimConfig, to_json(config)) == config
    with pytest.raises(UserError, match="epochs >= 0"):
        OptimConfig(epochs=-1)
    with pytest.raises(UserError, match="lr > 0"):
        OptimConfig(lr=0.0)
    with pytest.raises(UserError, match="clip >= 0"):
        OptimConfig(clip=-1.0)
    with pytest.raises(UserError, match="adversarial >= 0"):
        OptimConfig(adversarial=float("inf"))


@pytest.mark.gpu
def test_mixed_precision_on_a_gpu_follows_float32():
    from tests.train.cases import deep_svdd, records
    from vibray.train.deep_svdd import train_deep_svdd

    runs = {}
    for precision in ("float32", "bf16"):
        net = deep_svdd(objective="soft-boundary", warmup_epochs=1).cuda()
        optim = OptimConfig(epochs=3, batch_size=8, lr=1e-3, precision=precision)
        runs[precision] = train_deep_svdd(net, records(40), optim, optim).scores
        assert net.radius.dtype == torch.float32
    assert np.corrcoef(runs["float32"], runs["bf16"])[0, 1] > 0.8
