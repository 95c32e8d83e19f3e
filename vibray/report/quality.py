"""What the scores' folder counts of its data, and no table elsewhere shows: causes, sensors that nobody knows, the spread of the scores."""

from collections.abc import Iterator

import numpy as np
import pyarrow.compute as pc

from vibray.report import formats
from vibray.report.data import ReportData
from vibray.report.words import Words
from vibray.schema import SCORE_QUANTILES


def causes(data: ReportData) -> list[tuple[str, int]]:
    """(cause, records) of faulty sensors, most first."""
    if "state_cause" not in data.scores.column_names:
        return []
    counted = pc.value_counts(data.scores["state_cause"].drop_null()).to_pylist()  # type: ignore[attr-defined]
    return sorted(((row["values"], row["counts"]) for row in counted), key=lambda pair: (-pair[1], pair[0]))


def counts(data: ReportData, t: Words) -> Iterator[tuple[str, str]]:
    """(what, how many)."""
    yield t.plain("records of sensors without calibration, which raise no alarm"), f"{int((~data.calibrated).sum()):,}"
    yield t.plain("records whose time is implausible"), f"{int((~data.time_trusted).sum()):,}"
    if data.num_duplicates:
        yield t.plain("records met twice and taken once"), f"{data.num_duplicates:,}"


def quantiles(data: ReportData) -> list[tuple[str, str]]:
    """(percentile, score)."""
    finite = data.score[np.isfinite(data.score)]
    return [(f"{100 * q:g} %", formats.number(float(np.quantile(finite, q)))) for q in SCORE_QUANTILES] if finite.size else []
