"""The job for every night: a late shard, a changed one, no data (on loopback S3); killed between; an alarm that spans midnight."""

import json
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests.pipeline.lines import RATE_HZ, START, killed, rows
from vibray.config import UserError
from vibray.decide.thresholds import PercentileConfig
from vibray.decide.units import read_units
from vibray.pipeline import nightly as module
from vibray.pipeline import score as scoring
from vibray.pipeline.jobs import LabelJob, NightlyJob, ScoreJob
from vibray.pipeline.label import label
from vibray.pipeline.nightly import NightMismatch, asked_of, first_seen, nightly
from vibray.pipeline.score import score
from vibray.storage import objects
from vibray.storage.parts import Parts, done_parts, missing, read_plan
from vibray.tables.decisions import read_cuts

BEGIN = START + timedelta(days=30)
"""Behind the reference's records."""


def put(uri: str, seed: int, count: int, hour: float = 0, **options) -> list[str]:
    """Writes a shard of records from that hour on, one every ten minutes; its lines."""
    made = [line for line, _ in rows(count, seed=seed, **options)]
    times = [(BEGIN + timedelta(hours=hour, minutes=10 * i)).isoformat() for i in range(count)]
    lines = [json.dumps({**line, "data_time": time}) for line, time in zip(made, times, strict=True)]
    objects.write_bytes(uri, "".join(f"{line}\n" for line in lines).encode())
    return lines


def standing(folder: str, line: Path) -> NightlyJob:
    """A night in a folder whose archive holds the reference's shards; the run is the line's."""
    raw, scores, decisions = (objects.join(folder, name) for name in ("raw", "scores", "decisions"))
    for path in sorted((line / "pool").iterdir()):
        objects.write_bytes(objects.join(raw, path.name), path.read_bytes())
    score(ScoreJob(str(line / "run"), raw, scores, RATE_HZ, corpus="reference", local=True))
    label(LabelJob((scores,), decisions, unit_rate=0.001, persist=(2, 3), method=PercentileConfig(anomaly=97.0)))
    asked = NightlyJob(str(line / "run"), raw, objects.join(folder, "nights"), RATE_HZ, decisions, (scores,), local=True)
    return replace(asked, night="2026-11-01")


@pytest.fixture(autouse=True)
def plain_page(monkeypatch):
    """No reasons of single scores are drawn: half of a page's time, and test_reporting's."""
    monkeypatch.setattr("vibray.pipeline.report.explanations", lambda *_: {})


@pytest.fixture
def on_s3(bucket, line) -> NightlyJob:
    return standing(bucket, line)


@pytest.fixture(scope="module")
def reference(tmp_path_factory, line) -> NightlyJob:
    return standing(str(tmp_path_factory.mktemp("standing")), line)


@pytest.fixture
def job(reference, tmp_path) -> NightlyJob:
    """Another archive than the reference's."""
    (tmp_path / "raw").mkdir()
    return replace(reference, input=str(tmp_path / "raw"), nights=str(tmp_path / "nights"))


def account(job: NightlyJob, name: str) -> dict:
    return objects.read_json(objects.join(job.nights, name, "_done.json"))


def shards(job: NightlyJob, name: str) -> dict[str, int]:
    """Records of a night by shard."""
    ids = Parts(objects.join(job.nights, name, "scores")).read(["record_id"])["record_id"].to_pylist()
    return dict(sorted(Counter(record_id.split("@")[0] for record_id in ids).items()))


def test_three_nights_with_a_late_shard_a_changed_one_and_none(on_s3, capsys):
    job, archive = on_s3, on_s3.input
    put(objects.join(archive, "d1.jsonl"), 11, 8, hour=24)
    nightly(job)
    out = capsys.readouterr().out
    assert "since then 1 came and 0 changed" in out  # the reference's shards are no night's
    assert "night 2026-11-01: shards 1, records 8, lines set aside 0" in out

    # the shard of the day before comes late, and the first one was corrected in place
    put(objects.join(archive, "d0.jsonl"), 10, 6)
    put(objects.join(archive, "d1.jsonl"), 11, 7, hour=24, gain=3.0)
    put(objects.join(archive, "d2.jsonl"), 12, 8, hour=48)
    nightly(replace(job, night="2026-11-02"))
    assert "changed, so scored again as a whole: d1.jsonl" in capsys.readouterr().out
    assert shards(job, "2026-11-02") == {"d0.jsonl": 6, "d1.jsonl": 7, "d2.jsonl": 8}
    assert account(job, "2026-11-02")["changed"] == ["d1.jsonl"]
    assert shards(job, "2026-11-01") == {"d1.jsonl": 8}  # nothing of the night before was touched
    decided = objects.read_table(objects.join(job.nights, "2026-11-02", "decisions", "pseudo_labels.parquet"))
    assert dict(Counter(decided["corpus"].to_pylist())) == {"raw-2026-11-02": 21}  # of the corrected shard its later records alone
    assert read_cuts(objects.join(job.nights, "2026-11-02", "decisions")) == read_cuts(job.standing)
    assert objects.exists(objects.join(job.nights, "2026-11-02", "report", "report.html"))

    nightly(replace(job, night="2026-11-03"))
    assert "a night without data: no shard came; the last night with records was 2026-11-02" in capsys.readouterr().out
    done = account(job, "2026-11-03")
    assert (done["shards"], done["read"], done["kept"]) == (0, 0, 0)
    assert objects.list_folders(objects.join(job.nights, "2026-11-03")) == ["scores"]

    # the shards are moved away: on S3 their folder is gone then, and still nothing came
    objects.remove(objects.join(archive, info.key) for info in objects.list_objects(archive))
    nightly(replace(job, night="2026-11-04"))
    assert "no shard came; the last night with records was 2026-11-02" in capsys.readouterr().out

    nightly(replace(job, night="2026-11-04"))
    assert "is finished already" in capsys.readouterr().out
    with pytest.raises(NightMismatch, match=r'language: "en" in the folder, "zh" now'):
        nightly(replace(job, night="2026-11-04", language="zh"))
    with pytest.raises(NightMismatch, match="would be begun after 2026-11-04"):
        nightly(replace(job, night="2026-10-31"))
    with pytest.raises(NightMismatch, match="another run or input"):
        nightly(replace(job, night="2026-11-05", input=objects.join(archive, "else")))
    assert objects.list_folders(job.nights) == [f"2026-11-0{n}" for n in (1, 2, 3, 4)]


def test_an_alarm_that_spans_midnight_is_seen_and_one_that_stands_is_not_new(job, capsys):
    """Two of three windows: the first exceeds at the end of a night, the second at the beginning of the next."""
    put(objects.join(job.input, "quiet.jsonl"), 10, 18, hour=20)
    put(objects.join(job.input, "one.jsonl"), 11, 6, hour=23, fault_share=1.0)
    nightly(job)
    assert account(job, "2026-11-01")["units_in_alarm"] == []
    put(objects.join(job.input, "two.jsonl"), 12, 6, hour=24, fault_share=1.0)
    nightly(replace(job, night="2026-11-02"))
    done = account(job, "2026-11-02")
    assert done["units_in_alarm"] == done["new_units_in_alarm"] == ["t1"]
    assert done["record_alarms"] == 6  # its own, not those of the night before
    assert "units in alarm: t1 (new)" in capsys.readouterr().out
    mine, standing = read_units(objects.join(job.nights, "2026-11-02", "decisions")), read_units(job.standing)
    assert mine is not None and standing is not None
    assert mine.config == standing.config
    nightly(replace(job, night="2026-11-03"))
    assert "no shard came; the last night with records was 2026-11-02; units in alarm since then: t1" in capsys.readouterr().out
    assert account(job, "2026-11-03")["new_units_in_alarm"] == []

    alone = first_seen(job.nights, "2026-11-04", objects.list_folders(job.nights), {**asked_of(job), "history": 1})
    assert alone.history == ()
    stood = {**asked_of(job), "reference": [objects.join(job.nights, "2026-11-01", "scores")]}  # a night that is the reference now
    assert [uri.split("/")[-2] for uri in first_seen(job.nights, "2026-11-04", objects.list_folders(job.nights), stood).history] == [
        "2026-11-02",
        "2026-11-03",
    ]
    few = first_seen(job.nights, "2026-11-04", objects.list_folders(job.nights), {**asked_of(job), "history": 3})
    assert [uri.split("/")[-2] for uri in few.history] == ["2026-11-02", "2026-11-03"]


def test_a_killed_night_is_finished_by_the_next_by_its_own_settings(job, monkeypatch, capsys):
    put(objects.join(job.input, "a.jsonl"), 11, 6)
    put(objects.join(job.input, "b.jsonl"), 12, 6, hour=1)
    for where, stage, most in ((scoring, "score_part", 1), (module, "label", 0), (module, "report", 0), (module, "finish_folder", 0)):
        with killed(monkeypatch, where, stage, most):
            nightly(job)
        assert not objects.exists(objects.join(job.nights, "2026-11-01", "_done.json"))
    put(objects.join(job.input, "c.jsonl"), 13, 6, hour=24)
    nightly(replace(job, night="2026-11-02", language="zh", nights=f"{job.nights}/"))
    assert "the night 2026-11-01 was begun and not finished: it comes first" in capsys.readouterr().out
    assert shards(job, "2026-11-01") == {"a.jsonl": 6, "b.jsonl": 6}
    assert shards(job, "2026-11-02") == {"c.jsonl": 6}
    pages = [Path(job.nights, name, "report", "report.html").read_text() for name in ("2026-11-01", "2026-11-02")]
    assert ['<html lang="en"' in pages[0], '<html lang="zh' in pages[1]] == [True, True]


def test_two_nights_at_a_time_do_no_harm(job, monkeypatch, capsys):
    """While a night is between its scores and its decisions the next one begins: it finishes the former, which then finds all done."""
    put(objects.join(job.input, "a.jsonl"), 11, 4)

    def meanwhile(asked: LabelJob) -> None:
        monkeypatch.setattr(module, "label", label)
        put(objects.join(job.input, "b.jsonl"), 12, 4, hour=24)
        nightly(replace(job, night="2026-11-02"))
        label(asked)

    monkeypatch.setattr(module, "label", meanwhile)
    nightly(job)
    assert "2026-11-01/decisions is finished already" in capsys.readouterr().out
    assert [shards(job, name) for name in ("2026-11-01", "2026-11-02")] == [{"a.jsonl": 4}, {"b.jsonl": 4}]
    assert [account(job, name)["kept"] for name in ("2026-11-01", "2026-11-02")] == [4, 4]


def test_what_changes_while_a_night_lasts_is_the_next_nights(job, monkeypatch, capsys):
    """Of three small shards that share a chain one is written anew after the plan, one taken away: the next night reads what is there."""
    counts = {"n5.jsonl": 5, "n6.jsonl": 2, "n7.jsonl": 1, "n8.jsonl": 1}
    for seed, (name, count) in enumerate(counts.items()):
        put(objects.join(job.input, name), seed, count, hour=seed)
    monkeypatch.setattr("vibray.storage.plan.MIN_PARTS", 2)
    with killed(monkeypatch, scoring, "score_part", 1):
        nightly(job)
    scores = objects.join(job.nights, "2026-11-01", "scores")
    ((chain, _),) = missing(read_plan(scores), done_parts(scores))
    assert [key for key, _, _ in chain.objects] == ["n6.jsonl", "n7.jsonl", "n8.jsonl"]
    put(objects.join(job.input, "n7.jsonl"), 9, 3, hour=9)
    objects.remove([objects.join(job.input, "n8.jsonl")])
    nightly(job)
    out = capsys.readouterr().out
    assert [f"next night's: {name}" in out for name in counts] == [False, False, True, True]
    assert shards(job, "2026-11-01") == {"n5.jsonl": 5}
    assert account(job, "2026-11-01")["bad"] == 2
    nightly(replace(job, night="2026-11-02"))
    assert shards(job, "2026-11-02") == {"n6.jsonl": 2, "n7.jsonl": 3}
    assert account(job, "2026-11-02")["changed"] == ["n7.jsonl"]


def test_what_cannot_be_is_said_before_a_night_is_begun(job, line, capsys):
    put(objects.join(job.input, "a.jsonl"), 11, 4)
    for wrong, said in (
        ({"night": "today"}, "--night is a date"),
        ({"night": "2026-02-30"}, "--night is a date"),
        ({"history": 0}, "--history 0"),
        ({"nights": f"{job.input}/nights"}, "lies within --input"),
        ({"labels": str(line / "none.jsonl")}, "--labels names a file"),
        ({"standing": str(line / "none")}, "is not finished"),
        ({"sample_rate_hz": 1000.0}, "1000"),
    ):
        with pytest.raises(UserError, match=said):
            nightly(replace(job, **wrong))
    nightly(replace(job, dry_run=True))
    out = capsys.readouterr().out
    assert "continues nothing: all shards are new" in out
    assert "dry run: nothing was written" in out
    assert not Path(job.nights).exists()
