"""Processes of a training on Ray are killed, and it ends as one that nobody disturbed.

`jobs/train.py` as a person types it, two workers, a tiny net; SIGKILL, which no process can answer.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.pipeline.lines import FACTS, corpus_fields, write_shard
from vibray import runs
from vibray.pipeline.featurize import featurize
from vibray.pipeline.jobs import FeaturizeJob
from vibray.runs.models import Detecting

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PRETRAIN, EPOCHS = 2, 8
RECIPE = f"""plain-svdd --feature.rows 32 --feature.columns 32 --feature.min-hz 60 --detector.trunk.width 4 --detector.hidden 16
    --detector.latent-dim 8 --pretrain.epochs {PRETRAIN} --pretrain.batch-size 2 --optim.epochs {EPOCHS} --optim.batch-size 2""".split()
EVERY = [*(("pretrain", epoch) for epoch in range(PRETRAIN)), *(("train", epoch) for epoch in range(EPOCHS))]
PATIENCE_S = 300


@pytest.fixture(scope="module")
def features(tmp_path_factory, local_ray) -> str:
    folder = tmp_path_factory.mktemp("killed")
    write_shard(folder / "raw" / "a.jsonl.gz", 53, seed=5)  # in batches of 2 over 2 workers: one is left with nothing at times
    featurize(FeaturizeJob(str(folder / "raw"), str(folder / "features"), **corpus_fields(FACTS)))
    return str(folder / "features")


@contextmanager
def training(features: str, run: Path) -> Iterator[subprocess.Popen]:
    """The command, running; nothing of it is left afterwards."""
    command = [sys.executable, "jobs/train.py", "--features", features, "--run", str(run), "--num-workers", "2", *RECIPE]
    with (run.parent / f"{run.name}.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def finished(process: subprocess.Popen, run: Path) -> None:
    assert process.wait(timeout=PATIENCE_S) == 0, (run.parent / f"{run.name}.log").read_text()[-3000:]


@pytest.fixture(scope="module")
def undisturbed(features, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    with training(features, run) as process:
        finished(process, run)
    return run


def saved(run: Path) -> tuple[str, int] | None:
    """Stage and number of epochs of the newest checkpoint."""
    found = [path.stem.rpartition("-") for path in (run / "checkpoints").glob("*.json") if path.stem.rpartition("-")[2].isdigit()]
    return max(((stage, int(epoch)) for stage, _, epoch in found), default=None)  # "pretrain" < "train"


def await_epoch(process: subprocess.Popen, run: Path, stage: str, epoch: int) -> None:
    """Returns soon after the epochs so far were saved: in the middle of the next one, which takes about half a second."""
    end = time.monotonic() + PATIENCE_S
    while (saved(run) or ("", 0)) < (stage, epoch):
        assert process.poll() is None and time.monotonic() < end, (run.parent / f"{run.name}.log").read_text()[-3000:]
        time.sleep(0.02)
    time.sleep(0.2)


def processes_below(pid: int) -> dict[int, str]:
    """Titles of the processes that a process has started, itself or through others."""
    parent, title = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                status = (folder / "stat").read_text().rpartition(")")[2].split()
                parent[int(folder.name)] = int(status[1])
                title[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue
    below = {pid}
    while more := {child for child, own in parent.items() if own in below} - below:
        below |= more
    return {found: title[found] for found in below - {pid}}


def assert_as_if_nothing_had_happened(run: Path, undisturbed: Path) -> None:
    lines, expected = ([json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] for folder in (run, undisturbed))
    assert [(line["stage"], line.get("epoch")) for line in lines] == [*EVERY, ("guards", None)]
    np.testing.assert_allclose([line["loss"] for line in lines[:-1]], [line["loss"] for line in expected[:-1]], rtol=1e-4)
    models = [runs.load(str(folder)).model for folder in (run, undisturbed)]
    nets = []
    for model in models:
        assert isinstance(model, Detecting) and isinstance(model.detector, torch.nn.Module)
        nets.append(model.detector.state_dict())
    for name, value in nets[1].items():
        torch.testing.assert_close(nets[0][name], value, rtol=1e-3, atol=1e-4, msg=name)
    assert not [path for path in (run / "checkpoints").rglob("*") if path.suffix in (".safetensors", ".json")]


@pytest.mark.parametrize("which", [0, 1])
def test_a_worker_killed_in_the_middle_of_an_epoch_costs_that_epoch_at_most(features, undisturbed, tmp_path, which):
    """Whichever of the two it is. What is saved never goes back, so no epoch but the one that was running is done again."""
    run = tmp_path / "run"
    with training(features, run) as process:
        await_epoch(process, run, "train", 3)
        workers = sorted(pid for pid, title in processes_below(process.pid).items() if "RayTrainWorker" in title)
        assert len(workers) == 2
        before = saved(run)
        assert before is not None
        os.kill(workers[which], signal.SIGKILL)
        seen = [before]
        while process.poll() is None:
            seen.append(saved(run) or seen[-1])
            time.sleep(0.02)
        finished(process, run)
    assert before < ("train", EPOCHS)
    assert seen == sorted(seen)
    assert_as_if_nothing_had_happened(run, undisturbed)


def test_a_training_whose_board_is_killed_goes_on(features, undisturbed, tmp_path):
    """The actor that holds what a person is told."""
    run = tmp_path / "run"
    with training(features, run) as process:
        for epoch in (2, 4):
            await_epoch(process, run, "train", epoch)
            (board,) = (pid for pid, title in processes_below(process.pid).items() if title.startswith("ray::Board"))
            os.kill(board, signal.SIGKILL)
        finished(process, run)
    assert_as_if_nothing_had_happened(run, undisturbed)


@pytest.mark.parametrize(("stage", "epoch"), [("pretrain", 1), ("train", 3)])
def test_the_same_command_after_a_killed_driver_goes_on(features, undisturbed, tmp_path, stage, epoch):
    run = tmp_path / "run"
    with training(features, run) as process:
        await_epoch(process, run, stage, epoch)
        process.kill()
        process.wait()
    assert not (run / "_done.json").exists()
    before = saved(run)
    assert before is not None and before < ("train", EPOCHS)
    with training(features, run) as process:
        seen = [before]
        while process.poll() is None:
            seen.append(saved(run) or seen[-1])
            time.sleep(0.02)
        finished(process, run)
    assert seen == sorted(seen)
    assert_as_if_nothing_had_happened(run, undisturbed)


@pytest.mark.parametrize(("sent", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")])
def test_who_ends_a_training_is_told_how_to_go_on(features, tmp_path, sent, code, word):
    run = tmp_path / "run"
    with training(features, run) as process:
        await_epoch(process, run, "train", 1)
        process.send_signal(sent)
        assert process.wait(timeout=PATIENCE_S) == code
    said = (tmp_path / "run.log").read_text()
    assert said.splitlines()[-1] == f"{word}: run the same command again to go on where it stopped"
    assert "Traceback" not in said
    with training(features, run) as process:
        finished(process, run)
