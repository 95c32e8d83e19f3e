"""The order of training Deep SVDD: pretrain as an autoencoder, freeze the batch statistics, fix the centre, train, set the radius."""

import logging
from functools import partial

import numpy as np
import torch
from torch import Tensor

from vibray.models.backbone import freeze_statistics
from vibray.models.deep_svdd import Autoencoder, DeepSvdd
from vibray.train.batches import Batch, Batches, TrainingSet, to
from vibray.train.checkpoints import Checkpoints
from vibray.train.fit import EpochMetrics, OptimConfig, Progress, Report, fit, silent
from vibray.train.guards import GuardReport, Trained, center_guards, participation_ratio, participation_warning, score_guards
from vibray.train.reduce import World

log = logging.getLogger(__name__)

MIN_CENTER = 0.1
"""least distance of a centre's coordinate from 0, which the net could reach by weights of 0"""


def train_deep_svdd(
    net: DeepSvdd,
    rows: TrainingSet,
    pretrain: OptimConfig,
    optim: OptimConfig,
    report: Report = silent,
    checkpoints: Checkpoints | None = None,
) -> Trained:
    """Trains a Deep SVDD or Deep SAD net in place, on all workers of the process group; each has to call it.

    With `checkpoints` a training that was stopped goes on where it was. `rows.targets`, where there are any, are labels as in schema.py:
    they tell Deep SAD, and known faults take no part in the centre, the radius and the guards. The guards are reported, not raised.

    A frozen batch norm still takes its running mean off, a constant, though none that is trained: after pretraining the loss comes as
    near to 0 as with biases (2e-5 and 1e-5 after 60 steps at a learning rate of 1e-2, tiny nets), so the guards matter.

    Source: Ruff et al. 2018, "Deep One-Class Classification", section 4.
    """
    world = World.current()
    world.align(net)
    normal = rows if rows.targets is None else _without_known_faults(rows)
    batches = Batches(rows, optim.batch_size, optim.seed, world)
    judged = Batches(normal, optim.batch_size, optim.seed, world)
    found = checkpoints.latest("train") if checkpoints else None
    if found is None:
        _pretrain(net, Batches(rows, pretrain.batch_size, pretrain.seed, world), pretrain, report, checkpoints)
        freeze_statistics(net)
        participation = _fix_center(net, judged)
        progress = Progress()
    else:
        progress = found.restore(net)
        freeze_statistics(net)
        participation = found.values["pretrained_participation"]
    center = net.center.clone()

    def save() -> None:
        if checkpoints and world.rank == 0:
            checkpoints.save("train", net, progress, pretrained_participation=participation)

    def on_epoch(epoch: int, metrics: EpochMetrics) -> bool | None:
        if net.config.objective == "soft-boundary" and epoch + 1 >= net.config.warmup_epochs:
            set_radius(net, score_all(net, judged))
        save()
        return report("train", epoch, metrics.values())

    if found is None:
        save()
    fit(net, batches, optim, on_epoch, progress)
    net.eval()
    scores = score_all(net, judged)
    set_radius(net, scores)
    _, covariance = embedding_moments(net, judged)
    warnings = participation_warning(participation_ratio(covariance), participation)
    for warning in warnings:
        log.warning(warning)
    guards = GuardReport((*score_guards(scores), *center_guards(_numpy(center), _numpy(net.center))), warnings)
    return Trained(scores if normal is rows else score_all(net, batches), guards)


def _without_known_faults(rows: TrainingSet) -> TrainingSet:
    assert rows.targets is not None
    return TrainingSet(rows.read, rows.indices[rows.targets[rows.indices] != 1], rows.targets, rows.weights)


def _pretrain(net: DeepSvdd, batches: Batches, optim: OptimConfig, report: Report, checkpoints: Checkpoints | None) -> None:
    autoencoder = Autoencoder(net).to(next(net.parameters()))
    found = checkpoints.latest("pretrain") if checkpoints else None
    progress = found.restore(autoencoder) if found else Progress()

    def on_epoch(epoch: int, metrics: EpochMetrics) -> bool | None:
        if checkpoints and batches.world.rank == 0:
            checkpoints.save("pretrain", autoencoder, progress)
        return report("pretrain", epoch, metrics.values())

    fit(autoencoder, batches, optim, on_epoch, progress)


def _fix_center(net: DeepSvdd, batches: Batches) -> float:
    """Sets the centre, once and for all; returns the participation ratio of the embedding."""
    mean, covariance = embedding_moments(net, batches)
    net.center.copy_(torch.from_numpy(pushed_from_zero(mean)))
    return participation_ratio(covariance)


def pushed_from_zero(mean: np.ndarray) -> np.ndarray:
    """The centre of a mean embedding: coordinates nearer to 0 than 0.1 are moved to +-0.1, 0 itself to +0.1."""
    return np.where(np.abs(mean) < MIN_CENTER, np.where(mean < 0, -MIN_CENTER, MIN_CENTER), mean)


def embedding_moments(net: DeepSvdd, batches: Batches) -> tuple[np.ndarray, np.ndarray]:
    """Mean [latent] and covariance [latent, latent] of the embedding over all records and workers, in float64 and in eval mode."""
    training = net.training
    net.eval()
    dims = net.center.numel()
    sums = torch.zeros(1 + dims + dims**2, dtype=torch.float64, device=net.center.device)
    with torch.no_grad():
        for batch in batches.shares():
            z = net(to(batch.x, net.center.device)).embedding.double()
            sums += torch.cat([sums.new_tensor([len(z)]), z.sum(0), (z.T @ z).flatten()])
    net.train(training)
    count, first, second = batches.world.sum(sums).split([1, dims, dims**2])
    mean = first / count
    covariance = second.view(dims, dims) / count - torch.outer(mean, mean)
    return _numpy(mean), _numpy(covariance)


def score_all(net: DeepSvdd, batches: Batches) -> np.ndarray:
    """Scores of all records in the order of their indices, on every worker."""
    return batches.collect(net, partial(_score, net))


def _score(net: DeepSvdd, batch: Batch) -> Tensor:
    return net.score(net(to(batch.x, net.center.device)))


def set_radius(net: DeepSvdd, distances: np.ndarray) -> None:
    """R^2 = the (1 - nu) quantile of the squared distances of all workers' records; set alike on each, since each has gathered them."""
    net.radius.fill_(float(np.sqrt(np.quantile(distances, 1 - net.config.nu))))


def _numpy(values: Tensor) -> np.ndarray:
    return values.double().cpu().numpy()
