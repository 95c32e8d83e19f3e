"""Trimming: the training pool holds faults, so the most abnormal records are left out and the detector is fitted again."""

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt64
from pydantic import with_config
from torch import Tensor

from vibray.config import STRICT
from vibray.models.fitted import Fitted, check_field, require, vectors
from vibray.signal.reservoir import Reservoir


@with_config(STRICT)
@dataclass(frozen=True)
class TrimConfig:
    share: float = 0.1
    """Share of the records with the highest scores that a round leaves out."""
    rounds: int = 3
    """Rounds of: score all, leave out, fit again."""
    records: int = 5000
    """All rounds but the last work on so many records, drawn by their key's hash; the last one on the whole corpus."""

    def __post_init__(self) -> None:
        check_field(self, "share", 0 < self.share < 0.5, "between 0 and 0.5")
        check_field(self, "rounds", self.rounds >= 1, "at least 1")
        check_field(self, "records", self.records >= 2, "at least 2")


class Trimmed:
    """A one-pass detector, fitted in two passes on what its earlier fits find least abnormal.

    A round scores every record, those left out before too, and keeps those up to the (1 - share) quantile (the concentration step of
    Rousseeuw and Van Driessen 1999). All rounds up to the last cut run on a sample, so that any number of them costs two passes:
    the first draws the sample, the second fits the detector on the records of the corpus below the last cut. Where the sample holds the
    corpus nothing is approximate. Memory: the detector's and 4 bytes * records * dims.
    """

    def __init__(self, config: TrimConfig, detector: Fitted, dims: int) -> None:
        self.config, self.dims = config, dims
        self.fresh, self.detector = copy.deepcopy(detector), detector
        self.sample = Reservoir(config.records, (dims,))
        self.judge: Fitted | None = None
        self.cut = math.inf

    def update(self, x: Float[Tensor, "batch dims"], key_hash: UInt64[np.ndarray, " batch"]) -> None:
        vectors(x, self.dims)  # what is wrong is said in either pass
        if self.judge is None:
            self.sample.offer(key_hash, x.to("cpu", torch.float32).numpy())
            return
        x = x.cpu()
        keep = self.judge.score(x.to(torch.float32)) <= self.cut
        self.detector.update(x[keep], key_hash[keep.numpy()])

    def merge(self, other: "Trimmed") -> None:
        if self.judge is None:
            self.sample.merge(other.sample)
        else:
            self.detector.merge(other.detector)

    def finish(self) -> bool:
        if self.judge is not None:
            self.judge = None
            return self.detector.finish()
        rows, keys = torch.from_numpy(self.sample.rows), self.sample.keys
        require(len(rows), 2, "trimming")
        keep = torch.ones(len(rows), dtype=torch.bool)
        for _ in range(self.config.rounds):
            judge = copy.deepcopy(self.fresh)
            judge.update(rows[keep], keys[keep.numpy()])
            judge.finish()
            scores = judge.score(rows)
            # of the sorted scores, not interpolated: the cut is a record's score, and that record is kept
            cut = scores.kthvalue(math.ceil(len(scores) * (1 - self.config.share))).values
            keep = scores <= cut
        self.judge, self.cut = judge, float(cut)
        self.sample = Reservoir(self.config.records, (self.dims,))  # not carried into the next pass
        return True

    def score(self, x: Float[Tensor, "batch dims"]) -> Float[Tensor, " batch"]:
        return self.detector.score(x)

    def state(self) -> dict[str, Tensor]:
        return self.detector.state()

    def load(self, state: dict[str, Tensor]) -> None:
        self.detector.load(state)
