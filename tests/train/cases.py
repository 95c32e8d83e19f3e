"""Trainings that are run by one, two and four workers, and what comes out of them. Spawned processes import this file."""

import gc
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vibray.models.backbone import BatchNorm, TrunkConfig, freeze_statistics
from vibray.models.band_transformer import BandTransformer, BandTransformerConfig
from vibray.models.classifier import Classifier, ClassifierConfig
from vibray.models.deep_sad import DeepSad, DeepSadConfig
from vibray.models.deep_svdd import Autoencoder, DeepSvdd, DeepSvddConfig
from vibray.models.pruning import narrowed
from vibray.models.vae import Vae, VaeConfig
from vibray.train.batches import Batches, TrainingSet
from vibray.train.classifier import Labelled, TuningConfig, train_classifier
from vibray.train.deep_svdd import score_all, set_radius, train_deep_svdd
from vibray.train.fit import OptimConfig, fit
from vibray.train.reduce import World, all_reduce_sum
from vibray.train.vae import train_vae

SHAPE = (1, 32, 32)
TRUNK = TrunkConfig(width=4)
Result = dict[str, np.ndarray]


def images(count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Images of differing loudness, always the same."""
    random = np.random.default_rng(5)
    return torch.from_numpy(random.normal(size=(count, *SHAPE)) * random.uniform(0.5, 2, size=(count, 1, 1, 1))).to(dtype)


def records(count: int, dtype: torch.dtype = torch.float32, **more: Any) -> TrainingSet:
    """All of `count` images to train on."""
    x = images(count, dtype)
    return TrainingSet(lambda index: x[index], np.arange(count), **more)


def deep_svdd(**changes) -> DeepSvdd:
    """A tiny net with the weights of seed 0 and a centre."""
    torch.manual_seed(0)
    net = DeepSvdd(DeepSvddConfig(**{"trunk": TRUNK, "hidden": 8, "latent_dim": 6, **changes}), SHAPE)
    net.center.fill_(0.3)
    return net


def losses(
    net: nn.Module,
    count: int,
    batch_size: int,
    dtype: torch.dtype,
    num_steps: int,
    on_epoch=lambda batches: None,
    joins: np.ndarray | None = None,
    of: torch.Tensor | None = None,
    **changes,
) -> Result:
    """The losses of the first steps, and the weights after them; `of`: other inputs than images; `changes` are those of the optimiser's
    config."""
    random = np.random.default_rng(6)
    weighted = records(count, dtype, weights=random.uniform(0.5, 1.5, size=count), joins=joins)
    if of is not None:
        weighted = replace(weighted, read=lambda index: of[index])
    optim = OptimConfig(epochs=-(-num_steps // -(-count // batch_size)), batch_size=batch_size, lr=1e-3, schedule="constant")
    optim = replace(optim, **changes)
    batches = Batches(weighted, batch_size, optim.seed, World.current())
    steps: list[float] = []

    def collect(epoch, metrics):
        steps.extend(metrics.step_losses)
        on_epoch(batches)

    fit(net.to(dtype), batches, optim, collect)
    weights = {name: value.detach().cpu().double().numpy() for name, value in net.state_dict().items()}
    return {"losses": np.array(steps), **{f"w/{name}": value for name, value in weights.items()}}


def one_class(count: int, batch_size: int, dtype: torch.dtype, num_steps: int, **changes) -> Result:
    net = deep_svdd()
    freeze_statistics(net)
    return losses(net, count, batch_size, dtype, num_steps, **changes)


def soft_boundary(count: int, batch_size: int, dtype: torch.dtype, num_steps: int) -> Result:
    """The radius is set after each epoch, from all workers' distances."""
    net = deep_svdd(objective="soft-boundary", nu=0.3)
    freeze_statistics(net)
    return losses(net, count, batch_size, dtype, num_steps, lambda batches: set_radius(net, score_all(net, batches)))


def pretraining(count: int, batch_size: int, dtype: torch.dtype, num_steps: int, **changes) -> Result:
    """Batch norms in training mode: their statistics are those of the global batch."""
    return losses(Autoencoder(deep_svdd()), count, batch_size, dtype, num_steps, **changes)


def vae(count: int, batch_size: int, dtype: torch.dtype, num_steps: int, **changes) -> Result:
    torch.manual_seed(0)
    return losses(Vae(VaeConfig(trunk=TRUNK, latent_channels=4), SHAPE), count, batch_size, dtype, num_steps, **changes)


def bands(count: int, batch_size: int, dtype: torch.dtype, num_steps: int, **changes) -> Result:
    """Its embeddings are compared with those of the whole global batch; some units have fewer sensors, and some bands are not heard."""
    random = np.random.default_rng(7)
    x = random.normal(size=(count, 3, 2, 1, 16, 2))
    x[::3, :, 1], x[..., 12:, :] = 0, 0
    config = BandTransformerConfig(rows_per_token=4, width=8, layers=2, heads=2, head_width=4, feedforward=16, hidden=8, alpha=1.0)
    torch.manual_seed(0)
    net = BandTransformer(config, (1, 16, 2))
    return losses(net, count, batch_size, dtype, num_steps, of=torch.from_numpy(x).to(dtype), **changes)


def sphere() -> Result:
    """Centre and radius from the same weights; the seeds differ by worker, so that only rank 0's weights can make them agree."""
    torch.manual_seed(World.current().rank)
    net = DeepSvdd(DeepSvddConfig(trunk=TRUNK, hidden=8, latent_dim=6), SHAPE)
    none = OptimConfig(epochs=0, batch_size=4)
    trained = train_deep_svdd(net, records(11), none, none)
    return {"center": net.center.numpy(), "radius": net.radius.numpy(), "scores": trained.scores}


def fitted(net: nn.Module, scores: np.ndarray, losses: list[float]) -> Result:
    """What a whole training left: weights and buffers (centre, radius, metric, temperatures), the scores of all records, the losses."""
    state = {f"w/{name}": value.detach().double().numpy() for name, value in net.state_dict().items()}
    if "w/whitening" in state:  # its columns are known but for a rotation among equal eigenvalues; the metric is whitening whitening'
        whitening = state.pop("w/whitening")
        state["w/metric"] = whitening @ whitening.T
    return {"scores": scores, "losses": np.array(losses), **state}


def noted(losses: list[float]):
    """A report that keeps the losses."""
    return lambda stage, epoch, figures: losses.append(figures["loss"])


PRETRAIN, OPTIM = OptimConfig(epochs=2, batch_size=4, lr=1e-3), OptimConfig(epochs=4, batch_size=4, lr=1e-3)


def whole(net: DeepSvdd, rows: TrainingSet, pretrain: OptimConfig = PRETRAIN, **options) -> Result:
    """Every stage of Deep SVDD, in float64; `direct` are the scores of the same records by the trained net, without any sharing out."""
    losses: list[float] = []
    trained = train_deep_svdd(net.double(), rows, pretrain, OPTIM, noted(losses), **options)
    with torch.no_grad():
        direct = net.score(net(rows.read(rows.indices))).numpy()
    return {**fitted(net, trained.scores, losses), "direct": direct}


def whole_one_class() -> Result:
    return whole(deep_svdd(nu=0.25), records(11, torch.float64))


def whole_soft_boundary() -> Result:
    """The radius lies between two of the 11 distances: on one of them, rounding would decide whether that record counts as outside."""
    return whole(deep_svdd(objective="soft-boundary", nu=0.25, warmup_epochs=2), records(11, torch.float64))


def whole_exposed() -> Result:
    """Injected faults, filters over time, and the metric that is fitted on the trunk's features: the shape of cwt-svdd."""
    x = images(11, torch.float64)
    faulty = x.clone()
    faulty[:, :, 8:12] += 3
    net = deep_svdd(trunk=TrunkConfig(kind="time", width=4), objective="hypersphere", metric="mahalanobis", nu=0.25)
    return whole(net, records(11, torch.float64), OptimConfig(epochs=0, batch_size=4), read_injected=lambda index: faulty[index])


def whole_pruned() -> Result:
    """A net that was cut: its statistics are those of the global batches, its centre is the one that it had."""
    net = narrowed(deep_svdd(nu=0.25).double(), DeepSvddConfig(trunk=TrunkConfig(width=3), hidden=8, latent_dim=6, nu=0.25)).double()
    return whole(net, records(11, torch.float64), pruned=True)


def whole_deep_sad() -> Result:
    """The paper's Deep SAD: 2 known faults, 3 known normals, 6 records without a label."""
    torch.manual_seed(0)
    net = DeepSad(DeepSadConfig(trunk=TRUNK, hidden=8, latent_dim=6, nu=0.25), SHAPE)
    targets = np.array([1, -1, 0, -1, -1, 0, 1, -1, 0, -1, -1])
    return whole(net, records(11, torch.float64, targets=targets, weights=np.where(targets == -1, 1.0, 2.0)))


def whole_vae() -> Result:
    torch.manual_seed(0)
    net = Vae(VaeConfig(trunk=TRUNK, latent_channels=4, warmup_epochs=3), SHAPE).double()
    losses: list[float] = []
    rows = records(11, torch.float64)
    trained = train_vae(net, rows, OPTIM, noted(losses))
    with torch.no_grad():
        direct = net.score(net(rows.read(rows.indices))).numpy()
    return {**fitted(net, trained.scores, losses), "direct": direct}


def whole_classifier() -> Result:
    """Dropout, class balance, validation and a layer that joins in the middle, in float64."""
    torch.manual_seed(0)
    net = Classifier(ClassifierConfig(trunk=TRUNK, hidden=(8, 4)), num_faults=2, image_shape=SHAPE).double()
    fault = np.arange(23) % 4 - 2
    targets = np.stack([np.where(fault >= 0, 1, 0), np.maximum(fault, -1)], axis=1)
    labelled = Labelled(np.ones(23, dtype=bool), np.array([f"u{i // 4}" for i in range(23)]))
    optim = OptimConfig(epochs=4, batch_size=7, lr=3e-3, method="adamw", schedule="plateau", patience=1)
    seen: list[float] = []

    def report(stage, epoch, figures):
        seen.extend(value for name, value in figures.items() if name != "records_per_s")

    data = records(23, torch.float64, targets=targets)
    trained = train_classifier(net, data, labelled, optim, TuningConfig(unfreeze=((2, "layer4"),)), report=report)
    weights = {f"w/{name}": value.numpy() for name, value in net.state_dict().items()}
    return {"figures": np.array(seen), "validation": trained.validation, **weights}


def batch_norm(num_first: int) -> Result:
    """Outputs, gradients and statistics of a batch of 5, the first `num_first` rows being rank 0's, the rest the last's, if it is not 5."""
    world = World.current()
    norm = BatchNorm(3).double()
    norm.reduce = all_reduce_sum if world.size > 1 else None
    random = np.random.default_rng(0)
    x, weight = (torch.from_numpy(random.normal(size=(5, 3, 2))) for _ in range(2))
    ends = [0, *[num_first] * (world.size - 1), 5] if world.size > 1 else [0, 5]
    mine = slice(ends[world.rank], ends[world.rank + 1])
    slice_of_x = x[mine].clone().requires_grad_()
    out = norm(slice_of_x)
    (out * weight[mine]).sum().backward()
    assert slice_of_x.grad is not None
    gathered = {"out": world.gather(out.detach().numpy()), "grad": world.gather(slice_of_x.grad.numpy())}
    return {**gathered, **{name: value.double().numpy() for name, value in norm.named_buffers()}}


def wrappers() -> Result:
    """How many wrappers are left of two trainings of one net: the hooks of one that lives on would reduce gradients twice."""
    net = Autoencoder(deep_svdd())
    for _ in range(2):
        losses(net, 5, 4, torch.float32, 1)
    return {"alive": np.array(sum(type(found) is DistributedDataParallel for found in gc.get_objects()))}


WHOLE = {
    "one_class": whole_one_class,
    "soft_boundary": whole_soft_boundary,
    "exposed": whole_exposed,
    "pruned": whole_pruned,
    "deep_sad": whole_deep_sad,
    "vae": whole_vae,
    "classifier": whole_classifier,
}
CHANGES: dict[str, dict[str, Any]] = {
    "lookahead": {"lookahead": True},
    "adversarial": {"adversarial": 0.05},
    "one-cycle-clip": {"schedule": "one-cycle", "clip": 0.01},
    "joins": {"joins": np.arange(11) % 4},
}
"""what is off by default"""
STAGES = {"one_class": one_class, "soft_boundary": soft_boundary, "pretraining": pretraining, "vae": vae, "bands": bands}


def cases() -> dict[str, Callable[[], Result]]:
    """All cases by name. Neither 2 nor 4 divides the 11 or 23 records. Of a last batch of 5 records by 2 one worker has nothing, of the
    others too where there are four."""
    made: dict[str, Callable[[], Result]] = {"sphere": sphere, "wrappers": wrappers}
    made |= {f"whole-{name}": case for name, case in WHOLE.items()}
    for name, stage in STAGES.items():
        made[f"{name}-float32"] = lambda stage=stage: stage(11, 4, torch.float32, 3)
        made[f"{name}-float64"] = lambda stage=stage: stage(11, 4, torch.float64, 20)
    for name in ("soft_boundary", "pretraining", "bands"):
        made[f"{name}-empty"] = lambda stage=STAGES[name]: stage(5, 2, torch.float64, 3)
    for name, changes in CHANGES.items():
        made[f"pretraining-{name}"] = lambda changes=changes: pretraining(11, 4, torch.float64, 12, **changes)
    for name in ("vae", "bands"):
        made[f"{name}-adversarial"] = lambda stage=STAGES[name]: stage(11, 4, torch.float64, 12, adversarial=0.05)
    # with frozen statistics: a batch norm of one record has a gradient of 0, of which rounding alone would give the sign
    made["one_class-adversarial-empty"] = lambda: one_class(5, 2, torch.float64, 3, adversarial=0.05)
    for num_first in (5, 3, 0):
        made[f"batch_norm-{num_first}"] = lambda num_first=num_first: batch_norm(num_first)
    return made


def flat(results: dict[str, Result]) -> Result:
    """`<case>:<figure>` -> values."""
    return {f"{case}:{name}": values for case, figures in results.items() for name, values in figures.items()}


def work(rank: int, size: int, folder: str) -> None:
    """One spawned worker: runs all cases and writes what it got."""
    torch.set_num_threads(1)
    gc.freeze()  # what is imported lives on: collecting garbage need not look at it
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size)
    results = {name: case() for name, case in cases().items()}
    arrays: dict[str, Any] = {**flat(results)}
    np.savez(Path(folder, f"rank{rank}.npz"), **arrays)
    dist.destroy_process_group()
