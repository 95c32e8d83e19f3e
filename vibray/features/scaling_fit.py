"""One pass over a corpus that fits a scaling: samples of the fleet and of each sensor, drawn by the hash of a record's key."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt64
from torch import Tensor

from vibray.config import UserError
from vibray.features.limits import upper_limits
from vibray.features.scaling import FLOAT32, Scaling, ScalingConfig, Sensor, name_of, observed, shrunk, statistics, transformed
from vibray.signal.reservoir import Reservoir


class ScalingFit:
    """Collects a sample of the corpus, of the fleet and (by="sensor") of each sensor; `finish` makes the statistics.

    Memory: 4 bytes * observed * (fleet_records + records_per_sensor * number of sensors), where observed is the number of elements, or
    channels * rows * columns_per_record with per="row". The state is plain numpy and can be pickled.

    A sample is the records with the smallest `key_hash`, so workers and order do not matter. To use a sensor's first records instead of
    a sample of its history, pass a number that grows with their time as `key_hash`.

    Raises UserError where per="row" meets a shape that is not (channels, rows, columns).
    """

    def __init__(self, config: ScalingConfig, shape: tuple[int, ...], level: int | None = None) -> None:
        """`level`: which element of a vector tells how loud the whole record is, where one does."""
        self.config, self.shape, self.level = config, shape, level
        self.counts: Counter[Sensor] = Counter()
        self.observed_shape = tuple(observed(torch.empty(1, *shape), config).shape[1:])
        self.fleet = Reservoir(config.fleet_records, self.observed_shape)
        self.sensors: dict[Sensor, Reservoir] = {}

    def update(self, x: Float[Tensor, " batch *shape"], sensors: Sequence[Sensor], key_hash: UInt64[np.ndarray, " batch"]) -> None:
        """Takes a batch of raw feature values. Every record comes once.

        Raises ValueError on another shape and on as many sensors as there are not records, UserError on values that are not finite.
        """
        if tuple(x.shape[1:]) != self.shape or len(sensors) != len(x):
            raise ValueError(f"scaling of {self.shape} was given {len(sensors)} sensors and values of shape {tuple(x.shape)}")
        if not x.isfinite().all():
            raise UserError("scaling: a feature value is NaN or infinite: " + ", ".join(_not_finite(x, sensors)))
        rows = observed(x, self.config).to("cpu", torch.float32).numpy()
        self.fleet.offer(key_hash, rows)
        self.counts.update(sensors)
        if self.config.by == "sensor":
            for sensor, index in _positions(sensors).items():
                self._sensor(sensor).offer(key_hash[index], rows[index])

    def merge(self, other: "ScalingFit") -> None:
        """Takes another worker's state in; associative and commutative, exactly."""
        if (other.config, other.shape, other.level) != (self.config, self.shape, self.level):
            raise ValueError("scaling: only fits of one config and shape can be merged")
        self.fleet.merge(other.fleet)
        self.counts.update(other.counts)
        for sensor, reservoir in other.sensors.items():
            self._sensor(sensor).merge(reservoir)

    def finish(self) -> Scaling:
        """The fitted scaling. Raises UserError where no record came."""
        if not self.counts:
            raise UserError("scaling: there is no record to fit it on")
        fleet, config = torch.from_numpy(self.fleet.rows), self.config
        constant = _constant(fleet, config)
        location, scale = statistics(transformed(fleet, constant, config), config)
        scale = torch.where(scale > 0, scale, 1.0)
        rows = [torch.from_numpy(self.sensors[sensor].rows) for sensor in sorted(self.sensors)]
        own = [statistics(transformed(x, constant, config), config) for x in rows]
        within = _within([spread for x, (_, spread) in zip(rows, own, strict=True) if len(x) > 1], scale)
        locations = torch.stack([location, *(centre for centre, _ in own)])
        drawn = (shrunk(len(x), *found, within, config) for x, found in zip(rows, own, strict=True))
        counts = dict(sorted(self.counts.items()))
        scales = torch.stack([scale, *drawn])
        upper = self._upper(locations, scales, constant)
        return Scaling(config, self.shape, self.level, tuple(counts), counts, locations, scales, within, constant, upper)

    def _upper(self, location: Tensor, scale: Tensor, constant: Tensor) -> Float[Tensor, "*statistic"]:
        """The upper limits by the scaled values of as many records as stand for the fleet, each by its own sensor's statistics."""
        if self.config.limits is None:
            return torch.full_like(location[0], torch.inf)
        of = [self.sensors[sensor] for sensor in sorted(self.sensors)] if self.config.by == "sensor" else [self.fleet]
        keys = np.concatenate([one.keys for one in of])
        last = np.sort(keys)[: self.config.fleet_records][-1]
        first = 1 if self.config.by == "sensor" else 0
        z = [
            (transformed(torch.from_numpy(one.rows[one.keys <= last]), constant, self.config) - location[i]) / scale[i]
            for i, one in enumerate(of, start=first)
        ]
        rows = torch.cat(z).movedim(-1, 1).flatten(0, 1)[..., None] if self.config.per == "row" else torch.cat(z)
        return torch.from_numpy(upper_limits(rows.numpy(), self.config.limits[1]))

    def _sensor(self, sensor: Sensor) -> Reservoir:
        if sensor not in self.sensors:
            self.sensors[sensor] = Reservoir(self.config.records_per_sensor, self.observed_shape)
        return self.sensors[sensor]


def _constant(values: Float[Tensor, "records ..."], config: ScalingConfig) -> Float[Tensor, "..."]:
    """s: the median |x| of the fleet, where that is 0 the mean, where that is 0 one. With per="row" one for all, else one an element."""
    if config.transform == "none":
        return torch.ones(())
    magnitude = np.abs(values.numpy().astype(np.float64))
    axis = 0 if config.per == "element" else None
    median, mean = np.median(magnitude, axis=axis), magnitude.mean(axis=axis)
    s = np.where(median > 0, median, mean)
    return torch.from_numpy(np.where(s >= FLOAT32.tiny, s, 1.0).astype(np.float32))


def _within(spreads: list[Float[Tensor, "..."]], fleet: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """s0: the root of the median of the sensors' squared spreads, where that is 0 (or no sensor has one) the fleet's scale."""
    if not spreads:
        return fleet
    variance = np.median(torch.stack(spreads).double().square().numpy(), axis=0)
    return torch.where(torch.from_numpy(variance) > 0, torch.from_numpy(np.sqrt(variance)), fleet.double()).float()


def _positions(sensors: Sequence[Sensor]) -> dict[Sensor, list[int]]:
    positions: dict[Sensor, list[int]] = {}
    for i, sensor in enumerate(sensors):
        positions.setdefault(sensor, []).append(i)
    return positions


def _not_finite(x: Float[Tensor, "batch ..."], sensors: Sequence[Sensor]) -> list[str]:
    bad = (~x.flatten(1).isfinite().all(dim=1)).nonzero().flatten().tolist()
    return [f"row {i} of the batch, {name_of(sensors[i])}" for i in bad[:3]]
