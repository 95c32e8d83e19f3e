"""A record's samples: what is written as a number, and which samples can be a waveform of float32. Judged as float64, before rounding.

The checks, in this order: not a number, NaN or infinite; of the samples that are used, constant, out of range, precision lost, clipped.
"""

import math
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64

from vibray.schema import Reason

BLANKS = " \t\n\r\f\v"

ODD = "_\x1c\x1d\x1e\x1f"
"""What float() takes in ASCII beside a literal and its blanks; beyond ASCII it takes digits of every script and blanks of every width."""

NUMBER = re.compile(r"\s*[+-]?((\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?|nan|inf|infinity)\s*", re.ASCII | re.IGNORECASE)

SEVERAL = re.compile(r"\s*[+-]?[\d.]+([;\s]+[+-]?[\d.]+)+\s*", re.ASCII)

LARGEST = 2.0**32
"""The fourth power of this is where float32 ends, and a kurtosis has one. Counts of 32 bits with a sign are below."""

SMALLEST = 1e-12
"""Least spread of the samples: what the features add to an amplitude before its logarithm, so that they would describe that instead."""

MIN_STEPS = 32
"""Least spread of samples that are rounded, in steps of float32: with fewer, the rounding (a step / sqrt(12)) is above 1 % of it."""

CLIPPED_RUN = 16
"""Consecutive samples at the record's extreme that make it clipped."""

CLIPPED_SHARE = 0.05
CLIPPED_RATIO = 5
CLIPPED_VALUES = 8
"""So do this share of its samples at an extreme, so many times more than at the value next to it, in a record of so many values: the level
of a quantised sine next to its highest has 2.4 times fewer at most, and a sensor of a few levels is quiet. Not so at 0, where a signal of
one sign rests."""


class Refused(Exception):
    """Why a line is no record."""

    def __init__(self, reason: Reason, detail: str, num_objects: int = 1):
        self.reason, self.detail, self.num_objects = reason, detail, num_objects


def json_type(value: Any) -> str:
    """What a decoded JSON value is called."""
    names = ((dict, "object"), (list, "list"), (str, "string"), (bool, "boolean"), (type(None), "null"))
    return next((name for kind, name in names if isinstance(value, kind)), "number")


# ---------------------------------------------------------------- numbers


def numbers_of(value: Any) -> Float64[np.ndarray, " samples"]:
    """The numbers of a signal_value, from a comma-separated string (brackets allowed) or a list; an array is those already.

    Raises Refused where one is no number, or not finite.
    """
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, str):
        text = value.strip(BLANKS)
        text = text[1:-1] if text.startswith("[") and text.endswith("]") and len(text) > 1 else text
        found = _from_text(text) if text.strip(BLANKS) else []
    elif isinstance(value, list):
        found = _from_list(value)
    else:
        raise Refused(Reason.NOT_A_NUMBER, f"signal_value is a JSON {json_type(value)}, a string or a list is wanted")
    numbers = np.array(found, np.float64)
    finite = np.isfinite(numbers)
    if not finite.all():
        at = int(np.argmin(finite))
        raise Refused(Reason.NAN_OR_INFINITE, f"sample {at} is {numbers[at]} ({int((~finite).sum())} in all)")
    return numbers


def _from_text(text: str) -> list[float]:
    items = text.split(",")
    if text.isascii() and not any(character in text for character in ODD):
        try:
            return [float(item) for item in items]
        except ValueError:
            pass
    wrong = next(((at, item) for at, item in enumerate(items) if not NUMBER.fullmatch(item)), None)
    if wrong:
        advice = ": commas part samples, a point begins decimals" if SEVERAL.fullmatch(wrong[1]) else ""
        raise Refused(Reason.NOT_A_NUMBER, f"sample {wrong[0]} is {ascii(wrong[1])[:60]}{advice}")
    return [float(item) for item in items]


def _from_list(items: Sequence[Any]) -> list[float]:
    if not {type(item) for item in items} <= {int, float, Decimal}:
        at = next(i for i, item in enumerate(items) if type(item) not in (int, float, Decimal))
        raise Refused(Reason.NOT_A_NUMBER, f"sample {at} is a JSON {json_type(items[at])}")
    try:
        return [float(item) for item in items]
    except OverflowError:  # an integer beyond any float
        return [_float(item) for item in items]


def _float(item: Any) -> float:
    try:
        return float(item)
    except OverflowError:
        return math.inf if item > 0 else -math.inf


# ---------------------------------------------------------------- amplitudes


def waveform_of(numbers: Float64[np.ndarray, " samples"]) -> Float32[np.ndarray, " samples"]:
    """The samples as float32. Raises Refused for those that say nothing of a machine, or that float32 or a feature would not carry."""
    with np.errstate(over="ignore"):
        samples = numbers.astype(np.float32)
    low, high = samples.min(), samples.max()
    spread, largest = float(high) - float(low), max(-float(low), float(high))
    # a step is at most 2**-23 of the value; twice of it, because the spread here is one of rounded samples
    if not (largest < LARGEST and spread >= SMALLEST and spread > largest * MIN_STEPS * 2.0**-22):
        _check_range(numbers, samples)
    _check_rail(samples, high, samples == high)
    _check_rail(samples, low, samples == low)
    return samples


def _check_range(numbers: Float64[np.ndarray, " samples"], samples: Float32[np.ndarray, " samples"]) -> None:
    low, high = float(numbers.min()), float(numbers.max())
    spread, largest = high - low, max(-low, high)
    if low == high:
        raise Refused(Reason.CONSTANT, f"all samples are {low}")
    if largest >= LARGEST:
        beyond = np.abs(numbers) >= LARGEST
        at = int(np.argmax(beyond))
        raise Refused(Reason.OUT_OF_RANGE, f"sample {at} is {numbers[at]} ({int(beyond.sum())} in all): less than 2**32 is wanted")
    step = float(np.spacing(np.float32(largest)))
    if largest >= SMALLEST and spread < MIN_STEPS * step and (samples != numbers).any():
        about = f"{(low + high) / 2:.12g}, where float32 has steps of {step:.6g}"
        raise Refused(Reason.PRECISION_LOST, f"samples spread over {spread:.6g} about {about}: subtract the offset")
    if spread < SMALLEST:
        at = int(np.argmax(np.abs(numbers)))
        told = f"sample {at} is the largest, {numbers[at]}, and all spread over {spread:.6g}"
        raise Refused(Reason.OUT_OF_RANGE, f"{told}: {SMALLEST:g} or more is wanted, so take a smaller unit")


def _check_rail(samples: Float32[np.ndarray, " samples"], extreme: np.float32, there: Bool[np.ndarray, " samples"]) -> None:
    # a run that long covers one of these
    if np.count_nonzero(there[CLIPPED_RUN - 1 :: CLIPPED_RUN]):
        run = longest_run(there)
        if run >= CLIPPED_RUN:
            raise Refused(Reason.CLIPPED, f"{run} consecutive samples at {extreme}")
    count = np.count_nonzero(there)
    if count < CLIPPED_SHARE * len(samples) or extreme == 0:
        return
    inside = samples[~there]
    beside = inside[np.argmin(np.abs(inside - extreme))]
    if count >= CLIPPED_RATIO * np.count_nonzero(inside == beside) and len(np.unique(samples)) >= CLIPPED_VALUES:
        raise Refused(Reason.CLIPPED, f"{count / len(samples):.0%} of the samples at {extreme}, in runs below {CLIPPED_RUN}")


def longest_run(mask: Bool[np.ndarray, " samples"]) -> int:
    """Length of the longest run of True."""
    if not mask.any():
        return 0
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return int((edges[1::2] - edges[::2]).max())
