"""A job submitted to a local head, token authentication on, as the README shows it."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.pipeline.lines import FACTS, RATE_HZ, write_shard
from vibray.pipeline.featurize import featurize
from vibray.pipeline.training import TrainingJob, train
from vibray.recipes import banded
from vibray.storage.parts import Parts

ROOT = Path(__file__).parents[2]
RAY = Path(sys.executable).with_name("ray")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A head of our own on loopback: (dashboard address, environment of a client that has the token)."""
    token = secrets.token_hex(32)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {
        **os.environ,
        "PATH": path,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    environment.pop("RAY_ADDRESS", None)
    dashboard = free_port()
    # a port outside of the range of Ray's workers
    port = next(p for p in iter(free_port, None) if not 10002 <= p <= 19999)
    folder = tmp_path_factory.mktemp("r")
    arguments = ["--head", "--block", f"--port={port}", f"--dashboard-port={dashboard}", "--num-cpus=2", f"--temp-dir={folder}"]
    arguments += [f"--dashboard-agent-listen-port={free_port()}"]  # the session's own Ray has the usual one
    log = (folder / "head.log").open("w")
    process = subprocess.Popen([RAY, "start", *arguments], env=environment, stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{dashboard}"
    try:
        for _ in range(120):
            if process.poll() is not None or _answers(f"{address}/api/version", token):
                break
            time.sleep(1)
        assert process.poll() is None, (folder / "head.log").read_text()[-2000:]
        yield address, environment
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)
        log.close()


def _answers(url: str, token: str | None) -> bool:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=2):
            return True
    except urllib.error.HTTPError as error:
        return error.code != 401 and token is not None
    except OSError:
        return False


def submit(head, *words: str) -> subprocess.CompletedProcess:
    address, environment = head
    command = [RAY, "job", "submit", "--address", address, "--working-dir", ".", "--runtime-env", "cluster/runtime_env.yaml", "--", *words]
    for _ in range(10):
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
        if "No available agent" not in done.stderr:  # the dashboard answers some seconds before the node's agent is there
            break
        time.sleep(2)
    return done


def test_scores_come_from_a_submitted_job(head, local_ray, tmp_path):
    write_shard(tmp_path / "raw" / "a.jsonl", 50, bad=1, seed=1)
    featurize(str(tmp_path / "raw"), str(tmp_path / "features"), FACTS)
    train(TrainingJob((str(tmp_path / "features"),), str(tmp_path / "run"), banded()))
    job = ["python", "jobs/score.py", "--run", str(tmp_path / "run"), "--input", str(tmp_path / "raw"), "--sample-rate-hz", str(RATE_HZ)]
    done = submit(head, *job, "--scores", str(tmp_path / "scores"))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "read 51 = kept 50 + set aside 1" in done.stdout
    parts = Parts(str(tmp_path / "scores"))
    assert parts.total("num_kept") == 50

    wrong = submit(head, *job[:-1], "9999", "--scores", str(tmp_path / "other"))
    assert wrong.returncode != 0
    assert "error: the run was trained on records of 2048 samples at 8192 Hz" in wrong.stdout
    assert "Traceback" not in wrong.stdout


def test_without_the_token_nothing_is_answered(head):
    address, _ = head
    assert not _answers(f"{address}/api/jobs/", None)
