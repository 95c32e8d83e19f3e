"""Search spaces, define-by-run: which of a recipe's values a trial draws, between which bounds. Nothing of Optuna or Ray is needed here.

A value that another makes meaningless is not drawn: nu belongs to the soft boundary alone, injected faults to the hypersphere.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol, runtime_checkable

from vibray.config import UserError
from vibray.features.scaling import ScalingConfig
from vibray.models.deep_svdd import DeepSvddConfig
from vibray.models.fused import FusedMahalanobisConfig
from vibray.models.trimming import TrimConfig
from vibray.models.vae import VaeConfig
from vibray.recipes.kinds import ClassicalRecipe, DeepRecipe, Recipe
from vibray.train.exposure import ExposureConfig

Value = str | int | float
Params = dict[str, Value]


class SpaceError(UserError):
    """A recipe without a search space, or bounds that are none of its space's."""


@runtime_checkable
class Suggests(Protocol):
    """What a space asks of a trial; Optuna's has it."""

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int: ...
    def suggest_float(self, name: str, low: float | int, high: float | int, *, log: bool = False) -> float | int: ...
    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included."""

    low: float | int
    high: float | int
    log: bool = True
    whole: bool = False

    def suggest(self, trial: Suggests, name: str) -> Value:
        if self.whole:
            return trial.suggest_int(name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def holds(self, value: Value) -> bool:
        return not isinstance(value, str) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.low:g}:{self.high:g}" + (" log" if self.log else "")


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[Value, ...]

    def suggest(self, trial: Suggests, name: str) -> Value:
        return trial.suggest_categorical(name, list(self.values))

    def holds(self, value: Value) -> bool:
        return value in self.values

    def __str__(self) -> str:
        return ",".join(str(value) for value in self.values)


Space = dict[str, Range | Choice]
"""Bounds by name, in the order in which they are drawn."""


def space_of(recipe: Recipe) -> Space:
    """The values that a search varies, with their default bounds. Raises SpaceError for a recipe that has no space."""
    match recipe:
        case DeepRecipe(detector=DeepSvddConfig(trunk=trunk, objective=own)):
            return {
                "objective": Choice(tuple(dict.fromkeys((own, "hypersphere", "soft-boundary")))),
                "latent_dim": Range(8, 512, whole=True),
                "nu": Range(0.005, 0.2),
                "metric": Choice(("mahalanobis", "distance")),
                "weakest_db": Choice((-30.0, -20.0, -10.0)),
                "width": Range(16, 128, whole=True) if trunk.kind == "time" else Range(8, 64, whole=True),
                "lr": Range(1e-4, 1e-2),
            }
        case DeepRecipe(detector=VaeConfig()):
            return {
                "latent_channels": Range(8, 128, whole=True),
                "beta": Range(0.001, 0.1),
                "kl_in_score": Range(0.01, 1.0),
                "width": Range(8, 64, whole=True),
                "lr": Range(1e-4, 1e-2),
            }
        case ClassicalRecipe(detector=FusedMahalanobisConfig()):
            return {
                "fall": Range(2.0, 8.0, log=False),
                "rise": Range(4.0, 20.0, log=False),
                "prior_records": Range(4.0, 1024.0),
                "trim_share": Range(0.02, 0.3),
                "trim_rounds": Range(1, 5, log=False, whole=True),
            }
    raise SpaceError(
        "a search space stands beside Deep SVDD, the VAE and fused: put cwt-svdd, plain-svdd, cwt-vae or fused last on the line"
    )


def propose(trial: Suggests, recipe: Recipe, space: Space) -> Recipe:
    """The recipe that a trial draws from the space; what is not in the space stays as the recipe has it."""

    def drawn(name: str) -> Any:
        return space[name].suggest(trial, name)

    match recipe:
        case DeepRecipe(detector=DeepSvddConfig() as svdd):
            return _svdd(drawn, recipe, svdd)
        case DeepRecipe(detector=VaeConfig() as vae):
            detector = replace(
                vae,
                latent_channels=drawn("latent_channels"),
                beta=drawn("beta"),
                kl_in_score=drawn("kl_in_score"),
                trunk=replace(vae.trunk, width=drawn("width")),
            )
            return replace(recipe, detector=detector, optim=replace(recipe.optim, lr=drawn("lr")))
        case ClassicalRecipe(detector=FusedMahalanobisConfig() as fused):
            scaling = replace(recipe.scaling, limits=(drawn("fall"), drawn("rise")), prior_records=drawn("prior_records"))
            trim = TrimConfig(share=drawn("trim_share"), rounds=drawn("trim_rounds"))
            return replace(recipe, scaling=scaling, detector=replace(fused, trim=trim))
    raise SpaceError(f"no search space for a recipe of kind {recipe.kind}")


def _svdd(drawn: Any, recipe: DeepRecipe, detector: DeepSvddConfig) -> DeepRecipe:
    objective = drawn("objective")
    detector = replace(detector, latent_dim=drawn("latent_dim"), trunk=replace(detector.trunk, width=drawn("width")))
    optim, exposure = replace(recipe.optim, lr=drawn("lr")), None
    if objective == "soft-boundary":
        # the radius must be in force for most of the training
        warmup = min(detector.warmup_epochs, optim.epochs // 3)
        detector = replace(detector, objective=objective, metric="distance", nu=drawn("nu"), warmup_epochs=warmup)
    else:
        detector = replace(detector, objective=objective, metric=drawn("metric"))
    if objective == "hypersphere":
        exposure = recipe.exposure or ExposureConfig()
        weakest = drawn("weakest_db")
        exposure = replace(exposure, snr_db=(weakest, max(weakest, exposure.snr_db[1])))
    return replace(recipe, detector=detector, optim=optim, exposure=exposure)


def own_params(recipe: Recipe, space: Space) -> Params | None:
    """What a trial would have to draw to give the recipe as it is; None where the bounds leave it out."""
    values: dict[str, Value] = {}
    match recipe:
        case DeepRecipe(detector=DeepSvddConfig() as detector):
            values = {
                "objective": detector.objective,
                "latent_dim": detector.latent_dim,
                "nu": detector.nu,
                "metric": detector.metric,
                "weakest_db": recipe.exposure.snr_db[0] if recipe.exposure else math.nan,
                "width": detector.trunk.width,
                "lr": recipe.optim.lr,
            }
        case DeepRecipe(detector=VaeConfig() as detector):
            values = {"latent_channels": detector.latent_channels, "beta": detector.beta, "kl_in_score": detector.kl_in_score}
            values |= {"width": detector.trunk.width, "lr": recipe.optim.lr}
        case ClassicalRecipe(
            detector=FusedMahalanobisConfig() as detector, scaling=ScalingConfig(limits=(fall, rise), prior_records=prior)
        ):
            values = {"fall": fall, "rise": rise, "prior_records": prior}
            if detector.trim is not None:
                values |= {"trim_share": detector.trim.share, "trim_rounds": detector.trim.rounds}
    asked = _Fixed(values)
    try:
        found = propose(asked, recipe, space)
    except (KeyError, UserError):
        return None
    return asked.taken if found == recipe and all(space[name].holds(value) for name, value in asked.taken.items()) else None


class _Fixed:
    """A trial that answers with given values."""

    def __init__(self, values: Mapping[str, Value]):
        self.values, self.taken = values, {}

    def _answer(self, name: str) -> Any:
        self.taken[name] = self.values[name]
        return self.values[name]

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        return self._answer(name)

    def suggest_float(self, name: str, low: float | int, high: float | int, *, log: bool = False) -> float | int:
        return self._answer(name)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._answer(name)


def recipe_of(params: Mapping[str, Value], recipe: Recipe, space: Space) -> Recipe:
    """The recipe of values drawn before. Raises SpaceError where one that the space asks for is missing."""
    try:
        return propose(_Fixed(params), recipe, space)
    except KeyError as missing:
        raise SpaceError(f"the space draws {missing}, which {dict(params)} has not") from None


def bounded(space: Space, bounds: Sequence[str]) -> Space:
    """The space with bounds from the command line: `latent_dim=8:64`, `objective=hypersphere` or `metric=distance,mahalanobis`.

    Raises SpaceError for a name, value or range that the space has not.
    """
    found = dict(space)
    for text in bounds:
        name, equals, given = text.partition("=")
        if name not in found or not equals or not given:
            raise SpaceError(f"--bounds {text}: write NAME=LOW:HIGH or NAME=VALUE[,VALUE...], a name being one of {', '.join(found)}")
        found[name] = _overridden(found[name], given, text)
    return found


def _overridden(knob: Range | Choice, given: str, text: str) -> Range | Choice:
    if isinstance(knob, Choice):
        kind = type(knob.values[0])
        try:
            values = tuple(kind(value) for value in given.split(","))
        except ValueError:
            raise SpaceError(f"--bounds {text}: {given} is no list of values as {knob}") from None
        if kind is str and not set(values) <= set(knob.values):
            raise SpaceError(f"--bounds {text}: the values to choose from are {knob}")
        return Choice(values)
    low, _, high = given.partition(":")
    try:
        ends = float(low), float(high or low)
    except ValueError:
        raise SpaceError(f"--bounds {text}: a range is LOW:HIGH, as {knob}") from None
    if not (math.isfinite(ends[0]) and math.isfinite(ends[1]) and ends[0] <= ends[1]) or (knob.log and ends[0] <= 0):
        raise SpaceError(f"--bounds {text}: a range is LOW:HIGH with LOW <= HIGH{', both above 0' if knob.log else ''}")
    if knob.whole and not (ends[0].is_integer() and ends[1].is_integer()):
        raise SpaceError(f"--bounds {text}: whole numbers are meant")
    return replace(knob, low=ends[0], high=ends[1])


def to_values(space: Space) -> dict[str, Any]:
    """JSON-ready values of a space."""
    return {name: list(knob.values) if isinstance(knob, Choice) else asdict(knob) for name, knob in space.items()}
