"""Label, evaluate and report on made-up score tables: what the folders hold and what is said. No Ray, no run."""

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.decide.fleet import at_one_time, fleet, replaced
from vibray import schema
from vibray.config import UserError, to_json
from vibray.decide.thresholds import ConformalConfig, MadConfig, PercentileConfig, PotConfig
from vibray.decide.unit_alarms import UnitConfig
from vibray.decide.units import read_units
from vibray.pipeline.ending import user_errors
from vibray.pipeline.evaluate import evaluate
from vibray.pipeline.jobs import EvaluateJob, LabelJob, ReportJob
from vibray.pipeline.label import fit_cuts, label
from vibray.pipeline.report import report
from vibray.storage import objects
from vibray.storage.columns import plain
from vibray.storage.corpus import CorpusFacts, InputsDiffer
from vibray.storage.parts import commit_part, finish_folder, make_plan, start_plan
from vibray.tables.decisions import DecisionsMismatch, check_run, read_cuts
from vibray.tables.scores import open_scores

RUN = {"uri": "s3://runs/a", "recipe": "r", "kind": "detector", "content": "c", "members": [], "faults": None}
FACTS = CorpusFacts(8192.0, 64)
SICK = [(3, 380, 5.0)]


def write_scores(folder: Path, table: pa.Table, corpus: str, run: dict = RUN, num_evidence: int = 1) -> str:
    """A finished scores folder of one part, the highest record as evidence."""
    raw = folder / "raw" / corpus
    raw.mkdir(parents=True)
    (raw / "a.jsonl").write_text("{}\n")
    table = replaced(table, "corpus", [corpus] * len(table))
    identity = {"input": str(raw), "corpus": corpus, "facts": to_json(FACTS), "run": run, "calibration": None}
    uri = str(folder / "scores" / corpus)
    plan = start_plan(uri, lambda: make_plan(str(raw), corpus, identity), identity)
    top = table.take(pa.array(np.argsort(-table["score"].to_numpy())[:num_evidence]))
    waves = pa.array([np.zeros(64, np.float32)] * num_evidence, schema.vector(64))
    tables = {"": table, "evidence": top.append_column(schema.evidence(64).field("waveform"), waves)}
    marker = {"key": "a.jsonl", "num_read": len(table), "number": 0, "last": True}
    commit_part(uri, plan.parts[0].part_id(0), tables, marker)
    return uri


def write_labels(path: Path, table: pa.Table, corpus: str, sick: str = "T03", since: int = 380) -> str:
    time = np.arange(len(table)) % 400
    rows = zip(table["record_id"].to_pylist(), table["unit"].to_pylist(), time, strict=True)
    lines = [{"corpus": corpus, "record_id": r, "label": "tone" if u == sick and t >= since else "normal"} for r, u, t in rows]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Scores of a pool, healthy, and of a test set in which T03 falls ill; decisions on both."""
    folder = tmp_path_factory.mktemp("decisions")
    write_scores(folder, fleet(6), "pool")
    table = fleet(6, sick=SICK, seed=1)
    later = pa.array(table["measured_at"].cast(pa.int64()).to_numpy() + 60 * 86_400_000).cast(schema.TIME)
    table = replaced(table, "measured_at", later)
    write_scores(folder, table, "test")
    write_labels(folder / "labels.jsonl", table, "test")
    label(LabelJob((str(folder / "scores" / "test"),), str(folder / "test-decisions"), method=PercentileConfig()))
    label(LabelJob((str(folder / "scores" / "pool"),), str(folder / "pool-decisions"), method=MadConfig(anomaly=3.0)))
    return folder


def test_a_decisions_folder_holds_the_units(folder):
    units = read_units(str(folder / "test-decisions"))
    assert units is not None
    assert pq.read_schema(folder / "test-decisions" / "unit_scores.parquet").equals(schema.UNIT_SCORES)
    assert units.drift.schema == schema.DRIFT
    assert [u.unit for u in units.alarms if u.alarm] == ["T03"]
    assert not any(u.alarm for u in (read_units(str(folder / "pool-decisions")) or units).alarms)
    done = objects.read_json(str(folder / "test-decisions" / "_done.json"))
    assert {"unit_scores.parquet", "unit_alarms.json", "drift.parquet", "cuts.json"} <= set(done["files"])


def test_of_many_records_no_npz_is_made_and_it_is_said(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("vibray.pipeline.label.NPZ_RECORDS", 1000)
    label(LabelJob((str(folder / "scores" / "test"),), str(tmp_path / "d"), method=PercentileConfig()))
    assert "pseudo_labels.npz is left out: 7,200 records; it is made of 1,000 at most" in capsys.readouterr().out
    done = objects.read_json(str(tmp_path / "d" / "_done.json"))
    assert "pseudo_labels.npz" not in done["files"] and "7,200 records" in done["left_out"]["pseudo_labels.npz"]
    assert not (tmp_path / "d" / "pseudo_labels.npz").exists() and (tmp_path / "d" / "score_distribution.png").exists()


def test_another_scores_table_as_reference(folder, tmp_path, capsys):
    job = LabelJob((str(folder / "scores" / "test"),), str(tmp_path / "d"), method=PercentileConfig())
    label(replace(job, unit_reference=(str(folder / "scores" / "pool"),)))
    said = capsys.readouterr().out
    assert "reference: another scores table" in said
    assert "1 units in alarm" in said
    assert "T03 since" in said
    units = read_units(str(tmp_path / "d"))
    assert units is not None
    assert units.facts["num_windows"] == units.facts["num_reference_windows"] == 6 * 400
    with pytest.raises(DecisionsMismatch, match="unit_reference"):
        label(job)
    with pytest.raises(InputsDiffer, match="both corpus"):
        label(replace(job, unit_reference=(str(folder / "scores" / "test"),), dry_run=True))


def test_units_of_the_reference_alone_are_not_counted(folder, tmp_path, capsys):
    one = write_scores(tmp_path, fleet(1, seed=2), "one")
    label(LabelJob((one,), str(tmp_path / "d"), method=PercentileConfig(), unit_reference=(str(folder / "scores" / "pool"),), dry_run=True))
    said = capsys.readouterr().out
    assert "units: 1, in windows of 60 min" in said
    assert "a healthy fleet would raise 0.00014 alarms a day" in said  # 24 windows a day, not 6 x 24


def test_how_often_a_healthy_fleet_would_alarm_is_not_known_of_one_window(folder, tmp_path, capsys):
    scores = (str(folder / "scores" / "test"),)
    label(LabelJob(scores, str(tmp_path / "d"), method=PercentileConfig(), unit_window=1e6, dry_run=True))
    said = capsys.readouterr().out
    assert "a healthy fleet would raise is not known: no unit has records in two windows; there is no reference window" in said
    assert "0 alarms a day" not in said


def test_a_reference_of_another_run_is_refused(folder, tmp_path):
    other = write_scores(tmp_path, fleet(2), "other", {**RUN, "content": "x"})
    with pytest.raises(InputsDiffer, match="same run"):
        label(LabelJob((str(folder / "scores" / "test"),), str(tmp_path / "d"), method=MadConfig(), unit_reference=(other,), dry_run=True))


def test_trusted_normals_are_the_reference(folder, tmp_path, capsys):
    scores, labels = (str(folder / "scores" / "test"),), str(folder / "labels.jsonl")
    label(LabelJob(scores, str(tmp_path / "d"), method=ConformalConfig(), labels=labels))
    assert "reference: trusted normals" in capsys.readouterr().out
    units = read_units(str(tmp_path / "d"))
    assert units is not None
    assert units.facts["trusted_normals"]
    assert [u.unit for u in units.alarms if u.alarm] == ["T03"]


@pytest.mark.parametrize("by", ["none", "unit"])
@pytest.mark.parametrize("method", [ConformalConfig(), PercentileConfig()])
def test_without_a_usable_normal_there_is_nothing_to_fit_on(method, by):
    table = fleet(1, 1, 60)
    off = replaced(table, "state", ["off"] * 30 + ["energised"] * 30)
    said: list[str | None] = ["normal"] * 30 + ["tone"] * 10 + [None] * 20
    with pytest.raises(UserError, match="--labels names no normal record that can be used"):
        fit_cuts(off, method, by, said, True, 10)
    assert fit_cuts(table, PercentileConfig(), by, said, True, 10).overall.num_scores == 30


def test_other_rules_are_other_decisions(folder):
    with pytest.raises(DecisionsMismatch, match="units"):
        label(
            LabelJob(
                (str(folder / "scores" / "test"),),
                str(folder / "test-decisions"),
                method=PercentileConfig(),
                persist=(2, 3),
            )
        )


@pytest.mark.parametrize(
    ("files", "extra"),
    [
        (["recipe.json", "model.safetensors"], {"members": []}),
        (["calibration.parquet"], {"corpus": "pool", "run": RUN}),
    ],
)
def test_a_finished_folder_of_another_job_is_refused_in_one_line(folder, tmp_path, capsys, files, extra):
    for name in files:
        (tmp_path / name).write_bytes(b"{}")
    finish_folder(str(tmp_path), files, extra)
    with pytest.raises(SystemExit), user_errors():
        label(LabelJob((str(folder / "scores" / "test"),), str(tmp_path), method=PercentileConfig()))
    (said,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path} is another job's folder" in said
    assert f"holds {', '.join(sorted(files))}), no decisions on test:" in said
    with pytest.raises(DecisionsMismatch, match=r"plan\.json"):  # a scores table has no end mark, but a plan
        label(LabelJob((str(folder / "scores" / "test"),), str(folder / "scores" / "test"), method=PercentileConfig()))
    assert {path.name for path in tmp_path.iterdir()} == {*files, "_done.json"}


@pytest.mark.parametrize("method", [PercentileConfig(), MadConfig(anomaly=3.0), PotConfig()])
def test_without_trusted_normals_nothing_is_called_a_false_alarm_probability(folder, tmp_path, capsys, method):
    pool = (str(folder / "scores" / "pool"),)
    label(LabelJob(pool, str(tmp_path / "d"), method=method))
    said = capsys.readouterr().out.replace("no false-alarm probability", "")
    assert "false-alarm" not in said
    assert "guarantee" not in said
    assert read_cuts(str(tmp_path / "d")).kind == ("rule" if isinstance(method, MadConfig) else "rate")  # type: ignore[union-attr]
    report(ReportJob(pool, str(tmp_path / "r" / "index.html"), str(tmp_path / "d"), explain=False))
    assert "false-alarm" not in (tmp_path / "r" / "index.html").read_text()


def test_the_report_shows_units_and_drift_of_these_scores(folder, tmp_path):
    report(ReportJob((str(folder / "scores" / "test"),), str(tmp_path / "index.html"), str(folder / "test-decisions"), explain=False))
    page = (tmp_path / "index.html").read_text()
    assert "windows exceed." in page and "1 of 6 machines" in page
    assert "independent" in page
    assert 'id="drift"' in page
    rows = list(csv.DictReader((tmp_path / "index.unit_alarms.csv").read_text().splitlines()))
    assert len(rows) == 6
    assert (rows[0]["unit"], rows[0]["alarm"], rows[0]["discovery"]) == ("T03", "yes", "yes")
    assert rows[0]["since"].endswith("Z")
    assert {row["alarm"] for row in rows[1:]} == {"no"}
    assert "rate of whatever was scored" in page


def test_decisions_made_on_other_scores_show_no_units(folder, tmp_path):
    report(ReportJob((str(folder / "scores" / "test"),), str(tmp_path / "index.html"), str(folder / "pool-decisions"), explain=False))
    page = (tmp_path / "index.html").read_text()
    assert "windows exceed." not in page
    assert "--unit-reference" in page
    assert (tmp_path / "index.alarms.csv").exists() and not (tmp_path / "index.unit_alarms.csv").exists()


def test_a_record_that_was_scored_twice_is_shown_once(tmp_path):
    table = fleet(3)
    uris = [write_scores(tmp_path, table, corpus) for corpus in ("first", "again")]
    both = open_scores(uris)
    assert both.num_duplicates == both.scores.num_rows == table.num_rows
    evidence = both.evidence()
    assert evidence is not None
    assert evidence["corpus"].to_pylist() == ["again"]  # the lower name, as in the scores
    assert evidence["score"].to_pylist() == [max(table["score"].to_pylist())]


def test_scores_without_evidence_make_a_report_without_records(tmp_path):
    uri = write_scores(tmp_path, fleet(3), "bare", num_evidence=0)
    report(ReportJob((uri,), str(tmp_path / "index.html")))
    assert "<svg" in (tmp_path / "index.html").read_text()


def test_realised_rates_stand_beside_nominal_ones_by_group(folder, tmp_path):
    scores = (str(folder / "scores" / "test"),)
    label(LabelJob(scores, str(tmp_path / "d"), method=PercentileConfig(), by="sensor"))
    report(ReportJob(scores, str(tmp_path / "index.html"), str(tmp_path / "d"), explain=False))
    page = (tmp_path / "index.html").read_text()
    row = page[page.index('<th scope="row" class="text">T00/s0</th>') :].split("</tr>")[0]
    assert row.count("1.00 %") + row.count(">1 %") + row.count("1.0 %") == 2  # nominal and realised
    assert ">400<" in row


def test_the_share_that_is_printed_is_that_of_the_cuts_by_group(tmp_path, capsys):
    table = fleet()
    loud = np.array(table["unit"].to_pylist()) == "T07"
    uri = write_scores(tmp_path, replaced(table, "score", np.where(loud, 50, 1).astype(np.float32) * table["score"].to_numpy()), "loud")
    label(LabelJob((uri,), str(tmp_path / "d"), method=MadConfig(anomaly=3.0), by="unit", dry_run=True))
    said = capsys.readouterr().out
    abnormal = int(re.findall(r"([\d,]+) abnormal", said)[0].replace(",", ""))
    assert 0 < abnormal < 0.003 * len(table)
    assert f"{abnormal / len(table):.2%} of the usable scores are at or above their own cut" in said
    label(LabelJob((uri,), str(tmp_path / "d"), method=MadConfig(anomaly=3.0), dry_run=True))
    (percent,) = re.findall(r"([\d.]+)% of the usable scores are at or above the cut", capsys.readouterr().out)
    assert float(percent) > 3  # the loud unit fills the tail of all


def test_evaluation_says_nominal_and_realised_rate_with_intervals(folder, tmp_path, capsys):
    scores, labels = (str(folder / "scores" / "test"),), str(folder / "labels.jsonl")
    result = evaluate(EvaluateJob(scores, labels, str(folder / "pool-decisions"), output=str(tmp_path / "e.json")))
    said = capsys.readouterr().out
    for words in (
        "AUPRC",
        "prevalence",
        "FPR 0.1",
        "bootstrap of the 6 units",
        "Clopper-Pearson",
        "fault tone",
        "unit T03",
        "a Gaussian would pass",
    ):
        assert words in said
    at = result["at_cut"]
    low, high = at["realised_rate_interval"]
    assert low <= at["realised_rate"] <= high
    assert json.loads((tmp_path / "e.json").read_text())["spread_by_unit"] == result["spread_by_unit"]
    assert result["spread_by_unit"]["num_units"] == 6


def test_too_few_records_for_units_are_said_and_stop_nothing(tmp_path, capsys):
    write_scores(tmp_path, fleet(1, 1, 40), "few")
    label(LabelJob((str(tmp_path / "scores" / "few"),), str(tmp_path / "d"), method=PercentileConfig()))
    assert "no alarms of units" in capsys.readouterr().out
    report(ReportJob((str(tmp_path / "scores" / "few"),), str(tmp_path / "index.html"), str(tmp_path / "d"), explain=False))
    page = (tmp_path / "index.html").read_text()
    assert "1 of 1 machines needs a look" in page and "one record above its cut is enough" in page


def test_a_wrong_rule_is_an_error_of_the_users(capsys):
    with pytest.raises(SystemExit), user_errors():
        UnitConfig(persist=(5, 3))
    assert "--persist 3 5" in capsys.readouterr().err


def test_cuts_and_labels_of_means_over_sensors(tmp_path, capsys):
    table = at_one_time(fleet(6, sick=[(3, 380, 1.5)], seed=4))
    scores = write_scores(tmp_path, table, "test", num_evidence=40)
    labels = write_labels(tmp_path / "labels.jsonl", table, "test")
    pooled, apart = str(tmp_path / "pooled"), str(tmp_path / "apart")
    label(LabelJob((scores,), pooled, method=PercentileConfig(), pool_sensors=True))
    assert "means over the sensors of a unit at one time" in capsys.readouterr().out
    label(LabelJob((scores,), apart, method=PercentileConfig()))
    with pytest.raises(DecisionsMismatch, match="pool_sensors"):
        label(LabelJob((scores,), apart, method=PercentileConfig(), pool_sensors=True))
    of_means = objects.read_table(f"{pooled}/pseudo_labels.parquet")["label"].to_numpy().reshape(6, 3, 400)
    of_records = objects.read_table(f"{apart}/pseudo_labels.parquet")["label"].to_numpy().reshape(6, 3, 400)
    assert (of_means == of_means[:, :1]).all() and not (of_records == of_records[:, :1]).all()
    units = [read_units(uri) for uri in (pooled, apart)]
    assert units[0] and units[1] and units[0].scores.equals(units[1].scores)  # alarms of units are of each sensor's own scores

    found = {uri: evaluate(EvaluateJob((scores,), labels, uri, dry_run=True)) for uri in (pooled, apart)}
    said = capsys.readouterr().out
    assert said.count("by the mean over a unit's sensors at one time") == 2
    assert found[pooled]["auroc"] == found[apart]["over_sensors"]["auroc"] > found[apart]["auroc"]
    assert found[pooled]["auroc_by_fault"] == found[apart]["over_sensors"]["auroc_by_fault"]
    assert found[pooled]["at_cut"]["recall"] > found[apart]["at_cut"]["recall"]

    report(ReportJob((scores,), str(tmp_path / "report.html"), pooled, explain=False))
    page = (tmp_path / "report.html").read_text()
    assert "Each score is the mean over its unit's sensors at one time" in re.sub(r"\s+", " ", page.replace("&#39;", "'"))
    alarms = (tmp_path / "report.alarms.csv").read_text().splitlines()[1:]
    assert len(alarms) == int((of_means == 1).sum())


def test_there_are_no_means_over_sensors_where_times_differ(folder):
    found = evaluate(EvaluateJob((str(folder / "scores" / "test"),), str(folder / "labels.jsonl"), dry_run=True))
    assert found["over_sensors"] is None


def test_folders_of_before_the_audit_still_open(folder, tmp_path):
    """Scores without state_cause and windows without `dated`, beside those of today."""
    old = tmp_path / "scores"
    shutil.copytree(folder / "scores" / "test", old)
    for path in old.glob("part-*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns(["state_cause"]), path)
    now, before = (open_scores([str(uri)]) for uri in (folder / "scores" / "test", old))
    names = [name for name in now.scores.column_names if name != "fleet_p_value"]  # NaN, which equals nothing
    assert plain(before.scores.select(names)).equals(plain(now.scores.select(names)))
    decisions = tmp_path / "d"
    label(LabelJob((str(folder / "scores" / "test"),), str(decisions), method=PercentileConfig()))
    told = read_units(str(decisions))
    path = decisions / "unit_scores.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["dated"]), path)
    again = read_units(str(decisions))
    assert told is not None and again is not None and again.alarms == told.alarms


def test_standing_decisions_apply_as_they_are(folder, tmp_path, capsys):
    """Cuts and the rule for units of the pool's decisions on the test set's scores; nothing that they say may be asked otherwise."""
    pool, test = (str(folder / "scores" / name) for name in ("pool", "test"))
    standing, decisions = str(tmp_path / "standing"), str(tmp_path / "decisions")
    label(LabelJob((pool,), standing, budget="5/week", persist=(2, 4), unit_window=120.0, pool_sensors=True))
    job = LabelJob((test,), decisions, unit_reference=(pool,), standing=standing)
    label(job)
    assert read_cuts(decisions) == read_cuts(standing)
    mine, theirs = read_units(decisions), read_units(standing)
    assert mine is not None and theirs is not None
    assert mine.config == theirs.config
    made, other = (objects.read_json(f"{uri}/cuts.json") for uri in (decisions, standing))
    assert (made["pool_sensors"], made["budget"]) == (True, other["budget"])
    assert {unit.unit for unit in mine.alarms if unit.alarm} == {"T03"}
    label(job)
    assert "is finished already" in capsys.readouterr().out
    with pytest.raises(DecisionsMismatch, match="standing"):
        label(replace(job, standing=str(folder / "pool-decisions")))
    with pytest.raises(UserError, match="leave --persist, the method out"):
        label(replace(job, persist=(1, 2), method=PercentileConfig()))
    made["run"]["content"] = "another"
    with pytest.raises(DecisionsMismatch, match="scores differ in scale"):
        check_run(decisions, made, open_scores([test]))
