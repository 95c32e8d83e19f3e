"""The driver of a search is killed again and again, and its trials and winner are those of a search that nobody disturbed.

`jobs/search.py` as a person types it, one trial at a time; SIGKILL, which no process can answer.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.pipeline.lines import FACTS, corpus_fields, write_labels, write_units
from tests.pipeline.test_killed_training import processes_below
from vibray.pipeline.featurize import featurize
from vibray.pipeline.jobs import FeaturizeJob

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
NUM_TRIALS, NUM_KILLS = 12, 5
RECIPE = """cwt-svdd --feature.rows 16 --feature.columns 16 --feature.min-hz 60 --detector.trunk.width 16 --detector.hidden 8
    --detector.latent-dim 8 --optim.epochs 4 --optim.batch-size 16"""
PATIENCE_S = 300


def start(features: Path, labels: Path, search: Path) -> subprocess.Popen:
    command = [sys.executable, "jobs/search.py", "--features", str(features), "--labels", str(labels), "--search", str(search)]
    command += ["--num-trials", str(NUM_TRIALS), "--num-folds", "2", "--calibration-records", "22", "--max-concurrent-trials", "1"]
    command += ["--bounds", "objective=hypersphere", "width=16:24", "latent_dim=8:12", *RECIPE.split()]
    with search.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)


def finish(process: subprocess.Popen, search: Path) -> None:
    try:
        assert process.wait(timeout=PATIENCE_S) == 0, search.with_suffix(".log").read_text()[-3000:]
    finally:
        process.kill()


def trials(search: Path) -> list[dict]:
    """The trials without what depends on the clock on the wall and on the folder."""
    found = [json.loads(file.read_text()) for file in sorted((search / "trials").glob("*.json"))]
    return [{name: value for name, value in trial.items() if name not in ("seconds", "run")} for trial in found]


@pytest.fixture(scope="module")
def whole(local_ray, tmp_path_factory) -> tuple[Path, Path, Path]:
    """(features, labels, a search that nobody disturbed)."""
    folder = tmp_path_factory.mktemp("whole")
    file = write_labels(folder / "labels.jsonl", write_units(folder / "raw")[2::4])
    features, search = folder / "features", folder / "search"
    featurize(FeaturizeJob(str(folder / "raw"), str(features), vectors=("spectral",), **corpus_fields(FACTS)))
    finish(start(features, file, search), search)
    assert len(trials(search)) == NUM_TRIALS
    assert {trial["state"] for trial in trials(search)} == {"complete", "pruned"}
    return features, file, search


def await_trials(process: subprocess.Popen, search: Path, enough: int) -> None:
    end = time.monotonic() + PATIENCE_S
    while len(list((search / "trials").glob("*.json"))) < enough:
        assert process.poll() is None and time.monotonic() < end, search.with_suffix(".log").read_text()[-3000:]
        time.sleep(0.01)


def assert_the_same(search: Path, whole: Path) -> None:
    assert trials(search) == trials(whole)
    winners = [json.loads((folder / "winner.json").read_text()) for folder in (whole, search)]
    assert winners[0] == winners[1]


def test_a_search_whose_board_is_killed_goes_on(whole, tmp_path):
    """The actor that holds the scheduler's decisions."""
    features, file, undisturbed = whole
    search = tmp_path / "search"
    process = start(features, file, search)
    try:
        for enough in (2, 5):
            await_trials(process, search, enough)
            (board,) = (pid for pid, title in processes_below(process.pid).items() if title.startswith("ray::StopBoard"))
            os.kill(board, signal.SIGKILL)
    finally:
        finish(process, search)
    assert_the_same(search, undisturbed)


def test_a_search_whose_driver_is_killed_goes_on_as_if_it_had_not_been(whole, tmp_path):
    features, file, undisturbed = whole
    search = tmp_path / "search"
    moments = random.Random(0)
    for kill in range(NUM_KILLS):
        process = start(features, file, search)
        try:
            # some trials later than the last time, and somewhere within the next
            enough = min(NUM_TRIALS - 2, (kill + 1) * 2)
            await_trials(process, search, enough)
            time.sleep(moments.uniform(0, 0.7))
            assert process.poll() is None, "it ended before it could be killed"
        finally:
            process.kill()
            process.wait()
        assert not (search / "_done.json").exists()
    finish(start(features, file, search), search)
    assert_the_same(search, undisturbed)
