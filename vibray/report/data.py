"""What a report is told, and what follows from it for each record: the cut that applies and whether it is an alarm."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import with_config

from vibray.config import STRICT
from vibray.decide.findings import Finding
from vibray.decide.groups import SensorGroups, sensor_groups
from vibray.decide.pseudo_labels import undecided_rows
from vibray.decide.reference import trusted_rows
from vibray.decide.unit_alarms import UnitAlarm, UnitConfig
from vibray.report.rarity import Rarity, rarity
from vibray.schema import FAULT_PREFIX, MEMBER_PREFIX
from vibray.storage.columns import blocks, flags, keys_of, one_chunk

GLOBAL = "global"
"""Key of the corpus-wide cuts in `ReportData.cuts`; those of sensor groups stand under "groups"."""


@dataclass(frozen=True)
class Map:
    """An explanation over the time-frequency plane (shares of the score, VAE residual), drawn with axes in Hz and s."""

    title: str
    values: np.ndarray
    """(rows, columns), row 0 the lowest in frequency where `rows_hz` rises."""
    rows_hz: tuple[float, ...]
    duration_s: float


@dataclass(frozen=True)
class Bars:
    """An explanation by named values: columns with their shares of the score, parts of it with how rare each is."""

    title: str
    names: tuple[str, ...]
    values: tuple[float | int, ...]


@dataclass(frozen=True)
class Spectrum:
    """A record's spectrum over what is usual for its sensor."""

    title: str
    hz: Sequence[float]
    value: np.ndarray
    low: np.ndarray
    median: np.ndarray
    high: np.ndarray
    unit: str


@dataclass(frozen=True)
class Sentences:
    """An explanation in sentences."""

    title: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Nearest:
    """Labelled records like this one: (record_id, label, distance), the nearest first."""

    title: str
    records: tuple[tuple[str, str, float], ...]


Explanation = Map | Spectrum | Sentences | Bars | Nearest


@with_config(STRICT)
@dataclass(frozen=True)
class ReportConfig:
    """How much of a corpus is drawn. What is left out is counted in the report."""

    num_records: int = 24
    """Highest records shown with waveform and time-frequency image."""
    records_per_sensor: int = 4
    """At most this many of them from one sensor, so that one loud sensor does not fill the page."""
    num_sensors: int = 600
    """Sensors whose scores are drawn over time, those of units that need a look first; fewer where there are many (sensor_views.LARGE)."""
    num_columns: int = 60
    """Columns of time of the fleet's map at most."""
    num_cells: int = 9000
    """Cells of the fleet's map at most: where units are many its columns are broader."""
    num_flagged: int = 12
    """Records above the cut that are listed for each unit, the highest."""
    num_listed: int = 1500
    """Of them on the whole page at most: those of units that need a look first, then the highest."""
    num_points: int = 48_000
    """Points of the drawings over time on the whole page, and as many alarms: each sensor's share of them, NUM_POINTS at most."""
    num_rows: int = 40
    """Rows of the longer tables (groups with cuts of their own, lines set aside)."""
    num_in_lists: int = 500
    """Machines that are off or switching, and faulty sensors, that are listed: those that are so now first."""


@dataclass(frozen=True)
class Model:
    """What is known of the run beside its facts, for its model card."""

    mains: bool | None = None
    """the machine has a mains frequency"""
    num_context: int | None = None
    """records that a sensor's baseline is made of, the median over the sensors"""
    trained_on: Mapping[str, Any] = field(default_factory=dict)
    """facts of the training, in the order they are shown"""
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ReportData:
    """Everything a report shows. Tables as in schema.py; the caller gives the time, no clock is read.

    Several inputs are one table here (`pyarrow.concat_tables(..., promote_options="default")`); waveforms of several lengths need a list
    column without fixed size.
    """

    title: str
    generated_at: datetime
    scores: pa.Table
    """schema.scores(...)"""
    counts: Mapping[str, Mapping[str, Any]]
    """By corpus: {"read": n, "kept": n, "set_aside": {reason: n}}."""
    run: Mapping[str, Any] = field(default_factory=dict)
    """Facts in the order they are shown: recipe, hash, rate, mains and so on. Names are shown as they are; None is left out."""
    evidence: pa.Table | None = None
    """schema.evidence(...): the highest records of each part; `waveform` is needed of those alone that are shown (records.chosen)."""
    bad_records: pa.Table | None = None
    """schema.BAD_RECORDS; a sample is enough, the counts come from `counts`."""
    cuts: Mapping[str, Any] | None = None
    """{"global": cut, "groups": {name: cut}}, a cut being {"normal_below": x, "anomaly_above": x} with, where known, "method", "rate_kind",
    "nominal_rate", "realised_rate" and "num_records", those that the realised rate is of. A group is "unit/sensor_id" or a unit; its cut
    stands before the global one."""
    metrics: Mapping[str, Any] | None = None
    """The JSON of evaluate."""
    budget: Mapping[str, Any] | None = None
    """What a budget of alarms came to: {"per_week", "expected_per_week", "upper_per_week", "missed": {fault: [missed, labelled]}}."""
    labels: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """By (corpus, record_id), what a person has called it."""
    units: Sequence[UnitAlarm] = ()
    """How each unit stands, those in alarm first."""
    unit_facts: Mapping[str, Any] | None = None
    """The rule of the unit alarms and what a healthy fleet would do, as `decide.unit_alarms.unit_facts` and the label job say it."""
    drift: pa.Table | None = None
    """schema.DRIFT; None where nothing is known of it."""
    trends: pa.Table | None = None
    """How each unit's scores went: unit, verdict ("steady", "step", "growing"), since, change (in spreads of its reference), per_month."""
    unit_diagnoses: pa.Table | None = None
    """Sensors of a unit diagnosed together: unit, measured_at, abnormal_probability, fault, fault_probability, sensors."""
    model: Model = field(default_factory=Model)
    """What made the scores."""
    out_of_sample: pa.Table | None = None
    """schema.OUT_OF_SAMPLE: scores of the records that calibrated their sensors, against a baseline that had not seen them."""
    explanations: Mapping[tuple[str, str], Sequence[Explanation]] = field(default_factory=dict)
    """By (corpus, record_id), shown with that record."""
    search: Mapping[str, Any] | None = None
    """What report/search_page.py makes of the search that chose the recipe."""
    num_duplicates: int = 0
    """Records that stood in the scores twice and are taken once."""
    signal_unit: str = "unknown"
    """Physical unit of the waveforms."""
    inputs: str = ""
    """Short hash of what the page is made of; it is written into the page, which is then overwritten by its like alone."""
    findings: tuple[Finding, ...] = ()
    """What contradicts itself in what was read."""
    notes: tuple[str, ...] = ()
    """Warnings of earlier stages that the reader should see."""

    @cached_property
    def score(self) -> np.ndarray:
        """(records,) float32, as it is stored."""
        return one_chunk(self.scores["score"]).to_numpy()

    @cached_property
    def ordered(self) -> np.ndarray:
        """The finite scores in order, float32."""
        found = np.sort(self.score)
        return found if not len(found) or np.isfinite(found[[0, -1]]).all() else found[np.isfinite(found)]

    @cached_property
    def groups(self) -> SensorGroups:
        """The rows of each sensor in order of time."""
        return sensor_groups(self.scores)

    @cached_property
    def sensors(self) -> tuple[list[tuple[str, str]], np.ndarray]:
        """The (unit, sensor_id) pairs in order, and for each record (records,) the place of its own among them."""
        return self.groups.names, self.groups.numbers()

    @property
    def calibrated(self) -> np.ndarray:
        """(records,) bool: the sensor is known to the run or to the calibration."""
        return flags(self.scores["calibrated"])

    @cached_property
    def cuts_of_sensors(self) -> np.ndarray:
        """(sensors,) the cut that applies to each sensor's records, its group's before the global one; NaN without cuts."""
        return np.array([self.cut_of(*pair).get("anomaly_above", np.nan) for pair in self.sensors[0]], np.float64)

    def cut_at(self, rows: np.ndarray) -> np.ndarray:
        """(rows,) the cut that applies to each of some records."""
        return self.cuts_of_sensors[self.sensors[1][rows]]

    @property
    def above(self) -> np.ndarray:
        """(records,) bool: score at or above its cut."""
        found = np.zeros(len(self.score), bool)
        for piece in blocks(len(found)):
            found[piece] = self.score[piece] >= self.cuts_of_sensors[self.sensors[1][piece]]
        return found

    @cached_property
    def time_trusted(self) -> np.ndarray:
        """(records,) bool: the record's time is plausible; where it is not, it stands in no drawing over time."""
        return trusted_rows(self.scores)

    @property
    def undecided(self) -> np.ndarray:
        """(records,) bool: the machine was off or switching, or the sensor is faulty, so that the score does not speak of a fault."""
        return undecided_rows(self.scores)

    @cached_property
    def alarm(self) -> np.ndarray:
        """(records,) bool: score at or above the cut, of a calibrated sensor that works, on a machine in service."""
        return self.judged & self.above

    @cached_property
    def no_alarm(self) -> np.ndarray:
        """(records,) bool: score at or above the cut, but the state keeps it from being an alarm."""
        return self.undecided & self.above

    def causes(self, rows: np.ndarray) -> list[str | None]:
        """Why those records' sensors count as faulty; None where nothing is known of it."""
        if "state_cause" not in self.scores.column_names:
            return [None] * len(rows)
        return self.scores["state_cause"].take(pa.array(rows)).to_pylist()

    @cached_property
    def judged(self) -> np.ndarray:
        """(records,) bool: of a calibrated sensor that works, on a machine in service: its score speaks of the machine."""
        return self.calibrated & ~self.undecided

    @cached_property
    def needing_a_look(self) -> frozenset[str]:
        """Units whose alarm stands or whose newest window is a discovery; of those that no alarm of units judges, which have few records or
        no reference, or where none were made, the ones with an alarm of a record."""
        loud = frozenset(unit.unit for unit in self.units if unit.alarm or unit.discovery)
        return loud | (frozenset(self.sensors[0][i][0] for i in np.unique(self.sensors[1][self.alarm]).tolist()) - self.with_unit_alarms)

    @cached_property
    def with_unit_alarms(self) -> frozenset[str]:
        """Units that alarms of units judge."""
        return frozenset() if self.unit_facts is None else frozenset(unit.unit for unit in self.units)

    @cached_property
    def num_reference(self) -> int:
        """So many of each sensor's earliest usable records are its reference: as the alarms of units have it."""
        return (self.unit_facts or {}).get("config", {}).get("reference_records", UnitConfig().reference_records)

    @cached_property
    def rarity(self) -> Rarity:
        """How rare each record's score is for its sensor."""
        return rarity(self.scores, self.num_reference, self.out_of_sample, self.groups)

    @property
    def members(self) -> tuple[str, ...]:
        return tuple(name.removeprefix(MEMBER_PREFIX) for name in self.scores.column_names if name.startswith(MEMBER_PREFIX))

    @property
    def faults(self) -> tuple[str, ...] | None:
        """Faults with a probability each, None where the scores are a detector's."""
        if "fault" not in self.scores.column_names:
            return None
        return tuple(name.removeprefix(FAULT_PREFIX) for name in self.scores.column_names if name.startswith(FAULT_PREFIX))

    def cut_of(self, unit: str, sensor_id: str) -> Mapping[str, Any]:
        """The cuts for a sensor: its own, its unit's, or the global ones; empty without."""
        cuts = self.cuts or {}
        groups = cuts.get("groups") or {}
        return groups.get(f"{unit}/{sensor_id}") or groups.get(unit) or cuts.get(GLOBAL) or {}

    def order(self, mask: np.ndarray | None = None) -> np.ndarray:
        """Rows from the highest score to the lowest, equal scores by (corpus, shard, offset); only those of `mask`."""
        rows = np.arange(len(self.score)) if mask is None else np.flatnonzero(mask)
        corpus, shard, offset = (key[rows] for key in keys_of(self.scores))
        return rows[np.lexsort((offset, shard, corpus, -self.score[rows]))]
