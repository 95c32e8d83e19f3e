"""A planted credential stands in nothing that a job writes or says, errors and Ray's own logs included.

pytest -m slow tests/pipeline/test_secrets.py
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.proxy import spoiled
from tests.pipeline.lines import FACTS, RATE_HZ, corpus_fields, write_shard
from vibray.fitting.jobs import TrainJob
from vibray.pipeline.featurize import featurize
from vibray.pipeline.jobs import FeaturizeJob
from vibray.pipeline.train import train
from vibray.recipes import banded
from vibray.storage import objects
from vibray.storage.objects import join

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

KEY, SECRET, TOKEN = "AKIAPLANTEDKEY2024XY", "planted/Secret+7c1f0b9e4d", "planted-session-token-5d2e8a"
USER, PASSWORD, SIGNATURE = "planted-user-91ab", "planted-password-62cd", "planted5ignature77ef"
PLANTED = (SECRET, TOKEN, PASSWORD, SIGNATURE)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("secrets")
    for seed, name in enumerate("ab"):  # a shard is a part at least, and of one part no Ray would be started
        write_shard(folder / "archive" / f"{name}.jsonl", 60, bad=2, seed=seed)
    featurize(FeaturizeJob(str(folder / "archive"), str(folder / "features"), local=True, **corpus_fields(FACTS)))
    train(TrainJob((str(folder / "features"),), str(folder / "run"), banded(), local=True))
    return folder


@pytest.fixture
def place(bucket, monkeypatch) -> Iterator[Path]:
    """A short folder for Ray's session and all else that a job may write; the credentials planted in the environment."""
    folder = Path(tempfile.mkdtemp(prefix="v-"))
    (folder / "home").mkdir()
    for name, value in {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_SESSION_TOKEN": TOKEN,
        "RAY_TMPDIR": str(folder),
        "HOME": str(folder / "home"),
        "VIBRAY_TRACEBACK": "",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("RAY_ADDRESS", "RAY_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    yield folder
    shutil.rmtree(folder)


def job(name: str, *words: str) -> tuple[int, str]:
    command = [sys.executable, str(ROOT / "jobs" / f"{name}.py"), *words]
    done = subprocess.run(command, cwd=os.environ["HOME"], capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, done.stdout + done.stderr


def found_in(text: bytes) -> list[str]:
    return [secret for secret in PLANTED if secret.encode() in text]


def test_a_planted_credential_is_nowhere(run, bucket, place, monkeypatch, endpoint):
    for name in ("run", "archive"):
        for info in objects.list_objects(str(run / name), hidden=True):
            objects.write_bytes(join(bucket, name, info.key), objects.read_bytes(str(run / name / info.key)))
    rate, said = str(RATE_HZ), []
    where = {name: join(bucket, name) for name in ("run", "archive", "scores", "report/index.html")}
    good = ["--run", where["run"], "--sample-rate-hz", rate]

    code, text = job("score", *good, "--input", where["archive"], "--scores", where["scores"])
    assert code == 0, text
    said.append(text)
    code, text = job("report", "--scores", where["scores"], "--report", where["report/index.html"])
    assert code == 0, text
    said.append(text)

    wrong = [
        f"s3://{USER}:{PASSWORD}@bucket/raw",
        f"https://{USER}:{PASSWORD}@example.org/raw",
        f"https://example.org/raw?X-Amz-Signature={SIGNATURE}",
        f"s3://bucket/raw?X-Amz-Credential={USER}&X-Amz-Signature={SIGNATURE}",
        "s3://no-such-bucket-planted/raw",
        join(bucket, "nothing-here"),
    ]
    for uri in wrong:
        code, text = job("score", *good, "--input", uri, "--scores", join(bucket, "other"), "--dry-run")
        assert code != 0, uri
        assert "error: " in text, text
        said.append(text)

    # an endpoint with user and password, and storage that refuses in the middle; then with tracebacks
    host = endpoint.removeprefix("http://")
    with spoiled(endpoint, 1.0, faults=["500"]) as proxy:
        for traceback, address in (
            ("", f"http://{USER}:{PASSWORD}@127.0.0.1:9"),
            ("1", f"http://{USER}:{PASSWORD}@{host}"),
            ("1", proxy.url),
        ):
            monkeypatch.setenv("AWS_ENDPOINT_URL", address)
            monkeypatch.setenv("VIBRAY_TRACEBACK", traceback)
            said.append(job("score", *good, "--input", where["archive"], "--scores", join(bucket, "third"), "--dry-run")[1])
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)

    assert [(number, found_in(text.encode())) for number, text in enumerate(said) if found_in(text.encode())] == []
    stored = objects.list_objects(bucket, hidden=True)
    assert len(stored) > 10
    assert [info.key for info in stored if found_in(objects.read_bytes(join(bucket, info.key)))] == []
    files = [path for path in place.rglob("*") if path.is_file() and not path.is_symlink()]
    assert sum("session_" in str(path) for path in files) > 10  # Ray's logs were written here
    assert [str(path) for path in files if found_in(path.read_bytes())] == []
