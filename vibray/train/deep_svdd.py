"""The order of training Deep SVDD: pretrain as an autoencoder, freeze batch statistics, fix the centre, train, fit metric and radius."""

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import chain, count, islice

import numpy as np
import torch
from torch import Tensor

from vibray.models.backbone import freeze_statistics
from vibray.models.deep_svdd import Autoencoder, DeepSvdd
from vibray.models.moments import Moments
from vibray.schema import LABEL_ABNORMAL
from vibray.train.batches import WATCHED_RECORDS, Batch, Batches, Inputs, TrainingSet, thinned, to
from vibray.train.checkpoints import Checkpoints
from vibray.train.exposure import exposed
from vibray.train.fit import EpochMetrics, OptimConfig, Progress, Report, fit, silent
from vibray.train.guards import (
    GuardReport,
    Trained,
    center_guards,
    embedding_figures,
    participation_ratio,
    participation_warning,
    score_figures,
    score_guards,
)
from vibray.train.reduce import World, distributed

log = logging.getLogger(__name__)

MIN_CENTER = 0.1
"""least distance of a centre's coordinate from 0, which the net could reach by weights of 0"""
SETTLING_STEPS = 50
"""batches from which a pruned net's statistics are taken: of the old ones, which each draws nearer by a tenth, 0.5 % are left"""
METRIC_RECORDS = 50_000
"""training records from which mean and covariance of the features are fitted, at most"""
FAULT_SHRINKAGE = 0.03
"""how far the second moment of known faults is drawn to a multiple of the identity"""
TRIM_SHARE, TRIM_ROUNDS = 0.1, 3
"""share of the farthest records that is left out when they are fitted again, and how often"""


def train_deep_svdd(
    net: DeepSvdd,
    rows: TrainingSet,
    pretrain: OptimConfig,
    optim: OptimConfig,
    report: Report = silent,
    checkpoints: Checkpoints | None = None,
    read_injected: Callable[[np.ndarray], Inputs] | None = None,
    pruned: bool = False,
) -> Trained:
    """Trains a Deep SVDD or Deep SAD net in place, on all workers of the process group; each has to call it.

    With `checkpoints` a training that was stopped goes on where it was. `rows.targets`, where there are any, are labels as in schema.py:
    they tell Deep SAD, and known faults take no part in the centre, the metric, the radius and the guards. `read_injected` reads the
    records with an injected fault each, by the same row numbers: they join the training as known faults, and nothing else. A net that
    was trained and then `pruned` keeps its centre and is not pretrained; its batch statistics are taken anew, since what fed its channels
    has changed. The guards are reported, not raised; those on scores judge the distances to the centre, because a Mahalanobis distance
    spreads whatever it is given.

    A frozen batch norm still takes its running mean off, a constant, though none that is trained: after pretraining the loss comes as
    near to 0 as with biases (2e-5 and 1e-5 after 60 steps at a learning rate of 1e-2, tiny nets), so the guards matter. Without
    pretraining a frozen batch norm changes nothing at all, and there is neither a bias nor a normalisation.

    Source: Ruff et al. 2018, "Deep One-Class Classification", section 4.
    """
    world = World.current()
    world.align(net)
    normal = rows if rows.targets is None else _without_known_faults(rows)
    trained_on = rows if read_injected is None else exposed(rows, read_injected)
    batches = Batches(trained_on, optim.batch_size, optim.seed, world)
    judged = Batches(normal, optim.batch_size, optim.seed, world)
    watched = Batches(thinned(normal, WATCHED_RECORDS), optim.batch_size, optim.seed, world)
    known = replace(trained_on, indices=_known_faults(trained_on)) if len(_known_faults(trained_on)) else None
    faulty = None if known is None else Batches(thinned(known, WATCHED_RECORDS), optim.batch_size, optim.seed, world)
    found = checkpoints.latest("train") if checkpoints else None
    if found is None:
        if pruned:
            _settle_statistics(net, judged)
        else:
            _pretrain(net, Batches(rows, pretrain.batch_size, pretrain.seed, world), watched, pretrain, report, checkpoints)
        freeze_statistics(net)
        mean, covariance = embedding_moments(net, judged)
        participation = participation_ratio(covariance)
        if not pruned:
            net.center.copy_(torch.from_numpy(pushed_from_zero(mean)))
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
        figures = metrics.values() | epoch_figures(net, watched, faulty)
        if checkpoints:
            checkpoints.note("train", epoch, figures)
        save()
        return report("train", epoch, figures)

    if found is None:
        save()
    fit(net, batches, optim, on_epoch, progress)
    net.eval()
    if net.config.metric == "mahalanobis":
        fit_metric(net, Batches(thinned(normal, METRIC_RECORDS), optim.batch_size, optim.seed, world))
        faults = _known_faults(rows)
        if len(faults):
            lean_to_faults(net, Batches(replace(rows, indices=faults), optim.batch_size, optim.seed, world))
    scores = score_all(net, judged)
    set_radius(net, scores)
    distances = scores if net.config.metric == "distance" else judged.collect(net, partial(_distance, net))
    _, covariance = embedding_moments(net, judged)
    warnings = participation_warning(participation_ratio(covariance), participation)
    for warning in warnings:
        log.warning(warning)
    guards = GuardReport((*score_guards(distances), *center_guards(_numpy(center), _numpy(net.center))), warnings)
    every = Batches(rows, optim.batch_size, optim.seed, world)
    return Trained(scores if normal is rows else score_all(net, every), guards)


def _without_known_faults(rows: TrainingSet) -> TrainingSet:
    assert rows.targets is not None
    return replace(rows, indices=rows.indices[rows.targets[rows.indices] != 1])


def _known_faults(rows: TrainingSet) -> np.ndarray:
    """Row numbers of the records that a person labelled abnormal."""
    indices = np.asarray(rows.indices)
    return indices[:0] if rows.targets is None else indices[rows.targets[indices] == LABEL_ABNORMAL]


def _pretrain(
    net: DeepSvdd, batches: Batches, watched: Batches, optim: OptimConfig, report: Report, checkpoints: Checkpoints | None
) -> None:
    autoencoder = Autoencoder(net).to(next(net.parameters()))
    found = checkpoints.latest("pretrain") if checkpoints else None
    progress = found.restore(autoencoder) if found else Progress()

    def on_epoch(epoch: int, metrics: EpochMetrics) -> bool | None:
        figures = metrics.values() | embedding_figures(watched.collect(net, partial(_embedding, net)))
        if checkpoints:
            checkpoints.note("pretrain", epoch, figures)
        if checkpoints and batches.world.rank == 0:
            checkpoints.save("pretrain", autoencoder, progress)
        return report("pretrain", epoch, figures)

    fit(autoencoder, batches, optim, on_epoch, progress)


def _settle_statistics(net: DeepSvdd, batches: Batches) -> None:
    """Takes the running statistics of the batch norms anew, moving no weight."""
    every = chain.from_iterable(batches.epoch(epoch) for epoch in count())
    net.train()
    with torch.no_grad(), distributed(net, batches.world) as forward:
        for batch in islice(every, SETTLING_STEPS):
            forward(to(batch.x, net.center.device))


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


def epoch_figures(net: DeepSvdd, watched: Batches, faulty: Batches | None) -> dict[str, float]:
    """The embedding after an epoch, the distances that the loss is made of, and what the guards look at, in eval mode.

    `watched` are records that training takes for normal, `faulty` known or injected faults. Every worker has to call it.
    """
    center, embedding = _numpy(net.center), watched.collect(net, partial(_embedding, net))
    distance = np.square(embedding - center).sum(axis=1)
    figures = embedding_figures(embedding) | {
        "center_offset": float(np.linalg.norm(embedding.mean(axis=0) - center)),
        "distance": float(distance.mean()),
        **score_figures(distance),
    }
    if faulty is not None:
        figures["fault_distance"] = float(faulty.collect(net, partial(_distance, net)).mean())
    if net.config.objective == "soft-boundary":
        figures["radius"] = float(net.radius)
    return figures


def fit_metric(net: DeepSvdd, batches: Batches) -> None:
    """Fits mean and Ledoit-Wolf covariance of the trunk's features; refits three times without the farthest tenth of all records.

    Float64 on every worker, from all workers' records. Directions without spread are left out of the distance.
    """
    device = net.location.device
    features = torch.from_numpy(batches.collect(net, lambda batch: net(to(batch.x, device)).features))
    kept = torch.ones(len(features), dtype=torch.bool)
    for round in range(TRIM_ROUNDS + 1):
        moments = Moments(features.shape[1])
        moments.update(features[kept])
        values, directions = torch.linalg.eigh(moments.ledoit_wolf()[0])
        spread = values > 1e-10 * values[-1]
        whitening = directions * torch.where(spread, values.clamp_min(torch.finfo(values.dtype).tiny).rsqrt(), 0.0)
        if round < TRIM_ROUNDS:
            distances = ((features - moments.mean) @ whitening).norm(dim=1)
            kept = distances <= torch.quantile(distances, 1 - TRIM_SHARE)
    net.location.copy_(moments.mean)
    net.whitening.copy_(whitening)


def lean_to_faults(net: DeepSvdd, batches: Batches) -> None:
    """Turns the fitted distance towards the directions in which known faults lie.

    With w the whitened features, normal records being N(0, I) and faults N(0, I + C), the score becomes the quadratic part of the log
    likelihood ratio, w'(I - (I + C)^-1) w. C is the second moment of the known faults, each scaled to their median length, shrunk by
    `FAULT_SHRINKAGE` towards a multiple of I, with which the score would be the Mahalanobis distance again.
    """
    device = net.location.device
    features = torch.from_numpy(batches.collect(net, lambda batch: net(to(batch.x, device)).features))
    whitening = net.whitening.double().cpu()
    w = (features - net.location.double().cpu()) @ whitening
    length = w.norm(dim=1, keepdim=True).clamp_min(torch.finfo(w.dtype).tiny)
    w = w / length * length.median()
    moment = w.T @ w / len(w)
    eye = torch.eye(len(moment), dtype=w.dtype)
    values, directions = torch.linalg.eigh((1 - FAULT_SHRINKAGE) * moment + FAULT_SHRINKAGE * moment.trace() / len(moment) * eye)
    # 1 - 1 / (1 + v) of each direction
    net.whitening.copy_(whitening @ directions * (values / (1 + values)).clamp_min(0).sqrt())


def score_all(net: DeepSvdd, batches: Batches) -> np.ndarray:
    """Scores of all records in the order of their indices, on every worker."""
    return batches.collect(net, partial(_score, net))


def _embedding(net: DeepSvdd, batch: Batch) -> Tensor:
    return net(to(batch.x, net.center.device)).embedding


def _score(net: DeepSvdd, batch: Batch) -> Tensor:
    return net.score(net(to(batch.x, net.center.device)))


def _distance(net: DeepSvdd, batch: Batch) -> Tensor:
    return net.distance(net(to(batch.x, net.center.device)))


def set_radius(net: DeepSvdd, distances: np.ndarray) -> None:
    """R^2 = the (1 - nu) quantile of the scores of all workers' records; set alike on each, since each has gathered them."""
    net.radius.fill_(float(np.sqrt(np.quantile(distances, 1 - net.config.nu))))


def _numpy(values: Tensor) -> np.ndarray:
    return values.double().cpu().numpy()
