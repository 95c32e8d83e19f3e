"""A review queue written, filled in and handed back; budgets and trends of a decisions folder. No Ray, no run."""

import csv
import hashlib
import io
import re
from collections import Counter
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.decide.fleet import at_one_time, fleet, replaced
from tests.pipeline.lines import FACTS, corpus_fields, write_shard
from tests.pipeline.test_decisions import write_labels, write_scores
from vibray import schema
from vibray.decide.thresholds import MadConfig, PercentileConfig
from vibray.decide.units import read_units
from vibray.fitting.data import labels_of_records
from vibray.pipeline.ending import user_errors
from vibray.pipeline.evaluate import evaluate
from vibray.pipeline.featurize import featurize
from vibray.pipeline.jobs import EvaluateJob, FeaturizeJob, LabelJob
from vibray.pipeline.label import label
from vibray.report.anchors import record_anchor, unit_anchor
from vibray.storage import objects
from vibray.storage.labels import REVIEW_COLUMNS
from vibray.tables.decisions import DecisionsMismatch, read_cuts
from vibray.tables.training import open_features

SICK = [(3, 500, 5.0)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Scores of a fleet in which T03 falls ill, and of one that stays healthy; labels of the first."""
    folder = tmp_path_factory.mktemp("review")
    write_scores(folder, fleet(6, num_times=600, sick=SICK, seed=1), "2024-05")
    healthy = fleet(6, num_times=600, seed=2)
    earlier = healthy["measured_at"].cast(pa.int64()).to_numpy() - 60 * 86_400_000
    write_scores(folder, replaced(healthy, "measured_at", pa.array(earlier).cast(schema.TIME)), "healthy")
    return folder


def job_on(folder: Path, decisions: Path, corpus: str = "2024-05", **more) -> LabelJob:
    return LabelJob((str(folder / "scores" / corpus),), str(decisions), **{"method": PercentileConfig(), **more})


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline="")))


def test_a_queue_is_written_filled_in_and_handed_back(folder, tmp_path, capsys):
    job = job_on(folder, tmp_path / "d", review=12, report="https://b.example/page.html")
    label(job)
    said = capsys.readouterr().out
    assert re.search(r"review: 12 records of 6 units \(10 normal, 2 abnormal\): fill in label .* in review\.csv", said)
    rows = rows_of(tmp_path / "d" / "review.csv")
    assert tuple(rows[0]) == REVIEW_COLUMNS and len(rows) == 12
    assert max(Counter(row["unit"] for row in rows).values()) <= 3
    assert rows[0]["corpus"] == "'2024-05"  # Excel would make a date of it
    anchor = record_anchor("2024-05", rows[0]["record_id"])
    assert rows[0]["link"] == f"https://b.example/page.html#{anchor}" and re.fullmatch("record-[0-9a-f]{12}", anchor)
    assert {row["label"] for row in rows} == {row["note"] for row in rows} == {""}

    # a person fills in ten, where the file lies, and saves it with semicolons
    for i, row in enumerate(rows):
        row |= {"label": "" if i > 9 else "绕组松动" if row["unit"] == "T03" else "normal", "note": "seen; on site"}
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, REVIEW_COLUMNS, delimiter=";")
    writer.writeheader()
    writer.writerows(rows)
    handed = tmp_path / "d" / "review.csv"
    handed.write_bytes(out.getvalue().encode("utf-16"))
    label(job)
    assert "is finished already" in capsys.readouterr().out  # the folder is whole although a person wrote into it
    assert read_cuts(job.decisions)

    label(replace(job, decisions=str(tmp_path / "next"), labels=str(handed), review=600))
    said = capsys.readouterr().out
    assert "10 labels: 10 scored records, 0 of lines set aside; 2 rows without a label yet were passed over" in said
    labelled = {row["record_id"] for row in rows[:10]}
    asked = rows_of(tmp_path / "next" / "review.csv")
    assert len(asked) > 300 and not labelled & {row["record_id"] for row in asked}
    table = objects.read_table(str(tmp_path / "next" / "pseudo_labels.parquet")).to_pylist()
    assert {row["record_id"] for row in table if row["origin"] == "human"} == labelled
    result = evaluate(EvaluateJob(job.scores, str(handed), dry_run=True))
    assert list(result["auroc_by_fault"]) == ["绕组松动"] and result["counts"]["labelled"] == 10


def test_training_reads_it_too(tmp_path, capsys):
    given = write_shard(tmp_path / "raw" / "a.jsonl", 12, fault_share=0.5)
    uri = str(tmp_path / "features")
    featurize(FeaturizeJob(str(tmp_path / "raw"), uri, vectors=("spectral",), local=True, **corpus_fields(FACTS)))
    table = open_features([uri])
    ids = {(s, t): r for s, t, r in zip(*(table.index[n].to_pylist() for n in ("sensor_id", "measured_at", "record_id")), strict=True)}
    by_id = {ids[row["sensor_id"], datetime.fromisoformat(row["data_time"])]: row["label"] for row in given}
    lines = ["record_id\tlabel\tnote", *(f"{record_id}\t {label} \t" for record_id, label in by_id.items()), "\t\t"]
    (tmp_path / "labels.txt").write_bytes("\r\n".join(lines).encode("utf-16"))
    assert labels_of_records(str(tmp_path / "labels.txt"), table).tolist() == [by_id[r] for r in table.index["record_id"].to_pylist()]
    assert "12 labels: 12 records, 0 of lines set aside\n" in capsys.readouterr().out


def test_another_queue_budget_or_report_is_another_decision(folder, tmp_path):
    job = job_on(folder, tmp_path / "d", review=5, budget="5/week")
    label(job)
    for more, shown in (
        ({"review": 6}, "review: 5 there, 6 now"),
        ({"review": None}, "review: 5 there, None now"),
        ({"budget": "1/day"}, "budget: 5/week there, 1/day now"),
        ({"report": "s3://b/r.html"}, "report: None there, s3://b/r.html now"),
    ):
        with pytest.raises(DecisionsMismatch, match=re.escape(shown)):
            label(replace(job, **more))


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"review": 0}, "--review 0: a queue has one record or more"),
        ({"budget": "5"}, "give a number of alarms above 0 per day, week or month, as 5/week"),
        ({"budget": "5/week", "by": "unit"}, "--budget makes one cut for all records: leave --by unit out"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(folder, tmp_path, capsys, more, says):
    with pytest.raises(SystemExit), user_errors():
        label(job_on(folder, tmp_path / "d", **more))
    (said,) = capsys.readouterr().err.splitlines()
    assert says in said and not (tmp_path / "d").exists()


def test_decisions_do_not_depend_on_the_queue(folder, tmp_path):
    label(job_on(folder, tmp_path / "with", review=5))
    label(job_on(folder, tmp_path / "without"))
    for name in ("pseudo_labels.parquet", "unit_scores.parquet", "unit_trends.parquet", "drift.parquet"):
        assert (tmp_path / "with" / name).read_bytes() == (tmp_path / "without" / name).read_bytes()
    assert not (tmp_path / "without" / "review.csv").exists()
    label(job_on(folder, tmp_path / "again", review=5))
    assert (tmp_path / "again" / "review.csv").read_bytes() == (tmp_path / "with" / "review.csv").read_bytes()


def test_a_dry_run_says_all_and_writes_nothing(folder, tmp_path, capsys):
    label(job_on(folder, tmp_path / "d", review=5, budget="5/week", dry_run=True))
    said = capsys.readouterr().out
    for words in ("review: 5 records of", "budget: 5/week", "trends: 1 units rose in a step, 0 grow, 5 are steady"):
        assert words in said
    assert not (tmp_path / "d").exists()


# ---- budgets


def test_a_budget_sets_both_cuts_and_stands_in_cuts_json(folder, tmp_path, capsys):
    raw = fleet(6, num_times=600, sick=SICK, seed=1)
    labels = Path(write_labels(tmp_path / "labels.jsonl", raw, "2024-05"))
    kept = [line for i, line in enumerate(labels.read_text().splitlines()) if i % 600 >= 500 and '"tone"' in line]
    labels.write_text("\n".join(kept))
    healthy = (str(folder / "scores" / "healthy"),)
    label(job_on(folder, tmp_path / "d", budget="20/week", unit_reference=healthy, labels=str(labels), method=MadConfig()))
    said = capsys.readouterr().out
    found = objects.read_json(str(tmp_path / "d" / "cuts.json"))["budget"]
    assert found["per_week"] == 20 and found["asked"] == "20/week"
    for part in ("records", "units"):
        assert found[part]["expected_per_week"] <= found[part]["upper_per_week"] <= 20
    assert found["upper_per_week"] == max(found[part]["upper_per_week"] for part in ("records", "units"))
    cuts, units = read_cuts(str(tmp_path / "d")), read_units(str(tmp_path / "d"))
    assert cuts.method == "budget" and cuts.anomaly_above == found["records"]["limit"]  # type: ignore[union-attr]
    assert units is not None and units.config.rate == found["units"]["limit"]
    missed, labelled = found["missed"]["tone"]
    assert labelled == len(kept) and 0 < missed < labelled / 2
    assert "budget: 20/week, of records and of units" in said and f"missed at this cut: {missed} of {labelled} tone" in said
    assert [unit.unit for unit in units.alarms if unit.alarm] == ["T03"]
    above = raw["score"].to_numpy() >= cuts.anomaly_above  # type: ignore[union-attr]
    quiet = np.array(raw["unit"].to_pylist()) != "T03"
    assert (above & quiet).sum() / (600 / 168) < 20


def test_a_reference_that_cannot_promise_says_how_much_more_it_takes(folder, tmp_path, capsys):
    label(job_on(folder, tmp_path / "d", budget="0.1/month", method=PercentileConfig(anomaly=90.0)))
    said = capsys.readouterr().out
    assert re.search(
        r"the reference cannot promise 0\.023 a week: it takes 1\.3e\+02 weeks of reference, 1\.3e\+02 more than there are", said
    )
    found = objects.read_json(str(tmp_path / "d" / "cuts.json"))["budget"]
    assert found["doubtful"] > 0 and f"{found['doubtful']} reference records lie below this cut and above the method's own" in said
    assert not found["records"]["kept"] and not found["units"]["kept"] and found["upper_per_week"] > found["per_week"]
    assert "missed" not in found


def test_a_budget_of_means_over_sensors(folder, tmp_path):
    scores = write_scores(tmp_path, at_one_time(fleet(6, num_times=600, sick=[(3, 500, 2.0)], seed=4)), "test")
    recall = {}
    for pool in (False, True):
        label(LabelJob((scores,), str(tmp_path / f"d{pool}"), budget="20/week", pool_sensors=pool, method=PercentileConfig()))
        table = objects.read_table(str(tmp_path / f"d{pool}" / "pseudo_labels.parquet"))["label"].to_numpy().reshape(6, 3, 600)
        recall[pool] = (table[3, :, 500:] == 1).mean()
        healthy = np.delete(table, 3, axis=0)[:, :, 200:]
        assert (healthy == 1).sum() / (400 / 168) < 20 * 3  # pooled, the sensors of a moment alarm together
    assert recall[True] > recall[False]


# ---- trends


def test_a_folder_holds_trends_and_an_older_one_does_not(folder, tmp_path, capsys):
    label(job_on(folder, tmp_path / "d"))
    assert "T03 step since" in capsys.readouterr().out
    units = read_units(str(tmp_path / "d"))
    assert units is not None and units.trends is not None and units.trends.schema == schema.UNIT_TRENDS
    rows = {row["unit"]: row for row in units.trends.to_pylist()}
    assert sorted(rows) == [f"T0{i}" for i in range(6)]
    assert {unit: row["verdict"] for unit, row in rows.items() if row["verdict"] != "steady"} == {"T03": "step"}
    assert "unit_trends.parquet" in objects.read_json(str(tmp_path / "d" / "_done.json"))["files"]
    (tmp_path / "d" / "unit_trends.parquet").unlink()
    older = read_units(str(tmp_path / "d"))
    assert older is not None and older.trends is None and older.alarms == units.alarms


def test_units_of_another_table_that_is_the_reference_have_no_trend_of_their_own(folder, tmp_path):
    few = write_scores(tmp_path, fleet(2, num_times=300, seed=3), "few")
    label(LabelJob((few,), str(tmp_path / "d"), unit_reference=(str(folder / "scores" / "healthy"),), method=PercentileConfig()))
    units = read_units(str(tmp_path / "d"))
    assert units is not None and units.trends is not None
    assert units.trends["unit"].to_pylist() == ["T00", "T01"]


def test_anchors_are_names_of_what_they_stand_for():
    assert record_anchor("c", "a@0") == "record-" + hashlib.sha256(b"c\0a@0").hexdigest()[:12] != record_anchor("d", "a@0")
    assert re.fullmatch("unit-[0-9a-f]{12}", unit_anchor("主变1"))
