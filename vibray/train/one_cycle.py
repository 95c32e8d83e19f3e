"""One cycle of the learning rate over all steps of a training."""

import math

WARMUP = 0.3
"""share of all steps in which the learning rate rises"""
START, END = 1 / 25, 1 / 25e4
"""shares of the highest learning rate"""


def one_cycle(step: int, num_steps: int, highest: float) -> float:
    """The learning rate of a step, counted from 0: half a cosine up to the highest, another one down to the lowest.

    Source: Smith and Topin 2018, "Super-Convergence", with the cosines and the ends of torch.optim.lr_scheduler.OneCycleLR.
    """
    peak, last = WARMUP * num_steps - 1, num_steps - 1
    if step <= peak:
        return highest * _cosine(START, 1.0, step / peak)
    return highest * _cosine(1.0, END, (step - peak) / (last - peak))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
