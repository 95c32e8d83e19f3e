"""The job itself, in Ray: its driver killed at random moments, its workers killed, a node lost, its storage spoiled.

    pytest -m slow tests/chaos

takes a quarter of an hour on two cores.
"""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.chaos import plain
from tests.chaos.proxy import FAULTS, spoiled
from tests.pipeline.lines import FACTS, RATE_HZ, corpus_fields, write_shard
from vibray.fitting.jobs import TrainJob
from vibray.pipeline.featurize import featurize
from vibray.pipeline.jobs import FeaturizeJob
from vibray.pipeline.train import train
from vibray.recipes import banded
from vibray.storage import objects
from vibray.storage.objects import join
from vibray.storage.parts import Parts

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LINES_PER_PART = 4
NUM_KILLS = 12
NUM_RECORDS, NUM_BAD = 480, 9


@dataclass(frozen=True)
class Case:
    """A run, an archive, and the bytes of the score of each record as an undisturbed job gives them."""

    run: str
    archive: str
    scores: dict[str, bytes]
    num_parts: int


@pytest.fixture(scope="module")
def case(tmp_path_factory, local_ray) -> Case:
    folder = tmp_path_factory.mktemp("chaos")
    write_shard(folder / "pool" / "a.jsonl", 60, seed=1)
    featurize(FeaturizeJob(str(folder / "pool"), str(folder / "features"), **corpus_fields(FACTS)))
    train(TrainJob((str(folder / "features"),), str(folder / "run"), banded()))
    for number in range(6):
        write_shard(folder / "archive" / f"{number}.jsonl.gz", 50, bad=number % 3, seed=2 + number)
    write_shard(folder / "archive" / "plain.jsonl", 180, bad=3, seed=9)
    done = drive(str(folder / "run"), str(folder / "archive"), str(folder / "calm")).wait_for_end()
    assert done == 0
    parts = Parts(str(folder / "calm"))
    assert (parts.total("num_kept"), parts.total("num_bad")) == (NUM_RECORDS, NUM_BAD)
    assert len(parts.markers) > 60
    return Case(str(folder / "run"), str(folder / "archive"), plain.scores(str(folder / "calm")), len(parts.markers))


class Driver:
    """A running `jobs/score.py`."""

    def __init__(self, command: list[str], scores: str):
        environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_JOB_ID")}
        self.scores = scores
        self.log = Path(f"{scores}.{time.time_ns()}.log") if not objects.is_s3(scores) else Path(f"/tmp/driver-{time.time_ns()}.log")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)

    def wait_for_end(self) -> int:
        code = self.process.wait(timeout=300)
        if code > 0:
            print(self.log.read_text()[-3000:])
        return code

    def num_done(self) -> int:
        done = Path(self.scores, "_done")
        return len(list(done.glob("*.json"))) if done.is_dir() else 0

    def until(self, condition: Callable[[], bool]) -> bool:
        """True once the condition holds, False where the driver ended before."""
        while self.process.poll() is None:
            if condition():
                return True
            time.sleep(0.005)
        return False

    def workers(self) -> list[int]:
        """Processes of this driver's own Ray that run tasks."""
        parents, names = {}, {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    pid = int(entry.name)
                    parents[pid] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                    names[pid] = (entry / "cmdline").read_bytes()
                except (OSError, IndexError):
                    continue
        found = []
        for pid, name in names.items():
            above = pid
            while above in parents and above != self.process.pid:
                above = parents[above]
            if above == self.process.pid and name.startswith(b"ray::") and not any(word in name for word in (b"IDLE", b"Agent")):
                found.append(pid)
        return found


def drive(run: str, archive: str, scores: str) -> Driver:
    arguments = ["--run", run, "--input", archive, "--scores", scores, "--sample-rate-hz", str(RATE_HZ)]
    return Driver([sys.executable, "jobs/score.py", *arguments, "--lines-per-part", str(LINES_PER_PART)], scores)


def moments(rng: random.Random, case: Case) -> Iterator[Callable[[Driver], bool]]:
    """When to kill: a while after the start, or after the plan stands, or a moment after some more parts are done."""
    while True:
        if rng.random() < 0.15:
            end = time.monotonic() + rng.uniform(0, 12)
            yield lambda driver, end=end: driver.until(lambda: time.monotonic() > end)
        else:
            more, pause = rng.randrange(0, case.num_parts // 5), rng.uniform(0, 0.3)

            def some_more(driver: Driver, more: int = more, pause: float = pause) -> bool:
                before = driver.num_done()
                alive = driver.until(
                    lambda: Path(driver.scores, "plan.json").exists() and driver.num_done() >= min(before + more, case.num_parts - 1)
                )
                time.sleep(pause)
                return alive and driver.process.poll() is None

            yield some_more


@pytest.mark.parametrize("seed", [1, 2])
def test_a_driver_killed_again_and_again(case, tmp_path, seed):
    rng = random.Random(seed)
    kills = rounds = 0
    when = moments(rng, case)
    at: list[int] = []
    while kills < NUM_KILLS:
        scores = str(tmp_path / f"scores-{rounds}")
        rounds += 1
        while True:
            driver = drive(case.run, case.archive, scores)
            if kills < NUM_KILLS and next(when)(driver):
                driver.process.send_signal(signal.SIGKILL)
                driver.process.wait()
                kills += 1
                at.append(driver.num_done())
            elif driver.wait_for_end() == 0:
                break
            else:
                pytest.fail(f"a driver failed by itself after {kills} kills")
        assert plain.scores(scores) == case.scores
        assert Parts(scores).total("num_bad") == NUM_BAD
    print(f"{kills} kills in {rounds} rounds, after {at} of {case.num_parts} parts")


def test_workers_killed(case, tmp_path):
    scores = str(tmp_path / "scores")
    driver, killed = drive(case.run, case.archive, scores), 0
    for threshold in (1, case.num_parts // 3, case.num_parts // 2):
        if driver.until(lambda threshold=threshold: driver.num_done() >= threshold and bool(driver.workers())):
            os.kill(random.Random(threshold).choice(driver.workers()), signal.SIGKILL)
            killed += 1
    assert driver.wait_for_end() == 0
    assert killed >= 2
    assert plain.scores(scores) == case.scores
    assert Parts(scores).total("num_bad") == NUM_BAD


def test_a_node_lost(case, tmp_path):
    scores = str(tmp_path / "scores")
    arguments = [case.run, case.archive, scores, str(RATE_HZ), str(LINES_PER_PART)]
    environment = {**os.environ, "RAY_BACKEND_LOG_LEVEL": "fatal", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.chaos.cluster_job", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    went = re.search(r"when (\d+) parts were done; 2 nodes are left", done.stdout)
    assert went is not None, done.stdout[-2000:]
    assert int(went[1]) < case.num_parts
    assert plain.scores(scores) == case.scores
    assert Parts(scores).total("num_bad") == NUM_BAD


def test_storage_that_spoils_one_request_in_twenty(case, bucket, monkeypatch, endpoint):
    for name, source in (("run", case.run), ("archive", case.archive)):
        for info in objects.list_objects(source, hidden=True):
            objects.write_bytes(join(bucket, name, info.key), objects.read_bytes(join(source, info.key)))
    with spoiled(endpoint, 0.05, seed=5) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        assert drive(join(bucket, "run"), join(bucket, "archive"), join(bucket, "scores")).wait_for_end() == 0
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        print(dict(proxy.counts))
        assert sum(proxy.counts[fault] for fault in FAULTS) >= 10
    assert plain.scores(join(bucket, "scores")) == case.scores
    assert Parts(join(bucket, "scores")).total("num_bad") == NUM_BAD
