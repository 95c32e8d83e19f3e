"""Rounds on small machines: what teaches and what judges stay apart, a second start goes on, the verdict is said."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.pipeline.lines import FACTS, corpus_fields, write_labels, write_units
from vibray.config import UserError
from vibray.pipeline import rounds as stage
from vibray.pipeline.featurize import featurize
from vibray.pipeline.jobs import FeaturizeJob, RoundsJob
from vibray.pipeline.rounds import DETECTOR, LABELS_ONLY, Figures, RoundsMismatch, rounds, verdict
from vibray.storage import objects


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rounds")
    rows = write_units(folder / "raw")
    write_labels(folder / "labels.jsonl", rows[::6])
    write_labels(folder / "few.jsonl", rows[:5])
    featurize(FeaturizeJob(str(folder / "raw"), str(folder / "features"), **corpus_fields(FACTS), vectors=("spectral",), local=True))
    return folder


def job_of(folder: Path, name: str = "rounds") -> RoundsJob:
    where = ((str(folder / "features"),), str(folder / name), str(folder / "labels.jsonl"))
    return RoundsJob(*where, num_rounds=2, deep_sad=False, local=True)


def test_rounds_judge_on_labels_that_never_teach_and_go_on_where_they_stopped(machines: Path, capsys, monkeypatch):
    job = job_of(machines)
    calls = []
    label = stage.label

    def stopped(asked):
        calls.append(asked.round)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stage, "label", stopped)
        rounds(job)
    assert calls == [1] and not (machines / "rounds" / "round-1").exists()
    written = {path: path.stat().st_mtime_ns for path in (machines / "rounds").rglob("*.safetensors")}
    assert label is stage.label
    capsys.readouterr()
    found = rounds(job)
    told = capsys.readouterr().out
    assert told.count("is finished already") >= 4  # the runs and scores of before
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert list(found)[:3] == [LABELS_ONLY, DETECTOR, "round-1"] and found[LABELS_ONLY].macro_f1 is not None
    assert verdict(found) in told
    taught, judged = (
        [json.loads(line) for line in (machines / "rounds" / "labels" / f"{name}.jsonl").read_text().splitlines()]
        for name in ("taught", "held_out")
    )
    units = [{row["record_id"].partition(".")[0] for row in rows} for rows in (taught, judged)]  # a shard is a unit here
    assert len(judged) and not units[0] & units[1]
    decided = objects.read_table(str(machines / "rounds" / "round-1" / "decisions" / "pseudo_labels.parquet")).to_pylist()
    human = {row["record_id"] for row in decided if row["origin"] == "human"}
    assert human == {row["record_id"] for row in taught} and {row["round"] for row in decided} == {1}
    figures = objects.read_json(str(machines / "rounds" / "figures.json"))["figures"]
    assert {name: (row["auroc"], row["macro_f1"]) for name, row in figures.items()} == {n: (f.auroc, f.macro_f1) for n, f in found.items()}
    with pytest.raises(RoundsMismatch, match="num_rounds"):
        rounds(replace(job, num_rounds=1))


def test_a_dry_run_writes_nothing(machines: Path, capsys):
    assert rounds(replace(job_of(machines, "dry"), dry_run=True)) == {}
    assert "nothing was written" in capsys.readouterr().out and not (machines / "dry").exists()


def test_labels_that_cannot_be_split_are_the_users_to_mend(machines: Path):
    few = replace(job_of(machines, "few"), labels=str(machines / "few.jsonl"))
    with pytest.raises(RoundsMismatch, match="too few to hold some out"):
        rounds(few)
    with pytest.raises(RoundsMismatch, match="a record that teaches cannot judge"):
        rounds(replace(job_of(machines, "both"), held_out=str(machines / "labels.jsonl")))
    assert issubclass(RoundsMismatch, UserError)


def test_the_verdict_is_plain():
    alone, level, better = Figures(0.9, 0.7), Figures(0.9, 0.7), Figures(0.92, 0.75)
    assert "do not help" in verdict({LABELS_ONLY: alone, "round-1": level})
    said = verdict({LABELS_ONLY: alone, "round-1": level, "round-2": better})
    assert said.startswith("round-2 is +0.050 above the labels alone")
