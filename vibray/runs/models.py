"""What a run's recipe was fitted as: a detector, several, or what names faults; features in, columns of the scores table out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from jaxtyping import Float
from torch import Tensor, nn

from vibray.features.scaling import Scaling, Sensor
from vibray.features.spectral import SpectralConfig
from vibray.models.band_transformer import adapts
from vibray.models.classifier import Classifier, Diagnosis
from vibray.models.diagnosis import LinearDiagnosis
from vibray.models.ensemble import Ensemble
from vibray.models.fitted import Fitted
from vibray.models.inference import CpuScores, folded
from vibray.recipes.building import blocks_of, build_vector, columns_of
from vibray.recipes.kinds import ClassicalRecipe, ClassifierRecipe, DeepRecipe, FeatureConfig
from vibray.runs.inputs import Blocks, Inputs
from vibray.schema import FAULT_PREFIX, MEMBER_PREFIX
from vibray.storage.corpus import CorpusFacts


@dataclass
class Detecting:
    """A fitted detector on one feature, classical or deep."""

    recipe: ClassicalRecipe | DeepRecipe
    scaling: Scaling
    detector: Fitted | nn.Module
    training_scores: Float[Tensor, "2"]
    """median and 1.4826 MAD of the training records' scores: what an ensemble standardises by"""
    on_cpu: CpuScores | None = None
    """the net's scores in the form that is fastest on a CPU, where `Run.hastened` has made it"""

    def outputs(self, inputs: Inputs, sensors: Sequence[Sensor] | None) -> dict[str, Tensor]:
        return {"score": self.of_scaled(self.scaling(inputs[self.recipe.feature], sensors), inputs.facts)}

    def of_scaled(self, x: Tensor, facts: CorpusFacts) -> Float[Tensor, " batch"]:
        """Scores of features that are scaled."""
        if isinstance(self.detector, nn.Module):
            net = cast(Any, self.detector)
            return (net.score(net(x)) if self.on_cpu is None else self.on_cpu(x)).float()
        assert isinstance(self.recipe, ClassicalRecipe)
        feature = build_vector(self.recipe.feature, facts.mains_hz)
        return self.detector.score(x[:, columns_of(feature, self.recipe.detector.blocks)]).float()

    def blocks(self, facts: CorpusFacts) -> Blocks:
        """Of the spectral vector, what is read: the detector's, and the level where the scaling looks at it."""
        recipe = self.recipe
        if not isinstance(recipe, ClassicalRecipe) or not isinstance(recipe.feature, SpectralConfig):
            return {}
        feature = build_vector(recipe.feature, facts.mains_hz)
        return {recipe.feature: blocks_of(feature, recipe.detector.blocks) | ({"level"} if recipe.scaling.limits else set())}

    def scalings(self) -> dict[str, tuple[FeatureConfig, Scaling]]:
        return {"": (self.recipe.feature, self.scaling)}

    def rescaled(self, scalings: Mapping[str, Scaling]) -> "Detecting":
        return replace(self, scaling=scalings[""])

    def hastened(self) -> "Detecting":
        return replace(self, on_cpu=CpuScores(self.detector)) if isinstance(self.detector, nn.Module) else self

    def tensors(self) -> dict[str, Tensor]:
        own = self.detector.state_dict() if isinstance(self.detector, nn.Module) else self.detector.state()
        if isinstance(self.recipe, DeepRecipe) and self.recipe.base is not None:
            own = {name: tensor for name, tensor in own.items() if self.recipe.optim.epochs and adapts(name)}
        return prefixed("detector", own) | prefixed("scaling", self.scaling.state()) | {"training_scores": self.training_scores}


@dataclass
class Fusing:
    """Several fitted detectors and the statistics that make their scores comparable."""

    members: dict[str, Detecting]
    ensemble: Ensemble

    def outputs(self, inputs: Inputs, sensors: Sequence[Sensor] | None) -> dict[str, Tensor]:
        own = {name: member.outputs(inputs, sensors)["score"] for name, member in self.members.items()}
        return {"score": self.ensemble.fuse(own).float(), **{MEMBER_PREFIX + name: score for name, score in own.items()}}

    def blocks(self, facts: CorpusFacts) -> Blocks:
        """Of each feature, what any member reads."""
        found: dict[FeatureConfig, set[str]] = {}
        for member in self.members.values():
            for config, names in member.blocks(facts).items():
                found.setdefault(config, set()).update(names)
        return found

    def scalings(self) -> dict[str, tuple[FeatureConfig, Scaling]]:
        return {name: member.scalings()[""] for name, member in self.members.items()}

    def rescaled(self, scalings: Mapping[str, Scaling]) -> "Fusing":
        return replace(self, members={name: member.rescaled({"": scalings[name]}) for name, member in self.members.items()})

    def hastened(self) -> "Fusing":
        return replace(self, members={name: member.hastened() for name, member in self.members.items()})

    def tensors(self) -> dict[str, Tensor]:
        return prefixed("ensemble", self.ensemble.state())


def columns_of_diagnosis(diagnosis: Diagnosis, faults: tuple[str, ...]) -> dict[str, Tensor]:
    """Probabilities and fault number by their names in the scores table."""
    columns = {FAULT_PREFIX + name: diagnosis.fault_probability[:, i] for i, name in enumerate(faults)}
    probability = diagnosis.abnormal_probability
    return {"score": probability, "abnormal_probability": probability, "fault": diagnosis.fault, **columns}


@dataclass
class Diagnosing:
    """A fitted net that classifies."""

    recipe: ClassifierRecipe
    faults: tuple[str, ...]
    net: Classifier
    image_scaling: Scaling | None
    vector_scaling: Scaling | None

    def outputs(self, inputs: Inputs, sensors: Sequence[Sensor] | None) -> dict[str, Tensor]:
        x = [scaling(inputs[config], sensors) for config, scaling in self.scalings().values()]
        return columns_of_diagnosis(self.net.diagnose(self.net(x[0] if len(x) == 1 else (x[0], x[1]))), self.faults)

    def blocks(self, facts: CorpusFacts) -> Blocks:
        return {}  # the net reads all

    def scalings(self) -> dict[str, tuple[FeatureConfig, Scaling]]:
        named = {"image": (self.recipe.image, self.image_scaling), "vector": (self.recipe.vector, self.vector_scaling)}
        return {name: (config, scaling) for name, (config, scaling) in named.items() if config is not None and scaling is not None}

    def rescaled(self, scalings: Mapping[str, Scaling]) -> "Diagnosing":
        return replace(self, image_scaling=scalings.get("image"), vector_scaling=scalings.get("vector"))

    def hastened(self) -> "Diagnosing":
        return replace(self, net=folded(self.net))

    def tensors(self) -> dict[str, Tensor]:
        own = prefixed("net", self.net.state_dict())
        for name, (_, scaling) in self.scalings().items():
            own |= prefixed(f"{name}_scaling", scaling.state())
        return own


@dataclass
class Naming:
    """A fitted detector, and what names the faults of its records."""

    detecting: Detecting
    faults: tuple[str, ...]
    diagnosis: LinearDiagnosis

    def outputs(self, inputs: Inputs, sensors: Sequence[Sensor] | None) -> dict[str, Tensor]:
        x = self.detecting.scaling(inputs[self.detecting.recipe.feature], sensors)
        score = self.detecting.of_scaled(x, inputs.facts)
        return columns_of_diagnosis(self.diagnosis(x, score), self.faults) | {MEMBER_PREFIX + DETECTOR: score}

    def blocks(self, facts: CorpusFacts) -> Blocks:
        """All, of the spectral vector too."""
        config = self.detecting.recipe.feature
        return {config: set(build_vector(config, facts.mains_hz).blocks)} if isinstance(config, SpectralConfig) else {}

    def scalings(self) -> dict[str, tuple[FeatureConfig, Scaling]]:
        return self.detecting.scalings()

    def rescaled(self, scalings: Mapping[str, Scaling]) -> "Naming":
        return replace(self, detecting=self.detecting.rescaled(scalings))

    def hastened(self) -> "Naming":
        return self

    def tensors(self) -> dict[str, Tensor]:
        return self.detecting.tensors() | prefixed("diagnosis", self.diagnosis.state())


Model = Detecting | Fusing | Diagnosing | Naming

DETECTOR = "detector"
"""Name of the detector's own score in the columns of a diagnosis."""


def deep_members(model: Model) -> list[Detecting]:
    """The deep detectors of a model: itself, or those of an ensemble in their order."""
    return [single for single in detectors(model) if isinstance(single.detector, nn.Module)]


def has_nets(model: Model) -> bool:
    """Whether a GPU is of use."""
    return isinstance(model, Diagnosing) or bool(deep_members(model))


def detectors(model: Model) -> list[Detecting]:
    """All detectors of a model."""
    if isinstance(model, Naming):
        return [model.detecting]
    if isinstance(model, Fusing):
        return list(model.members.values())
    return [model] if isinstance(model, Detecting) else []


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under names that many parts of a run can share a file with."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def part_of(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors that `prefixed` put under a prefix, by their own names."""
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(prefix + ".")}
