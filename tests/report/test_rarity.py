"""How rare a score is said to be: never rarer than the reference can tell."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from tests.report import fleet
from vibray import schema
from vibray.report.rarity import phrase, rarity
from vibray.report.words import Words


def table(scores: np.ndarray, sensor: np.ndarray | None = None, **columns: list) -> pa.Table:
    """Records of one unit in order of time, of one sensor unless told."""
    num = len(scores)
    start = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp() * 1000)
    made = fleet.scores(num, faults=None)
    given = {
        "unit": ["T1"] * num,
        "sensor_id": [f"T1-{s}" for s in (np.zeros(num, int) if sensor is None else sensor)],
        "measured_at": pa.array(start + 3_600_000 * np.arange(num), pa.int64()).cast(schema.TIME),
        "state": ["energised"] * num,
        "calibrated": [True] * num,
        "score": pa.array(scores, pa.float32()),
    }
    for name, values in {**given, **columns}.items():
        made = made.set_column(made.column_names.index(name), made.schema.field(name), pa.array(values, made.schema.field(name).type))
    return made


def told(scores: pa.Table, num_reference: int) -> list[str]:
    found = rarity(scores, num_reference)
    return [found.words(row) for row in range(scores.num_rows)]


def test_of_99_reference_records_the_rarest_is_rarer_than_one_in_99() -> None:
    reference = np.arange(1.0, 100.0)
    new = np.array([1e6, 100.0, 99.0, 98.5, 90.5, 50.5, 0.5])
    padding = np.full(92, 1.5)  # at most half of the records are the reference
    words = told(table(np.concatenate([reference, new, padding])), 99)[99 : 99 + len(new)]
    # ranks from the top: none above, none above, one (itself equal), one, nine, 49, all
    assert words == [*["rarer than one in 99"] * 2, "one in 50", "one in 50", "one in 10", "one in 2", "usual"]


def test_it_is_the_rank_among_the_reference() -> None:
    """A slow twin: count those at or above."""
    rng = np.random.default_rng(0)
    scores = rng.lognormal(0, 1, 500)
    found = rarity(table(scores), 150)
    values = scores.astype(np.float32)
    for row in range(150, 500):
        above = int((values[:150] >= values[row]).sum())
        assert found.beyond[row] == (above == 0)
        assert found.one_in[row] == (150 if above == 0 else 151 // (above + 1))
    assert found.in_reference.sum() == 150 and not found.estimate.any()
    # a reference record is compared with the other folds: 120 records
    assert found.one_in[:150].max() == 120


def test_with_a_handful_of_records_the_runs_machines_say_it() -> None:
    scores = np.concatenate([np.full(3, 9.0), np.full(11, 1.0), [9.0]])
    fleet_p = [0.5] * 14 + [0.011]
    found = rarity(table(scores, fleet_p_value=fleet_p), 200)
    assert found.words(14) == "about one in 90"  # not one in two or three, whatever the first three scored
    assert found.words(13) == "about one in 2"


def test_with_few_records_it_is_an_estimate_of_one_digit_and_of_200_at_most() -> None:
    rng = np.random.default_rng(1)
    sensor = np.repeat(np.arange(6), 40)
    scores = rng.lognormal(0, 0.5, 240)
    scores[39] = 1e4
    found = rarity(table(scores, sensor), 200)
    assert found.estimate.all()
    assert (found.one_in[39], found.beyond[39]) == (200, True)
    assert all(len(str(n).strip("0")) <= 1 for n in found.one_in.tolist())
    assert found.words(39) == "probably rarer than one in 200"


@pytest.mark.parametrize(("column", "value"), [("calibrated", False), ("state", "off"), ("state", "sensor_fault")])
def test_a_record_that_says_nothing_of_the_machine_has_none(column: str, value: object) -> None:
    scores = np.arange(300.0)
    plain = table(scores)
    values = plain[column].to_pylist()
    values[-1] = value
    found = rarity(table(scores, **{column: values}), 100)
    assert (found.words(299), found.rank(299)) == ("–", 0)
    assert found.words(298) == "rarer than one in 100"


def test_records_that_made_the_baseline_are_taken_as_they_score_without_it() -> None:
    """As scored they stand too low, and any new record would look rare."""
    scores = np.concatenate([np.full(120, 0.1), np.full(130, 1.0)])
    plain = table(scores)
    held = pa.table([*(plain[name][:120] for name in schema.KEY), [1.5] * 120, [None] * 120], schema=schema.OUT_OF_SAMPLE)
    assert rarity(plain, 120).words(200) == "rarer than one in 120"
    assert rarity(plain, 120, held).words(200) == "usual"


def test_ranks_sort_as_the_phrases_do() -> None:
    scores = np.concatenate([np.arange(1.0, 101.0), [200.0, 100.0, 50.0], np.full(97, 1.0)])
    found = rarity(table(scores), 100)
    assert found.rank(100) > found.rank(101) > found.rank(102) > 0 == found.rank(None)


def test_phrases_in_both_languages() -> None:
    assert phrase(1000, True, False) == "rarer than one in 1,000"
    assert phrase(40, False, True, Words("zh")) == "约 1/40"
    assert phrase(1, False, False, Words("zh")) == "平常"
