"""What parts tell: shares of the plan's bytes, chains included, and counters of which nothing is counted twice."""

import json
import logging

import pytest

from vibray.pipeline import telemetry
from vibray.pipeline.telemetry import Watch, told
from vibray.storage import tally
from vibray.storage.plan import PartPlan, Plan

RANGES = [PartPlan(f"r{i}", "plain.jsonl", "e", 300, 100 * i, 100 * (i + 1), None, None) for i in range(3)]
CHAIN = PartPlan("c", "packed.jsonl.gz", "e", 400, 0, None, 2000, 1 << 30, (("small.jsonl", "e", 300),))
PLAN = Plan("/raw", "raw", {}, (*RANGES, CHAIN), ())


@pytest.fixture(autouse=True)
def emptied():
    tally.take()


@pytest.fixture
def counted(monkeypatch):
    """What was added to the metrics, by name and tags, in the place of Ray's exporter."""
    amounts = {}

    class Counter:
        def __init__(self, name, description, tag_keys):
            self.name = name

        def inc(self, value, tags):
            assert value > 0
            key = "/".join([self.name, *tags.values()])
            amounts[key] = amounts.get(key, 0) + value

        def set(self, value, tags):
            amounts["/".join([self.name, *tags.values()])] = value

    monkeypatch.setattr("ray.util.metrics.Counter", Counter)
    monkeypatch.setattr("ray.util.metrics.Gauge", Counter)
    monkeypatch.setattr(telemetry, "running_ray", lambda: "a Ray that has an exporter")
    return amounts


def done(part: str, kept: int = 10, bad: int = 0, last: bool = True, **spent) -> dict:
    return {"part": part, "key": "k", "num_read": kept + bad, "num_kept": kept, "num_bad": bad, "reasons": {}, "last": last, **spent}


def test_share_is_of_the_bytes_of_the_plan_and_a_chain_is_credited_what_was_read_of_it(counted):
    with Watch("score", PLAN, [(part, frozenset()) for part in PLAN.parts]) as watch:
        shares = []
        for one in [
            done("r1", bytes_read=150),  # a reader reads beyond the end of its range; its part counts as what it is
            done("c-0", last=False, bytes_read=200),
            done("c-1", last=False, bytes_read=900),  # never more than there is
            done("c-2", bytes_read=0),
            done("r0"),
            done("r2"),
        ]:
            watch.part(one)
            shares.append(counted["vibray_share_done/score"])
    assert shares == [0.1, 0.3, 0.8, 0.8, 0.9, 1.0]


def test_a_resumed_job_starts_with_what_is_done(counted):
    watch = Watch("score", PLAN, [(RANGES[2], frozenset()), (CHAIN, frozenset({0}))])
    assert watch.progress.values()["share_done"] == 0.2
    watch.part(done("c-1"))
    assert watch.progress.values()["share_done"] == 0.9


def test_metrics_are_the_sums_of_what_was_told_and_of_what_the_driver_did(counted):
    tally.add("retries", 2)
    watch = Watch("score", PLAN, [(part, frozenset()) for part in PLAN.parts])
    tally.add("retries")
    watch.part(done("r0", 10, 2, read_seconds=1.5, work_seconds=2.0, write_seconds=0.5, bytes_read=100, retries=4))
    watch.part(done("r1", 0, 3, read_seconds=0.5))
    assert watch.progress.facts == {"bad_lines": 5, "retries": 5}
    del counted["vibray_share_done/score"]
    assert counted == {
        "vibray_records/score": 10,
        "vibray_bad_lines/score": 5,
        "vibray_parts/score": 2,
        "vibray_storage_retries/score": 7,
        "vibray_read_bytes/score": 100,
        "vibray_stage_seconds/score/read": 2.0,
        "vibray_stage_seconds/score/work": 2.0,
        "vibray_stage_seconds/score/write": 0.5,
    }


def test_a_part_tells_its_counts_and_the_time_of_its_stage_without_that_of_writing():
    tally.put({"read_seconds": 1.0, "work_seconds": 5.0, "write_seconds": 2.0, "retries": 1})
    marker = {"key": "k", "num_read": 3, "num_kept": 2, "num_bad": 1, "reasons": {"not JSON": 1}, "last": True, "files": {}}
    (row,) = told("c-0", marker).to_pylist()
    told_of = json.loads(row["told"])
    del told_of["node"]
    assert told_of == {
        **{name: value for name, value in marker.items() if name != "files"},
        "part": "c-0",
        "read_seconds": 1.0,
        "work_seconds": 3.0,
        "write_seconds": 2.0,
        "retries": 1,
    }
    assert tally.take() == {}


def test_the_log_has_an_event_for_the_plan_and_one_for_each_part(counted, caplog):
    caplog.set_level(logging.DEBUG, logger="vibray")
    with Watch("score", PLAN, [(part, frozenset()) for part in PLAN.parts]) as watch:
        watch.part(done("r0", 7, 1))
    events = [(record.event, record.facts) for record in caplog.records]
    assert [name for name, _ in events] == ["plan", "part", "progress"]
    assert events[0][1] == {"num_parts": 4, "todo": 4, "num_bytes": 1000, "num_ignored": 0}
    assert events[1][1]["num_bad"] == 1
    assert events[2][1] | {"count": 7, "share_done": 0.1, "bad_lines": 1} == events[2][1]
