"""Did a fault come in a step, or does it grow? For each unit: since when, and how fast.

A unit's series is its worst sensor, window by window: a record's score in robust spreads above its own sensor's reference, the largest of a
window, and that in robust spreads (1.4826 MAD) above the unit's own reference windows. Three models are fitted to it by least squares:

  steady    y = a
  step      y = a + b [t >= since]
  growing   y = a + b max(0, t - since)        (a line from a point on)

and the one with the smallest n ln(RSS / n) + k ln n is taken (BIC; k = 1, 3, 3: where it begins is a parameter too). "Steady" is the answer
by default: another needs b > 0, a change of at least one spread by now, ten windows on either side of where it begins, and a criterion that
is lower by 10. What lies more than 3 spreads from the median of five windows counts as 3: a bump is no step, and neither is a single window
of rain. Windows that follow one another are not independent: n is n (1 - r) / (1 + r), r the correlation of neighbouring residuals.

A fault that went away again, or one that grew and then stood still, is told by whichever of the three fits best. Sums are cumulative: O(n).

Source: Schwarz 1978, "Estimating the dimension of a model"; Kass and Raftery 1995, "Bayes factors": a difference of 10 is very strong.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import scipy  # its rooms are imported on first use: they take a second, which no --help needs
from jaxtyping import Bool, Float64

from vibray.decide.groups import SensorGroups
from vibray.schema import UNIT_TRENDS, TrendVerdict
from vibray.signal.robust import median_mad
from vibray.storage.columns import one_chunk, times_ms

FEWEST_WINDOWS = 10
"""On either side of where a step or a growth begins."""
SMALLEST_CHANGE = 1.0
"""In spreads, by now."""
EVIDENCE = 10.0
NUM_FILTERED, FARTHEST = 5, 3.0
FEWEST_REFERENCE = 20
"""Records of a sensor, and windows of a unit, that tell a spread."""
MONTH_DAYS = 365.2425 / 12


@dataclass(frozen=True)
class Trend:
    """What a series did."""

    verdict: TrendVerdict
    begins: int | None = None
    """The number of the first window after the step, or from which it grows."""
    change: float = 0.0
    """By the last window, in the series' own unit."""
    per_day: float | None = None


def trend(time_days: Float64[np.ndarray, " windows"], y: Float64[np.ndarray, " windows"]) -> Trend:
    """The verdict on a series in order of time, in spreads of its reference."""
    num, steady = len(y), Trend(TrendVerdict.STEADY)
    if num < 2 * FEWEST_WINDOWS or not time_days[-1] > time_days[0]:
        return steady
    middle = scipy.ndimage.median_filter(y, NUM_FILTERED, mode="nearest")
    y = np.clip(y, middle - FARTHEST, middle + FARTHEST)
    mean = y.mean()
    y = y - mean
    x = (time_days - time_days[0]) / (time_days[-1] - time_days[0])
    begins = np.arange(FEWEST_WINDOWS, num - FEWEST_WINDOWS + 1)
    after, sum_y, sum_x, sum_xx, sum_xy = (_from(values)[begins] for values in (np.ones(num), y, x, x * x, x * y))
    at = x[begins]
    h, hh, hy = sum_x - at * after, sum_xx - 2 * at * sum_x + at * at * after, sum_xy - at * sum_y  # of h = max(0, x - at)
    rss = float(y @ y)
    best: list[tuple[float, Trend, np.ndarray]] = []
    for verdict, cov, var in (
        (TrendVerdict.STEP, sum_y, after * (num - after) / num),
        (TrendVerdict.GROWING, hy, hh - h * h / num),
    ):
        slope = np.divide(cov, var, out=np.zeros(len(var)), where=var > 1e-12 * num)
        explained = np.where(slope > 0, slope * cov, 0.0)
        i = int(np.argmax(explained))
        shape = (np.arange(num) >= begins[i]).astype(np.float64) if verdict == TrendVerdict.STEP else np.maximum(0.0, x - at[i])
        fit = slope[i] * (shape - shape.mean())
        change = float(slope[i] * shape[-1])
        per_day = change / (time_days[-1] - time_days[begins[i]]) if verdict == TrendVerdict.GROWING and change > 0 else None
        best.append((rss - float(explained[i]), Trend(verdict, int(begins[i]), change, per_day), y - fit))
    lowest, found, residual = min(best, key=lambda model: model[0])
    if found.change < SMALLEST_CHANGE:
        return steady
    r = max(0.0, float(residual[1:] @ residual[:-1]) / max(float(residual @ residual), 1e-300))
    independent = num * (1 - r) / (1 + r)
    gain = independent * np.log(max(rss, 1e-300) / max(lowest, 1e-12 * rss, 1e-300)) - 2 * np.log(max(independent, 1.0))
    return found if gain >= EVIDENCE else steady


def _from(values: Float64[np.ndarray, " windows"]) -> Float64[np.ndarray, " windows"]:
    """The sum from each place to the end."""
    return np.cumsum(values[::-1])[::-1]


def unit_trends(
    scores: pa.Table,
    rows: Bool[np.ndarray, " records"],
    in_reference: Bool[np.ndarray, " records"],
    groups: SensorGroups,
    window_minutes: float,
) -> pa.Table:
    """One row of schema.UNIT_TRENDS a unit of `rows` (usable records with a time that can be), by name.

    A sensor with fewer than 20 reference records, or a unit with fewer than 20 windows of such records alone, cannot be compared with
    anything: steady.
    """
    score, time, window_ms = one_chunk(scores["score"]).to_numpy(), times_ms(scores), max(1, round(window_minutes * 60_000))
    names, found = [name for name, _, _ in groups.units()], list[dict[str, object]]()
    for own, unit, sensor in groups.batches():
        height = np.full(len(own), np.nan)
        for a, b in pairwise(np.flatnonzero(np.r_[True, sensor[1:] != sensor[:-1], True]).tolist()):
            mine = own[a:b]
            known = mine[in_reference[mine] & rows[mine]]
            if len(known) >= FEWEST_REFERENCE:
                middle, spread = median_mad(score[known].astype(np.float64))
                if spread > 0:
                    height[a:b] = (score[mine].astype(np.float64) - middle) / spread
        told = np.flatnonzero(rows[own] & np.isfinite(height))
        place = time[own[told]] // window_ms
        of_unit, start, highest, of_reference = _worst(unit[told], place, height[told], in_reference[own[told]])
        there = np.unique(unit[rows[own]])
        starts, ends = (np.searchsorted(of_unit, there, side=side).tolist() for side in ("left", "right"))
        for i, a, b in zip(there.tolist(), starts, ends, strict=True):
            found.append({"unit": names[i], **_row(start[a:b], highest[a:b], of_reference[a:b], window_ms)})
    return pa.Table.from_pylist(found, schema=UNIT_TRENDS)


FourColumns = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _worst(unit: np.ndarray, place: np.ndarray, height: np.ndarray, in_reference: np.ndarray) -> FourColumns:
    """Of each unit's windows in order: unit, place, height of the highest record, and whether all its records are of the reference."""
    order = np.lexsort((height, place, unit))
    unit, place, height = unit[order], place[order], height[order]
    last = np.ones(len(order), bool)
    last[:-1] = (unit[1:] != unit[:-1]) | (place[1:] != place[:-1])
    window = np.cumsum(last) - last
    mixed = np.bincount(window, ~in_reference[order], minlength=int(last.sum())) > 0
    return unit[last], place[last], height[last], ~mixed


def _row(place: np.ndarray, height: np.ndarray, of_reference: np.ndarray, window_ms: int) -> dict[str, object]:
    """What UNIT_TRENDS says of one unit's windows."""
    known, said = height[of_reference], Trend(TrendVerdict.STEADY)
    if len(known) >= FEWEST_REFERENCE:
        middle, spread = median_mad(known)
        if spread > 0:
            said = trend(place * window_ms / 86_400_000.0, (height - middle) / spread)
    return {
        "verdict": said.verdict.value,
        "since": None if said.begins is None else int(place[said.begins] * window_ms),
        "change": said.change,
        "per_month": None if said.per_day is None else said.per_day * MONTH_DAYS,
    }


def print_trends(trends: pa.Table) -> None:
    """Which units changed, since when and how fast."""
    moved = [row for row in trends.to_pylist() if row["verdict"] != TrendVerdict.STEADY]
    counts = {verdict: sum(row["verdict"] == verdict for row in moved) for verdict in (TrendVerdict.STEP, TrendVerdict.GROWING)}
    print(f"trends: {counts[TrendVerdict.STEP]} units rose in a step, {counts[TrendVerdict.GROWING]} grow,", end=" ")
    print(f"{trends.num_rows - len(moved)} are steady or too short to tell")
    for row in sorted(moved, key=lambda row: (-row["change"], row["unit"]))[:10]:
        fast = "" if row["per_month"] is None else f", {row['per_month']:.2g} a month"
        print(f"    {row['unit']} {row['verdict']} since {row['since']:%Y-%m-%d %H:%M} UTC: by {row['change']:.2g} spreads{fast}")
