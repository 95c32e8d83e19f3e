"""What the scores' folder counts of its data, and no table elsewhere shows: causes, sensors that nobody knows, the spread of the scores."""

from collections.abc import Iterator

import numpy as np

from vibray.report import formats
from vibray.report.data import ReportData
from vibray.report.scale import quantiles as quantiles_of
from vibray.report.words import Words
from vibray.storage.columns import codes

QUANTILES = (0.01, 0.05, 0.5, 0.95, 0.99, 0.999)
"""Those of summary.json."""


def causes(data: ReportData) -> list[tuple[str, int]]:
    """(cause, records) of faulty sensors, most first."""
    if "state_cause" not in data.scores.column_names:
        return []
    names, number = codes(data.scores["state_cause"])
    counted = np.bincount(number[number >= 0], minlength=len(names)).tolist()
    return sorted(((name, count) for name, count in zip(names, counted, strict=True) if count), key=lambda pair: (-pair[1], pair[0]))


def counts(data: ReportData, t: Words) -> Iterator[tuple[str, str]]:
    """(what, how many)."""
    yield t.plain("records of sensors without calibration, which raise no alarm"), f"{int((~data.calibrated).sum()):,}"
    yield t.plain("records whose time is implausible"), f"{int((~data.time_trusted).sum()):,}"
    if data.num_duplicates:
        yield t.plain("records met twice and taken once"), f"{data.num_duplicates:,}"
    if "deep" in data.scores.column_names:
        deep = int(data.scores["deep"].to_numpy(zero_copy_only=False).sum())
        yield t.plain("records that the run itself scored; the others' scores are the gate's predictions"), f"{deep:,}"


def quantiles(data: ReportData) -> list[tuple[str, str]]:
    """(percentile, score)."""
    if not data.ordered.size:
        return []
    return [(f"{100 * q:g} %", formats.number(at)) for q, at in zip(QUANTILES, quantiles_of(data.ordered, QUANTILES), strict=True)]
