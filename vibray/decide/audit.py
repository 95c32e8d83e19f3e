"""What a finished table says against itself that no single record can: clocks, repeated waveforms, one name for two machines.

Decided over all rows at once, in the order of (measured_at, key), so that neither workers nor the order of inputs matter. The table
is not edited: who reads it derives an effective state from what is found here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Bool

from vibray.config import same_name
from vibray.decide.clocks import trusted_times
from vibray.decide.duplicates import contents
from vibray.decide.findings import Finding
from vibray.decide.groups import SensorGroups, sensor_groups
from vibray.storage.columns import codes, times_ms

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


def audit(records: pa.Table, num_duplicates: int = 0, groups: SensorGroups | None = None) -> Audit:
    """The audit of a table with COLUMNS (or what stands for them in an opened one, storage/columns.py), records that stand twice
    (duplicates.py) left out and counted. `groups` are the table's, where they are known."""
    groups = sensor_groups(records) if groups is None else groups
    unit_names, unit = codes(records["unit"])
    names = [_name(*pair) for pair in groups.names]
    time_ms, content = times_ms(records), contents(records)
    trusted = trusted_times(unit, groups, time_ms, records)
    repeats = _repeats(groups, content, time_ms, trusted)
    of_unit = {name: int(groups.bounds[b] - groups.bounds[a]) for name, a, b in groups.units()}
    findings = [
        *_about_duplicates(num_duplicates),
        *_about_times(names, groups, time_ms, trusted),
        *_about_repeats(names, groups, repeats),
        *_about_moments(names, groups, time_ms, codes(records["corpus"])[1]),
        *_about_copies(names, groups, content),
        *_about_lone_units([name for name in unit_names if name in of_unit], of_unit),
        *_about_names("units", list(of_unit)),
        *_about_names("sensors", sorted({sensor_id for _, sensor_id in groups.names})),
    ]
    return Audit(trusted, repeats, tuple(findings))


def _name(unit: str, sensor_id: str) -> str:
    return sensor_id if unit == sensor_id else f"{unit}/{sensor_id}"


def _repeats(groups: SensorGroups, content: np.ndarray, time_ms: np.ndarray, trusted: np.ndarray) -> np.ndarray:
    """bool a record: its sensor sent this waveform before. One with a time that cannot be counts as the later."""
    repeats = np.zeros(len(content), bool)
    for _, rows in groups:
        own = content[rows]
        ordered = np.sort(own)
        if not (ordered[1:] == ordered[:-1]).any():
            continue
        order = np.lexsort((time_ms[rows], ~trusted[rows], own))
        repeats[rows[order[1:]]] = own[order[1:]] == own[order[:-1]]
    return repeats


def _of_each(groups: SensorGroups, rows: np.ndarray) -> np.ndarray:
    """How many of these records each sensor has."""
    return np.bincount(groups.numbers()[rows], minlength=len(groups))


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


def _about_times(names: list[str], groups: SensorGroups, time_ms: np.ndarray, trusted: np.ndarray) -> list[Finding]:
    wrong = np.flatnonzero(~trusted)
    if not len(wrong):
        return []
    first, last = (str(np.datetime64(int(t), "ms").astype("datetime64[s]")).replace("T", " ") for t in np.sort(time_ms[wrong])[[0, -1]])
    when = f"at {first}" if first == last else f"from {first} to {last}"
    whose = _of_sensors(names, _of_each(groups, wrong))
    text = (
        f"{_many(len(wrong), 'record')} of {whose} {'has' if len(wrong) == 1 else 'have'} a time that cannot be beside the rest of the "
        f"sensor and the fleet ({when} UTC): kept out of references, calibration, the newest windows, drift and time axes; scores stand. "
        "Set the clock and correct data_time"
    )
    return [Finding("implausible_times", len(wrong), text)]


def _about_repeats(names: list[str], groups: SensorGroups, repeats: np.ndarray) -> list[Finding]:
    num = int(repeats.sum())
    if not num:
        return []
    whose = _of_sensors(names, _of_each(groups, repeats))
    text = (
        f"{_many(num, 'record')} of {whose} {'repeats' if num == 1 else 'repeat'} an earlier waveform: no machine does that, so the state "
        "is sensor_fault from the second on. Look at the logger or gateway"
    )
    return [Finding("repeated_waveforms", num, text)]


def _about_moments(names: list[str], groups: SensorGroups, time_ms: np.ndarray, corpus: np.ndarray) -> list[Finding]:
    """Moments of a sensor with several records: they differ, for records that are equal stand once."""
    counts, across = np.zeros(len(names), np.int64), False
    for i, (_, rows) in enumerate(groups):
        time = time_ms[rows]
        same = time[1:] == time[:-1]
        if same.any():
            counts[i] = (same & ~np.r_[False, same[:-1]]).sum()  # one a moment, however many records it holds
            own = corpus[rows]
            across |= bool((same & (own[1:] != own[:-1])).any())
    num = int(counts.sum())
    if not num:
        return []
    whose = _of_sensors(names, counts)
    text = (
        f"{_many(num, 'moment')} of {whose} {'holds' if num == 1 else 'hold'} different records: "
        + ("units of one name in two corpora are taken for one machine. " if across else "two machines under one name? ")
        + "Where they are two, name the unit by folder or sensor (--unit-pattern or --units of jobs/featurize.py)"
    )
    return [Finding("differing_moments", num, text)]


def _about_copies(names: list[str], groups: SensorGroups, content: np.ndarray) -> list[Finding]:
    """Waveforms that stand under several sensors."""
    ordered = np.sort(content)
    twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    del ordered
    if not len(twice):
        return []
    near = [(own[at], i) for i, (_, rows) in enumerate(groups) if len(at := np.flatnonzero(_among(twice, own := content[rows])))]
    sensor = np.repeat([i for _, i in near], [len(own) for own, _ in near])
    pairs = np.unique(np.searchsorted(twice, np.concatenate([own for own, _ in near])) * (len(names) + 1) + sensor)
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


def _among(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    """bool a value: it is one of `ordered`, at least one."""
    return ordered[np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)] == values


def _about_lone_units(names: list[str], num_records: dict[str, int]) -> list[Finding]:
    """Units of one record each, where most are: a pattern that took a number or a date for the machine."""
    lone = [name for name in names if num_records[name] == 1]
    if len(lone) < max(FEWEST_LONE, len(names) / 2):
        return []
    text = (
        f"{len(lone):,} of {len(names):,} units have one record each, as {lone[0]}: a machine is rarely measured once; does "
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
