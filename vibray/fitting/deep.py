"""A deep detector fitted on some rows of a table, by one worker or by each of a group, and judged by its guards."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from vibray.features.band_image import BandImageConfig
from vibray.features.cwt_image import CwtImageConfig
from vibray.features.scaling import Scaling
from vibray.fitting.data import FitResult, Lesson
from vibray.fitting.examples import HEALTHY, table_source
from vibray.fitting.guards import guards_of
from vibray.fitting.pretraining import PretrainingRecipe, describe, rows_of, train_on_examples
from vibray.fitting.pruned import pruned
from vibray.fitting.worker import Worker
from vibray.models.band_transformer import BandTransformer
from vibray.models.deep_svdd import DeepSvdd
from vibray.models.ensemble import score_statistics
from vibray.recipes.building import build_deep, build_feature, build_image
from vibray.recipes.kinds import DeepRecipe
from vibray.runs.folder import base_state
from vibray.runs.models import Detecting
from vibray.schema import LABEL_ABNORMAL
from vibray.train.batches import Batch, Batches, TrainingSet, to
from vibray.train.checkpoints import Checkpoints
from vibray.train.deep_svdd import fit_metric, train_deep_svdd
from vibray.train.distilled import Distilled
from vibray.train.fit import Report, silent
from vibray.train.guards import GuardReport, Trained, score_guards
from vibray.train.vae import train_vae

SCORE_RECORDS = 64
"""Records that a net scores at a time."""

Now = Callable[[], tuple[nn.Module, Scaling]]
"""The net as it is now, its metric fitted, and its scaling; on every worker, and each has to call it."""

AtEpoch = Callable[[int, Now], None]
"""Called on every worker after each epoch of training proper with the number of epochs done."""


def fit_deep(
    worker: Worker,
    recipe: DeepRecipe,
    lesson: Lesson,
    report: Report = silent,
    checkpoints: Checkpoints | None = None,
    at_epoch: AtEpoch | None = None,
    dense: Detecting | None = None,
) -> FitResult:
    """Fits the scaling and trains the net; every worker of the group has to call it. `checkpoints`: a stopped training goes on.

    `dense` is what the net is pruned from: scaling and centre are then its own, and training starts from its weights.

    The guards are told and returned, not raised: who trains for use ends there, who compares may look.
    """
    feature = build_feature(recipe.feature, worker.table.facts.mains_hz)
    images = worker.images(recipe.feature)
    scaling = worker.fit_scaling(recipe.scaling, images, feature.shape, lesson.indices) if dense is None else dense.scaling
    rows = TrainingSet(worker.scaled(scaling, images), lesson.indices, lesson.targets, lesson.weights, window=worker.window)
    torch.manual_seed(recipe.optim.seed)  # the same weights on every worker
    net = build_deep(recipe.detector, feature.shape) if dense is None else pruned(dense.detector, recipe)
    net.to(worker.device)
    lines: list[dict[str, Any]] = []

    def on_epoch(stage: str, epoch: int, figures: dict[str, float]) -> bool | None:
        lines.append({"stage": stage, "epoch": epoch, **figures})
        ends = report(stage, epoch, figures)
        if at_epoch is not None and stage == "train":
            at_epoch(epoch + 1, now)
        return ends

    def now() -> tuple[nn.Module, Scaling]:
        if isinstance(net, DeepSvdd) and net.config.metric == "mahalanobis":
            fit_metric(net, Batches(rows, SCORE_RECORDS, 0, worker.world))  # training itself fits it at the end alone
        return net, scaling

    if isinstance(net, BandTransformer):
        trained = _on_band_images(worker, net, recipe, scaling, lesson, images, dense, on_epoch, checkpoints)
    elif isinstance(net, DeepSvdd):
        injected = worker.read_injected(recipe, scaling)
        trained = train_deep_svdd(net, rows, recipe.pretrain, recipe.optim, on_epoch, checkpoints, injected, pruned=dense is not None)
    else:
        trained = train_vae(net, rows, recipe.optim, on_epoch, checkpoints)
    detecting = Detecting(recipe, scaling, net.eval(), score_statistics(trained.scores))
    guards = worker.from_first(lambda: guards_of(worker, recipe, lesson.indices, detecting, trained))
    told = lines if checkpoints is None else checkpoints.lines
    return FitResult(detecting, trained.scores, guards, [*told, {"stage": "guards", **guards.values()}])


def _on_band_images(
    worker: Worker,
    net: BandTransformer,
    recipe: DeepRecipe,
    scaling: Scaling,
    lesson: Lesson,
    images: Callable[[np.ndarray], torch.Tensor],
    dense: Detecting | None,
    report: Report,
    checkpoints: Checkpoints | None,
) -> Trained:
    """A band transformer from the weights of its base, where it has one, on examples of the corpus, where it is to learn anything; one that
    was pruned learns what the dense one says of them."""
    c = net.config
    if c.base is not None and dense is None:
        net.load_state_dict(base_state(c.base, c.base_sha256), strict=False)
    if recipe.optim.epochs:
        fault = None if lesson.targets is None else np.where(lesson.targets == LABEL_ABNORMAL, 0, HEALTHY)
        assert isinstance(recipe.feature, CwtImageConfig | BandImageConfig)

        def in_chunks(rows: np.ndarray) -> torch.Tensor:
            return torch.cat([images(rows[i : i + SCORE_RECORDS]).cpu() for i in range(0, len(rows), SCORE_RECORDS)])

        source = table_source(worker.table, lesson.indices, in_chunks, fault)
        pretraining = PretrainingRecipe(feature=recipe.feature, scaling=recipe.scaling, detector=c, optim=recipe.optim)
        feature = build_image(recipe.feature, worker.table.facts.mains_hz)
        examples = describe(pretraining, source, feature, recipe.optim.seed)
        learns: nn.Module = net
        if dense is not None:
            assert isinstance(dense.detector, BandTransformer)
            learns = Distilled(net, dense.detector.to(worker.device))
        train_on_examples(learns, rows_of(pretraining, [examples], [1.0]), recipe.optim, report, checkpoints)
    net.eval()
    scores = net_scores(worker, net, worker.scaled(scaling, images), lesson.indices)
    return Trained(scores, GuardReport(score_guards(scores)))


def net_scores(worker: Worker, net: nn.Module, read: Callable[[np.ndarray], Any], rows: np.ndarray) -> np.ndarray:
    """The scores of these rows, float64, by all workers together; each has to call it. `read` gives the net's inputs."""
    if not len(rows):
        return np.empty(0)

    def of_batch(batch: Batch) -> torch.Tensor:
        return net.score(net(to(batch.x, worker.device)))  # type: ignore[operator] (whichever net has both)

    return Batches(TrainingSet(read, rows), SCORE_RECORDS, 0, worker.world).collect(net, of_batch)
