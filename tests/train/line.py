"""Nets of one and two weights and three records, whose training is known on paper."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from vibray.train.batches import Batches, TrainingSet
from vibray.train.fit import EpochMetrics, OptimConfig, Progress, fit
from vibray.train.reduce import World


class Line(nn.Module):
    """y = a x, squared error; the loss of a record is known on paper."""

    noise_shape: tuple[int, ...] | None = None

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x):
        return self.a * x

    def loss(self, out, target=None):
        return (out - target).square()


class Shifted(Line):
    """y = a x + b, where b stays 0 until it is let move."""

    def __init__(self):
        super().__init__()
        self.b = nn.Parameter(torch.zeros((), dtype=torch.float64), requires_grad=False)

    def forward(self, x):
        return self.a * x + self.b


X, Y = np.array([1.0, 2.0, 3.0]), np.array([3.0, 5.0, 4.0])


def data(weights: np.ndarray | None = None, joins: np.ndarray | None = None) -> TrainingSet:
    return TrainingSet(lambda index: torch.from_numpy(X[index]), np.arange(3), Y, weights, joins)


def train(
    optim: OptimConfig,
    weights: np.ndarray | None = None,
    on_epoch: Callable[[int, EpochMetrics], bool | None] = lambda epoch, metrics: None,
    net: Line | None = None,
    joins: np.ndarray | None = None,
    progress: Progress | None = None,
) -> Line:
    net = Line() if net is None else net
    fit(net, Batches(data(weights, joins), optim.batch_size, optim.seed, World()), optim, on_epoch, progress)
    return net
