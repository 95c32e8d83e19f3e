"""What a record's data_time says, by a grammar of our own: a library's parser also takes what was never meant, as a time without its T.

With "iso" a time is a calendar date and a time of day of ISO 8601, all of it in the extended form or all of it in the basic one, but for an
offset without its colon, as strftime's %z writes it; with one of the epochs it is a number since 1970-01-01T00:00Z, and nothing else.
"""

import math
import re
from datetime import UTC, datetime, timedelta
from decimal import ROUND_FLOOR, Context, Decimal
from typing import Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

TimeFormat = Literal["iso", "epoch-s", "epoch-ms", "epoch-us", "epoch-ns"]

EXTENDED = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d([.,]\d+)?)?(Z|[+-]\d\d(:?[0-5]\d)?)?", re.ASCII)
BASIC = re.compile(r"\d{8}[T ]\d{4}(\d\d([.,]\d+)?)?(Z|[+-]\d\d([0-5]\d)?)?", re.ASCII)
MIXED = re.compile(r"\d{4}-?\d\d-?\d\d[T ]\d\d:?\d\d(:?\d\d([.,]\d+)?)?(Z|[+-]\d\d(:?[0-5]\d)?)?", re.ASCII)
DATE = re.compile(r"\d{4}-\d\d-\d\d|\d{8}", re.ASCII)
WITHOUT_T = re.compile(r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:[01]\d|2[0-3])[0-5]\d(?:[0-5]\d(\d*))?", re.ASCII)
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,9})?", re.ASCII)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DIGITS = {"epoch-s": 0, "epoch-ms": 3, "epoch-us": 6, "epoch-ns": 9}
"""Decimal digits of the unit behind the second."""

LARGEST = 10**21
"""No count since 1970 that a calendar holds is as large, in ns either; a larger one may have any number of digits, and is not worked on."""

_exact = Context(prec=60, rounding=ROUND_FLOOR)
# a count is cut to ms once: rounding before would lift .7899999... to the next


class Time(NamedTuple):
    """`at` is UTC, cut to ms. `naive`: it named no zone, and was read in the corpus' own.

    Of such a time, where the zone's clock is changed: `ambiguous`, the clock showed it twice, and the first was taken; `nonexistent`, the
    clock passed over it, and it was read as if the clock had not been changed.
    """

    at: datetime
    naive: bool = False
    ambiguous: bool = False
    nonexistent: bool = False


def parse_time(value: Any, zone: ZoneInfo, time_format: TimeFormat = "iso") -> Time:
    """The time that a JSON value says. Raises ValueError or OverflowError, whose text says what is wrong with it."""
    if time_format != "iso":
        return Time(_since_epoch(value, DIGITS[time_format]))
    if not isinstance(value, str):
        raise ValueError(f"not a string{_epoch_advice(value)}")
    if not (EXTENDED.fullmatch(value) or BASIC.fullmatch(value)):
        raise ValueError(_what_is_wrong(value))
    try:
        time = datetime.fromisoformat(value)
    except ValueError as error:
        raise ValueError(_why_not(value, str(error))) from None
    time = time.replace(microsecond=time.microsecond // 1000 * 1000)
    return _in_zone(time, zone) if time.tzinfo is None else Time(time.astimezone(UTC))


def _in_zone(local: datetime, zone: ZoneInfo) -> Time:
    time = local.replace(tzinfo=zone)
    first, second = time.utcoffset(), time.replace(fold=1).utcoffset()
    at = time.astimezone(UTC)
    if first == second or first is None or second is None:
        return Time(at, True)
    # PEP 495: fold 0 is the offset before a change, fold 1 the one after it, whether the clock was set back or forward
    return Time(at, True, ambiguous=first > second, nonexistent=first < second)


def _since_epoch(value: Any, digits: int) -> datetime:
    if isinstance(value, str):
        if not NUMBER.fullmatch(value):
            raise ValueError("not a number, which --time-format asks for")
        count = Decimal(value)
    elif isinstance(value, float):
        count = Decimal(repr(value))  # the digits that were written, not those of the float nearest to them
    elif isinstance(value, int | Decimal) and not isinstance(value, bool):
        count = value
    else:
        raise ValueError("not a number, which --time-format asks for")
    if not (isinstance(count, int) or count.is_finite()) or not -LARGEST < count < LARGEST:
        raise ValueError("beyond any calendar")
    if isinstance(count, int):
        ms = count * 1000 // 10**digits
    else:
        ms = math.floor(_exact.scaleb(_exact.plus(count), 3 - digits))
    try:
        return EPOCH + timedelta(milliseconds=ms)
    except OverflowError:
        raise ValueError("beyond the year 9999: is its unit another one?") from None


def _why_not(text: str, error: str) -> str:
    hour, second = (text[11:13], text[17:19]) if text[4] == "-" else (text[9:11], text[13:15])
    if hour == "24":
        return "24:00 is no time of day: write 00:00 of the next day"
    if error.startswith("offset"):
        return "an offset is less than 24 hours"
    if second == "60":
        return "a leap second, which no clock here can show: write the second before or after it"
    return error


def _epoch_advice(value: Any) -> str:
    """Which option would read a number, by its size: what is counted since 1970 and lies in this century."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return ""
    for name, digits in DIGITS.items():
        if 3e8 * 10**digits <= value < 5e9 * 10**digits:
            return f"; a count since 1970? then give --time-format {name}"
    return ""


def _what_is_wrong(text: str) -> str:
    without_t = WITHOUT_T.fullmatch(text)
    if without_t:
        form = "YYYYMMDDhhmm" + ("" if without_t[1] is None else "ss" + "f" * len(without_t[1]))
        return f"looks like {form} without T: write {_example(text)}"
    if DATE.fullmatch(text):  # a date alone says nothing about when
        return "no time of day"
    if MIXED.fullmatch(text):
        return "half in extended form, half in basic: write all of it as 2023-01-01T12:21:50+01:00, or all as 20230101T122150+0100"
    advice = _epoch_advice(float(text)) if len(text) < 30 and NUMBER.fullmatch(text) else ""
    return f"no time of ISO 8601, as 2023-01-01T12:21:50.789+01:00{advice}"


def _example(digits: str) -> str:
    rest = digits[14:]
    return f"{digits[:8]}T{digits[8:14]}" + (f".{rest}" if rest else "")
