"""The named recipes: functions that derive from one another, each with a line that says what it is for."""

from collections.abc import Callable
from dataclasses import replace

from vibray.features.band_image import BandImageConfig
from vibray.features.cwt_image import CwtImageConfig
from vibray.features.harmonic import HarmonicConfig
from vibray.features.hetero_image import HeteroImageConfig
from vibray.features.scaling import ScalingConfig
from vibray.features.seed_image import SeedImageConfig
from vibray.features.zerone import ZeroneConfig
from vibray.features.zerone_image import ZeroneImageConfig
from vibray.models.backbone import TrunkConfig
from vibray.models.band_transformer import BandTransformerConfig
from vibray.models.classical import MahalanobisConfig, PcaConfig, RmsConfig
from vibray.models.classifier import ClassifierConfig
from vibray.models.context_scorer import ContextScorerConfig
from vibray.models.deep_sad import DeepSadConfig
from vibray.models.deep_svdd import DeepSvddConfig
from vibray.models.ensemble import EnsembleConfig
from vibray.models.fused import FusedMahalanobisConfig
from vibray.models.isolation_forest import IsolationForestConfig
from vibray.models.neighbours import KnnConfig, LocalKnnConfig
from vibray.models.trimming import TrimConfig
from vibray.models.vae import VaeConfig
from vibray.recipes.kinds import ClassicalRecipe, ClassifierRecipe, DeepRecipe, DiagnosisRecipe, EnsembleRecipe, ImageConfig, Recipe
from vibray.train.exposure import ExposureConfig
from vibray.train.fit import OptimConfig

BANDS = ("bands",)


def fused() -> ClassicalRecipe:
    """Mahalanobis distances of three descriptions of the spectrum and of the mains' lines by sensor, and a net that was shown faults of
    generated transformers, fused by their tail probabilities: the default."""
    return replace(unsupervised(), detector=FusedMahalanobisConfig(scorer=True, scorer_share=0.3))


def unsupervised() -> ClassicalRecipe:
    """The default without the net: it has never seen a fault."""
    return ClassicalRecipe(scaling=ScalingConfig(by="sensor", limits=(6.0, 6.0)), detector=FusedMahalanobisConfig())


def zero_shot() -> ClassicalRecipe:
    """The net of the default alone: nothing is fitted but what is usual within a sensor."""
    return replace(unsupervised(), detector=ContextScorerConfig())


def mahalanobis() -> ClassicalRecipe:
    """Mahalanobis distance of 64 log bands, centred and scaled by sensor, trimmed three times."""
    return replace(banded(), detector=MahalanobisConfig(blocks=BANDS, trim=TrimConfig(share=0.1, rounds=3)))


def banded() -> ClassicalRecipe:
    """The yardstick B64: Mahalanobis distance of 64 equal log bands by sensor, no trimming."""
    return ClassicalRecipe()


def rms() -> ClassicalRecipe:
    """The root mean square of a record, nothing else: the control that everything must beat."""
    return ClassicalRecipe(scaling=ScalingConfig(by="none"), detector=RmsConfig())


def iforest() -> ClassicalRecipe:
    """Isolation Forest on 15 statistics of the waveform."""
    return ClassicalRecipe(scaling=ScalingConfig(by="none"), detector=IsolationForestConfig(blocks=("time",)))


def knn() -> ClassicalRecipe:
    """Distance to the nearest neighbours among 64 log bands by sensor."""
    return replace(banded(), detector=KnnConfig(blocks=BANDS))


def local_knn() -> ClassicalRecipe:
    """Distance to the nearest neighbours relative to theirs (local density)."""
    return replace(banded(), detector=LocalKnnConfig(blocks=BANDS))


def pca() -> ClassicalRecipe:
    """Residual of 64 log bands by sensor outside their principal components."""
    return replace(banded(), detector=PcaConfig(blocks=BANDS))


def movement() -> ClassicalRecipe:
    """Mahalanobis distance of the bands and of how they move inside a record: bursts and modulation."""
    return replace(banded(), detector=MahalanobisConfig(blocks=("bands", "movement"), trim=TrimConfig()))


def zerone_mahalanobis() -> ClassicalRecipe:
    """Mahalanobis distance of the 1200 Zerone values by sensor."""
    return ClassicalRecipe(
        feature=ZeroneConfig(), scaling=ScalingConfig(by="sensor", clip=10.0), detector=MahalanobisConfig(trim=TrimConfig())
    )


def harmonic_mahalanobis() -> ClassicalRecipe:
    """Mahalanobis distance of the mains-locked harmonics by sensor; needs a mains frequency."""
    return ClassicalRecipe(
        feature=HarmonicConfig(), scaling=ScalingConfig(by="sensor", clip=10.0), detector=MahalanobisConfig(trim=TrimConfig())
    )


# ---------------------------------------------------------------- named recipes: deep


def plain_svdd() -> DeepRecipe:
    """Deep SVDD as its paper has it, on ResNet-18: one-class, pretrained as an autoencoder, the image scaled by the fleet."""
    return DeepRecipe()


def cwt_svdd() -> DeepRecipe:
    """Deep SVDD with outlier exposure: injected faults (impulses, a modulated band, a raised band) are shown to it as abnormal.

    The image is scaled by sensor, the filters are as high as the image, nothing is normalised inside the net; the score is the Mahalanobis
    distance of the trunk's features. On 1,920 records 4 epochs do as well, on 217 they are too few.
    """
    return DeepRecipe(
        feature=CwtImageConfig(rows=64, columns=32),
        scaling=ScalingConfig(transform="log", by="sensor", per="row"),
        detector=DeepSvddConfig(
            trunk=TrunkConfig(kind="time", width=64), hidden=128, latent_dim=32, objective="hypersphere", metric="mahalanobis"
        ),
        pretrain=OptimConfig(epochs=0),
        optim=OptimConfig(epochs=10, batch_size=64, lr=1e-3, weight_decay=1e-4, method="adamw"),
        exposure=ExposureConfig(),
    )


def deep_sad() -> DeepRecipe:
    """Deep SAD: as cwt-svdd, and `--labels` tell it known normals and known faults, each weighing as two unlabelled records."""
    recipe = cwt_svdd()
    detector = DeepSadConfig(
        trunk=TrunkConfig(kind="time", width=64),
        hidden=128,
        latent_dim=32,
        objective="hypersphere",
        metric="mahalanobis",
        label_weight=2.0,
    )
    return replace(recipe, detector=detector)


def cwt_svdd_soft() -> DeepRecipe:
    """The plain Deep SVDD with the soft boundary."""
    return replace(plain_svdd(), detector=DeepSvddConfig(objective="soft-boundary"))


def seed_svdd() -> DeepRecipe:
    """The plain Deep SVDD on the original plan's CWT image, per-image min-max and all: for comparison."""
    return replace(plain_svdd(), feature=SeedImageConfig(), scaling=ScalingConfig(by="none"))


def untrained_svdd() -> DeepRecipe:
    """cwt-svdd whose network keeps its random weights, its metric fitted all the same: the control."""
    recipe = cwt_svdd()
    return replace(recipe, optim=replace(recipe.optim, epochs=0))


def plain_vae() -> DeepRecipe:
    """Spatial ResNet-VAE on the large analytic CWT image, scaled by the fleet."""
    return DeepRecipe(detector=VaeConfig(), optim=OptimConfig(epochs=50, lr=1e-3, weight_decay=5e-7))


def cwt_vae() -> DeepRecipe:
    """Spatial ResNet-VAE on a small CWT image, scaled by sensor; what is brighter than reconstructed counts."""
    return replace(
        plain_vae(),
        feature=CwtImageConfig(rows=64, columns=32),
        scaling=ScalingConfig(transform="log", by="sensor", per="row", clip=10.0),
        detector=VaeConfig(trunk=TrunkConfig(width=16), latent_channels=16, warmup_epochs=4, residual="excess"),
        optim=OptimConfig(epochs=12, batch_size=64, lr=1e-3, weight_decay=5e-7),
    )


def cwt_ae() -> DeepRecipe:
    """Spatial autoencoder: cwt-vae with beta = 0."""
    recipe = cwt_vae()
    assert isinstance(recipe.detector, VaeConfig)
    return replace(recipe, detector=replace(recipe.detector, beta=0.0))


def hetero_vae() -> DeepRecipe:
    """Spatial VAE on CWT, STFT and the waveform folded at the mains period; needs a mains frequency."""
    # its channels are logarithms already, or signed
    return replace(plain_vae(), feature=HeteroImageConfig(), scaling=ScalingConfig(by="fleet", per="row"))


def band_transformer() -> DeepRecipe:
    """A transformer over bands of fixed Hz, as jobs/pretrain.py left it (`--init-from`): nothing is trained, what is usual within each
    sensor is measured."""
    return DeepRecipe(
        feature=BandImageConfig(),
        scaling=ScalingConfig(by="sensor", per="row"),
        detector=BandTransformerConfig(),
        pretrain=OptimConfig(epochs=0),
        optim=OptimConfig(epochs=0, batch_size=32, lr=1e-3, weight_decay=1e-2, method="adamw", schedule="one-cycle", clip=1.0),
    )


def adapter() -> DeepRecipe:
    """The same with bottlenecks beside its layers, of 2 % of its weights, which alone learn from the corpus; with `--labels` from them."""
    recipe = band_transformer()
    assert isinstance(recipe.detector, BandTransformerConfig)
    return replace(recipe, detector=replace(recipe.detector, adapter=8), optim=replace(recipe.optim, epochs=4, lr=3e-3))


def ensemble() -> EnsembleRecipe:
    """Deep SVDD and VAE, 0.6 and 0.4."""
    return EnsembleRecipe(members={"svdd": cwt_svdd(), "vae": cwt_vae()})


def small_ensemble() -> EnsembleRecipe:
    """Deep SVDD and VAE on small images with a narrow trunk, 30 epochs: for CPUs."""
    recipe = small(ensemble(), 30)
    assert isinstance(recipe, EnsembleRecipe)
    return recipe


def baselines() -> EnsembleRecipe:
    """The simple baselines side by side, each a column of the scores: RMS, Isolation Forest, B64 and the same trimmed."""
    members: dict[str, ClassicalRecipe | DeepRecipe] = {
        "rms": rms(),
        "iforest": iforest(),
        "banded": banded(),
        "mahalanobis": mahalanobis(),
    }
    return EnsembleRecipe(members=members, fusion=EnsembleConfig(weights=tuple((name, 1.0) for name in members), fusion="mean"))


# ---------------------------------------------------------------- named recipes: classifiers


def classifier() -> DiagnosisRecipe:
    """The default for faults: the default detector, and which way a record deviates from its sensor's usual names the fault."""
    return DiagnosisRecipe(detector=fused())


def zerone_diagnosis() -> DiagnosisRecipe:
    """The same on the 1200 Zerone values."""
    return DiagnosisRecipe(detector=zerone_mahalanobis())


def harmonic_diagnosis() -> DiagnosisRecipe:
    """The same on the mains-locked harmonics; needs a mains frequency."""
    return DiagnosisRecipe(detector=harmonic_mahalanobis())


def cwt_classifier() -> ClassifierRecipe:
    """Net on the CWT image, from the encoder of `--init-from`."""
    return ClassifierRecipe()


def hetero_classifier() -> ClassifierRecipe:
    """Net on CWT, STFT and the waveform folded at the mains period; needs a mains frequency."""
    return ClassifierRecipe(image=HeteroImageConfig(), image_scaling=ScalingConfig(by="fleet", per="row"))


def zerone_classifier() -> ClassifierRecipe:
    """Net on the 1200 Zerone values."""
    return ClassifierRecipe(image=None, vector=ZeroneConfig(), detector=ClassifierConfig(inputs="vector"))


def zerone_image_classifier() -> ClassifierRecipe:
    """Net on the Zerone image, values scaled by quantiles."""
    return ClassifierRecipe(image=ZeroneImageConfig(), image_scaling=ScalingConfig(by="fleet", statistic="quantile"))


def union_classifier() -> ClassifierRecipe:
    """Net on the CWT image and the Zerone values together."""
    return ClassifierRecipe(vector=ZeroneConfig(), detector=ClassifierConfig(inputs="union"))


NAMED: dict[str, Callable[[], Recipe]] = {
    "fused": fused,
    "unsupervised": unsupervised,
    "zero-shot": zero_shot,
    "mahalanobis": mahalanobis,
    "banded": banded,
    "rms": rms,
    "iforest": iforest,
    "knn": knn,
    "local-knn": local_knn,
    "pca": pca,
    "movement": movement,
    "zerone-mahalanobis": zerone_mahalanobis,
    "harmonic-mahalanobis": harmonic_mahalanobis,
    "cwt-svdd": cwt_svdd,
    "deep-sad": deep_sad,
    "plain-svdd": plain_svdd,
    "cwt-svdd-soft": cwt_svdd_soft,
    "seed-svdd": seed_svdd,
    "untrained-svdd": untrained_svdd,
    "cwt-vae": cwt_vae,
    "plain-vae": plain_vae,
    "cwt-ae": cwt_ae,
    "hetero-vae": hetero_vae,
    "band-transformer": band_transformer,
    "adapter": adapter,
    "ensemble": ensemble,
    "small-ensemble": small_ensemble,
    "baselines": baselines,
    "classifier": classifier,
    "zerone-diagnosis": zerone_diagnosis,
    "harmonic-diagnosis": harmonic_diagnosis,
    "cwt-classifier": cwt_classifier,
    "hetero-classifier": hetero_classifier,
    "zerone-classifier": zerone_classifier,
    "zerone-image-classifier": zerone_image_classifier,
    "union-classifier": union_classifier,
}
"""Names on the command line; the first is the default."""


# ---------------------------------------------------------------- small variants


def small(recipe: Recipe, epochs: int | None = None) -> Recipe:
    """The same recipe on small images with a narrow trunk: minutes on a laptop's cores, for demos and searches on a budget."""
    match recipe:
        case DeepRecipe() if not isinstance(recipe.detector, BandTransformerConfig):  # its sizes are those of a pretrained net
            if recipe.detector.trunk.kind == "time":  # small already, and longer training is no gain
                return replace(recipe, optim=_shorter(recipe.optim, None if epochs is None else min(epochs, recipe.optim.epochs)))
            detector = replace(recipe.detector, trunk=TrunkConfig(width=16))
            return replace(recipe, feature=_small_image(recipe.feature), detector=detector, optim=_shorter(recipe.optim, epochs))
        case ClassifierRecipe(image=image) if image is not None:
            detector = replace(recipe.detector, trunk=TrunkConfig(width=16))
            return replace(recipe, image=_small_image(image), detector=detector, optim=_shorter(recipe.optim, epochs))
        case EnsembleRecipe():
            return replace(recipe, members={name: small(member, epochs) for name, member in recipe.members.items()})  # type: ignore[misc]
    return recipe


def _small_image(config: ImageConfig) -> ImageConfig:
    if not isinstance(config, CwtImageConfig | SeedImageConfig):
        return config
    return replace(config, rows=min(64, config.rows), columns=min(64, config.columns))


def _shorter(optim: OptimConfig, epochs: int | None) -> OptimConfig:
    return optim if epochs is None else replace(optim, epochs=epochs)
