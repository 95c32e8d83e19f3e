"""The review queue: who enters, in what turn, and what it says."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from tests.decide.fleet import at_one_time, fleet, replaced
from vibray import schema
from vibray.decide.review import review_queue, review_rows


def classified(table: pa.Table, p: np.ndarray, faults: tuple[str, ...]) -> pa.Table:
    """The scores of a classifier; a record below .01 is normal."""
    score = table["score"].to_numpy() / table["score"].to_numpy().max()
    fault = np.where(score < 0.01, schema.NORMAL, np.array(faults)[p.argmax(axis=1)])
    columns = {name: table[name] for name in table.column_names} | {
        "score": score.astype(np.float32),
        "abnormal_probability": score.astype(np.float32),
        "fault": fault,
        "fault_probability": p.max(axis=1).astype(np.float32),
        **{schema.FAULT_PREFIX + name: p[:, i].astype(np.float32) for i, name in enumerate(faults)},
    }
    return pa.table(columns, schema=schema.scores((), faults))


def slow_rows(table: pa.Table, num: int) -> list[int]:
    """The rule for a detector, said once more: the highest score, in turn one a unit, of a moment one."""
    records = table.to_pylist()
    order = sorted(range(len(records)), key=lambda i: (-records[i]["score"], records[i]["corpus"], records[i]["record_id"]))
    seen, queues = set(), {}
    for i in order:
        moment = records[i]["unit"], records[i]["measured_at"]
        if moment not in seen:
            seen.add(moment)
            queues.setdefault(records[i]["unit"], []).append(i)
    most, taken = max(-(-num // 4), -(-num // len(queues))), []
    for turn in range(most):
        taken += sorted((own[turn] for own in queues.values() if turn < len(own)), key=order.index)
    return taken[:num]


@pytest.mark.parametrize("num", [1, 5, 20, 97])
@pytest.mark.parametrize("num_units", [1, 3, 10])
def test_by_the_rule_as_it_is_said(num_units, num):
    table = at_one_time(fleet(num_units, num_times=60, shared=0.5))
    assert review_rows(table, None, num).tolist() == slow_rows(table, num)


def test_nobody_enters_who_must_not():
    table = fleet(4, num_times=50)
    num = table.num_rows
    rng = np.random.default_rng(0)
    states = rng.choice([s.value for s in schema.State], num)
    table = replaced(replaced(table, "state", states), "calibrated", rng.random(num) < 0.8)
    human = ["normal" if drawn else None for drawn in rng.random(num) < 0.3]
    rows = review_rows(table, human, 10_000)
    may = np.isin(states, ["energised", "unknown"]) & table["calibrated"].to_numpy(zero_copy_only=False)
    assert set(rows.tolist()) == set(np.flatnonzero(may & np.array([name is None for name in human])).tolist())
    assert len(review_rows(table, ["normal"] * num, 10)) == 0


def test_a_moment_of_which_a_person_has_judged_a_record_does_not_come_again():
    table = at_one_time(fleet(1, 3, 20))
    human: list[str | None] = ["normal" if i == 7 else None for i in range(60)]
    rows = review_rows(table, human, 60)
    assert sorted(rows % 20) == [time for time in range(20) if time != 7]


def test_no_unit_fills_the_queue_and_no_moment_stands_twice():
    table = at_one_time(fleet(10, sick=[(3, 0, 9.0)], shared=0.9))
    rows = review_rows(table, None, 20)
    units = np.array(table["unit"].to_pylist())[rows]
    assert len(rows) == 20 and max(Counter(units.tolist()).values()) == 2 and units[0] == "T03"
    assert len({(unit, time) for unit, time in zip(units, table["measured_at"].take(pa.array(rows)).to_pylist(), strict=True)}) == 20
    few = table.filter(pa.array(np.isin(np.array(table["unit"].to_pylist()), ["T03"]) | (np.arange(table.num_rows) % 400 < 2)))
    assert Counter(np.array(few["unit"].to_pylist())[review_rows(few, None, 40)].tolist())["T03"] == 10  # a quarter


def test_the_order_of_the_rows_does_not_matter():
    table = at_one_time(fleet(5, num_times=80))
    score = np.round(table["score"].to_numpy(), 1)  # many are equal
    table = replaced(table, "score", score)
    shuffled = table.take(pa.array(np.random.default_rng(1).permutation(table.num_rows)))
    ids = [t["record_id"].take(pa.array(review_rows(t, None, 30))).to_pylist() for t in (table, shuffled)]
    assert ids[0] == ids[1]


def test_a_units_next_record_is_of_another_guessed_fault():
    table, rng = fleet(5, 1, 200), np.random.default_rng(0)
    faults = ("bearing", "dc_bias", "轴承")
    told = classified(table, rng.dirichlet([5, 1, 1], table.num_rows), faults)
    score = told["score"].to_numpy()
    fault, unit = (np.array(told[name].to_pylist()) for name in ("fault", "unit"))
    rows = review_rows(told, None, 20)
    for name in np.unique(unit):
        own = rows[unit[rows] == name]
        assert score[own[0]] == score[unit == name].max()
        assert len(own) == 4 and set(fault[own].tolist()) == set(faults)  # and none that is guessed normal
        for row in own[:3]:  # the highest of its kind
            assert score[row] == score[(unit == name) & (fault == fault[row])].max()
    assert (np.diff(score[rows[:5]]) <= 0).all() and len(set(unit[rows[:5]].tolist())) == 5


def test_what_a_row_says():
    table = fleet(2, 1, 30)
    above = np.array([True, False])
    p = np.array([1 / 400, 1e-300])
    one, other = review_queue(table, np.array([7, 40]), above, p)
    assert one["guess"] == "abnormal" and one["why"] == "above the cut; one in 400 healthy records of this sensor score as high"
    assert (
        other["guess"] == "normal"
        and other["why"] == "below the cut; fewer than one in 10,000 healthy records of this sensor score as high"
    )
    assert (one["unit"], one["sensor_id"], one["record_id"], one["corpus"]) == ("T00", "s0", "r@7", "c")
    assert one["data_time"] == "2024-03-01T07:00:00.000Z" and float(one["score"]) == pytest.approx(table["score"][7].as_py(), rel=1e-5)
    told = classified(table, np.full((60, 2), [0.3, 0.2]), ("bearing", "轴承"))
    told = replaced(told, "fault", ["bearing"] * 59 + ["unknown"])
    bearing, unknown = review_queue(told, np.array([7, 59]), above, p)
    assert bearing["guess"] == "bearing" and bearing["why"].endswith("; bearing 0.60 or 轴承 0.40")
    assert unknown["guess"] == "abnormal" and unknown["why"].endswith("like no fault that was labelled")
