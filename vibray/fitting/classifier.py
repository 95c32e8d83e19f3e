"""A classifier of faults fitted on labels and pseudo-labels, from random weights or from a detector's encoder."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vibray.features.scaling import Scaling
from vibray.fitting.data import Lesson, TrainingError
from vibray.fitting.worker import Worker
from vibray.models.backbone import TrunkConfig
from vibray.recipes.building import build_classifier, build_feature
from vibray.recipes.kinds import ClassifierRecipe, DeepRecipe
from vibray.runs.models import Detecting, Diagnosing, deep_members
from vibray.runs.run import Run
from vibray.train.batches import TrainingSet
from vibray.train.checkpoints import Checkpoints
from vibray.train.classifier import Labelled, train_classifier
from vibray.train.fit import Report, silent


@dataclass(frozen=True)
class ClassifierFit:
    """A fitted classifier."""

    diagnosing: Diagnosing
    validation: dict[str, Any]
    """its figures on the records held out of training, for metrics.jsonl"""


def fit_classifier(
    worker: Worker,
    recipe: ClassifierRecipe,
    lesson: Lesson,
    scaled_on: np.ndarray,
    init: Detecting | None = None,
    report: Report = silent,
    checkpoints: Checkpoints | None = None,
) -> ClassifierFit:
    """Fits the scalings on the rows `scaled_on`, labelled or not, and trains the net; every worker of the group has to call it.

    With `init` the encoder starts from that detector's, and sees images scaled as that one does. Raises what training raises.
    """
    table, scalings = worker.table, {}
    for name, config, scaling_config in inputs_of(recipe):
        if name == "image" and init is not None:
            scalings[name] = init.scaling  # the encoder saw images scaled so, and must go on seeing them
        else:
            shape = build_feature(config, table.facts.mains_hz).shape
            scalings[name] = worker.fit_scaling(scaling_config, worker.images(config), shape, scaled_on)
    shapes = {name: scaling.shape for name, scaling in scalings.items()}
    torch.manual_seed(recipe.optim.seed)
    net = build_classifier(recipe, len(lesson.faults), shapes)
    if init is not None and net.encoder is not None:
        net.encoder.load_state_dict(init.detector.trunk.state_dict())  # type: ignore[union-attr]
    net.to(worker.device)
    rows = TrainingSet(read_inputs(worker, recipe, scalings), lesson.indices, lesson.targets, lesson.weights, window=worker.window)
    assert lesson.real is not None
    labelled = Labelled(lesson.real, np.array([unit for unit, _ in table.sensors.names])[table.sensors.code])
    fitted = train_classifier(net, rows, labelled, recipe.optim, recipe.tuning, init is not None, report, checkpoints)
    diagnosing = Diagnosing(recipe, lesson.faults, net.eval(), scalings.get("image"), scalings.get("vector"))
    return ClassifierFit(diagnosing, {"stage": "validation", "num_records": len(fitted.validation), **fitted.figures})


def inputs_of(recipe: ClassifierRecipe) -> list[tuple[str, Any, Any]]:
    """Name, feature config and scaling config of each of the net's inputs."""
    named = (("image", recipe.image, recipe.image_scaling), ("vector", recipe.vector, recipe.vector_scaling))
    return [(name, config, scaling) for name, config, scaling in named if config is not None]


def read_inputs(worker: Worker, recipe: ClassifierRecipe, scalings: dict[str, Scaling]) -> Callable[[np.ndarray], Any]:
    """Row numbers to what the net is shown: one tensor, or one for each input."""
    reads = [worker.scaled(scalings[name], worker.images(config)) for name, config, _ in inputs_of(recipe)]
    return reads[0] if len(reads) == 1 else lambda rows: tuple(read(rows) for read in reads)


def encoder_of(run: Run) -> Detecting:
    """The detector whose trunk a classifier starts from: the run itself, or an ensemble's first deep member, a ResNet before others.

    Raises TrainingError where the run holds no deep detector.
    """
    found = [(trunk.kind != "resnet18", member) for member in deep_members(run.model) if (trunk := _trunk(member)) is not None]
    if not found:
        raise TrainingError("--init-from names a run without an encoder of images: give a cwt-svdd, cwt-vae or ensemble run")
    return min(found, key=lambda pair: pair[0])[1]


def _trunk(member: Detecting) -> TrunkConfig | None:
    assert isinstance(member.recipe, DeepRecipe)
    return member.recipe.trunk
