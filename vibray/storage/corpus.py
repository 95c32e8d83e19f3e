"""What a person says about a corpus, because no record does: rate, units, zone, mains."""

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal
from zoneinfo import ZoneInfo

from pydantic import with_config

from vibray.config import STRICT, UserError, from_json, to_json
from vibray.storage.objects import read_bytes
from vibray.storage.times import TimeFormat


class UnitError(UserError):
    """A sensor whose unit cannot be told: the unit pattern or the table of units does not fit the corpus."""


@with_config(STRICT)
@dataclass(frozen=True)
class CorpusFacts:
    """What is true of all records of a corpus and does not stand in them."""

    sample_rate_hz: float
    """Samples a second. A fact of the measuring chain: nothing in a record says it."""
    num_samples: int = 8192
    """Samples of a record."""
    unit_pattern: str | None = None
    """Regular expression searched in sensor_id, then in the shard's key; its group 1 is the unit."""
    units: tuple[tuple[str, str], ...] | None = None
    """Pairs (sensor_id, unit), as a table of units gives them. Without a pattern or a table a sensor is its own unit."""
    timezone: str = "UTC"
    """Zone of times that name none."""
    mains: Literal["50", "60", "none"] = "50"
    """Mains frequency in Hz; none for machines without a mains line."""
    signal_unit: Literal["unknown", "g", "m/s2"] = "unknown"
    """Physical unit of the samples."""
    wrong_length: Literal["quarantine", "fit"] = "quarantine"
    """A record of another length is set aside, or fitted: cut at its end or padded there with zeros, and counted."""
    time_format: TimeFormat = "iso"
    """How data_time is written: ISO 8601, or a number of s, ms, us or ns since 1970-01-01T00:00Z."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.sample_rate_hz) and self.sample_rate_hz > 0):
            raise UserError(f"sample_rate_hz must be above 0, not {self.sample_rate_hz}")
        if self.num_samples < 1:
            raise UserError(f"num_samples must be 1 or more, not {self.num_samples}")
        if self.unit_pattern is not None and self.units is not None:
            raise UserError("the unit comes from a pattern or from a table of units, not from both")
        if self.unit_pattern is not None:
            try:
                groups = re.compile(self.unit_pattern).groups
            except re.error as error:
                raise UserError(f"unit pattern {self.unit_pattern!r} is no regular expression: {error}") from None
            if groups < 1:
                raise UserError(f"unit pattern {self.unit_pattern!r} has no group: put the unit in parentheses, as in '^(gbx\\d+)-'")
        try:
            ZoneInfo(self.timezone)
        except (KeyError, OSError, ValueError):
            raise UserError(f"{self.timezone!r} is no time zone: name one as Europe/Berlin or UTC") from None

    @property
    def mains_hz(self) -> float | None:
        """Mains frequency in Hz, None for machines without."""
        return None if self.mains == "none" else float(self.mains)

    @cached_property
    def _unit_of(self) -> dict[str, str]:
        return dict(self.units or ())

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(self.unit_pattern or "")

    @cached_property
    def zone(self) -> ZoneInfo:
        """Zone of times that name none."""
        return ZoneInfo(self.timezone)

    def unit(self, sensor_id: str, shard: str) -> str:
        """The unit a sensor sits on. Raises UnitError where the pattern or the table has no answer."""
        if self.units is not None:
            if sensor_id not in self._unit_of:
                raise UnitError(f"sensor {sensor_id!r} (in {shard}) is not in the table of units: add a line for it")
            return self._unit_of[sensor_id]
        if self.unit_pattern is None:
            return sensor_id
        match = self._pattern.search(sensor_id) or self._pattern.search(shard)
        if match is None or not match.group(1):
            raise UnitError(
                f"unit pattern {self.unit_pattern!r} finds no unit in sensor_id {sensor_id!r} nor in shard {shard!r}: change the pattern"
            )
        return match.group(1)


def with_defaults(identity: dict[str, Any]) -> dict[str, Any]:
    """What a folder was begun with, its facts of the corpus completed: those written before a fact was asked for say nothing of it.

    Facts that are none of this version's are left as they are.
    """
    if not isinstance(identity.get("facts"), dict):
        return identity
    try:
        return {**identity, "facts": to_json(from_json(CorpusFacts, identity["facts"]))}
    except UserError:
        return identity


def read_units(uri: str) -> tuple[tuple[str, str], ...]:
    """The pairs (sensor_id, unit) of a CSV file with these two columns, sorted. Raises UserError with file and line."""
    try:
        rows = csv.DictReader(io.StringIO(read_bytes(uri).decode("utf-8-sig"), newline=""))
        names = [name.strip() for name in rows.fieldnames or ()]
        doubled = sorted({name for name in names if name and names.count(name) > 1})
        if doubled:
            raise UserError(f"{uri}: the first line names the column {' and '.join(doubled)} more than once: leave one of each")
        missing = {"sensor_id", "unit"} - set(rows.fieldnames or ())
        if missing:
            parted = " (commas part columns)" if any(mark in ",".join(rows.fieldnames or ()) for mark in ";\t") else ""
            raise UserError(
                f"{uri}: the first line must name the columns sensor_id and unit, {' and '.join(sorted(missing))} missing{parted}"
            )
        units: dict[str, str] = {}
        for row in rows:
            if any(text.strip() for text in row.get(None) or ()):  # type: ignore[call-overload] (what has no column stands under None)
                raise UserError(f"{uri}, line {rows.line_num}: more fields than columns: put one that holds a comma into quotes")
            sensor_id, unit = (row["sensor_id"] or "").strip(), (row["unit"] or "").strip()
            if not sensor_id or not unit:
                raise UserError(f"{uri}, line {rows.line_num}: sensor_id or unit is empty")
            if units.setdefault(sensor_id, unit) != unit:
                raise UserError(f"{uri}, line {rows.line_num}: sensor {sensor_id!r} is on {units[sensor_id]!r} and on {unit!r}")
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{uri} is no CSV file in UTF-8: {error}") from None
    if not units:
        raise UserError(f"{uri} holds no sensor")
    return tuple(sorted(units.items()))


class InputsDiffer(UserError):
    """Two inputs cannot be used together: one corpus twice, or another rate or feature config."""


def one_corpus_each(uris: Sequence[str], corpora: Sequence[str]) -> None:
    """Raises InputsDiffer where two inputs have one corpus name."""
    seen: dict[str, str] = {}
    for uri, corpus in zip(uris, corpora, strict=True):
        if corpus in seen:
            raise InputsDiffer(f"{seen[corpus]} and {uri} are both corpus {corpus!r}: make one of them again with another --corpus")
        seen[corpus] = uri


def the_same(what: str, uris: Sequence[str], values: Sequence[Any]) -> Any:
    """The one value of all inputs. Raises InputsDiffer showing the first that differs."""
    for uri, value in zip(uris, values, strict=True):
        if value != values[0]:
            raise InputsDiffer(f"{what} differs between the inputs:\n  {uris[0]}: {values[0]}\n  {uri}: {value}")
    return values[0]


def the_same_facts(uris: Sequence[str], values: Sequence[dict[str, Any]]) -> CorpusFacts:
    """The one CorpusFacts of all inputs; a field that one was written before holds its default. Raises InputsDiffer."""
    facts = [from_json(CorpusFacts, each, uri) for uri, each in zip(uris, values, strict=True)]
    the_same("what is known of the records (rate, units, mains)", uris, [to_json(each) for each in facts])
    return facts[0]
