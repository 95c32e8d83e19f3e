"""Isolation Forest, grown by scikit-learn, kept and scored as plain arrays: nothing read from storage is ever unpickled."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, UInt64
from pydantic import with_config
from torch import Tensor

from vibray.config import STRICT
from vibray.models.fitted import check_field, require, vectors
from vibray.models.trimming import TrimConfig
from vibray.signal.reservoir import Reservoir


@with_config(STRICT)
@dataclass(frozen=True)
class IsolationForestConfig:
    kind: Literal["iforest"] = "iforest"
    blocks: tuple[str, ...] = ()
    """Blocks or columns of the feature that are used. Empty: all."""
    num_trees: int = 100
    """Trees."""
    samples_per_tree: int = 256
    """Records that a tree is grown on."""
    max_records: int = 10_000
    """Records that the trees draw from, themselves drawn by their key's hash."""
    seed: int = 0
    """Seed of the trees."""
    trim: TrimConfig | None = None
    """Leave the most abnormal records out and fit again."""

    def __post_init__(self) -> None:
        check_field(self, "num_trees", self.num_trees >= 1, "at least 1")
        check_field(self, "samples_per_tree", self.samples_per_tree >= 2, "at least 2")
        check_field(self, "max_records", self.max_records >= 2, "at least 2")


class IsolationForest:
    """Score 2^(-E[h(x)] / c(n)): h the depth at which a tree isolates x, c(n) the mean depth of an unsuccessful search among n. One pass.

    Equal to minus scikit-learn's `score_samples`. Memory: 4 bytes * max_records * dims. `finish` raises TooFewRecords below 2 records.

    Source: Liu, Ting and Zhou 2008, "Isolation Forest", eq. 1 and 2.
    """

    def __init__(self, config: IsolationForestConfig, dims: int) -> None:
        self.config, self.dims = config, dims
        self.reservoir: Reservoir | None = Reservoir(config.max_records, (dims,))

    def update(self, x: Float[Tensor, "batch dims"], key_hash: UInt64[np.ndarray, " batch"]) -> None:
        self._open().offer(key_hash, vectors(x, self.dims).to("cpu", torch.float32).numpy())

    def merge(self, other: "IsolationForest") -> None:
        self._open().merge(other._open())

    def finish(self) -> bool:
        reservoir = self._open()
        require(len(reservoir.rows), 2, "iforest")
        num_samples = min(self.config.samples_per_tree, len(reservoir.rows))
        from sklearn.ensemble import IsolationForest as Forest  # 2 s that workers which only score need not spend

        forest = Forest(n_estimators=self.config.num_trees, random_state=self.config.seed)
        self._take(forest.set_params(max_samples=num_samples).fit(reservoir.rows))
        self.mean_depth = _mean_depth(np.array([num_samples]))[0]
        self.num_records = reservoir.num_offered
        self.reservoir = None
        return False

    def _take(self, grown: Any) -> None:
        """The trees as (tree, node) arrays; a leaf is its own child, so that a walk of fixed length ends in it."""
        trees = [estimator.tree_ for estimator in grown.estimators_]
        shape = len(trees), max(tree.node_count for tree in trees)
        feature, children = np.zeros(shape, np.int64), np.zeros((*shape, 2), np.int64)
        threshold, length = np.zeros(shape), np.zeros(shape)
        for i, tree in enumerate(trees):
            n, nodes = tree.node_count, np.arange(tree.node_count)
            left, right, size = (a.astype(np.int64) for a in (tree.children_left, tree.children_right, tree.n_node_samples))
            leaf = left < 0
            feature[i, :n] = np.where(leaf, 0, tree.feature)
            threshold[i, :n] = tree.threshold
            children[i, :n] = np.where(leaf[:, None], nodes[:, None], np.stack([left, right], axis=1))
            length[i, :n] = np.where(leaf, _depths(left, right) + _mean_depth(size), 0)
        self.depth = max(tree.max_depth for tree in trees)
        self.feature, self.children = torch.from_numpy(feature), torch.from_numpy(children)
        self.threshold, self.length = torch.from_numpy(threshold), torch.from_numpy(length)

    def score(self, x: Float[Tensor, "batch dims"]) -> Float[Tensor, " batch"]:
        x = vectors(x, self.dims).float().double()  # the trees compare float32 values with float64 thresholds
        feature, threshold, children, length = (t.to(x.device) for t in (self.feature, self.threshold, self.children, self.length))
        tree = torch.arange(len(feature), device=x.device)
        node: Int[Tensor, "batch tree"] = torch.zeros(len(x), len(feature), dtype=torch.int64, device=x.device)
        for _ in range(self.depth):
            right = x.gather(1, feature[tree, node]) > threshold[tree, node]
            node = children[tree, node, right.long()]
        return torch.exp2(-length[tree, node].mean(dim=1) / self.mean_depth)

    def _open(self) -> Reservoir:
        if self.reservoir is None:
            raise ValueError("the detector is finished: build a new one to fit it again")
        return self.reservoir

    def state(self) -> dict[str, Tensor]:
        scalars = {"depth": self.depth, "mean_depth": float(self.mean_depth), "num_records": self.num_records}
        arrays = {"feature": self.feature, "threshold": self.threshold, "children": self.children, "length": self.length}
        return arrays | {name: torch.tensor(value, dtype=torch.float64) for name, value in scalars.items()}

    def load(self, state: dict[str, Tensor]) -> None:
        self.feature, self.threshold, self.children, self.length = (state[name] for name in ("feature", "threshold", "children", "length"))
        self.depth, self.num_records = int(state["depth"]), int(state["num_records"])
        self.mean_depth = float(state["mean_depth"])
        self.reservoir = None


def _mean_depth(num: Int[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """c(n) = 2 H(n - 1) - 2 (n - 1) / n, with H(i) taken as ln i + Euler's constant; 0 for 1 record and 1 for 2."""
    n = np.maximum(num, 3).astype(np.float64)
    mean = 2 * (np.log(n - 1) + np.euler_gamma) - 2 * (n - 1) / n
    return np.where(num > 2, mean, np.where(num == 2, 1.0, 0.0))


def _depths(left: Int[np.ndarray, " node"], right: Int[np.ndarray, " node"]) -> Int[np.ndarray, " node"]:
    """Edges from the root to every node; a parent stands before its children."""
    depth = np.zeros(len(left), np.int64)
    for node in np.flatnonzero(left >= 0):
        depth[[left[node], right[node]]] = depth[node] + 1
    return depth
