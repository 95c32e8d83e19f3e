"""What a pretrained net learns from: records as deviations from a context, a few records of the same sensor.

A source, a generated fleet or a features table, gives examples: a unit at a moment, each of its sensors scaled by that sensor's records of
the k moments of a context. Contexts are drawn, so that one machine gives many.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Float16, Float32, Int64
from pydantic import with_config
from torch import Tensor

from vibray.config import STRICT, UserError
from vibray.decide.pooling import TOLERANCE_S, moments
from vibray.features.scaling import Scaling, ScalingConfig
from vibray.fitting.generic import Axis, axis_of
from vibray.recipes.building import Image, Vector, build_feature, build_scaling_fit, columns_of
from vibray.recipes.kinds import FeatureConfig
from vibray.signal.faults import FAULTS
from vibray.signal.synthetic import FaultName, FleetConfig, condition, place, waveform
from vibray.storage.columns import times_ms
from vibray.tables.training import TrainingTable, open_features
from vibray.train.classical import Rows, fit_scaling

NAMES = tuple(FAULTS)
HEALTHY = -1
CHUNK = 64
COLUMNS = ("z", "fault", "context", "size", "severity")
LARGEST = 6e4
"""Deviations are kept as float16."""


@with_config(STRICT)
@dataclass(frozen=True)
class ContextConfig:
    """How contexts are drawn."""

    sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """Moments of a context."""
    per_unit: int = 3
    """Contexts of a unit, each of another size."""
    per_source: int = 100
    """Of a source with few units so many contexts at least."""
    queries: int = 10
    """Healthy examples of a context at most, and as many faulty ones."""
    spoiled: float = 0.4
    """Share of contexts of 8 moments and more of which up to a quarter are faulty."""
    pool_share: float = 1 / 3
    """Of a generated fleet's units so many say what spread is usual within a sensor. (Of a features table all do.)"""
    pool_faults: float = 0.05
    """Share of their moments with a fault."""

    def __post_init__(self) -> None:
        if not self.sizes or min(*self.sizes, self.per_unit, self.per_source, self.queries) < 1:
            raise UserError("context: sizes, per_unit, per_source and queries must be at least 1")


@with_config(STRICT)
@dataclass(frozen=True)
class FleetsConfig:
    """Generated fleets, each with a seed and machines of its own."""

    count: int = 24
    """Fleets, where --fleets gives no other number."""
    units: int = 300
    """Machines of a fleet."""
    sensors: int = 1
    """Sensors on each."""
    moments: int = 48
    """Moments at which each is recorded."""
    faults: tuple[FaultName, ...] = FleetConfig.faults
    """Faults that the net is shown: leave one out to see what it makes of an unknown one."""
    contamination: float = 0.3
    """Share of moments with a fault."""
    severity: tuple[float, float] = (0.15, 1.0)
    """Range of its severity."""
    first_seed: int = 1000
    """Seed of the first fleet: no fleet that anything is judged on has one like it."""

    def __post_init__(self) -> None:
        if min(self.units, self.sensors) < 1 or self.moments < 4:
            raise UserError("fleets: units and sensors must be at least 1, moments at least 4")

    def fleet(self, number: int) -> FleetConfig:
        """The config of a fleet."""
        return FleetConfig(
            seed=self.first_seed + number,
            num_units=self.units,
            sensors_per_unit=self.sensors,
            num_records=self.units * self.sensors * self.moments,
            contamination=self.contamination,
            severity=self.severity,
            faults=self.faults,
        )


@dataclass(frozen=True)
class Examples:
    """Units at moments."""

    z: Float16[np.ndarray, "examples sensors *shape"]
    """deviations; all 0 where a unit has fewer sensors"""
    fault: Int64[np.ndarray, " examples"]
    """number in `NAMES`, or `HEALTHY`"""
    context: Int64[np.ndarray, " examples"]
    """number of the context"""
    size: Int64[np.ndarray, " examples"]
    """moments of the context"""
    severity: Float32[np.ndarray, " examples"]
    """of the fault, 0 to 1; 0 for a healthy one"""
    axis: Axis
    """what the rows of z are"""

    def __len__(self) -> int:
        return len(self.fault)

    def tensors(self) -> dict[str, Tensor]:
        """What a file holds of them."""
        own = {name: getattr(self, name) for name in COLUMNS} | {"hz": self.axis.hz, "block": self.axis.block}
        return {name: torch.from_numpy(values) for name, values in own.items()}

    @classmethod
    def load(cls, tensors: Mapping[str, Tensor]) -> "Examples":
        """The examples of such a file."""
        own = {name: tensors[name].numpy() for name in COLUMNS}
        return cls(**own, axis=Axis(tensors["hz"].numpy(), tensors["block"].numpy()))

    def take(self, rows: np.ndarray) -> "Examples":
        """Some of the examples: numbers, or true where one is kept."""
        return replace(self, **{name: getattr(self, name)[rows] for name in COLUMNS})

    def without(self, name: str) -> "Examples":
        """The others, of a fault that is not to be known."""
        return self.take(self.fault != NAMES.index(name))


@dataclass(frozen=True)
class Source:
    """Records of a fleet or a features table, described."""

    x: Float[Tensor, " records *shape"]
    unit: np.ndarray
    sensor: np.ndarray
    moment: Int64[np.ndarray, " records"]
    """number of the unit and moment, rising with time"""
    fault: Int64[np.ndarray, " records"]
    severity: Float32[np.ndarray, " records"]
    pool: Bool[np.ndarray, " records"]
    """takes part in the scaling"""
    sample_rate_hz: float


def fleet_source(config: FleetConfig, feature: Vector | Image, context: ContextConfig) -> Source:
    """All records of a fleet."""
    places = [place(config, i) for i in range(config.num_records)]
    x = []
    for i in range(0, len(places), CHUNK):
        waveforms = np.stack([waveform(config, at) for at in places[i : i + CHUNK]])
        x.append(feature(torch.from_numpy(waveforms), config.sample_rate_hz))
    conditions = [condition(config, at) for at in places]
    fault = np.array([HEALTHY if one.fault is None else NAMES.index(one.fault) for one in conditions])
    unit, moment = np.array([at.unit for at in places]), np.array([at.step * config.num_units + at.unit for at in places])
    rng, names = np.random.default_rng([config.seed, 1]), np.unique(unit)
    pool = np.isin(unit, rng.choice(names, max(2, int(context.pool_share * len(names))), replace=False))
    share = context.pool_faults / (1 - context.pool_faults) * (fault == HEALTHY).sum() / max(1, (fault != HEALTHY).sum())
    drawn = np.unique(moment[fault != HEALTHY])
    drawn = drawn[rng.random(len(drawn)) < share]
    kept = (fault == HEALTHY) | np.isin(moment, drawn)
    sensor, severity = np.array([at.sensor for at in places]), np.array([one.severity for one in conditions], np.float32)
    return Source(torch.cat(x), unit, sensor, moment, fault, severity, pool & kept, config.sample_rate_hz)


def table_source(table: TrainingTable, rows: np.ndarray, images: Callable[[np.ndarray], Tensor], fault: np.ndarray | None = None) -> Source:
    """These records of a features table but those whose time cannot be; `images` is asked for each part's once. `fault` of each record:
    `HEALTHY` where nothing is known to be wrong; where it is left out, that is so of all."""
    parts = table.by_part(rows[table.time_trusted[rows]])
    rows, x = np.concatenate(parts), [images(own) for own in parts]
    unit, sensor = (np.array([name[which] for name in table.sensors.names])[table.sensors.code[rows]] for which in (0, 1))
    at = times_ms(table.index)[rows]
    moment = moments(unit, sensor, at, TOLERANCE_S)
    first = np.full(moment.max(initial=0) + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, moment, at)
    moment = np.argsort(np.argsort(first, kind="stable"), kind="stable")[moment]
    known = np.full(len(rows), HEALTHY) if fault is None else fault[rows]
    healthy = known == HEALTHY
    return Source(torch.cat(x).cpu(), unit, sensor, moment, known, (~healthy).astype(np.float32), healthy, table.facts.sample_rate_hz)


def examples_of(
    source: Source, feature: Vector | Image, blocks: tuple[str, ...], scaling_config: ScalingConfig, config: ContextConfig, seed: int
) -> Examples:
    """The examples of a source: a pure function of what it is given. `blocks`: those of a vector that the net reads."""
    rows = np.flatnonzero(source.pool)
    rng = np.random.default_rng([seed, 0])
    names = list(zip(source.unit.astype(str).tolist(), source.sensor.astype(str).tolist(), strict=True))
    some = Rows(source.x[rows], [names[i] for i in rows], rng.permutation(len(rows)).astype(np.uint64))
    scaling = fit_scaling(build_scaling_fit(scaling_config, feature), [some], lambda part: part)
    read = columns_of(feature, blocks) if blocks else slice(None)  # type: ignore[arg-type]
    units = np.unique(source.unit)
    most = max(len(np.unique(source.sensor[source.unit == unit])) for unit in units)
    made: list[tuple[np.ndarray, ...]] = []
    for unit in units:
        table = _by_moment(source, np.flatnonzero(source.unit == unit))
        faulty = source.fault[table.max(axis=1)] != HEALTHY
        times = -(-config.per_source // (len(units) * config.per_unit))
        for _ in range(times):
            for own, queries in _contexts(~faulty, config, rng):
                z = np.zeros((len(queries), most, *source.x[:1, read].shape[1:]), np.float16)
                for sensor, column in enumerate(table.T):
                    known, asked = column[own], column[queries]
                    known, at = known[known >= 0], np.flatnonzero(asked >= 0)
                    if len(known) and len(at):
                        found = _deviations(scaling, source.x, known, asked[at])[:, read]
                        z[at, sensor] = found.clamp(-LARGEST, LARGEST).numpy()
                one = table[queries].max(axis=1)  # of any sensor: a fault is the unit's
                fault = np.where(faulty[queries], source.fault[one], HEALTHY)
                there = z.reshape(len(z), -1).any(axis=1)  # a sensor of the query may have no record in the context
                values = (z, fault, np.full(len(one), len(made)), np.full(len(one), len(own)), source.severity[one])
                made.append(tuple(column[there] for column in values))
    if not made:
        raise UserError(f"no unit has the {min(config.sizes) + 2} records that a context of the fewest and two more need")
    columns = dict(zip(COLUMNS, (np.concatenate(column) for column in zip(*made, strict=True)), strict=True))
    return Examples(**columns, axis=axis_of(feature, blocks, source.sample_rate_hz))


def _by_moment(source: Source, rows: np.ndarray) -> Int64[np.ndarray, "moments sensors"]:
    """Row numbers of a unit's records; -1 where a sensor has none."""
    moment, at = np.unique(source.moment[rows], return_inverse=True)
    sensor, which = np.unique(source.sensor[rows], return_inverse=True)
    table = np.full((len(moment), len(sensor)), -1)
    table[at, which] = rows
    return table


def _contexts(healthy: np.ndarray, config: ContextConfig, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Contexts of a unit, k consecutive healthy moments of which some are spoiled, each with the moments that are compared with it."""
    good, bad = np.flatnonzero(healthy), np.flatnonzero(~healthy)
    for k in rng.choice(config.sizes, min(config.per_unit, len(config.sizes)), replace=False):
        if len(good) < k + 2:
            continue
        start = rng.integers(0, len(good) - k)
        context = good[start : start + k].copy()
        if k >= 8 and rng.random() < config.spoiled:
            wrong = rng.choice(bad, min(len(bad), round(k * rng.uniform(0, 0.25))), replace=False)
            context[: len(wrong)] = wrong
        queries = [np.setdiff1d(own, context) for own in (good, bad)]
        yield context, np.concatenate([rng.choice(own, min(len(own), config.queries), replace=False) for own in queries])


def _deviations(scaling: Scaling, x: Tensor, context: np.ndarray, queries: np.ndarray) -> Tensor:
    sensor = ("", "")
    return scaling.with_sensors([(sensor, x[context])])(x[queries], [sensor] * len(queries))


def make_source(
    which: int | str, feature_config: FeatureConfig, fleets: FleetsConfig, context: ContextConfig
) -> tuple[Source, Vector | Image]:
    """A source, the fleet of this number or the features table of this URI, and the feature that describes it."""
    if isinstance(which, int):
        fleet = fleets.fleet(which)
        feature = build_feature(feature_config, float(fleet.mains_hz))
        return fleet_source(fleet, feature, context), feature
    table = open_features([which])
    facts = table.facts
    feature = build_feature(feature_config, facts.mains_hz)
    feature.check(facts.sample_rate_hz, facts.num_samples)

    def images(rows: np.ndarray) -> Tensor:
        waveforms = torch.from_numpy(table.read("waveform", rows))
        return torch.cat([feature(some, facts.sample_rate_hz) for some in waveforms.split(CHUNK)])

    return table_source(table, np.flatnonzero(~table.repeats), images), feature
