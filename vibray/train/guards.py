"""Guards against a one-class net that has collapsed: the lowest loss is not the best, a collapsed sphere has the lowest."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy.stats import rankdata

from vibray.config import UserError

MIN_DISTINCT = 0.99
"""share of scores that must differ from one another"""
MIN_SPREAD = 1e-3
"""standard deviation over mean of the scores"""
MIN_PARTICIPATION = 1.5
"""participation ratio of the embedding; untrained networks have 4 to 10, 64 log bands of a gearbox 2.4"""
PARTICIPATION_KEPT = 1 / 3
"""share of its participation ratio after pretraining that the embedding must keep"""
AUC_MARGIN = 0.02
"""by how much the AUROC on injected faults may lie below the untrained network's"""


class CollapsedModel(UserError):
    """A trained net maps all records to one point, or no longer tells injected faults from records."""


@dataclass(frozen=True)
class Guard:
    """One guard: what was measured, what it had to be, and whether it held."""

    name: str
    passed: bool
    detail: str
    value: float
    """what was measured, as a number"""


@dataclass(frozen=True)
class GuardReport:
    """All guards of a trained net. A low participation ratio alone is a warning; beside another guard that tripped it counts too."""

    guards: tuple[Guard, ...] = ()
    warnings: tuple[str, ...] = field(default=())

    @property
    def passed(self) -> bool:
        """Every guard held, warnings aside."""
        return all(guard.passed for guard in self.guards)

    @property
    def reasons(self) -> tuple[str, ...]:
        """What was found wrong, a line a guard that tripped; the warnings join them."""
        tripped = tuple(f"{guard.name}: {guard.detail}" for guard in self.guards if not guard.passed)
        return (*tripped, *self.warnings) if tripped else ()

    def with_guard(self, guard: Guard) -> "GuardReport":
        """The report with one more guard."""
        return GuardReport((*self.guards, guard), self.warnings)

    def values(self) -> dict[str, Any]:
        """JSON-ready values."""
        guards = [asdict(guard) for guard in self.guards]
        return {"passed": self.passed, "guards": guards, "warnings": list(self.warnings)}

    def check(self) -> None:
        """Raises CollapsedModel where a guard tripped."""
        if not self.passed:
            remedy = "train with fewer epochs, less weight decay or a lower learning rate, and look at the features"
            raise CollapsedModel(f"the trained net is of no use ({'; '.join(self.reasons)}): {remedy}")


def participation_ratio(covariance: np.ndarray) -> float:
    """(sum of eigenvalues)^2 / sum of their squares: over how many dimensions the embedding spreads, 1 to their number; 0 for a point.

    The Gram matrix of the centred rows has the same eigenvalues and will do as well.
    """
    total = float(np.trace(covariance))
    squares = float(np.sum(covariance**2))  # the trace of the square of a symmetric matrix
    return total**2 / squares if squares > 0 else 0.0


def embedding_figures(embedding: np.ndarray) -> dict[str, float]:
    """What shows a collapse while it comes: the spread of an embedding [records, latent] and the dimensions it covers."""
    centred = embedding - embedding.mean(axis=0)
    gram = centred @ centred.T if len(centred) < centred.shape[1] else centred.T @ centred
    return {"embedding_std": float(np.sqrt(np.mean(centred**2))), "participation": participation_ratio(gram)}


def score_figures(scores: np.ndarray) -> dict[str, float]:
    """What the guards on scores look at, each 0 where a score is not finite."""
    finite = bool(np.isfinite(scores).all())
    return {
        "distinct_scores": len(np.unique(scores)) / len(scores) if finite else 0.0,
        "score_spread": float(np.std(scores) / np.mean(scores)) if finite and np.mean(scores) > 0 else 0.0,
    }


def score_guards(scores: np.ndarray) -> tuple[Guard, ...]:
    """The guards on the scores of the training records: finite, distinct, spread."""
    finite = float(np.isfinite(scores).mean())
    distinct, spread = score_figures(scores).values()
    return (
        Guard("finite scores", finite == 1, f"{finite:.2%} of the scores are finite", finite),
        Guard(
            "distinct scores",
            distinct > MIN_DISTINCT,
            f"{distinct:.2%} of the scores are distinct, more than {MIN_DISTINCT:.0%} must be",
            distinct,
        ),
        Guard(
            "spread of scores",
            spread > MIN_SPREAD,
            f"std / mean of the scores is {spread:.2g}, more than {MIN_SPREAD} is needed",
            spread,
        ),
    )


def center_guards(center: np.ndarray, trained_center: np.ndarray) -> tuple[Guard, ...]:
    """The guards on the centre, as it was fixed and after training."""
    finite, same = float(np.isfinite(center).mean()), np.array_equal(center, trained_center)
    return (
        Guard("finite centre", finite == 1, f"{finite:.2%} of the centre's coordinates are finite", finite),
        Guard("fixed centre", same, "training left the centre as it was" if same else "training moved the centre", float(same)),
    )


def participation_warning(participation: float, pretrained: float) -> tuple[str, ...]:
    """A warning where the embedding spreads over fewer dimensions than max(1.5, a third of what it had after pretraining)."""
    needed = max(MIN_PARTICIPATION, PARTICIPATION_KEPT * pretrained)
    if participation >= needed:
        return ()
    return (f"the embedding's participation ratio is {participation:.2f} (after pretraining {pretrained:.2f}), {needed:.2f} is asked",)


def injected_faults_guard(trained: tuple[np.ndarray, np.ndarray], untrained: tuple[np.ndarray, np.ndarray]) -> Guard:
    """AUROC on injected faults, at least the untrained network's - 0.02.

    Each pair holds the scores of records as they are and of records with a fault injected.
    """
    auc, base = _auroc(*trained), _auroc(*untrained)
    return Guard("injected faults", auc >= base - AUC_MARGIN, f"AUROC on injected faults is {auc:.3f}, {base:.3f} untrained", auc)


def _auroc(plain: np.ndarray, faulty: np.ndarray) -> float:
    ranks = rankdata(np.concatenate([plain, faulty]))[len(plain) :]
    return float((ranks.sum() - len(faulty) * (len(faulty) + 1) / 2) / (len(plain) * len(faulty)))


@dataclass(frozen=True)
class Trained:
    """What training a detector leaves besides the net."""

    scores: np.ndarray
    """float64, of the training records in the order of their indices"""
    guards: GuardReport
