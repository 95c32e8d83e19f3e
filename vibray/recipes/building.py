"""What a recipe's configs are built as: one `match` a kind, which a reader can search and a type checker can verify."""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

from vibray.config import UserError
from vibray.features.band_image import BandImage, BandImageConfig
from vibray.features.cwt_image import CwtImage, CwtImageConfig
from vibray.features.harmonic import Harmonic, HarmonicConfig
from vibray.features.hetero_image import HeteroImage, HeteroImageConfig
from vibray.features.scaling import ScalingConfig
from vibray.features.scaling_fit import ScalingFit
from vibray.features.seed_image import SeedImage, SeedImageConfig
from vibray.features.spectral import Spectral, SpectralConfig
from vibray.features.zerone import Zerone, ZeroneConfig
from vibray.features.zerone_image import ZeroneImage, ZeroneImageConfig
from vibray.models.band_transformer import BandTransformer, BandTransformerConfig
from vibray.models.classical import AnyClassical, build
from vibray.models.classifier import Classifier
from vibray.models.context_scorer import BLOCKS, SIZES
from vibray.models.deep_sad import DeepSad, DeepSadConfig
from vibray.models.deep_svdd import DeepSvdd, DeepSvddConfig
from vibray.models.fitted import Fitted
from vibray.models.vae import Vae, VaeConfig
from vibray.recipes.kinds import ClassifierRecipe, DeepConfig, FeatureConfig, ImageConfig, VectorConfig

Vector = Zerone | Spectral | Harmonic
Image = CwtImage | SeedImage | HeteroImage | ZeroneImage | BandImage
DeepNet = DeepSvdd | Vae | BandTransformer


@lru_cache(maxsize=32)  # a feature keeps its filters: one object a process and config
def build_vector(config: VectorConfig, mains_hz: float | None) -> Vector:
    """The vector feature of a config; one that needs the mains frequency is given the corpus's own."""
    match config:
        case ZeroneConfig():
            return Zerone(config)
        case SpectralConfig():
            return Spectral(config if config.mains_hz is not None else replace(config, mains_hz=mains_hz))
        case HarmonicConfig():
            return Harmonic(config if config.mains_hz is not None else replace(config, mains_hz=mains_hz))


@lru_cache(maxsize=32)
def build_image(config: ImageConfig, mains_hz: float | None) -> Image:
    """The image feature of a config; one that needs the mains frequency is given the corpus's own."""
    match config:
        case CwtImageConfig():
            return CwtImage(config)
        case SeedImageConfig():
            return SeedImage(config)
        case HeteroImageConfig():
            return HeteroImage(config if config.mains_hz is not None else replace(config, mains_hz=mains_hz))
        case ZeroneImageConfig():
            return ZeroneImage(config)
        case BandImageConfig():
            return BandImage(config)


def build_feature(config: FeatureConfig, mains_hz: float | None) -> Vector | Image:
    """The feature of a config, vector or image."""
    if isinstance(config, ZeroneConfig | SpectralConfig | HarmonicConfig):
        return build_vector(config, mains_hz)
    return build_image(config, mains_hz)


def build_deep(config: DeepConfig, in_shape: tuple[int, ...]) -> DeepNet:
    """The net of a deep detector's config for images of this shape."""
    match config:
        case DeepSvddConfig():
            return DeepSvdd(config, in_shape)
        case DeepSadConfig():
            return DeepSad(config, in_shape)
        case VaeConfig():
            return Vae(config, in_shape)
        case BandTransformerConfig():
            return BandTransformer(config, in_shape)


def build_classifier(recipe: ClassifierRecipe, num_faults: int, shapes: Mapping[str, tuple[int, ...]]) -> Classifier:
    """The net of a classifier's recipe for inputs of these shapes ("image", "vector")."""
    return Classifier(recipe.detector, num_faults, shapes.get("image"), shapes["vector"][0] if "vector" in shapes else None)


def columns_of(feature: Vector, names: tuple[str, ...]) -> list[int]:
    """Column numbers of a vector feature's blocks, or of single columns, in the order named; none named: all.

    Raises UserError for a name that the feature has not.
    """
    if not names:
        return list(range(feature.shape[0]))
    places = {name: [i] for i, name in enumerate(feature.columns())}
    places |= {name: list(range(*block.indices(feature.shape[0]))) for name, block in feature.blocks.items()}
    unknown = [name for name in names if name not in places]
    if unknown:
        raise UserError(f"the feature has no block or column {unknown[0]!r}: its blocks are {', '.join(feature.blocks)}")
    return [i for name in names for i in places[name]]


def blocks_of(feature: Vector, names: tuple[str, ...]) -> set[str]:
    """The blocks of a vector feature that hold the columns of `columns_of`."""
    columns, size = columns_of(feature, names), feature.shape[0]
    return {name for name, block in feature.blocks.items() if any(i in range(*block.indices(size)) for i in columns)}


def build_scaling_fit(config: ScalingConfig, feature: Vector | Image) -> ScalingFit:
    """The pass that fits a feature's scaling, told which column says how loud the whole record is, where the feature has one."""
    return ScalingFit(config, feature.shape, feature.level if isinstance(feature, Spectral) else None)


def build_classical(config: AnyClassical, feature: Vector) -> Fitted:
    """The detector of a config for the columns that `columns_of` finds of its blocks. Raises UserError where there are none."""
    sizes = [len(columns_of(feature, (name,))) for name in config.blocks] or [feature.shape[0]]
    if not any(sizes):
        raise UserError(f"{config.kind}: without a mains frequency there is nothing in {', '.join(config.blocks)}: featurize with --mains")
    return build(config, *sizes)


def net_columns(feature: Vector) -> list[int]:
    """The columns that the shipped context scorer reads, in its order; none where the feature has not all of them."""
    if tuple(len(columns_of(feature, (name,))) if name in feature.blocks else 0 for name in BLOCKS) != SIZES:
        return []
    return columns_of(feature, BLOCKS)
