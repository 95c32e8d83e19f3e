"""Ray's workers at a training: passes of a classical detector as tasks, nets on Ray Train, and what they tell the person who waits."""

import contextlib
import hashlib
import itertools
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
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
from vibray.fitting.worker import Place, Worker
from vibray.pipeline import session
from vibray.pipeline.logs import Bars, Progress
from vibray.storage import objects
from vibray.tables.training import TrainingTable
from vibray.train.fit import Report
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


def train_on_ray(
    jobs: Sequence[NetJob], table: TrainingTable, num_workers: int, cache_gb: float, disk_gb: float | None, use_gpu: bool
) -> None:
    """Trains the jobs one after another in one group of workers, showing their progress. Each writes its own finished run folder."""
    tracking, cache_bytes = Tracking.from_environment(), int(cache_gb * 2**30)
    # a function of this module, by its name: one defined here would be pickled with all that it sees
    work = partial(_train_nets, jobs=ray.put(list(jobs)), table=ray.put(table), cache_bytes=cache_bytes, disk_gb=disk_gb, tracking=tracking)
    on_workers(work, jobs[0].run_uri, num_workers, use_gpu)


def on_workers(work: Callable[[Place, Report], None], run_uri: str, num_workers: int, use_gpu: bool) -> None:
    """Runs `work` on each worker of one group of Ray Train's, showing what they tell. `work` goes on where an earlier group was lost."""
    board = session.beside_driver(Board)
    trainer = Interruptible(
        _worker,
        train_loop_config={
            "work": work,
            "scratch": "vibray-" + hashlib.blake2b(run_uri.encode(), digest_size=8).hexdigest(),
            "board": board,
        },
        scaling_config=RayScalingConfig(num_workers=num_workers, use_gpu=use_gpu, resources_per_worker=None if use_gpu else {"CPU": 1}),
        run_config=_run_config(run_uri),
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
    context, world = ray.train.get_context(), World.current()
    scratch = Path(tempfile.gettempdir()) / config["scratch"]

    def tell(label: str, done: int, total: int, **facts: Any) -> None:
        if world.rank == 0:
            board.tell.remote(label, done, total, facts)

    place = Place(world, context.get_local_rank(), context.get_local_world_size(), ray.train.torch.get_device(), scratch, tell)
    try:
        config["work"](place, lambda stage, epoch, figures: ray.train.report({"stage": stage, "epoch": epoch, **figures}))
    except (UserError, torch.OutOfMemoryError) as error:
        full = isinstance(error, torch.OutOfMemoryError)
        ray.get(board.fail.remote("the GPU has too little memory for a batch: lower --optim.batch-size" if full else str(error)))
        if world.size > 1:
            raise  # the other workers may wait for this one: only ending the group frees them
        return
    if place.local_rank == 0:  # on each node
        shutil.rmtree(scratch, ignore_errors=True)


def _train_nets(
    place: Place, also: Report, jobs: Any, table: Any, cache_bytes: int, disk_gb: float | None, tracking: Tracking | None
) -> None:
    """On each worker: the corpus onto its node's disk, then the nets. `jobs` and `table` lie in Ray's store."""
    jobs, table = ray.get([jobs, table])
    worker = Worker(**vars(place), table=table, waveforms=place.held_waveforms(table, disk_gb), cache_bytes=cache_bytes, made={})
    for job in jobs:
        if objects.exists(objects.join(job.run_uri, "_done.json")):  # a group that was lost and started again
            continue
        train_net(worker, job, tracking, also)


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
