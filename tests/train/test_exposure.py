from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.train.cases import SHAPE, deep_svdd
from vibray.config import UserError
from vibray.models.backbone import TrunkConfig
from vibray.train.batches import Batches, TrainingSet
from vibray.train.deep_svdd import fit_metric, train_deep_svdd
from vibray.train.exposure import ExposureConfig, exposed, injected
from vibray.train.fit import OptimConfig
from vibray.train.guards import injected_faults_guard
from vibray.train.reduce import World

RATE = 8192.0
NONE = OptimConfig(epochs=0, batch_size=16)
NET = {"trunk": TrunkConfig(kind="time", width=8), "objective": "hypersphere", "metric": "mahalanobis"}


def pool(count: int = 48) -> torch.Tensor:
    """Images that are not all alike: every one has two loudnesses of its own, one a half of the rows."""
    random = np.random.default_rng(2)
    x = random.normal(size=(count, *SHAPE))
    x[:, :, :16] += random.normal(size=(count, 1, 1, 1))
    x[:, :, 16:] += 0.3 * random.normal(size=(count, 1, 1, 1))
    return torch.from_numpy(x).float()


def raised(x: torch.Tensor, seed: int) -> torch.Tensor:
    """The same with a band of rows raised."""
    y = x.clone()
    for row, start in enumerate(np.random.default_rng(seed).integers(0, 28, len(x))):
        y[row, :, start : start + 4] += 1.5
    return y


def train(epochs: int = 8, **changes):
    """A net trained on the pool and on the pool with raised bands."""
    x = pool()
    y = raised(x, 1)
    rows = TrainingSet(lambda index: x[index], np.arange(len(x)))
    net = deep_svdd(**(NET | changes))
    optim = OptimConfig(epochs=epochs, batch_size=16, lr=3e-3)
    return net, train_deep_svdd(net, rows, NONE, optim, read_injected=(lambda index: y[index]) if epochs else None)


def test_a_fault_depends_on_the_records_key_alone():
    waveforms, keys = torch.randn(6, 2048, generator=torch.Generator().manual_seed(0)), np.arange(6, dtype=np.uint64)
    config = ExposureConfig(snr_db=(-10.0, -10.0))
    together = injected(waveforms, RATE, config, keys)
    torch.testing.assert_close(injected(waveforms[3:5], RATE, config, keys[3:5]), together[3:5])
    assert not torch.equal(injected(waveforms, RATE, ExposureConfig(seed=2), keys), together)
    power = (together - waveforms).var(dim=1) / waveforms.var(dim=1)
    torch.testing.assert_close(power, torch.full((6,), 0.1), rtol=0.2, atol=0)


def test_an_injected_fault_joins_with_its_record():
    rows = TrainingSet(lambda index: torch.from_numpy(index), np.array([4, 1, 2]), joins=np.arange(10) * 10)
    both = exposed(rows, lambda index: torch.from_numpy(index))
    assert both.joins is not None
    assert both.joins[both.indices].tolist() == [40, 10, 20, 40, 10, 20]
    assert exposed(replace(rows, joins=None), rows.read).joins is None


def test_the_guards_seed_is_refused():
    with pytest.raises(UserError, match="guard"):
        ExposureConfig(seed=0)


def test_injected_records_come_behind_the_others_labelled_abnormal_and_known_faults_are_not_injected():
    plain, faulty = torch.arange(5.0)[:, None], 10 + torch.arange(5.0)[:, None]
    rows = TrainingSet(lambda i: plain[i], np.array([0, 2, 3]), np.array([-1, -1, 1, 0, -1]), np.array([1.0, 1, 20, 20, 1]))
    both = exposed(rows, lambda i: faulty[i])
    assert both.indices.tolist() == [0, 2, 3, 5, 8]
    assert both.targets is not None and both.weights is not None
    assert both.targets[both.indices].tolist() == [-1, 1, 0, 1, 1]
    assert both.weights[both.indices].tolist() == [1, 20, 20, 1, 1]
    x = both.read(np.array([8, 0, 5]))
    assert isinstance(x, torch.Tensor)
    assert x[:, 0].tolist() == [13, 0, 10]
    alone = exposed(TrainingSet(lambda i: plain[i], np.arange(5)), lambda i: faulty[i])
    assert alone.targets is not None
    assert alone.targets.tolist() == [-1] * 5 + [1] * 5


def test_exposure_does_not_collapse_and_sees_other_faults_at_least_as_well_as_the_untrained_net():
    x, new = pool(), raised(pool(), 7)
    scores = []
    for epochs in (8, 0):
        net, trained = train(epochs)
        assert trained.guards.passed
        assert len(trained.scores) == len(x)
        with torch.no_grad():
            scores.append(tuple(net.distance(net(part)).numpy() for part in (x, new)))
            assert net(x).embedding.std() > 0.01
    assert injected_faults_guard(*scores).passed


def test_a_net_with_biases_that_collapses_trips_a_guard_although_a_mahalanobis_distance_spreads():
    x = pool(16)
    rows = TrainingSet(lambda index: x[index], np.arange(16))
    optim = OptimConfig(epochs=60, batch_size=8, lr=2e-2, weight_decay=1e-1, schedule="constant")
    tripped = {}
    for bias in (False, True):
        net = deep_svdd(trunk=TrunkConfig(kind="time", width=8, bias=bias), metric="mahalanobis")
        trained = train_deep_svdd(net, rows, NONE, optim)
        tripped[bias] = [guard.name for guard in trained.guards.guards if not guard.passed]
    assert tripped[False] == []
    assert "spread of scores" in tripped[True]


def test_the_metric_is_that_of_the_records_less_the_farthest():
    """Where it was fitted, distances are of the order of their number of dimensions; a loud few leave it alone."""
    x = pool(200)
    x[:8] *= 6
    net = deep_svdd(**NET).eval()
    fit_metric(net, Batches(TrainingSet(lambda index: x[index], np.arange(200)), 32, 0, World()))
    with torch.no_grad():
        scores = net.score(net(x))
    assert scores[8:].median() < 3 * net.location.numel()
    assert scores[:8].min() > scores[8:].max()


def test_known_faults_turn_the_distance_towards_where_they_lie():
    x = pool(200)
    x[:4, :, :4] += 1.0
    targets = np.full(200, -1)
    targets[:4] = 1
    weights = np.ones(200)
    auc = []
    y = pool(200).flip(3)
    z = y.clone()
    z[:, :, :4] += 0.5
    for labels in (None, targets):
        net = deep_svdd(trunk=NET["trunk"], metric="mahalanobis")
        train_deep_svdd(net, TrainingSet(lambda index: x[index], np.arange(200), labels, weights), NONE, NONE)
        with torch.no_grad():
            normal, faulty = (net.score(net(part)) for part in (y, z))
        auc.append((faulty[:, None] > normal).float().mean().item())
    assert auc[1] > auc[0]
