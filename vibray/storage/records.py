"""A line of text becomes a Record or a BadRecord: pure, and always one of the two.

The checks, in this order; the first that fails gives the reason:
not JSON, not an object, missing field, bad sensor_id, bad time, not a number, NaN or infinite, wrong length, constant, clipped.
Constant and clipped are judged on the samples that were measured, never on padding. Of a key that occurs twice the last value counts.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa

from vibray import schema
from vibray.schema import Reason
from vibray.storage.corpus import CorpusFacts
from vibray.storage.shards import head_of, head_of_value
from vibray.storage.shortcut import cut_numbers
from vibray.storage.times import Time, parse_time

FIELDS = ("data_time", "signal_value", "sensor_id")

CLIPPED_RUN = 16
"""Consecutive samples at the record's extreme that make it clipped."""


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


class _Refused(Exception):
    def __init__(self, reason: Reason, detail: str):
        self.reason, self.detail = reason, detail


def parse_line(raw: bytes, shard: str, offset: int, line: int | None, corpus: str, facts: CorpusFacts) -> Record | BadRecord:
    """One non-blank line of a JSON Lines shard. Raises nothing but UnitError."""
    try:
        value = _decode_quickly(raw, facts)
        return _record(_decode(raw) if value is None else value, f"{shard}@{offset}", line, shard, corpus, facts)
    except _Refused as refused:
        return BadRecord(corpus, shard, offset, line, refused.reason, _clean(refused.detail), head_of(raw))


def parse_object(value: Any, shard: str, index: int, corpus: str, facts: CorpusFacts) -> Record | BadRecord:
    """One item of a .json list, already decoded. Raises nothing but UnitError."""
    try:
        return _record(value, f"{shard}#{index}", None, shard, corpus, facts)
    except _Refused as refused:
        return BadRecord(corpus, shard, index, None, refused.reason, _clean(refused.detail), head_of_value(value))


def _clean(text: str) -> str:
    return text[:500].encode("utf-8", "replace").decode()


def _decode_quickly(raw: bytes, facts: CorpusFacts) -> dict[str, Any] | None:
    """What `_decode` gives, its signal_value already as finite samples; None for a line that only `_decode` can tell."""
    cut = cut_numbers(raw, facts.num_samples if facts.wrong_length == "quarantine" else None)
    if cut is None:
        return None
    rest, empty, samples = cut
    try:
        value = _decode(rest)
    except _Refused:
        return None
    if not isinstance(value, dict) or value.get("signal_value") != empty:
        return None
    value["signal_value"] = samples
    return value


def _decode(raw: bytes) -> Any:
    try:
        text = raw.decode("utf-8")
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            raise
        except ValueError:  # an integer of thousands of digits is JSON, but not Python's
            return json.loads(text, parse_int=float)
    except UnicodeDecodeError as error:
        raise _Refused(Reason.NOT_JSON, f"byte {error.start} is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise _Refused(Reason.NOT_JSON, f"{error.msg} at character {error.pos}") from None
    except RecursionError:
        raise _Refused(Reason.NOT_JSON, "nested too deeply") from None


def _record(value: Any, record_id: str, line: int | None, shard: str, corpus: str, facts: CorpusFacts) -> Record:
    if not isinstance(value, dict):
        raise _Refused(Reason.NOT_AN_OBJECT, f"a JSON {_json_type(value)}")
    missing = [name for name in FIELDS if name not in value]
    if missing:
        raise _Refused(Reason.MISSING_FIELD, ", ".join(missing))
    sensor_id = _sensor_id(value["sensor_id"])
    time = _time(value["data_time"], facts)
    samples = _samples(value["signal_value"])
    fitted = len(samples) != facts.num_samples
    if fitted and (facts.wrong_length == "quarantine" or not len(samples)):
        raise _Refused(Reason.WRONG_LENGTH, f"{len(samples)} samples, {facts.num_samples} expected")
    samples = samples[: facts.num_samples]
    _check_moves(samples)
    waveform = samples
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
    )


def _json_type(value: Any) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def _sensor_id(value: Any) -> str:
    if not isinstance(value, str):
        raise _Refused(Reason.BAD_SENSOR_ID, f"a JSON {_json_type(value)}, a string is wanted")
    if not value.strip():
        raise _Refused(Reason.BAD_SENSOR_ID, "empty")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _Refused(Reason.BAD_SENSOR_ID, f"not Unicode: {value[:100]!a}") from None
    return value


def _time(value: Any, facts: CorpusFacts) -> Time:
    try:
        return parse_time(value, facts.zone, facts.time_format)
    except (ValueError, OverflowError) as error:
        shown = _json_type(value) if isinstance(value, dict | list | bool | type(None)) else ascii(value)[:60]
        raise _Refused(Reason.BAD_TIME, f"{shown}: {str(error)[:200]}") from None


def _samples(value: Any) -> np.ndarray:
    """The samples as finite float32, from a comma-separated string (brackets allowed) or a list of numbers; an array is those already."""
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, str):
        text = value.strip()
        text = text[1:-1] if text.startswith("[") and text.endswith("]") and len(text) > 1 else text
        numbers = _floats(text.split(",")) if text.strip() else []
    elif isinstance(value, list):
        if not {type(item) for item in value} <= {int, float, Decimal}:
            at = next(i for i, item in enumerate(value) if type(item) not in (int, float, Decimal))
            raise _Refused(Reason.NOT_A_NUMBER, f"sample {at} is a JSON {_json_type(value[at])}")
        numbers = _floats(value)
    else:
        raise _Refused(Reason.NOT_A_NUMBER, f"signal_value is a JSON {_json_type(value)}, a string or a list is wanted")
    with np.errstate(over="ignore"):
        samples = np.array(numbers, np.float64).astype(np.float32)
    if not np.isfinite(samples).all():
        at = int(np.argmin(np.isfinite(samples)))
        raise _Refused(Reason.NAN_OR_INFINITE, f"sample {at} is {numbers[at]} ({int((~np.isfinite(samples)).sum())} in all)")
    return samples


def _floats(items: Sequence[Any]) -> list[float]:
    try:
        return [float(item) for item in items]
    except (ValueError, OverflowError):
        return [_float(at, item) for at, item in enumerate(items)]


def _float(at: int, item: Any) -> float:
    try:
        return float(item)
    except OverflowError:
        return math.inf
    except ValueError:
        raise _Refused(Reason.NOT_A_NUMBER, f"sample {at} is {ascii(item)[:60]}") from None


def _check_moves(samples: np.ndarray) -> None:
    low, high = samples.min(), samples.max()
    if low == high:
        raise _Refused(Reason.CONSTANT, f"all samples are {low}")
    for extreme in (high, low):
        # a run that long covers one of these
        if not np.count_nonzero(samples[CLIPPED_RUN - 1 :: CLIPPED_RUN] == extreme):
            continue
        run = longest_run(samples == extreme)
        if run >= CLIPPED_RUN:
            raise _Refused(Reason.CLIPPED, f"{run} consecutive samples at {extreme}")


def longest_run(mask: np.ndarray) -> int:
    """Length of the longest run of True."""
    if not mask.any():
        return 0
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return int((edges[1::2] - edges[::2]).max())


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


def count_reasons(bad: pa.Table) -> dict[str, int]:
    """Rows of bad_records by reason, in the order of the closed list."""
    counts = Counter(bad["reason"].to_pylist())
    return {str(reason): counts[reason] for reason in Reason if counts[reason]}
