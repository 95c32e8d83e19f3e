"""Deep detectors and classifiers on Ray Train: what each worker does, from the finished feature parts to the saved run."""

import hashlib
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
from ray.train import FailureConfig, RunConfig
from ray.train import ScalingConfig as RayScalingConfig
from ray.train.torch import TorchTrainer

from vibray.features.scaling import Scaling
from vibray.models.backbone import TrunkConfig
from vibray.models.deep_sad import DeepSadConfig
from vibray.models.deep_svdd import DeepSvdd
from vibray.models.vae import Vae
from vibray.pipeline.board import Board, watched
from vibray.pipeline.deep_guards import guards_of
from vibray.pipeline.deep_worker import DeepJob, Worker
from vibray.pipeline.tables import TrainingTable
from vibray.pipeline.tracking import Tracker, Tracking
from vibray.recipes import ClassifierRecipe, DeepRecipe, build_classifier, build_deep, build_feature
from vibray.runs import Detecting, Diagnosing, Run, deep_members, load, save, score_statistics, write_metrics
from vibray.schema import UNDECIDED
from vibray.storage import objects
from vibray.train.batches import TrainingSet
from vibray.train.checkpoints import Checkpoints
from vibray.train.classifier import Labelled, train_classifier
from vibray.train.deep_svdd import train_deep_svdd
from vibray.train.images import NodeArray
from vibray.train.reduce import World
from vibray.train.vae import train_vae

SHOWN = ("loss", "f1")
"""Figures of an epoch beside the progress bar; metrics.jsonl has all."""

MAX_FAILURES = 3
"""Worker groups that may be lost and started again; each goes on from the newest checkpoint."""


def train_deep(jobs: Sequence[DeepJob], table: TrainingTable, num_workers: int, cache_gb: float, use_gpu: bool) -> None:
    """Trains the jobs one after another in one group of workers, showing their progress. Each writes its own finished run folder."""
    board = ray.remote(num_cpus=0)(Board).remote()
    scratch = "vibray-" + hashlib.blake2b(jobs[0].run_uri.encode(), digest_size=8).hexdigest()
    trainer = TorchTrainer(
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


# ---------------------------------------------------------------- one worker


def _worker(config: dict[str, Any]) -> None:
    """What Ray Train runs. An error in the data or the recipe is told once; the group that Ray starts again then ends at once."""
    board = config["board"]
    if ray.get(board.failure.remote()) is not None:
        return
    try:
        _train(config)
    except (ValueError, ArithmeticError, torch.OutOfMemoryError) as error:
        full = isinstance(error, torch.OutOfMemoryError)
        ray.get(board.fail.remote("the GPU has too little memory for a batch: lower --optim.batch-size" if full else str(error)))
        if World.current().size > 1:
            raise  # the other workers may wait for this one: only ending the group frees them


def _train(config: dict[str, Any]) -> None:
    context = ray.train.get_context()
    table: TrainingTable = ray.get(config["table"])
    world = World.current()
    scratch = Path(tempfile.gettempdir()) / config["scratch"]

    def tell(label: str, done: int, total: int, **facts: Any) -> None:
        if world.rank == 0:
            config["board"].tell.remote(label, done, total, facts)

    waveforms = NodeArray(scratch / "waveforms", len(table), (table.facts.num_samples,)).rows
    table.fill(waveforms, context.get_local_rank(), context.get_local_world_size(), lambda done, total: tell("waveforms", done, total))
    worker = Worker(
        world,
        context.get_local_rank(),
        context.get_local_world_size(),
        ray.train.torch.get_device(),
        table,
        waveforms,
        scratch,
        int(config["cache_gb"] * 2**30),
        {},
        tell,
        config["tracking"],
    )
    worker.wait()
    for job in ray.get(config["jobs"]):
        if objects.exists(objects.join(job.run_uri, "_done.json")):  # a group that was lost and started again
            continue
        with worker.tracked(job) as tracker:
            if isinstance(job.recipe, ClassifierRecipe):
                _train_classifier(worker, job, job.recipe, tracker)
            else:
                _train_detector(worker, job, job.recipe, tracker)
        worker.wait()
    if worker.local_rank == 0:
        shutil.rmtree(scratch, ignore_errors=True)


def _epoch_report(worker: Worker, name: str, optims: dict[str, int], tracker: Tracker):
    """What training calls after each epoch: Ray Train, MLflow and the person are told. metrics.jsonl has the checkpoints' lines."""

    def report(stage: str, epoch: int, figures: dict[str, Any]) -> None:
        ray.train.report({"run": name, "stage": stage, "epoch": epoch, **figures})
        tracker.epoch(stage, epoch, figures)
        shown = {key: f"{value:.4g}" for key, value in figures.items() if key in SHOWN}
        worker.tell(f"{name} {stage}", epoch + 1, optims.get(stage, epoch + 1), **shown)

    return report


def _train_detector(worker: Worker, job: DeepJob, recipe: DeepRecipe, tracker: Tracker) -> None:
    table, facts = worker.table, worker.table.facts
    feature = build_feature(recipe.feature, facts.mains_hz)
    images = worker.images(recipe.feature)
    scaling = worker.fit_scaling(recipe.scaling, images, feature.shape, job.indices)
    rows = TrainingSet(worker.scaled(scaling, images), job.indices, job.targets, job.weights)
    torch.manual_seed(recipe.optim.seed)  # the same weights on every worker
    net = build_deep(recipe.detector, feature.shape).to(worker.device)
    epochs = {"pretrain": recipe.pretrain.epochs, "train": recipe.optim.epochs}
    report = _epoch_report(worker, objects.last_segment(job.run_uri), epochs, tracker)
    checkpoints = Checkpoints(job.run_uri)
    if isinstance(net, DeepSvdd):
        trained = train_deep_svdd(net, rows, recipe.pretrain, recipe.optim, report, checkpoints, worker.read_injected(recipe, scaling))
    else:
        trained = train_vae(net, rows, recipe.optim, report, checkpoints)
    if worker.world.rank == 0:
        detecting = _detecting(recipe, scaling, net, trained.scores)
        guards = guards_of(worker, job, recipe, detecting, trained)
        lines = [*checkpoints.lines, {"stage": "guards", **guards.values()}]
        tracker.result(lines[-1])
        write_metrics(job.run_uri, lines)  # of a net that collapsed too: they tell when
        guards.check()
        save(job.run_uri, Run(recipe, facts, detecting, table.histories), lines, job.environment)
        checkpoints.clear()


def _detecting(recipe: DeepRecipe, scaling: Scaling, net: DeepSvdd | Vae, scores: np.ndarray) -> Detecting:
    return Detecting(recipe, scaling, net.cpu().eval(), score_statistics(scores))


def _train_classifier(worker: Worker, job: DeepJob, recipe: ClassifierRecipe, tracker: Tracker) -> None:
    table, facts = worker.table, worker.table.facts
    reads, shapes, scalings = [], {}, {}
    init = None if job.init_from is None else encoder_of(load(job.init_from))
    for name, config, scaling_config in (("image", recipe.image, recipe.image_scaling), ("vector", recipe.vector, recipe.vector_scaling)):
        if config is None:
            continue
        read = worker.images(config)
        shapes[name] = build_feature(config, facts.mains_hz).shape
        if name == "image" and init is not None:
            scalings[name] = init.scaling  # the encoder saw images scaled so, and must go on seeing them
        else:
            scalings[name] = worker.fit_scaling(scaling_config, read, shapes[name], np.arange(len(table)))  # unlabelled records too
        reads.append(worker.scaled(scalings[name], read))
    torch.manual_seed(recipe.optim.seed)
    net = build_classifier(recipe, len(job.faults), shapes)
    if init is not None and net.encoder is not None:
        net.encoder.load_state_dict(init.detector.trunk.state_dict())  # type: ignore[union-attr]
    net.to(worker.device)

    def read_all(index: np.ndarray) -> Any:
        parts = [read(index) for read in reads]
        return parts[0] if len(parts) == 1 else tuple(parts)

    report = _epoch_report(worker, objects.last_segment(job.run_uri), {"train": recipe.optim.epochs}, tracker)
    checkpoints = Checkpoints(job.run_uri)
    rows = TrainingSet(read_all, job.indices, job.targets, job.weights)
    assert job.real is not None
    times = table.index["measured_at"].cast("int64").to_numpy()
    labelled = Labelled(job.real, np.array([unit for unit, _ in table.sensors]), times)
    pretrained = init is not None
    fitted = train_classifier(net, rows, labelled, recipe.optim, recipe.tuning, pretrained, report, checkpoints)
    if worker.world.rank == 0:
        model = Diagnosing(recipe, job.faults, net.cpu().eval(), scalings.get("image"), scalings.get("vector"))
        validation = {"stage": "validation", "num_records": len(fitted.validation), **fitted.figures}
        tracker.result(validation)
        save(job.run_uri, Run(recipe, facts, model, table.histories), [*checkpoints.lines, validation], job.environment)
        checkpoints.clear()


def sad_targets(recipe: DeepRecipe, labels: np.ndarray | None) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Targets and weights a record for Deep SAD, of labels as schema.py has them; nothing for a detector that takes none."""
    if labels is None or not isinstance(recipe.detector, DeepSadConfig):
        return None, None
    return labels, np.where(labels == UNDECIDED, 1.0, recipe.detector.label_weight)


def encoder_of(run: Run) -> Detecting:
    """The detector whose trunk a classifier starts from: the run itself, or an ensemble's first deep member, a ResNet before others.

    Raises ValueError where the run holds no deep detector.
    """
    found = deep_members(run)
    if not found:
        raise ValueError("--init-from names a run without a deep detector: give a cwt-svdd, cwt-vae or ensemble run")
    return min(found, key=lambda member: _trunk(member).kind != "resnet18")


def _trunk(member: Detecting) -> TrunkConfig:
    assert isinstance(member.recipe, DeepRecipe)
    return member.recipe.detector.trunk
