"""The order of passes that fits a classical detector: the scaling first, then the detector, part by part.

`run` maps a function over the parts: the built-in `map` here, Ray's workers in pipeline/. What it yields is merged in the order of the
parts, so the result does not depend on who computed what.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt64
from torch import Tensor

from vibray.features.scaling import Scaling, ScalingFit, Sensor
from vibray.models.fitted import Fitted

P = TypeVar("P")


@dataclass(frozen=True)
class Rows:
    """The records of one part as a detector needs them."""

    x: Float[Tensor, "batch ..."]
    sensors: list[Sensor]
    key_hash: UInt64[np.ndarray, "batch"]


class Map(Protocol):
    def __call__(self, function: Callable[[Any], Any], parts: Sequence[Any], /) -> Iterable[Any]: ...


def fit_scaling(fit: ScalingFit, parts: Sequence[P], load: Callable[[P], Rows], run: Map = map) -> Scaling:
    """One pass: the robust statistics of the whole corpus and of its sensors. `load` gives the unscaled rows of a part."""

    def collect(part: P) -> ScalingFit:
        rows, own = load(part), copy.deepcopy(fit)
        own.update(rows.x, rows.sensors, rows.key_hash)
        return own

    total = copy.deepcopy(fit)
    for own in run(collect, parts):
        total.merge(own)
    return total.finish()


def fit_detector(
    detector: Fitted, scaling: Scaling, columns: list[int], parts: Sequence[P], load: Callable[[P], Rows], run: Map = map
) -> Fitted:
    """As many passes as the detector asks for over its columns of the scaled rows. Returns the fitted detector."""
    while True:
        start = copy.deepcopy(detector)  # what a worker begins with: the earlier passes' state, nothing of this one's

        def one_pass(part: P, start: Fitted = start) -> Fitted:
            rows, own = load(part), copy.deepcopy(start)
            own.update(scaling(rows.x, rows.sensors)[:, columns], rows.key_hash)
            return own

        for own in run(one_pass, parts):
            detector.merge(own)
        if not detector.finish():
            return detector


def score_parts(
    detector: Fitted, scaling: Scaling, columns: list[int], parts: Sequence[P], load: Callable[[P], Rows], run: Map = map
) -> Float[Tensor, "records"]:
    """The scores of all training records, in the order of the parts."""

    def score(part: P) -> np.ndarray:
        rows = load(part)
        return detector.score(scaling(rows.x, rows.sensors)[:, columns]).numpy()

    return torch.from_numpy(np.concatenate(list(run(score, parts))))
