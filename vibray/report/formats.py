"""Values as the page writes them; alike in every language."""

import math
from datetime import UTC, datetime
from typing import Any

import numpy as np

from vibray.report.anchors import unit_anchor


def plain(value: Any) -> str:
    """A fact of the run: a number with the digits it was given."""
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def count(value: int) -> str:
    return f"{value:,}"


def number(value: Any) -> str:
    """Any value of a table: four significant digits, a dash for what is missing or not defined."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{int(value):,}"
    if isinstance(value, float | np.floating):
        digits = f"{value:#.4g}".removesuffix(".")
        return f"{value:,.0f}" if "e+" in digits and abs(value) < 1e9 else digits
    if isinstance(value, list | tuple):
        return ", ".join(number(v) for v in value)
    return str(value)


def percent(share: float | None) -> str:
    """A share in percent, with enough digits that a rare thing is not 0 % and 99.97 % is not 100 %."""
    if share is None or math.isnan(share):
        return "–"
    percent, text = 100 * share, ""
    for digits in range(5):
        text = f"{percent:.{digits}f}"
        if abs(float(text) - percent) <= 0.02 * min(percent, 100 - percent):
            break
    return f"{text} %"


def utc(time: datetime | int, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    """A time, or ms since 1970, in UTC."""
    moment = datetime.fromtimestamp(time / 1000, UTC) if isinstance(time, int) else time.astimezone(UTC)
    return f"{moment:{form}}"


def day(time: datetime | int) -> str:
    return utc(time, "%Y-%m-%d")


def minute(time: datetime | int) -> str:
    return utc(time, "%Y-%m-%d %H:%M")


FILTERS = {"anchor": unit_anchor, "n": count, "g": number, "plain": plain, "pct": percent, "utc": utc, "day": day, "minute": minute}
"""By their names in the templates."""
