"""Pretraining: a net taught on the examples of several sources (fitting/examples.py), on any number of workers.

Half of the faulty examples are generic where a source names faults, and all of them elsewhere: what is taught by name alone is blind to the
rest.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Int64
from pydantic import Field, with_config
from torch import nn

from vibray.config import STRICT, UserError, from_json
from vibray.features.band_image import BandImageConfig
from vibray.features.cwt_image import CwtImageConfig
from vibray.features.scaling import ScalingConfig
from vibray.features.spectral import SpectralConfig
from vibray.fitting.examples import HEALTHY, ContextConfig, Examples, FleetsConfig, Source, examples_of
from vibray.fitting.generic import generic_fault
from vibray.models.band_transformer import MAX_SENSORS, BandTransformer, BandTransformerConfig
from vibray.models.context_scorer import ContextNet, ContextScorerConfig
from vibray.recipes import band_transformer, zero_shot
from vibray.recipes.building import Image, Vector
from vibray.recipes.kinds import DeepRecipe
from vibray.storage import objects
from vibray.storage.parts import check_finished
from vibray.train.batches import Batches, TrainingSet
from vibray.train.checkpoints import Checkpoints
from vibray.train.fit import EpochMetrics, OptimConfig, Progress, Report, fit, silent
from vibray.train.reduce import World


@with_config(STRICT)
@dataclass(frozen=True)
class PretrainingRecipe:
    """A net, what it reads, the examples that it is shown and how it learns from them."""

    kind: Literal["pretraining"] = "pretraining"
    feature: Annotated[SpectralConfig | CwtImageConfig | BandImageConfig, Field(discriminator="kind")] = BandImageConfig()
    scaling: ScalingConfig = ScalingConfig(by="sensor", per="row")
    detector: Annotated[ContextScorerConfig | BandTransformerConfig, Field(discriminator="kind")] = BandTransformerConfig()
    context: ContextConfig = ContextConfig()
    fleets: FleetsConfig = FleetsConfig()
    generic: float = 0.5
    """share of faulty examples that are generic"""
    curriculum: bool = False
    """from the plain to the weak: examples with a large context and a severe fault, or none, at first, all after half of the epochs"""
    optim: OptimConfig = OptimConfig()

    def __post_init__(self) -> None:
        if not 0 <= self.generic <= 1:
            raise UserError(f"pretraining: generic is a share and must lie within 0 to 1, not {self.generic}")
        if isinstance(self.detector, ContextScorerConfig) != isinstance(self.feature, SpectralConfig):
            raise UserError("pretraining: the context scorer reads the spectral vector, the band transformer an image")


def context_scorer() -> PretrainingRecipe:
    """A perceptron on the deviations of the default's spectral vector: what the default has as a part."""
    recipe = zero_shot()
    assert isinstance(recipe.feature, SpectralConfig)
    optim = OptimConfig(epochs=4, batch_size=512, lr=2e-3, weight_decay=1e-2, method="adamw", schedule="one-cycle", clip=1.0, seed=1000)
    optim = replace(optim, adversarial=0.02)  # in spreads of a sensor; what is not known to be a fault is ranked far better by it
    return PretrainingRecipe(feature=recipe.feature, scaling=recipe.scaling, detector=ContextScorerConfig(), curriculum=True, optim=optim)


def small_transformer() -> PretrainingRecipe:
    """A transformer over bands of fixed Hz with attention over a unit's sensors: some 20 CPU minutes."""
    recipe = band_transformer()
    assert isinstance(recipe.detector, BandTransformerConfig) and isinstance(recipe.feature, BandImageConfig)
    return PretrainingRecipe(
        feature=recipe.feature,
        scaling=recipe.scaling,
        detector=recipe.detector,
        fleets=FleetsConfig(count=4, units=150, sensors=2),
        optim=OptimConfig(epochs=4, batch_size=32, lr=1e-3, weight_decay=1e-2, method="adamw", schedule="one-cycle", clip=1.0),
    )


def large_transformer() -> PretrainingRecipe:
    """The same with 512 numbers a token and ten million weights: for GPUs."""
    recipe = small_transformer()
    assert isinstance(recipe.detector, BandTransformerConfig)
    return replace(
        recipe,
        detector=replace(recipe.detector, width=512, heads=8, head_width=64, feedforward=2048),
        optim=replace(recipe.optim, epochs=8, batch_size=128, lr=3e-4, precision="bf16"),
    )


PRETRAININGS: dict[str, Callable[[], PretrainingRecipe]] = {
    "context-scorer": context_scorer,
    "band-transformer": small_transformer,
    "large-band-transformer": large_transformer,
}
"""Names on the command line; the first is the default."""


def build_net(recipe: PretrainingRecipe, in_shape: tuple[int, ...]) -> ContextNet | BandTransformer:
    """The net of a recipe for features of this shape."""
    match recipe.detector:
        case ContextScorerConfig():
            return ContextNet()
        case BandTransformerConfig():
            return BandTransformer(recipe.detector, in_shape)


def describe(recipe: PretrainingRecipe, source: Source, feature: Vector | Image, seed: int) -> Examples:
    """The examples of a source."""
    blocks = recipe.detector.blocks if isinstance(recipe.detector, ContextScorerConfig) else ()
    return examples_of(source, feature, blocks, recipe.scaling, recipe.context, seed)


# ---------------------------------------------------------------- rows


DRAWS = 2
"""Generic faults for each faulty example."""


class Lessons:
    """Examples of several sources as rows to train on."""

    def __init__(self, sources: Sequence[Examples], weights: Sequence[float], seed: int) -> None:
        """`weights`: how much each source counts altogether, whatever its size."""
        if not any((each.fault == HEALTHY).any() for each in sources):
            raise UserError("pretraining: there is no healthy example")
        self.seed = seed
        self.sources, self.ends = sources, np.cumsum([0, *(len(each) for each in sources)])
        self.sensors = max(each.z.shape[1] for each in sources)
        self.fault = np.concatenate([each.fault for each in sources])
        numbers = [each.context.max(initial=-1) + 1 for each in sources]
        self.context = np.concatenate([each.context + first for each, first in zip(sources, np.cumsum([0, *numbers]), strict=False)])
        self.source = np.repeat(np.arange(len(sources)), np.diff(self.ends))
        self.weight_of_source = np.array(weights, np.float64)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Deviations of these examples, float32 (rows, sensors, *shape)."""
        z = np.zeros((len(rows), self.sensors, *self.sources[0].z.shape[2:]), np.float32)
        for number in np.unique(self.source[rows]):
            own, at = self.sources[number].z, np.flatnonzero(self.source[rows] == number)
            z[at, : own.shape[1]] = own[rows[at] - self.ends[number]]
        return z

    def heard(self) -> Bool[np.ndarray, "examples sensors"]:
        """Which sensors an example has."""
        heard = np.zeros((len(self.fault), self.sensors), bool)
        for each, start, end in zip(self.sources, self.ends, self.ends[1:], strict=False):
            heard[start:end, : each.z.shape[1]] = (each.z != 0).any(axis=tuple(range(2, each.z.ndim)))
        return heard

    def generic(self, z: np.ndarray, example: int, key: int) -> np.ndarray:
        """An example's deviations with a generic fault; the same for the same key."""
        axis = self.sources[self.source[example]].axis
        rng = np.random.default_rng([self.seed, 2, key])
        return generic_fault(z.reshape(len(z), len(axis.hz), -1), axis, rng).reshape(z.shape)


def weighted(weight: np.ndarray, source: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Rows' weights such that those of each source add up to its own, and all to the number of rows."""
    total = np.bincount(source, weight, len(of))
    found = weight * (of / np.maximum(total, 1e-12))[source]
    return found * len(found) / found.sum()


def joining(examples: Sequence[Examples], epochs: int) -> Int64[np.ndarray, " examples"]:
    """The epoch in which an example joins: the later, the smaller its context or the weaker its fault, all by half of the epochs.

    Source: Bengio et al. 2009, "Curriculum Learning".
    """
    size, severity, fault = (np.concatenate([getattr(each, name) for each in examples]) for name in ("size", "severity", "fault"))
    small = np.log2(size.max() / size) / max(1.0, np.log2(size.max()))
    weak = np.where(fault == HEALTHY, 0.0, 1 - severity)
    return np.floor(np.maximum(small, weak) * epochs / 2).astype(np.int64)


def record_rows(lessons: Lessons, generic: float) -> tuple[TrainingSet, np.ndarray]:
    """One record a row, and the example that each is of: the healthy, the faulty, and `DRAWS` generic faults for each of these, which share
    the weight of the faulty as `generic` says. (Where none is faulty, half as many as there are healthy ones stand for them.)"""
    record = np.argwhere(lessons.heard())  # example, sensor
    is_healthy = lessons.fault[record[:, 0]] == HEALTHY
    healthy, faulty = np.flatnonzero(is_healthy), np.flatnonzero(~is_healthy)
    rng = np.random.default_rng([lessons.seed, 1])
    drawn = rng.choice(healthy, DRAWS * (len(faulty) or len(healthy) // 2))
    example, sensor = record[np.concatenate([healthy, faulty, drawn])].T
    made, target = np.arange(len(example)) >= len(record), (np.arange(len(example)) >= len(healthy)).astype(np.int64)
    of_faulty, of_drawn = (1 - generic, generic / DRAWS) if len(faulty) else (0.0, 1 / DRAWS)
    weight = np.repeat([1.0, of_faulty, of_drawn], [len(healthy), len(faulty), len(drawn)])

    def read(rows: np.ndarray) -> torch.Tensor:
        z = lessons.read(example[rows])[np.arange(len(rows)), sensor[rows]]
        for i in np.flatnonzero(made[rows]):
            z[i] = lessons.generic(z[i : i + 1], int(example[rows[i]]), int(rows[i]))[0]
        return torch.from_numpy(z)

    weights = weighted(weight, lessons.source[example], lessons.weight_of_source)
    return TrainingSet(read, np.flatnonzero(weight > 0), target, weights), example


def view_rows(lessons: Lessons, generic: float) -> tuple[TrainingSet, np.ndarray]:
    """A unit at two healthy moments and at one with a fault, all of one context (models/band_transformer.py): a row for each healthy
    example that has another beside it, and the third example of each."""
    if lessons.sensors > MAX_SENSORS:
        raise UserError(
            f"a unit has {lessons.sensors} sensors, the net sees {MAX_SENSORS} at most: featurize with a narrower --unit-pattern"
        )
    rng = np.random.default_rng([lessons.seed, 1])
    order = np.argsort(lessons.context, kind="stable")
    views = []
    for own in np.split(order, np.flatnonzero(np.diff(lessons.context[order])) + 1):
        healthy, faulty = own[lessons.fault[own] == HEALTHY], own[lessons.fault[own] != HEALTHY]
        if len(healthy) < 2:
            continue
        drawn = rng.permutation(healthy)
        named = rng.random(len(drawn)) >= generic if len(faulty) else np.zeros(len(drawn), bool)
        third = np.where(named, rng.choice(faulty if len(faulty) else drawn, len(drawn)), np.roll(drawn, -2))
        views.append(np.stack([drawn, np.roll(drawn, -1), third], axis=1))
    if not views:
        raise UserError("pretraining: no context has two healthy examples beside it")
    example = np.concatenate(views)
    # half of the units are heard by one sensor: a record is mostly scored by itself
    whole = lessons.heard().sum(axis=1) == lessons.sensors
    alone = (rng.random(len(example)) < 0.5) & whole[example].all(axis=1)

    def read(rows: np.ndarray) -> torch.Tensor:
        z = lessons.read(example[rows].reshape(-1)).reshape(len(rows), 3, lessons.sensors, *lessons.sources[0].z.shape[2:])
        for i in np.flatnonzero(lessons.fault[example[rows, 2]] == HEALTHY):
            z[i, 2] = lessons.generic(z[i, 2], int(example[rows[i], 2]), int(rows[i]))
        for i in np.flatnonzero(alone[rows]):
            z[i, :, np.arange(lessons.sensors) != rows[i] % lessons.sensors] = 0
        return torch.from_numpy(z)

    weights = weighted(np.ones(len(example)), lessons.source[example[:, 0]], lessons.weight_of_source)
    return TrainingSet(read, np.arange(len(example)), None, weights), example[:, 2]


# ---------------------------------------------------------------- the net


def rows_of(recipe: PretrainingRecipe, examples: Sequence[Examples], weights: Sequence[float]) -> TrainingSet:
    """What a recipe's net learns from."""
    lessons = Lessons(examples, weights, recipe.optim.seed)
    make = record_rows if isinstance(recipe.detector, ContextScorerConfig) else view_rows
    rows, example = make(lessons, recipe.generic)
    return replace(rows, joins=joining(examples, recipe.optim.epochs)[example]) if recipe.curriculum else rows


def pretrained(
    recipe: PretrainingRecipe,
    examples: Sequence[Examples],
    weights: Sequence[float] | None = None,
    device: torch.device = torch.device("cpu"),
    report: Report = silent,
    checkpoints: Checkpoints | None = None,
) -> nn.Module:
    """The net; every worker of a group has to call it. `weights`: how much each source counts; None: all alike.

    With `checkpoints` a training that was stopped goes on where it was.
    """
    torch.manual_seed(recipe.optim.seed)
    net = build_net(recipe, examples[0].z.shape[2:]).to(device)
    train_on_examples(net, rows_of(recipe, examples, weights or [1.0] * len(examples)), recipe.optim, report, checkpoints)
    return net.eval()


@dataclass(frozen=True)
class Pretrained:
    """A band transformer as jobs/pretrain.py left it."""

    recipe: PretrainingRecipe
    uri: str
    sha256: str
    """of its weights' file"""


def read_pretrained(uri: str) -> Pretrained:
    """What a folder of jobs/pretrain.py says of itself. Raises ObjectMissing where it is not finished, UserError for another kind."""
    files = check_finished(uri)["files"]
    values = objects.read_json(objects.join(uri, "recipe.json"))["recipe"]
    if values.get("kind") != "pretraining" or values["detector"]["kind"] != "band_transformer":
        raise UserError(f"{uri} holds no pretrained band transformer: give a folder of `jobs/pretrain.py ... band-transformer`")
    return Pretrained(from_json(PretrainingRecipe, values, uri), uri, files["model.safetensors"]["sha256"])


def from_pretrained(recipe: DeepRecipe, source: Pretrained) -> DeepRecipe:
    """The recipe with a pretrained net's feature, scaling and sizes; how it learns and its adapters are its own."""
    own, net = recipe.detector, source.recipe.detector
    assert isinstance(own, BandTransformerConfig) and isinstance(net, BandTransformerConfig)
    assert not isinstance(source.recipe.feature, SpectralConfig)
    detector = replace(net, adapter=own.adapter, keep=own.keep, base=source.uri, base_sha256=source.sha256)
    return replace(recipe, feature=source.recipe.feature, scaling=source.recipe.scaling, detector=detector)


def train_on_examples(
    net: nn.Module, rows: TrainingSet, optim: OptimConfig, report: Report = silent, checkpoints: Checkpoints | None = None
) -> None:
    """Trains a net in place on rows of examples; every worker of a group has to call it."""
    world = World.current()
    world.align(net)
    found = checkpoints.latest("train") if checkpoints else None
    progress = found.restore(net) if found else Progress()

    def on_epoch(epoch: int, metrics: EpochMetrics) -> Any:
        if checkpoints:
            checkpoints.note("train", epoch, metrics.values())
        if checkpoints and world.rank == 0:
            checkpoints.save("train", net, progress)
        return report("train", epoch, metrics.values())

    fit(net, Batches(rows, optim.batch_size, optim.seed, world), optim, on_epoch, progress)
