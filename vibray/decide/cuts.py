"""Two cuts on a score and what they say of it: normal, abnormal, undecided. One pair for all, or one a unit or sensor."""

import dataclasses
import math
from collections.abc import Hashable, Sequence
from typing import Literal

import numpy as np
from pydantic import with_config

from vibray.config import STRICT, UserError
from vibray.schema import LABEL_ABNORMAL, LABEL_NORMAL, UNDECIDED

PROBABILITY_CUT = 0.5
"""Where a classifier's abnormal_probability becomes an answer, if no cuts are given."""


Number = float | int
Scores = np.ndarray | Sequence


class CutsError(UserError):
    """Scores of which no usable cuts can be made."""


class CutsWarning(UserWarning):
    """Cuts that stand, with a reservation; the text stands in `Cuts.warnings` too."""


def finite(scores: Scores) -> np.ndarray:
    """The scores as float64; raises CutsError where there are none, or one is NaN or infinite.

    In float64 because numpy would round a cut to float32 to compare it with float32 scores, and a score next to the cut would change sides.
    """
    s = np.asarray(scores, np.float64)
    if s.ndim != 1 or len(s) == 0:
        raise CutsError(f"scores must be one-dimensional and not empty, not of shape {s.shape}")
    bad = ~np.isfinite(s)
    if bad.any():
        raise CutsError(f"{bad.sum()} of {len(s)} scores are NaN or infinite, the first in row {int(np.argmax(bad))}: leave them out")
    return s


@with_config(STRICT)
@dataclasses.dataclass(frozen=True)
class Cuts:
    """Normal is score <= normal_below, abnormal is score >= anomaly_above, what lies between is undecided.

    Raises CutsError unless both are finite and normal_below < anomaly_above.
    """

    normal_below: Number
    anomaly_above: Number
    method: str = ""
    """percentile, mad, pot or conformal; "" for cuts given by hand."""
    kind: Literal["rate", "false-alarm probability", "rule"] = "rate"
    """Of what the nominal rate is a share: of whatever was scored, faults included, or of healthy records. A rule (MAD) aims at none."""
    nominal_rate: Number | None = None
    """The share of records at or above anomaly_above that the method aims at; of a rule, that of a Gaussian."""
    num_scores: int | None = None
    """How many scores the cuts were fitted on."""
    scale: str = "raw"
    """What MAD worked on: raw, log, or log above the smallest."""
    level: Number | None = None
    """POT: the score above which the tail was fitted."""
    num_excesses: int | None = None
    """POT: how many scores lie above the level."""
    shape: Number | None = None
    """POT: shape of the generalised Pareto."""
    tail_scale: Number | None = None
    """POT: its scale."""
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (math.isfinite(self.normal_below) and math.isfinite(self.anomaly_above)):
            raise CutsError(f"cuts must be finite, not {self.normal_below} and {self.anomaly_above}")
        if not self.normal_below < self.anomaly_above:
            raise CutsError(
                f"the normal cut {self.normal_below:.6g} is not below the abnormal cut {self.anomaly_above:.6g}: "
                "too many scores are equal, or the limits are too close together; move --normal and --anomaly apart, or fit on more records"
            )

    @property
    def overall(self) -> "Cuts":
        """The cuts of all scores, as GroupedCuts has them."""
        return self

    def warned(self, message: str) -> "Cuts":
        """The same cuts with one more reservation."""
        return dataclasses.replace(self, warnings=(*self.warnings, message))

    def decide(self, scores: Scores) -> np.ndarray:
        """int8 per score: 0 normal, 1 abnormal, -1 undecided."""
        return decided(finite(scores), self.normal_below, self.anomaly_above)


def decided(s: np.ndarray, normal_below: np.ndarray | Number, anomaly_above: np.ndarray | Number) -> np.ndarray:
    """int8 per score (float64): 0 normal, 1 abnormal, -1 undecided; a cut is one number, or one a score."""
    found = np.full(len(s), UNDECIDED, np.int8)
    found[s <= normal_below] = LABEL_NORMAL
    found[s >= anomaly_above] = LABEL_ABNORMAL
    return found


def realised_rate(cuts: Cuts, scores: Scores) -> float:
    """The share of these scores at or above the abnormal cut; of healthy records' scores it is the realised false-alarm rate."""
    return float(np.mean(finite(scores) >= cuts.anomaly_above))


@with_config(STRICT)
@dataclasses.dataclass(frozen=True)
class GroupCuts:
    """The cuts of one unit or sensor, or why it has none of its own."""

    group: tuple[str, ...]
    """(unit,) or (unit, sensor_id)."""
    num_records: int
    """How many scores there were to fit on."""
    cuts: Cuts | None
    """None: the cuts of all hold."""
    reason: str = ""
    """Why the cuts of all hold."""


@with_config(STRICT)
@dataclasses.dataclass(frozen=True)
class GroupedCuts:
    """Cuts of all scores, and of each unit or sensor that has enough of them. A group that was not there at the fit takes those of all."""

    overall: Cuts
    by: Literal["unit", "sensor"]
    min_records: int
    groups: tuple[GroupCuts, ...]

    @staticmethod
    def name_of(group: Hashable) -> tuple[str, ...]:
        """A unit's name, or a (unit, sensor_id), as the tuple that names the group."""
        return group if isinstance(group, tuple) else (str(group),)

    def limits(self, groups: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray]:
        """normal_below and anomaly_above (float64) for each entry of `groups`."""
        own = {group.group: group.cuts for group in self.groups if group.cuts is not None}
        cuts = [own.get(self.name_of(group), self.overall) for group in groups]
        return np.array([c.normal_below for c in cuts], np.float64), np.array([c.anomaly_above for c in cuts], np.float64)

    def decide(self, groups: Sequence[Hashable], scores: Scores) -> np.ndarray:
        """int8 per score, each by the cuts of its group: 0 normal, 1 abnormal, -1 undecided."""
        return decided(finite(scores), *self.limits(groups))
