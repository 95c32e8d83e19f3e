"""Takes the numbers out of a line before JSON sees it: a line is 70 kB of numbers and 100 bytes of everything else.

A line that is not sure to mean what it seems to is left to json, so that the shortcut never decides that a line is bad.
"""

import re
from typing import Any

import numpy as np
import simdjson
from jaxtyping import Float64

KEY = b'"signal_value"'

OPENING = re.compile(rb'"signal_value"[ \t]*:[ \t]*(?:("\[?)|\[)')
"""The key and the beginning of its value: a string, in group 1, maybe with a list inside, or a list."""

MAX_NESTED = 50
"""Brackets beside the numbers: far more of them run into Python's limit of recursion, which is json's to meet."""

MAX_BYTES = 4 << 20
"""Longest list of numbers that is read here: the parser keeps up to 13 times the longest that it has read."""

MINUS_ZERO = re.compile(rb"(?<![eE])-0(?=[ ,\]])")
"""An integer -0, which has a sign for float() and none in JSON."""

_parser: Any = simdjson.Parser(MAX_BYTES)
# One a process: its calls hold the GIL, and one that comes between another thread's two raises, so that its line is read exactly.


def cut_numbers(raw: bytes, most: int | None = None) -> tuple[bytes, Any, Float64[np.ndarray, " samples"]] | None:
    """A line without the numbers of its signal_value, the empty value left in their place ("" or []), and the numbers as float64.

    None where the line must be read whole, as one of more than `most` numbers. They are right only if the rest is a JSON object whose
    signal_value is the empty value: the key stands in the rest once and nothing there is escaped, so that it is then the key of that
    object, and bytes of numbers alone change neither where a string ends nor what else the line holds.
    """
    key = raw.find(KEY)
    opening = OPENING.match(raw, key) if key >= 0 else None
    if opening is None:
        return None
    start, in_string = opening.end(), opening[1] is not None
    stop = close = raw.find(b'"' if in_string else b"]", start)
    if close < 0:
        return None
    begin = start
    if opening[1] == b'"[':
        begin, stop = start - 1, close - 1
        if raw[stop] != ord("]"):
            return None
    rest = raw[:begin] + raw[close:]
    if rest.count(KEY) != 1 or b"\\" in rest or rest.count(b"[") + rest.count(b"{") > MAX_NESTED:
        return None
    numbers = parse_floats(b"".join((b"[", memoryview(raw)[start:stop], b"]")), in_string, most)
    return None if numbers is None else (rest, "" if in_string else [], numbers)


def parse_floats(text: bytes, in_string: bool, most: int | None = None) -> Float64[np.ndarray, " samples"] | None:
    """The numbers of a JSON list as float(number), all finite; None where it holds none, more than `most` or anything else.

    `in_string` says that the list stood in a string: tabs and ends of lines are then refused, and "-0" is -0.0.
    """
    # a list inside would be flattened
    if text.rfind(b"[") > 0 or (in_string and (b"\t" in text or b"\n" in text or b"\r" in text)):
        return None
    try:
        numbers = np.frombuffer(_parser.parse(text).as_buffer(of_type="d"), np.float64)
    except (ValueError, TypeError, RuntimeError):  # no JSON, not numbers, beyond float64, integers of more than 64 bits
        return None
    if not 0 < len(numbers) <= (len(numbers) if most is None else most):
        return None
    if in_string and not numbers.all() and _has_minus_zero(text):
        return parse_floats(MINUS_ZERO.sub(b"-0.0", text), False, most)
    return numbers


def _has_minus_zero(text: bytes) -> bool:
    """Whether -0 stands there without a point behind: four times as fast as MINUS_ZERO, and most zeros are 0.000."""
    codes = np.frombuffer(text, np.uint8)
    minus, zero, point = (codes[i : len(codes) - 2 + i] == ord(c) for i, c in enumerate("-0."))
    return bool((minus & zero & ~point).any())
