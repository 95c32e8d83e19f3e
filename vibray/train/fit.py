"""The one training loop. It alone reduces: sum(w * loss) / sum(w) over the records of the global batch, whoever computed them."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, Literal, Protocol

import numpy as np
import torch
from pydantic import with_config
from torch import Tensor, nn

from vibray.config import STRICT, UserError
from vibray.train.adversarial import adversarial_loss
from vibray.train.batches import Batch, Batches, Inputs, to
from vibray.train.lookahead import lookahead_step
from vibray.train.one_cycle import one_cycle
from vibray.train.reduce import distributed


@with_config(STRICT)
@dataclass(frozen=True)
class OptimConfig:
    """How a net is trained."""

    epochs: int = 50
    """times that every record is seen; 0 leaves the random weights"""
    batch_size: int = 32
    """records in a global batch, shared out among the workers"""
    lr: float = 1e-3
    """learning rate at the start"""
    weight_decay: float = 5e-7
    """weight decay of the optimiser"""
    method: Literal["adam", "adamw"] = "adam"
    """optimiser: adam adds the weight decay to the gradient, adamw takes it from the weights"""
    schedule: Literal["cosine", "plateau", "constant", "one-cycle"] = "cosine"
    """cosine: down to 0 at the last epoch; plateau: halved when the validation figure stands still; one-cycle: step by step, from lr / 25
    up to lr in the first 30 % of all steps, then down to nearly 0"""
    patience: int = 5
    """epochs that the validation figure may stand still (plateau)"""
    precision: Literal["float32", "bf16"] = "float32"
    """bf16: mixed precision on a GPU; a CPU computes in float32 all the same"""
    seed: int = 0
    """seed of the order of records and of the noise of training"""
    lookahead: bool = False
    """every fifth step goes half the way back to where the fifth before it ended"""
    adversarial: float = 0.0
    """how far scaled inputs are moved against the net, for a second loss that counts as much as the first; 0: no second loss"""
    clip: float = 0.0
    """longest gradient, over all weights together; a longer one is cut to it; 0: none is cut"""

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.batch_size < 1 or self.patience < 1:
            given = f"{self.epochs}, {self.batch_size} and {self.patience}"
            raise UserError(f"optim: epochs >= 0, batch_size >= 1 and patience >= 1 are needed, not {given}")
        if not 0 < self.lr < math.inf or not 0 <= self.weight_decay < math.inf:
            raise UserError(f"optim: lr > 0 and weight_decay >= 0 are needed, not {self.lr} and {self.weight_decay}")
        if not 0 <= self.adversarial < math.inf or not 0 <= self.clip < math.inf:
            raise UserError(f"optim: adversarial >= 0 and clip >= 0 are needed, not {self.adversarial} and {self.clip}")


class Trainable(Protocol):
    """What the loop needs of a net, which is an nn.Module besides."""

    @property
    def noise_shape(self) -> tuple[int, ...] | None:
        """Shape of the standard normal noise that a record needs in training; None: none."""
        ...

    def loss(self, out: Any, target: Any = None) -> Tensor: ...


@dataclass(frozen=True)
class EpochMetrics:
    """One epoch, over all records of all workers."""

    loss: float
    """sum(w * loss) / sum(w) as it was while the weights moved"""
    lr: float
    """of the last step"""
    step_losses: tuple[float, ...]
    """the same of each global batch"""
    records_per_s: float = 0.0
    """records of all workers a second, reading them included"""

    def values(self) -> dict[str, float]:
        """What a log of epochs holds."""
        return {"loss": self.loss, "lr": self.lr, "records_per_s": round(self.records_per_s, 1)}


OnEpoch = Callable[[int, EpochMetrics], bool | None]
"""Called on every worker after each epoch, with its number from 0; reports, saves, and may answer True to stop."""

Report = Callable[[str, int, dict[str, float]], bool | None]
"""Called on every worker with a stage's name, epoch and figures; True ends that stage on all workers, so all have to answer alike."""


def silent(stage: str, epoch: int, figures: dict[str, float]) -> None:
    """A report that says nothing."""


class Diverged(UserError):
    """The loss is no longer a number."""


@dataclass
class Progress:
    """How far a training has come, beside the weights: what a checkpoint has to hold so that it goes on as if it had never stopped."""

    epoch: int = 0
    """epochs that are done"""
    factor: float = 1.0
    """what a plateau has made of the learning rate"""
    best: float | None = None
    """highest figure that was watched"""
    still: int = 0
    """epochs since then, or since the last halving"""
    moments: dict[str, Tensor] = field(default_factory=dict)
    """tensors of the optimiser that a checkpoint brought, by `<parameter>/<name>`"""
    optimiser: torch.optim.Optimizer | None = None

    def values(self) -> dict[str, Any]:
        """The part that goes into JSON; with `moments` it makes a Progress again."""
        return {"epoch": self.epoch, "factor": self.factor, "best": self.best, "still": self.still}

    def tensors(self, net: nn.Module) -> dict[str, Tensor]:
        """The optimiser's tensors by the names of the net's parameters."""
        if self.optimiser is None:
            return self.moments
        names: dict[Tensor, str] = {parameter: name for name, parameter in net.named_parameters()}
        return {f"{names[p]}/{key}": value for p, state in self.optimiser.state.items() for key, value in state.items()}

    def watch(self, figure: float, optim: OptimConfig) -> None:
        """Notes a validation figure, the higher the better; a plateau schedule halves the learning rate when it stands still."""
        if self.best is None or figure > self.best:
            self.best, self.still = figure, 0
            return
        self.still += 1
        if optim.schedule == "plateau" and self.still >= optim.patience:
            self.factor, self.still = self.factor / 2, 0

    def learning_rate(self, optim: OptimConfig) -> float:
        """Of the epoch that comes next, where all its steps have the same."""
        if optim.schedule == "cosine":
            return optim.lr * (1 + math.cos(math.pi * self.epoch / optim.epochs)) / 2
        return optim.lr * self.factor

    def prepare(self, net: nn.Module, optim: OptimConfig) -> torch.optim.Optimizer:
        """The optimiser for the epoch that comes next, with every parameter that now requires a gradient: new ones join it."""
        known = set() if self.optimiser is None else {p for group in self.optimiser.param_groups for p in group["params"]}
        new = {name: p for name, p in net.named_parameters() if p.requires_grad and p not in known}
        optimiser = self.optimiser
        if optimiser is None:
            make = torch.optim.AdamW if optim.method == "adamw" else torch.optim.Adam
            optimiser = self.optimiser = make(list(new.values()), lr=optim.lr, weight_decay=optim.weight_decay)
        elif new:
            optimiser.add_param_group({"params": list(new.values())})
        for key, value in self.moments.items():
            name, _, kind = key.rpartition("/")
            if name in new:
                # Adam counts its steps on the CPU
                optimiser.state[new[name]][kind] = value.clone() if kind == "step" else value.to(new[name], copy=True)
        return optimiser


def fit(net: Any, batches: Batches, optim: OptimConfig, on_epoch: OnEpoch, progress: Progress | None = None) -> None:
    """Trains a net (an nn.Module that is Trainable) in place, from `progress` on, to `optim.epochs` epochs or until `on_epoch` says stop.

    When `on_epoch` is called, `progress` already counts the epoch. Parameters that `on_epoch` makes trainable join at the next epoch.
    Every worker has to call it. Raises Diverged where the loss is no longer finite, UserError where every record has weight 0.
    """
    progress = Progress() if progress is None else progress
    while progress.epoch < optim.epochs:
        free = _trainable(net)
        with distributed(net, batches.world) as forward:
            while progress.epoch < optim.epochs and _trainable(net) == free:
                metrics = _train_epoch(net, forward, batches, optim, progress)
                progress.epoch += 1
                if on_epoch(progress.epoch - 1, metrics):
                    return


def _trainable(net: nn.Module) -> list[str]:
    return [name for name, parameter in net.named_parameters() if parameter.requires_grad]


def _rates(batches: Batches, optim: OptimConfig, progress: Progress) -> Iterator[float]:
    """The learning rates of the steps of the epoch that comes next."""
    if optim.schedule != "one-cycle":
        return repeat(progress.learning_rate(optim))
    ends = np.cumsum([0, *(batches.num_steps(epoch) for epoch in range(optim.epochs))]).tolist()
    return (one_cycle(step, ends[-1], optim.lr) for step in range(*ends[progress.epoch : progress.epoch + 2]))


def _train_epoch(net: Any, forward: Callable[..., Any], batches: Batches, optim: OptimConfig, progress: Progress) -> EpochMetrics:
    epoch, world = progress.epoch, batches.world
    optimiser, rates = progress.prepare(net, optim), _rates(batches, optim, progress)
    losses, totals, num_records, start_s = [], [], 0, time.perf_counter()
    net.train()
    for step, (batch, rate) in enumerate(zip(batches.epoch(epoch), rates, strict=False)):
        if batch.total_weight == 0:
            continue
        loss = _loss(net, forward, batch, _noise(net, batch, (optim.seed, epoch, step)), optim)
        optimiser.zero_grad(set_to_none=True)
        # the gradients are averaged over the workers, and the loss is a sum over them
        (loss * world.size).backward()
        _step(net, optimiser, rate, optim)
        losses.append(loss.detach())
        totals.append(batch.total_weight)
        num_records += batch.size
    if not losses:
        raise UserError("every record to train on has weight 0")
    steps = world.sum(torch.stack(losses)).cpu().numpy()
    if not np.isfinite(steps).all():
        raise Diverged(f"the loss of epoch {epoch} is no longer finite: choose a lower learning rate, or float32")
    records_per_s = num_records / (time.perf_counter() - start_s)  # the sum over workers above has waited for the device
    return EpochMetrics(float(np.average(steps, weights=totals)), optimiser.param_groups[0]["lr"], tuple(steps.tolist()), records_per_s)


def _loss(net: Any, forward: Callable[..., Any], batch: Batch, noise: Tensor | None, optim: OptimConfig) -> Tensor:
    """This worker's part of sum(w * loss) / sum(w), the divisor being that of the global batch."""
    device = next(net.parameters()).device
    target = None if batch.target is None else batch.target.to(device)
    bf16 = optim.precision == "bf16" and device.type == "cuda"

    def loss_at(x: Inputs) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = net.loss(forward(x) if noise is None else forward(x, noise), target)
        return (batch.weight.to(loss) * loss).sum() / batch.total_weight

    x = to(batch.x, device)
    return adversarial_loss(loss_at, x, optim.adversarial) if optim.adversarial else loss_at(x)


def _step(net: nn.Module, optimiser: torch.optim.Optimizer, rate: float, optim: OptimConfig) -> None:
    """Moves the weights; the gradients are the same on every worker, and so is what becomes of them."""
    for group in optimiser.param_groups:
        group["lr"] = rate
    if optim.clip:
        nn.utils.clip_grad_norm_(net.parameters(), optim.clip)
    if optim.lookahead:
        lookahead_step(optimiser)
    else:
        optimiser.step()


def _noise(net: Any, batch: Batch, seed: tuple[int, int, int]) -> Tensor | None:
    """This worker's rows of the global batch's noise: a record gets the same whoever computes it, and after a resume."""
    if net.noise_shape is None:
        return None
    parameter = next(net.parameters())
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1))
    noise = torch.randn(batch.size, *net.noise_shape, generator=generator)
    return noise[batch.start : batch.start + len(batch.weight)].to(parameter)
