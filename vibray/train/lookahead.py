"""Lookahead: slow weights that follow those of the optimiser, and that it starts again from."""

import torch

STEPS, SHARE = 5, 0.5
"""steps between two meetings (k), and how much of the way the slow weights go (alpha)"""


@torch.no_grad()
def lookahead_step(optimiser: torch.optim.Optimizer) -> None:
    """A step of Adam; at every fifth of a parameter, its slow weights go half the way to it, and it goes on from there.

    The slow weights lie in the optimiser's state as `slow` and the steps are those that Adam counts there: what joins later has a count
    of its own, and a checkpoint holds both. What an epoch leaves in the net are the fast weights, as far as they have come.

    Source: Zhang et al. 2019, "Lookahead Optimizer: k steps forward, 1 step back", algorithm 1.
    """
    moving = [p for group in optimiser.param_groups for p in group["params"] if p.grad is not None]
    # set after the step: Adam makes its own state only where it finds none
    starts = {p: p.clone() for p in moving if "slow" not in optimiser.state[p]}
    optimiser.step()
    for p in moving:
        state = optimiser.state[p]
        slow = state.setdefault("slow", starts.get(p))
        if state["step"] % STEPS == 0:
            p.copy_(slow.lerp_(p, SHARE))
