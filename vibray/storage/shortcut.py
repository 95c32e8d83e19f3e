"""Takes the numbers out of a line before JSON sees it: a line is 70 kB of numbers and 100 bytes of everything else.

A line that is not sure to mean what it seems to is left to json, so that the shortcut never decides that a line is bad.
"""

import re
from itertools import count
from typing import Any

import numpy as np

KEY = b'"signal_value"'

OPENING = re.compile(rb'"signal_value"[ \t]*:[ \t]*(?:("\[?)|\[)')
"""The key and the beginning of its value: a string, in group 1, maybe with a list inside, or a list."""

MAX_NESTED = 50
"""Brackets beside the numbers: far more of them run into Python's limit of recursion, which is json's to meet."""

LINES_BEFORE = 256
"""Lines of a process that are read without: loading the compiled loop takes about as long as they do."""

_lines = count()


def cut_numbers(raw: bytes, most: int | None = None) -> tuple[bytes, Any, np.ndarray] | None:
    """A line without the numbers of its signal_value, the empty value left in their place ("" or []), and the numbers as float32.

    None where the line must be read whole, as one of more than `most` numbers. They are right only if the rest is a JSON object whose
    signal_value is the empty value: the key stands in the rest once and nothing there is escaped, so that it is then the key of that
    object, and bytes of numbers alone change neither where a string ends nor what else the line holds.
    """
    if next(_lines) < LINES_BEFORE:
        return None
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
    from vibray.storage.decimals import parse_floats  # imports numba

    samples = parse_floats(raw, start, stop, in_string, most)
    return None if samples is None else (rest, "" if in_string else [], samples)
