"""Labels: a file of people's judgements, JSON Lines or a review queue as CSV, met with the keys of records."""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa

from vibray.config import UserError, same_name
from vibray.schema import KEY, NORMAL, ORIGIN, SENSOR, TIME, UNKNOWN
from vibray.storage.columns import PLACE, codes, rows_of, times_ms, with_record_ids
from vibray.storage.decoding import Fields, decode
from vibray.storage.local import is_unicode
from vibray.storage.objects import read_bytes
from vibray.storage.samples import Refused
from vibray.storage.spreadsheets import SpreadsheetError, csv_bytes, guarded, read_rows, utf8
from vibray.storage.times import TimeFormat, parse_time

NUM_SHOWN = 5

EXAMPLE = '{"label": "normal", "sensor_id": "u00-s1", "data_time": "2023-12-04T00:10:56.161Z"}'

KEY_COLUMNS = (*KEY, *SENSOR, "measured_at")
"""Columns of a table that labels can be matched with; PLACE may stand for the record_id."""

REVIEW_COLUMNS = (*("record_id", "corpus", *SENSOR, "data_time", "score", "guess", "why", "link"), "label", "note")
"""Columns of a review queue; a person fills in the last two."""

LABELS = pa.schema([ORIGIN.field("corpus"), ORIGIN.field("record_id"), pa.field("label", pa.string(), nullable=False)])


class LabelError(UserError):
    """A labels file that cannot be read, or rows of it that meet no record, more than one, or contradict each other."""


@dataclass(frozen=True, slots=True)
class Label:
    """A row of a labels file; `line` is where it stands. It names a record by its id, or by sensor and time."""

    line: int
    label: str | None
    """None: a row of a review queue that nobody has filled in"""
    corpus: str | None
    record_id: str | None
    unit: str | None
    sensor_id: str | None
    measured_at: datetime | None
    cell: str = ""
    """of a CSV: where a spreadsheet shows the label"""

    @property
    def where(self) -> str:
        """Line, and cell of a spreadsheet."""
        return f"line {self.line}" + (f" (cell {self.cell})" if self.cell else "")

    def __str__(self) -> str:
        names = ("label", "corpus", "record_id", "unit", "sensor_id", "measured_at")
        return f"{self.where}: " + ", ".join(f"{name} {getattr(self, name)}" for name in names if getattr(self, name) is not None)


@dataclass(frozen=True, eq=False)
class Matched:
    """`table` (corpus, record_id, label) has one row a labelled record; `num_quarantined` rows met a record that was set aside."""

    table: pa.Table
    num_rows: int
    num_quarantined: int
    num_empty: int = 0
    """rows of a review queue without a label, passed over"""

    def told(self, records: str) -> str:
        """What became of the rows, in words."""
        empty = f"; {self.num_empty} rows without a label yet were passed over" if self.num_empty else ""
        return f"{self.num_rows} labels: {self.table.num_rows} {records}, {self.num_quarantined} of lines set aside{empty}"


def read_labels(uri: str, timezone: str = "UTC", time_format: TimeFormat = "iso") -> list[Label]:
    """The rows of a labels file; other fields are let pass, times are read as the corpus' own. Raises LabelError.

    A file that begins with { or [ is JSON Lines, any other a CSV whatever its name: a review queue that came back, or any with the column
    label and those that name a record. There a record_id (with its corpus) is all that names a record: spreadsheets change other cells.
    """
    zone, data = ZoneInfo(timezone), utf8(read_bytes(uri))
    if data.lstrip()[:1] in (b"", b"{", b"["):
        lines = enumerate(data.split(b"\n"), 1)
        rows = [_label(text, number, f"{uri}, line {number}", zone, time_format) for number, text in lines if text.strip()]
    else:
        try:
            rows = list(_of_csv(uri, data, zone, time_format))
        except SpreadsheetError as error:
            raise LabelError(str(error)) from None
    if not rows:
        raise LabelError(f"{uri} holds no row: one a line is wanted, as {EXAMPLE}")
    if all(row.label is None for row in rows):
        raise LabelError(f"{uri} has no label in any of its {len(rows)} rows: fill in the column label, with {NORMAL} or a fault's name")
    check_names(uri, (row.label for row in rows if row.label is not None))
    return rows


_NAMES = ("label", "corpus", "record_id", *SENSOR, "data_time")


def _of_csv(uri: str, data: bytes, zone: ZoneInfo, time_format: TimeFormat) -> Iterator[Label]:
    columns, rows = read_rows(uri, data, _NAMES)
    if "label" not in columns or not ("record_id" in columns or {"sensor_id", "data_time"} <= columns):
        has = ", ".join(name for name in _NAMES if name in columns) or "none of these"
        raise LabelError(
            f"{uri} is no JSON Lines, and as CSV its first line must name the columns label and record_id (or label, sensor_id and "
            f"data_time), parted by commas, semicolons or tabs; it names {has}"
        )
    for row in rows:
        cell, values = row.cell("label"), {name: cell for name, cell in row.cells.items() if cell}
        if "label" not in values:
            yield Label(row.line, None, None, None, None, None, None, cell)
            continue
        kept = ("label", "corpus", "record_id") if "record_id" in values else _NAMES
        values = {name: value for name, value in values.items() if name in kept}
        yield _checked(values, row.line, f"{uri}, line {row.line} (cell {cell})", zone, time_format, cell)


def review_csv(rows: Iterable[dict[str, str]]) -> bytes:
    """A review queue for a spreadsheet: a row a record under REVIEW_COLUMNS, whose last two are left empty."""
    names, texts = ("corpus", *SENSOR), ("record_id", "guess", "why")
    shown = (
        row
        | {name: guarded(row[name], name=True) for name in names}
        | {name: guarded(row[name]) for name in texts}
        | {"label": "", "note": ""}
        for row in rows
    )
    return csv_bytes(REVIEW_COLUMNS, shown)


def check_names(uri: str, labels: Iterable[str]) -> None:
    """Raises LabelError for labels that are one name in several spellings, `normal` in another one, or the classifier's `unknown`."""
    spellings: dict[str, Counter[str]] = {}
    for label, count in Counter(labels).items():
        spellings.setdefault(same_name(label), Counter())[label] = count
    wrong = []
    for name, counts in spellings.items():
        one = " and ".join(f"{_shown(label, counts)} ({count} rows)" for label, count in sorted(counts.items()))
        if name == same_name(UNKNOWN):
            wrong.append(f"{one} is the classifier's word for what is like none of the faults: leave such rows out, or name the fault")
        elif name == same_name(NORMAL) and set(counts) != {NORMAL}:
            wrong.append(f"{one}: for a healthy record write {NORMAL}, for a fault a name that is more than another spelling of it")
        elif len(counts) > 1:
            wrong.append(f"{one} differ only in case, blanks or Unicode form: write them alike, or name two faults differently")
    if wrong:
        more = f" ({len(wrong) - NUM_SHOWN} more such names)" if len(wrong) > NUM_SHOWN else ""
        raise LabelError(f"{uri}: labels {'; '.join(wrong[:NUM_SHOWN])}{more}")


def _shown(label: str, counts: Counter[str]) -> str:
    """As it is written; by its code points where another spelling looks alike."""
    alike = [other for other in counts if unicodedata.normalize("NFKC", other) == unicodedata.normalize("NFKC", label)]
    return repr(label) if len(alike) == 1 else ascii(label)


def _label(text: bytes, number: int, where: str, zone: ZoneInfo, time_format: TimeFormat) -> Label:
    try:
        row = decode(text)
    except Refused as refused:
        raise LabelError(f"{where} is not JSON: {refused.detail.partition(': name it')[0]}") from None
    if not isinstance(row, dict):
        raise LabelError(f"{where} is not a JSON object: one row a line is wanted, as {EXAMPLE}")
    if isinstance(row, Fields):
        raise LabelError(f"{where} says {' and '.join(row.doubled)} more than once: which one is meant?")
    return _checked(row, number, where, zone, time_format)


def _checked(row: dict[str, Any], number: int, where: str, zone: ZoneInfo, time_format: TimeFormat, cell: str = "") -> Label:
    for name in ("label", "corpus", "record_id", "unit", "sensor_id"):
        if name in row and not (isinstance(row[name], str) and row[name] and is_unicode(row[name])):
            raise LabelError(f"{where}: {name} must be a text in Unicode that is not empty")
    if not same_name(row.get("label", "")):
        raise LabelError(f'{where} has no label: "{NORMAL}", or the name of a fault')
    time = None
    if "record_id" not in row:
        if "sensor_id" not in row or "data_time" not in row:
            raise LabelError(f"{where} names no record: give record_id, or sensor_id and data_time")
        try:
            time = parse_time(row["data_time"], zone, time_format).at
        except (ValueError, OverflowError) as error:
            raise LabelError(f"{where}: data_time {row['data_time']!r} is no time: {error}") from None
    return Label(number, row["label"], row.get("corpus"), row.get("record_id"), row.get("unit"), row.get("sensor_id"), time, cell)


def match_labels(
    rows: list[Label], keys: pa.Table, bad_records: pa.Table | None = None, timezone: str = "UTC", time_format: TimeFormat = "iso"
) -> Matched:
    """The labelled records among `keys` (a table with KEY_COLUMNS, of one or more corpora, without duplicates).

    A row that meets no record but one of `bad_records` (by its place in the shard, or by the sensor and time its head shows) is counted.
    Raises LabelError, with counts and examples, where a row meets no record or several, or two rows give one record different labels.
    """
    num_all, rows = len(rows), [row for row in rows if row.label is not None]
    candidates = _candidates(rows, keys)
    aside = _quarantined(bad_records, ZoneInfo(timezone), time_format) if bad_records is not None else set()
    labels: dict[tuple[str, str], Label] = {}
    none, several, against = [], [], []
    num_quarantined = 0
    for row in rows:
        found = [key for key, unit in candidates.get(_place(row), ()) if row.corpus in (None, key[0]) and row.unit in (None, unit)]
        if len(found) > 1:
            several.append(f"{row} ({len(found)} records)")
        elif found and labels.setdefault(found[0], row).label != row.label:
            against.append(f"{row}, but {labels[found[0]].where} says {labels[found[0]].label}")
        elif not found and _is_aside(row, aside):
            num_quarantined += 1
        elif not found:
            none.append(str(row))
    _refuse(len(rows), none, several, against)
    table = pa.table([[key[0] for key in labels], [key[1] for key in labels], [row.label for row in labels.values()]], schema=LABELS)
    return Matched(table, len(rows), num_quarantined, num_all - len(rows))


def _refuse(num_rows: int, none: list[str], several: list[str], against: list[str]) -> None:
    kinds = (
        (none, "meet no record (was another input labelled?)"),
        (several, "meet more than one record (name record_id, or the unit or corpus too)"),
        (against, "contradict another row (leave one of the two)"),
    )
    lines = []
    for examples, what in kinds:
        if examples:
            lines.append(f"{len(examples)} of {num_rows} label rows {what}:")
            lines += [f"  {text}" for text in examples[:NUM_SHOWN]] + (["  ..."] if len(examples) > NUM_SHOWN else [])
    if lines:
        raise LabelError("\n".join(lines))


def _place(row: Label) -> tuple[Any, ...]:
    return (row.record_id,) if row.record_id is not None else (row.sensor_id, row.measured_at)


def _candidates(rows: list[Label], keys: pa.Table) -> dict[tuple[Any, ...], list[tuple[tuple[str, str], str]]]:
    """Place -> [(key, unit)] of the records that a label could mean; the table may be far longer than the labels."""
    ids, sensors = {row.record_id for row in rows if row.record_id is not None}, {row.sensor_id for row in rows if row.record_id is None}
    near = np.zeros(keys.num_rows, bool)
    if sensors:
        names, number = codes(keys["sensor_id"])
        near |= np.array([*(name in sensors for name in names), False])[number]
        times = pa.array([row.measured_at for row in rows if row.record_id is None], pa.timestamp("us", "UTC")).cast(TIME, safe=False)
        near &= np.isin(times_ms(keys), times.view(pa.int64()).to_numpy())
    if ids:
        corpora = codes(keys["corpus"])[0]
        asked = pa.table({"corpus": [name for name in corpora for _ in ids], "record_id": [id for _ in corpora for id in sorted(ids)]})
        found = rows_of(keys, asked)
        near[found[found >= 0]] = True
    table = with_record_ids(keys.select([name for name in keys.column_names if name in (*KEY_COLUMNS, *PLACE)]).filter(pa.array(near)))
    places: dict[tuple[Any, ...], list[tuple[tuple[str, str], str]]] = {}
    for corpus, record_id, unit, sensor_id, time in zip(*(table[name].to_pylist() for name in KEY_COLUMNS), strict=True):
        for place in ((record_id,), (sensor_id, time)):
            places.setdefault(place, []).append(((corpus, record_id), unit))
    return places


_IN_HEAD = re.compile(r'"(sensor_id|data_time)"\s*:\s*("(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*)')


def _quarantined(bad: pa.Table, zone: ZoneInfo, time_format: TimeFormat) -> set[tuple[Any, ...]]:
    """Places, with their corpus and without, of the records that were set aside."""
    places: set[tuple[Any, ...]] = set()
    for corpus, shard, offset, head in zip(*(bad[name].to_pylist() for name in ("corpus", "shard", "offset", "head")), strict=True):
        found: list[tuple[Any, ...]] = [(f"{shard}@{offset}",), (f"{shard}#{offset}",)]
        try:
            fields = {name: json.loads(text) for name, text in _IN_HEAD.findall(head)}
            found.append((fields["sensor_id"], parse_time(fields["data_time"], zone, time_format).at))
        except (KeyError, ValueError, OverflowError):
            pass
        places.update(item for place in found for item in (place, (corpus, *place)))
    return places


def _is_aside(row: Label, aside: set[tuple[Any, ...]]) -> bool:
    return (_place(row) if row.corpus is None else (row.corpus, *_place(row))) in aside
