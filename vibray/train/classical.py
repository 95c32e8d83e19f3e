"""The order of passes that fits a classical detector: the scaling first, then the detector, part by part.

`run` maps a function over the parts: the built-in `map` here, Ray's workers in pipeline/. What it yields is merged in the order of the
parts, so the result does not depend on who computed what.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt64
from torch import Tensor

from vibray.features.scaling import Scaling, Sensor
from vibray.features.scaling_fit import ScalingFit
from vibray.models.fitted import Fitted


@runtime_checkable
class Part(Protocol):
    """What a pass sends a worker of one part, with the scaling of its sensors alone: no pass costs more a record in a larger corpus."""

    @property
    def names(self) -> Iterable[Sensor]:
        """Its sensors, each once."""
        ...


@dataclass(frozen=True)
class Rows:
    """The records of one part as a detector needs them."""

    x: Float[Tensor, "batch ..."]
    sensors: Sequence[Sensor]
    key_hash: UInt64[np.ndarray, " batch"]

    @property
    def names(self) -> Iterable[Sensor]:
        return dict.fromkeys(self.sensors)


Map = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]
"""A function over parts, its results in the order of the parts."""

Load = Callable[[Any], Rows]
"""A part to its unscaled rows."""


def fit_scaling(fit: ScalingFit, parts: Sequence[Part], load: Load, run: Map = map) -> Scaling:
    """One pass: the robust statistics of the whole corpus and of its sensors. `load` gives the unscaled rows of a part."""
    total = copy.deepcopy(fit)
    for own in run(partial(_collected, fit, load), parts):
        total.merge(own)
    return total.finish()


def fit_detector(detector: Fitted, scaling: Scaling, columns: list[int], parts: Sequence[Part], load: Load, run: Map = map) -> Fitted:
    """As many passes as the detector asks for over its columns of the scaled rows. Returns the fitted detector."""
    while True:
        start = copy.deepcopy(detector)  # what a worker begins with: the earlier passes' state, nothing of this one's
        for own in run(partial(_passed, start, columns, load), _WithScaling(parts, scaling)):
            detector.merge(own)
        if not detector.finish():
            return detector


def score_parts(
    detector: Fitted, scaling: Scaling, columns: list[int], parts: Sequence[Part], load: Load, run: Map = map
) -> Float[np.ndarray, " records"]:
    """The scores of all training records, in the order of the parts."""
    return np.concatenate(list(run(partial(_scored, detector, columns, load), _WithScaling(parts, scaling))))


@dataclass(frozen=True)
class _WithScaling(Sequence[tuple[Part, Scaling]]):
    """Each part with the scaling of its sensors."""

    parts: Sequence[Part]
    scaling: Scaling

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, i: int) -> tuple[Part, Scaling]:  # type: ignore[override]
        part = self.parts[i]
        return part, self.scaling.of(part.names)


# what a worker does with a part: functions of the module, because a closure may hold what cannot be sent


def _collected(fit: ScalingFit, load: Load, part: Any) -> ScalingFit:
    rows, own = load(part), copy.deepcopy(fit)
    own.update(rows.x, rows.sensors, rows.key_hash)
    return own


def _passed(start: Fitted, columns: list[int], load: Load, part: tuple[Any, Scaling]) -> Fitted:
    rows, own = load(part[0]), copy.deepcopy(start)
    own.update(part[1](rows.x, rows.sensors)[:, columns], rows.key_hash)
    return own


def _scored(detector: Fitted, columns: list[int], load: Load, part: tuple[Any, Scaling]) -> np.ndarray:
    rows = load(part[0])
    return detector.score(part[1](rows.x, rows.sensors)[:, columns]).numpy()
