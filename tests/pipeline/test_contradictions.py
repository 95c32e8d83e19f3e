"""What contradicts itself, from shards to decisions: said, counted, and kept out of what decides. In this process, without Ray."""

import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.pipeline.lines import FACTS, RATE_HZ, START, corpus_fields, waveform
from vibray.decide.thresholds import MadConfig, PercentileConfig
from vibray.decide.units import read_units
from vibray.fitting.jobs import TrainJob
from vibray.pipeline.calibrate import calibrate
from vibray.pipeline.featurize import featurize
from vibray.pipeline.jobs import CalibrateJob, FeaturizeJob, LabelJob, ReportJob, ScoreJob
from vibray.pipeline.label import label
from vibray.pipeline.report import report
from vibray.pipeline.score import score
from vibray.pipeline.train import train
from vibray.recipes import banded
from vibray.storage import objects
from vibray.storage.columns import with_record_ids
from vibray.storage.parts import check_finished
from vibray.tables.scores import open_scores
from vibray.tables.training import open_features

NUM_HOURS, NUM_LOST = 160, 30
Record = tuple[str, datetime, np.ndarray]
"""sensor, time, waveform"""


def at(hour: float) -> datetime:
    return START + timedelta(hours=hour)


def write(folder: Path, records: Iterable[Record]) -> str:
    """One shard, in the order given."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "a.jsonl").open("w") as file:
        for sensor, time, x in records:
            file.write(json.dumps({"sensor_id": sensor, "data_time": time.isoformat(), "signal_value": x.tolist()}) + "\n")
    return str(folder)


def fleet(num_hours: int = NUM_HOURS, sick: str = "") -> list[Record]:
    """Four machines of one sensor each, hourly; one may have a fault in its last 30 records."""
    made = []
    for u in range(4):
        rng, unit = np.random.default_rng(u), f"t{u}"
        for hour in range(num_hours):
            x = waveform(rng, 0, fault=unit == sick and hour >= num_hours - NUM_LOST)
            made.append((f"{unit}-a", at(hour), np.round(x, 4).astype(np.float32)))
    return made


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("contradictions")
    raw = write(folder / "pool", fleet(60))
    featurize(FeaturizeJob(raw, str(folder / "features"), local=True, **corpus_fields(FACTS)))
    train(TrainJob((str(folder / "features"),), str(folder / "run"), banded(), local=True))
    return str(folder / "run")


def scored(tmp_path: Path, run: str, records: Iterable[Record], name: str = "new", calibration: str | None = None) -> str:
    write(tmp_path / name, records)
    score(ScoreJob(run, str(tmp_path / name), str(tmp_path / f"scores-{name}"), RATE_HZ, calibration=calibration, local=True))
    return str(tmp_path / f"scores-{name}")


def decided(scores: str, **options: Any) -> dict[str, Any]:
    """The alarms of units by name, and what the folder says."""
    job = LabelJob((scores,), f"{scores}-decisions{len(options)}", **{"method": PercentileConfig(), **options})
    label(job)
    units = read_units(job.decisions)
    assert units is not None
    return {"units": {u.unit: u for u in units.alarms}, "cuts": objects.read_json(f"{job.decisions}/cuts.json"), "folder": job.decisions}


def discoveries(found: dict[str, Any]) -> list[str]:
    return sorted(name for name, unit in found["units"].items() if unit.discovery)


def test_a_fault_behind_a_clock_that_was_lost_is_an_alarm_and_no_reference(tmp_path, run, capsys):
    sick = fleet(sick="t3")
    sound = decided(scored(tmp_path, run, sick, "sound"))
    assert [name for name, unit in sound["units"].items() if unit.alarm] == ["t3"] == discoveries(sound)
    late = at(NUM_HOURS - NUM_LOST)
    lost = [(s, datetime(1970, 1, 1, tzinfo=UTC) + (t - late) if s == "t3-a" and t >= late else t, x) for s, t, x in sick]
    capsys.readouterr()
    scores = scored(tmp_path, run, lost, "lost")
    assert "30 records of sensor t3/t3-a have a time that cannot be" in capsys.readouterr().out
    assert objects.read_json(f"{scores}/summary.json")["findings"] == {"implausible_times": 30}
    found = decided(scores)
    assert "30 records of sensor t3/t3-a have a time that cannot be" in capsys.readouterr().out
    assert found["cuts"]["findings"] == {"implausible_times": 30}
    assert [name for name, unit in found["units"].items() if unit.alarm] == ["t3"] and found["units"]["t3"].undated
    report(ReportJob((scores,), str(tmp_path / "page.html"), found["folder"], explain=False))
    page = (tmp_path / "page.html").read_text()
    assert "30 records of sensor t3/t3-a have a time that cannot be" in page and "time unknown" in page
    assert f"Records from {at(0):%Y-%m-%d %H:%M} to" in page  # no axis begins in 1970
    one, other = (open_scores([str(tmp_path / f"scores-{name}")]).scores["score"].to_pylist() for name in ("sound", "lost"))
    assert sorted(one) == sorted(other)  # their scores stand


def test_one_stamp_of_2099_takes_no_discovery_from_the_others(tmp_path, run, capsys):
    sick = fleet(sick="t3")
    sick[5] = (sick[5][0], datetime(2099, 1, 1, tzinfo=UTC), sick[5][2])
    found = decided(scored(tmp_path, run, sick))
    assert discoveries(found) == ["t3"] and all(unit.q_value is not None for unit in found["units"].values())
    assert all(unit.newest.year == 2024 for unit in found["units"].values())
    assert "1 record of sensor t0/t0-a has a time that cannot be" in capsys.readouterr().out


def test_a_clock_that_was_lost_makes_no_baseline(tmp_path, run, capsys):
    new = [("t9-a", time, x) for _, time, x in fleet(100)[:100]]
    rng = np.random.default_rng(5)
    lost = [
        ("t9-a", datetime(1970, 1, 1, tzinfo=UTC) + timedelta(hours=i), 3 * waveform(rng, 0, fault=True).astype(np.float32))
        for i in range(40)
    ]
    for name, records in (("clean", new), ("lost", new + lost)):
        raw = write(tmp_path / name, [("t8-a", t, x) for _, t, x in fleet(100)[100:160]] + records)
        calibrate(CalibrateJob(run, raw, str(tmp_path / f"calibration-{name}"), RATE_HZ, records_per_sensor=50, corpus="c", local=True))
    tables = [objects.read_table(str(tmp_path / f"calibration-{name}" / "calibration.parquet")) for name in ("clean", "lost")]
    assert tables[0].equals(tables[1])
    assert check_finished(str(tmp_path / "calibration-lost"))["findings"] == {"implausible_times": 40}
    assert "cannot be" in capsys.readouterr().out


def test_two_machines_under_one_name_are_said_in_one_corpus_and_in_two(tmp_path, run, capsys):
    first, second = ([("ch1", at(hour), waveform(np.random.default_rng(25 * u + hour), 0)) for hour in range(25)] for u in (0, 1))
    facts = {**corpus_fields(FACTS), "unit_pattern": None}
    for name, records in (("a", first), ("b", second)):
        write(tmp_path / "both" / name, records)
        write(tmp_path / name, records)
    for name in ("both", "a", "b"):
        featurize(FeaturizeJob(str(tmp_path / name), str(tmp_path / f"features-{name}"), local=True, **facts))
    capsys.readouterr()
    train(TrainJob((str(tmp_path / "features-both"),), str(tmp_path / "run-both"), banded(), local=True))
    assert "25 moments of sensor ch1 hold different records: two machines under one name?" in capsys.readouterr().out
    assert check_finished(str(tmp_path / "run-both"))["findings"] == {"differing_moments": 25}
    train(TrainJob((str(tmp_path / "features-a"), str(tmp_path / "features-b")), str(tmp_path / "run-two"), banded(), local=True))
    out = capsys.readouterr().out
    assert "25 moments of sensor ch1 hold different records: units of one name in two corpora" in out and "--unit-pattern" in out
    by_folder = {**facts, "unit_pattern": "^([ab])/"}
    featurize(FeaturizeJob(str(tmp_path / "both"), str(tmp_path / "features-apart"), local=True, **by_folder))
    assert open_features([str(tmp_path / "features-apart")]).findings == ()


def test_a_waveform_sent_again_is_a_sensors_fault_from_the_second_on(tmp_path, run, capsys):
    records = fleet()
    frozen = records[NUM_HOURS - 31][2]
    records[NUM_HOURS - 30 : NUM_HOURS] = [("t0-a", t, frozen) for _, t, _ in records[NUM_HOURS - 30 : NUM_HOURS]]
    scores = scored(tmp_path, run, records)
    assert "30 records of sensor t0/t0-a repeat an earlier waveform" in capsys.readouterr().out
    table = open_scores([scores]).scores
    state = np.array(table["state"].to_pylist())[:NUM_HOURS]
    assert (state[-30:] == "sensor_fault").all() and not (state[:-30] == "sensor_fault").any()
    assert set(table["state_cause"].to_pylist()) == {None, "repeats an earlier waveform"}
    assert objects.read_json(f"{scores}/summary.json")["findings"] == {"repeated_waveforms": 30}
    found = decided(scores)
    labels = np.array(objects.read_table(f"{found['folder']}/pseudo_labels.parquet")["label"].to_pylist())[:NUM_HOURS]
    assert (labels[-30:] == -1).all()
    assert found["units"]["t0"].newest == at(NUM_HOURS - 31).replace(minute=0)

    # and none of them is trained on
    for name, rows in (("frozen", records), ("without", records[: NUM_HOURS - 30] + records[NUM_HOURS:])):
        write(tmp_path / name, rows)
        featurize(FeaturizeJob(str(tmp_path / name), str(tmp_path / f"features-{name}"), corpus="c", local=True, **corpus_fields(FACTS)))
        train(TrainJob((str(tmp_path / f"features-{name}"),), str(tmp_path / f"run-{name}"), banded(), local=True))
    assert check_finished(str(tmp_path / "run-frozen"))["findings"] == {"repeated_waveforms": 30}


def test_a_value_that_stands_for_missing_is_a_sensors_fault_and_says_why(tmp_path, run, capsys):
    records = fleet(60)
    for row, value in ((3, 999999.0), (70, -9999.0)):
        x = records[row][2].copy()
        x[500] = value
        records[row] = (*records[row][:2], x)
    scores = scored(tmp_path, run, records)
    assert "sensor faults: 2 isolated samples" in capsys.readouterr().out
    assert objects.read_json(f"{scores}/summary.json")["sensor_faults"] == {"isolated samples": 2}
    table = open_scores([scores]).scores
    assert np.flatnonzero(np.array(table["state"].to_pylist()) == "sensor_fault").tolist() == [3, 70]


def test_a_healthy_month_is_a_result(tmp_path, run, capsys):
    scores = scored(tmp_path, run, fleet())
    found = decided(scores, method=MadConfig(anomaly=50.0))
    out = capsys.readouterr().out
    assert "no record is called abnormal: that is a result" in out
    assert "0 units in alarm" in out and not any(unit.alarm for unit in found["units"].values())
    labels = objects.read_table(f"{found['folder']}/pseudo_labels.parquet")["label"].to_pylist()
    assert 1 not in labels and check_finished(found["folder"])["files"].keys() >= {"unit_scores.parquet", "drift.parquet", "cuts.json"}


def test_sensors_a_few_ms_apart_are_pooled_and_an_option_without_effect_says_so(tmp_path, run, capsys):
    both = [(s.replace("-a", "-b"), t + timedelta(milliseconds=3), x + np.float32(0.01)) for s, t, x in fleet(60)]
    write(tmp_path / "pool", [*fleet(60), *both])
    featurize(FeaturizeJob(str(tmp_path / "pool"), str(tmp_path / "features"), local=True, **corpus_fields(FACTS)))
    train(TrainJob((str(tmp_path / "features"),), str(tmp_path / "run"), banded(), local=True))
    scores = scored(tmp_path, str(tmp_path / "run"), [*fleet(60), *both])
    one = decided(scores, pool_sensors=True, method=PercentileConfig())
    assert "480 of 480 records found a partner within 0.5 s" in capsys.readouterr().out and one["cuts"]["pool_tolerance_s"] == 0.5
    decided(scores, pool_sensors=True, pool_tolerance_s=0.001, method=PercentileConfig())
    assert "--pool-sensors affected nothing" in capsys.readouterr().out
    decided(scores, by="unit", min_group_records=1000, method=PercentileConfig(), round=1)
    assert "--by unit affected nothing" in capsys.readouterr().out


def test_a_record_without_a_finite_score_is_set_aside_by_its_id(tmp_path, run, monkeypatch, capsys):
    from vibray.runs.run import Run

    outputs = Run.outputs_and_snr_db

    def spoilt(self: Run, waveforms: Any, rate: float, sensors: Any = None) -> Any:
        found, snr_db = outputs(self, waveforms, rate, sensors)
        bad = (waveforms.abs().amax(1) > 1000).flatten()
        return {name: values.masked_fill(bad, float("nan")) for name, values in found.items()}, snr_db

    monkeypatch.setattr(Run, "outputs_and_snr_db", spoilt)
    records = fleet(60)
    records[7] = (*records[7][:2], 5000 * records[7][2])
    scores = scored(tmp_path, run, records)
    table = open_scores([scores])
    assert table.scores.num_rows == 239 and np.isfinite(table.scores["score"].to_numpy()).all()
    bad = table.bad_records().to_pylist()
    assert [(row["reason"], row["detail"]) for row in bad] == [("feature or score not finite", "score is nan")]
    assert "read 240 = kept 239 + set aside 1" in capsys.readouterr().out
    line = (tmp_path / "new" / "a.jsonl").read_bytes()[bad[0]["offset"] :].split(b"\n")[0]
    assert json.loads(line)["data_time"] == records[7][1].isoformat()


def test_the_findings_do_not_depend_on_how_the_input_is_cut(tmp_path, run):
    records = fleet(60)
    records[10] = ("t0-a", datetime(1970, 1, 1, tzinfo=UTC), records[10][2])
    records[20] = (*records[20][:2], records[19][2])
    write(tmp_path / "new", records)
    job = ScoreJob(run, str(tmp_path / "new"), "", RATE_HZ, local=True)
    found = []
    for lines in (1000, 17):
        score(replace(job, scores=str(tmp_path / f"by{lines}"), lines_per_part=lines))
        found.append(open_scores([str(tmp_path / f"by{lines}")]))
    assert found[0].findings == found[1].findings and [f.kind for f in found[0].findings] == ["implausible_times", "repeated_waveforms"]
    columns = [[with_record_ids(table.scores)[name].to_pylist() for name in ("record_id", "state", "time_trusted")] for table in found]
    assert sorted(zip(*columns[0], strict=True)) == sorted(zip(*columns[1], strict=True))


def test_an_archive_of_another_rate_is_said_when_it_is_scored(tmp_path, run, capsys):
    time_s, records = np.arange(2048) / 4096, []
    for hour in range(12):
        for u in range(8):
            rng = np.random.default_rng(100 * u + hour)
            hum = sum(np.cos(2 * np.pi * 100 * k * time_s + rng.uniform(0, 6)) / k for k in range(1, 7))
            records.append((f"t{u}-a", at(hour), (hum + 0.1 * rng.standard_normal(2048)).astype(np.float32)))
    scores = scored(tmp_path, run, records)
    said = capsys.readouterr().out
    assert objects.read_json(f"{scores}/summary.json")["findings"] == {"wrong_rate": 8}
    assert "the sample rate is 4,096 Hz rather than 8,192 Hz" in said


def test_a_calibration_and_a_reference_of_other_sensors_say_that_they_change_nothing(tmp_path, run, capsys):
    other = write(tmp_path / "other", [(s.replace("t", "x"), t, x) for s, t, x in fleet(60)])
    featurize(FeaturizeJob(other, str(tmp_path / "features"), local=True, **{**corpus_fields(FACTS), "unit_pattern": r"^(x\d+)-"}))
    train(TrainJob((str(tmp_path / "features"),), str(tmp_path / "run"), banded(), local=True))
    raw = write(tmp_path / "new", [(s.replace("t", "x1"), t, x) for s, t, x in fleet(60)])
    calibrate(CalibrateJob(str(tmp_path / "run"), raw, str(tmp_path / "calibration"), RATE_HZ, local=True))
    options = {"calibration": str(tmp_path / "calibration"), "local": True}
    score(ScoreJob(str(tmp_path / "run"), raw, str(tmp_path / "scores-new"), RATE_HZ, **options))
    assert "affected nothing" not in capsys.readouterr().out
    score(ScoreJob(str(tmp_path / "run"), other, str(tmp_path / "scores-other"), RATE_HZ, **options))
    assert "--calibration affected nothing: no record is of one of its 4 sensors, as x10-a of unit x10" in capsys.readouterr().out
    decided(str(tmp_path / "scores-other"), unit_reference=(str(tmp_path / "scores-new"),))
    assert "--unit-reference holds no sensor of --scores" in capsys.readouterr().out
