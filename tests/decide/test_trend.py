"""Steps and growth planted in series, healthy series, outages and outliers; and units of a scores table."""

import time

import numpy as np
import pyarrow as pa
import pytest
from scipy.signal import lfilter

from tests.decide.fleet import START_MS, fleet, replaced
from vibray import schema
from vibray.decide.reference import earliest_rows, sensor_groups, trusted_rows, usable_rows
from vibray.decide.trend import EVIDENCE, FEWEST_WINDOWS, trend, unit_trends
from vibray.schema import TrendVerdict

STEADY, STEP, GROWING = TrendVerdict
PER_DAY = 15.0


def noise(rng: np.random.Generator, num: int, r: float, draw: str = "normal") -> np.ndarray:
    """A healthy series in its own robust spreads, neighbours correlated by r."""
    x = lfilter([1.0], [1.0, -r], rng.normal(size=num) if draw == "normal" else rng.gumbel(size=num))
    x = x - np.median(x)
    return x / (1.4826 * np.median(np.abs(x)))


def days(num: int) -> np.ndarray:
    return np.arange(num) / PER_DAY


def step(num: int, at: int, size: float) -> np.ndarray:
    return size * (np.arange(num) >= at)


def ramp(num: int, at: int, size: float) -> np.ndarray:
    return size * np.maximum(0, np.arange(num) - at) / (num - 1 - at)


def test_without_noise_both_are_found_exactly():
    for at in (30, 99, 150):
        found = trend(days(200), step(200, at, 4.0))
        assert (found.verdict, found.begins, found.per_day) == (STEP, at, None) and found.change == pytest.approx(4.0)
        found = trend(days(200), ramp(200, at, 2.5))
        assert (found.verdict, found.begins) == (GROWING, at)
        assert found.change == pytest.approx(2.5, rel=1e-3)
        assert found.per_day == pytest.approx(2.5 / days(200)[199 - at], rel=1e-3)


def slow_fits(t: np.ndarray, y: np.ndarray) -> dict[TrendVerdict, tuple[int, float]]:
    """Place and residual sum of squares of the best step and the best growth, each place fitted anew."""
    found = {}
    for verdict in (STEP, GROWING):
        fits = []
        for at in range(FEWEST_WINDOWS, len(y) - FEWEST_WINDOWS + 1):
            shape = (np.arange(len(y)) >= at).astype(float) if verdict == STEP else np.maximum(0, t - t[at])
            design = np.stack([np.ones(len(y)), shape], axis=1)
            answer = np.linalg.lstsq(design, y, rcond=None)[0]
            fits.append((float(((y - design @ answer) ** 2).sum()) if answer[1] > 0 else float(((y - y.mean()) ** 2).sum()), at))
        found[verdict] = min(fits)[::-1]
    return found


@pytest.mark.parametrize("seed", range(8))
def test_cumulative_sums_are_least_squares(seed):
    """Of windows at uneven times, without outliers that would be cut."""
    rng = np.random.default_rng(seed)
    t = np.sort(rng.uniform(0, 40, 120))
    y = rng.uniform(-1, 1, 120) + (step(120, 70, 3.0) if seed % 2 else 3 * np.maximum(0, t - t[50]) / (t[-1] - t[50]))
    found, fits = trend(t, y), slow_fits(t, y)
    best = min(fits, key=lambda verdict: fits[verdict][1])
    assert (found.verdict, found.begins) == (best, fits[best][0])
    gain = 120 * np.log(((y - y.mean()) ** 2).sum() / fits[best][1]) - 2 * np.log(120)
    assert gain > EVIDENCE  # of independent windows


@pytest.mark.parametrize("draw", ["normal", "gumbel"])
@pytest.mark.parametrize("r", [0.0, 0.5])
@pytest.mark.parametrize("num", [60, 300])
def test_healthy_series_are_steady(num, r, draw):
    """At most 5 % of 500 are called anything else; 0 to 1.2 % were."""
    wrong = sum(trend(days(num), noise(np.random.default_rng(seed), num, r, draw)).verdict != STEADY for seed in range(500))
    assert wrong <= 25


@pytest.mark.parametrize(
    ("make", "size", "r", "right", "within"),
    [
        (step, 2.0, 0.0, 0.95, 5),
        (step, 2.0, 0.5, 0.95, 8),
        (step, 5.0, 0.5, 1.0, 2),
        (ramp, 2.0, 0.0, 0.8, 40),
        (ramp, 3.0, 0.5, 0.75, 50),
        (ramp, 5.0, 0.5, 0.95, 30),
    ],
)
def test_planted_changes_are_found_and_told_apart(make, size, r, right, within):
    """200 windows, 100 series: how many are called by their name, and how far from its place nine in ten of these begin."""
    verdict, found, places = (STEP if make is step else GROWING), [], []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        at = int(rng.integers(60, 120))
        said = trend(days(200), noise(rng, 200, r) + make(200, at, size))
        if said.verdict == verdict and said.begins is not None:
            found.append(said)
            places.append(abs(said.begins - at))
    assert len(found) >= 100 * right
    assert np.percentile(places, 90) <= within
    assert np.median([said.change for said in found]) == pytest.approx(size, rel=0.2)


def test_outages_and_outliers_change_no_verdict():
    rng = np.random.default_rng(3)
    t = days(300)
    t[150:] += 60.0  # two months without a record
    y = noise(rng, 300, 0.3)
    loud = rng.permutation(300)[:15]
    healthy = y.copy()
    healthy[loud] += rng.uniform(20, 500, 15)  # bumps, one window each
    assert trend(t, healthy).verdict == STEADY
    found = trend(t, healthy + step(300, 200, 4.0))
    assert found.verdict == STEP and found.begins == pytest.approx(200, abs=3) and found.change == pytest.approx(4.0, rel=0.25)
    grown = 5 * np.maximum(0, t - t[60]) / (t[-1] - t[60])
    found = trend(t, healthy + grown)
    assert found.verdict == GROWING and found.change == pytest.approx(5.0, rel=0.3)
    assert found.per_day == pytest.approx(5 / (t[-1] - t[60]), rel=0.3)


def test_what_falls_or_is_short_or_stands_still_is_steady():
    rng = np.random.default_rng(0)
    assert trend(days(200), noise(rng, 200, 0.0) - step(200, 100, 6.0)).verdict == STEADY
    assert trend(days(19), step(19, 10, 50.0)).verdict == STEADY
    assert trend(np.zeros(50), step(50, 25, 50.0)).verdict == STEADY
    assert trend(days(50), np.zeros(50)).verdict == STEADY
    assert trend(days(300), noise(rng, 300, 0.0) * 0.2 + step(300, 150, 0.6)).verdict == STEADY  # surely there, and too small to matter


def test_a_hundred_thousand_windows_take_seconds():
    y = noise(np.random.default_rng(0), 100_000, 0.5)
    began = time.process_time()
    assert trend(days(100_000), y).verdict == STEADY
    assert trend(days(100_000), y + step(100_000, 70_000, 1.5)).begins == pytest.approx(70_000, abs=30)
    print(f"1e5 windows twice: {time.process_time() - began:.1f} s")


# ---- units of a scores table


def trends(table: pa.Table, reference_records: int = 200) -> list[dict]:
    groups, rows = sensor_groups(table), usable_rows(table) & trusted_rows(table)
    in_reference = earliest_rows(groups, rows, reference_records)
    found = unit_trends(table, rows, in_reference, groups, 60.0)
    assert found.schema == schema.UNIT_TRENDS
    return found.to_pylist()


def test_units_that_stepped_grew_and_stayed():
    table = replaced(fleet(4, sick=[(1, 300, 4.0)]), "score", np.log(fleet(4, sick=[(1, 300, 4.0)])["score"].to_numpy()))
    hour = np.tile(np.arange(400), 12)
    unit = np.array(table["unit"].to_pylist())
    grows = (unit == "T02") * 6 * np.maximum(0, hour - 250) / 149
    table = replaced(table, "score", (table["score"].to_numpy() + grows).astype(np.float32))
    still, stepped, grew, other = trends(table)
    assert [row["unit"] for row in (still, stepped, grew, other)] == ["T00", "T01", "T02", "T03"]
    for row in (still, other):
        assert row == {"unit": row["unit"], "verdict": "steady", "since": None, "change": 0.0, "per_month": None}
    assert stepped["verdict"] == "step" and stepped["per_month"] is None and stepped["change"] > 3
    assert stepped["since"].timestamp() == pytest.approx(START_MS / 1000 + 300 * 3600, abs=2 * 3600)
    assert grew["verdict"] == "growing"
    assert grew["since"].timestamp() == pytest.approx(START_MS / 1000 + 250 * 3600, abs=30 * 3600)
    assert grew["per_month"] == pytest.approx(
        grew["change"] / (START_MS / 1000 + 399 * 3600 - grew["since"].timestamp()) * 30.437 * 86400, rel=0.02
    )
    shuffled = table.take(pa.array(np.random.default_rng(0).permutation(table.num_rows)))
    assert trends(shuffled) == [still, stepped, grew, other]


def test_a_unit_without_a_reference_or_of_constant_scores_is_steady():
    table = fleet(2, 1, 30)
    assert [row["verdict"] for row in trends(table)] == ["steady", "steady"]  # 15 reference records
    flat = replaced(fleet(1, 1, 200), "score", np.r_[np.full(100, 1.0), np.full(100, 9.0)].astype(np.float32))
    assert [row["verdict"] for row in trends(flat)] == ["steady"]
    off = replaced(fleet(1, 1, 200), "state", ["off"] * 200)
    assert trends(off) == []
