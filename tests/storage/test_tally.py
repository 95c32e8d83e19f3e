"""What a process counts for whoever shows it: each amount once, over threads, retries and streams."""

import gzip
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from vibray.storage import objects, tally
from vibray.storage.shards import read_lines


@pytest.fixture(autouse=True)
def emptied():
    tally.take()


def test_every_amount_is_taken_once_whatever_the_threads():
    taken = []

    def work(_):
        for _ in range(500):
            tally.add("retries")
        taken.append(tally.take().get("retries", 0))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(16)))
    assert sum(taken) + tally.take().get("retries", 0) == 16 * 500
    assert tally.take() == {}


def test_what_another_process_took_is_added():
    tally.add("bytes_read", 5)
    tally.put({"bytes_read": 7, "retries": 1})
    assert tally.take() == {"bytes_read": 12, "retries": 1}


def test_time_is_that_of_making_the_items_and_not_of_using_them(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(tally.time, "perf_counter", lambda: now[0])

    def items():
        for i in range(3):
            now[0] += 2
            yield i

    for _ in tally.timed("read_seconds", items()):
        now[0] += 100
    assert tally.take()["read_seconds"] == 6


def test_the_time_of_what_fails_counts(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(tally.time, "perf_counter", lambda: now[0])
    with pytest.raises(OSError, match="full"), tally.seconds("write_seconds"):
        now[0] += 3
        raise OSError("full")
    assert tally.take() == {"write_seconds": 3}


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_bytes_are_those_that_are_stored(name, tmp_path):
    data = b"".join(b'{"a": %d}\n' % i for i in range(50_000))
    stored = gzip.compress(data, mtime=0) if name.endswith(".gz") else data
    (tmp_path / name).write_bytes(stored)
    assert sum(1 for _ in read_lines(str(tmp_path / name))) == 50_000
    assert tally.take()["bytes_read"] == len(stored)


def test_attempts_after_the_first_are_retries(monkeypatch):
    """A server that asks twice to slow down, then answers."""
    answers = iter([503, 503])
    lock = threading.Lock()

    class Slow(BaseHTTPRequestHandler):
        def do_HEAD(self):
            with lock:
                self.send_response(next(answers, 200))
            self.send_header("ETag", '"e"')
            self.send_header("Content-Length", "12")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for variable, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "an-access-key",
        "AWS_SECRET_ACCESS_KEY": "a-secret-that-nobody-may-print",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(variable, value)
    try:
        found = objects.stat("s3://bucket/key")
    finally:
        server.shutdown()
        server.server_close()
    assert found == objects.ObjectInfo("key", 12, "e")
    assert tally.take()["retries"] == 2
