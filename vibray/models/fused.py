"""Several detectors, each on its own columns of a vector, fused by the tail probabilities of their scores."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt64
from pydantic import with_config
from torch import Tensor

from vibray.config import STRICT
from vibray.models.fitted import Fitted, check_field, require, vectors
from vibray.models.trimming import TrimConfig
from vibray.signal.reservoir import Reservoir

TAIL = 0.9
"""Above this quantile of the training scores the tail is exponential, below it is counted. Most of a tail of 10 % is healthy even in a pool
with 5 % of faults."""

LEVELS = 91
"""Quantiles 0, .01 .. .9 of each part's training scores are kept."""


@with_config(STRICT)
@dataclass(frozen=True)
class FusedMahalanobisConfig:
    kind: Literal["fused_mahalanobis"] = "fused_mahalanobis"
    blocks: tuple[str, ...] = ("bands", "steady", "octaves", "lines")
    """Blocks of the feature that are used, each a part with a covariance of its own. One that the feature leaves empty is left out:
    `lines` on a corpus without a mains frequency."""
    scorer: bool = False
    """One part more, over all columns: the net that knows how faults of transformers show (models/context_scorer.py). It is left out where
    the columns are not those that it was trained on, as on a corpus without a mains frequency."""
    scorer_share: float = 0.2
    """The net's share of the say; the other parts share the rest alike."""
    trim: TrimConfig | None = TrimConfig()
    """Leave the records that are most abnormal to a part out of that part, and fit it again."""
    max_records: int = 20_000
    """Records whose scores make the tails, drawn by their key's hash."""

    def __post_init__(self) -> None:
        check_field(self, "blocks", bool(self.blocks), "at least one block")
        check_field(self, "scorer_share", 0 < self.scorer_share < 1, "a share between 0 and 1")
        check_field(self, "max_records", self.max_records >= 100, "at least 100")


class Fused:
    """Score: -ln of the harmonic mean of the parts' p, p being the share of training records to which a part gives a higher score.

    A fault shows in some parts and not in others: the harmonic mean follows the smallest p, where a sum of -ln p (Fisher 1932) pays for
    the chance of every part that sees nothing; and it holds for parts that depend on one another, as these do.

    Up to the 90 % quantile p is counted; above it p = .1 exp(-(s - q90) / b), b = median excess / ln 2 of the training records up there.
    A part that is often upset by something benign (gusts, knocks) thus has a heavy tail and a small say, which a distance in standard
    deviations would not give it. One covariance over all parts would have each weak block pay for the noise of all.

    Source: Wilson 2019, "The harmonic mean p-value for combining dependent tests", eq. 1, with equal weights but for the
    net's.

    Passes: those of the parts, and one over their scores. Memory: the parts' and 4 bytes * max_records * parts.
    `finish` raises TooFewRecords below 20 records, and what the parts raise.
    """

    def __init__(self, config: FusedMahalanobisConfig, parts: Sequence[Fitted], sizes: Sequence[int], scorer: Fitted | None = None) -> None:
        """`sizes`: how many columns each of `parts` reads, in this order; `scorer` is one part more that reads all."""
        self.config, self.sizes, self.dims, self.scorer = config, list(sizes), sum(sizes), scorer
        self.parts = [*parts, *([scorer] if scorer is not None else [])]
        own, share = len(parts), config.scorer_share
        said = [1 / own] * own if scorer is None else [(1 - share) / own] * own + [share]
        self.log_share = torch.tensor(said, dtype=torch.float64).log()
        self.fitting = True
        self.scores: Reservoir | None = Reservoir(config.max_records, (len(self.parts),))

    def update(self, x: Float[Tensor, "batch dims"], key_hash: UInt64[np.ndarray, " batch"]) -> None:
        if self.scores is None:
            raise ValueError("the detector is finished: build a new one to fit it again")
        columns = self._columns(x)
        if not self.fitting:
            self.scores.offer(key_hash, self._part_scores(columns).to("cpu", torch.float32).numpy())
            return
        for part, own in zip(self.parts, columns, strict=True):
            part.update(own.to(torch.float32), key_hash)

    def merge(self, other: "Fused") -> None:
        if self.scores is None or other.scores is None:
            raise ValueError("the detector is finished: build a new one to fit it again")
        if not self.fitting:
            self.scores.merge(other.scores)
            return
        for part, own in zip(self.parts, other.parts, strict=True):
            part.merge(own)

    def finish(self) -> bool:
        if self.fitting:
            more = [part.finish() for part in self.parts]
            self.fitting = any(more)
            return True
        assert self.scores is not None
        scores = self.scores.rows.astype(np.float64)
        require(len(scores), 20, "fused_mahalanobis")
        quantiles = np.quantile(scores, np.linspace(0, TAIL, LEVELS), axis=0)
        top = quantiles[-1]
        half = np.array([np.median((own - q)[own > q]) if (own > q).any() else 0.0 for own, q in zip(scores.T, top, strict=True)])
        floor = 1e-9 * np.maximum(np.abs(top), 1e-9)  # where the top scores are all alike
        self.quantiles = torch.from_numpy(np.ascontiguousarray(quantiles.T))
        self.decay = torch.from_numpy(np.maximum(half, floor) / math.log(2))
        self.num_records = self.scores.num_offered
        self.scores = None
        return False

    def score(self, x: Float[Tensor, "batch dims"]) -> Float[Tensor, " batch"]:
        return (self.surprise(x) + self.log_share.to(x.device)[:, None]).logsumexp(dim=0)

    def surprise(self, x: Float[Tensor, "batch dims"]) -> Float64[Tensor, "parts batch"]:
        """-ln p of each part, in the order of the blocks, then the net's: what the score is made of."""
        s = self._part_scores(self._columns(x)).T.contiguous()
        quantiles, decay = self.quantiles.to(s.device), self.decay.to(s.device)
        survival = torch.linspace(1, 1 - TAIL, LEVELS, dtype=torch.float64, device=s.device)
        upper = torch.searchsorted(quantiles, s).clamp(1, LEVELS - 1)
        low, high = quantiles.gather(1, upper - 1), quantiles.gather(1, upper)
        weight = ((s - low) / (high - low).clamp(min=1e-300)).clamp(0, 1)
        counted = torch.lerp(survival[upper - 1], survival[upper], weight)
        beyond = (s - quantiles[:, -1:]).clamp(min=0) / decay[:, None]
        return beyond - counted.log()

    def _columns(self, x: Float[Tensor, "batch dims"]) -> tuple[Float64[Tensor, "batch _"], ...]:
        values = vectors(x, self.dims)
        return (*values.split(self.sizes, dim=1), *([values] if self.scorer is not None else []))

    def _part_scores(self, columns: Sequence[Float64[Tensor, "batch _"]]) -> Float64[Tensor, "batch parts"]:
        return torch.stack([part.score(own) for part, own in zip(self.parts, columns, strict=True)], dim=1)

    def state(self) -> dict[str, Tensor]:
        own = {"quantiles": self.quantiles, "decay": self.decay, "num_records": torch.tensor(self.num_records)}
        return own | {f"part{i}.{name}": tensor for i, part in enumerate(self.parts) for name, tensor in part.state().items()}

    def load(self, state: dict[str, Tensor]) -> None:
        self.quantiles, self.decay, self.num_records = state["quantiles"], state["decay"], int(state["num_records"])
        for i, part in enumerate(self.parts):
            prefix = f"part{i}."
            part.load({name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)})
        self.fitting, self.scores = False, None
