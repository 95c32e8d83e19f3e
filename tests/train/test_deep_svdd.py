import numpy as np
import pytest
import torch

from tests.train.cases import SHAPE, TRUNK, deep_svdd, images, records
from vibray.models.backbone import TrunkConfig, batch_norms
from vibray.models.deep_sad import DeepSad, DeepSadConfig
from vibray.models.deep_svdd import DeepSvdd
from vibray.train.batches import Batches, TrainingSet
from vibray.train.checkpoints import Checkpoints
from vibray.train.deep_svdd import embedding_moments, pushed_from_zero, set_radius, train_deep_svdd
from vibray.train.fit import OptimConfig
from vibray.train.guards import CollapsedModel
from vibray.train.reduce import World

NONE = OptimConfig(epochs=0, batch_size=4)


class Killed(Exception):
    pass


def test_the_centre_keeps_away_from_zero():
    assert pushed_from_zero(np.array([0.0, -0.0, 0.05, -0.05, 0.1, -0.3])).tolist() == [0.1, 0.1, 0.1, -0.1, 0.1, -0.3]


def test_centre_and_covariance_against_numpy_in_eval_mode():
    net = deep_svdd().train()
    mean, covariance = embedding_moments(net, Batches(records(11), 4, 0, World()))
    assert net.training
    z = net.eval()(images(11)).embedding.detach().double().numpy()
    np.testing.assert_allclose(mean, z.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(covariance, np.cov(z.T, ddof=0), rtol=1e-4, atol=1e-7)


def test_the_radius_is_numpys_quantile_of_the_distances():
    net, distances = deep_svdd(nu=0.1), np.random.default_rng(0).gamma(2, size=333)
    set_radius(net, distances)
    assert net.radius.item() ** 2 == pytest.approx(np.quantile(distances, 0.9), rel=1e-6)
    assert (distances > net.radius.item() ** 2).mean() == pytest.approx(0.1, abs=0.005)


def test_after_training_the_sphere_is_that_of_the_training_records():
    net = deep_svdd(nu=0.2)
    centers = []
    optim = OptimConfig(epochs=3, batch_size=8, lr=1e-3)
    trained = train_deep_svdd(net, records(30), optim, optim, lambda *seen: centers.append(net.center.clone()) and None)
    assert all(torch.equal(center, net.center) for center in centers[3:])
    assert not torch.equal(centers[0], net.center)
    assert not net.training
    scores = net.score(net(images(30))).detach().double().numpy()
    np.testing.assert_allclose(trained.scores, scores, rtol=1e-5)
    assert net.radius.item() ** 2 == pytest.approx(np.quantile(trained.scores, 0.8), rel=1e-5)
    assert trained.guards.passed


def test_pretraining_moves_the_batch_statistics_and_training_does_not():
    net = deep_svdd()
    seen = {"pretrain": [], "train": []}

    def report(stage, epoch, figures):
        seen[stage].append(torch.cat([norm.running_mean.clone() for norm in batch_norms(net)]))

    train_deep_svdd(net, records(8), OptimConfig(epochs=2, batch_size=4), OptimConfig(epochs=2, batch_size=4), report)
    assert not torch.equal(seen["pretrain"][0], seen["pretrain"][1])
    assert torch.equal(seen["pretrain"][1], seen["train"][0])
    assert torch.equal(seen["train"][0], seen["train"][1])


def test_an_untrained_net_has_a_sphere_too():
    net = deep_svdd()
    before = net.trunk.conv1.weight.clone()
    trained = train_deep_svdd(net, records(9), NONE, NONE)
    assert torch.equal(before, net.trunk.conv1.weight)
    assert net.radius > 0
    assert net.center.abs().min() >= 0.1 - 1e-6
    assert len(trained.scores) == 9


@pytest.mark.parametrize("killed_at", [("pretrain", 0), ("pretrain", 1), ("train", 0), ("train", 2)])
def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path, killed_at):
    pretrain, optim = OptimConfig(epochs=2, batch_size=4), OptimConfig(epochs=4, batch_size=4, lr=1e-3)

    def train(seed, checkpoints, report=lambda *seen: None):
        torch.manual_seed(seed)
        net = deep_svdd(objective="soft-boundary", nu=0.2, warmup_epochs=2)
        if seed:  # whatever weights a resumed run begins with, the checkpoint's count
            torch.nn.init.normal_(net.trunk.conv1.weight)
        return net, train_deep_svdd(net, records(7), pretrain, optim, report, checkpoints).scores

    def kill(stage, epoch, figures):
        if (stage, epoch) == killed_at:
            raise Killed

    whole, scores = train(0, None)
    checkpoints = Checkpoints(str(tmp_path))
    with pytest.raises(Killed):
        train(0, checkpoints, kill)
    seen = []
    checkpoints = Checkpoints(str(tmp_path))  # as another process would begin
    resumed, resumed_scores = train(1, checkpoints, lambda stage, epoch, figures: seen.append((stage, epoch)))
    everything = [("pretrain", 0), ("pretrain", 1), *(("train", epoch) for epoch in range(4))]
    assert seen == everything[everything.index(killed_at) + 1 :]
    assert [(line["stage"], line["epoch"]) for line in checkpoints.lines] == everything  # the epochs before the end are still known
    assert {"loss", "records_per_s", "embedding_std", "participation", "center_offset"} <= set(checkpoints.lines[-1])
    np.testing.assert_allclose(resumed_scores, scores, rtol=1e-6)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=1e-6, atol=1e-7, msg=name)


def test_a_control_net_with_biases_collapses_and_trips_a_guard_where_a_bias_free_one_does_not():
    """Not pretrained: then the batch norms shift nothing either, and only the control has constants to collapse to."""
    optim = OptimConfig(epochs=60, batch_size=8, lr=2e-2, weight_decay=1e-1, schedule="constant")
    free, control = (deep_svdd(trunk=TrunkConfig(width=4, bias=bias)) for bias in (False, True))
    train_deep_svdd(free, records(8), NONE, optim).guards.check()
    trained = train_deep_svdd(control, records(8), NONE, optim)
    assert trained.scores.mean() < 0.01  # the lowest loss: everything lies at the centre
    assert trained.scores.std() < 1e-3 * trained.scores.mean()
    with pytest.raises(CollapsedModel, match="of no use"):
        trained.guards.check()


def test_records_that_are_all_alike_trip_a_guard_and_nothing_else_happens():
    same = TrainingSet(lambda index: images(1).expand(len(index), *SHAPE).clone(), np.arange(10))
    optim = OptimConfig(epochs=2, batch_size=4)
    trained = train_deep_svdd(deep_svdd(), same, optim, optim)
    assert np.isfinite(trained.scores).all()
    assert "distinct scores" in " ".join(trained.guards.reasons)


def test_deep_sad_pushes_known_faults_out_and_leaves_them_out_of_the_sphere():
    targets = np.full(24, -1)
    targets[:6], targets[6:12] = 1, 0
    x = images(24).clone()
    x[:6, ..., :16] *= 4
    rows = TrainingSet(lambda index: x[index], np.arange(24), targets)
    optim = OptimConfig(epochs=40, batch_size=24, lr=3e-3)
    torch.manual_seed(0)
    net = DeepSad(DeepSadConfig(trunk=TRUNK, hidden=8, latent_dim=6, nu=0.2), SHAPE)
    trained = train_deep_svdd(net, rows, NONE, optim)
    assert trained.scores[:6].min() > 10 * np.median(trained.scores[6:])  # without the labels: below the median
    assert net.radius.item() ** 2 == pytest.approx(np.quantile(trained.scores[6:], 0.8), rel=1e-5)
    torch.manual_seed(0)
    untouched = DeepSad(DeepSadConfig(trunk=TRUNK, hidden=8, latent_dim=6), SHAPE)
    train_deep_svdd(untouched, rows, NONE, NONE)
    rest = DeepSvdd(untouched.config, SHAPE)
    rest.load_state_dict(untouched.state_dict())
    train_deep_svdd(rest, TrainingSet(rows.read, np.arange(6, 24)), NONE, NONE)
    torch.testing.assert_close(untouched.center, rest.center)
