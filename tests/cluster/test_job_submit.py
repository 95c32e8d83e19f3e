"""Scoring submitted to a cluster of two nodes, token authentication on, as the README shows it: result, log, metrics, exit codes."""

import json
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from tests.cluster.nodes import ROOT, Cluster
from tests.pipeline.lines import FACTS, RATE_HZ, corpus_fields, write_shard
from vibray.fitting.jobs import TrainJob
from vibray.pipeline.featurize import featurize
from vibray.pipeline.jobs import FeaturizeJob
from vibray.pipeline.train import train
from vibray.recipes import banded
from vibray.storage import objects
from vibray.storage.parts import Parts

TINY = """plain-svdd --feature.rows 32 --feature.columns 32 --feature.min-hz 60 --detector.trunk.width 4 --detector.hidden 16
    --detector.latent-dim 8 --pretrain.epochs 1 --optim.epochs 8 --optim.batch-size 4"""


@pytest.fixture(scope="module")
def cluster():
    """A head with one core and a node with another."""
    # not below pytest's own folder: with the name of a process in it, the path of Ray's sockets is longer than a socket's may be
    with tempfile.TemporaryDirectory(prefix="v-", ignore_cleanup_errors=True) as folder:
        cluster = Cluster(Path(folder), RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S="2")
        try:
            cluster.start_head(1)
            cluster.start_worker(1)
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """(folder of shards, run): 3 plain shards and a gzip'd one of 40 records each, 2 lines of every shard being no records."""
    folder = tmp_path_factory.mktemp("corpus")
    for i, name in enumerate(("a.jsonl", "b.jsonl", "c.jsonl", "d.jsonl.gz")):
        write_shard(folder / "raw" / name, 40, bad=2, seed=i)
    featurize(FeaturizeJob(str(folder / "raw"), str(folder / "features"), local=True, **corpus_fields(FACTS)))
    train(TrainJob((str(folder / "features"),), str(folder / "run"), banded(), local=True))
    return folder / "raw", folder / "run"


def score_words(corpus, scores, rate_hz=RATE_HZ, lines_per_part=20) -> list[str]:
    raw, run = corpus
    words = ["python", "jobs/score.py", "--run", str(run), "--input", str(raw), "--scores", str(scores)]
    return [*words, "--sample-rate-hz", str(rate_hz), "--lines-per-part", str(lines_per_part)]


def events_of(output: str) -> list[dict]:
    return [json.loads(line) for line in output.splitlines() if line.startswith('{"time"')]


def test_scores_come_from_a_submitted_job_with_its_log_and_metrics(cluster, corpus, tmp_path):
    done = cluster.submit("env", "VIBRAY_LOG=json", *score_words(corpus, tmp_path / "scores"))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    parts = Parts(str(tmp_path / "scores"))
    assert (parts.total("num_read"), parts.total("num_kept"), parts.total("num_bad")) == (168, 160, 8)

    events = events_of(done.stdout)
    assert {event["job"] for event in events} == {"score"}
    assert events[0]["event"] == "begin"
    assert (events[-1]["event"], events[-1]["exit_code"]) == ("end", 0)
    assert "read 168 = kept 160 + set aside 8" in [event["message"] for event in events]
    told = [event for event in events if event["event"] == "part"]
    assert {event["part"] for event in told} == set(parts.markers)
    assert len({event["node"] for event in told}) == 2
    assert sum(event["num_kept"] for event in told) == 160
    assert sum(sum(event["reasons"].values()) for event in told) == 8
    (last,) = [event for event in events if event["event"] == "progress"][-1:]
    assert (last["count"], last["share_done"], last["bad_lines"]) == (160, 1.0, 8)

    # the driver is a process of the head, whose exporter has the figures of all nodes
    found = cluster.metrics(0)
    assert found["ray_vibray_records_total/score"] == 160
    assert found["ray_vibray_bad_lines_total/score"] == 8
    assert found["ray_vibray_parts_total/score"] == len(parts.markers)
    for stage in ("read", "work", "write"):
        seconds = sum(event[f"{stage}_seconds"] for event in told)
        assert found[f"ray_vibray_stage_seconds_total/score/{stage}"] == pytest.approx(seconds, rel=1e-3)
    assert found["ray_vibray_share_done/score"] == 1


def test_a_users_error_is_one_line_and_the_exit_code_is_the_jobs(cluster, corpus, tmp_path):
    wrong = cluster.submit(*score_words(corpus, tmp_path / "other", rate_hz=9999.0), submission_id="wrong-rate")
    assert wrong.returncode == 1  # whatever the job's own code is, `ray job submit` ends with 1
    assert json.loads(cluster.get("/api/jobs/wrong-rate"))["driver_exit_code"] == 2
    assert "error: the run was trained on records of 2048 samples at 8192 Hz" in wrong.stdout
    assert "Traceback" not in wrong.stdout


def test_without_the_token_nothing_is_answered(cluster):
    assert cluster.answers("/api/jobs/")
    assert not cluster.answers("/api/jobs/", token=False)


@pytest.mark.slow
def test_a_node_that_is_taken_back_and_a_job_that_is_stopped_change_no_score(cluster, corpus, tmp_path):
    """SIGTERM to a node amid a job, as Kubernetes sends it: it ends its tasks and goes. Then `ray job stop`, and the command again."""
    raw = tmp_path / "raw"
    for i in range(12):
        write_shard(raw / f"{i}.jsonl.gz", 100, bad=2, seed=i)
    corpus, whole, broken = (raw, corpus[1]), tmp_path / "whole", tmp_path / "broken"
    assert cluster.submit(*score_words(corpus, whole, lines_per_part=2)).returncode == 0
    words = score_words(corpus, broken, lines_per_part=2)

    node = cluster.start_worker(1, RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S="100")
    stopped = submit_beside(cluster, ["env", "VIBRAY_LOG=json", *words], "stopped")
    wait_for_parts(broken, 60)
    os.kill(node.pid, signal.SIGTERM)
    begun = time.monotonic()
    node.wait(timeout=100)
    assert "Local node finished draining" in cluster.log(2), time.monotonic() - begun
    wait_for_parts(broken, len(objects.list_objects(str(broken / "_done"))) + 20)
    stop = ["ray", "job", "stop", "--address", cluster.address, "stopped"]
    subprocess.run(stop, env=cluster.environment, capture_output=True, check=True, timeout=120)
    output, _ = stopped.communicate(timeout=120)
    end = events_of(output)[-1]
    assert (end["event"], end["exit_code"]) == ("end", 143), output[-2000:]
    assert len({event["node"] for event in events_of(output) if event["event"] == "part"}) == 3
    assert "Traceback" not in output

    again = cluster.submit(*words)
    assert again.returncode == 0, again.stdout[-3000:]
    tables = [Parts(str(folder)).read(["record_id", "score"]) for folder in (whole, broken)]
    assert tables[0].num_rows == 1200
    assert tables[0].equals(tables[1])


@pytest.mark.slow
def test_a_node_that_is_lost_costs_a_training_no_more_than_an_epoch(cluster, corpus, tmp_path):
    """SIGKILL to a node with a worker of the training, the actors of the job being elsewhere."""
    node, run = cluster.start_worker(1), tmp_path / "run"
    features = str(corpus[0].with_name("features"))
    words = ["python", "jobs/train.py", "--features", features, "--run", str(run), "--num-workers", "3", *TINY.split()]
    training = submit_beside(cluster, words, "lost")
    for _ in range(1200):
        if (run / "checkpoints" / "train-2.json").exists():
            break
        time.sleep(0.1)
    os.killpg(node.pid, signal.SIGKILL)
    cluster.start_worker(1)
    output, _ = training.communicate(timeout=300)
    assert training.returncode == 0 and (run / "_done.json").exists(), output[-3000:]
    epochs = [json.loads(line).get("epoch") for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert epochs == [0, *range(8), None]  # of pretraining and training, then the guards


def submit_beside(cluster: Cluster, words: list[str], submission_id: str) -> subprocess.Popen:
    command = ["ray", "job", "submit", "--address", cluster.address, "--submission-id", submission_id, "--working-dir", "."]
    command += ["--runtime-env", "cluster/runtime_env.yaml", "--", *words]
    return subprocess.Popen(command, cwd=ROOT, env=cluster.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_parts(folder, count: int) -> None:
    for _ in range(600):
        try:
            if len(objects.list_objects(str(folder / "_done"))) >= count:
                return
        except FileNotFoundError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"{count} parts did not come")
