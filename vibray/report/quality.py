"""What the scores' folder counts of its data, and no table elsewhere shows: causes, sensors that nobody knows, the spread of the scores."""

from collections.abc import Iterator

import numpy as np

from vibray.report import formats
from vibray.report.data import ReportData
from vibray.report.scale import quantiles as quantiles_of
from vibray.report.words import Words
from vibray.schema import SCORE_QUANTILES
from vibray.storage.columns import codes


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


def quantiles(data: ReportData) -> list[tuple[str, str]]:
    """(percentile, score)."""
    if not data.ordered.size:
        return []
    return [
        (f"{100 * q:g} %", formats.number(at)) for q, at in zip(SCORE_QUANTILES, quantiles_of(data.ordered, SCORE_QUANTILES), strict=True)
    ]
