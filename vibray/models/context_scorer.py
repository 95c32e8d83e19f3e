"""A net that was shown how faults of transformers stand out against few records of the same sensor, and is fitted on nothing here.

Its weights are shipped (`context_scorer.safetensors`; README.md beside it is their model card) and come from generated fleets alone
(jobs/pretrain.py).
"""

import itertools
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt64
from pydantic import with_config
from torch import Tensor, nn

from vibray.config import STRICT, UserError
from vibray.models.fitted import vectors

BLOCKS = ("bands", "steady", "octaves", "lines")
SIZES = (64, 64, 48, 30)
"""Columns of these blocks of the spectral vector, scaled by sensor: what the net reads."""
WEIGHTS = Path(__file__).with_suffix(".safetensors")
HIDDEN = (256, 64)
EMBEDDED = HIDDEN[-1]
"""Numbers of the last hidden layer, by which a diagnosis tells faults apart."""
KNOWN = 1.5
"""The score begins as this times ln mean |z|: a record far from its sensor's context in whatever way is abnormal."""


@with_config(STRICT)
@dataclass(frozen=True)
class ContextScorerConfig:
    kind: Literal["context_scorer"] = "context_scorer"
    blocks: tuple[str, ...] = BLOCKS
    """The blocks that the shipped net reads; no others."""

    def __post_init__(self) -> None:
        if self.blocks != BLOCKS:
            raise UserError(f"context_scorer: the shipped net reads the blocks {', '.join(BLOCKS)}, not {', '.join(self.blocks)}")


class ContextNet(nn.Module):
    """z to a logit of being faulty: 1.5 ln mean |z| + MLP(sign(z) ln(1 + |z|), ln mean |z|), the MLP's last layer beginning at 0."""

    noise_shape: tuple[int, ...] | None = None

    def __init__(self) -> None:
        super().__init__()
        sizes = (sum(SIZES) + 1, *HIDDEN)
        layers = [each for a, b in itertools.pairwise(sizes) for each in (nn.Linear(a, b), nn.ReLU())]
        last = nn.Linear(HIDDEN[-1], 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(*layers, last)

    def forward(self, z: Float[Tensor, "batch columns"]) -> Float[Tensor, " batch"]:
        known = _known(z)
        return self.layers(torch.cat([_shown(z), known], dim=1))[:, 0] + KNOWN * known[:, 0]

    def embedded(self, z: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch embedded"]:
        """The last hidden layer, before its rectifier."""
        return self.layers[:-2](torch.cat([_shown(z), _known(z)], dim=1))

    def loss(self, out: Float[Tensor, " batch"], target: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Binary cross-entropy; `target` is 1 for a faulty record."""
        return F.binary_cross_entropy_with_logits(out, target.to(out), reduction="none")


def _shown(z: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch columns"]:
    return z.sign() * z.abs().log1p()


def _known(z: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch 1"]:
    return z.abs().mean(dim=1, keepdim=True).clamp(min=1e-6).log()


class ContextScorer:
    """Score: the net's logit for a record's deviation from its sensor's context. Nothing is fitted: no pass, no memory.

    A run holds the weights that it was made with: another version's do not change its scores.
    """

    def __init__(self, net: ContextNet | None = None) -> None:
        """Without a net, that of the shipped weights."""
        self.net = shipped() if net is None else net.eval().requires_grad_(False)  # a gradient by the record can be had, none else

    def update(self, x: Float[Tensor, "batch dims"], key_hash: UInt64[np.ndarray, " batch"]) -> None:
        vectors(x, sum(SIZES))  # what is wrong is said in a pass, too

    def merge(self, other: "ContextScorer") -> None: ...

    def finish(self) -> bool:
        return False

    def score(self, x: Float[Tensor, "batch dims"]) -> Float[Tensor, " batch"]:
        return self.net.to(x.device)(vectors(x, sum(SIZES)).float()).double()

    def state(self) -> dict[str, Tensor]:
        return {name: tensor.cpu() for name, tensor in self.net.state_dict().items()}

    def load(self, state: dict[str, Tensor]) -> None:
        self.net = ContextNet().eval().requires_grad_(False)
        self.net.load_state_dict(state)


@lru_cache(maxsize=1)
def shipped() -> ContextNet:
    """The net of the shipped weights."""
    net = ContextNet()
    net.load_state_dict(safetensors.torch.load_file(WEIGHTS))
    return net.eval().requires_grad_(False)
