"""Labels to diagnoses through the jobs: the default classifier, and a net from a detector's encoder."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.pipeline.lines import FACTS, RATE_HZ, corpus_fields, tiny_svdd, write_labels, write_units
from vibray import runs
from vibray.decide.thresholds import PercentileConfig
from vibray.decide.unit_diagnoses import FILE
from vibray.fitting.data import TrainingError
from vibray.fitting.jobs import TrainJob
from vibray.pipeline.evaluate import evaluate
from vibray.pipeline.featurize import featurize
from vibray.pipeline.jobs import EvaluateJob, FeaturizeJob, LabelJob, ScoreJob
from vibray.pipeline.label import label
from vibray.pipeline.score import score
from vibray.pipeline.train import train
from vibray.recipes import classifier, cwt_classifier
from vibray.runs.models import Diagnosing
from vibray.runs.run import RunMismatch
from vibray.schema import UNIT_DIAGNOSES
from vibray.storage import objects
from vibray.storage.parts import Parts


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of four machines, some of their labels, a classifier taught by these, and its scores of all."""
    folder = tmp_path_factory.mktemp("diagnosed")
    rows = write_units(folder / "raw")
    for row in rows:
        row["label"] = row["label"].replace("tone", "蜂鸣")
    write_labels(folder / "labels.jsonl", rows[::5])
    write_labels(folder / "others.jsonl", [row for i, row in enumerate(rows) if i % 5])
    featurize(FeaturizeJob(str(folder / "raw"), str(folder / "features"), **corpus_fields(FACTS), vectors=("spectral",), local=True))
    train(TrainJob((str(folder / "features"),), str(folder / "run"), classifier(), str(folder / "labels.jsonl"), local=True))
    score(ScoreJob(str(folder / "run"), str(folder / "raw"), str(folder / "scores"), RATE_HZ, local=True))
    return folder


def test_the_default_classifier_names_the_fault_of_records_that_taught_it_nothing(line: Path):
    found = evaluate(EvaluateJob((str(line / "scores"),), str(line / "others.jsonl"), output=str(line / "evaluation.json")))
    assert found["auroc"] > 0.95 and found["f1_by_fault"]["蜂鸣"] > 0.85
    assert found["given_faulty"]["macro_f1"] == 1.0 and found["abnormal_calibration_error"] < 0.1
    assert found["auroc_by_member"].keys() == {"detector"}
    table = Parts(str(line / "scores")).read()
    np.testing.assert_array_equal(table["score"].to_numpy(), table["abnormal_probability"].to_numpy())
    said = table["fault"].to_numpy(zero_copy_only=False)
    assert set(said) <= {"normal", "unknown", "蜂鸣"}
    assert ((table["score"].to_numpy() >= 0.5) == (said != "normal")).all()


def test_a_run_read_back_says_in_memory_what_it_said_in_bulk(line: Path):
    run = runs.load(str(line / "run"))
    assert run.faults == ("蜂鸣",) and run.members == ("detector",)
    evidence = Parts(str(line / "scores")).read(name="evidence")
    waveforms = torch.from_numpy(np.array(evidence["waveform"].to_pylist(), np.float32))
    sensors = list(zip(evidence["unit"].to_pylist(), evidence["sensor_id"].to_pylist(), strict=True))
    outputs = run.outputs(waveforms, RATE_HZ, sensors)
    for name in ("score", "score_detector", "fault_p_蜂鸣"):
        np.testing.assert_allclose(outputs[name].numpy(), evidence[name].to_numpy(), rtol=1e-4, atol=1e-6)


def test_decisions_on_a_classifiers_scores_hold_the_moments_of_units(line: Path, capsys):
    label(LabelJob((str(line / "scores"),), str(line / "named"), method=PercentileConfig()))
    told = capsys.readouterr().out
    found = objects.read_table(str(line / "named" / FILE))
    assert found.schema.equals(UNIT_DIAGNOSES)
    assert found.num_rows == 352 and all(len(sensors) == 1 for sensors in found["sensors"].to_pylist())  # ten minutes apart
    assert f"{found['fault'].to_pylist().count('蜂鸣')} 蜂鸣" in told
    origins = objects.read_table(str(line / "named" / "pseudo_labels.parquet"))["origin"].to_pylist()
    assert set(origins) == {"classifier"}


def test_a_second_start_finds_it_finished_and_another_label_is_another_training(line: Path, capsys):
    asked = TrainJob((str(line / "features"),), str(line / "run"), classifier(), str(line / "labels.jsonl"), local=True)
    train(asked)
    assert "is finished already" in capsys.readouterr().out
    with pytest.raises(RunMismatch, match="labels"):
        train(replace(asked, labels=str(line / "others.jsonl")))


def test_a_classifier_without_labels_is_told_what_it_needs(line: Path):
    with pytest.raises(TrainingError, match="needs --labels"):
        train(TrainJob((str(line / "features"),), str(line / "none"), classifier(), local=True))
    with pytest.raises(TrainingError, match="--init-from goes with"):
        asked = TrainJob((str(line / "features"),), str(line / "none"), classifier(), str(line / "labels.jsonl"), local=True)
        train(replace(asked, init_from=str(line / "run")))


def test_a_net_learns_from_a_detectors_encoder_labels_and_pseudo_labels(line: Path, capsys):
    features, labels = (str(line / "features"),), str(line / "labels.jsonl")
    detector = tiny_svdd(1)
    train(TrainJob(features, str(line / "svdd"), detector, local=True))
    score(ScoreJob(str(line / "svdd"), str(line / "raw"), str(line / "svdd-scores"), RATE_HZ, local=True))
    label(LabelJob((str(line / "svdd-scores"),), str(line / "decisions"), labels=labels, method=PercentileConfig()))
    recipe = replace(cwt_classifier(), optim=replace(cwt_classifier().optim, epochs=2, batch_size=32))
    capsys.readouterr()
    asked = TrainJob(features, str(line / "net"), recipe, labels, local=True)
    train(replace(asked, pseudo_labels=str(line / "decisions"), init_from=str(line / "svdd")))
    told = capsys.readouterr().out
    assert "the classifier takes image, scaling and encoder from" in told and "pseudo-labels, faults: 蜂鸣" in told
    run = runs.load(str(line / "net"))
    assert isinstance(run.model, Diagnosing) and run.model.recipe.image == detector.feature
    score(ScoreJob(str(line / "net"), str(line / "raw"), str(line / "net-scores"), RATE_HZ, local=True))
    assert Parts(str(line / "net-scores")).read(["abnormal_probability"]).num_rows == 352
