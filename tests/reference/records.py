"""A slow, obvious twin of the reader of JSON Lines: the whole file in memory, split at newlines, numbers by float(), runs by groupby."""

import json
import math
from collections import Counter
from itertools import groupby

import numpy as np


def lines(data: bytes) -> list[tuple[int, int, bytes]]:
    """(offset, 1-based line number, line) of the non-blank lines."""
    found, offset = [], 0
    for number, line in enumerate(data.split(b"\n"), 1):
        text = line.removeprefix(b"\xef\xbb\xbf") if offset == 0 else line
        if text.strip():
            found.append((offset, number, text.rstrip(b"\r")))
        offset += len(line) + 1
    return found


def waveform(line: bytes) -> np.ndarray:
    """The samples of a good line."""
    value = json.loads(line)["signal_value"]
    numbers = value.strip("[] ").split(",") if isinstance(value, str) else value
    return np.array([np.float32(float(number)) for number in numbers])


def is_clipped(samples: np.ndarray) -> bool:
    """16 or more neighbours at the largest or smallest value; or a twentieth of all samples there, none of it 0, of 8 values or more, and a
    fifth as many at the value next to it."""
    runs = [(value, len(list(group))) for value, group in groupby(samples.tolist())]
    if any(length >= 16 and value in (max(samples), min(samples)) for value, length in runs):
        return True
    counts = sorted(Counter(samples.tolist()).items())
    pairs = ((counts[0], counts[1]), (counts[-1], counts[-2])) if len(counts) >= 8 else ()
    return any(value != 0 and 20 * count >= len(samples) and count >= 5 * beside for (value, count), (_, beside) in pairs)


def run_lengths(samples: np.ndarray, value: float) -> list[int]:
    """Lengths of the runs of a value."""
    return [len(list(group)) for found, group in groupby(samples.tolist()) if found == value]


def is_finite(samples: np.ndarray) -> bool:
    """No NaN, no infinity."""
    return all(math.isfinite(x) for x in samples.tolist())
