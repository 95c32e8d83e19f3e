"""How well scores order records, as areas, and how sure that is: exact intervals of shares, a bootstrap by unit."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64
from scipy.stats import binomtest, rankdata
from sklearn.metrics import average_precision_score, roc_auc_score

from vibray.decide.cuts import Scores, finite

MAX_FPR = 0.1
CONFIDENCE = 0.95
NUM_RESAMPLES = 200


def auroc(scores: Scores, abnormal: Scores) -> float | None:
    """Probability that an abnormal record scores above a normal one, a tie counting one half; None unless both are there.

    Source: Mann and Whitney 1947; equals the area under the ROC curve.
    """
    s, y = _pair(scores, abnormal)
    num_abnormal, num_normal = int(y.sum()), int((~y).sum())
    if num_abnormal == 0 or num_normal == 0:
        return None
    ranks = rankdata(s)
    return float((ranks[y].sum() - num_abnormal * (num_abnormal + 1) / 2) / (num_abnormal * num_normal))


def auroc_std(area: float, num_abnormal: int, num_normal: int) -> float:
    """Standard error of an AUROC: a lower bound.

    It takes the records for independent, which those of one unit are not, and is 0 at an area of 1.

    Source: Hanley and McNeil 1982, "The meaning and use of the area under a ROC curve", with Q1 = A / (2 - A) and Q2 = 2 A^2 / (1 + A).
    """
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + (num_abnormal - 1) * (q1 - area**2) + (num_normal - 1) * (q2 - area**2)
    return math.sqrt(max(0.0, variance) / (num_abnormal * num_normal))


def auprc(scores: Scores, abnormal: Scores) -> float | None:
    """Average precision: sum of precision times the step in recall over the distinct scores, no interpolation.

    Its value without any skill is the prevalence. None without an abnormal record.
    """
    s, y = _pair(scores, abnormal)
    return float(average_precision_score(y, s)) if y.any() else None


def partial_auroc(scores: Scores, abnormal: Scores, max_fpr: float = MAX_FPR) -> float | None:
    """Area under the ROC curve up to a false-positive rate, normalised so that chance is .5 and perfect is 1; None unless both are there.

    Source: McClish 1989; scikit-learn's `max_fpr`.
    """
    s, y = _pair(scores, abnormal)
    return float(roc_auc_score(y, s, max_fpr=max_fpr)) if y.any() and not y.all() else None


def proportion_interval(part: int, whole: int) -> list[float] | None:
    """Exact 95 % interval of a share: as if the records were independent, which those of one unit are not. None where `whole` is 0.

    Source: Clopper and Pearson 1934; scipy.stats.binomtest.
    """
    if not whole:
        return None
    found = binomtest(part, whole).proportion_ci(CONFIDENCE, "exact")
    return [float(found.low), float(found.high)]


def bootstrap_by_unit(scores: Scores, abnormal: Scores, units: Sequence[str], seed: int = 0) -> dict[str, Any] | None:
    """Spread of the three areas where whole units are drawn with replacement: what another fleet of the same kind would have shown.

    For each area [low, high] (95 %, percentile method) and its standard deviation over those of 200 draws in which it is defined; None with
    fewer than 2 units. With few units it is a lower bound.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", section 13.3.
    """
    s, y = _pair(scores, abnormal)
    names, place = np.unique(np.array(units, np.str_), return_inverse=True)
    if len(names) < 2:
        return None
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), NUM_RESAMPLES)
    found = resampled_areas(s, y, (times[place] for times in drawn))
    found = found[~np.isnan(found[:, 0])]
    result: dict[str, Any] = {"num_units": len(names), "num_resamples": len(found)}
    for name, values in zip(("auroc", "auprc", "partial_auroc"), found.T, strict=True):
        ends_of = np.percentile(values, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)]).tolist() if len(values) else None
        result[name] = {"interval": ends_of, "std": float(values.std()) if len(values) else None}
    return result


def resampled_areas(scores: np.ndarray, abnormal: np.ndarray, weights: Iterable[np.ndarray]) -> Float64[np.ndarray, "resamples 3"]:
    """AUROC, AUPRC and partial AUROC of records that count so many times each, a row a resample; NaN where one class is not drawn."""
    order = np.argsort(-scores, kind="stable")
    y, ends = abnormal[order], np.flatnonzero(np.diff(scores[order], append=np.inf))
    return np.array([_weighted_areas(y, ends, weight[order]) or (np.nan,) * 3 for weight in weights]).reshape(-1, 3)


def _weighted_areas(y: np.ndarray, ends: np.ndarray, weight: np.ndarray) -> tuple[float, float, float] | None:
    """AUROC, AUPRC and partial AUROC of records that count `weight` times each; None unless both classes are there.

    Rows stand from the highest score down; `ends` are the last rows of equal scores. What scikit-learn computes, without its sorting and
    checking each time.
    """
    true, false = (np.concatenate([[0], np.cumsum(weight * which)[ends]]).astype(np.float64) for which in (y, ~y))
    if not (true[-1] and false[-1]):
        return None
    recall, fpr = true / true[-1], false / false[-1]
    precision = true[1:] / np.maximum(true[1:] + false[1:], 1)
    stop = int(np.searchsorted(fpr, MAX_FPR, side="right"))
    x, z = (
        np.append(fpr[:stop], MAX_FPR),
        np.append(recall[:stop], np.interp(MAX_FPR, fpr[stop - 1 : stop + 1], recall[stop - 1 : stop + 1])),
    )
    least = MAX_FPR**2 / 2
    partial = (1 + (np.trapezoid(z, x) - least) / (MAX_FPR - least)) / 2
    return float(np.trapezoid(recall, fpr)), float(np.diff(recall) @ precision), float(partial)


def _pair(scores: Scores, abnormal: Scores) -> tuple[np.ndarray, np.ndarray]:
    s, y = finite(scores), np.asarray(abnormal)
    if y.shape != s.shape:
        raise ValueError(f"{len(s)} scores and labels of shape {y.shape}")
    return s, y.astype(bool)
