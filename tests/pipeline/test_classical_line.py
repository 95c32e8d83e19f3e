"""Featurize, train, score, label, evaluate, report with a classical recipe on small records: every stage real, minutes saved."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.pipeline.lines import FACTS, RATE_HZ, corpus_fields, write_labels, write_shard
from vibray import runs
from vibray.config import UserError
from vibray.decide.thresholds import ConformalConfig, PercentileConfig
from vibray.fitting.data import TrainingError
from vibray.fitting.jobs import TrainJob
from vibray.pipeline import session
from vibray.pipeline.calibrate import CalibrationMismatch, calibrate
from vibray.pipeline.ending import ClusterError, user_errors
from vibray.pipeline.evaluate import evaluate
from vibray.pipeline.featurize import featurize
from vibray.pipeline.jobs import CalibrateJob, EvaluateJob, FeaturizeJob, LabelJob, ReportJob, ScoreJob
from vibray.pipeline.label import label
from vibray.pipeline.report import report
from vibray.pipeline.score import score
from vibray.pipeline.train import train
from vibray.recipes import banded, baselines, cwt_svdd, mahalanobis, rms, zerone_mahalanobis
from vibray.recipes.kinds import EnsembleRecipe
from vibray.runs.models import Detecting, Fusing
from vibray.runs.run import RunMismatch
from vibray.storage import objects
from vibray.storage.corpus import CorpusFacts, InputsDiffer
from vibray.storage.parts import Parts
from vibray.storage.plan import PlanMismatch
from vibray.tables.decisions import DecisionsMismatch, read_cuts
from vibray.tables.scores import open_scores
from vibray.tables.training import open_features

pytestmark = pytest.mark.usefixtures("local_ray")


def scored(folder) -> dict[str, float]:
    table = Parts(str(folder)).read(["record_id", "score"])
    return dict(zip(table["record_id"].to_pylist(), table["score"].to_pylist(), strict=True))


def test_what_was_read_is_what_was_kept_and_set_aside(line):
    for name in ("features", "scores-pool"):
        parts = Parts(str(line / name))
        parts.check_accounts()
        assert (parts.total("num_read"), parts.total("num_kept"), parts.total("num_bad")) == (103, 100, 3)
        assert parts.reasons == {"missing field": 1, "not JSON": 1, "not an object": 1}
        assert len(parts.markers) == 4


def test_features_hold_the_vectors_that_the_corpus_allows(line):
    facts = objects.read_json(str(line / "features" / "feature.json"))
    assert set(facts["vectors"]) == {"spectral", "harmonic"}  # Zerone is for 8192 samples
    table = Parts(str(line / "features")).read()
    assert table.schema.field("spectral").type.list_size == len(facts["vectors"]["spectral"]["columns"])
    assert np.isfinite(table["mains_snr_db"].to_numpy()).all()


def test_a_run_scores_the_same_in_memory_and_in_bulk(line):
    run = runs.load(str(line / "run"))
    table = Parts(str(line / "scores-test")).read(["record_id", "score", "calibrated", "state"])
    assert all(table["calibrated"].to_pylist())
    evidence = Parts(str(line / "scores-test")).read(name="evidence")
    w = np.array(evidence["waveform"].to_pylist(), np.float32)
    sensors = list(zip(evidence["unit"].to_pylist(), evidence["sensor_id"].to_pylist(), strict=True))
    again = run.score(torch.from_numpy(w), RATE_HZ, sensors).numpy()
    np.testing.assert_allclose(again, evidence["score"].to_numpy(), rtol=1e-6)


def test_a_run_refuses_another_rate(line):
    with pytest.raises(RunMismatch, match=r"8192 Hz.*10000 Hz"):
        score(ScoreJob(str(line / "run"), str(line / "test"), str(line / "scores-other"), sample_rate_hz=10000.0))
    assert not (line / "scores-other").exists()


def test_scores_do_not_depend_on_the_parts(line, tmp_path):
    score(ScoreJob(str(line / "run"), str(line / "pool"), str(tmp_path / "scores"), sample_rate_hz=RATE_HZ, lines_per_part=7))
    assert scored(tmp_path / "scores") == scored(line / "scores-pool")


def test_a_stopped_scoring_goes_on_and_changes_nothing(line, tmp_path, capsys):
    job = ScoreJob(str(line / "run"), str(line / "pool"), str(tmp_path / "scores"), RATE_HZ, lines_per_part=25)
    score(job)
    before, files = scored(tmp_path / "scores"), {p: p.read_bytes() for p in (tmp_path / "scores").glob("part-*")}
    gone = sorted((tmp_path / "scores" / "_done").iterdir())[1:3]
    for marker in gone:  # killed between data and marker
        marker.unlink()
    with pytest.raises(UserError, match="not finished"):
        open_scores([str(tmp_path / "scores")])
    score(job)
    assert scored(tmp_path / "scores") == before
    assert {p: p.read_bytes() for p in (tmp_path / "scores").glob("part-*")} == files
    capsys.readouterr()
    score(job)
    assert "finished already" in capsys.readouterr().out


def part_files(folder) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for name in ("part-*", "bad/*", "_done/*") for p in folder.glob(name)}


def test_a_stopped_featurizing_goes_on_and_writes_the_same_bytes(line, tmp_path, monkeypatch):
    """Whether a task reads and works, or readers hand a chain's parts on because the cores are more than the chains."""
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "a.jsonl.gz").symlink_to(line / "pool" / "a.jsonl.gz")
    handed_on, in_one = tmp_path / "handed_on", tmp_path / "in_one"
    featurize(FeaturizeJob(str(tmp_path / "pool"), str(handed_on), lines_per_part=25, **corpus_fields(FACTS)))
    before = part_files(handed_on)
    assert len(before) == 3 + 1 + 3  # parts, bad lines, markers
    monkeypatch.setattr(session, "num_cpus", lambda: 1)
    featurize(FeaturizeJob(str(tmp_path / "pool"), str(in_one), lines_per_part=25, **corpus_fields(FACTS)))
    assert part_files(in_one) == before
    for folder in (handed_on, in_one):
        for marker in sorted((folder / "_done").iterdir())[1:]:  # killed between data and marker
            marker.unlink()
        featurize(FeaturizeJob(str(tmp_path / "pool"), str(folder), lines_per_part=25, **corpus_fields(FACTS)))
        assert part_files(folder) == before
        monkeypatch.undo()


def test_the_mains_line_is_searched_once(line, tmp_path):
    """Its SNR is the one of the harmonic vector, or the same without that vector; the rate is checked on a few records of each sensor."""
    featurize(
        FeaturizeJob(str(line / "pool"), str(tmp_path / "features"), vectors=("spectral",), lines_per_part=25, **corpus_fields(FACTS))
    )
    parts, without = Parts(str(line / "features")), Parts(str(tmp_path / "features"))
    snr = parts.read(["mains_snr_db"])["mains_snr_db"].to_numpy()
    assert np.array_equal(snr, np.array(parts.read(["harmonic"])["harmonic"].to_pylist(), np.float32)[:, -1])
    np.testing.assert_allclose(without.read(["mains_snr_db"])["mains_snr_db"].to_numpy(), snr, rtol=1e-6)
    for marker in parts.markers.values():
        assert set(marker["mains"]) == {"t1/t1-s0", "t1/t1-s1"}
        assert all(5 <= len(of["family_hz"]) == of["num_looked_at"] <= 8 for of in marker["mains"].values())


def test_another_job_on_a_folder_is_refused(line):
    with pytest.raises(PlanMismatch, match="corpus"):
        score(
            ScoreJob(
                str(line / "run"), str(line / "pool"), str(line / "scores-pool"), sample_rate_hz=RATE_HZ, corpus="other", lines_per_part=25
            )
        )
    with pytest.raises(RunMismatch, match="detector"):
        train(TrainJob((str(line / "features"),), str(line / "run"), mahalanobis()))


def test_a_finished_training_says_so(line, capsys):
    train(TrainJob((str(line / "features"),), str(line / "run"), banded()))
    assert "finished already" in capsys.readouterr().out


def test_training_wants_features_that_fit(line, tmp_path):
    with pytest.raises(UserError, match="8192 samples"):
        train(TrainJob((str(line / "features"),), str(tmp_path / "run"), zerone_mahalanobis()))
    with pytest.raises(InputsDiffer, match="both corpus 'pool'"):
        open_features([str(line / "features"), str(line / "features")])
    with pytest.raises(TrainingError, match="normals-only"):
        train(TrainJob((str(line / "features"),), str(tmp_path / "run"), banded(), labels=str(line / "test_labels.jsonl")))
    assert not (tmp_path / "run").exists()


def test_cuts_labels_figures_and_report(line, tmp_path, capsys):
    pool, test = (str(line / "scores-pool"),), (str(line / "scores-test"),)
    label(LabelJob(pool, str(tmp_path / "decisions"), method=PercentileConfig()))
    assert read_cuts(str(tmp_path / "decisions")).overall.kind == "rate"
    with np.load(tmp_path / "decisions" / "pseudo_labels.npz", allow_pickle=False) as saved:
        assert set(saved) == {"scores", "indices", "pseudo_normal", "pseudo_anomaly", "uncertain", "t_normal", "t_anomaly", "keys"}
        assert saved["indices"].dtype == np.int64
        assert len(saved["pseudo_normal"]) + len(saved["pseudo_anomaly"]) + len(saved["uncertain"]) == len(saved["scores"]) == 100
        assert list(saved["keys"]) == sorted(saved["keys"])
    assert (tmp_path / "decisions" / "score_distribution.png").read_bytes().startswith(b"\x89PNG")

    result = evaluate(EvaluateJob(test, str(line / "test_labels.jsonl"), str(tmp_path / "decisions")))
    assert result["auroc"] > 0.95
    assert result["counts"]["labelled"] == 60
    assert json.loads((line / "scores-test" / "evaluation.json").read_text())["auroc"] == result["auroc"]

    report(ReportJob(test, str(tmp_path / "report" / "index.html"), str(tmp_path / "decisions"), labels=str(line / "test_labels.jsonl")))
    page = (tmp_path / "report" / "index.html").read_text()
    assert "t1-s0" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    alarms = (tmp_path / "report" / "index.alarms.csv").read_text().splitlines()
    assert alarms[0].startswith("unit,sensor,time,score,cut,record")
    assert len(alarms) - 1 == result["at_cut"]["true_alarms"] + result["at_cut"]["false_alarms"]


def test_a_dry_run_writes_nothing(line, tmp_path, capsys):
    featurize(FeaturizeJob(str(line / "pool"), str(tmp_path / "features"), dry_run=True, **corpus_fields(FACTS)))
    score(ScoreJob(str(line / "run"), str(line / "pool"), str(tmp_path / "scores"), sample_rate_hz=RATE_HZ, dry_run=True))
    train(TrainJob((str(line / "features"),), str(tmp_path / "run"), banded(), dry_run=True))
    label(LabelJob((str(line / "scores-pool"),), str(tmp_path / "decisions"), method=PercentileConfig(), dry_run=True))
    calibrate(CalibrateJob(str(line / "run"), str(line / "pool"), str(tmp_path / "calibration"), sample_rate_hz=RATE_HZ, dry_run=True))
    report(ReportJob((str(line / "scores-test"),), str(tmp_path / "report" / "index.html"), dry_run=True))
    evaluate(
        EvaluateJob(
            (str(line / "scores-test"),), str(line / "test_labels.jsonl"), None, output=str(tmp_path / "evaluation.json"), dry_run=True
        )
    )
    assert list(tmp_path.iterdir()) == []
    out = capsys.readouterr().out
    assert "missing field" in out
    assert out.count("dry run: nothing was written") == 7


def test_trusted_normals_alone(line, tmp_path):
    """Cuts and detectors fitted on what a person calls normal: the rate is then a false-alarm probability."""
    write_shard(tmp_path / "raw" / "a.jsonl", 30, seed=9)
    labels = write_shard(tmp_path / "raw" / "b.jsonl", 80, seed=10, fault_share=0.3)
    file = write_labels(tmp_path / "labels.jsonl", labels)
    featurize(FeaturizeJob(str(tmp_path / "raw"), str(tmp_path / "features"), **corpus_fields(FACTS)))
    train(TrainJob((str(tmp_path / "features"),), str(tmp_path / "run"), banded(), labels=str(file), normals_only=True))
    normals = sum(row["label"] == "normal" for row in labels)
    metrics = [json.loads(row) for row in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert metrics[-1]["num_records"] == normals
    score(ScoreJob(str(tmp_path / "run"), str(tmp_path / "raw"), str(tmp_path / "scores"), sample_rate_hz=RATE_HZ))
    label(LabelJob((str(tmp_path / "scores"),), str(tmp_path / "decisions"), method=ConformalConfig(q=0.1), labels=str(file)))
    assert read_cuts(str(tmp_path / "decisions")).overall.kind == "false-alarm probability"
    with pytest.raises(DecisionsMismatch, match="other decisions"):
        label(LabelJob((str(tmp_path / "scores"),), str(tmp_path / "decisions"), method=ConformalConfig(q=0.2), labels=str(file)))


def test_sensors_that_training_did_not_see(line, tmp_path, capsys):
    """Scored against the fleet's baseline and without alarms; against their own once they are calibrated."""
    write_shard(tmp_path / "new" / "a.jsonl", 60, seed=20, unit="t7", gain=5.0)
    job = ScoreJob(str(line / "run"), str(tmp_path / "new"), str(tmp_path / "scores"), RATE_HZ)
    score(job)
    assert "neither the run nor a calibration knows" in capsys.readouterr().out
    assert not any(Parts(str(tmp_path / "scores")).read(["calibrated"])["calibrated"].to_pylist())

    calibrate(
        CalibrateJob(str(line / "run"), str(tmp_path / "new"), str(tmp_path / "calibration"), sample_rate_hz=RATE_HZ, records_per_sensor=25)
    )
    table = objects.read_table(str(tmp_path / "calibration" / "calibration.parquet"))
    assert table["num_records"].to_pylist() == [25, 25]
    assert table["sensor_id"].to_pylist() == ["t7-s0", "t7-s1"]
    score(replace(job, scores=str(tmp_path / "calibrated"), calibration=str(tmp_path / "calibration")))
    after = Parts(str(tmp_path / "calibrated")).read(["record_id", "score", "calibrated"])
    assert all(after["calibrated"].to_pylist())
    usual, before = (np.median(list(scored(folder).values())) for folder in (line / "scores-pool", tmp_path / "scores"))
    assert before > 2 * usual  # louder than any sensor of the fleet
    assert np.median(after["score"].to_numpy()) < 1.3 * usual

    again = str(tmp_path / "again")  # the earliest by time, whatever the parts
    calibrate(CalibrateJob(str(line / "run"), str(tmp_path / "new"), again, sample_rate_hz=RATE_HZ, records_per_sensor=25))
    assert objects.read_table(objects.join(again, "calibration.parquet")).equals(table)

    train(TrainJob((str(line / "features"),), str(tmp_path / "other"), mahalanobis()))
    with pytest.raises(CalibrationMismatch, match="not with"):
        score(replace(job, run=str(tmp_path / "other"), scores=str(tmp_path / "x"), calibration=str(tmp_path / "calibration")))


def test_an_ensemble_of_finished_runs_and_one_that_trains_its_members(line, tmp_path):
    train(TrainJob((str(line / "features"),), str(tmp_path / "baselines"), baselines()))
    score(ScoreJob(str(tmp_path / "baselines"), str(line / "test"), str(tmp_path / "scores"), sample_rate_hz=RATE_HZ))
    result = evaluate(EvaluateJob((str(tmp_path / "scores"),), str(line / "test_labels.jsonl")))
    assert set(result["auroc_by_member"]) == {"rms", "iforest", "banded", "mahalanobis"}

    members = tuple(str(tmp_path / "baselines" / "members" / name) for name in ("banded", "mahalanobis"))
    train(TrainJob((str(line / "features"),), str(tmp_path / "taken"), EnsembleRecipe(), members=members))
    run = runs.load(str(tmp_path / "taken"))
    assert run.members == ("banded", "mahalanobis")
    assert isinstance(run.model, Fusing)
    assert isinstance(run.model.members["banded"], Detecting)
    table = Parts(str(tmp_path / "scores")).read(name="evidence")
    w = torch.from_numpy(np.array(table["waveform"].to_pylist(), np.float32))
    sensors = list(zip(table["unit"].to_pylist(), table["sensor_id"].to_pylist(), strict=True))
    outputs = run.outputs(w, RATE_HZ, sensors)
    for name in run.members:  # the copies are the members
        np.testing.assert_allclose(outputs[f"score_{name}"], table[f"score_{name}"].to_numpy(), rtol=1e-6)


def test_what_does_not_belong_together_is_refused_before_anything_is_written(line, tmp_path):
    features, run = (str(line / "features"),), str(tmp_path / "run")
    with pytest.raises(TrainingError, match="names svdd, vae, the members are banded, rms"):
        train(TrainJob(features, run, EnsembleRecipe(members={"banded": banded(), "rms": rms()})))
    with pytest.raises(ClusterError, match="--num-workers 64: the cluster has 2 cores"):
        train(TrainJob(features, run, cwt_svdd(), num_workers=64))
    write_shard(tmp_path / "slow" / "a.jsonl", 30, seed=3)
    featurize(FeaturizeJob(str(tmp_path / "slow"), str(tmp_path / "other"), **corpus_fields(replace(FACTS, sample_rate_hz=9000.0))))
    with pytest.raises(TrainingError, match=r"sample_rate_hz 8192.0 there, 9000.0 here"):
        train(TrainJob((str(tmp_path / "other"),), run, EnsembleRecipe(), members=(str(line / "run"),)))
    assert not (tmp_path / "run").exists()
    with pytest.raises(CalibrationMismatch, match="is no calibration"):
        score(
            ScoreJob(str(line / "run"), str(line / "test"), str(tmp_path / "scores"), sample_rate_hz=RATE_HZ, calibration=str(line / "run"))
        )
    with pytest.raises(InputsDiffer, match="is no scores table"):
        open_scores([str(line / "features")])
    with pytest.raises(PlanMismatch, match="holds no scores of"):
        score(
            ScoreJob(
                str(line / "run"), str(line / "pool"), str(tmp_path / "scores"), sample_rate_hz=RATE_HZ, since_plan=str(line / "features")
            )
        )
    assert not (tmp_path / "scores").exists()


def test_what_a_worker_finds_wrong_is_one_line_for_the_user(tmp_path, capfd, monkeypatch):
    monkeypatch.delenv("VIBRAY_TRACEBACK", raising=False)
    write_shard(tmp_path / "raw" / "a.jsonl", 3)
    with pytest.raises(SystemExit) as code, user_errors():
        featurize(
            FeaturizeJob(str(tmp_path / "raw"), str(tmp_path / "features"), **corpus_fields(replace(FACTS, unit_pattern=r"^(gbx\d+)-")))
        )
    assert code.value.code == 2
    error = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert "t1-s0" in error[0] and "gbx" in error[0]


def test_the_default_on_real_gearbox_records(gfd, tmp_path):
    """Nothing is fitted on `test/`; the control, RMS, is worth nothing there."""
    facts = CorpusFacts(10000.0, unit_pattern=r"^(gbx\d+)-", mains="none")
    featurize(FeaturizeJob(str(gfd / "unlabelled"), str(tmp_path / "features"), **corpus_fields(facts)))
    train(TrainJob((str(tmp_path / "features"),), str(tmp_path / "run"), baselines()))
    score(ScoreJob(str(tmp_path / "run"), str(gfd / "test"), str(tmp_path / "scores"), sample_rate_hz=10000.0))
    result = evaluate(EvaluateJob((str(tmp_path / "scores"),), str(gfd / "test_labels.jsonl")))
    assert result["counts"]["labelled"] == 300
    assert result["auroc_by_member"]["mahalanobis"] > 0.97
    assert result["auroc_by_member"]["rms"] < 0.6
    assert set(Parts(str(tmp_path / "scores")).read(["state"])["state"].to_pylist()) == {"unknown"}
