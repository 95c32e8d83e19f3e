"""A line of text becomes a Record or a BadRecord: pure, and always one of the two.

The checks, in this order; the first that fails gives the reason:
not JSON, several objects, not an object, doubled field, missing field, bad sensor_id, bad time, not a number, NaN or infinite, wrong
length, constant, out of range, precision lost, clipped. From constant on the samples that were measured are judged, never padding.
Of any other key that occurs twice the last value counts.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from vibray import schema
from vibray.schema import Reason
from vibray.storage.corpus import CorpusFacts
from vibray.storage.decoding import FIELDS, Fields, check_one, decode
from vibray.storage.lines import head_of, head_of_value
from vibray.storage.samples import Refused, json_type, numbers_of, waveform_of
from vibray.storage.shortcut import cut_numbers
from vibray.storage.times import Time, parse_time


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """A measurement that passed every check: a row of the records table, and what a job counts."""

    corpus: str
    record_id: str
    line: int | None
    unit: str
    sensor_id: str
    measured_at: datetime
    sample_rate_hz: float
    content_hash: str
    waveform: np.ndarray
    naive_time: bool
    ambiguous_time: bool
    nonexistent_time: bool
    fitted: bool
    other_rate: bool = False
    """it says another sample rate of itself than the corpus' facts do"""


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A line that was set aside: a row of bad_records."""

    corpus: str
    shard: str
    offset: int
    line: int | None
    reason: Reason
    detail: str
    head: str
    num_objects: int = 1
    """JSON objects that stand there"""


def parse_line(raw: bytes, shard: str, offset: int, line: int | None, corpus: str, facts: CorpusFacts) -> Record | BadRecord:
    """One non-blank line of a JSON Lines shard. Raises nothing but UnitError."""
    try:
        value = _decode_quickly(raw, facts)
        if value is None:
            value = decode(raw)
            check_one(value)
        return _record(value, f"{shard}@{offset}", line, shard, corpus, facts)
    except Refused as refused:
        return BadRecord(corpus, shard, offset, line, refused.reason, _clean(refused.detail), head_of(raw), refused.num_objects)


def parse_object(value: Any, shard: str, index: int, corpus: str, facts: CorpusFacts) -> Record | BadRecord:
    """One item of a .json list, already decoded. Raises nothing but UnitError."""
    try:
        return _record(value, f"{shard}#{index}", None, shard, corpus, facts)
    except Refused as refused:
        return BadRecord(corpus, shard, index, None, refused.reason, _clean(refused.detail), head_of_value(value))


def _clean(text: str) -> str:
    return text[:500].encode("utf-8", "replace").decode()


def _decode_quickly(raw: bytes, facts: CorpusFacts) -> dict[str, Any] | None:
    """What `decode` gives, its signal_value already as finite numbers; None for a line that only `decode` can tell."""
    cut = cut_numbers(raw, facts.num_samples if facts.wrong_length == "quarantine" else None)
    if cut is None:
        return None
    rest, empty, numbers = cut
    try:
        value = decode(rest)
    except Refused:
        return None
    if not isinstance(value, dict) or value.get("signal_value") != empty:
        return None
    value.update(signal_value=numbers)  # an item set would be a key that occurs again
    return value


def _record(value: Any, record_id: str, line: int | None, shard: str, corpus: str, facts: CorpusFacts) -> Record:
    if not isinstance(value, dict):
        raise Refused(Reason.NOT_AN_OBJECT, f"a JSON {json_type(value)}")
    if isinstance(value, Fields) and value.doubled:
        doubled = [name for name in FIELDS if name in value.doubled]
        if doubled:
            raise Refused(Reason.DOUBLED_FIELD, f"{' and '.join(doubled)} more than once: which one is meant?")
    missing = [name for name in FIELDS if name not in value]
    if missing:
        near = [key for key in value if key.lower() in missing or key.strip() in missing]
        written = f": it has {', '.join(map(repr, near[:3]))}, written otherwise" if near else ""
        raise Refused(Reason.MISSING_FIELD, ", ".join(missing) + written)
    sensor_id = _sensor_id(value["sensor_id"])
    time = _time(value["data_time"], facts)
    numbers = numbers_of(value["signal_value"])
    fitted = len(numbers) != facts.num_samples
    if fitted and (facts.wrong_length == "quarantine" or not len(numbers)):
        raise Refused(Reason.WRONG_LENGTH, f"{len(numbers)} samples, {facts.num_samples} expected")
    waveform = samples = waveform_of(numbers[: facts.num_samples])
    if fitted:
        waveform = np.zeros(facts.num_samples, np.float32)
        waveform[: len(samples)] = samples
    return Record(
        corpus=corpus,
        record_id=record_id,
        line=line,
        unit=facts.unit(sensor_id, shard),
        sensor_id=sensor_id,
        measured_at=time.at,
        sample_rate_hz=facts.sample_rate_hz,
        content_hash=content_hash(waveform),
        waveform=waveform,
        naive_time=time.naive,
        ambiguous_time=time.ambiguous,
        nonexistent_time=time.nonexistent,
        fitted=fitted,
        other_rate=_says_another_rate(value, facts.sample_rate_hz),
    )


RATE_FIELDS = ("sample_rate_hz", "sample_rate", "sampling_rate", "sampling_rate_hz", "sampling_frequency", "fs")
"""Fields in which loggers write the rate; the facts of the corpus decide, but a contradiction is counted."""

RATE_TOLERANCE = 0.001


def _says_another_rate(value: dict[str, Any], sample_rate_hz: float) -> bool:
    for name in RATE_FIELDS:
        said = value.get(name)
        if isinstance(said, int | float) and not isinstance(said, bool) and said > 0:
            return all(abs(unit * said / sample_rate_hz - 1) > RATE_TOLERANCE for unit in (1, 1000))  # Hz, kHz
    return False


def _sensor_id(value: Any) -> str:
    if not isinstance(value, str):
        raise Refused(Reason.BAD_SENSOR_ID, f"a JSON {json_type(value)}, a string is wanted")
    if not value.strip():
        raise Refused(Reason.BAD_SENSOR_ID, "empty")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Refused(Reason.BAD_SENSOR_ID, f"not Unicode: {value[:100]!a}") from None
    return value


def _time(value: Any, facts: CorpusFacts) -> Time:
    try:
        return parse_time(value, facts.zone, facts.time_format)
    except (ValueError, OverflowError) as error:
        shown = json_type(value) if isinstance(value, dict | list | bool | type(None)) else ascii(value)[:60]
        raise Refused(Reason.BAD_TIME, f"{shown}: {str(error)[:200]}") from None


def content_hash(waveform: np.ndarray) -> str:
    """blake2b, 128 bits, hexadecimal, of the waveform as little-endian float32."""
    return hashlib.blake2b(np.ascontiguousarray(waveform, "<f4").data, digest_size=16).hexdigest()


def to_tables(records: Sequence[Record], bad: Sequence[BadRecord], num_samples: int) -> tuple[pa.Table, pa.Table]:
    """The records table and the bad_records table, in the order given."""
    layout = schema.records(num_samples)
    flat = np.concatenate([r.waveform for r in records]) if records else np.empty(0, np.float32)
    columns = [pa.array([getattr(r, field.name) for r in records], field.type) for field in schema.ORIGIN]
    waveforms = pa.FixedSizeListArray.from_arrays(pa.array(flat), type=schema.vector(num_samples))
    kept = pa.Table.from_arrays([*columns, waveforms], schema=layout)
    aside = pa.Table.from_arrays(
        [pa.array([getattr(b, field.name) for b in bad], field.type) for field in schema.BAD_RECORDS], schema=schema.BAD_RECORDS
    )
    return kept, aside


def set_aside(records: pa.Table, details: Mapping[int, str]) -> tuple[pa.Table, pa.Table]:
    """The records but for the rows named, and those as bad_records: what cannot be computed of a record is said of it by its id.

    `details` maps a row to what is not finite there.
    """
    rows = sorted(details)
    bad = []
    for row, origin in zip(rows, records.select(schema.ORIGIN.names).take(pa.array(rows, pa.int64())).to_pylist(), strict=True):
        shard, offset = schema.place(origin["record_id"])
        head = f"{origin['sensor_id']} {origin['measured_at'].isoformat()}"
        bad.append([origin["corpus"], shard, offset, origin["line"], str(Reason.NOT_FINITE), details[row], head])
    columns = [pa.array([row[i] for row in bad], field.type) for i, field in enumerate(schema.BAD_RECORDS)]
    keep = np.ones(records.num_rows, bool)
    keep[rows] = False
    return records.filter(pa.array(keep)), pa.Table.from_arrays(columns, schema=schema.BAD_RECORDS)


def count_reasons(bad: pa.Table) -> dict[str, int]:
    """Rows of bad_records by reason, in the order of the closed list."""
    counts = Counter(bad["reason"].to_pylist())
    return {str(reason): counts[reason] for reason in Reason if counts[reason]}
