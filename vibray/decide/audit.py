"""What a finished table says against itself that no single record can: clocks, repeated waveforms, one name for two machines.

Decided over all rows at once, in the order of (measured_at, record_id), so that neither workers nor the order of inputs matter. The table
is not edited: who reads it derives an effective state from what is found here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int64

from vibray.config import same_name
from vibray.decide.clocks import trusted_times
from vibray.decide.findings import Finding

NUM_NAMED = 3
"""Sensors that a line names; the rest it counts."""

FEWEST_LONE = 10

COLUMNS = ["corpus", "record_id", "unit", "sensor_id", "measured_at", "content_hash"]


@dataclass(frozen=True, eq=False)
class Audit:
    """One entry a record in both arrays."""

    time_trusted: Bool[np.ndarray, " records"]
    """False: the record's time cannot be. It is in no reference, window of time, drift or axis; its score stands."""
    repeats: Bool[np.ndarray, " records"]
    """True: the waveform is one that its sensor sent before. It says nothing of the machine: sensor_fault."""
    findings: tuple[Finding, ...]


def audit(records: pa.Table, num_duplicates: int = 0) -> Audit:
    """The audit of a table with COLUMNS, records that stand twice (duplicates.py) left out and counted."""
    unit_names, unit = _codes(records["unit"])
    sensor_ids, sensor_id = _codes(records["sensor_id"])
    pairs, sensor = np.unique(unit * max(1, len(sensor_ids)) + sensor_id, return_inverse=True)
    names = [_name(unit_names[pair // len(sensor_ids)], sensor_ids[pair % len(sensor_ids)]) for pair in pairs.tolist()]
    sensor = sensor.reshape(-1).astype(np.int64)
    time_ms = records["measured_at"].to_numpy().astype("datetime64[ms]").astype(np.int64)
    content = _numbers(records["content_hash"])
    trusted = trusted_times(unit, sensor, time_ms, records["record_id"])
    repeats = _repeats(sensor, content, time_ms, trusted)
    findings = [
        *_about_duplicates(num_duplicates),
        *_about_times(names, sensor, time_ms, trusted),
        *_about_repeats(names, sensor, repeats),
        *_about_moments(names, sensor, time_ms, _numbers(records["corpus"])),
        *_about_copies(names, sensor, content),
        *_about_lone_units(unit, unit_names),
        *_about_names("units", unit_names),
        *_about_names("sensors", sensor_ids),
    ]
    return Audit(trusted, repeats, tuple(findings))


def _codes(column: pa.ChunkedArray) -> tuple[list[str], Int64[np.ndarray, " records"]]:
    """The distinct values, and the number of each row's."""
    encoded = pc.dictionary_encode(column).combine_chunks()  # type: ignore[attr-defined]
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy().astype(np.int64)


def _numbers(column: pa.ChunkedArray) -> Int64[np.ndarray, " records"]:
    """A number a distinct value: of waveforms there are as many as records, and their names would be as many objects."""
    return pc.dictionary_encode(column).combine_chunks().indices.to_numpy().astype(np.int64)  # type: ignore[attr-defined]


def _name(unit: str, sensor_id: str) -> str:
    return sensor_id if unit == sensor_id else f"{unit}/{sensor_id}"


def _repeats(sensor: np.ndarray, content: np.ndarray, time_ms: np.ndarray, trusted: np.ndarray) -> np.ndarray:
    """bool a record: its sensor sent this waveform before. One with a time that cannot be counts as the later."""
    order = np.lexsort((time_ms, ~trusted, content, sensor))
    repeats = np.zeros(len(order), bool)
    repeats[order[1:]] = (sensor[order[1:]] == sensor[order[:-1]]) & (content[order[1:]] == content[order[:-1]])
    return repeats


def _many(num: int, what: str) -> str:
    return f"{num:,} {what}" + ("s" if num != 1 else "")


def _of_sensors(names: Sequence[str], counts: np.ndarray) -> str:
    """Whose they are, those with most first: "sensor u3/ch1", or "2 sensors (30 of u3/ch1, 2 of u4/ch1)"."""
    most = sorted(np.flatnonzero(counts).tolist(), key=lambda s: (-counts[s], names[s]))
    if len(most) == 1:
        return f"sensor {names[most[0]]}"
    more = f" and {len(most) - NUM_NAMED:,} more" if len(most) > NUM_NAMED else ""
    return f"{len(most):,} sensors ({', '.join(f'{counts[s]:,} of {names[s]}' for s in most[:NUM_NAMED])}{more})"


def _about_duplicates(num: int) -> list[Finding]:
    if not num:
        return []
    text = f"{_many(num, 'record')} {'stands' if num == 1 else 'stand'} more than once in the inputs, at the same time: counted once"
    return [Finding("duplicates", num, text)]


def _about_times(names: list[str], sensor: np.ndarray, time_ms: np.ndarray, trusted: np.ndarray) -> list[Finding]:
    wrong = np.flatnonzero(~trusted)
    if not len(wrong):
        return []
    first, last = (str(np.datetime64(int(t), "ms").astype("datetime64[s]")).replace("T", " ") for t in np.sort(time_ms[wrong])[[0, -1]])
    when = f"at {first}" if first == last else f"from {first} to {last}"
    whose = _of_sensors(names, np.bincount(sensor[wrong], minlength=len(names)))
    text = (
        f"{_many(len(wrong), 'record')} of {whose} {'has' if len(wrong) == 1 else 'have'} a time that cannot be beside the rest of the "
        f"sensor and the fleet ({when} UTC): kept out of references, calibration, the newest windows, drift and time axes; scores stand. "
        "Set the clock and correct data_time"
    )
    return [Finding("implausible_times", len(wrong), text)]


def _about_repeats(names: list[str], sensor: np.ndarray, repeats: np.ndarray) -> list[Finding]:
    num = int(repeats.sum())
    if not num:
        return []
    whose = _of_sensors(names, np.bincount(sensor[repeats], minlength=len(names)))
    text = (
        f"{_many(num, 'record')} of {whose} {'repeats' if num == 1 else 'repeat'} an earlier waveform: no machine does that, so the state "
        "is sensor_fault from the second on. Look at the logger or gateway"
    )
    return [Finding("repeated_waveforms", num, text)]


def _about_moments(names: list[str], sensor: np.ndarray, time_ms: np.ndarray, corpus: np.ndarray) -> list[Finding]:
    """Moments of a sensor with several records: they differ, for records that are equal stand once."""
    order = np.lexsort((time_ms, sensor))
    same = (sensor[order[1:]] == sensor[order[:-1]]) & (time_ms[order[1:]] == time_ms[order[:-1]])
    if not same.any():
        return []
    begins = same & ~np.r_[False, same[:-1]]  # one a moment, however many records it holds
    num = int(begins.sum())
    whose = _of_sensors(names, np.bincount(sensor[order[1:][begins]], minlength=len(names)))
    across = bool((same & (corpus[order[1:]] != corpus[order[:-1]])).any())
    text = (
        f"{_many(num, 'moment')} of {whose} {'holds' if num == 1 else 'hold'} different records: "
        + ("units of one name in two corpora are taken for one machine. " if across else "two machines under one name? ")
        + "Where they are two, name the unit by folder or sensor (--unit-pattern or --units of jobs/featurize.py)"
    )
    return [Finding("differing_moments", num, text)]


def _about_copies(names: list[str], sensor: np.ndarray, content: np.ndarray) -> list[Finding]:
    """Waveforms that stand under several sensors."""
    pairs = np.unique(content * (len(names) + 1) + sensor)
    of_content = pairs // (len(names) + 1)
    several = np.bincount(of_content)[of_content] > 1
    num = len(np.unique(of_content[several]))
    if not num:
        return []
    whose = _of_sensors(names, np.bincount(pairs[several] % (len(names) + 1), minlength=len(names)))
    text = (
        f"{_many(num, 'waveform')} of {whose} {'stands' if num == 1 else 'stand'} under more than one sensor, and counts for each: one "
        "channel under two names, or a logger that mixes them up"
    )
    return [Finding("shared_waveforms", num, text)]


def _about_lone_units(unit: np.ndarray, names: list[str]) -> list[Finding]:
    """Units of one record each, where most are: a pattern that took a number or a date for the machine."""
    lone = np.flatnonzero(np.bincount(unit, minlength=len(names)) == 1)
    if len(lone) < max(FEWEST_LONE, len(names) / 2):
        return []
    text = (
        f"{len(lone):,} of {len(names):,} units have one record each, as {names[lone[0]]}: a machine is rarely measured once; does "
        "--unit-pattern take more than the unit, or is a sensor_id given for each record?"
    )
    return [Finding("units_of_one_record", len(lone), text)]


def _about_names(what: str, names: list[str]) -> list[Finding]:
    """Names that are one but for case, blanks or Unicode form."""
    alike: dict[str, list[str]] = {}
    for name in sorted(names):
        alike.setdefault(same_name(name), []).append(name)
    groups = [group for group in alike.values() if len(group) > 1]
    if not groups:
        return []
    shown = "; ".join(" and ".join(repr(name) for name in group) for group in groups[:NUM_NAMED])
    text = (
        f"{sum(map(len, groups)):,} {what} differ from one another only by case, blanks or Unicode form ({shown}) and are taken for "
        "different ones. Where they are one, write it one way"
    )
    return [Finding(f"alike_{what}", sum(map(len, groups)), text)]
