"""One pass over a corpus that fits a scaling: samples of the fleet and of each sensor, drawn by the hash of a record's key."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int, UInt64
from torch import Tensor

from vibray.config import UserError
from vibray.features.limits import upper_limits
from vibray.features.scaling import FLOAT32, Scaling, ScalingConfig, Sensor, name_of, observed, shrunk, statistics, transformed
from vibray.signal.reservoir import Block, Reservoir, Reservoirs

TOGETHER = 4096
"""Records whose sensors' statistics are found in one go."""


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
        self.observed_shape = tuple(observed(torch.empty(1, *shape), config).shape[1:])
        self.fleet = Reservoir(config.fleet_records, self.observed_shape)
        # a scaling of the fleet counts each sensor's records, and keeps none
        self.sensors = Reservoirs(config.records_per_sensor if config.by == "sensor" else 0, self.observed_shape)

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
        self.sensors.offer(sensors, key_hash, rows)

    def merge(self, other: "ScalingFit") -> None:
        """Takes another worker's state in; associative and commutative, exactly."""
        if (other.config, other.shape, other.level) != (self.config, self.shape, self.level):
            raise ValueError("scaling: only fits of one config and shape can be merged")
        self.fleet.merge(other.fleet)
        self.sensors.merge(other.sensors)

    def finish(self) -> Scaling:
        """The fitted scaling; what was collected is gone then. Raises UserError where no record came."""
        if not self.sensors.code:
            raise UserError("scaling: there is no record to fit it on")
        kept = self.sensors.table()
        fleet, config = torch.from_numpy(self.fleet.rows), self.config
        constant = _constant(fleet, config)
        location, scale = statistics(transformed(fleet, constant, config), config)
        scale = torch.where(scale > 0, scale, 1.0)
        names = sorted(self.sensors.code)
        counts = {name: int(self.sensors.num_offered[self.sensors.code[name]]) for name in names}
        locations, scales, within = torch.stack([location]), torch.stack([scale]), scale
        if config.by == "sensor":
            num, own_locations, spreads = self._own_statistics(names, kept, constant)
            within = _within(spreads[num > 1], scale)
            drawn = shrunk(num.double().reshape(-1, *(1 for _ in location.shape)), own_locations, spreads, within, config)
            locations, scales = torch.cat([locations, own_locations]), torch.cat([scales, drawn])
        upper = self._upper(names, kept, locations, scales, constant)
        return Scaling(config, self.shape, self.level, tuple(names), counts, locations, scales, within, constant, upper)

    def _own_statistics(
        self, names: list[Sensor], kept: Block, constant: Float[Tensor, "*element"]
    ) -> tuple[Int[Tensor, " sensors"], Float[Tensor, " sensors *statistic"], Float[Tensor, " sensors *statistic"]]:
        """Records kept, location and spread of each sensor; those of equally many records are worked on together."""
        code, _, rows = kept
        num = np.bincount(code, minlength=len(self.sensors.code))
        start = np.cumsum(num) - num
        wanted = np.array([self.sensors.code[name] for name in names])
        found: dict[int, tuple[Tensor, Tensor]] = {}
        for count in np.unique(num).tolist():
            alike = np.flatnonzero(num == count)
            for some in np.array_split(alike, -(-len(alike) * count // TOGETHER)):
                x = torch.from_numpy(rows[start[some] + np.arange(count)[:, None]])
                both = statistics(transformed(x, constant, self.config), self.config)
                found |= dict(zip(some.tolist(), zip(*both, strict=True), strict=True))
        own = [found[i] for i in wanted.tolist()]
        return torch.from_numpy(num[wanted]), torch.stack([centre for centre, _ in own]), torch.stack([spread for _, spread in own])

    def _upper(
        self, names: list[Sensor], kept: Block, location: Tensor, scale: Tensor, constant: Float[Tensor, "*element"]
    ) -> Float[Tensor, "*statistic"]:
        """The upper limits by the scaled values of as many records as stand for the fleet, each by its own sensor's statistics."""
        if self.config.limits is None:
            return torch.full_like(location[0], torch.inf)
        rows, place = self.fleet.rows, np.zeros(len(self.fleet.rows), np.int64)
        if self.config.by == "sensor":
            code, keys, rows = kept
            first = keys <= np.sort(keys)[: self.config.fleet_records][-1]
            line = np.empty(len(names), np.int64)
            line[[self.sensors.code[name] for name in names]] = np.arange(1, len(names) + 1)
            rows, place = rows[first], line[code[first]]
        z = (transformed(torch.from_numpy(rows), constant, self.config) - location[place]) / scale[place]
        values = z.movedim(-1, 1).flatten(0, 1)[..., None] if self.config.per == "row" else z
        return torch.from_numpy(upper_limits(values.numpy(), self.config.limits[1]))


def _constant(values: Float[Tensor, "records ..."], config: ScalingConfig) -> Float[Tensor, "..."]:
    """s: the median |x| of the fleet, where that is 0 the mean, where that is 0 one. With per="row" one for all, else one an element."""
    if config.transform == "none":
        return torch.ones(())
    magnitude = np.abs(values.numpy().astype(np.float64))
    axis = 0 if config.per == "element" else None
    median, mean = np.median(magnitude, axis=axis), magnitude.mean(axis=axis)
    s = np.where(median > 0, median, mean)
    return torch.from_numpy(np.where(s >= FLOAT32.tiny, s, 1.0).astype(np.float32))


def _within(spreads: Float[Tensor, " sensors *statistic"], fleet: Float[Tensor, "*statistic"]) -> Float[Tensor, "*statistic"]:
    """s0: the root of the median of the sensors' squared spreads, where that is 0 (or no sensor has one) the fleet's scale."""
    if not len(spreads):
        return fleet
    variance = np.median(spreads.double().square().numpy(), axis=0)
    return torch.where(torch.from_numpy(variance) > 0, torch.from_numpy(np.sqrt(variance)), fleet.double()).float()


def _not_finite(x: Float[Tensor, "batch ..."], sensors: Sequence[Sensor]) -> list[str]:
    bad = (~x.flatten(1).isfinite().all(dim=1)).nonzero().flatten().tolist()
    return [f"row {i} of the batch, {name_of(sensors[i])}" for i in bad[:3]]
