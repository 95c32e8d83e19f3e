"""How rare a score is among healthy records of the machines of training, where their baseline is made of as few records."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64

from vibray.decide.reference import p_values

LEVELS = (1, 2, 5, 10, 20, 50)
"""Records that make a baseline; from 99 on a sensor's own scores say it (reference.py)."""
FEWEST_SCORES = 200
"""With fewer scores nothing is said of a level: a tail of 1 % needs more."""
LOWEST_P = 1e-37
"""float32 holds it."""


@dataclass(frozen=True)
class FleetScores:
    """Scores of healthy records against a baseline of so many earlier records of their sensor; fitting/fleet_scores.py makes them.

    A few records of a sensor were taken within hours of each other and resemble one another more than any later one: what they say of
    their own spread is no reference. On the synthetic fleet a window of a healthy unit exceeds at 2.7 and 16 % for nominal 1 and 5 %, if
    five records a sensor are compared with such scores of all sensors together, and at 1.1 and 4.5 % if with these.
    """

    scores: Mapping[int, Float[torch.Tensor, " scores"]]
    """by the number of records, some of LEVELS from 1 on; ascending, float32"""

    def p_values(
        self, scores: Float[np.ndarray, " records"], num_records: Int64[np.ndarray, " records"]
    ) -> Float32[np.ndarray, " records"]:
        """The share of healthy records that score as high or higher (reference.p_values, whose tail is carried on), by the largest level
        that the number of records of a baseline reaches. NaN where there is no baseline, or no level was made."""
        levels = np.array(sorted(self.scores), np.int64)
        p = np.full(len(scores), np.nan, np.float32)
        at = np.searchsorted(levels, num_records, side="right") - 1
        for i in np.unique(at[at >= 0]):
            own = at == i
            p[own] = np.maximum(p_values(scores[own].astype(np.float64), self.scores[int(levels[i])].double().numpy()), LOWEST_P)
        return p

    def state(self) -> dict[str, torch.Tensor]:
        """For safetensors."""
        return {str(level): scores for level, scores in self.scores.items()}

    @classmethod
    def load(cls, state: Mapping[str, torch.Tensor]) -> "FleetScores":
        """What `state` gave; of a run that has none, one that says nothing."""
        return cls({int(level): scores for level, scores in state.items()})
