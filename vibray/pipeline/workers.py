"""Ray's workers at a training: passes of a classical detector as tasks, nets on Ray Train, and what they tell the person who waits."""

import contextlib
import hashlib
import itertools
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.train import FailureConfig, RunConfig
from ray.train import ScalingConfig as RayScalingConfig
from ray.train.torch import TorchTrainer

from vibray.config import UserError
from vibray.fitting.runs import NetJob, train_net
from vibray.fitting.worker import Worker
from vibray.pipeline import session
from vibray.pipeline.progress import Bars, Progress
from vibray.storage import objects
from vibray.tables import TrainingTable
from vibray.train.images import NodeArray
from vibray.train.reduce import World
from vibray.train.tracking import Tracking

MAX_FAILURES = 3
"""Worker groups that may be lost and started again; each goes on from the newest checkpoint."""


class TrainingFailed(UserError):
    """A worker met an error that starting again would not mend."""


# ---------------------------------------------------------------- passes


def map_on_ray(label: str) -> Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]:
    """A map over parts on Ray's workers, results in order, at most two tasks a core waiting."""

    def run(function: Callable[[Any], Any], parts: Sequence[Any]) -> Iterator[Any]:
        shared = ray.put(function)
        task = ray.remote(num_cpus=1)(_call)
        waiting: list[Any] = []
        queue = iter(parts)
        limit = 2 * session.num_cpus()
        with Progress(label, len(parts), "parts") as progress:
            for part in itertools.islice(queue, limit):
                waiting.append(task.remote(shared, part))
            while waiting:
                result = ray.get(waiting.pop(0))
                for part in itertools.islice(queue, 1):
                    waiting.append(task.remote(shared, part))
                progress.add(1)
                yield result

    return run


def _call(function: Callable[[Any], Any], part: Any) -> Any:
    torch.set_num_threads(1)
    return function(part)


# ---------------------------------------------------------------- nets


def train_on_ray(jobs: Sequence[NetJob], table: TrainingTable, num_workers: int, cache_gb: float, use_gpu: bool) -> None:
    """Trains the jobs one after another in one group of workers, showing their progress. Each writes its own finished run folder."""
    board = ray.remote(num_cpus=0)(Board).remote()
    scratch = "vibray-" + hashlib.blake2b(jobs[0].run_uri.encode(), digest_size=8).hexdigest()
    trainer = Interruptible(
        _worker,
        train_loop_config={
            "jobs": ray.put(list(jobs)),
            "table": ray.put(table),
            "cache_gb": cache_gb,
            "scratch": scratch,
            "board": board,
            "tracking": Tracking.from_environment(),
        },
        scaling_config=RayScalingConfig(num_workers=num_workers, use_gpu=use_gpu, resources_per_worker=None if use_gpu else {"CPU": 1}),
        run_config=_run_config(jobs[0].run_uri),
    )
    with watched(board):
        trainer.fit()


class Interruptible(TorchTrainer):
    """Ray Train's own handler of Ctrl-C ends the process with 1 and not a word; without it a training ends as any other job does."""

    def _register_sigint_handler(self, controller: Any) -> None:
        pass


def _run_config(run_uri: str) -> RunConfig:
    """Ray Train's own small files go beside our checkpoints, where every worker can reach them; a name of its own makes each start fresh:
    what resumes a training are our checkpoints, which hold no pickles."""
    filesystem, path = objects.to_pyarrow_filesystem(objects.join(run_uri, "checkpoints"))
    return RunConfig(
        name=f"ray-{time.strftime('%Y%m%dT%H%M%S')}",
        storage_path=path,
        storage_filesystem=filesystem if objects.is_s3(run_uri) else None,
        failure_config=FailureConfig(max_failures=MAX_FAILURES),
    )


def _worker(config: dict[str, Any]) -> None:
    """What Ray Train runs. An error in the data or the recipe is told once; the group that Ray starts again then ends at once."""
    board = config["board"]
    if ray.get(board.failure.remote()) is not None:
        return
    try:
        _train(config)
    except (UserError, torch.OutOfMemoryError) as error:
        full = isinstance(error, torch.OutOfMemoryError)
        ray.get(board.fail.remote("the GPU has too little memory for a batch: lower --optim.batch-size" if full else str(error)))
        if World.current().size > 1:
            raise  # the other workers may wait for this one: only ending the group frees them


def _train(config: dict[str, Any]) -> None:
    context, world = ray.train.get_context(), World.current()
    table: TrainingTable = ray.get(config["table"])
    rank, size = context.get_local_rank(), context.get_local_world_size()
    scratch = Path(tempfile.gettempdir()) / config["scratch"]

    def tell(label: str, done: int, total: int, **facts: Any) -> None:
        if world.rank == 0:
            config["board"].tell.remote(label, done, total, facts)

    waveforms = NodeArray(scratch / "waveforms", len(table), (table.facts.num_samples,)).rows
    table.fill(waveforms, rank, size, lambda done, total: tell("waveforms", done, total))
    cache_bytes = int(config["cache_gb"] * 2**30)
    worker = Worker(world, rank, size, ray.train.torch.get_device(), table, waveforms, scratch, cache_bytes, {}, tell)
    worker.wait()
    for job in ray.get(config["jobs"]):
        if objects.exists(objects.join(job.run_uri, "_done.json")):  # a group that was lost and started again
            continue
        name = objects.last_segment(job.run_uri)

        def also(stage: str, epoch: int, figures: dict[str, Any], name: str = name) -> None:
            ray.train.report({"run": name, "stage": stage, "epoch": epoch, **figures})

        train_net(worker, job, config["tracking"], also)
    if rank == 0:
        shutil.rmtree(scratch, ignore_errors=True)


# ---------------------------------------------------------------- what they tell


class Board:
    """Where workers leave what a person should see, and the error for which starting again is no use."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, int, int, dict[str, Any]]] = []
        self.failed: str | None = None

    def tell(self, label: str, done: int, total: int, figures: dict[str, Any]) -> None:
        self.messages.append((label, done, total, figures))

    def take(self) -> list[tuple[str, int, int, dict[str, Any]]]:
        taken, self.messages = self.messages, []
        return taken

    def fail(self, text: str) -> None:
        self.failed = self.failed or text

    def failure(self) -> str | None:
        return self.failed


@contextlib.contextmanager
def watched(board: Any) -> Iterator[None]:
    """Shows what arrives on the board (a Ray actor) meanwhile. Raises TrainingFailed where a worker left an error there."""
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(board, over), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join(timeout=10)
    failure = ray.get(board.failure.remote())
    if failure is not None:
        raise TrainingFailed(failure)


def _watch(board: Any, over: threading.Event) -> None:
    with Bars() as bars:
        while True:
            last = over.wait(timeout=0.5)
            for label, done, total, figures in ray.get(board.take.remote()):
                bars.tell(label, done, total, **figures)
            if last:
                return
