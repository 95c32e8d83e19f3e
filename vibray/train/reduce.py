"""The workers that train together: sums over them, and a net whose gradients and batch statistics are those of all.

Nothing here starts a process group. Where torch.distributed has none, there is one worker.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from vibray.models.backbone import batch_norms
from vibray.models.band_transformer import BandTransformer


@dataclass(frozen=True)
class World:
    """This worker among all: its number and how many there are."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> "World":
        """The process group as it stands; one worker where there is none."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    def sum(self, values: Tensor) -> Tensor:
        """Sum over all workers, in float64, on the values' device."""
        total = values.detach().double()
        if self.size == 1:
            return total
        moved = total.clone().to(_device())
        dist.all_reduce(moved)
        return moved.to(values.device)

    def gather(self, values: np.ndarray) -> np.ndarray:
        """The rows of all workers, one worker after another; each may bring another number of rows, even none."""
        if self.size == 1:
            return values
        mine = torch.from_numpy(np.ascontiguousarray(values)).to(_device())
        counts = [torch.zeros(1, dtype=torch.int64, device=mine.device) for _ in range(self.size)]
        dist.all_gather(counts, torch.tensor([len(mine)], device=mine.device))
        # all_gather wants equal shapes
        longest = int(max(counts))
        padded = torch.cat([mine, mine.new_zeros(longest - len(mine), *mine.shape[1:])])
        rows = [torch.zeros_like(padded) for _ in range(self.size)]
        dist.all_gather(rows, padded)
        return np.concatenate([part[: int(count)].cpu().numpy() for part, count in zip(rows, counts, strict=True)])

    def align(self, net: nn.Module) -> None:
        """Gives every worker rank 0's weights and buffers."""
        if self.size > 1:
            for tensor in net.state_dict().values():
                moved = tensor.to(_device())
                dist.broadcast(moved, src=0)
                tensor.copy_(moved)


def _device() -> torch.device:
    """Where the process group's tensors live."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


class _AllReduceSum(torch.autograd.Function):
    """The sum over all workers. Where the loss is a sum over workers too, so is the gradient."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def all_reduce_sum(values: Tensor) -> Tensor:
    """Differentiable sum over all workers; every worker has to call it."""
    total = _AllReduceSum.apply(values)
    assert isinstance(total, Tensor)
    return total


def gather_rows(values: Tensor) -> tuple[Tensor, int]:
    """The rows of all workers, one worker after another, and where this one's begin; differentiable as `all_reduce_sum` is, and every
    worker has to call it."""
    rank, counts = dist.get_rank(), torch.zeros(dist.get_world_size(), dtype=torch.int64, device=values.device)
    counts[rank] = len(values)
    dist.all_reduce(counts)
    start, total = int(counts[:rank].sum()), int(counts.sum())
    before, after = (values.new_zeros(num, *values.shape[1:]) for num in (start, total - start - len(values)))
    return all_reduce_sum(torch.cat([before, values, after])), start


@contextmanager
def distributed(net: nn.Module, world: World) -> Iterator[Callable[..., Any]]:
    """The net's `forward` for training: among several workers its gradients are averaged, and its batch norms and what it compares within a
    batch (the band transformer's contrastive loss) see the global batch.

    Every worker has to enter; all leave with rank 0's weights and buffers of the start. Only parameters that require a gradient on entering
    take part: after unfreezing it is to be entered anew. Buffers are not broadcast at each forward: that would overwrite on all
    workers what was set on one.
    """
    if world.size == 1 or not any(parameter.requires_grad for parameter in net.parameters()):
        yield net
        return
    for norm in batch_norms(net):
        norm.reduce = all_reduce_sum
    if isinstance(net, BandTransformer):
        net.gather = gather_rows
    wrapped = [DistributedDataParallel(net, broadcast_buffers=False)]
    try:
        yield lambda *inputs: wrapped[0](*inputs)
    finally:
        for norm in batch_norms(net):
            norm.reduce = None
        if isinstance(net, BandTransformer):
            net.gather = None
        # the wrapper's hooks hang on the parameters until it is collected, and would reduce the next one's gradients a second time;
        # the caller holds the function above, not the wrapper
        wrapped.clear()
        gc.collect()
