"""One worker of a training: its place in the group, its device, the corpus and its images on this node's disk."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from vibray.config import short_hash
from vibray.features.scaling import Scaling, ScalingConfig
from vibray.features.scaling_fit import ScalingFit
from vibray.fitting.jobs import CACHE_GB
from vibray.fitting.waveforms import PartWaveforms, Waveforms, fits, waveforms_on
from vibray.recipes.building import build_feature
from vibray.recipes.kinds import DeepRecipe, FeatureConfig
from vibray.signal.precision import exact_float32
from vibray.storage import objects
from vibray.tables.training import TrainingTable
from vibray.train.exposure import ExposureConfig, injected
from vibray.train.images import Images
from vibray.train.reduce import World

T = TypeVar("T")

Tell = Callable[..., None]
"""label, done, total, figures: a bar of progress; a total of 0: a line of text."""


def unheard(label: str, done: int, total: int, **figures: Any) -> None:
    """Tells nobody."""


@dataclass
class Place:
    """One worker of a group: its number among all and on its node, its device, and who is told how far it is."""

    world: World
    local_rank: int
    local_size: int
    device: torch.device
    scratch: Path
    """a folder of this node's disk that its workers share"""
    tell: Tell = unheard

    def __post_init__(self) -> None:
        exact_float32()

    def wait(self) -> None:
        if self.world.size > 1:
            dist.barrier()

    def held_waveforms(self, table: TrainingTable, disk_gb: float | None = None) -> Waveforms:
        """Those of a table's records: all on this node's disk where each node has room for them. Every worker has to call it."""
        room = fits(self.scratch, 4 * len(table) * table.facts.num_samples, disk_gb)
        rooms: list[Any] = [room] * self.world.size
        if self.world.size > 1:
            dist.all_gather_object(rooms, room)  # the order of the records is the same on all, so all hold them in one way
        whole = all(rooms)
        if not whole:
            self.tell("the waveforms are more than a node's disk holds: each worker reads them again in each epoch, window by window", 0, 0)
        held = waveforms_on(
            self.scratch, table, whole, self.local_rank, self.local_size, lambda done, total: self.tell("waveforms", done, total)
        )
        self.wait()
        return held

    def from_first(self, make: Callable[[], T]) -> T:
        """What rank 0 makes, on every worker. Each has to call it."""
        made: list[Any] = [make() if self.world.rank == 0 else None]
        if self.world.size > 1:
            dist.broadcast_object_list(made, src=0)
        return made[0]


@dataclass
class Worker(Place):
    """A worker that has the corpus on its node's disk."""

    table: TrainingTable = field(kw_only=True)
    waveforms: Waveforms = field(kw_only=True)
    cache_bytes: int = field(kw_only=True)
    made: dict[str, Images] = field(kw_only=True)

    @property
    def window(self) -> int | None:
        """Records whose waveforms it can hold, where it does not have them all."""
        return self.waveforms.window if isinstance(self.waveforms, PartWaveforms) else None

    def images(self, config: FeatureConfig, exposure: ExposureConfig | None = None) -> Images:
        """The unscaled images of all records, made once on this node, whatever number of nets learns from them.

        With `exposure` of the records with an injected fault each.
        """
        name = f"{config.kind}-{short_hash(config)}" + ("" if exposure is None else f"-injected-{short_hash(exposure)}")
        if name in self.made:
            return self.made[name]
        facts = self.table.facts
        feature = build_feature(config, facts.mains_hz)
        read = self.read_waveforms if exposure is None else partial(self.read_injected_waveforms, exposure)
        images = Images(
            lambda w: feature(w, facts.sample_rate_hz),
            feature.shape,
            read,
            len(self.table),
            self.scratch / name,
            self.cache_bytes,
            self.device,
        )
        images.fill(self.local_rank, self.local_size, lambda done, total: self.tell("images", done, total))
        self.wait()
        self.made[name] = images
        return images

    def read_waveforms(self, index: np.ndarray) -> torch.Tensor:
        """The waveforms of these records."""
        return torch.from_numpy(np.ascontiguousarray(self.waveforms[index]))

    def read_injected_waveforms(self, exposure: ExposureConfig, index: np.ndarray) -> torch.Tensor:
        """The same with an injected fault each."""
        return injected(self.read_waveforms(index), self.table.facts.sample_rate_hz, exposure, self.table.key_hash[index])

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
                fit.update(read(index), self.table.sensors.of(index), self.table.key_hash[index])
        fits: list[Any] = [fit]
        if self.world.size > 1:
            fits = [None] * self.world.size
            dist.all_gather_object(fits, fit)
        total = ScalingFit(config, shape)
        for part in fits:
            total.merge(part)
        return total.finish()

    def scaled(self, scaling: Scaling, read: Callable[[np.ndarray], torch.Tensor]) -> Callable[[np.ndarray], torch.Tensor]:
        return lambda index: scaling(read(index), self.table.sensors.of(index))


@contextmanager
def alone(tell: Tell = unheard) -> Iterator[Place]:
    """This process as a group of one, on a GPU where it sees one."""
    with tempfile.TemporaryDirectory(prefix="vibray-") as folder:
        yield Place(World(), 0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu"), Path(folder), tell)


@contextmanager
def alone_with(
    table: TrainingTable, waveforms: Waveforms | None = None, cache_gb: float = CACHE_GB, disk_gb: float | None = None, tell: Tell = unheard
) -> Iterator[Worker]:
    """The same with a corpus, whose waveforms are read where they are not given. It keeps the images that it has made of a corpus for its
    next net.

    What it keeps on disk may be read until its last map is closed, which is after the folder has gone.
    """
    made = _made(objects.sha256(table.key_hash.tobytes()), cache_gb)
    with alone(tell) as place:
        held = place.held_waveforms(table, disk_gb) if waveforms is None else waveforms
        yield Worker(**vars(place), table=table, waveforms=held, cache_bytes=int(cache_gb * 2**30), made=made)


@lru_cache(maxsize=1)
def _made(corpus: str, cache_gb: float) -> dict[str, Images]:
    """The images of the corpus that this process last worked on."""
    return {}
