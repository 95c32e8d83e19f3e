"""The guards of a trained detector, that on injected faults among them: an untrained network's scores of the same records are asked."""

from typing import Any

import numpy as np
import torch

from vibray.fitting.worker import Worker
from vibray.models.deep_svdd import DeepSvdd
from vibray.recipes.building import build_deep, build_feature
from vibray.recipes.kinds import DeepRecipe
from vibray.runs.models import Detecting
from vibray.signal.injected import inject
from vibray.train.batches import Batches, TrainingSet
from vibray.train.deep_svdd import Trained, fit_metric
from vibray.train.exposure import KINDS
from vibray.train.guards import GuardReport, injected_faults_guard
from vibray.train.reduce import World

GUARD_RECORDS = 96
"""Training records into which faults are injected to see that training has not made the net blind."""

GUARD_METRIC_RECORDS = 2000
"""Training records from which the untrained network's metric is fitted."""

GUARD_SNR_DB = 0.0
"""Injected faults as strong as the record itself: an untrained network finds many of them, and training must not lose them. Their
draws are others than those of outlier exposure, their kinds are not: after exposure the guard says that training worked, not how far."""


def guards_of(worker: Worker, recipe: DeepRecipe, indices: np.ndarray, detecting: Detecting, trained: Trained) -> GuardReport:
    """The guards, that on injected faults among them; each is told. One worker of a group calls it."""
    guards = trained.guards
    if isinstance(detecting.detector, DeepSvdd) and recipe.optim.epochs:
        guards = guards.with_guard(injected_faults_guard(*_injected_scores(worker, recipe, indices, detecting)))
    for guard in guards.guards:
        worker.tell(f"guard {guard.name}: {'held' if guard.passed else 'TRIPPED'} ({guard.detail})", 0, 0)
    for warning in guards.warnings:
        worker.tell(f"warning: {warning}", 0, 0)
    return guards


def _injected_scores(worker: Worker, recipe: DeepRecipe, indices: np.ndarray, detecting: Detecting):
    """Scores of some training records as they are and with faults injected, by the trained and by an untrained net."""
    hashes = worker.table.key_hash[indices]
    index = indices[np.argsort(hashes)[:GUARD_RECORDS]]
    waveforms = worker.read_waveforms(index)
    sensors = worker.table.sensors.of(index)
    feature = build_feature(recipe.feature, worker.table.facts.mains_hz)
    torch.manual_seed(recipe.optim.seed)
    untrained = build_deep(recipe.detector, feature.shape).eval()
    assert isinstance(untrained, DeepSvdd)
    rate = worker.table.facts.sample_rate_hz
    with torch.inference_mode():
        plain = detecting.scaling(feature(waveforms, rate), sensors)
        kinds = [KINDS[i % len(KINDS)] for i in range(len(index))]
        faulty_waveforms = waveforms.clone()
        for kind in KINDS:
            mine = torch.tensor([i for i, k in enumerate(kinds) if k == kind], dtype=torch.long)  # of few records none
            faulty_waveforms[mine] = inject(waveforms[mine], rate, kind, GUARD_SNR_DB, worker.table.key_hash[index[mine.numpy()]])
        faulty = detecting.scaling(feature(faulty_waveforms, rate), sensors)
        untrained.center.copy_(untrained(plain).embedding.mean(0))
        untrained.to(worker.device)
        if untrained.config.metric == "mahalanobis":
            # from as many records as it can: on few of them the distance is short for these alone
            others = indices[np.argsort(hashes)[:GUARD_METRIC_RECORDS]]
            read = worker.scaled(detecting.scaling, worker.images(recipe.feature))
            fit_metric(untrained, Batches(TrainingSet(read, others), recipe.optim.batch_size, 0, World()))
        nets: tuple[Any, Any] = (detecting.detector, untrained)
        return [tuple(net.score(net(x.to(worker.device))).cpu().numpy() for x in (plain, faulty)) for net in nets]
