"""Scores of sensors that the run does not know, calibrated in the same job: which statistics each record meets. In this process."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.pipeline.lines import FACTS, RATE_HZ, corpus_fields, killed, write_shard
from vibray.config import UserError
from vibray.decide.thresholds import PercentileConfig
from vibray.fitting import calibration as calibration_fit
from vibray.fitting.jobs import TrainJob
from vibray.models.context_scorer import ContextScorer
from vibray.models.ensemble import EnsembleConfig
from vibray.pipeline import calibrate as stage
from vibray.pipeline import score as scoring
from vibray.pipeline.calibrate import calibrate
from vibray.pipeline.featurize import featurize
from vibray.pipeline.jobs import CalibrateJob, FeaturizeJob, LabelJob, ReportJob, ScoreJob
from vibray.pipeline.label import label
from vibray.pipeline.report import report
from vibray.pipeline.score import score
from vibray.pipeline.train import train
from vibray.recipes import banded, knn, zero_shot
from vibray.recipes.kinds import EnsembleRecipe
from vibray.runs.folder import load
from vibray.runs.models import Detecting
from vibray.storage import objects
from vibray.storage.parts import Parts, check_finished
from vibray.storage.plan import PlanMismatch
from vibray.tables.scores import open_scores, out_of_sample

K = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A run of two members, and an archive of six new sensors and two that the run knows; one new sensor has one record."""
    folder = tmp_path_factory.mktemp("context")
    write_shard(folder / "pool" / "a.jsonl", 80, seed=1)
    featurize(FeaturizeJob(str(folder / "pool"), str(folder / "features"), local=True, **corpus_fields(FACTS)))
    recipe = EnsembleRecipe(members={"banded": banded(), "knn": knn()}, fusion=EnsembleConfig(weights=(("banded", 0.6), ("knn", 0.4))))
    train(TrainJob((str(folder / "features"),), str(folder / "run"), recipe, local=True))
    for name, seed, unit in (("a.jsonl.gz", 9, "t7"), ("b.jsonl", 3, "t7"), ("c.jsonl", 5, "t8"), ("d.jsonl.gz", 4, "t1")):
        write_shard(folder / "new" / name, 24, bad=2, seed=seed, unit=unit, gain=1.0 if unit == "t1" else 3.0)
    write_shard(folder / "new" / "e.jsonl", 1, seed=6, unit="t9", num_sensors=1)
    score(job(folder, "first"))
    return folder


def job(folder: Path, name: str, **options: Any) -> ScoreJob:
    own = {"calibrate": f"first:{K}", "local": True, "lines_per_part": 10, **options}
    return ScoreJob(str(folder / "run"), str(folder / "new"), str(folder / name), RATE_HZ, **own)


def table(folder: Path, name: str) -> pa.Table:
    return Parts(str(folder / name)).read()


def rows(folder: Path, name: str) -> dict[str, dict[str, Any]]:
    return {row["record_id"]: row for row in table(folder, name).to_pylist()}


def context_of(folder: Path, name: str) -> dict[str, bool]:
    """By record_id, whether another record of its sensor calibrated it too."""
    made = objects.read_table(str(folder / name / "calibration" / "context.parquet"))
    return dict(zip(made["record_id"].to_pylist(), made["calibrated"].to_pylist(), strict=True))


def without(folder: Path, source: str, target: str, record_ids: set[str]) -> None:
    """The plain shards of a folder, these lines made blank: the places of the others stay."""
    for path in (folder / source).glob("*.jsonl"):
        data = path.read_bytes()
        for record_id in record_ids:
            key, offset = record_id.split("@")
            if key == path.name:
                end = data.index(b"\n", int(offset))
                data = data[: int(offset)] + b" " * (end - int(offset)) + data[end:]
        (folder / target).mkdir(exist_ok=True)
        (folder / target / path.name).write_bytes(data)


def test_records_beside_the_context_are_scored_as_by_a_calibration_of_the_same_records(folder):
    calibrate(CalibrateJob(str(folder / "run"), str(folder / "new"), str(folder / "c"), RATE_HZ, records_per_sensor=K, local=True))
    score(job(folder, "given", calibrate=None, calibration=str(folder / "c")))
    first, given, context = rows(folder, "first"), rows(folder, "given"), context_of(folder, "first")
    assert len(context) == 4 * K + 1 and set(first) == set(given)
    assert {i: row for i, row in first.items() if i not in context} == {i: row for i, row in given.items() if i not in context}
    assert all(first[i]["score"] != given[i]["score"] for i in context)
    made = [objects.read_table(str(folder / name / "calibration.parquet")) for name in ("c", "first/calibration")]
    assert made[0].drop_columns(["scores", "record_ids"]).equals(made[1].drop_columns(["scores", "record_ids"]))


def test_each_record_says_how_rare_it_is_among_healthy_ones_of_other_machines_with_as_few_records(folder, monkeypatch):
    monkeypatch.setattr("vibray.fitting.fleet_scores.FEWEST_SCORES", 100)
    for unit in range(8):
        write_shard(folder / "eight" / f"{unit}.jsonl", 40, seed=20 + unit, unit=f"t{unit}")
    featurize(FeaturizeJob(str(folder / "eight"), str(folder / "eight-features"), local=True, **corpus_fields(FACTS)))
    train(TrainJob((str(folder / "eight-features"),), str(folder / "told"), banded(), local=True))
    run = load(str(folder / "told"))
    assert run.fleet_scores.scores
    score(replace(job(folder, "told-first"), run=str(folder / "told")))
    made = objects.read_table(str(folder / "told-first" / "calibration" / "calibration.parquet"))
    num_of = {(row["unit"], row["sensor_id"]): row["num_records"] for row in made.to_pylist()}
    found, context = rows(folder, "told-first"), context_of(folder, "told-first")
    for record_id, row in found.items():
        num = num_of.get((row["unit"], row["sensor_id"])) or run.num_records([(row["unit"], row["sensor_id"])])[0]
        num -= record_id in context
        if not row["calibrated"]:
            assert row["fleet_p_value"] is None
            continue
        expected = run.fleet_scores.p_values(np.array([row["score"]]), np.array([num]))[0]
        assert row["fleet_p_value"] == pytest.approx(expected, rel=1e-5)
    told = {i: p for row in made.to_pylist() for i, p in zip(row["record_ids"], row["fleet_p_values"], strict=True)}
    assert told and {i: found[i]["fleet_p_value"] for i in told} == {i: pytest.approx(p) for i, p in told.items()}
    label(LabelJob((str(folder / "told-first"),), str(folder / "told-decisions"), method=PercentileConfig()))
    units = objects.read_json(str(folder / "told-decisions" / "unit_alarms.json"))
    assert units["num_without_reference"] == 0  # few as they are


def test_zero_shot_is_fitted_on_nothing_and_scores_from_one_record_on(folder):
    train(TrainJob((str(folder / "features"),), str(folder / "zero"), zero_shot(), local=True))
    run = load(str(folder / "zero"))
    assert isinstance(run.model, Detecting) and isinstance(run.model.detector, ContextScorer)
    shipped = ContextScorer().state()
    assert {name: tensor.tolist() for name, tensor in run.model.detector.state().items()} == {n: t.tolist() for n, t in shipped.items()}
    score(replace(job(folder, "zero-1", calibrate="first:1"), run=str(folder / "zero")))
    found, context = rows(folder, "zero-1"), context_of(folder, "zero-1")
    assert {i for i, row in found.items() if not row["calibrated"]} == set(context)  # each was alone
    assert all(np.isfinite(row["score"]) for row in found.values())


def same(row: dict[str, Any], other: dict[str, Any]) -> bool:
    """Scores agree to float32's rounding, all else exactly; states go by a sensor's history, which its own record is part of."""
    close = {name: pytest.approx(value, rel=1e-5) for name, value in other.items() if name.startswith("score")}
    return {**row, "state": None} == {**other, "state": None, **close}


def test_a_record_of_the_context_is_scored_as_by_a_calibration_made_without_it(folder):
    first, context = rows(folder, "first"), context_of(folder, "first")
    for number, record_id in enumerate(sorted(i for i in context if i.startswith(("b.", "c.")))[::5]):
        without(folder, "new", f"without{number}", {record_id})
        own = CalibrateJob(str(folder / "run"), str(folder / f"without{number}"), str(folder / f"c{number}"), RATE_HZ, local=True)
        calibrate(replace(own, records_per_sensor=K - 1))
        score(job(folder, f"by{number}", calibrate=None, calibration=str(folder / f"c{number}")))
        other = rows(folder, f"by{number}")[record_id]
        assert same(first[record_id], other) and other["calibrated"]


def test_a_record_without_another_has_the_fleets_baseline_and_is_not_calibrated(folder):
    score(job(folder, "one", calibrate="first:1"))
    score(job(folder, "none", calibrate=None))
    one, none, context = rows(folder, "one"), rows(folder, "none"), context_of(folder, "one")
    assert len(context) == 5 and not any(context.values())
    for record_id, row in one.items():
        assert row["calibrated"] == (record_id not in context)
        if record_id in context:
            assert same(row, none[record_id])
    alone = [i for i, own in context_of(folder, "first").items() if not own]
    assert [i.split("@")[0] for i in alone] == ["e.jsonl"] and not rows(folder, "first")[alone[0]]["calibrated"]


def test_a_job_that_was_killed_in_either_pass_goes_on_with_the_same_context(folder, monkeypatch):
    for name, module, most in (("keep_origins", stage, 4), ("score_part", scoring, 5)):
        with killed(monkeypatch, module, name, most):
            score(job(folder, "killed"))
    done = check_finished(str(folder / "killed" / "calibration"))
    write_shard(folder / "late" / "f.jsonl", 9, seed=1, unit="t7")
    late = folder / "new" / "f.jsonl"
    late.write_bytes((folder / "late" / "f.jsonl").read_bytes())  # earlier than all others, but it came too late
    score(job(folder, "killed"))
    late.unlink()
    assert check_finished(str(folder / "killed" / "calibration")) == done
    assert part_files(folder, "killed") == part_files(folder, "first") != {}


def part_files(folder: Path, name: str) -> dict[str, bytes]:
    found = [path for pattern in ("part-*", "evidence/*", "bad/*", "calibration/*.parquet") for path in (folder / name).glob(pattern)]
    return {str(path.relative_to(folder / name)): path.read_bytes() for path in found}


def test_parts_change_no_score(folder):
    score(job(folder, "whole", lines_per_part=2000))
    assert rows(folder, "whole") == rows(folder, "first")


def test_another_k_on_the_same_folder_and_options_that_contradict_it_are_refused(folder):
    before = part_files(folder, "first")
    for other in ({"calibrate": f"first:{K + 1}"}, {"calibrate": None}):
        with pytest.raises(PlanMismatch, match=r"calibrate"):
            score(job(folder, "first", **other))
    assert part_files(folder, "first") == before
    for wrong in ("first", "first:0", "first:-3", "last:5", "first:4.5"):
        with pytest.raises(UserError, match="is first:K"):
            score(job(folder, "x", calibrate=wrong))
    with pytest.raises(UserError, match="one of the two"):
        score(job(folder, "x", calibration=str(folder / "first" / "calibration")))
    with pytest.raises(UserError, match="first/calibration"):
        score(job(folder, "x", since_plan=str(folder / "first")))
    assert not (folder / "x").exists()


def test_what_it_costs_is_said_and_a_dry_run_writes_nothing(folder, capsys):
    score(job(folder, "dry", dry_run=True))
    out = capsys.readouterr().out
    assert "earliest 4 records" in out and "kB a sensor" in out and not (folder / "dry").exists()
    score(job(folder, "costs"))
    out = capsys.readouterr().out
    assert "calibrated 5 sensors; records a sensor: 1 to 4, median 4" in out
    assert "105 lines were read, and the 17 earliest records again" in out
    assert "1 records are compared with no other one of their sensor" in out
    score(job(folder, "costs"))
    assert "lines were read" not in capsys.readouterr().out


def test_an_archive_of_known_sensors_is_scored_all_the_same(folder, capsys):
    own = job(folder, "known")
    score(replace(own, input=str(folder / "pool")))
    assert "--calibrate affected nothing: the run knows every sensor" in capsys.readouterr().out
    assert all(table(folder, "known")["calibrated"].to_pylist())


def test_label_and_report_know_the_scores_out_of_sample(folder):
    opened = open_scores([str(folder / "first")])
    found = {row["record_id"]: row["score"] for row in out_of_sample(opened).to_pylist()}
    own, context = rows(folder, "first"), context_of(folder, "first")
    assert set(found) == {i for i, calibrated in context.items() if calibrated}
    assert {i: own[i]["score"] for i in found} == {i: pytest.approx(score) for i, score in found.items()}
    label(LabelJob((str(folder / "first"),), str(folder / "decisions"), method=PercentileConfig()))
    report(ReportJob((str(folder / "first"),), str(folder / "report.html"), str(folder / "decisions")))


def test_a_record_that_calibrates_with_a_score_that_is_not_finite_is_set_aside(folder, monkeypatch):
    whole = calibration_fit._out_of_sample

    def broken(*args: Any) -> Any:
        outputs = whole(*args)
        return {name: values.index_fill(0, values.new_zeros(1).long(), np.nan) for name, values in outputs.items()}

    monkeypatch.setattr(calibration_fit, "_out_of_sample", broken)
    score(job(folder, "broken"))
    parts = Parts(str(folder / "broken"))
    assert parts.reasons["feature or score not finite"] == 5 and parts.total("num_kept") == 97 - 5
