"""What the development suite says of machines like these: the rows of README.md's table "What to expect" that come nearest."""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any


@dataclass(frozen=True)
class Expected:
    """A row: machines, sensors, and the AUROC of each recipe (None: not measured)."""

    machines: str
    sensors: str
    auroc: tuple[float | None, ...]


@cache
def whole() -> dict[str, Any]:
    """expectations.json: a test holds it against README.md."""
    return json.loads(files("vibray.report").joinpath("expectations.json").read_text(encoding="utf-8"))


def recipes() -> tuple[str, ...]:
    return tuple(whole()["recipes"])


def expected(mains: bool, num_context: int | None) -> tuple[Expected, ...]:
    """For machines with a mains frequency the generated transformers, for others the public corpora.

    `num_context` records make a sensor's baseline: of rows that differ in nothing else the one with the largest number that is reached, or
    the smallest; every row where it is not known.
    """
    own = [row for row in whole()["rows"] if row["mains"] == mains]
    counted = [row["records"] for row in own if row["records"] is not None]
    if num_context is not None and counted:
        nearest = max((n for n in counted if n <= num_context), default=min(counted))
        own = [row for row in own if row["records"] in (None, nearest)]
    return tuple(Expected(row["machines"], row["sensors"], tuple(row["auroc"])) for row in own)
