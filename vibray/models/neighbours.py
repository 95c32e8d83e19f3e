"""Distance to the nearest records of a sample, as it is or relative to how dense the sample is there."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt64
from pydantic import with_config
from torch import Tensor

from vibray.config import STRICT
from vibray.models.fitted import check_field, require, vectors
from vibray.models.trimming import TrimConfig
from vibray.signal.reservoir import Reservoir

CHUNK = 256
"""Records compared with the sample at once: bounds memory at 8 bytes * CHUNK * (records kept + (k + 1) * dims)."""

SELF = 1e-3
"""A kept row this much closer than rows typically are is the record itself: features made again differ in float32's last digits."""


@with_config(STRICT)
@dataclass(frozen=True)
class KnnConfig:
    kind: Literal["knn"] = "knn"
    blocks: tuple[str, ...] = ()
    """Blocks or columns of the feature that are used. Empty: all."""
    k: int = 5
    """Nearest records that count."""
    max_records: int = 5000
    """Records that are kept to compare with, drawn by their key's hash."""
    trim: TrimConfig | None = None
    """Leave the most abnormal records out and fit again."""

    def __post_init__(self) -> None:
        check_field(self, "k", self.k >= 1, "at least 1")
        check_field(self, "max_records", self.max_records >= self.k + 2, "at least k + 2")


@with_config(STRICT)
@dataclass(frozen=True)
class LocalKnnConfig:
    kind: Literal["local_knn"] = "local_knn"
    blocks: tuple[str, ...] = ()
    """Blocks or columns of the feature that are used. Empty: all."""
    k: int = 5
    """Nearest records that count, and neighbours that measure a kept record's density."""
    max_records: int = 5000
    """Records that are kept to compare with, drawn by their key's hash."""
    trim: TrimConfig | None = None
    """Leave the most abnormal records out and fit again."""

    def __post_init__(self) -> None:
        check_field(self, "k", self.k >= 1, "at least 1")
        check_field(self, "max_records", self.max_records >= self.k + 2, "at least k + 2")


class Knn:
    """Score: mean over the k smallest of D(x, y) / r(y) over the kept records y, D Euclidean. One pass.

    r(y) = 1 for "knn". For "local_knn" r(y) is the mean distance of y to its own k nearest kept records, so that a machine whose records
    scatter more does not seem abnormal for it (Wilkinghoff et al. 2025, arXiv 2509.10951, with the mean over k in place of the
    minimum). A training record that was kept is not its own neighbour: one kept row as good as equal to the record does not count.
    Memory: 4 bytes * max_records * dims. `finish` raises TooFewRecords below k + 2 records.
    """

    def __init__(self, config: KnnConfig | LocalKnnConfig, dims: int) -> None:
        self.config, self.dims = config, dims
        self.reservoir: Reservoir | None = Reservoir(config.max_records, (dims,))

    def update(self, x: Float[Tensor, "batch dims"], key_hash: UInt64[np.ndarray, " batch"]) -> None:
        self._open().offer(key_hash, vectors(x, self.dims).to("cpu", torch.float32).numpy())

    def merge(self, other: "Knn") -> None:
        self._open().merge(other._open())

    def finish(self) -> bool:
        reservoir = self._open()
        require(len(reservoir.rows), self.config.k + 2, f"{self.config.kind} with k = {self.config.k}")
        self.rows = torch.from_numpy(reservoir.rows)
        self.num_records = reservoir.num_offered
        self.reach = torch.ones(len(self.rows), dtype=torch.float64)
        k, chunks = self.config.k, range(0, len(self.rows), CHUNK)
        own = torch.cat([self._smallest(self.rows[i : i + CHUNK].double(), k, first_row=i)[0].mean(dim=1) for i in chunks])
        typical = float(own.median()) or float(own.mean()) or 1.0
        self.self_within = torch.tensor(SELF * typical, dtype=torch.float64)
        if isinstance(self.config, LocalKnnConfig):
            self.reach = own.clamp(min=SELF * typical)  # repeated rows have 0
        self.reservoir = None
        return False

    def score(self, x: Float[Tensor, "batch dims"]) -> Float[Tensor, " batch"]:
        x = vectors(x, self.dims)
        scores = [self._score(x[i : i + CHUNK]) for i in range(0, len(x), CHUNK)]
        return torch.cat(scores) if scores else x.new_zeros(0)

    def _score(self, x: Float64[Tensor, "batch dims"]) -> Float64[Tensor, " batch"]:
        ratio, distance = self._smallest(x, self.config.k + 1)
        is_itself = distance[:, 0] <= self.self_within.to(x.device)
        return torch.where(is_itself, ratio[:, 1:].mean(dim=1), ratio[:, :-1].mean(dim=1))

    def _smallest(self, x: Float64[Tensor, "batch dims"], num: int, first_row: int | None = None) -> tuple[Tensor, Tensor]:
        """The `num` smallest D / r, ascending, and their D; `first_row`: x are the kept rows from there on, none its own neighbour."""
        rows, reach = self.rows.to(x.device, torch.float64), self.reach.to(x.device)
        centre = rows.mean(dim=0)
        a, b = x - centre, rows - centre
        square = (a.square().sum(dim=1)[:, None] + b.square().sum(dim=1) - 2 * a @ b.T).clamp(min=0)
        if first_row is not None:
            square[torch.arange(len(x)), first_row + torch.arange(len(x))] = torch.inf
        candidates = (square / reach.square()).topk(num, largest=False).indices
        # the product above finds them fast but loses small distances to cancellation
        distance = (a[:, None] - b[candidates]).norm(dim=2)
        ratio, order = (distance / reach[candidates]).sort(dim=1)
        return ratio, distance.gather(1, order)

    def _open(self) -> Reservoir:
        if self.reservoir is None:
            raise ValueError("the detector is finished: build a new one to fit it again")
        return self.reservoir

    def state(self) -> dict[str, Tensor]:
        return {"rows": self.rows, "reach": self.reach, "self_within": self.self_within, "num_records": torch.tensor(self.num_records)}

    def load(self, state: dict[str, Tensor]) -> None:
        self.rows, self.reach, self.self_within = state["rows"], state["reach"], state["self_within"]
        self.num_records = int(state["num_records"])
        self.reservoir = None
