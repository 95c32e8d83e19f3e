"""A fleet of transformers that does not exist: any number of records, each a pure function of (seed, unit, sensor, step).

Any worker can make any record, in any order. Lines look like real ones; what is wrong with a machine stands only in the rows of a separate
labels file. The random streams are numpy's: the same numpy, the same fleet.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32
from pydantic import with_config

from vibray.config import STRICT, UserError
from vibray.schema import NORMAL, Reason
from vibray.signal.broken import LINE_REASONS, broken_line, line, truncated
from vibray.signal.faults import DISTURBANCES, FAULTS
from vibray.signal.transformer import Moment, heard, moment, stream, unit

START = datetime(2023, 12, 4, tzinfo=UTC)
"""A Monday's midnight: the time of step 0."""

BLOCK = 200
"""Moments in a row among which the faults and outages are dealt out, so that a small corpus has its share of each too."""

FaultName = Literal["winding_looseness", "core_looseness", "dc_bias", "tap_changer", "fan_bearing", "inter_turn_short"]


@with_config(STRICT)
@dataclass(frozen=True)
class FleetConfig:
    """A fleet and the time for which it is watched. Records come step by step, in a step unit by unit, in a unit sensor by sensor."""

    num_records: int = 600
    """Good records; broken lines come on top."""
    num_units: int = 8
    """Transformers."""
    sensors_per_unit: int = 3
    """Sensors on each; records of one unit and step have the same data_time."""
    sample_rate_hz: float = 8192.0
    """Samples a second, at least 8000."""
    num_samples: int = 8192
    """Samples a record."""
    mains_hz: Literal[50, 60] = 50
    """Nominal mains frequency; the machines hum at twice that."""
    contamination: float = 0.05
    """Share of a unit's moments with a fault (all its sensors hear it, each in its degree)."""
    faults: tuple[FaultName, ...] = ("winding_looseness", "core_looseness", "dc_bias", "tap_changer", "fan_bearing")
    """Faults that occur, each as often as the others. inter_turn_short is the unknown one: nothing is trained or labelled with it unless it
    is named here."""
    severity: tuple[float, float] = (0.3, 1.0)
    """Range of the uniform severity: 0 is the healthy machine exactly, 1 a plainly failed one."""
    disturbance_share: float = 0.12
    """Share of moments, healthy or not, with rain, traffic, a bump or a fan that switches."""
    off_share: float = 0.01
    """Share of moments at which the machine is de-energised (never one with a fault); labelled normal."""
    broken_share: float = 0.0
    """Broken lines on top, as a share of num_records, the reasons in turn."""
    long_line: bool = False
    """One more broken line at the very end, of 17 MB."""
    first_unit: int = 0
    """Number of the first unit: other numbers are other machines of the same fleet."""
    first_step: int = 0
    """Step of the first record: a later one continues an earlier corpus."""
    interval_s: float = 5820.0
    """Seconds from a unit's record to its next; 97 minutes visit all hours of a day."""
    seed: int = 0
    """Everything random follows from it."""

    def __post_init__(self) -> None:
        if min(self.num_records, self.num_units, self.sensors_per_unit, self.num_samples) < 1 or self.sample_rate_hz < 8000:
            raise UserError("a fleet needs at least one record, unit, sensor and sample, and a sample rate of at least 8000 Hz")
        if not 0 <= self.severity[0] <= self.severity[1] <= 1:
            raise UserError(f"severity must be a range within 0 to 1, not {self.severity}")
        if min(self.contamination, self.off_share) < 0 or self.contamination + self.off_share > 1:
            raise UserError(f"contamination {self.contamination} and off_share {self.off_share} must be shares whose sum is at most 1")
        if not (0 <= self.disturbance_share <= 1 and 0 <= self.broken_share <= 1):
            raise UserError(f"disturbance_share {self.disturbance_share} and broken_share {self.broken_share} must lie within 0 to 1")
        if min(self.first_unit, self.first_step, self.seed) < 0 or self.interval_s < 1:
            raise UserError("first_unit, first_step and seed must not be negative, interval_s not below 1")
        if not self.faults and self.contamination:
            raise UserError("contamination without any fault in `faults`")


@dataclass(frozen=True)
class Place:
    """Where a record stands in the fleet."""

    unit: int
    sensor: int
    step: int


@dataclass(frozen=True)
class Condition:
    """What is the matter with a unit at a moment."""

    fault: str | None = None
    severity: float = 0.0
    energised: bool = True


def place(config: FleetConfig, index: int) -> Place:
    """Unit, sensor and step of record `index` (0 to num_records - 1)."""
    step, rest = divmod(index, config.num_units * config.sensors_per_unit)
    number, sensor = divmod(rest, config.sensors_per_unit)
    return Place(config.first_unit + number, sensor, config.first_step + step)


@lru_cache(maxsize=256)
def _block(config: FleetConfig, block: int) -> tuple[Condition, ...]:
    rng = stream(config.seed, "conditions", config.first_unit, block)
    num_faults = math.floor(config.contamination * BLOCK + rng.random())
    num_off = min(math.floor(config.off_share * BLOCK + rng.random()), BLOCK - num_faults)
    names = [config.faults[i] for i in rng.permutation(len(config.faults))]
    dealt = [Condition(names[i % len(names)], float(rng.uniform(*config.severity))) for i in range(num_faults)]
    dealt += [Condition(energised=False)] * num_off + [Condition()] * (BLOCK - num_faults - num_off)
    return tuple(dealt[i] for i in rng.permutation(BLOCK))


def condition(config: FleetConfig, at: Place) -> Condition:
    """What is the matter with a unit at a step."""
    block, n = divmod(at.step * config.num_units + at.unit - config.first_unit, BLOCK)
    return _block(config, block)[n]


@lru_cache(maxsize=64)
def measured_at(config: FleetConfig, unit_number: int, step: int) -> datetime:
    """Time of a unit's record, to the millisecond: every interval, up to half an interval late."""
    late = stream(config.seed, "time", unit_number, step).uniform(0, 0.5)
    return START + timedelta(milliseconds=round(1000 * config.interval_s * (step + late)))


@lru_cache(maxsize=4)
def _moment(config: FleetConfig, unit_number: int, step: int, what: Condition) -> Moment:
    time_s = (measured_at(config, unit_number, step) - START).total_seconds()
    m = moment(config.seed, unit_number, step, time_s, float(config.mains_hz), what.energised, config.num_samples)
    rng = stream(config.seed, "disturbance", unit_number, step)
    u = unit(config.seed, unit_number)
    if rng.random() < config.disturbance_share:
        m = DISTURBANCES[list(DISTURBANCES)[rng.integers(len(DISTURBANCES))]](m, u, rng, config.sample_rate_hz)
    if what.fault is not None:
        rng = stream(config.seed, "fault", unit_number, step)
        m = FAULTS[what.fault](m, u, what.severity, rng, config.sample_rate_hz)
    return m


def waveform(config: FleetConfig, at: Place, what: Condition | None = None) -> Float32[np.ndarray, " samples"]:
    """The record of a place, in g; under its own condition unless another one is given."""
    m = _moment(config, at.unit, at.step, condition(config, at) if what is None else what)
    return heard(config.seed, at.unit, at.sensor, at.step, m, config.num_samples, config.sample_rate_hz)


def sensor_id(at: Place) -> str:
    """Such as u03-s2: `--unit-pattern '^(u\\d+)-'` finds the unit."""
    return f"u{at.unit:02d}-s{at.sensor + 1}"


def _time_text(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.") + f"{time.microsecond // 1000:03d}Z"


@lru_cache(maxsize=4)
def _number_format(num_samples: int) -> str:
    return ",".join(["%.5g"] * num_samples)


def _values(config: FleetConfig, at: Place) -> str:
    return _number_format(config.num_samples) % tuple(waveform(config, at).tolist())


def _num_broken(config: FleetConfig, stop: int) -> int:
    """Broken lines before record `stop`."""
    return math.floor(stop * config.broken_share + 1e-9)


def num_lines(config: FleetConfig) -> int:
    """Lines of the whole corpus: what a reader must find in it."""
    return config.num_records + _num_broken(config, config.num_records) + config.long_line


def label_row(config: FleetConfig, index: int) -> dict[str, Any]:
    """Row of record `index` in the labels file; no waveform is made for it."""
    at = place(config, index)
    what, time = condition(config, at), _time_text(measured_at(config, at.unit, at.step))
    row = {"sensor_id": sensor_id(at), "data_time": time, "unit": f"u{at.unit:02d}"}
    return row | {"label": what.fault or NORMAL, "severity": round(what.severity, 4)}


def fleet_lines(config: FleetConfig, start: int, stop: int) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
    """The lines of records `start` to `stop` - 1, each with its row of the labels file: None for a broken line.

    A broken line follows the record that it is made from, with a time of its own.
    """
    for index in range(start, min(stop, config.num_records)):
        at, row = place(config, index), label_row(config, index)
        name, values = row["sensor_id"], _values(config, at)
        yield line(row["data_time"], name, values), row
        later = _time_text(measured_at(config, at.unit, at.step) + timedelta(seconds=config.interval_s / 4))
        for number in range(_num_broken(config, index), _num_broken(config, index + 1)):
            yield broken_line(LINE_REASONS[number % len(LINE_REASONS)], later, name, values), None
        if config.long_line and index == config.num_records - 1:
            yield broken_line(Reason.LINE_TOO_LONG, later, name, values), None


def truncated_shard(config: FleetConfig) -> bytes:
    """A `.jsonl.gz` that breaks off within its only line, which would have been the fleet's next record: the reason "truncated stream"."""
    at = place(config, config.num_records)
    return truncated(line(_time_text(measured_at(config, at.unit, at.step)), sensor_id(at), _values(config, at)))
