"""Outlier exposure: records with injected faults as examples of what is abnormal, beside the records of the pool."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from jaxtyping import Float, UInt64
from pydantic import with_config
from torch import Tensor

from vibray.config import STRICT, UserError
from vibray.schema import LABEL_ABNORMAL, UNDECIDED
from vibray.signal.injected import Kind, inject
from vibray.train.batches import Inputs, TrainingSet

KINDS: tuple[Kind, ...] = get_args(Kind)


@with_config(STRICT)
@dataclass(frozen=True)
class ExposureConfig:
    """Faults injected into the training records (signal/injected.py): of any machine, and none that a person labelled."""

    snr_db: tuple[float, float] = (-20.0, 0.0)
    """range of a fault's power over its record's, drawn evenly in dB for each record"""
    seed: int = 1
    """seed of the faults; 0 is that of the guard's, which training must not have seen"""

    def __post_init__(self) -> None:
        if not self.snr_db[0] <= self.snr_db[1]:
            raise UserError(f"exposure: snr_db must be a range, not {self.snr_db}")
        if self.seed < 1:
            raise UserError("exposure: seed must be at least 1, since 0 is the guard's")


def injected(
    waveforms: Float[Tensor, "batch samples"], sample_rate_hz: float, config: ExposureConfig, key_hash: UInt64[np.ndarray, " batch"]
) -> Float[Tensor, "batch samples"]:
    """The records with one fault each, whose kind and strength are drawn from the config's seed and the record's own key alone."""
    faulty = waveforms.clone()
    for row, key in enumerate(key_hash.tolist()):
        rng = np.random.default_rng((config.seed, key))
        kind, snr_db = KINDS[rng.integers(len(KINDS))], float(rng.uniform(*config.snr_db))
        faulty[row : row + 1] = inject(waveforms[row : row + 1], sample_rate_hz, kind, snr_db, key_hash[row : row + 1], config.seed)
    return faulty


def exposed(rows: TrainingSet, read: Callable[[np.ndarray], Inputs]) -> TrainingSet:
    """The records and as many with an injected fault, labelled abnormal; `read` gives the inputs of the latter by the same row numbers.

    Records without a label stay so. An injected fault weighs as much as its record, and joins with it.
    """
    own = np.asarray(rows.indices, dtype=np.int64)
    offset = int(own.max()) + 1 if rows.targets is None else len(rows.targets)
    targets = np.full(offset, UNDECIDED, dtype=np.int64) if rows.targets is None else rows.targets
    weights = np.ones(offset) if rows.weights is None else rows.weights
    # a known fault with another one injected says nothing new
    clean = own[targets[own] != LABEL_ABNORMAL]

    def either(index: np.ndarray) -> Inputs:
        plain = index < offset
        if plain.all():
            return rows.read(index)
        if not plain.any():
            return read(index - offset)
        own_part, injected_part = rows.read(index[plain]), read(index[~plain] - offset)
        assert isinstance(own_part, Tensor) and isinstance(injected_part, Tensor), "faults are injected into one input, not into several"
        out = own_part.new_empty(len(index), *own_part.shape[1:])
        out[torch.from_numpy(plain).to(out.device)] = own_part
        out[torch.from_numpy(~plain).to(out.device)] = injected_part
        return out

    return TrainingSet(
        either,
        np.concatenate([own, clean + offset]),
        np.concatenate([targets, np.full(offset, LABEL_ABNORMAL)]),
        np.concatenate([weights, np.where(targets == UNDECIDED, weights, 1.0)]),
        None if rows.joins is None else np.tile(rows.joins[:offset], 2),
        rows.window,
    )
