"""Comma-separated decimal numbers to float32, straight from the bytes of a line, by a compiled loop.

It reads numbers as JSON writes them, a blank allowed before each, and refuses all else. What it gives is bit for bit float32(float(text));
what it refuses is for a slower reader to judge. Importing this module imports numba, a third of a second: do it where lines are read.
"""

from functools import lru_cache
from typing import Any, no_type_check

import numba
import numpy as np
from jaxtyping import Float32

MAX_DIGITS = 19
"""Significant digits that 64 bits are sure to hold."""

EXACT_INTEGER = np.uint64(1 << 53)
"""All integers up to this are float64 numbers."""

EXACT_POWER = 22
"""All powers of ten up to this are float64 numbers."""

POWERS = np.array([float(10**i) for i in range(EXACT_POWER + 1)])

MAX_POWER = 3 * EXACT_POWER

BELOW, ABOVE = 1 - 2.0**-49, 1 + 2.0**-49

MAX_FLOAT32 = float(np.finfo(np.float32).max)

ZERO, MINUS, PLUS, POINT, COMMA, BLANK, LARGE_E, SMALL_E = (np.uint8(ord(c)) for c in "0-+., Ee")

# an index of a signed type costs a check for negative ones at every byte, a third of the time
ONE = np.uint64(1)
TEN = np.uint64(10)


def parse_floats(text: bytes, start: int, stop: int, minus_zero: bool, most: int | None = None) -> Float32[np.ndarray, " samples"] | None:
    """The numbers in text[start:stop], None where they are refused, or more than `most`.

    text[stop] must be there, and no byte of a number.

    `minus_zero` says that "-0" is -0.0, as for float(); in a JSON list it is an integer and 0.0.
    """
    possible = (stop - start) // 2 + 1  # a number and its comma are two bytes or more
    samples = np.empty(possible if most is None else min(most, possible), np.float32)
    count = _compiled()(np.frombuffer(text, np.uint8), start, stop, minus_zero, samples)
    return samples[:count] if count > 0 else None


@lru_cache(1)
def _compiled() -> Any:
    """The loop as machine code, kept on disk beside this file or in the user's cache (NUMBA_CACHE_DIR)."""
    signature = numba.int64(
        numba.types.Array(numba.uint8, 1, "C", readonly=True), numba.uint64, numba.uint64, numba.boolean, numba.float32[::1]
    )
    try:
        return numba.njit(signature, nogil=True, error_model="numpy", cache=True)(_parse)
    except Exception:  # no folder to write to, a full disk, a damaged file: they cost a second of compiling and nothing else
        return numba.njit(signature, nogil=True, error_model="numpy")(_parse)


@numba.njit
@no_type_check  # nothing may stand between numba and the function
def _digits(text, at, mantissa):
    """The index behind the digits at `at`, and the mantissa with them appended (wrong after MAX_DIGITS)."""
    digit = text[at] - ZERO  # a byte below "0" wraps to a large one
    while digit <= 9:
        mantissa = mantissa * TEN + np.uint64(digit)
        at += ONE
        digit = text[at] - ZERO
    return at, mantissa


@numba.njit
@no_type_check
def _exponent(text, at):
    """The index behind the exponent whose letter is at `at`, and its value; the index 0 where it has no digits."""
    at += ONE
    shrinks = text[at] == MINUS
    if shrinks or text[at] == PLUS:
        at += ONE
    after, value = _digits(text, at, np.uint64(0))
    if after == at:
        return np.uint64(0), 0
    if after - at > np.uint64(3):
        value = np.uint64(1000)  # beyond what is read
    return after, -np.int64(value) if shrinks else np.int64(value)


@numba.njit
@no_type_check
def _fits(text, first, num_digits):
    """Whether a number from `first` on of more than MAX_DIGITS digits has that many or fewer behind its leading zeros."""
    while num_digits > MAX_DIGITS and (text[first] == ZERO or text[first] == POINT):
        num_digits -= text[first] == ZERO
        first += ONE
    return num_digits <= MAX_DIGITS


@numba.njit
@no_type_check
def _scaled(mantissa, power):
    """mantissa * 10^power as a float64 that rounds to the float32 which float() leads to; NaN where that is not sure, or no finite one.

    At most five roundings and float()'s own leave less than 2^-49 of the value between the two: where all that is as near rounds to one
    float32, the two do.
    """
    if power < -MAX_POWER or power > MAX_POWER:
        return np.nan
    if mantissa <= EXACT_INTEGER and 0 < power <= EXACT_POWER:
        value = np.float64(mantissa) * POWERS[power]
        return value if value <= MAX_FLOAT32 else np.nan
    value = np.float64(mantissa)
    while power < -EXACT_POWER:
        value /= POWERS[EXACT_POWER]
        power += EXACT_POWER
    while power > EXACT_POWER:
        value *= POWERS[EXACT_POWER]
        power -= EXACT_POWER
    value = value / POWERS[-power] if power <= 0 else value * POWERS[power]
    return value if np.float32(value * BELOW) == np.float32(value * ABOVE) and value <= MAX_FLOAT32 else np.nan


@no_type_check
def _parse(text, start, stop, minus_zero, samples):
    """Fills `samples` and returns how many there are, -1 where the text is refused."""
    at, count = start, 0
    while count < samples.size:
        if text[at] == BLANK:
            at += ONE
        negative = text[at] == MINUS
        at += np.uint64(negative)
        first = at
        at, mantissa = _digits(text, first, np.uint64(0))
        num_digits = np.int64(at - first)
        if num_digits == 0 or (num_digits > 1 and text[first] == ZERO):
            return -1
        power = 0
        is_integer = True
        if text[at] == POINT:
            point = at + ONE
            at, mantissa = _digits(text, point, mantissa)
            power = np.int64(point - at)
            if power == 0:
                return -1
            num_digits -= power
            is_integer = False
        if num_digits > MAX_DIGITS and not _fits(text, first, num_digits):
            return -1
        if text[at] == SMALL_E or text[at] == LARGE_E:
            at, exponent = _exponent(text, at)
            if at == 0:
                return -1
            power += exponent
            is_integer = False
        if mantissa <= EXACT_INTEGER and -EXACT_POWER <= power <= 0:
            # one correctly rounded operation (Clinger 1990, "How to read floating point numbers accurately")
            value = np.float64(np.int64(mantissa)) / POWERS[np.uint64(-power)]
        else:
            value = _scaled(mantissa, power)
            if np.isnan(value):
                return -1
        if mantissa == 0 and negative and is_integer and not minus_zero:
            return -1
        samples[count] = -value if negative else value
        count += 1
        if text[at] != COMMA:
            return count if at == stop else -1
        at += ONE
    return -1
