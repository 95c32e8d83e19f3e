"""Adversarial training: the loss of the records, and of the same ones moved to where it rises."""

from collections.abc import Callable

import torch
from torch import Tensor

from vibray.train.batches import Inputs


def adversarial_loss(loss: Callable[[Inputs], Tensor], x: Inputs, step: float) -> Tensor:
    """Mean of the loss at x and at x + step * sign(dloss / dx), the fast gradient sign method.

    Of several inputs the floating ones are moved. A 0 stays 0: padding and masked tokens are zeros. The gradient is asked for the inputs
    alone, so that DistributedDataParallel sees one backward for two forwards; every worker has to call it, even with no record.

    Source: Goodfellow et al. 2015, "Explaining and Harnessing Adversarial Examples", sections 4 and 6 with alpha = .5.
    """
    parts = [part.detach().requires_grad_(part.is_floating_point()) for part in (x if isinstance(x, tuple) else (x,))]
    floating = [part for part in parts if part.requires_grad]

    def at(parts: list[Tensor]) -> Tensor:
        return loss(tuple(parts) if isinstance(x, tuple) else parts[0])

    plain = at(parts)
    gradients = iter(torch.autograd.grad(plain, floating, retain_graph=True, materialize_grads=True))
    moved = [(p + step * next(gradients).sign() * (p != 0)).detach() if p.requires_grad else p for p in parts]
    return (plain + at(moved)) / 2
