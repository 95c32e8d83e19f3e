"""Scores to alarms and trends of units and drift of sensors: which records are the reference, and what the decisions folder holds of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float64, Int64

from vibray.config import from_json, to_json
from vibray.decide.budget import (
    budget_cuts,
    budget_facts,
    budget_per_week,
    missed,
    record_promise,
    records_per_week,
    unit_config,
    unit_promise,
)
from vibray.decide.cuts import Cuts, GroupedCuts
from vibray.decide.drift import drift
from vibray.decide.groups import SensorGroups, sensor_groups
from vibray.decide.pooling import TOLERANCE_S, moments, over_sensors
from vibray.decide.pseudo_labels import by_cut
from vibray.decide.reference import (
    FEWEST_CONFORMAL,
    PValues,
    earliest_rows,
    estimated_sensors,
    p_values_by_sensor,
    trusted_rows,
    usable_rows,
    with_out_of_sample,
)
from vibray.decide.said import Said
from vibray.decide.trend import print_trends, unit_trends
from vibray.decide.unit_alarms import ALARM_COLUMNS, UnitAlarm, UnitConfig, as_written, unit_alarms, unit_facts, unit_scores
from vibray.schema import FLEET_P_VALUE, KEY, LABEL_ABNORMAL, SENSOR, TIME_TRUSTED, UNIT_SCORES
from vibray.storage import objects
from vibray.storage.columns import PLACE, blocks, joined, one_chunk, times_ms

COLUMNS = (*KEY, *PLACE, *SENSOR, "measured_at", "state", "calibrated", "score", FLEET_P_VALUE.name, TIME_TRUSTED.name)
FILES = ("unit_scores.parquet", "unit_alarms.json", "drift.parquet", "unit_trends.parquet")


@dataclass(frozen=True, eq=False)
class Compared:
    """The records that are judged, those that they are compared with behind them, and how rare each is."""

    scores: pa.Table
    num_judged: int
    said: Said
    usable: Bool[np.ndarray, " records"]
    trusted: Bool[np.ndarray, " records"]
    """its time can be"""
    groups: SensorGroups
    in_reference: Bool[np.ndarray, " records"]
    normals: bool
    """the reference are records that a person calls normal"""
    words: str
    """what the reference is"""
    against: pa.Table
    """the table with the scores of records that calibrated their sensors out of sample"""
    num_out_of_sample: int
    has_p_value: Bool[np.ndarray, " records"]

    @property
    def judged(self) -> Bool[np.ndarray, " records"]:
        found = np.zeros(len(self.usable), bool)
        found[: self.num_judged] = True
        return found

    @cached_property
    def judged_units(self) -> set[str]:
        """Those with a judged record that has a p-value."""
        found = set()
        for (unit, _), rows in self.groups:
            if unit not in found and self.has_p_value[rows[rows < self.num_judged]].any():
                found.add(unit)
        return found

    def p_values(self, smoothed: bool = False) -> PValues:
        """Of each record, sensor by sensor: all at once they would take 8 bytes a record."""
        return p_values_by_sensor(self.against, self.usable, self.in_reference, self.groups, smoothed)

    def p_values_of(self, rows: Int64[np.ndarray, " chosen"]) -> Float64[np.ndarray, " chosen"]:
        """NaN where there is none."""
        place = {row: i for i, row in enumerate(rows.tolist())}
        chosen, found = np.zeros(len(self.usable), bool), np.full(len(rows), np.nan)
        chosen[rows] = True
        for own, p in self.p_values():
            for at in np.flatnonzero(chosen[own]).tolist():
                found[place[int(own[at])]] = p[at]
        return found


@dataclass(frozen=True)
class UnitDecisions:
    """What a decisions folder holds of units and sensors."""

    scores: pa.Table
    """schema.UNIT_SCORES"""
    drift: pa.Table
    """schema.DRIFT"""
    facts: dict[str, Any]
    """rule, reference, and how often a healthy fleet would alarm"""
    config: UnitConfig
    trends: pa.Table | None = None
    """schema.UNIT_TRENDS; None in folders of earlier versions"""

    @property
    def alarms(self) -> tuple[UnitAlarm, ...]:
        return unit_alarms(self.scores, self.config)


def compare(
    scores: pa.Table,
    reference_records: int,
    human: Said | Sequence[str | None] | None = None,
    normals_only: bool = False,
    reference: pa.Table | None = None,
    out_of_sample: pa.Table | None = None,
) -> Compared:
    """Each record's p-value against the reference of its sensor.

    `out_of_sample` as in `reference.with_out_of_sample`. Records whose time cannot be are in no reference.

    The reference is, the first that applies: the records of `reference`, scores by the same run of other corpora; with `normals_only`
    those that a person calls normal; the earliest `reference_records` of each sensor
    whose moment nobody calls faulty.
    """
    num_judged = scores.num_rows
    if reference is not None:
        scores = joined(*(table.select([name for name in scores.column_names if name in COLUMNS]) for table in (scores, reference)))
    said = Said.of(human, num_judged).among(scores.num_rows)
    usable, trusted, groups = usable_rows(scores), trusted_rows(scores), sensor_groups(scores)
    if reference is not None:
        in_reference, words = usable & trusted, "another scores table"
        in_reference[:num_judged] = False
    elif normals_only:
        in_reference, words = usable & trusted & said.mask(~said.faulty), "trusted normals"
    else:
        in_reference = earliest_rows(groups, usable & trusted & ~called_faulty(scores, said, groups), reference_records)
        words = f"the earliest {reference_records} usable records of each sensor, at most half of them"
    num_held = 0 if out_of_sample is None else out_of_sample.num_rows
    if num_held and reference is None:
        words += "; those that calibrated it with their scores out of sample"
    against = with_out_of_sample(scores, out_of_sample)
    has_p_value = np.zeros(len(usable), bool)
    for rows, p in p_values_by_sensor(against, usable, in_reference, groups):
        has_p_value[rows] = np.isfinite(p)
    normals = normals_only and reference is None
    return Compared(scores, num_judged, said, usable, trusted, groups, in_reference, normals, words, against, num_held, has_p_value)


def called_faulty(scores: pa.Table, said: Said, groups: SensorGroups) -> Bool[np.ndarray, " records"]:
    """The records of moments of a unit of which a person calls one faulty: all its sensors heard it."""
    faulty = said.mask(said.faulty)
    if faulty.any():
        time = times_ms(scores)
        for rows, unit, sensor in groups.batches():
            if faulty[rows].any():
                moment = moments(unit, sensor, time[rows], TOLERANCE_S)
                faulty[rows] = np.bincount(moment, faulty[rows])[moment] > 0
    return faulty


def decide_units(of: Compared, cuts: Cuts | GroupedCuts, config: UnitConfig, pool_sensors_s: float | None = None) -> UnitDecisions:
    """Alarms and trends of units and drift of sensors, all of each sensor's own scores.

    `pool_sensors_s` is the tolerance of the means over sensors that the cuts are for, None where they are for single scores. Records whose
    time cannot be are in no month.
    """
    judged_by = of.scores if pool_sensors_s is None else over_sensors(of.scores, pool_sensors_s)[0]
    healthy = by_cut(judged_by, cuts) != LABEL_ABNORMAL
    healthy[of.said.rows] = ~of.said.faulty
    in_time = of.usable & of.trusted
    moved = drift(of.against, in_time & healthy, of.in_reference, of.groups)
    trends = unit_trends(of.against, in_time, of.in_reference, of.groups, config.window_minutes)
    units = unit_scores(of.scores, of.p_values(), of.in_reference, config, of.groups)
    judged_units = of.judged_units
    trends = trends.filter(pa.array([unit in judged_units for unit in trends["unit"].to_pylist()], pa.bool_()))
    facts = {
        "config": to_json(config),
        "reference": of.words,
        "trusted_normals": of.normals,
        "num_records": int(of.has_p_value[of.judged].sum()),
        "num_unusable": int((~of.usable)[of.judged].sum()),
        "num_without_reference": int((of.usable & ~of.has_p_value)[of.judged].sum()),
        "num_reference_records": int(of.in_reference.sum()),
        "num_estimated_sensors": estimated_sensors(of.groups, of.usable, of.in_reference),
        "num_out_of_sample": of.num_out_of_sample,
        **unit_facts(units, config, of.judged_units),
    }
    return UnitDecisions(units, moved, facts, config, trends)


def keep_budget(
    asked: str, of: Compared, cuts: Cuts, config: UnitConfig, human: Said | Sequence[str | None] | None, pool_sensors_s: float | None = None
) -> tuple[Cuts, UnitConfig, dict[str, Any]]:
    """Cuts of records and the rule of units for an alarm budget ("5/week"), and what cuts.json says of it.

    `cuts` give the normal cut; where they are for means over sensors (`pool_sensors_s`), so are the scores that alarms are counted on.
    """
    per_week, in_time = budget_per_week(asked), of.usable & of.trusted
    against = of.against if pool_sensors_s is None else over_sensors(of.against, pool_sensors_s)[0]
    rate = records_per_week(of.groups, times_ms(of.scores), in_time & of.judged)
    healthy = one_chunk(against["score"]).to_numpy()[of.in_reference].astype(np.float64)
    records = record_promise(per_week, healthy, rate)
    windows = unit_scores(of.scores, of.p_values(smoothed=True), of.in_reference, config, of.groups)
    a_day = unit_facts(windows, config, of.judged_units)["windows_per_day"]
    units = unit_promise(per_week, windows, config, None if a_day is None else 7 * a_day)
    found = budget_cuts(cuts, records, per_week, of.normals)
    judged_by = of.scores if pool_sensors_s is None else over_sensors(of.scores, pool_sensors_s)[0]
    said = Said.of(human, of.num_judged)
    alarms = of.usable[said.rows] & (one_chunk(judged_by["score"]).to_numpy()[said.rows].astype(np.float64) >= found.anomaly_above)
    faults = None if human is None else missed(said.labels, alarms)
    doubtful = int(((healthy >= cuts.anomaly_above) & (healthy < found.anomaly_above)).sum())
    return found, unit_config(config, units), budget_facts(asked, per_week, records, units, doubtful, faults)


def write_units(decisions_uri: str, units: UnitDecisions) -> list[str]:
    """Writes the files of a decisions folder; returns their names."""
    windows = units.scores
    objects.write_tables(
        objects.join(decisions_uri, "unit_scores.parquet"),
        UNIT_SCORES,
        lambda: (as_written(windows.slice(piece.start, piece.stop - piece.start)) for piece in blocks(windows.num_rows)),
    )
    objects.write_table(objects.join(decisions_uri, "drift.parquet"), units.drift)
    objects.write_json(objects.join(decisions_uri, "unit_alarms.json"), units.facts)
    assert units.trends is not None
    objects.write_table(objects.join(decisions_uri, "unit_trends.parquet"), units.trends)
    return list(FILES)


def read_units(decisions_uri: str) -> UnitDecisions | None:
    """What a finished decisions folder holds of units; None where it was made without."""
    where = objects.join(decisions_uri, "unit_alarms.json")
    if not objects.exists(where):
        return None
    facts = objects.read_json(where)
    windows = objects.read_table(objects.join(decisions_uri, "unit_scores.parquet"), list(ALARM_COLUMNS), names=SENSOR, if_there=("dated",))
    moved = objects.read_table(objects.join(decisions_uri, "drift.parquet"))
    if "dated" not in windows.column_names:  # an earlier version took every time for true
        windows = windows.append_column(UNIT_SCORES.field("dated"), pa.array(np.ones(windows.num_rows, bool)))
    trends_uri = objects.join(decisions_uri, "unit_trends.parquet")
    trends = objects.read_table(trends_uri) if objects.exists(trends_uri) else None
    return UnitDecisions(windows, moved, facts, from_json(UnitConfig, facts["config"], where), trends)


def print_units(units: UnitDecisions) -> None:
    """The rule, what it would do in a healthy fleet, and which units are in alarm."""
    facts, config = units.facts, units.config
    k, n = config.persist
    print(f"units: {facts['num_units']:,}, in windows of {config.window_minutes:g} min; reference: {facts['reference']}")
    if not units.scores.num_rows:
        print("  no alarms of units: the run tells nothing of few records, and all sensors together have fewer than 50 reference records")
        return
    print(f"  alarm: {k} of the last {n} windows with p <= {config.rate:.3g}")
    if num := facts.get("num_estimated_sensors"):
        print(f"  {num:,} sensors have fewer than {FEWEST_CONFORMAL} reference records: their p-values are estimates")
    print(f"  {healthy_words(facts)}")
    loud = [unit for unit in units.alarms if unit.alarm]
    found = sum(unit.discovery for unit in units.alarms)
    print(f"  {len(loud)} units in alarm; {found} discoveries in the newest windows at a false-discovery rate of {config.fdr:g}")
    for unit in loud[:10]:
        q = "-" if unit.q_value is None else f"{unit.q_value:.2g}"
        since = "by records whose time cannot be" if unit.since is None else f"since {unit.since:%Y-%m-%d %H:%M} UTC"
        print(f"    {unit.unit} {since}, q = {q}, most of all sensor {unit.sensor_id}")
    if units.trends is not None:
        print_trends(units.trends)


def healthy_words(facts: dict[str, Any]) -> str:
    """How often a healthy fleet would alarm: by the formula, and by what the reference windows did."""
    words = "how many alarms a day a healthy fleet would raise is not known: no unit has records in two windows"
    if facts["expected_per_day"] is not None:
        words = f"a healthy fleet would raise {facts['expected_per_day']:.2g} alarms a day if windows were independent"
    if facts["reference_rate"] is None:
        return f"{words}; there is no reference window to compare that with"
    if facts["resampled_per_day"] is not None:
        low, high = facts["resampled_interval"]
        words += f";\n  its reference windows, resampled in blocks, {facts['resampled_per_day']:.2g} [{low:.2g}, {high:.2g}]"
        words += f" ({facts['reference_onsets']} seen, so at most {facts['at_most_per_day']:.2g} a day)"
    return f"{words}\n  {facts['reference_rate']:.2%} of the reference windows exceed, nominally {facts['config']['rate']:.2%}"
