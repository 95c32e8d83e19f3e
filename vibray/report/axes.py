"""Where an axis is labelled: round times and round scores, as many as fit beside one another."""

from datetime import UTC, datetime

import numpy as np

from vibray.report.scale import Scale
from vibray.report.words import Words

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
STEPS = (MINUTE, 2 * MINUTE, 5 * MINUTE, 10 * MINUTE, 30 * MINUTE, HOUR, 2 * HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR)
DAYS = (1, 2, 4, 7, 14)
MONTHS = (1, 2, 3, 6, 12, 24, 60, 120)


def text_width(text: str, size: float | int) -> float:
    """CSS pixels that a text takes at most: Chinese characters are as broad as high, others narrower."""
    return size * sum(1.05 if ord(c) > 0x2E80 else 0.62 for c in text)


def time_ticks(first_ms: int, last_ms: int, most: int, t: Words) -> list[tuple[int, str]]:
    """(ms since 1970 UTC, label) of at most `most` round times from first to last; one label where none is round."""
    span = max(1, last_ms - first_ms)
    for step in STEPS:
        if span / step <= most:
            at = range(-(-first_ms // step) * step, last_ms + 1, step)
            if len(at):
                return [(ms, _clock(ms, step, t)) for ms in at][:most]
    for step in DAYS:
        if span / (step * DAY) <= most:
            at = range(-(-first_ms // DAY) * DAY, last_ms + 1, step * DAY)
            if len(at):
                return [(ms, _day(ms, t)) for ms in at][:most]
    for step in MONTHS:
        if span / (step * 30.4 * DAY) <= most and (found := _months(first_ms, last_ms, step, t)):
            return found[:most]
    return [(first_ms, _day(first_ms, t))]


def _clock(ms: int, step: int, t: Words) -> str:
    """The time of day, or the day at its beginning where the clock alone would repeat itself."""
    moment = datetime.fromtimestamp(ms / 1000, UTC)
    midnight = step >= HOUR and moment.hour == moment.minute == 0
    return t.day(moment.month, moment.day) if midnight else f"{moment:%H:%M}"


def _day(ms: int, t: Words) -> str:
    moment = datetime.fromtimestamp(ms / 1000, UTC)
    return t.day(moment.month, moment.day)


def _months(first_ms: int, last_ms: int, step: int, t: Words) -> list[tuple[int, str]]:
    first = datetime.fromtimestamp(first_ms / 1000, UTC)
    found, month = [], first.year * 12 + first.month - 1
    while True:
        if month % step == 0:
            moment = datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC)
            ms = int(moment.timestamp() * 1000)
            if ms > last_ms:
                return found
            if ms >= first_ms:
                found.append((ms, t.month(moment.year, moment.month) if step < 12 else str(moment.year)))
        month += 1


def score_ticks(scale: Scale, low: float, high: float, most: int) -> list[tuple[float, str]]:
    """(score, label) of at most `most` round scores of the axis from low to high; those of a linear axis are equally far apart."""
    match scale.kind:
        case "linear":
            found = linear_ticks(low, high, most)
        case "log":
            exponents = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
            found = _thinned([s * 10.0**e for e in exponents for s in (1, 2, 5)], [10.0**e for e in exponents], low, high, most)
        case "asinh":
            reach = max(abs(low), abs(high))
            decades = [10.0**e for e in range(int(np.floor(np.log10(scale.width))), int(np.ceil(np.log10(reach))) + 1)]
            found = _thinned([], [*(-d for d in reversed(decades)), 0.0, *decades], low, high, most)
    return [(float(value), f"{value:.6g}") for value in found]


def linear_ticks(low: float, high: float, most: int) -> list[float]:
    """At most `most` round values from low to high, equally far apart."""
    if not high > low:
        return [low]
    rough = (high - low) / max(1, most - 1)
    power = 10.0 ** np.floor(np.log10(rough))
    step = next((s * power for s in (1, 2, 5, 10) if s * power >= rough * (1 - 1e-9)), 10 * power)
    return [float(f"{i * step:.12g}") for i in range(int(np.ceil(low / step - 1e-9)), int(np.floor(high / step + 1e-9)) + 1)]


def _thinned(fine: list[float], coarse: list[float], low: float, high: float, most: int) -> list[float]:
    """The finer ones where they fit, else every second, third ... of the coarse ones; the middle of the range where none lies in it."""
    inside = [[v for v in values if low <= v <= high] for values in (fine, coarse)]
    if 2 <= len(inside[0]) <= most:
        return inside[0]
    every = max(1, -(-len(inside[1]) // most))
    return inside[1][::every] or inside[0][:most] or [(low + high) / 2]
