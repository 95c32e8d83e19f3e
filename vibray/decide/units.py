"""Scores to alarms of units and the drift of sensors: which records are the reference, and what the decisions folder holds of it."""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa

from vibray.config import from_json, to_json
from vibray.decide.cuts import Cuts, GroupedCuts
from vibray.decide.drift import drift
from vibray.decide.pooling import over_sensors
from vibray.decide.pseudo_labels import by_cut
from vibray.decide.reference import (
    FEWEST_CONFORMAL,
    OutOfSample,
    earliest_rows,
    estimated_sensors,
    record_p_values,
    sensor_groups,
    trusted_rows,
    usable_rows,
    with_out_of_sample,
)
from vibray.decide.unit_alarms import UnitAlarm, UnitConfig, unit_alarms, unit_facts, unit_scores
from vibray.schema import FLEET_P_VALUE, LABEL_ABNORMAL, NORMAL, ORIGIN, TIME_TRUSTED, UNIT_SCORES
from vibray.storage import objects

COLUMNS = [*ORIGIN.names, "state", "calibrated", "score", FLEET_P_VALUE.name, TIME_TRUSTED.name]
FILES = ("unit_scores.parquet", "unit_alarms.json", "drift.parquet")


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

    @property
    def alarms(self) -> tuple[UnitAlarm, ...]:
        return unit_alarms(self.scores, self.config)


def decide_units(
    scores: pa.Table,
    cuts: Cuts | GroupedCuts,
    config: UnitConfig,
    human: list[str | None] | None = None,
    normals_only: bool = False,
    reference: pa.Table | None = None,
    pool_sensors_s: float | None = None,
    out_of_sample: OutOfSample = MappingProxyType({}),
) -> UnitDecisions:
    """Alarms of units and drift of sensors, both of each sensor's own scores.

    `pool_sensors_s` is the tolerance of the means over sensors that the cuts are for, None where they are for single scores;
    `out_of_sample` as in `reference.with_out_of_sample`. Records whose time cannot be are in no reference and no month.

    The reference is, the first that applies: the records of `reference`, scores by the same run of other corpora; with `normals_only`
    those that a person calls normal; the earliest records of each sensor.
    """
    scores, num_judged = scores.select(COLUMNS), scores.num_rows
    said = np.array(human if human is not None else [None] * num_judged, object)
    if reference is not None:
        scores = pa.concat_tables([scores, reference.select(COLUMNS)])
        said = np.concatenate([said, np.full(reference.num_rows, None)])
    usable, trusted, groups = usable_rows(scores), trusted_rows(scores), sensor_groups(scores)
    if reference is not None:
        in_reference, words = usable & trusted & (np.arange(len(usable)) >= num_judged), "another scores table"
    elif normals_only:
        in_reference, words = usable & trusted & (said == NORMAL), "trusted normals"
    else:
        in_reference = earliest_rows(groups, usable & trusted, config.reference_records)
        words = f"the earliest {config.reference_records} usable records of each sensor, at most half of them"
    against = with_out_of_sample(scores, out_of_sample)
    if out_of_sample and reference is None:
        words += "; those that calibrated it with their scores out of sample"
    p = record_p_values(against, usable, in_reference, groups)
    units = unit_scores(scores, p, in_reference, config)

    judged_by = scores if pool_sensors_s is None else over_sensors(scores, pool_sensors_s)[0]
    abnormal = by_cut(judged_by, cuts) == LABEL_ABNORMAL
    named = np.array([name is not None for name in said], bool)
    healthy = usable & trusted & np.where(named, said == NORMAL, ~abnormal)
    moved = drift(against, healthy, in_reference)
    judged = np.arange(len(usable)) < num_judged
    judged_units = set(scores["unit"].filter(pa.array(judged & np.isfinite(p))).to_pylist())
    facts = {
        "config": to_json(config),
        "reference": words,
        "trusted_normals": normals_only and reference is None,
        "num_records": int(np.isfinite(p)[judged].sum()),
        "num_unusable": int((~usable)[judged].sum()),
        "num_without_reference": int((usable & ~np.isfinite(p))[judged].sum()),
        "num_reference_records": int(in_reference.sum()),
        "num_estimated_sensors": estimated_sensors(groups, usable, in_reference),
        "num_out_of_sample": len(out_of_sample),
        **unit_facts(units, config, judged_units),
    }
    return UnitDecisions(units, moved, facts, config)


def write_units(decisions_uri: str, units: UnitDecisions) -> list[str]:
    """Writes the files of a decisions folder; returns their names."""
    objects.write_table(objects.join(decisions_uri, "unit_scores.parquet"), units.scores)
    objects.write_table(objects.join(decisions_uri, "drift.parquet"), units.drift)
    objects.write_json(objects.join(decisions_uri, "unit_alarms.json"), units.facts)
    return list(FILES)


def read_units(decisions_uri: str) -> UnitDecisions | None:
    """What a finished decisions folder holds of units; None where it was made without."""
    where = objects.join(decisions_uri, "unit_alarms.json")
    if not objects.exists(where):
        return None
    facts = objects.read_json(where)
    windows, moved = (objects.read_table(objects.join(decisions_uri, name)) for name in ("unit_scores.parquet", "drift.parquet"))
    if "dated" not in windows.column_names:  # an earlier version took every time for true
        windows = windows.append_column(UNIT_SCORES.field("dated"), pa.array(np.ones(windows.num_rows, bool)))
    return UnitDecisions(windows, moved, facts=facts, config=from_json(UnitConfig, facts["config"], where))


def print_units(units: UnitDecisions) -> None:
    """The rule, what it would do in a healthy fleet, and which units are in alarm."""
    facts, config = units.facts, units.config
    k, n = config.persist
    print(f"units: {facts['num_units']:,}, in windows of {config.window_minutes:g} min; reference: {facts['reference']}")
    if not units.scores.num_rows:
        print("  no alarms of units: the run tells nothing of few records, and all sensors together have fewer than 50 reference records")
        return
    print(f"  alarm: {k} of the last {n} windows with p <= {config.rate:g}")
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
