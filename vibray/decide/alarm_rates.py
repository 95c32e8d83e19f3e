"""How often the k-of-n rule alarms where nothing is wrong: by the formula, and by resampling what healthy units did."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # its rooms (stats, optimize) are imported on first use: they take a second, which no --help needs
from jaxtyping import Bool, Int64

from vibray.config import UserError

BLOCK_SPANS = 5
"""A block is so many spans of n windows long: what binds neighbouring windows stays in it."""
NUM_RESAMPLES = 200
DAY_S = 86_400.0


class AlarmRuleError(UserError):
    """A rule of persistence, window or rate that cannot be applied."""


def check_persist(k: int, n: int) -> None:
    """Raises AlarmRuleError unless 1 <= k <= n."""
    if not 1 <= k <= n:
        raise AlarmRuleError(f"persistence needs 1 <= k <= n, not k = {k}, n = {n}: --persist 3 5 asks for 3 of the last 5 windows")


def persistent(exceeds: Bool[np.ndarray, "... windows"], k: int, n: int) -> Bool[np.ndarray, "... windows"]:
    """True where at least `k` of the last `n` windows, this one included, exceed. Before the first window nothing exceeded."""
    check_persist(k, n)
    total = np.cumsum(exceeds, axis=-1, dtype=np.int64)
    before = np.zeros_like(total)
    before[..., n:] = total[..., :-n]
    return total - before >= k


def onsets(alarm: Bool[np.ndarray, "... windows"]) -> Int64[np.ndarray, "..."]:
    """How many times an alarm begins."""
    begins = alarm.copy()
    begins[..., 1:] &= ~alarm[..., :-1]
    return np.asarray(begins.sum(axis=-1), np.int64)


def onset_probability(rate: float, k: int, n: int) -> float:
    """P(an alarm begins at a given window), where each window exceeds with probability `rate`, independently.

    It begins where this window exceeds, the one n windows ago did not, and exactly k - 1 of the n - 1 in between did:
    rate (1 - rate) C(n - 1, k - 1) rate^(k - 1) (1 - rate)^(n - k).
    """
    check_persist(k, n)
    if not 0 <= rate <= 1:
        raise AlarmRuleError(f"the rate must lie between 0 and 1, not {rate}")
    return rate * (1 - rate) * float(scipy.stats.binom.pmf(k - 1, n - 1, rate))


def expected_alarms_per_day(rate: float, k: int, n: int, intervals_s: Sequence[float | int]) -> float:
    """Alarms a day that begin in a healthy fleet, windows taken as independent; `intervals_s` is the time between windows of each unit."""
    return onset_probability(rate, k, n) * windows_per_day(intervals_s)


def windows_per_day(intervals_s: Sequence[float | int]) -> float:
    """Windows a day of the fleet."""
    return float(sum(DAY_S / interval for interval in intervals_s))


@dataclass(frozen=True)
class HealthyAlarms:
    """What the rule did on reference windows, which are taken as healthy."""

    num_windows: int
    exceed_rate: float
    """Share of the windows that exceed: to be compared with the nominal rate."""
    num_onsets: int
    per_day: float
    """Alarms a day in the fleet, mean over the resamples."""
    low: float
    high: float
    """5th and 95th percentile over the resamples."""
    at_most: float
    """Upper 95 % limit of alarms a day from the number seen, as of a Poisson count: what 0 seen still allows."""


def resampled_alarms(
    sequences: Sequence[Bool[np.ndarray, " _"]], k: int, n: int, per_day: float, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> HealthyAlarms | None:
    """Alarms a day by circular block resampling of each unit's own sequence of windows; None without a window.

    Whole windows are drawn, in blocks of 5 n, so that what binds the sensors of a unit, and neighbouring windows, stays bound. `per_day` is
    the fleet's number of windows a day.

    Source: Politis and Romano 1992, "A circular block-resampling procedure for stationary data".
    """
    check_persist(k, n)
    found = [np.asarray(sequence, bool) for sequence in sequences if len(sequence)]
    num_windows = sum(len(sequence) for sequence in found)
    if not num_windows:
        return None
    rng, begun = np.random.default_rng(seed), np.zeros(num_resamples, np.int64)
    for sequence in found:
        length = len(sequence)
        block = min(length, BLOCK_SPANS * n)
        starts = rng.integers(0, length, (num_resamples, -(-length // block)))
        rows = (starts[:, :, None] + np.arange(block)).reshape(num_resamples, -1)[:, :length] % length
        begun += onsets(persistent(sequence[rows], k, n))
    rates = begun / num_windows * per_day
    seen = int(sum(int(onsets(persistent(sequence, k, n))) for sequence in found))
    low, high = np.percentile(rates, [5, 95])
    return HealthyAlarms(
        num_windows=num_windows,
        exceed_rate=float(np.mean(np.concatenate(found))),
        num_onsets=seen,
        per_day=float(rates.mean()),
        low=float(low),
        high=float(high),
        at_most=float(scipy.stats.chi2.ppf(0.95, 2 * seen + 2) / 2 / num_windows * per_day),
    )
