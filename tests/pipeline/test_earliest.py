"""Which records calibrate a sensor, how they are read again, and a calibration that was killed. In this process, without Ray."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.pipeline.lines import FACTS, RATE_HZ, corpus_fields, killed, write_shard
from vibray.config import UserError
from vibray.fitting import calibration as calibration_fit
from vibray.fitting import earliest
from vibray.fitting.jobs import TrainJob
from vibray.pipeline import calibrate as stage
from vibray.pipeline.calibrate import Calibration, calibrate
from vibray.pipeline.featurize import featurize
from vibray.pipeline.jobs import CalibrateJob, FeaturizeJob
from vibray.pipeline.train import train
from vibray.recipes import banded
from vibray.runs.folder import load
from vibray.storage import objects
from vibray.storage.parts import Parts
from vibray.storage.plan import PlanMismatch, make_plan
from vibray.storage.reading import read_records, read_shard


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("run")
    write_shard(folder / "pool" / "a.jsonl", 60, seed=1)
    featurize(FeaturizeJob(str(folder / "pool"), str(folder / "features"), local=True, **corpus_fields(FACTS)))
    train(TrainJob((str(folder / "features"),), str(folder / "run"), banded(), local=True))
    return str(folder / "run")


@pytest.fixture
def new(tmp_path) -> Path:
    """Six new sensors of three units, one of which the run knows; shards are not in order of time."""
    for name, seed, unit in (("a.jsonl.gz", 9, "t7"), ("b.jsonl", 3, "t7"), ("c.jsonl", 5, "t8"), ("d.jsonl.gz", 4, "t1")):
        write_shard(tmp_path / "new" / name, 24, bad=2, seed=seed, unit=unit, gain=3.0)
    write_shard(tmp_path / "new" / "e.jsonl", 1, seed=6, unit="t9", num_sensors=1)
    return tmp_path / "new"


def calibration(run: str, new: Path, name: str, **options: Any) -> Calibration:
    own = {"num_folds": 10, "lines_per_part": 5, "local": True, **options}
    return Calibration(str(new.parent / name), run, load(run), str(new), "new", 7, **own)


def tables(made: Calibration) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(made.uri).glob("*.parquet")}


def test_the_earliest_by_time_from_one_record_on_and_the_account(run, new, capsys):
    job = CalibrateJob(run, str(new), str(new.parent / "c"), RATE_HZ, records_per_sensor=7, local=True)
    calibrate(job)
    out = capsys.readouterr().out
    assert "calibrated 5 sensors; records a sensor: 1 to 7, median 7" in out
    assert "105 = kept 97 + set aside 8" in out and "105 lines were read, and the 29 earliest records again" in out
    table = objects.read_table(str(new.parent / "c" / "calibration.parquet"))
    named = dict(zip(table["sensor_id"].to_pylist(), table["num_records"].to_pylist(), strict=True))
    assert named == {"t7-s0": 7, "t7-s1": 7, "t8-s0": 7, "t8-s1": 7, "t9-s0": 1}
    ids = dict(zip(table["sensor_id"].to_pylist(), table["record_ids"].to_pylist(), strict=True))
    assert [i.split("@")[0] for i in ids["t7-s0"]] == ["b.jsonl"] * 7  # a.jsonl.gz is of later days
    assert ids["t9-s0"] == []
    calibrate(job)
    assert "finished already" in capsys.readouterr().out
    with pytest.raises(UserError, match="another calibration"):
        calibrate(replace(job, records_per_sensor=8))
    with pytest.raises(UserError, match="at least 1"):
        calibrate(replace(job, records_per_sensor=0))
    write_shard(new / "f.jsonl", 3, seed=1, unit="t7")
    calibrate(job)
    out = capsys.readouterr().out
    assert "1 shards came and 0 changed" in out and "another --calibration folder" in out and "finished already" in out
    calibrate(replace(job, calibration=str(new.parent / "grown")))
    grown = objects.read_table(str(new.parent / "grown" / "calibration.parquet"))
    assert "f.jsonl" in {i.split("@")[0] for i in grown["record_ids"].to_pylist()[0]}


def test_parts_groups_and_order_of_reading_change_no_byte(run, new, monkeypatch):
    whole = calibration(run, new, "whole", lines_per_part=2000)
    whole.make(may_be_empty=False)
    monkeypatch.setattr(earliest, "GROUP_BYTES", 4 * FACTS.num_samples * 8)
    parts = calibration(run, new, "parts")
    parts.make(may_be_empty=False)
    assert len(list(Path(parts.uri).glob("parts/calibration-*.parquet"))) > 2
    assert tables(parts) == tables(whole) != {}


@pytest.mark.parametrize("num_folds", [10, None])
def test_a_calibration_that_was_killed_goes_on(run, new, monkeypatch, num_folds):
    straight, broken_off = (calibration(run, new, name, num_folds=num_folds) for name in ("straight", "broken-off"))
    monkeypatch.setattr(earliest, "GROUP_BYTES", 4 * FACTS.num_samples * 8)
    straight.make(may_be_empty=False)
    for name, most in (("keep_origins", 6), ("calibrate_group", 2)):
        with killed(monkeypatch, stage, name, most):
            broken_off.make(may_be_empty=False)
        assert not broken_off.finished()
    with pytest.raises(PlanMismatch, match="records_per_sensor"):
        replace(broken_off, records_per_sensor=8).make(may_be_empty=False)
    written = {path: path.stat().st_mtime_ns for path in Path(broken_off.uri).glob("parts/*.parquet")}
    assert len(written) > 6
    broken_off.make(may_be_empty=False)
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert tables(broken_off) == tables(straight) and broken_off.finished()


def test_a_record_whose_feature_is_not_finite_calibrates_nothing(run, new, monkeypatch, capsys):
    whole = calibration_fit.raw_features

    def feature(*args: Any) -> Any:
        features = whole(*args)
        for x in features.values():
            x[0, 0] = np.nan
        return features

    monkeypatch.setattr(calibration_fit, "raw_features", feature)
    made = calibration(run, new, "c")
    made.make(may_be_empty=False)
    assert "calibrated 4 sensors; records a sensor: 6 to 6" in (out := capsys.readouterr().out)
    assert "5 records calibrate nothing" in out


def test_an_input_whose_sensors_are_all_known(run, tmp_path):
    write_shard(tmp_path / "new" / "a.jsonl", 5)
    job = CalibrateJob(run, str(tmp_path / "new"), str(tmp_path / "c"), RATE_HZ, local=True)
    with pytest.raises(UserError, match="every one is known to the run"):
        calibrate(job)
    assert not (tmp_path / "c" / "_done.json").exists()


def test_a_dry_run_says_what_it_takes_of_memory(run, new, capsys):
    calibrate(CalibrateJob(run, str(new), str(new.parent / "c"), RATE_HZ, dry_run=True))
    out = capsys.readouterr().out
    assert "70 kB a sensor where they are picked" in out and "twice those of one sensor (1.6 MB)" in out
    assert not (new.parent / "c").exists()


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json"])
def test_records_that_are_read_again_are_those_that_were_read(tmp_path, name):
    write_shard(tmp_path / "raw" / name, 20, bad=3)
    if name == "a.json":
        lines = [line for line in (tmp_path / "raw" / name).read_bytes().splitlines() if line.startswith(b'{"sensor_id')]
        (tmp_path / "raw" / name).write_bytes(b"[" + b",".join(lines) + b"]")
    plan = make_plan(str(tmp_path / "raw"), "c", {}, lines_per_part=6)
    for part in plan.parts:
        records = pa.concat_tables([read.records for read in read_shard(part, FACTS, "c", plan.base_uri)])
        rows = np.arange(records.num_rows)[1::3]
        wanted = records.take(pa.array(rows))
        found = read_records(part, FACTS, "c", plan.base_uri, frozenset(wanted["record_id"].to_pylist()))
        assert found.equals(wanted.combine_chunks())
    assert read_records(plan.parts[0], FACTS, "c", plan.base_uri, ()).num_rows == 0


def test_the_parts_of_a_calibration_hold_no_waveform(run, new):
    made = calibration(run, new, "c")
    made.make(may_be_empty=False)
    parts = Parts(str(Path(made.uri) / "parts"))
    assert parts.total("num_kept") == 97 and "waveform" not in parts.read().column_names
