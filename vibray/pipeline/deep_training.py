"""Deep detectors and classifiers on Ray Train: what each worker does, from the finished feature parts to the saved run."""

import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.train import FailureConfig, RunConfig
from ray.train import ScalingConfig as RayScalingConfig
from ray.train.torch import TorchTrainer

from vibray.config import short_hash
from vibray.features.scaling import Scaling, ScalingConfig, ScalingFit
from vibray.models.backbone import TrunkConfig
from vibray.models.deep_sad import DeepSadConfig
from vibray.models.deep_svdd import DeepSvdd
from vibray.models.vae import Vae
from vibray.pipeline.board import Board, watched
from vibray.pipeline.tables import TrainingTable
from vibray.recipes import ClassifierRecipe, DeepRecipe, FeatureConfig, build_classifier, build_deep, build_feature
from vibray.runs import Detecting, Diagnosing, Run, deep_members, load, save, score_statistics
from vibray.schema import UNDECIDED
from vibray.signal.injected import inject
from vibray.storage import objects
from vibray.train.batches import Batches, TrainingSet
from vibray.train.checkpoints import Checkpoints
from vibray.train.classifier import Labelled, train_classifier
from vibray.train.deep_svdd import Trained, fit_metric, train_deep_svdd
from vibray.train.exposure import KINDS, ExposureConfig, injected
from vibray.train.guards import injected_faults_guard
from vibray.train.images import CHUNK, Images, NodeArray
from vibray.train.reduce import World
from vibray.train.vae import train_vae

GUARD_RECORDS = 96
"""Training records into which faults are injected to see that training has not made the net blind."""

GUARD_METRIC_RECORDS = 2000
"""Training records from which the untrained network's metric is fitted."""

GUARD_SNR_DB = 0.0
"""Injected faults as strong as the record itself: an untrained network finds many of them, and training must not lose them. Their
draws are others than those of outlier exposure, their kinds are not: after exposure the guard says that training worked, not how far."""

SHOWN = ("loss", "f1")
"""Figures of an epoch beside the progress bar; metrics.jsonl has all."""

MAX_FAILURES = 3
"""Worker groups that may be lost and started again; each goes on from the newest checkpoint."""


@dataclass(frozen=True)
class DeepJob:
    """One net to train: where its run goes, its recipe, and what it learns from."""

    run_uri: str
    recipe: DeepRecipe | ClassifierRecipe
    environment: dict[str, Any]
    indices: np.ndarray
    """row numbers of the training table that take part"""
    targets: np.ndarray | None = None
    """classifier: [rows, 2] int64, label (0, 1, -1) and fault number (-1: none); Deep SAD: [rows] int64, the label"""
    weights: np.ndarray | None = None
    real: np.ndarray | None = None
    """classifier: bool a row, its label is a person's"""
    faults: tuple[str, ...] = ()
    init_from: str | None = None
    """classifier: the run whose encoder and image scaling it starts from"""


def train_deep(jobs: Sequence[DeepJob], table: TrainingTable, num_workers: int, cache_gb: float, use_gpu: bool) -> None:
    """Trains the jobs one after another in one group of workers, showing their progress. Each writes its own finished run folder."""
    board = ray.remote(num_cpus=0)(Board).remote()
    scratch = "vibray-" + hashlib.blake2b(jobs[0].run_uri.encode(), digest_size=8).hexdigest()
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"jobs": ray.put(list(jobs)), "table": ray.put(table), "cache_gb": cache_gb, "scratch": scratch, "board": board},
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


@dataclass
class Worker:
    """What one worker of the group knows: its place, its device, the corpus on this node's disk."""

    world: World
    local_rank: int
    local_size: int
    device: torch.device
    table: TrainingTable
    waveforms: np.ndarray
    scratch: Path
    cache_bytes: int
    made: dict[str, Images]
    tell: Callable[..., None]
    """label, done, total, figures: a bar of progress; a total of 0: a line of text"""

    def wait(self) -> None:
        if self.world.size > 1:
            dist.barrier()

    def images(self, config: FeatureConfig, exposure: ExposureConfig | None = None) -> Images:
        """The unscaled images of all records, made once on this node, whatever number of nets learns from them.

        With `exposure` of the records with an injected fault each.
        """
        name = f"{config.kind}-{short_hash(config)}" + ("" if exposure is None else f"-injected-{short_hash(exposure)}")
        if name in self.made:
            return self.made[name]
        facts = self.table.facts
        feature = build_feature(config, facts.mains_hz)
        waveforms = self.waveforms if exposure is None else self.injected(exposure)
        images = Images(
            lambda w: feature(w, facts.sample_rate_hz), feature.shape, waveforms, self.scratch / name, self.cache_bytes, self.device
        )
        images.fill(self.local_rank, self.local_size, lambda done, total: self.tell("images", done, total))
        self.wait()
        self.made[name] = images
        return images

    def injected(self, exposure: ExposureConfig) -> np.ndarray:
        """The waveforms of all records with an injected fault each, on this node's disk."""
        rate, hashes = self.table.facts.sample_rate_hz, self.table.key_hash
        out = NodeArray(self.scratch / f"injected-{short_hash(exposure)}", len(self.waveforms), self.waveforms.shape[1:]).rows
        mine = np.array_split(np.arange(len(out)), self.local_size)[self.local_rank]
        for index in np.array_split(mine, max(1, len(mine) // CHUNK)):
            if len(index):
                plain = torch.from_numpy(np.ascontiguousarray(self.waveforms[index]))
                out[index] = injected(plain, rate, exposure, hashes[index]).numpy()
        self.wait()
        return out

    def read_injected(self, recipe: DeepRecipe, scaling: Scaling) -> Callable[[np.ndarray], torch.Tensor] | None:
        """Scaled images of the records with an injected fault each, where the recipe exposes its net to them."""
        if recipe.exposure is None or not recipe.optim.epochs:
            return None
        return self.scaled(scaling, self.images(recipe.feature, recipe.exposure))

    def fit_scaling(
        self, config: ScalingConfig, read: Callable[[np.ndarray], torch.Tensor], shape: tuple[int, ...], indices: np.ndarray
    ) -> Scaling:
        """The corpus' robust statistics: each worker sees its share, all end with the same."""
        fit = ScalingFit(config, shape)
        for index in np.array_split(indices[self.world.rank :: self.world.size], max(1, len(indices) // (64 * self.world.size))):
            if len(index):
                fit.update(read(index), [self.table.sensors[i] for i in index], self.table.key_hash[index])
        fits: list[Any] = [fit]
        if self.world.size > 1:
            fits = [None] * self.world.size
            dist.all_gather_object(fits, fit)
        total = ScalingFit(config, shape)
        for part in fits:
            total.merge(part)
        return total.finish()

    def scaled(self, scaling: Scaling, read: Callable[[np.ndarray], torch.Tensor]) -> Callable[[np.ndarray], torch.Tensor]:
        return lambda index: scaling(read(index), [self.table.sensors[i] for i in index])


def _worker(config: dict[str, Any]) -> None:
    """What Ray Train runs. An error in the data or the recipe is told once; the group that Ray starts again then ends at once."""
    board = config["board"]
    if ray.get(board.failure.remote()) is not None:
        return
    try:
        _train(config)
    except (ValueError, ArithmeticError) as error:
        ray.get(board.fail.remote(str(error)))
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
    )
    worker.wait()
    for job in ray.get(config["jobs"]):
        if objects.exists(objects.join(job.run_uri, "_done.json")):  # a group that was lost and started again
            continue
        if isinstance(job.recipe, ClassifierRecipe):
            _train_classifier(worker, job, job.recipe)
        else:
            _train_detector(worker, job, job.recipe)
        worker.wait()
    if worker.local_rank == 0:
        shutil.rmtree(scratch, ignore_errors=True)


def _epoch_report(worker: Worker, name: str, optims: dict[str, int]):
    """What training calls after each epoch: Ray Train's metrics and the person's progress. metrics.jsonl has the checkpoints' lines."""

    def report(stage: str, epoch: int, figures: dict[str, Any]) -> None:
        ray.train.report({"run": name, "stage": stage, "epoch": epoch, **figures})
        shown = {key: f"{value:.4g}" for key, value in figures.items() if key in SHOWN}
        worker.tell(f"{name} {stage}", epoch + 1, optims.get(stage, epoch + 1), **shown)

    return report


def _train_detector(worker: Worker, job: DeepJob, recipe: DeepRecipe) -> None:
    table, facts = worker.table, worker.table.facts
    feature = build_feature(recipe.feature, facts.mains_hz)
    images = worker.images(recipe.feature)
    scaling = worker.fit_scaling(recipe.scaling, images, feature.shape, job.indices)
    rows = TrainingSet(worker.scaled(scaling, images), job.indices, job.targets, job.weights)
    torch.manual_seed(recipe.optim.seed)  # the same weights on every worker
    net = build_deep(recipe.detector, feature.shape).to(worker.device)
    epochs = {"pretrain": recipe.pretrain.epochs, "train": recipe.optim.epochs}
    report = _epoch_report(worker, objects.last_segment(job.run_uri), epochs)
    checkpoints = Checkpoints(job.run_uri)
    if isinstance(net, DeepSvdd):
        trained = train_deep_svdd(net, rows, recipe.pretrain, recipe.optim, report, checkpoints, worker.read_injected(recipe, scaling))
    else:
        trained = train_vae(net, rows, recipe.optim, report, checkpoints)
    if worker.world.rank == 0:
        detecting = _detecting(recipe, scaling, net, trained.scores)
        lines = [*checkpoints.lines, *_guard_lines(worker, job, recipe, detecting, trained)]
        save(job.run_uri, Run(recipe, facts, detecting, table.histories), lines, job.environment)
        checkpoints.clear()


def _detecting(recipe: DeepRecipe, scaling: Scaling, net: DeepSvdd | Vae, scores: np.ndarray) -> Detecting:
    return Detecting(recipe, scaling, net.cpu().eval(), score_statistics(scores))


def _guard_lines(worker: Worker, job: DeepJob, recipe: DeepRecipe, detecting: Detecting, trained: Trained) -> list[dict[str, Any]]:
    """The guards as lines of metrics.jsonl. Raises CollapsedModel where one of Deep SVDD's trips."""
    guards = trained.guards
    if isinstance(detecting.detector, DeepSvdd) and recipe.optim.epochs:
        guards = guards.with_guard(injected_faults_guard(*_injected_scores(worker, job, recipe, detecting)))
    for guard in guards.guards:
        worker.tell(f"guard {guard.name}: {'held' if guard.passed else 'TRIPPED'} ({guard.detail})", 0, 0)
    for warning in guards.warnings:
        worker.tell(f"warning: {warning}", 0, 0)
    guards.check()
    return [{"stage": "guards", **guards.values()}]


def _injected_scores(worker: Worker, job: DeepJob, recipe: DeepRecipe, detecting: Detecting):
    """Scores of some training records as they are and with faults injected, by the trained and by an untrained net."""
    hashes = worker.table.key_hash[job.indices]
    index = job.indices[np.argsort(hashes)[:GUARD_RECORDS]]
    waveforms = torch.from_numpy(np.ascontiguousarray(worker.waveforms[index]))
    sensors = [worker.table.sensors[i] for i in index]
    torch.manual_seed(recipe.optim.seed)
    untrained = build_deep(recipe.detector, build_feature(recipe.feature, worker.table.facts.mains_hz).shape).eval()
    assert isinstance(untrained, DeepSvdd)
    feature = build_feature(recipe.feature, worker.table.facts.mains_hz)
    rate = worker.table.facts.sample_rate_hz
    with torch.inference_mode():
        plain = detecting.scaling(feature(waveforms, rate), sensors)
        kinds = [KINDS[i % len(KINDS)] for i in range(len(index))]
        faulty_waveforms = waveforms.clone()
        for kind in KINDS:
            mine = torch.tensor([i for i, k in enumerate(kinds) if k == kind])
            faulty_waveforms[mine] = inject(waveforms[mine], rate, kind, GUARD_SNR_DB, worker.table.key_hash[index[mine.numpy()]])
        faulty = detecting.scaling(feature(faulty_waveforms, rate), sensors)
        untrained.center.copy_(untrained(plain).embedding.mean(0))
        if untrained.config.metric == "mahalanobis":
            # from as many records as it can: on few of them the distance is short for these alone
            others = job.indices[np.argsort(hashes)[:GUARD_METRIC_RECORDS]]
            read = worker.scaled(detecting.scaling, worker.images(recipe.feature))
            fit_metric(untrained.to(worker.device), Batches(TrainingSet(read, others), recipe.optim.batch_size, 0, World()))
            untrained.cpu()
        nets: tuple[Any, Any] = (detecting.detector, untrained)
        return [tuple(net.score(net(x)).numpy() for x in (plain, faulty)) for net in nets]


def _train_classifier(worker: Worker, job: DeepJob, recipe: ClassifierRecipe) -> None:
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

    report = _epoch_report(worker, objects.last_segment(job.run_uri), {"train": recipe.optim.epochs})
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
