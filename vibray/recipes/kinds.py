"""What describes a run: which features, scaled how, judged by what; one class a kind."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field, with_config

from vibray.config import STRICT, UserError
from vibray.features.band_image import BandImageConfig
from vibray.features.cwt_image import CwtImageConfig
from vibray.features.harmonic import HarmonicConfig
from vibray.features.hetero_image import HeteroImageConfig
from vibray.features.scaling import ScalingConfig
from vibray.features.seed_image import SeedImageConfig
from vibray.features.spectral import SpectralConfig
from vibray.features.zerone import ZeroneConfig
from vibray.features.zerone_image import ZeroneImageConfig
from vibray.models.backbone import TrunkConfig
from vibray.models.band_transformer import BandTransformerConfig
from vibray.models.classical import ClassicalConfig, MahalanobisConfig
from vibray.models.classifier import ClassifierConfig
from vibray.models.deep_sad import DeepSadConfig
from vibray.models.deep_svdd import DeepSvddConfig
from vibray.models.diagnosis import LinearDiagnosisConfig
from vibray.models.ensemble import EnsembleConfig
from vibray.models.vae import VaeConfig
from vibray.train.classifier import TuningConfig
from vibray.train.exposure import ExposureConfig
from vibray.train.fit import OptimConfig

VectorConfig = ZeroneConfig | SpectralConfig | HarmonicConfig
ImageConfig = CwtImageConfig | SeedImageConfig | HeteroImageConfig | ZeroneImageConfig | BandImageConfig
FeatureConfig = VectorConfig | ImageConfig
DeepConfig = DeepSvddConfig | DeepSadConfig | VaeConfig | BandTransformerConfig


@with_config(STRICT)
@dataclass(frozen=True)
class ClassicalRecipe:
    """A classical detector on a vector feature."""

    kind: Literal["classical"] = "classical"
    feature: Annotated[VectorConfig, Field(discriminator="kind")] = SpectralConfig()
    scaling: ScalingConfig = ScalingConfig(by="sensor")
    detector: ClassicalConfig = MahalanobisConfig(blocks=("bands",))


@with_config(STRICT)
@dataclass(frozen=True)
class DeepRecipe:
    """A deep detector on an image."""

    kind: Literal["deep"] = "deep"
    feature: Annotated[ImageConfig, Field(discriminator="kind")] = CwtImageConfig()
    scaling: ScalingConfig = ScalingConfig(transform="log", by="fleet", per="row")
    detector: Annotated[DeepConfig, Field(discriminator="kind")] = DeepSvddConfig()
    pretrain: OptimConfig = OptimConfig(epochs=10, lr=1e-3, weight_decay=5e-7)
    """pretraining as an autoencoder (Deep SVDD and Deep SAD only)"""
    optim: OptimConfig = OptimConfig(epochs=100, lr=1e-4, weight_decay=5e-7)
    exposure: ExposureConfig | None = None
    """injected faults that training is shown as abnormal (Deep SVDD and Deep SAD with the objective hypersphere only)"""

    def __post_init__(self) -> None:
        objective = self.detector.objective if isinstance(self.detector, DeepSvddConfig | DeepSadConfig) else "none"
        if self.exposure is not None and objective != "hypersphere":
            raise UserError(f"deep: injected faults (exposure) go with the objective hypersphere, not with {objective}")
        if isinstance(self.detector, DeepSvddConfig) and objective == "hypersphere" and self.exposure is None:
            raise UserError("deep: without labels the objective hypersphere needs injected faults: set exposure")

    @property
    def trunk(self) -> TrunkConfig | None:
        """The encoder that a classifier can start from, where the net has one."""
        return None if isinstance(self.detector, BandTransformerConfig) else self.detector.trunk

    @property
    def base(self) -> tuple[str, str] | None:
        """Folder and checksum of the pretrained weights that a run leaves where they are: of adapters, and where nothing was trained."""
        own = self.detector
        if not isinstance(own, BandTransformerConfig) or own.base is None or (self.optim.epochs and not own.adapter):
            return None
        return own.base, own.base_sha256


@with_config(STRICT)
@dataclass(frozen=True)
class EnsembleRecipe:
    """Several detectors, standardised on the training scores and fused."""

    kind: Literal["ensemble"] = "ensemble"
    members: dict[str, ClassicalRecipe | DeepRecipe] = field(default_factory=dict)
    fusion: EnsembleConfig = EnsembleConfig()


@with_config(STRICT)
@dataclass(frozen=True)
class ClassifierRecipe:
    """A classifier of faults, from a pretrained encoder, a vector or both."""

    kind: Literal["classifier"] = "classifier"
    image: Annotated[ImageConfig | None, Field(discriminator="kind")] = CwtImageConfig()
    image_scaling: ScalingConfig = ScalingConfig(transform="log", by="fleet", per="row")
    vector: Annotated[ZeroneConfig | SpectralConfig | HarmonicConfig | None, Field(discriminator="kind")] = None
    vector_scaling: ScalingConfig = ScalingConfig(by="fleet", clip=10.0)
    detector: ClassifierConfig = ClassifierConfig()
    optim: OptimConfig = OptimConfig(epochs=50, lr=1e-3, weight_decay=1e-4, method="adamw", schedule="plateau")
    tuning: TuningConfig = TuningConfig()


@with_config(STRICT)
@dataclass(frozen=True)
class DiagnosisRecipe:
    """A detector on a vector feature, and regressions that name the fault by the same vector."""

    kind: Literal["diagnosis"] = "diagnosis"
    detector: ClassicalRecipe = ClassicalRecipe()
    diagnosis: LinearDiagnosisConfig = LinearDiagnosisConfig()


Recipe = ClassicalRecipe | DeepRecipe | EnsembleRecipe | ClassifierRecipe | DiagnosisRecipe
AnyRecipe = Annotated[Recipe, Field(discriminator="kind")]


# ---------------------------------------------------------------- named recipes: classical
