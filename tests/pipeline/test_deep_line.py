"""The line with networks: over S3 from end to end, and on two workers of Ray Train as on one."""

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.pipeline.lines import FACTS, corpus_fields, tiny_svdd, write_labels, write_shard
from vibray import runs
from vibray.config import UserError
from vibray.fitting.jobs import TrainJob
from vibray.models.backbone import TrunkConfig
from vibray.models.deep_svdd import DeepSvdd
from vibray.pipeline.demo import local_s3
from vibray.pipeline.featurize import featurize
from vibray.pipeline.jobs import FeaturizeJob, ReportJob
from vibray.pipeline.report import report
from vibray.pipeline.train import train
from vibray.recipes import cwt_svdd, deep_sad
from vibray.runs.models import Detecting
from vibray.schema import Reason
from vibray.storage import objects
from vibray.storage.parts import Parts

ROOT = Path(__file__).parents[2]


def test_the_demo_over_s3_as_a_newcomer_types_it(bucket, tmp_path):
    """`python jobs/demo.py` with a folder in object storage: every stage real, on a smaller fleet."""
    command = [sys.executable, "jobs/demo.py", "--folder", f"{bucket}/demo", "--num-units", "5", "--epochs", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Warning" not in done.stdout + done.stderr
    assert "default (fused)" in done.stdout.split("AUROC on the test set")[1].splitlines()[1]
    of_lines = {str(reason) for reason in Reason} - {Reason.NOT_FINITE}  # which no line has by itself
    for reason in of_lines:
        assert f" {reason}" in done.stdout

    pool = Parts(f"{bucket}/demo/scores/pool-default")
    assert set(pool.reasons) == of_lines
    assert pool.total("num_kept") == 320
    with np.load(io.BytesIO(objects.read_bytes(f"{bucket}/demo/decisions/ensemble/pseudo_labels.npz")), allow_pickle=False) as saved:
        assert len(saved["indices"]) == 320
    assert runs.load(f"{bucket}/demo/runs/classifier").faults == (
        "core_looseness",
        "dc_bias",
        "fan_bearing",
        "tap_changer",
        "winding_looseness",
    )
    figures = {
        run: objects.read_json(f"{bucket}/demo/scores/test-{run}/evaluation.json") for run in ("ensemble", "baselines", "classifier")
    }
    assert figures["baselines"]["auroc_by_member"]["mahalanobis"] > 0.7
    assert figures["classifier"]["macro_f1"] is not None

    keys = [info.key for info in objects.list_objects(f"{bucket}/demo", hidden=True)]
    assert not [key for key in keys if key.endswith((".pkl", ".pickle", ".pt", ".pth"))]
    secret = os.environ["AWS_SECRET_ACCESS_KEY"]
    texts = [objects.read_bytes(f"{bucket}/demo/{key}").decode() for key in keys if key.endswith((".json", ".html", ".csv", ".jsonl"))]
    assert not any(secret in text for text in (*texts, done.stdout, done.stderr))
    page = objects.read_bytes(f"{bucket}/demo/report/index.html").decode()
    assert "u00-s1" in page
    report(ReportJob((f"{bucket}/demo/scores/test-ensemble",), str(tmp_path / "nets.html")))  # the demo's page is of a run without nets
    assert "Where the energy behind the score is" in (tmp_path / "nets.html").read_text()


def test_the_demo_brings_its_own_endpoint():
    """`--s3`: an endpoint on loopback for the time of the job, the AWS variables as they were afterwards."""
    pytest.importorskip("moto.server", reason="moto[server] is not installed (extra [test])")
    before = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    with local_s3() as uri:
        objects.write_bytes(f"{uri}/a", b"1")
        assert [info.key for info in objects.list_objects(uri)] == ["a"]
        assert os.environ["AWS_ENDPOINT_URL"].startswith("http://127.0.0.1:")
    assert {name: value for name, value in os.environ.items() if name.startswith("AWS_")} == before


def test_without_its_server_the_demo_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "moto.server", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[test\]'"), local_s3():
        pass


def metrics(run: Path) -> list[dict]:
    return [json.loads(row) for row in (run / "metrics.jsonl").read_text().splitlines()]


def net_of(run: Path) -> DeepSvdd:
    model = runs.load(str(run)).model
    assert isinstance(model, Detecting) and isinstance(model.detector, DeepSvdd)
    return model.detector


def test_two_workers_of_ray_train_are_one(one_and_two):
    """The same losses, centre and radius: 53 records in batches of 16 leave slices of different length."""
    losses = [[line["loss"] for line in metrics(run) if "loss" in line] for run in one_and_two]
    assert len(losses[0]) == 3
    # float32: on some processors a convolution's kernel depends on the size of the batch; in float64 they agree to 1e-6 (train/)
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)
    nets = [net_of(run) for run in one_and_two]
    np.testing.assert_allclose(nets[0].center.numpy(), nets[1].center.numpy(), atol=1e-4)
    np.testing.assert_allclose(nets[0].radius.numpy(), nets[1].radius.numpy(), rtol=1e-3)
    assert not list((one_and_two[1] / "checkpoints").glob("*.safetensors"))


def test_metrics_tell_of_every_epoch_then_of_the_guards(one_and_two):
    for run in one_and_two:
        pretrain, *epochs, guards = metrics(run)
        assert (pretrain["stage"], pretrain["epoch"]) == ("pretrain", 0)
        assert {"loss", "lr", "records_per_s", "embedding_std", "participation"} <= set(pretrain)
        assert [(line["stage"], line["epoch"]) for line in epochs] == [("train", 0), ("train", 1)]
        for line in epochs:
            assert {"loss", "lr", "embedding_std", "participation", "center_offset", "distance"} <= set(line)
            assert line["distinct_scores"] > 0.99 and line["score_spread"] > 1e-3 and line["records_per_s"] > 0
        assert [guard["name"] for guard in guards["guards"]][-1] == "injected faults"
        assert all(np.isfinite(guard["value"]) for guard in guards["guards"])


def test_mlflow_is_told_by_rank_0_alone_what_metrics_jsonl_says(one_and_two):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed (pip install -e '.[mlflow]')")
    told = one_and_two[1]
    assert not (one_and_two[0] / "mlflow.json").exists()
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{told.parent}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("vibray").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_id == objects.read_json(f"{told}/mlflow.json")["run_id"]
    assert run.data.tags["vibray.run"] == str(told)
    assert run.data.params["optim.batch_size"] == "16"
    *epochs, guards = metrics(told)
    for name in ("loss", "records_per_s", "participation"):
        history = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, f"train/{name}")]
        assert history == [(line["epoch"], line[name]) for line in epochs if line["stage"] == "train"]
    assert run.data.metrics["pretrain/loss"] == epochs[0]["loss"]
    assert run.data.metrics["guards/injected_faults"] == guards["guards"][-1]["value"]


def test_a_net_that_is_shown_injected_faults_is_the_same_on_two_workers(features, tmp_path):
    """And metrics.jsonl tells how far normal records and injected faults lie from the centre."""
    recipe = cwt_svdd()
    recipe = replace(recipe, optim=replace(recipe.optim, epochs=2, batch_size=16))
    for workers in (1, 2):  # one without Ray: test_without_ray.py tells that a worker of Ray Train has its bytes
        train(TrainJob((features,), str(tmp_path / f"run{workers}"), recipe, num_workers=workers, local=workers == 1))
    lines = metrics(tmp_path / "run2")
    assert [line["stage"] for line in lines] == ["train", "train", "guards"]
    assert {"loss", "records_per_s", "embedding_std", "participation", "distance", "fault_distance"} <= set(lines[0])
    assert lines[1]["fault_distance"] > lines[1]["distance"]
    one, two = (net_of(tmp_path / f"run{workers}") for workers in (1, 2))
    np.testing.assert_allclose(one.location.numpy(), two.location.numpy(), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(one.radius.numpy(), two.radius.numpy(), rtol=1e-3)


def test_deep_sad_learns_from_labels(tmp_path):
    labels = write_shard(tmp_path / "raw" / "a.jsonl.gz", 48, seed=6)
    featurize(FeaturizeJob(str(tmp_path / "raw"), str(tmp_path / "features"), local=True, **corpus_fields(FACTS)))
    recipe = deep_sad()
    recipe = replace(recipe, optim=replace(recipe.optim, epochs=1, batch_size=16))
    with pytest.raises(UserError, match="needs --labels"):
        train(TrainJob((str(tmp_path / "features"),), str(tmp_path / "run"), recipe))
    path = str(write_labels(tmp_path / "labels.jsonl", labels[:20]))
    train(TrainJob((str(tmp_path / "features"),), str(tmp_path / "run"), recipe, labels=path, local=True))
    model = runs.load(str(tmp_path / "run")).model
    assert isinstance(model, Detecting) and isinstance(model.detector, DeepSvdd)
    assert model.detector.whitening.abs().sum() > 0


@pytest.mark.slow
def test_a_training_that_a_guard_refuses_leaves_its_metrics(features, tmp_path):
    """They tell when it went wrong: a net with biases that weight decay draws to one point."""
    recipe = replace(tiny_svdd(1), detector=replace(tiny_svdd(1).detector, trunk=TrunkConfig(width=4, bias=True)))
    optim = replace(recipe.optim, epochs=30, lr=2e-2, weight_decay=1e-1, schedule="constant")
    recipe = replace(recipe, pretrain=replace(recipe.pretrain, epochs=0), optim=optim)
    with pytest.raises(UserError, match="of no use"):
        train(TrainJob((features,), str(tmp_path / "run"), recipe))
    assert not (tmp_path / "run" / "_done.json").exists()
    *epochs, guards = metrics(tmp_path / "run")
    assert [line["epoch"] for line in epochs] == list(range(30))
    assert epochs[-1]["score_spread"] < epochs[0]["score_spread"]
    assert guards["passed"] is False


def test_an_error_in_the_recipe_is_told_once_and_not_tried_again(features, tmp_path):
    recipe = tiny_svdd(1)
    broken = replace(recipe, optim=replace(recipe.optim, lr=1e30))
    with pytest.raises(UserError, match="no longer finite"):
        train(TrainJob((features,), str(tmp_path / "run"), broken))
    assert not (tmp_path / "run" / "_done.json").exists()
