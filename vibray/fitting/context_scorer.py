"""How the net of models/context_scorer.py is made: generated fleets to examples, examples to weights. No record of a real machine enters.

An example is a record's deviation z from a context, k records of the same sensor, and the record's fault. Half of the faulty ones are
generic: a healthy record whose columns are moved, or mirrored about the context. What is taught by name alone is blind to the rest.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64
from pydantic import with_config
from torch import Tensor

from vibray.config import STRICT, UserError
from vibray.features.scaling import Scaling
from vibray.models.context_scorer import ContextNet
from vibray.recipes import Vector, build_scaling_fit, build_vector, columns_of, zero_shot
from vibray.signal.faults import FAULTS
from vibray.signal.synthetic import FaultName, FleetConfig, condition, place, waveform
from vibray.train.classical import Rows, fit_scaling

NAMES = tuple(FAULTS)
CHUNK = 64
CONTEXTS = (1, 2, 4, 8, 16, 32)
"""Records of a context; a unit gives examples with `CONTEXTS_PER_UNIT` of them."""
CONTEXTS_PER_UNIT = 3
QUERIES = 10
"""Healthy examples of a unit and context at most, and as many faulty ones."""
POOL_SHARE, POOL_FAULTS = 1 / 3, 0.05
"""Of a fleet's units so many are the pool that says what spread is usual, and of their records so many are faulty."""


@with_config(STRICT)
@dataclass(frozen=True)
class ContextScorerTraining:
    """Generated fleets and how a net learns from them."""

    fleets: int = 8
    """Fleets, each with a seed, a pool and machines of its own."""
    units: int = 300
    """Machines of a fleet, with one sensor each."""
    records: int = 48
    """Records of a machine."""
    faults: tuple[FaultName, ...] = FleetConfig.faults
    """Faults that the net is shown: leave one out to see what it makes of an unknown one."""
    contamination: float = 0.3
    """Share of a machine's records with a fault."""
    severity: tuple[float, float] = (0.15, 1.0)
    """Range of their severity."""
    spoiled: float = 0.4
    """Share of contexts of 8 records and more of which up to a quarter are faulty."""
    generic: float = 0.5
    """Share of faulty examples that are generic."""
    epochs: int = 4
    batch_size: int = 512
    lr: float = 2e-3
    weight_decay: float = 1e-2
    first_seed: int = 1000
    """Seed of the first fleet, and of the weights: no fleet that anything is judged on has one like it."""

    def __post_init__(self) -> None:
        if min(self.fleets, self.units, self.epochs, self.batch_size) < 1 or self.records < max(CONTEXTS) + 4:
            raise UserError(f"pretrain: fleets, units, epochs and batch size are at least 1, records at least {max(CONTEXTS) + 4}")

    def fleet(self, number: int) -> FleetConfig:
        """The config of a fleet."""
        return FleetConfig(
            seed=self.first_seed + number,
            num_units=self.units,
            sensors_per_unit=1,
            num_records=self.units * self.records,
            contamination=self.contamination,
            severity=self.severity,
            faults=self.faults,
        )


@dataclass(frozen=True)
class Examples:
    """Deviations from contexts, and the fault of each record."""

    z: Float32[np.ndarray, "examples columns"]
    fault: Int64[np.ndarray, " examples"]
    """number in `NAMES`; -1 for a healthy record"""

    def without(self, name: str) -> "Examples":
        """The others, of a fault that is not to be known."""
        kept = self.fault != NAMES.index(name)
        return Examples(self.z[kept], self.fault[kept])


def examples_of(config: FleetConfig, spoiled: float) -> Examples:
    """The examples of a fleet: a pure function of its config."""
    places = [place(config, i) for i in range(config.num_records)]
    fault = np.array([NAMES.index(name) if (name := condition(config, at).fault) else -1 for at in places])
    unit = np.array([at.unit for at in places])
    feature = build_vector(zero_shot().feature, float(config.mains_hz))
    x = []
    for i in range(0, len(places), CHUNK):
        waveforms = np.stack([waveform(config, at) for at in places[i : i + CHUNK]])
        x.append(feature(torch.from_numpy(waveforms), config.sample_rate_hz))
    rng = np.random.default_rng([config.seed, 0])
    return _examples(feature, torch.cat(x), unit, fault, spoiled, rng)


def _examples(feature: Vector, x: Tensor, unit: np.ndarray, fault: np.ndarray, spoiled: float, rng: np.random.Generator) -> Examples:
    recipe, names, faulty = zero_shot(), np.unique(unit), fault >= 0
    columns = columns_of(feature, recipe.detector.blocks)
    pool = np.isin(unit, rng.choice(names, max(2, int(POOL_SHARE * len(names))), replace=False))
    share = POOL_FAULTS / (1 - POOL_FAULTS) * (~faulty).sum() / max(1, faulty.sum())
    rows = np.flatnonzero(pool & (~faulty | (rng.random(len(faulty)) < share)))
    some = Rows(x[rows], [(str(unit[i]), "") for i in rows], rng.permutation(len(rows)).astype(np.uint64))
    scaling = fit_scaling(build_scaling_fit(recipe.scaling, feature), [0], lambda _: some)
    z, of = [], []
    for name in names:
        own = np.flatnonzero(unit == name)
        for context, queries in _contexts(own[~faulty[own]], own[faulty[own]], spoiled, rng):
            z.append(_deviations(scaling, x, context, queries)[:, columns].numpy())
            of.append(fault[queries])
    return Examples(np.concatenate(z), np.concatenate(of))


def _contexts(healthy: np.ndarray, faulty: np.ndarray, spoiled: float, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Contexts of consecutive healthy records of a unit, some of them spoiled, each with the records that are compared with it."""
    for k in rng.choice(CONTEXTS, CONTEXTS_PER_UNIT, replace=False):
        if len(healthy) < k + 2:
            continue
        start = rng.integers(0, len(healthy) - k)
        context = healthy[start : start + k].copy()
        if k >= 8 and rng.random() < spoiled:
            wrong = rng.choice(faulty, min(len(faulty), round(k * rng.uniform(0, 0.25))), replace=False)
            context[: len(wrong)] = wrong
        queries = [np.setdiff1d(own, context) for own in (healthy, faulty)]
        yield context, np.concatenate([rng.choice(own, min(len(own), QUERIES), replace=False) for own in queries])


def _deviations(scaling: Scaling, x: Tensor, context: np.ndarray, queries: np.ndarray) -> Tensor:
    sensor = ("", "")
    return scaling.with_sensors([(sensor, x[context])])(x[queries], [sensor] * len(queries))


def generic_fault(z: Float32[np.ndarray, " columns"], rng: np.random.Generator) -> Float32[np.ndarray, " columns"]:
    """A healthy record's deviation made abnormal: mirrored about the context, a block of columns moved together, single columns moved, or a
    wide block disturbed."""
    z, size = z.copy(), len(z)
    kind, by = rng.random(), rng.uniform(0.7, 8) * rng.choice([-1, 1])
    if kind < 0.15:
        return -z * np.float32(rng.uniform(1, 2))
    if kind < 0.5:
        width = int(rng.integers(1, 25))
        start = int(rng.integers(0, size - width))
        z[start : start + width] += by * rng.uniform(0.5, 1, width)
    elif kind < 0.8:
        moved = rng.choice(size, int(rng.integers(1, 6)), replace=False)
        z[moved] += by * rng.choice([-1, 1], len(moved))
    else:
        width = int(rng.integers(10, 64))
        start = int(rng.integers(0, size - width))
        z[start : start + width] += rng.uniform(0.5, 3) * rng.normal(size=width)
    return z


def fit_context_net(
    examples: list[Examples], config: ContextScorerTraining, tell: Callable[[int, float], None] = lambda epoch, loss: None
) -> ContextNet:
    """The net: AdamW, one cycle of the learning rate, gradients cut at 1, binary cross-entropy."""
    z = np.concatenate([each.z for each in examples])
    faulty = np.concatenate([each.fault for each in examples]) >= 0
    if faulty.all() or not faulty.any():
        raise UserError("pretrain: the fleets hold faulty records alone, or none")
    rng, healthy = np.random.default_rng(config.first_seed), np.flatnonzero(~faulty)
    torch.manual_seed(config.first_seed)
    net, steps = ContextNet(), -(-len(z) // config.batch_size)
    optimiser = torch.optim.AdamW(net.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.lr, total_steps=config.epochs * steps)
    for epoch in range(config.epochs):
        total = 0.0
        for index in np.array_split(rng.permutation(len(z)), steps):
            batch, target = z[index], torch.from_numpy(faulty[index].astype(np.float32))
            for i in np.flatnonzero(faulty[index] & (rng.random(len(index)) < config.generic)):
                batch[i] = generic_fault(z[rng.choice(healthy)], rng)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(net(torch.from_numpy(batch)), target)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            total += float(loss.detach()) * len(index)
        tell(epoch, total / len(z))
    return net.eval()
