"""The order of fitting a diagnosis: healthy axes, faults by direction, what is calibrated on answers to records that a fit has not seen."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, logit
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from torch import Tensor

from vibray.decide.metrics import calibration_error, fault_f1
from vibray.models.context_scorer import ContextNet
from vibray.models.diagnosis import (
    COMPARED_WHITENING,
    WHITENING,
    Deviations,
    LinearDiagnosis,
    LinearDiagnosisConfig,
    Whitening,
    deviations,
    embedding,
    likeness,
    whitening,
)
from vibray.models.moments import Moments
from vibray.schema import LABEL_ABNORMAL, LABEL_NORMAL
from vibray.train.validation import MIN_NAMED, fault_loss, require_both, temperature

FOLDS = 5
MIN_UNITS = 5
"""units with labels from which whole units are left out together; with fewer, or a kind of label in one alone, whole moments are"""
HEALTHY = 0.9
"""records that score below this quantile make the axes of healthy ones"""
PRIOR, PRIOR_SPREAD = np.array([1.6, 0.7, -1.8]), np.array([1.0, 0.7, 2.0])
"""What is thought of the log-odds of being abnormal before any label is seen, mean and standard deviation: weight of the detector's score,
counted from the pool's median in steps to its .9 quantile, weight of the margin, constant. Between what tens of labels give on generated
fleets (2, .3, -3) and on gearboxes and bearings (1, 1, -.5)."""
PRIOR_TEMPERATURE, PRIOR_LABELS = 0.65, 20
"""The same for the temperature, and labels that this is worth."""
PLAIN = 0.95
"""quantile of the records' scores above which a labelled fault is plain enough to say what a known one looks like"""


@dataclass(frozen=True)
class Labels:
    """What is known of some records; arrays of equal length."""

    label: Int64[np.ndarray, " labelled"]
    """0 normal, 1 abnormal"""
    fault: Int64[np.ndarray, " labelled"]
    """number of the fault, -1 where none is named"""
    weight: Float64[np.ndarray, " labelled"]
    human: Bool[np.ndarray, " labelled"]
    """a person judged this very record; false for its moment's other sensors and for pseudo-labels"""
    unit: Int64[np.ndarray, " labelled"]
    moment: Int64[np.ndarray, " labelled"]


@dataclass(frozen=True)
class FittedDiagnosis:
    diagnosis: LinearDiagnosis
    figures: dict[str, Any]
    """of labelled records by fits that had not seen their unit or moment"""


def fit_diagnosis(
    config: LinearDiagnosisConfig,
    pool: Float[Tensor, "records dims"],
    pool_scores: Float64[np.ndarray, " records"],
    x: Float[Tensor, "labelled dims"],
    scores: Float64[np.ndarray, " labelled"],
    labels: Labels,
    faults: tuple[str, ...],
    net: ContextNet | None,
    net_columns: list[int],
) -> FittedDiagnosis:
    """Fits a diagnosis on scaled vectors: of any records of the corpus (`pool`), and of those with labels.

    Nothing is chosen by the labels but what the regressions fit. What is calibrated (the weights of detector and margin, the temperature,
    the cut to "unknown") sees of each record the answer of a fit without its unit, or its moment where few units are labelled.
    Raises UserError where normal or abnormal records are missing.
    """
    require_both(int((labels.label == LABEL_NORMAL).sum()), int((labels.label == LABEL_ABNORMAL).sum()))
    healthy = pool[torch.from_numpy(pool_scores <= np.quantile(pool_scores, HEALTHY))].double()
    deviation = _axes(healthy, WHITENING)
    net, embedded, compared = net if config.embedding else None, None, None
    if net is not None:
        of_healthy = embedding(net, healthy, net_columns)
        embedded, compared = _axes(of_healthy, WHITENING), _axes(of_healthy, COMPARED_WHITENING)
    seen = deviations(x, deviation, net, net_columns, embedded, compared)
    fold = _folds(labels)
    named = labels.fault >= 0
    out_of_fold = _answers(config, seen, labels, len(faults), fold)

    margin, margin_bias = _margin(config, seen.length, labels, np.ones(len(fold), bool))
    usual, high = np.quantile(pool_scores, (0.5, 0.9))
    unit = max(high - usual, 1e-9 * max(abs(usual), 1.0))  # where all score alike
    evidence = np.stack([(scores - usual) / unit, out_of_fold.margin], axis=1)
    sure = np.isfinite(out_of_fold.margin) & labels.human
    if _both(labels.label[sure]):
        abnormal = _evidence(config, evidence, labels, sure, ([0, 1], [1]))
    else:  # one normal, say: without it no margin can be fitted to judge it by, and the detector's score alone is believed
        abnormal = _evidence(config, evidence, labels, labels.human if _both(labels.label[labels.human]) else labels.weight > 0, ([0],))

    fault, fault_bias = _faults(config, seen.direction, labels, len(faults), named)
    judged = named & labels.human & np.isfinite(out_of_fold.fault).all(axis=1)
    logits, truth = out_of_fold.fault[judged], labels.fault[judged]
    T = _temperature(logits, truth) if len(faults) > 1 else 1.0
    # a fault that hardly stands out has no direction yet, and would drag the cut down
    plain = named & (scores >= np.quantile(pool_scores, PLAIN)) & np.isfinite(out_of_fold.likeness)
    own = out_of_fold.likeness[plain]
    unknown_below = float(np.quantile(own, config.unknown_share)) if len(own) >= MIN_NAMED else -1.0

    in_scores = np.array([abnormal[0] / unit, abnormal[1], abnormal[2] - abnormal[0] * usual / unit])
    diagnosis = LinearDiagnosis(
        len(faults),
        net_columns,
        deviation,
        *(torch.from_numpy(np.asarray(values, np.float64)) for values in (fault, fault_bias, margin, margin_bias, in_scores, T)),
        references=seen.likeness[torch.from_numpy(named)].float(),
        unknown_below=torch.tensor(unknown_below, dtype=torch.float64),
        net=net,
        embedded=embedded,
        compared=compared,
    )
    probability = expit(evidence[sure] @ abnormal[:2] + abnormal[2])
    figures = _figures(probability, labels.label[sure] == LABEL_ABNORMAL, logits / T, truth, faults)
    return FittedDiagnosis(diagnosis, figures | {"temperature": T, "unknown_below": unknown_below})


def _both(label: np.ndarray) -> bool:
    return bool((label == LABEL_NORMAL).any() and (label == LABEL_ABNORMAL).any())


def _axes(x: Float[Tensor, "records dims"], power: float) -> Whitening:
    moments = Moments(x.shape[1])
    moments.update(x.double())
    return whitening(moments.mean, moments.ledoit_wolf()[0], power)


# ---------------------------------------------------------------- answers to records that a fit has not seen


@dataclass
class _Answers:
    margin: Float64[np.ndarray, " labelled"]
    fault: Float64[np.ndarray, "labelled faults"]
    likeness: Float64[np.ndarray, " labelled"]


def _folds(labels: Labels) -> Int64[np.ndarray, " labelled"]:
    """A number for each label; what belongs together (a unit, else a moment) has one."""
    kind = np.where(labels.label == LABEL_NORMAL, -1, labels.fault + 1)
    spread = all(len(np.unique(labels.unit[kind == one])) > 1 for one in np.unique(kind))
    together = labels.unit if spread and len(np.unique(labels.unit)) >= MIN_UNITS else labels.moment
    num = min(FOLDS, len(np.unique(together)), int(np.unique(kind, return_counts=True)[1].max()))
    fold = np.zeros(len(kind), np.int64)
    if num > 1:
        with warnings.catch_warnings():
            # a kind in fewer groups than folds has no answers where it is left out whole
            warnings.simplefilter("ignore", UserWarning)
            splitter = StratifiedGroupKFold(num, shuffle=True, random_state=0)
            for number, (_, test) in enumerate(splitter.split(np.zeros((len(kind), 1)), kind, together)):
                fold[test] = number
    return fold


def _answers(config: LinearDiagnosisConfig, seen: Deviations, labels: Labels, num_faults: int, fold: np.ndarray) -> _Answers:
    """NaN where the other folds could not be fitted."""
    found = _Answers(*(np.full(shape, np.nan) for shape in (len(fold), (len(fold), num_faults), len(fold))))
    named = labels.fault >= 0
    for number in np.unique(fold):
        test = fold == number
        train = ~test
        if _both(labels.label[train]):
            weights, bias = _margin(config, seen.length, labels, train)
            found.margin[test] = seen.length[torch.from_numpy(test)].numpy() @ weights + bias
        if (named & train).any():
            weights, bias = _faults(config, seen.direction, labels, num_faults, named & train)
            answered = test & np.isin(labels.fault, labels.fault[named & train])
            found.fault[answered] = seen.direction[torch.from_numpy(answered)].numpy() @ weights.T + bias
            of = seen.likeness[torch.from_numpy(test)], seen.likeness[torch.from_numpy(named & train)]
            found.likeness[test] = likeness(*of).numpy()
    return found


# ---------------------------------------------------------------- the regressions


def _margin(config: LinearDiagnosisConfig, v: Tensor, labels: Labels, rows: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights and bias of the log-odds of being abnormal, both kinds counting alike."""
    model = LogisticRegression(C=config.inverse_penalty, class_weight="balanced", max_iter=5000)
    model.fit(v[torch.from_numpy(rows)].numpy(), labels.label[rows], labels.weight[rows])
    return np.asarray(model.coef_)[0], float(np.asarray(model.intercept_)[0])


def _faults(config: LinearDiagnosisConfig, u: Tensor, labels: Labels, num_faults: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights (faults, shown) and biases; a fault that none of the rows has is never the answer."""
    weights, bias = np.zeros((num_faults, u.shape[1])), np.full(num_faults, -1e3)
    present = np.unique(labels.fault[rows])
    bias[present] = 0.0
    if len(present) > 1:
        model = LogisticRegression(C=config.inverse_penalty, class_weight="balanced", max_iter=5000)
        model.fit(u[torch.from_numpy(rows)].numpy(), labels.fault[rows], labels.weight[rows])
        own, at = np.asarray(model.coef_), np.asarray(model.intercept_)
        if len(present) == 2:  # scikit-learn gives the second's weights against the first
            own, at = np.concatenate([-own, own]) / 2, np.concatenate([-at, at]) / 2
        weights[present], bias[present] = own, at
    return weights, bias


def _evidence(
    config: LinearDiagnosisConfig, evidence: np.ndarray, labels: Labels, rows: np.ndarray, tried: Sequence[list[int]]
) -> Float64[np.ndarray, "3"]:
    """a, c and a0 of sigmoid(a score + c margin + a0), for `prevalence`, the likeliest by labels and `PRIOR`; `tried` are columns of the
    evidence, in this order: those with the detector's score are taken where it does not speak against itself."""
    abnormal = labels.label[rows] == LABEL_ABNORMAL
    share = np.where(abnormal, config.prevalence, 1 - config.prevalence)
    weight = share * len(abnormal) / np.where(abnormal, abnormal.sum(), (~abnormal).sum())
    even = float(logit(config.prevalence))
    for columns in tried:
        kept = [*columns, 2]
        x, spread = np.column_stack([evidence[rows], np.ones(len(abnormal))])[:, kept], PRIOR_SPREAD[kept]
        mean = PRIOR[kept] if 0 in columns else np.zeros(len(kept))  # the constant is that of a score

        def loss(b: np.ndarray, x: np.ndarray = x, mean: np.ndarray = mean, spread: np.ndarray = spread) -> tuple[float, np.ndarray]:
            z, off = x @ b + even, (b - mean) / spread
            value = weight @ (np.logaddexp(0, z) - abnormal * z) + off @ off / 2
            return float(value), (weight * (expit(z) - abnormal)) @ x + off / spread

        found = np.zeros(3)
        found[kept] = minimize(loss, mean, jac=True, method="L-BFGS-B").x  # type: ignore[call-overload]
        found[2] += even
        if found[0] > 0 or 0 not in columns:
            return found
    return np.array([0.0, 0.0, even])


def _temperature(logits: Float64[np.ndarray, "judged faults"], truth: Int64[np.ndarray, " judged"]) -> float:
    """The likeliest by the answers to labels and by what it mostly is."""
    share = PRIOR_LABELS / max(1, len(truth))
    return temperature(lambda t: (fault_loss(logits / t, truth) if len(truth) else 0.0) + share / 2 * np.log(t / PRIOR_TEMPERATURE) ** 2)


def _figures(
    probability: np.ndarray, abnormal: np.ndarray, logits: np.ndarray, truth: np.ndarray, faults: tuple[str, ...]
) -> dict[str, Any]:
    figures: dict[str, Any] = {"num_labels": len(abnormal), "abnormal_calibration_error": calibration_error(probability, abnormal)}
    if len(truth):
        answer = logits.argmax(axis=1)
        by_fault = fault_f1([faults[i] for i in truth], [faults[i] for i in answer], [faults[i] for i in np.unique(truth)])
        confidence = np.exp(log_softmax(logits, axis=1)).max(axis=1)
        figures |= {
            "macro_f1": float(np.mean(list(by_fault.values()))),
            "f1_by_fault": by_fault,
            "fault_calibration_error": calibration_error(confidence, answer == truth),
        }
    return figures
