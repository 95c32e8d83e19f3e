"""What a person, or a script that reads the log, is told of long work."""

import json
import logging
import sys

import pytest

from vibray.pipeline import logs
from vibray.pipeline.logs import Progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands until the test moves it."""
    now = [1000.0]
    monkeypatch.setattr(logs.time, "monotonic", lambda: now[0])

    def wait(seconds):
        now[0] += seconds

    return wait


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, logger="vibray")
    return caplog


def test_rate_share_and_time_left_are_those_of_the_work(clock):
    work = Progress("score", 1000, "records")
    clock(10)
    work.add(250, bad_lines=3)
    assert work.values() == {"count": 250, "per_s": 25, "share_done": 0.25, "left_s": 30, "bad_lines": 3}
    assert work.text() == "25 % done, 250 records, 25 records/s, 00:30 left, bad lines 3"


def test_what_was_done_before_counts_as_done_and_not_for_the_rate(clock):
    """A resumed job: 600 of 1,000 bytes are there, 4 records a second and 10 bytes a second come now."""
    work = Progress("score", 1000, "records", done=600)
    clock(10)
    work.add(40, 100)
    assert work.values() == {"count": 40, "per_s": 4, "share_done": 0.7, "left_s": 30}


def test_epochs_done_before_do_not_count_for_the_rate(clock):
    work = Progress("train", 80, "epochs")
    clock(5)
    work.at(41)
    clock(5)
    work.at(42)
    assert work.values() == {"count": 42, "per_s": 0.2, "share_done": 0.525, "left_s": 190}


@pytest.mark.parametrize(("seconds", "words"), [(0.01, "100 images/s"), (5, "0.20 images/s"), (300, "300 s each")])
def test_rates_of_fast_and_slow_work_read_well(clock, seconds, words):
    work = Progress("images", None, "images")
    clock(seconds)
    work.add(1)
    assert work.text() == f"1 images, {words}"


def test_without_a_total_there_is_neither_share_nor_time_left(clock):
    work = Progress("read", None, "parts")
    clock(2)
    work.add(1)
    assert work.text() == "1 parts, 0.50 parts/s"
    assert work.values()["share_done"] is None
    assert work.values()["left_s"] is None


def test_the_rate_is_that_of_the_last_five_minutes(clock):
    work = Progress("score", None, "records")
    for _ in range(60):
        clock(60)
        work.add(600)
    for _ in range(20):  # half of the nodes went
        clock(60)
        work.add(300)
    assert work.values()["per_s"] == 5
    assert len(work.window) <= 8


def test_a_log_gets_a_line_each_quarter_of_a_minute_and_a_last_one(clock, lines):
    with Progress("score", 100, "records") as work:
        for _ in range(61):
            clock(1)
            work.add(1)
    assert [record.getMessage().split(",")[0] for record in lines.records] == [
        "score: 15 % done",
        "score: 30 % done",
        "score: 45 % done",
        "score: 60 % done",
        "score: 61 % done",
    ]


def test_work_that_never_began_tells_nothing(clock, lines):
    with Progress("score", 100, "records"):
        pass
    assert not lines.records


def test_on_a_terminal_there_is_a_bar_and_no_line(clock, lines, monkeypatch, capsys):
    monkeypatch.delenv(logs.SWITCH, raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Progress("score", 1000, "records") as work:
        clock(60)
        work.add(500, bad_lines=2)
    shown = capsys.readouterr().err.rsplit("\r", 1)[-1]
    assert shown.startswith("score:  50% |")
    assert "500 records, 8.33 records/s, 01:00 left, bad lines 2" in shown
    assert not lines.records


def test_with_the_switch_a_terminal_gets_json_too(clock, monkeypatch, capsys):
    monkeypatch.setenv(logs.SWITCH, "json")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with logs.told("score"), Progress("score", 1000, "records") as work:
        clock(60)
        work.add(500, bad_lines=2)
    (line,) = capsys.readouterr().err.splitlines()
    told = json.loads(line)
    assert told | {"event": "progress", "job": "score", "count": 500, "share_done": 0.5, "left_s": 60, "bad_lines": 2} == told
