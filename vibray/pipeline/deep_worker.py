"""One worker of a training: its place in the group, its device, the corpus and its images on this node's disk."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from vibray.config import short_hash
from vibray.features.scaling import Scaling, ScalingConfig, ScalingFit
from vibray.pipeline.tables import TrainingTable
from vibray.pipeline.tracking import Tracker, Tracking, tracked
from vibray.recipes import ClassifierRecipe, DeepRecipe, FeatureConfig, build_feature
from vibray.train.exposure import ExposureConfig, injected
from vibray.train.images import CHUNK, Images, NodeArray
from vibray.train.reduce import World


@dataclass(frozen=True)
class DeepJob:
    """One net to train: where its run goes, its recipe, and what it learns from."""

    run_uri: str
    recipe: DeepRecipe | ClassifierRecipe
    environment: dict[str, Any]
    indices: np.ndarray
    """row numbers of the training table that take part"""
    targets: np.ndarray | None = None
    """classifier: [rows, 2] int64, label (0, 1, -1) and fault number (-1: none); Deep SAD: [rows] int64, the label"""
    weights: np.ndarray | None = None
    real: np.ndarray | None = None
    """classifier: bool a row, its label is a person's"""
    faults: tuple[str, ...] = ()
    init_from: str | None = None
    """classifier: the run whose encoder and image scaling it starts from"""


@dataclass
class Worker:
    """What one worker of the group knows: its place, its device, the corpus on this node's disk."""

    world: World
    local_rank: int
    local_size: int
    device: torch.device
    table: TrainingTable
    waveforms: np.ndarray
    scratch: Path
    cache_bytes: int
    made: dict[str, Images]
    tell: Callable[..., None]
    """label, done, total, figures: a bar of progress; a total of 0: a line of text"""
    tracking: Tracking | None = None
    """where rank 0 tells of a training beside metrics.jsonl"""

    def tracked(self, job: DeepJob) -> AbstractContextManager[Tracker]:
        """The MLflow run of a training; on other ranks than 0 a tracker that does nothing."""
        tracking = self.tracking if self.world.rank == 0 else None
        return tracked(tracking, job.run_uri, job.recipe, job.environment, lambda text: self.tell(text, 0, 0))

    def wait(self) -> None:
        if self.world.size > 1:
            dist.barrier()

    def images(self, config: FeatureConfig, exposure: ExposureConfig | None = None) -> Images:
        """The unscaled images of all records, made once on this node, whatever number of nets learns from them.

        With `exposure` of the records with an injected fault each.
        """
        name = f"{config.kind}-{short_hash(config)}" + ("" if exposure is None else f"-injected-{short_hash(exposure)}")
        if name in self.made:
            return self.made[name]
        facts = self.table.facts
        feature = build_feature(config, facts.mains_hz)
        waveforms = self.waveforms if exposure is None else self.injected(exposure)
        images = Images(
            lambda w: feature(w, facts.sample_rate_hz), feature.shape, waveforms, self.scratch / name, self.cache_bytes, self.device
        )
        images.fill(self.local_rank, self.local_size, lambda done, total: self.tell("images", done, total))
        self.wait()
        self.made[name] = images
        return images

    def injected(self, exposure: ExposureConfig) -> np.ndarray:
        """The waveforms of all records with an injected fault each, on this node's disk."""
        rate, hashes = self.table.facts.sample_rate_hz, self.table.key_hash
        out = NodeArray(self.scratch / f"injected-{short_hash(exposure)}", len(self.waveforms), self.waveforms.shape[1:]).rows
        mine = np.array_split(np.arange(len(out)), self.local_size)[self.local_rank]
        for index in np.array_split(mine, max(1, len(mine) // CHUNK)):
            if len(index):
                plain = torch.from_numpy(np.ascontiguousarray(self.waveforms[index]))
                out[index] = injected(plain, rate, exposure, hashes[index]).numpy()
        self.wait()
        return out

    def read_injected(self, recipe: DeepRecipe, scaling: Scaling) -> Callable[[np.ndarray], torch.Tensor] | None:
        """Scaled images of the records with an injected fault each, where the recipe exposes its net to them."""
        if recipe.exposure is None or not recipe.optim.epochs:
            return None
        return self.scaled(scaling, self.images(recipe.feature, recipe.exposure))

    def fit_scaling(
        self, config: ScalingConfig, read: Callable[[np.ndarray], torch.Tensor], shape: tuple[int, ...], indices: np.ndarray
    ) -> Scaling:
        """The corpus' robust statistics: each worker sees its share, all end with the same."""
        fit = ScalingFit(config, shape)
        for index in np.array_split(indices[self.world.rank :: self.world.size], max(1, len(indices) // (64 * self.world.size))):
            if len(index):
                fit.update(read(index), [self.table.sensors[i] for i in index], self.table.key_hash[index])
        fits: list[Any] = [fit]
        if self.world.size > 1:
            fits = [None] * self.world.size
            dist.all_gather_object(fits, fit)
        total = ScalingFit(config, shape)
        for part in fits:
            total.merge(part)
        return total.finish()

    def scaled(self, scaling: Scaling, read: Callable[[np.ndarray], torch.Tensor]) -> Callable[[np.ndarray], torch.Tensor]:
        return lambda index: scaling(read(index), [self.table.sensors[i] for i in index])
