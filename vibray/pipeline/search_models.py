"""A recipe fitted on one fold of a search: the same training code for one process and for the workers of a group."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from vibray.decide.splits import UNLABELLED, Setting, Split
from vibray.models.deep_svdd import DeepSvdd
from vibray.pipeline.benchmark_cells import Corpus, Vectors, calibrated
from vibray.pipeline.deep_worker import Worker
from vibray.recipes import ClassicalRecipe, DeepRecipe, build_classical, build_deep, build_feature
from vibray.runs import Detecting, score_statistics
from vibray.signal.injected import inject
from vibray.train.batches import Batch, Batches, TrainingSet, to
from vibray.train.classical import fit_detector
from vibray.train.deep_svdd import fit_metric, train_deep_svdd
from vibray.train.exposure import KINDS
from vibray.train.guards import CollapsedModel
from vibray.train.vae import train_vae

SCORE_RECORDS = 64

PROBE_RECORDS = 300
"""Records of a fold on which objectives without labels are computed, at most."""

INJECTED_DB, INJECTED_SEED = -10.0, 2
"""Power of an injected fault over its record's, and the seed of the faults: neither the guard's (0) nor outlier exposure's (1)."""

Score = Callable[[np.ndarray], np.ndarray]
"""Row numbers to scores, float64; on every worker, and each has to call it."""

AtEpoch = Callable[[int, Score], None]
"""Called on every worker after each epoch of training proper with the number of epochs done and the scores as the net is now."""


@dataclass(frozen=True)
class FoldRows:
    """Row numbers of one fold."""

    split: Split
    """pool, the held-out sensors' calibration, and judged: the labelled records of the fold's units"""
    trusted: np.ndarray
    """labelled normals of other units that are not in the pool"""
    probe: np.ndarray
    """records of the fold that neither calibrate nor are labelled faulty, some of them: for objectives without labels"""

    def half(self, corpus: Corpus, which: int) -> "FoldRows":
        """The same with half of the pool: every other unit, or of few units every other record."""
        pool = self.split.pool
        _, unit = np.unique(corpus.records.unit[pool], return_inverse=True)
        by = unit if unit.max() >= 3 else np.arange(len(pool))
        split = Split(pool[by % 2 == which], self.split.calibration, self.split.judged, self.split.labelled, self.split.halved)
        return FoldRows(split, self.trusted, self.probe)


def fold_rows(corpus: Corpus, fold: int, seed: int) -> FoldRows:
    """Who is trained on and who is judged. No label decides who is trained on, but that labelled records stay out of the pool where it
    has as many others: cuts can then be made of normals that no training has seen. Elsewhere all records of the other folds are the pool,
    faults among them, as they are when train.py trains on them."""
    split, label, sensor = corpus.rows(Setting(fold, seed, 0.0)), corpus.records.label, corpus.records.sensor
    pool = np.flatnonzero(corpus.fold != fold)
    unlabelled = pool[label[pool] == UNLABELLED]
    if 2 * len(unlabelled) >= len(pool):
        pool = unlabelled
    # where folds are blocks of time: a sensor that was trained on has a baseline, which no calibration may give again
    calibration = split.calibration[~np.isin(sensor[split.calibration], sensor[pool])]
    split = Split(pool, calibration, split.judged, split.labelled, split.halved)
    outside = corpus.records.healthy & (corpus.fold != fold)
    outside[split.pool] = False
    held = (corpus.fold == fold) & ~corpus.records.faulty
    held[split.calibration] = False
    probe = np.flatnonzero(held)
    probe = np.sort(probe[np.argsort(corpus.table.key_hash[probe])][:PROBE_RECORDS])
    return FoldRows(split, np.flatnonzero(outside), probe)


@dataclass(frozen=True)
class Fitted:
    """A recipe fitted on a fold."""

    detecting: Detecting
    pool_scores: np.ndarray
    score: Score
    score_injected: Score
    """the same of the records with an injected fault each"""
    known: np.ndarray
    """bool a judged record: its sensor has a baseline"""
    lines: list[dict[str, Any]]
    """what metrics.jsonl gets"""


def fit_fold(worker: Worker, corpus: Corpus, recipe: DeepRecipe | ClassicalRecipe, rows: FoldRows, at_epoch: AtEpoch) -> Fitted:
    """Fits a recipe on the fold's pool and calibrates it on the held-out sensors. Every worker has to call it.

    Raises CollapsedModel where a guard trips, and what training raises.
    """
    return _deep(worker, corpus, recipe, rows, at_epoch) if isinstance(recipe, DeepRecipe) else _classical(corpus, recipe, rows)


def _deep(worker: Worker, corpus: Corpus, recipe: DeepRecipe, rows: FoldRows, at_epoch: AtEpoch) -> Fitted:
    task, pool = corpus.task(rows.split, recipe.optim.seed), rows.split.pool
    feature = build_feature(recipe.feature, corpus.table.facts.mains_hz)
    images = worker.images(recipe.feature)
    scaling = calibrated(worker.fit_scaling(recipe.scaling, images, feature.shape, pool), images, task)
    shown = worker.scaled(scaling, images)
    torch.manual_seed(recipe.optim.seed)  # the same weights on every worker
    net: Any = build_deep(recipe.detector, feature.shape).to(worker.device)
    training, lines = TrainingSet(shown, pool), []

    def score(index: np.ndarray) -> np.ndarray:
        return _scores(worker, net, shown, index)

    def score_now(index: np.ndarray) -> np.ndarray:
        if isinstance(net, DeepSvdd) and net.config.metric == "mahalanobis":
            fit_metric(net, Batches(training, SCORE_RECORDS, 0, worker.world))
        return score(index)

    def score_injected(index: np.ndarray) -> np.ndarray:
        made = _injected_images(worker, corpus, recipe, index)
        sensors = [corpus.table.sensors[i] for i in index]
        return _scores(worker, net, lambda at: scaling(made[at], [sensors[i] for i in at]), np.arange(len(index)))

    def report(stage: str, epoch: int, figures: dict[str, float]) -> None:
        lines.append({"stage": stage, "epoch": epoch, **figures})
        if stage == "train":
            at_epoch(epoch + 1, score_now)

    if isinstance(net, DeepSvdd):
        injected = worker.read_injected(recipe, scaling)
        trained = train_deep_svdd(net, training, recipe.pretrain, recipe.optim, report, read_injected=injected)
    else:
        trained = train_vae(net, training, recipe.optim, report)
    if trained.guards.reasons:
        raise CollapsedModel("; ".join(trained.guards.reasons))
    detecting = Detecting(recipe, scaling, net.eval(), score_statistics(trained.scores))
    return Fitted(detecting, trained.scores, score, score_injected, scaling.known(task.sensors(rows.split.judged)), lines)


def _scores(worker: Worker, net: Any, read: Callable[[np.ndarray], Tensor], index: np.ndarray) -> np.ndarray:
    if not len(index):
        return np.empty(0)

    def of_batch(batch: Batch) -> Tensor:
        return net.score(net(to(batch.x, worker.device)))

    return Batches(TrainingSet(read, index), SCORE_RECORDS, 0, worker.world).collect(net, of_batch)


def _injected_images(worker: Worker, corpus: Corpus, recipe: DeepRecipe, index: np.ndarray) -> Tensor:
    feature = build_feature(recipe.feature, corpus.table.facts.mains_hz)
    waveforms, rate = _injected_waveforms(corpus, index), corpus.table.facts.sample_rate_hz
    made = [feature(waveforms[at : at + SCORE_RECORDS].to(worker.device), rate) for at in range(0, len(index), SCORE_RECORDS)]
    return torch.cat(made)


def _injected_waveforms(corpus: Corpus, index: np.ndarray) -> Tensor:
    """The records with a fault each, the kinds in turn."""
    waveforms = torch.from_numpy(np.ascontiguousarray(corpus.waveforms[index]))
    hashes, rate = corpus.table.key_hash[index], corpus.table.facts.sample_rate_hz
    for number, kind in enumerate(KINDS):
        mine = np.arange(number, len(index), len(KINDS))
        waveforms[mine] = inject(waveforms[mine], rate, kind, INJECTED_DB, hashes[mine], INJECTED_SEED)
    return waveforms


def _classical(corpus: Corpus, recipe: ClassicalRecipe, rows: FoldRows) -> Fitted:
    task = corpus.task(rows.split, 0)
    vectors = Vectors(recipe, task)
    scaling, columns = vectors.scaling(), vectors.columns
    detector = fit_detector(build_classical(recipe.detector, vectors.feature), scaling, columns, vectors.passes(), vectors.load)
    scaling = calibrated(scaling, vectors, task)
    shown = vectors.shown(scaling)

    def score(index: np.ndarray) -> np.ndarray:
        return detector.score(shown(index)).double().numpy()

    def score_injected(index: np.ndarray) -> np.ndarray:
        x = vectors.feature(_injected_waveforms(corpus, index), corpus.table.facts.sample_rate_hz)
        return detector.score(scaling(x, task.sensors(index))[:, columns]).double().numpy()

    pool_scores = score(task.pool)
    detecting = Detecting(recipe, scaling, detector, score_statistics(pool_scores))
    return Fitted(detecting, pool_scores, score, score_injected, scaling.known(task.sensors(task.judged)), [])


def net_mflop(recipe: DeepRecipe, mains_hz: float | None) -> float:
    """Millions of floating-point operations with which the net scores one record, its image not counted: a cost without noise."""
    shape = build_feature(recipe.feature, mains_hz).shape
    net: Any = build_deep(recipe.detector, shape)
    net.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net.score(net(torch.zeros(1, *shape)))
    return counter.get_total_flops() / 1e6
