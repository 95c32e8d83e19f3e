"""Nets in a benchmark's cell: the training code of train/ in one process, on the GPU that the task was given or on its CPU."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vibray.models.classifier import Classifier
from vibray.models.deep_svdd import DeepSvdd
from vibray.pipeline.benchmark_cells import Scored, Task, calibrated
from vibray.pipeline.deep_training import sad_targets
from vibray.pipeline.deep_worker import Worker
from vibray.recipes import ClassifierRecipe, DeepRecipe, build_classifier, build_deep, build_feature
from vibray.schema import LABEL_ABNORMAL, LABEL_NORMAL, NORMAL, UNDECIDED
from vibray.storage import objects
from vibray.train.batches import TrainingSet
from vibray.train.classifier import Labelled, train_classifier
from vibray.train.deep_svdd import train_deep_svdd
from vibray.train.images import Images
from vibray.train.reduce import World
from vibray.train.vae import train_vae

CACHE_BYTES = 4 << 30
"""Images that a process keeps on its node's disk; the rest is made again each epoch."""

SCORE_RECORDS = 64


def score_deep(recipe: DeepRecipe, task: Task) -> Scored:
    """A deep detector: trained on the pool, Deep SAD on the labels of the budget too. A guard that trips is told; the net is judged."""
    with _worker(task) as worker:
        feature = build_feature(recipe.feature, task.table.facts.mains_hz)
        images = worker.images(recipe.feature)
        scaling = worker.fit_scaling(recipe.scaling, images, feature.shape, task.pool)
        torch.manual_seed(recipe.optim.seed)
        net: Any = build_deep(recipe.detector, feature.shape).to(worker.device)
        labels = None
        if len(task.labelled):
            labels = np.full(len(task.table), UNDECIDED, np.int64)
            labels[task.labelled] = np.where(task.label == NORMAL, LABEL_NORMAL, LABEL_ABNORMAL)
        targets, weights = sad_targets(recipe, labels)
        indices = task.pool if targets is None else np.union1d(task.pool, task.labelled)
        rows = TrainingSet(worker.scaled(scaling, images), indices, targets, weights)
        if isinstance(net, DeepSvdd):
            trained = train_deep_svdd(net, rows, recipe.pretrain, recipe.optim, read_injected=worker.read_injected(recipe, scaling))
        else:
            trained = train_vae(net, rows, recipe.optim)
        scaling = calibrated(scaling, images, task)
        shown = worker.scaled(scaling, images)
        net.eval()
        pool, judged = (_scores(lambda x: net.score(net(x)), shown, r, worker.device) for r in (task.pool, task.judged))
    return Scored(pool, judged, scaling.known(task.sensors(task.judged)), shown, trained.guards.reasons)


def score_classifier(recipe: ClassifierRecipe, task: Task) -> Scored:
    """A classifier trained from random weights on the budget's labels alone; its score is the probability of being abnormal."""
    faults = sorted(set(task.label) - {NORMAL})
    targets = np.full((len(task.table), 2), -1, np.int64)
    targets[task.labelled, 0] = np.where(task.label == NORMAL, LABEL_NORMAL, LABEL_ABNORMAL)
    for number, fault in enumerate(faults):
        targets[task.labelled[task.label == fault], 1] = number
    real = np.zeros(len(task.table), bool)
    real[task.labelled] = True
    named = (("image", recipe.image, recipe.image_scaling), ("vector", recipe.vector, recipe.vector_scaling))
    with _worker(task) as worker:
        reads, shapes, scalings = [], {}, []
        for name, config, scaling_config in named:
            if config is not None:
                reads.append(worker.images(config))
                shapes[name] = build_feature(config, task.table.facts.mains_hz).shape
                scalings.append(worker.fit_scaling(scaling_config, reads[-1], shapes[name], task.pool))
        torch.manual_seed(recipe.optim.seed)
        net: Classifier = build_classifier(recipe, len(faults), shapes).to(worker.device)
        rows = TrainingSet(_joined([worker.scaled(s, read) for s, read in zip(scalings, reads, strict=True)]), task.labelled, targets)
        times = task.table.index["measured_at"].cast("int64").to_numpy()
        labelled = Labelled(real, np.array([unit for unit, _ in task.table.sensors]), times)
        train_classifier(net, rows, labelled, recipe.optim, recipe.tuning, pretrained=False)
        net.eval()
        scalings = [calibrated(s, read, task) for s, read in zip(scalings, reads, strict=True)]
        shown = _joined([worker.scaled(s, read) for s, read in zip(scalings, reads, strict=True)])
        score = lambda x: net.diagnose(net(x)).abnormal_probability  # noqa: E731
        pool, judged = (_scores(score, shown, r, worker.device) for r in (task.pool, task.judged))
    known = np.logical_and.reduce([s.known(task.sensors(task.judged)) for s in scalings])
    return Scored(pool, judged, known, shown if len(reads) == 1 else None)


@lru_cache(maxsize=1)
def _made(corpus: str, cache_bytes: int) -> dict[str, Images]:
    """The images of the corpus that this process last worked on: its next cell finds them."""
    return {}


@contextmanager
def _worker(task: Task) -> Iterator[Worker]:
    """A group of one. What it keeps on disk may be read until its last map is closed, which is after the folder has gone."""
    made = _made(objects.sha256(task.table.key_hash.tobytes()), CACHE_BYTES)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory(prefix="vibray-") as folder:
        yield Worker(World.current(), 0, 1, device, task.table, task.waveforms, Path(folder), CACHE_BYTES, made, lambda *_, **__: None)


def _joined(reads: list[Callable[[np.ndarray], Tensor]]) -> Callable[[np.ndarray], Any]:
    return reads[0] if len(reads) == 1 else lambda rows: tuple(read(rows) for read in reads)


def _scores(score: Callable[[Any], Tensor], shown: Callable[[np.ndarray], Any], rows: np.ndarray, device: torch.device) -> np.ndarray:
    found = [np.empty(0)]
    with torch.inference_mode():
        for start in range(0, len(rows), SCORE_RECORDS):
            x = shown(rows[start : start + SCORE_RECORDS])
            x = tuple(part.to(device) for part in x) if isinstance(x, tuple) else x.to(device)
            found.append(score(x).double().cpu().numpy())
    return np.concatenate(found)
