"""The classical detectors that need no sample of records: RMS, Mahalanobis, PCA residual; and `build` for all of them.

A detector gets plain vectors (batch, dims): selecting a config's `blocks` from a feature, and scaling them, is the caller's.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt64
from pydantic import Field, with_config
from torch import Tensor

from vibray.config import STRICT, UserError
from vibray.models.context_scorer import SIZES, ContextScorer, ContextScorerConfig
from vibray.models.fitted import Fitted, check_field, require, vectors
from vibray.models.fused import Fused, FusedMahalanobisConfig
from vibray.models.isolation_forest import IsolationForest, IsolationForestConfig
from vibray.models.moments import Moments
from vibray.models.neighbours import Knn, KnnConfig, LocalKnnConfig
from vibray.models.trimming import TrimConfig, Trimmed


@with_config(STRICT)
@dataclass(frozen=True)
class RmsConfig:
    kind: Literal["rms"] = "rms"
    blocks: tuple[str, ...] = ("rms",)
    """The one column of the feature that is the score."""


class Rms:
    """The root mean square of a record, read from the feature's column: the baseline that every other detector must beat."""

    def __init__(self, config: RmsConfig, dims: int) -> None:
        if dims != 1:
            raise UserError(f"rms: the score is one column of the feature, but {config.blocks} are {dims}")
        self.num_records = 0

    def update(self, x: Float[Tensor, "batch dims"], key_hash: UInt64[np.ndarray, " batch"]) -> None:
        self.num_records += len(vectors(x, 1))

    def merge(self, other: "Rms") -> None:
        self.num_records += other.num_records

    def finish(self) -> bool:
        return False

    def score(self, x: Float[Tensor, "batch dims"]) -> Float[Tensor, " batch"]:
        return vectors(x, 1)[:, 0]

    def state(self) -> dict[str, Tensor]:
        return {"num_records": torch.tensor(self.num_records)}

    def load(self, state: dict[str, Tensor]) -> None:
        self.num_records = int(state["num_records"])


@with_config(STRICT)
@dataclass(frozen=True)
class MahalanobisConfig:
    kind: Literal["mahalanobis"] = "mahalanobis"
    blocks: tuple[str, ...] = ()
    """Blocks or columns of the feature that are used. Empty: all."""
    covariance: Literal["ledoit_wolf", "empirical"] = "ledoit_wolf"
    """ledoit_wolf works with fewer records than columns too; empirical needs more, or a ridge."""
    ridge: float = 0.0
    """Added to the diagonal of the covariance, in units of its mean variance."""
    trim: TrimConfig | None = None
    """Leave the most abnormal records out and fit again."""

    def __post_init__(self) -> None:
        check_field(self, "ridge", self.ridge >= 0, "at least 0")


class Mahalanobis:
    """Distance to the mean in units of the spread: sqrt((x - m)' C^-1 (x - m)). One pass.

    `finish` raises TooFewRecords below 3 records (empirical without a ridge: dims + 1), and UserError where C has no inverse.
    """

    def __init__(self, config: MahalanobisConfig, dims: int) -> None:
        self.config, self.dims = config, dims
        self.moments: Moments | None = Moments(dims)

    def update(self, x: Float[Tensor, "batch dims"], key_hash: UInt64[np.ndarray, " batch"]) -> None:
        _open(self.moments).update(vectors(x, self.dims))

    def merge(self, other: "Mahalanobis") -> None:
        _open(self.moments).merge(_open(other.moments))

    def finish(self) -> bool:
        moments = _open(self.moments)
        shrunk = self.config.covariance == "ledoit_wolf"
        needed = 3 if shrunk or self.config.ridge else self.dims + 1
        require(moments.count, needed, f"mahalanobis ({self.config.covariance}, {self.dims} columns)")
        covariance = moments.ledoit_wolf()[0] if shrunk else moments.covariance
        covariance = covariance + self.config.ridge * covariance.trace() / self.dims * torch.eye(self.dims, dtype=torch.float64)
        values, vectors_ = torch.linalg.eigh(covariance)
        if values[0] <= 1e-13 * values[-1]:  # also where every record is the same, and all are 0
            raise UserError(
                "mahalanobis: the covariance has no inverse (columns are constant, or follow from others); set a ridge, or leave them out"
            )
        self.mean = moments.mean
        self.whitening = (vectors_ / values.sqrt()).contiguous()  # W W' = C^-1
        self.num_records = moments.count
        self.moments = None
        return False

    def score(self, x: Float[Tensor, "batch dims"]) -> Float[Tensor, " batch"]:
        d = vectors(x, self.dims) - self.mean.to(x.device)
        return (d @ self.whitening.to(x.device)).norm(dim=1)

    def state(self) -> dict[str, Tensor]:
        return {"mean": self.mean, "whitening": self.whitening, "num_records": torch.tensor(self.num_records)}

    def load(self, state: dict[str, Tensor]) -> None:
        self.mean, self.whitening, self.num_records = state["mean"], state["whitening"], int(state["num_records"])
        self.moments = None


@with_config(STRICT)
@dataclass(frozen=True)
class PcaConfig:
    kind: Literal["pca"] = "pca"
    blocks: tuple[str, ...] = ()
    """Blocks or columns of the feature that are used. Empty: all."""
    num_components: int | None = None
    """Components that count as normal. None: as many as `explained` needs."""
    explained: float = 0.95
    """Share of the variance that the components must explain, where num_components is None."""
    trim: TrimConfig | None = None
    """Leave the most abnormal records out and fit again."""

    def __post_init__(self) -> None:
        check_field(self, "num_components", self.num_components is None or self.num_components >= 1, "at least 1")
        check_field(self, "explained", 0 < self.explained < 1, "between 0 and 1")


class Pca:
    """Residual: the length of what is left of x - m when its part along the leading principal components is taken off. One pass.

    At least one direction that varies is left over. `finish` raises TooFewRecords below num_components + 2 (or 3) records, and
    UserError where fewer than 2 directions vary.
    """

    def __init__(self, config: PcaConfig, dims: int) -> None:
        if (config.num_components or 1) >= dims:
            raise UserError(f"pca: {config.num_components or 1} components leave no residual of {dims} columns")
        self.config, self.dims = config, dims
        self.moments: Moments | None = Moments(dims)

    def update(self, x: Float[Tensor, "batch dims"], key_hash: UInt64[np.ndarray, " batch"]) -> None:
        _open(self.moments).update(vectors(x, self.dims))

    def merge(self, other: "Pca") -> None:
        _open(self.moments).merge(_open(other.moments))

    def finish(self) -> bool:
        moments = _open(self.moments)
        wanted = self.config.num_components
        require(moments.count, (wanted or 1) + 2, f"pca ({wanted or 'one or more'} components)")
        values, vectors_ = torch.linalg.eigh(moments.covariance)
        values, vectors_ = values.flip(0).clamp(min=0), vectors_.flip(1)
        rank = int((values > 1e-12 * values[0]).sum())
        if rank < 2 or (wanted or 1) >= rank:
            raise UserError(f"pca: the records vary in {rank} directions only, {wanted or 1} components leave no residual")
        share = values.cumsum(0) / values.sum()
        num = wanted or min(int((share < self.config.explained).sum()) + 1, rank - 1)
        self.mean, self.components = moments.mean, vectors_[:, :num].contiguous()
        self.num_records = moments.count
        self.moments = None
        return False

    def score(self, x: Float[Tensor, "batch dims"]) -> Float[Tensor, " batch"]:
        d, components = vectors(x, self.dims) - self.mean.to(x.device), self.components.to(x.device)
        return (d - d @ components @ components.T).norm(dim=1)

    def state(self) -> dict[str, Tensor]:
        return {"mean": self.mean, "components": self.components, "num_records": torch.tensor(self.num_records)}

    def load(self, state: dict[str, Tensor]) -> None:
        self.mean, self.components, self.num_records = state["mean"], state["components"], int(state["num_records"])
        self.moments = None


def _open(moments: Moments | None) -> Moments:
    if moments is None:
        raise ValueError("the detector is finished: build a new one to fit it again")
    return moments


AnyClassical = (
    RmsConfig
    | MahalanobisConfig
    | FusedMahalanobisConfig
    | PcaConfig
    | KnnConfig
    | LocalKnnConfig
    | IsolationForestConfig
    | ContextScorerConfig
)
ClassicalConfig = Annotated[AnyClassical, Field(discriminator="kind")]
"""The union as a field of a recipe reads it from JSON."""


def build(config: AnyClassical, *sizes: int) -> Fitted:
    """The detector of a config for vectors of so many columns, trimmed where its config says so.

    `sizes` counts the columns of each of the config's blocks: they are the parts of what is fused, and all one to the others.
    """
    dims = sum(sizes)
    match config:
        case RmsConfig():
            return Rms(config, dims)
        case MahalanobisConfig():
            detector = Mahalanobis(config, dims)
        case FusedMahalanobisConfig():
            there = [size for size in sizes if size]
            # each is trimmed by itself
            parts: list[Fitted] = [build(MahalanobisConfig(trim=config.trim), size) for size in there]
            return Fused(config, parts, there, ContextScorer() if config.scorer and sizes == SIZES else None)
        case PcaConfig():
            detector = Pca(config, dims)
        case KnnConfig() | LocalKnnConfig():
            detector = Knn(config, dims)
        case ContextScorerConfig():
            if sizes != SIZES:
                raise UserError(
                    "context_scorer: the shipped net knows machines with a mains frequency, by the default spectral vector: featurize with "
                    "--mains 50 or 60, or train another recipe"
                )
            return ContextScorer()
        case IsolationForestConfig():
            detector = IsolationForest(config, dims)
    return Trimmed(config.trim, detector, dims) if config.trim else detector
