"""Trainings that are run by one worker and by two, and what comes out of them. Spawned processes import this file."""

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vibray.models.backbone import BatchNorm, TrunkConfig, freeze_statistics
from vibray.models.classifier import Classifier, ClassifierConfig
from vibray.models.deep_svdd import Autoencoder, DeepSvdd, DeepSvddConfig
from vibray.models.vae import Vae, VaeConfig
from vibray.train.batches import Batches, TrainingSet
from vibray.train.classifier import Labelled, TuningConfig, train_classifier
from vibray.train.deep_svdd import score_all, set_radius, train_deep_svdd
from vibray.train.fit import OptimConfig, fit
from vibray.train.reduce import World, all_reduce_sum

SHAPE = (1, 32, 32)
TRUNK = TrunkConfig(width=4)
Result = dict[str, np.ndarray]


def images(count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Images of differing loudness, always the same."""
    random = np.random.default_rng(5)
    return torch.from_numpy(random.normal(size=(count, *SHAPE)) * random.uniform(0.5, 2, size=(count, 1, 1, 1))).to(dtype)


def records(count: int, dtype: torch.dtype = torch.float32, **more: np.ndarray) -> TrainingSet:
    """All of `count` images to train on."""
    x = images(count, dtype)
    return TrainingSet(lambda index: x[index], np.arange(count), **more)


def deep_svdd(**changes) -> DeepSvdd:
    """A tiny net with the weights of seed 0 and a centre."""
    torch.manual_seed(0)
    net = DeepSvdd(DeepSvddConfig(**{"trunk": TRUNK, "hidden": 8, "latent_dim": 6, **changes}), SHAPE)
    net.center.fill_(0.3)
    return net


def losses(net: nn.Module, count: int, batch_size: int, dtype: torch.dtype, num_steps: int, on_epoch=lambda batches: None) -> Result:
    """The losses of the first steps, and the weights after them."""
    random = np.random.default_rng(6)
    weighted = records(count, dtype, weights=random.uniform(0.5, 1.5, size=count))
    optim = OptimConfig(epochs=-(-num_steps // -(-count // batch_size)), batch_size=batch_size, lr=1e-3, schedule="constant")
    batches = Batches(weighted, batch_size, optim.seed, World.current())
    steps: list[float] = []

    def collect(epoch, metrics):
        steps.extend(metrics.step_losses)
        on_epoch(batches)

    fit(net.to(dtype), batches, optim, collect)
    weights = {name: value.detach().cpu().double().numpy() for name, value in net.state_dict().items()}
    return {"losses": np.array(steps), **{f"w/{name}": value for name, value in weights.items()}}


def one_class(count: int, batch_size: int, dtype: torch.dtype, num_steps: int) -> Result:
    net = deep_svdd()
    freeze_statistics(net)
    return losses(net, count, batch_size, dtype, num_steps)


def soft_boundary(count: int, batch_size: int, dtype: torch.dtype, num_steps: int) -> Result:
    """The radius is set after each epoch, from all workers' distances."""
    net = deep_svdd(objective="soft-boundary", nu=0.3)
    freeze_statistics(net)
    return losses(net, count, batch_size, dtype, num_steps, lambda batches: set_radius(net, score_all(net, batches)))


def pretraining(count: int, batch_size: int, dtype: torch.dtype, num_steps: int) -> Result:
    """Batch norms in training mode: their statistics are those of the global batch."""
    return losses(Autoencoder(deep_svdd()), count, batch_size, dtype, num_steps)


def vae(count: int, batch_size: int, dtype: torch.dtype, num_steps: int) -> Result:
    torch.manual_seed(0)
    return losses(Vae(VaeConfig(trunk=TRUNK, latent_channels=4), SHAPE), count, batch_size, dtype, num_steps)


def sphere() -> Result:
    """Centre and radius from the same weights; the seeds differ by worker, so that only rank 0's weights can make them agree."""
    torch.manual_seed(World.current().rank)
    net = DeepSvdd(DeepSvddConfig(trunk=TRUNK, hidden=8, latent_dim=6), SHAPE)
    none = OptimConfig(epochs=0, batch_size=4)
    trained = train_deep_svdd(net, records(11), none, none)
    return {"center": net.center.numpy(), "radius": net.radius.numpy(), "scores": trained.scores}


def whole_deep_svdd() -> Result:
    """Every stage of the soft boundary, in float64."""
    net = deep_svdd(objective="soft-boundary", nu=0.2, warmup_epochs=2).double()
    pretrain, optim = OptimConfig(epochs=2, batch_size=4, lr=1e-3), OptimConfig(epochs=4, batch_size=4, lr=1e-3)
    trained = train_deep_svdd(net, records(11, torch.float64), pretrain, optim)
    return {"center": net.center.numpy(), "radius": net.radius.numpy(), "scores": trained.scores}


def whole_classifier() -> Result:
    """Dropout, class balance, validation and a layer that joins in the middle, in float64."""
    torch.manual_seed(0)
    net = Classifier(ClassifierConfig(trunk=TRUNK, hidden=(8, 4)), num_faults=2, image_shape=SHAPE).double()
    fault = np.arange(22) % 4 - 2
    targets = np.stack([np.where(fault >= 0, 1, 0), np.maximum(fault, -1)], axis=1)
    labelled = Labelled(np.ones(22, dtype=bool), np.array([f"u{i // 4}" for i in range(22)]), np.arange(22))
    optim = OptimConfig(epochs=4, batch_size=7, lr=3e-3, method="adamw", schedule="plateau", patience=1)
    seen: list[float] = []

    def report(stage, epoch, figures):
        seen.extend(value for name, value in figures.items() if name != "records_per_s")

    data = records(22, torch.float64, targets=targets)
    trained = train_classifier(net, data, labelled, optim, TuningConfig(unfreeze=((2, "layer4"),)), report=report)
    weights = {f"w/{name}": value.numpy() for name, value in net.state_dict().items()}
    return {"figures": np.array(seen), "validation": trained.validation, **weights}


def batch_norm(num_first: int) -> Result:
    """Outputs, gradients and statistics of a batch of 5, the first `num_first` rows being rank 0's; the second worker may have none."""
    world = World.current()
    norm = BatchNorm(3).double()
    norm.reduce = all_reduce_sum if world.size > 1 else None
    random = np.random.default_rng(0)
    x, weight = (torch.from_numpy(random.normal(size=(5, 3, 2))) for _ in range(2))
    ends = [0, num_first, 5] if world.size > 1 else [0, 5]
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


STAGES = {"one_class": one_class, "soft_boundary": soft_boundary, "pretraining": pretraining, "vae": vae}


def cases() -> dict[str, Callable[[], Result]]:
    """All cases by name. 11 records by 4 leave slices of 2 and 1; 5 records by 2 leave the second worker nothing of the last batch."""
    made: dict[str, Callable[[], Result]] = {"sphere": sphere, "svdd": whole_deep_svdd, "classifier": whole_classifier}
    made["wrappers"] = wrappers
    for name, stage in STAGES.items():
        made[f"{name}-float32"] = lambda stage=stage: stage(11, 4, torch.float32, 3)
        made[f"{name}-float64"] = lambda stage=stage: stage(11, 4, torch.float64, 20)
    for name in ("soft_boundary", "pretraining"):
        made[f"{name}-empty"] = lambda stage=STAGES[name]: stage(5, 2, torch.float64, 3)
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
