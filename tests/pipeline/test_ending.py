"""One line and an exit code for each way in which a job ends, whatever Ray wraps around the error."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.pipeline.lines import FACTS, corpus_fields, write_shard
from vibray.config import UserError
from vibray.pipeline import logs
from vibray.pipeline.ending import AGAIN, INTERRUPTED, MEND, TERMINATED, ClusterAway, ClusterError, Ending, causes, ending, user_errors
from vibray.pipeline.featurize import featurize
from vibray.pipeline.jobs import FeaturizeJob
from vibray.pipeline.session import quiet_data
from vibray.storage import objects, s3
from vibray.storage.corpus import CorpusFacts
from vibray.storage.errors import ObjectMissing, StorageBusy, StorageError

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def as_text(monkeypatch):
    monkeypatch.delenv(logs.SWITCH, raising=False)
    monkeypatch.delenv("VIBRAY_TRACEBACK", raising=False)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ObjectMissing("s3://b/raw does not exist"), MEND),
        (StorageError("s3://b/raw: access denied"), MEND),
        (ClusterError("node 10.0.0.2 runs torch 2.12.0"), MEND),
        (UserError("the recipe wants 8192 samples"), MEND),
        (ClusterAway("nothing answers at RAY_ADDRESS=10.0.0.1:6379"), AGAIN),
        (StorageBusy("s3://b/raw: the storage asks to slow down"), AGAIN),
        (KeyboardInterrupt(), INTERRUPTED),
    ],
)
def test_what_a_person_can_mend_is_one_line_and_a_code(error, code, capsys):
    with pytest.raises(SystemExit) as end, user_errors():
        raise error
    assert end.value.code == code
    (line,) = capsys.readouterr().err.splitlines()
    assert str(error) in line
    assert ("the same command again" in line) is (code != MEND)


@pytest.mark.parametrize("error", [ZeroDivisionError(), ValueError("of numpy"), OSError(errno.ENOSPC, "not where storage is called")])
def test_a_defect_keeps_its_traceback(error):
    with pytest.raises(type(error)), user_errors():
        raise error


def test_the_traceback_is_shown_on_request_with_the_same_code_and_without_a_secret(capsys, monkeypatch):
    monkeypatch.setenv("VIBRAY_TRACEBACK", "1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-planted-secret")
    with pytest.raises(SystemExit) as end, user_errors():
        raise UserError("signed with a-planted-secret")
    assert end.value.code == MEND
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "a-planted-secret" not in shown


@pytest.mark.parametrize(("error", "code"), [(UserError("no such column"), MEND), (ValueError("a slip"), 1)])
def test_in_json_the_end_is_an_event(error, code, monkeypatch, capsys):
    monkeypatch.setenv(logs.SWITCH, "json")
    with pytest.raises(SystemExit) as end, user_errors():
        raise error
    assert end.value.code == code
    begin, told = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert begin["event"] == "begin"
    assert (told["event"], told["level"], told["exit_code"]) == ("end", "error", code)
    assert str(error) in told["message"]
    assert ("Traceback" in told.get("traceback", "")) is (code == 1)


def test_a_switch_that_means_nothing_is_said_in_one_line(monkeypatch, capsys):
    monkeypatch.setenv(logs.SWITCH, "xml")
    with pytest.raises(SystemExit) as end, user_errors():
        raise AssertionError("not reached")
    assert end.value.code == MEND
    assert capsys.readouterr().err == "error: VIBRAY_LOG=xml: write text or json\n"


def test_sigterm_ends_a_job_as_terminated_and_what_is_open_is_closed(capsys):
    closed = []
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as end, user_errors():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            closed.append(True)
    assert (end.value.code, closed) == (TERMINATED, [True])
    assert capsys.readouterr().err == "terminated: run the same command again to go on where it stopped\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_ray_data_says_of_a_lost_machine_may_pass():
    """As its executor raises it: the error of Ray's core from an exception of its own that says nothing."""
    from ray.data.exceptions import SystemException
    from ray.exceptions import NodeDiedError

    try:
        raise NodeDiedError("10.0.0.7 was preempted") from SystemException()
    except NodeDiedError as error:
        end = ending(error)
    assert end is not None
    assert end.code == AGAIN
    assert "10.0.0.7 was preempted" in end.line


def _raise(batch, kind):
    if kind == "busy":
        raise StorageBusy("s3://b/raw/a.jsonl: the storage asks to slow down")
    if kind == "missing":
        raise ObjectMissing("s3://b/raw/a.jsonl does not exist")
    if kind == "defect":
        raise ZeroDivisionError("a slip")
    return batch


@pytest.mark.parametrize(
    ("kind", "end"),
    [
        ("missing", Ending(MEND, "error: s3://b/raw/a.jsonl does not exist")),
        (
            "busy",
            Ending(
                AGAIN,
                "error: s3://b/raw/a.jsonl: the storage asks to slow down; run the same command again to go on where it stopped",
            ),
        ),
        ("defect", None),
    ],
)
def test_what_a_task_of_ray_data_raised_is_found(kind, end, local_ray):
    import ray

    with quiet_data(), pytest.raises(Exception) as error:  # whatever Ray makes of it
        ray.data.range(2, override_num_blocks=1).map_batches(partial(_raise, kind=kind)).materialize()
    assert ending(error.value) == end


def test_a_lost_worker_may_pass_and_a_slip_in_a_task_is_a_defect(local_ray):
    import ray
    from ray.exceptions import RayError

    with pytest.raises(RayError) as lost:
        ray.get(ray.remote(max_retries=0)(lambda: os._exit(1)).remote())
    end = ending(lost.value)
    assert end is not None
    assert end.code == AGAIN
    assert end.line.startswith("error: the cluster lost a worker or a node that it could not do without (")
    assert "\n" not in end.line

    with pytest.raises(RayError) as slip:
        ray.get(ray.remote(lambda: 1 / 0).remote())
    assert ending(slip.value) is None
    assert isinstance(list(causes(slip.value))[-1], ZeroDivisionError)


def test_a_shard_that_changed_amid_a_job_is_named_in_one_line_and_nothing_else_is_said(local_ray, tmp_path, capfd):
    raw, features = tmp_path / "raw", tmp_path / "features"
    for name in ("a.jsonl", "b.jsonl"):
        write_shard(raw / name, 4)
    featurize(FeaturizeJob(str(raw), str(features), **corpus_fields(FACTS)))
    (last,) = [path for path in (features / "_done").iterdir() if '"b.jsonl"' in path.read_text()]
    last.unlink()
    write_shard(raw / "b.jsonl", 5)
    capfd.readouterr()
    with pytest.raises(SystemExit) as end, user_errors(), quiet_data():
        featurize(FeaturizeJob(str(raw), str(features), **corpus_fields(FACTS)))
    assert end.value.code == MEND
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "DeprecationWarning" not in line and "warnings.warn" not in line]
    assert line.startswith(f"error: {raw}/b.jsonl was written again since it was planned")


def answering(status: int, code: str):
    """A storage that says the same to whatever it is asked."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>".encode()

    class Storage(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    return ThreadingHTTPServer(("127.0.0.1", 0), Storage)


@pytest.mark.parametrize(
    ("status", "code", "end", "words"),
    [
        (403, "InvalidAccessKeyId", MEND, "the storage does not accept these credentials: check the AWS variables"),
        (403, "AccessDenied", MEND, "access denied: these credentials (or this user) may not do this here"),
        (404, "NoSuchBucket", MEND, "there is no such bucket: check the name and AWS_ENDPOINT_URL"),
        (503, "SlowDown", AGAIN, "the storage asks to slow down"),
        (0, "", AGAIN, "the endpoint cannot be reached: check AWS_ENDPOINT_URL and the network"),
    ],
)
def test_what_storage_refuses_is_one_line_without_a_secret(status, code, end, words, monkeypatch, capsys):
    secret = "a-secret-that-nobody-may-print"
    server = answering(status, code)
    port = server.server_port
    if status:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    else:
        server.server_close()  # nobody listens there
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "an-access-key",
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3, "NUM_ATTEMPTS", 1)
    try:
        with pytest.raises(SystemExit) as ended, user_errors():
            featurize(FeaturizeJob("s3://bucket/raw", "s3://bucket/features", dry_run=True, **corpus_fields(CorpusFacts(8192.0))))
    finally:
        if status:
            server.shutdown()
            server.server_close()
    shown = capsys.readouterr()
    assert ended.value.code == end
    assert words in shown.err
    assert len(shown.err.splitlines()) == 1
    assert secret not in shown.err + shown.out


def test_a_full_disk_is_one_line_that_names_the_file(tmp_path, monkeypatch, capsys):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SystemExit) as end, user_errors():
        objects.write_json(str(tmp_path / "plan.json"), {})
    assert end.value.code == MEND
    line = "there is no room left: free some, raise the quota, or choose another place"
    assert capsys.readouterr().err == f"error: {tmp_path}/plan.json: {line}\n"


def run(*words: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=False
    )


def test_a_misspelt_field_of_a_recipe_is_refused_before_anything_starts(tmp_path):
    done = run("jobs/train.py", "--features", str(tmp_path), "--run", str(tmp_path / "r"), "cwt-svdd", "--optim.epoch", "3")
    assert done.returncode == MEND
    assert "--optim.epochs" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_that_is_not_there_is_one_line_in_a_script(tmp_path):
    words = ["jobs/score.py", "--run", str(tmp_path / "none"), "--input", str(tmp_path), "--scores", str(tmp_path / "s")]
    done = run(*words, "--sample-rate-hz", "8192", "--dry-run", VIBRAY_LOG="json")
    assert done.returncode == MEND
    assert done.stdout == ""
    begin, end = (json.loads(line) for line in done.stderr.splitlines())
    assert (begin["job"], end["exit_code"]) == ("score", MEND)
    assert "is not finished (it has no _done.json)" in end["message"]
