"""Deep recipes on a corpus of the development suite: fitted on its pool once a training, calibrated for each number of records.

Their scores are kept in the suite's cache folder by their content: recipe, corpus and code.
"""

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from itertools import pairwise

import numpy as np
import pyarrow as pa

from tests.reference.corpora import SOURCES, Corpus, cached, key_of
from vibray import recipes
from vibray.compare.cells import seeded
from vibray.compare.corpus import Task
from vibray.compare.fold_fit import calibrated, fit_fold
from vibray.config import to_json
from vibray.features.cwt_image import CwtImageConfig
from vibray.fitting.deep import net_scores
from vibray.fitting.worker import alone_with
from vibray.recipes.kinds import DeepRecipe
from vibray.tables.training import TrainingTable

LIMITS = (4.0, 6.0)
POOL = "pool"


WIDE_SHARE_OF_RATE = 0.45


def _limited(recipe: DeepRecipe) -> DeepRecipe:
    return replace(recipe, scaling=replace(recipe.scaling, clip=None, limits=LIMITS))


def _wide(recipe: DeepRecipe) -> DeepRecipe:
    """Its image reaches as high as the rate lets it, instead of to 3.7 kHz."""
    return replace(recipe, feature=replace(recipe.feature, max_hz=math.inf))  # type: ignore[call-arg]


def _longer(recipe: DeepRecipe, epochs: int) -> DeepRecipe:
    return replace(recipe, optim=replace(recipe.optim, epochs=epochs))


VARIANTS: dict[str, Callable[[], DeepRecipe]] = {
    "cwt-svdd-limits": lambda: _limited(recipes.cwt_svdd()),
    "untrained-svdd-limits": lambda: _limited(recipes.untrained_svdd()),
    "cwt-vae-limits": lambda: _limited(recipes.cwt_vae()),
    "cwt-svdd-wide": lambda: _wide(recipes.cwt_svdd()),
    "untrained-svdd-wide": lambda: _wide(recipes.untrained_svdd()),
    "cwt-vae-wide": lambda: _wide(recipes.cwt_vae()),
    "cwt-svdd-wide-30": lambda: _longer(_wide(recipes.cwt_svdd()), 30),
    "cwt-svdd-wide-limits": lambda: _limited(_wide(recipes.cwt_svdd())),
}
"""Deep recipes that are no named ones, to be compared with these."""


class Nets:
    """The deep recipes of one corpus. Its waveforms are made when the first net is fitted."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus
        self.records = [corpus.pool, *([] if corpus.context is None else [corpus.context]), corpus.test]
        ends = np.cumsum([0, *(len(one.sensors) for one in self.records)])
        self.rows = [np.arange(*pair) for pair in pairwise(ends)]

    @cached_property
    def content(self) -> str:
        """Of the records; the vectors tell the waveforms."""
        digest = hashlib.sha256()
        for one in self.records:
            digest.update(one.vectors.numpy().tobytes() + repr(one.sensors).encode())
        return digest.hexdigest()

    @cached_property
    def task(self) -> Task:
        """What a recipe is given: no calibration yet, and no label."""
        sensors = [sensor for one in self.records for sensor in one.sensors]
        columns = {
            "corpus": [self.corpus.name] * len(sensors),
            "record_id": [str(i) for i in range(len(sensors))],
            "unit": [unit for unit, _ in sensors],
            "sensor_id": [sensor for _, sensor in sensors],
        }
        nothing, every = np.zeros(len(sensors), bool), np.arange(len(sensors))
        table = TrainingTable(self.corpus.facts, {}, {}, pa.table(columns), (), 0 * every, every, nothing, ~nothing, 0)
        waveforms = np.concatenate([one.waveforms() for one in self.records])
        none = every[:0]
        return Task(table, {}, waveforms, self.rows[0], none, self.rows[-1], none, np.empty(0, object), 0)

    def scores(self, recipe: DeepRecipe, training: int) -> dict[str, np.ndarray]:
        """Of the pool, under `POOL`, and of the test records by the number of calibrating ones ("None": the sensors are the pool's)."""
        recipe = seeded(recipe, training)  # type: ignore[assignment]
        image = recipe.feature
        if isinstance(image, CwtImageConfig) and image.max_hz == math.inf:
            recipe = replace(recipe, feature=replace(image, max_hz=WIDE_SHARE_OF_RATE * self.corpus.facts.sample_rate_hz))
        sources = (*SOURCES, "models", "train", "fitting")
        key = key_of("deep", to_json(recipe), self.corpus.name, self.corpus.ks, self.content, sources=sources)
        return cached(key, lambda: self._fitted(recipe))

    def _fitted(self, recipe: DeepRecipe) -> dict[str, np.ndarray]:
        task = self.task
        start = time.perf_counter(), time.process_time()
        with alone_with(task.table, task.waveforms) as worker:
            fold = fit_fold(worker, recipe, task)
            images, (net, fitted) = worker.images(recipe.feature), (fold.fit.detecting.detector, fold.fit.detecting.scaling)
            found = {POOL: fold.fit.scores}
            for k in self.corpus.ks or (None,):
                own = fitted
                if k is not None and self.corpus.context is not None:
                    first = np.concatenate([at for _, at in self.corpus.context.first(k)])
                    own = calibrated(fitted, images, replace(task, calibration=self.rows[1][first]))
                found[str(k)] = net_scores(worker, net, worker.scaled(own, images), self.rows[-1])  # type: ignore[arg-type]
        wall_s, cpu_s = time.perf_counter() - start[0], time.process_time() - start[1]
        said = "; ".join(fold.fit.guards.reasons) or "guards held"
        name = f"{recipe.detector.kind}, {recipe.optim.epochs} epochs, limits {recipe.scaling.limits}, training {recipe.optim.seed}"
        print(f"{self.corpus.name}: {name}: {wall_s:.0f} s, {cpu_s:.0f} s of CPU; {said}", flush=True)
        return found
