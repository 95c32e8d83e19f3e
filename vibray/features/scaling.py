"""Centre and scale what a feature returns, by robust statistics of the training corpus: of the whole fleet or of each sensor.

scaling_fit.py fits it."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from pydantic import with_config
from torch import Tensor

from vibray.config import STRICT, UserError, from_json, to_json
from vibray.features.limits import limited
from vibray.signal.robust import median_mad

Sensor = tuple[str, str]
"""(unit, sensor_id)"""

FLOAT32 = torch.finfo(torch.float32)


@with_config(STRICT)
@dataclass(frozen=True)
class ScalingConfig:
    transform: Literal["none", "log", "asinh"] = "none"
    """What is done to a value first. log: ln(|x| + 1e-6 s), for magnitudes. asinh: asinh(x / s), a logarithm that keeps the sign. s is a
    constant of the corpus, the median |x| of the fleet: one number with per="row", one an element with per="element"."""
    by: Literal["none", "fleet", "sensor"] = "fleet"
    """Whose location and scale are taken off: nobody's, the whole corpus', or those of the record's own sensor."""
    statistic: Literal["median_mad", "quantile"] = "median_mad"
    """median_mad: location is the median, scale 1.4826 MAD. quantile: the two `quantiles` become -1 and +1."""
    quantiles: tuple[float, float] = (0.01, 0.99)
    """Lower and upper quantile of statistic="quantile"."""
    per: Literal["element", "row"] = "element"
    """One location and scale for each element, or for each channel and row of an image (channels, rows, columns)."""
    columns_per_record: int = 8
    """per="row": how many columns of a record, evenly spaced, are observed when fitting (all where the image has no more)."""
    fleet_records: int = 2000
    """The fleet's statistics are those of so many records, drawn by their key's hash."""
    records_per_sensor: int = 256
    """A sensor's statistics are those of so many of its records, drawn by their key's hash."""
    prior_records: float = 256.0
    """A sensor's own spread counts as its n - 1 records, the spread that is usual within a sensor as so many: no scale is guessed from a
    handful of records."""
    clip: float | None = None
    """Scaled values are cut to [-clip, clip]. None: not cut."""
    limits: tuple[float, float] | None = None
    """How many spreads a value may fall and rise in full. What rises further keeps its order, what falls further does not, and a feature
    that tells its level is drawn together where the machine stands still (features/limits.py). None: everything counts as it is."""

    def __post_init__(self) -> None:
        low, high = self.quantiles
        if not 0 <= low < high <= 1:
            raise UserError(f"scaling: quantiles must be 0 <= lower < upper <= 1, not {self.quantiles}")
        if min(self.columns_per_record, self.fleet_records, self.records_per_sensor) < 1:
            raise UserError("scaling: columns_per_record, fleet_records and records_per_sensor must be at least 1")
        if not 0 < self.prior_records < math.inf:
            raise UserError(f"scaling: prior_records must be a number above 0, not {self.prior_records}")
        if self.clip is not None and self.clip <= 0:
            raise UserError(f"scaling: clip must be above 0, not {self.clip}")
        if self.limits is not None and (min(self.limits) < 1 or self.by == "none"):
            raise UserError(
                f'scaling: limits are at least 1 and of values scaled by fleet or sensor, not {self.limits} with by="{self.by}"'
            )


class Scaling:
    """Fitted statistics, applied. Row 0 of `location` and `scale` is the fleet's; by="sensor", row i + 1 is that of `sensors[i]`.

    `sensors` are those of the training corpus, or of a calibration, from one record on; any other is scaled as the fleet is. A sensor's
    location is its own median. Its scale is drawn towards what is usual within a sensor:

        sd^2 = (1 + pi / 2n) ((n - 1) s^2 + kappa s0^2) / (n - 1 + kappa)

    the first factor being the error of the location, the median of n; with s its own robust scale over the n records that were kept of it
    (the columns of one record are not independent: n counts records), kappa = `prior_records`, and `within` = s0: s0^2 is the median of s^2
    over the training corpus' sensors of at least two records, element by element; where that is 0, or no sensor has two, the fleet's scale
    squared, and where that is 0 too, 1. (The scale of the posterior of a variance whose prior is a scaled inverse chi-squared with kappa
    degrees of freedom: Gelman et al., Bayesian Data Analysis, section 3.3.) A sensor's level is told by one record, its spread by many: of
    one it is 0, of five off by half, and where it is too small by chance each later record looks abnormal. Sensors never seen that had the
    fleet's statistics below 20 records were ranked at AUROC .650 on the synthetic fleet; in this way one record each gives .92.

    A spread that float32 cannot show at its location is 0, and no scale is below what float32 shows there.
    """

    def __init__(
        self,
        config: ScalingConfig,
        shape: tuple[int, ...],
        level: int | None,
        sensors: tuple[Sensor, ...],
        counts: dict[Sensor, int],
        location: Float[Tensor, " table *statistic"],
        scale: Float[Tensor, " table *statistic"],
        within: Float[Tensor, "*statistic"],
        constant: Float[Tensor, "*element"],
        upper: Float[Tensor, "*statistic"],
    ) -> None:
        """`counts`: records that made each sensor's statistics. `upper`: above it a scaled value grows by its logarithm alone."""
        self.config, self.shape, self.level, self.sensors, self.counts = config, shape, level, sensors, counts
        self.location, self.scale, self.within, self.constant, self.upper = location, scale, within, constant, upper
        self._row = {sensor: i + 1 for i, sensor in enumerate(sensors)}
        self._num_records = torch.tensor([math.inf, *(counts[sensor] for sensor in sensors)])

    def __call__(self, x: Float[Tensor, " batch *shape"], sensors: Sequence[Sensor] | None = None) -> Float[Tensor, " batch *shape"]:
        """Scaled values, float32, finite for finite input, on the device of `x`. Without a sensor that is known: by the fleet's.

        Raises ValueError on another shape, or on as many sensors as there are not records.
        """
        if tuple(x.shape[1:]) != self.shape or (sensors is not None and len(sensors) != len(x)):
            given = "" if sensors is None else f"{len(sensors)} sensors and "
            raise ValueError(f"scaling of {self.shape} was given {given}values of shape {tuple(x.shape)}")
        y = self.transformed(x)
        if self.config.by != "none":
            rows = [0]  # one row for the whole batch, by broadcasting
            if self.config.by == "sensor" and sensors is not None:
                rows = [self._row.get(sensor, 0) for sensor in sensors]
            y = (y - self.location[rows].to(x.device)) / self.scale[rows].to(x.device)
            if self.config.limits is not None:
                level = None if self.level is None else y[:, self.level]
                y = limited(
                    y.clamp(-FLOAT32.max, FLOAT32.max),
                    self._num_records[rows].to(x.device),
                    self.config.limits[0],
                    self.upper.to(x.device),
                    level,
                )
        bound = self.config.clip or FLOAT32.max
        return y.clamp(-bound, bound)

    def transformed(self, x: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch *shape"]:
        """The values after the config's transform alone, float32."""
        return transformed(x.to(torch.float32), self.constant.to(x.device), self.config)

    def baselines(self, sensors: Sequence[Sensor]) -> tuple[Float[Tensor, " batch *statistic"], Float[Tensor, " batch *statistic"]]:
        """Location and scale of each record's sensor, the fleet's where it is not known."""
        rows = [self._row.get(sensor, 0) if self.config.by == "sensor" else 0 for sensor in sensors]
        return self.location[rows], self.scale[rows]

    def known(self, sensors: Sequence[Sensor]) -> Bool[np.ndarray, " batch"]:
        """True for a sensor of the training corpus, or of a calibration."""
        return np.array([sensor in self._row for sensor in sensors], dtype=bool)

    def statistics_of(self, x: Float[Tensor, " records *shape"]) -> tuple[Float[Tensor, "*statistic"], Float[Tensor, "*statistic"]]:
        """(location, scale) of a new sensor from its records, one or more, by the formulas, `within` and the constant s of training.

        They are the fleet's unless by="sensor". Raises UserError on values that are not finite, ValueError on no record.
        """
        if not len(x):
            raise ValueError("scaling: a sensor is calibrated by one record at least")
        if self.config.by != "sensor":
            return self.location[0], self.scale[0]
        if not x.isfinite().all():
            raise UserError("scaling: a feature value of the sensor to be calibrated is NaN or infinite")
        own = observed(x, self.config).to("cpu", torch.float32)
        location, spread = statistics(transformed(own, self.constant, self.config), self.config)
        return location, shrunk(len(x), location, spread, self.within, self.config)

    def with_sensors(self, of: Iterable[tuple[Sensor, Float[Tensor, " records *shape"]]]) -> "Scaling":
        """A new scaling that also knows these sensors, by the raw values of their records; of each the statistics alone are kept."""
        names, num_records, found = [], [], []
        for sensor, x in of:
            names.append(sensor)
            num_records.append(len(x))
            found.append(self.statistics_of(x))
        if not names:
            return self
        return self.extend(names, num_records, *(torch.stack(own) for own in zip(*found, strict=True)))

    def extend(
        self,
        sensors: Sequence[Sensor],
        num_records: Sequence[int],
        location: Float[Tensor, "sensors ..."],
        scale: Float[Tensor, "sensors ..."],
    ) -> "Scaling":
        """A new scaling that also knows `sensors`; their statistics, from `statistics_of` of so many records each, may come flattened.

        Raises UserError on a sensor that is known already or comes twice, and on a scale that is not above 0; ValueError on another size.
        """
        again = [sensor for sensor, count in Counter(sensors).items() if count > 1 or sensor in self._row]
        if again:
            raise UserError(
                f"scaling: {name_of(again[0])} ({len(again)} in all) has statistics already; calibrate only sensors new to the run"
            )
        size = self.location[0].numel()
        if any(t.shape[0] != len(sensors) or t.numel() != len(sensors) * size for t in (location, scale)):
            shapes = f"{tuple(location.shape)} and {tuple(scale.shape)}"
            raise ValueError(f"scaling: {len(sensors)} sensors of {size} statistics each, but they are of shape {shapes}")
        if not (location.isfinite().all() and scale.isfinite().all() and (scale > 0).all()):
            raise UserError("scaling: a calibration's location must be finite, its scale finite and above 0; make the calibration again")
        tables = [self.location, self.scale]
        if self.config.by == "sensor":
            table_shape = (len(sensors), *self.location.shape[1:])
            tables = [torch.cat([a, b.to(a).reshape(table_shape)]) for a, b in zip(tables, (location, scale), strict=True)]
        names, counts = (*self.sensors, *sensors), self.counts | dict(zip(sensors, num_records, strict=True))
        state = (tables[0], tables[1], self.within, self.constant, self.upper)
        return Scaling(self.config, self.shape, self.level, names, counts, *state)

    def of(self, sensors: Iterable[Sensor]) -> "Scaling":
        """The same without the statistics of any but these sensors, each named once: what is sent along with their records."""
        if self.config.by != "sensor":
            return self
        own = tuple(sensor for sensor in sensors if sensor in self._row)
        rows = [0, *(self._row[sensor] for sensor in own)]
        counts = {sensor: self.counts[sensor] for sensor in own}
        fitted = (self.location[rows], self.scale[rows], self.within, self.constant, self.upper)
        return Scaling(self.config, self.shape, self.level, own, counts, *fitted)

    def state(self) -> dict[str, Tensor]:
        """What was fitted, for safetensors."""
        names = ("location", "scale", "within", "constant", "upper")
        return {name: getattr(self, name) for name in names}

    def facts(self) -> dict[str, Any]:
        """What a reader of JSON wants to know: config, shape, the sensors in the order of the tables, records a sensor in training."""
        return {
            "config": to_json(self.config),
            "shape": list(self.shape),
            "level": self.level,
            "sensors": [list(sensor) for sensor in self.sensors],
            "num_records": [[*sensor, count] for sensor, count in self.counts.items()],
        }

    @classmethod
    def load(cls, config: ScalingConfig, shape: tuple[int, ...], state: dict[str, Tensor], facts: dict[str, Any]) -> "Scaling":
        """The scaling that `state` and `facts` came from. Raises UserError where they belong to another config or shape."""
        # read, not compared as JSON: a config that was written before a field was thought of has that field's default
        if from_json(ScalingConfig, facts["config"], "scaling") != config or facts["shape"] != list(shape):
            raise UserError(f"scaling was fitted as {facts['config']} for {facts['shape']}, not as {to_json(config)} for {list(shape)}")
        sensors = tuple((unit, sensor_id) for unit, sensor_id in facts["sensors"])
        counts = {(unit, sensor_id): count for unit, sensor_id, count in facts["num_records"]}
        location, scale, within = (state[name] for name in ("location", "scale", "within"))
        if location.shape != scale.shape or location.shape != (1 + len(sensors) * (config.by == "sensor"), *within.shape):
            raise UserError(f"scaling: statistics {tuple(location.shape)} for {len(sensors)} sensors: train the run again")
        return cls(config, shape, facts["level"], sensors, counts, location, scale, within, state["constant"], state["upper"])


def observed(x: Float[Tensor, " batch *shape"], config: ScalingConfig) -> Float[Tensor, "batch ..."]:
    """What of a record enters the statistics: everything, or (channels, rows, evenly spaced columns)."""
    if config.per == "element":
        return x
    if x.ndim != 4:
        raise UserError(f'scaling: per="row" is for images (channels, rows, columns), not for {tuple(x.shape[1:])}; choose per="element"')
    width = x.shape[-1]
    num = min(config.columns_per_record, width)
    return x[..., [(2 * i + 1) * width // (2 * num) for i in range(num)]]


def transformed(x: Float[Tensor, "batch ..."], s: Float[Tensor, "..."], config: ScalingConfig) -> Float[Tensor, "batch ..."]:
    """Values after the config's transform, float32; `s` is the constant of the corpus."""
    if config.transform == "log":
        return (x.abs() + (1e-6 * s).clamp(min=FLOAT32.tiny)).clamp(max=FLOAT32.max).log()
    if config.transform == "asinh":
        ratio = (x / s).clamp(-FLOAT32.max, FLOAT32.max)
        return ratio.double().asinh().float()  # torch squares the argument: in float32 that overflows from 1.8e19
    return x


def statistics(y: Float[Tensor, "records ..."], config: ScalingConfig) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
    """(location, scale) over the records, per="row" over the columns too, which stay as an axis of length 1. Scale 0: no spread."""
    shape = y.shape[1:] if config.per == "element" else (*y.shape[1:-1], 1)
    # one statistic a row in memory: numpy's median is many times slower along a strided axis
    values = np.ascontiguousarray(y.double().reshape(len(y), math.prod(shape), -1).permute(1, 0, 2).numpy()).reshape(math.prod(shape), -1)
    if config.statistic == "median_mad":
        location, scale = median_mad(values)
    else:
        low, high = np.quantile(values, config.quantiles, axis=1)
        location, scale = (low + high) / 2, (high - low) / 2
    resolution = np.maximum(FLOAT32.tiny, FLOAT32.eps * np.abs(location))
    scale = np.where(scale > resolution, np.minimum(scale, FLOAT32.max), 0.0)
    location, scale = (torch.from_numpy(t.astype(np.float32).reshape(shape)) for t in (location, scale))
    return location, scale


def shrunk(
    num_records: int | Float[Tensor, "..."],
    location: Float[Tensor, "..."],
    spread: Float[Tensor, "..."],
    within: Float[Tensor, "..."],
    config: ScalingConfig,
) -> Float[Tensor, "..."]:
    """sd of a sensor whose `num_records` have this location and spread."""
    own, prior = num_records - 1, config.prior_records
    sd = ((own * spread.double().square() + prior * within.double().square()) / (own + prior) * (1 + math.pi / 2 / num_records)).sqrt()
    lowest = (FLOAT32.eps * location.double().abs()).clamp(min=FLOAT32.tiny)
    return sd.clamp(max=FLOAT32.max).maximum(lowest).float()


def name_of(sensor: Sensor) -> str:
    """A sensor in words."""
    unit, sensor_id = sensor
    return f"sensor {sensor_id} of unit {unit}"
