"""Who wins a search: the best trial, unless it beats the recipe as it is by no more than chance does.

The best of many trials on tens of labels is best partly by luck. Where the recipe as it is was tried too and lies within one standard error
of the best, it wins: nothing speaks for a change.

Source: Breiman et al. 1984, "Classification and Regression Trees", section 3.4.3 (the one-standard-error rule).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vibray.decide.areas import auroc

DRAWS, SEED = 500, 0
"""Of the bootstrap."""

FEWEST_UNITS = 3
"""units of a fold that are drawn as a whole; of fewer, records are drawn"""

Trial = Mapping[str, Any]


@dataclass(frozen=True)
class Judged:
    """The labelled records on which a fold's trials are judged."""

    faulty: np.ndarray
    unit: np.ndarray


@dataclass(frozen=True)
class Verdict:
    """The winner, and what was said for the best trial against the recipe as it is."""

    winner: int
    best: int
    gain: float | None = None
    """objective of the best less that of the recipe as it is; None where this was not tried to its end, or is the best"""
    error: float | None = None
    """standard error of the gain"""


def best_of(finished: Mapping[int, Trial]) -> Trial | None:
    """The complete trial with the highest objective, the first of equals."""
    complete = [trial for trial in finished.values() if trial["state"] == "complete"]
    return max(complete, key=lambda trial: (trial["values"][0], -trial["number"]), default=None)


def verdict(finished: Mapping[int, Trial], own_hash: str, objective: str, folds: Sequence[Judged]) -> Verdict | None:
    """Who wins; None where no trial came to its end. The rule is for AUROC: of the other objectives the best wins."""
    best = best_of(finished)
    if best is None:
        return None
    own = next((trial for trial in finished.values() if trial["hash"] == own_hash and trial["state"] == "complete"), None)
    if objective != "auroc" or own is None or own is best:
        return Verdict(best["number"], best["number"])
    gain, error = best["values"][0] - own["values"][0], gain_error(_scores(best), _scores(own), folds)
    winner = own if error is not None and gain <= error else best
    return Verdict(winner["number"], best["number"], gain, error)


def gain_error(best: Sequence[np.ndarray], own: Sequence[np.ndarray], folds: Sequence[Judged]) -> float | None:
    """Standard error of the difference of two trials' mean AUROC over the folds, from their scores of the same records.

    Bootstrap: the folds' units are drawn with replacement, the same for both trials. None where no draw has both classes.
    """
    rng = np.random.default_rng(SEED)
    judgeable = [(a, b, fold) for a, b, fold in zip(best, own, folds, strict=True) if fold.faulty.any() and not fold.faulty.all()]
    found = []
    for _ in range(DRAWS):
        gains = []
        for ours, theirs, fold in judgeable:
            drawn = _drawn(rng, fold)
            faulty = fold.faulty[drawn]
            areas = auroc(ours[drawn], faulty), auroc(theirs[drawn], faulty)
            if areas[0] is not None and areas[1] is not None:
                gains.append(areas[0] - areas[1])
        if gains:
            found.append(np.mean(gains))
    return float(np.std(found)) if found else None


def _drawn(rng: np.random.Generator, fold: Judged) -> np.ndarray:
    units = np.unique(fold.unit)
    if len(units) < FEWEST_UNITS:
        return rng.integers(0, len(fold.unit), len(fold.unit))
    return np.concatenate([np.flatnonzero(fold.unit == unit) for unit in rng.choice(units, len(units))])


def _scores(trial: Trial) -> list[np.ndarray]:
    return [np.asarray(fold["scores"]) for fold in trial["folds"]]
