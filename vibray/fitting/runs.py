"""A run folder from a recipe and rows: what training does on Ray's workers or in this process, net by net."""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from vibray.fitting.classifier import encoder_of, fit_classifier
from vibray.fitting.data import Lesson
from vibray.fitting.deep import fit_deep
from vibray.fitting.worker import Worker
from vibray.recipes.kinds import ClassifierRecipe, DeepRecipe
from vibray.runs.folder import load, save, write_metrics
from vibray.runs.models import Detecting
from vibray.runs.run import Run
from vibray.storage import objects
from vibray.train.checkpoints import Checkpoints
from vibray.train.fit import Report
from vibray.train.tracking import Tracking, tracked

SHOWN = ("loss", "f1")
"""Figures of an epoch beside the progress bar; metrics.jsonl has all."""


@dataclass(frozen=True)
class NetJob:
    """One net to train: where its run goes, its recipe, and what it learns from."""

    run_uri: str
    recipe: DeepRecipe | ClassifierRecipe
    environment: dict[str, Any]
    lesson: Lesson
    init_from: str | None = None
    """classifier: the run whose encoder and image scaling it starts from; detector: the run that it is pruned from"""


def train_net(worker: Worker, job: NetJob, tracking: Tracking | None, also: Report) -> None:
    """Trains a net and writes its finished run folder; goes on where an earlier start stopped. Every worker of the group has to call it.

    `also` is told of each epoch besides the person, MLflow and metrics.jsonl. Raises CollapsedModel where a guard trips.
    """
    name, recipe, first = objects.last_segment(job.run_uri), job.recipe, worker.world.rank == 0
    epochs = {"train": recipe.optim.epochs} | ({"pretrain": recipe.pretrain.epochs} if isinstance(recipe, DeepRecipe) else {})
    checkpoints = Checkpoints(job.run_uri)
    with tracked(tracking if first else None, job.run_uri, recipe, job.environment, lambda text: worker.tell(text, 0, 0)) as tracker:

        def report(stage: str, epoch: int, figures: dict[str, Any]) -> None:
            also(stage, epoch, figures)
            tracker.epoch(stage, epoch, figures)
            shown = {key: f"{value:.4g}" for key, value in figures.items() if key in SHOWN}
            worker.tell(f"{name} {stage}", epoch + 1, epochs.get(stage, epoch + 1), **shown)

        start = None if job.init_from is None else load(job.init_from)
        if isinstance(recipe, DeepRecipe):
            dense = None if start is None else cast(Detecting, start.model)
            fit = fit_deep(worker, recipe, job.lesson, report, checkpoints, dense=dense)
            model, lines, guards = fit.detecting, fit.lines, fit.guards
        else:
            init = None if start is None else encoder_of(start)
            fitted = fit_classifier(worker, recipe, job.lesson, np.flatnonzero(~worker.table.repeats), init, report, checkpoints)
            model, lines, guards = fitted.diagnosing, [*checkpoints.lines, fitted.validation], None
        if first:
            tracker.result(lines[-1])
            if guards is not None:
                write_metrics(job.run_uri, lines)  # of a net that collapsed too: they tell when
                guards.check()
            # a pruned net knows the sensors that its scaling knows
            histories = start.histories if start is not None and isinstance(recipe, DeepRecipe) else worker.table.histories
            run = Run(recipe, worker.table.facts, model, histories)
            save(job.run_uri, run, lines, job.environment, worker.table.findings)
            checkpoints.clear()
    worker.wait()
