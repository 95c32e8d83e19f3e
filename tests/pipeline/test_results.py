"""What evaluate and report say of one scores table, and which files they may write. No Ray, no run."""

import json
import re
import shutil
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.decide.fleet import fleet, replaced
from tests.pipeline.test_decisions import RUN, write_labels, write_scores
from vibray import schema
from vibray.config import UserError
from vibray.decide.thresholds import PercentileConfig
from vibray.pipeline.demo import demo
from vibray.pipeline.evaluate import evaluate
from vibray.pipeline.jobs import DemoJob, EvaluateJob, LabelJob, ReportJob
from vibray.pipeline.label import label
from vibray.pipeline.report import gather, report
from vibray.report import formats, tables
from vibray.report.data import ReportConfig
from vibray.report.page import render
from vibray.schema import SCORE_QUANTILES, TIME
from vibray.storage import objects
from vibray.storage.parts import finish_folder
from vibray.tables.decisions import as_decided, read_cuts
from vibray.tables.scores import open_scores


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Scores of two corpora, one with states of every kind, labels and decisions of each."""
    folder = tmp_path_factory.mktemp("results")
    for name, seed in (("first", 0), ("second", 1)):
        table = fleet(4, num_times=100, seed=seed)
        states = np.array(["energised", "off", "transient", "sensor_fault", "unknown"])[np.arange(len(table)) % 5]
        table = replaced(table, "state", states if name == "first" else ["energised"] * len(table))
        write_scores(folder, table, name)
        write_labels(folder / f"{name}.jsonl", table, name, since=60)
        label(LabelJob((str(folder / "scores" / name),), str(folder / "decisions" / name), method=PercentileConfig(anomaly=90.0)))
    return folder


def test_evaluate_counts_the_alarms_that_the_report_shows(folder):
    """A record of a machine that is off, or of a faulty sensor, is in the areas, and no alarm."""
    scores, decisions = (str(folder / "scores" / "first"),), str(folder / "decisions" / "first")
    at = evaluate(EvaluateJob(scores, str(folder / "first.jsonl"), decisions, dry_run=True))["at_cut"]
    table = as_decided(decisions, open_scores(scores))
    data, above = gather(table, decisions, None, ""), table.scores["score"].to_numpy() >= read_cuts(decisions).overall.anomaly_above
    assert at["true_alarms"] + at["false_alarms"] == data.alarm.sum() > 20
    assert data.no_alarm.sum() > 20
    np.testing.assert_array_equal(data.alarm | data.no_alarm, above)


def written(place: Path) -> dict[str, bytes]:
    return {path.relative_to(place).as_posix(): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def asked(folder: Path, to: str, name: str = "first", **more) -> ReportJob:
    return ReportJob((str(folder / "scores" / name),), to, str(folder / "decisions" / name), explain=False, **more)


def test_two_reports_in_one_folder_keep_their_tables(folder, tmp_path):
    report(asked(folder, str(tmp_path / "two" / "a.html"), "first"))
    first = written(tmp_path)
    report(asked(folder, str(tmp_path / "two" / "b.html"), "second"))
    tables = [f"{table}.csv" for table in ("alarms", "no_alarm", "unit_alarms")]
    assert set(first) == {"two/a.html", *(f"two/a.{table}" for table in tables)}
    assert written(tmp_path) == first | {name: data for name, data in written(tmp_path).items() if name.startswith("two/b.")}
    assert len(written(tmp_path)) == 8


@pytest.mark.parametrize("name", ["x/", "x", "x.d"])
def test_a_name_without_html_is_a_folder(folder, tmp_path, name):
    report(asked(folder, f"{tmp_path}/{name}"))
    whole = name.rstrip("/")
    assert set(written(tmp_path)) == {f"{whole}/{file}" for file in ("report.html", "alarms.csv", "no_alarm.csv", "unit_alarms.csv")}


def test_a_report_is_overwritten_by_the_same_inputs_alone(folder, tmp_path):
    """Wherever they lie; a dry run may be asked for anywhere."""
    to, labels = str(tmp_path / "a.html"), tmp_path / "labels.jsonl"
    shutil.copy(folder / "first.jsonl", labels)
    job = asked(folder, to, labels=str(labels), title="Of spring")
    report(job)
    before = written(tmp_path)
    (tmp_path / "a.alarms.csv").write_text("edited")
    report(job)
    shutil.copytree(folder / "scores" / "first", tmp_path / "moved")
    report(replace(job, scores=(str(tmp_path / "moved"),)))
    shutil.rmtree(tmp_path / "moved")
    assert {name: data for name, data in written(tmp_path).items() if name != "a.html"} == {
        n: d for n, d in before.items() if n != "a.html"
    }
    before = written(tmp_path)
    others = {
        "scores": asked(folder, to, "second", title="Of spring"),
        "no decisions": replace(job, decisions=None),
        "no labels": replace(job, labels=None),
    }
    for other in others.values():
        with pytest.raises(UserError, match=r"a\.html is the report 'Of spring' of other inputs: use another name, or remove it"):
            report(other)
        report(replace(other, dry_run=True))
    labels.write_text(labels.read_text().replace("tone", "hum"))
    with pytest.raises(UserError, match="of other inputs"):
        report(job)
    labels.write_bytes(before["labels.jsonl"])
    assert written(tmp_path) == before


def test_trends_and_a_budget_are_read_where_the_decisions_have_them(folder, tmp_path):
    """An earlier version's decisions have neither."""
    scores, there = (str(folder / "scores" / "first"),), folder / "decisions" / "first"
    shutil.copytree(there, here := tmp_path / "decisions")
    (here / "unit_trends.parquet").unlink()
    done = objects.read_json(str(here / "_done.json"))
    (here / "_done.json").unlink()
    files = [name for name in done["files"] if name != "unit_trends.parquet"]
    finish_folder(str(here), files, {"identity": done["identity"]})
    older = gather(open_scores(scores), str(here), None, "")
    assert older.trends is None and older.budget is None
    trends = pa.table({"unit": ["u0"], "verdict": ["growing"], "since": pa.array([0], TIME), "change": [3.0], "per_month": [1.0]})
    objects.write_table(str(here / "unit_trends.parquet"), trends)
    budget = {"per_week": 5.0, "expected_per_week": 1.0, "upper_per_week": 3.0, "missed": {"tone": [1, 4]}}
    objects.write_json(str(here / "cuts.json"), {**objects.read_json(str(here / "cuts.json")), "budget": budget})
    (here / "_done.json").unlink()
    finish_folder(str(here), [*files, "unit_trends.parquet"], {"identity": done["identity"]})
    data = gather(open_scores(scores), str(here), None, "")
    assert data.budget == budget and data.trends is not None and data.trends.to_pylist() == trends.to_pylist()


def test_a_page_of_another_language_is_another_page(folder, tmp_path):
    to = str(tmp_path / "a.html")
    report(asked(folder, to, language="zh"))
    assert '<html lang="zh-Hans">' in (tmp_path / "a.html").read_text(encoding="utf-8")
    with pytest.raises(UserError, match="of other inputs"):
        report(asked(folder, to))


def test_what_the_summary_counts_stands_on_the_page(folder, tmp_path):
    """A number of states, sensor faults and sensors without calibration is one of the page's tables."""
    table = open_scores([str(folder / "scores" / "first")])
    data = gather(table, None, None, "")
    states = {state: count for state, count, *_ in tables.states(data)}
    assert states == {row["values"]: row["counts"] for row in data.scores["state"].value_counts().to_pylist()}
    page = render(data, ReportConfig(num_records=1))
    section = page[page.index('id="quality"') :].split("</section>")[0]
    counts = data.counts["first"]
    for number in (counts["read"], counts["kept"], *states.values(), int((~data.calibrated).sum())):
        assert f">{number:,}<" in section
    for q in SCORE_QUANTILES:
        assert formats.number(float(np.quantile(data.score, q))) in section


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.html", "my own notes", "no report of vibray"),
        ("a.html", '<meta name="generator" content="vibray"><title>x &amp; y</title>', "the report 'x & y', which does not say of what"),
        ("a.no_alarm.csv", "mine", "stands there without its report"),
    ],
)
def test_what_is_no_report_is_not_overwritten(folder, tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=words) as refused:
        report(asked(folder, str(tmp_path / "a.html")))
    assert str(tmp_path / name) in str(refused.value) and "use another name, or remove it" in str(refused.value)
    assert written(tmp_path) == {name: text.encode()}


def test_an_evaluation_is_overwritten_by_the_same_inputs_alone(folder, tmp_path):
    output, labels = tmp_path / "e.json", tmp_path / "labels.jsonl"
    shutil.copy(folder / "first.jsonl", labels)
    job = EvaluateJob((str(folder / "scores" / "first"),), str(labels), str(folder / "decisions" / "first"), str(output))
    evaluate(job)
    before = output.read_bytes()
    assert json.loads(before)["identity"] == evaluate(job)["identity"]
    assert output.read_bytes() == before
    with pytest.raises(UserError, match=r"of other inputs; give another --output, or remove it:\n  decisions: \w+ there, None now$"):
        evaluate(replace(job, decisions=None))
    with pytest.raises(UserError, match="  labels: "):
        evaluate(replace(job, labels=str(folder / "first.jsonl").replace("first", "second"), scores=(str(folder / "scores" / "second"),)))
    evaluate(replace(job, decisions=None, dry_run=True))
    assert output.read_bytes() == before


def test_an_evaluation_in_the_scores_folder_is_as_safe(folder, tmp_path):
    shutil.copytree(folder / "scores" / "first", tmp_path / "scores")
    job = EvaluateJob((str(tmp_path / "scores"),), str(folder / "first.jsonl"))
    evaluate(job)
    before = written(tmp_path)
    assert "scores/evaluation.json" in before
    with pytest.raises(UserError, match="decisions: None there"):
        evaluate(replace(job, decisions=str(folder / "decisions" / "first")))
    assert written(tmp_path) == before
    evaluate(replace(job, output=f"{tmp_path}/apart/"))
    assert (tmp_path / "apart" / "evaluation.json").read_bytes() == before["scores/evaluation.json"]


@pytest.mark.parametrize("text", ["my own notes", "{}", '{"format_version": 99}', '{"format_version": 1, "auroc": 0.9}'])
def test_what_is_no_evaluation_is_not_overwritten(folder, tmp_path, text):
    (tmp_path / "e.json").write_text(text)
    with pytest.raises(UserError, match="give another --output, or remove it"):
        evaluate(EvaluateJob((str(folder / "scores" / "first"),), str(folder / "first.jsonl"), output=str(tmp_path / "e.json")))
    assert (tmp_path / "e.json").read_text() == text


def test_the_demo_does_not_overwrite_a_report_that_stands(tmp_path):
    """Said before it starts: what it would copy lies on an endpoint that ends with it."""
    page = tmp_path / "report" / "index.html"
    page.parent.mkdir()
    page.write_text("of another fleet")
    with pytest.raises(UserError, match="use another --folder, or remove it"):
        demo(DemoJob(str(tmp_path), s3=True))
    assert page.read_text() == "of another fleet"


FAULTS = ("winding looseness", "Übererregung")


@pytest.fixture(scope="module")
def diagnosed(tmp_path_factory) -> tuple[str, list[str]]:
    """Scores of a classifier that is always right, and what it calls each record."""
    folder = tmp_path_factory.mktemp("diagnosed")
    plain = fleet(2, num_times=20)
    named = np.array(["normal", *FAULTS])[np.arange(len(plain)) % 3].tolist()
    sick = np.array([name != "normal" for name in named])
    table = replaced(plain, "score", np.where(sick, 0.9, 0.1))
    for field in list(schema.scores((), FAULTS))[len(schema.scores()) :]:
        values = {"fault": named, "abnormal_probability": np.where(sick, 0.9, 0.1)}.get(field.name, np.full(len(named), 0.9))
        table = table.append_column(field, pa.array(values, field.type))
    return write_scores(folder, table, "c", {**RUN, "faults": list(FAULTS)}), named


def labelled(path: Path, names: list[str]) -> str:
    rows = ({"corpus": "c", "record_id": f"r@{i}", "label": name} for i, name in enumerate(names))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        (FAULTS[0], "Winding Looseness"),
        (FAULTS[0], "winding  looseness"),
        (FAULTS[0], " winding\u00a0looseness\t"),
        (FAULTS[1], unicodedata.normalize("NFD", FAULTS[1])),
        (FAULTS[1], "ÜBERERREGUNG"),
        ("normal", "Normal"),
        ("normal", "\uff4eormal"),
    ],
)
def test_a_label_in_another_spelling_is_no_miss_but_an_error(diagnosed, tmp_path, name, label):
    scores, named = diagnosed
    file = labelled(tmp_path / "l.jsonl", named)
    assert evaluate(EvaluateJob((scores,), file, dry_run=True))["macro_f1"] == 1.0
    spoiled = [label if own == name else own for own in named]
    file, first = labelled(tmp_path / "l.jsonl", spoiled), spoiled.index(label) + 1
    told = rf"l\.jsonl spells labels otherwise .*\n  line {first}: {re.escape(repr(label))} \({spoiled.count(label)} records\), '{name}' in"
    if name == schema.NORMAL:  # of all labels, whatever the run knows
        told = r"l\.jsonl: .*normal"
    with pytest.raises(UserError, match=told):
        evaluate(EvaluateJob((scores,), file, dry_run=True))
    with pytest.raises(UserError, match=told):
        report(ReportJob((scores,), str(tmp_path), labels=file))


def test_another_fault_is_none_of_the_runs(diagnosed, tmp_path):
    """An underscore or another word tells names apart."""
    scores, named = diagnosed
    for other in ("winding_looseness", "looseness"):
        file = labelled(tmp_path / "l.jsonl", [other if name == FAULTS[0] else name for name in named])
        assert evaluate(EvaluateJob((scores,), file, dry_run=True))["faults_only_here"] == [other]
