"""How good scores are, where labels are given: rates at a cut, F1, the areas. Labels are read here and by nothing that is evaluated."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vibray.config import UserError
from vibray.decide.areas import MAX_FPR, auprc, auroc, auroc_std, bootstrap_by_unit, partial_auroc, proportion_interval
from vibray.decide.cuts import PROBABILITY_CUT, Cuts, GroupedCuts, Number, Scores, finite
from vibray.schema import NORMAL


def at_alarm(alarm: np.ndarray, abnormal: np.ndarray) -> dict[str, Any]:
    """Counts, precision, recall, F1 and the realised false-alarm rate (share of normal records with an alarm) of yes-or-no answers.

    Recall and realised rate with their exact 95 % intervals. A ratio whose denominator is 0 is None.
    """
    alarm, abnormal = np.asarray(alarm, bool), np.asarray(abnormal, bool)
    true_alarms, false_alarms = int((alarm & abnormal).sum()), int((alarm & ~abnormal).sum())
    missed, quiet = int((~alarm & abnormal).sum()), int((~alarm & ~abnormal).sum())
    return {
        "true_alarms": true_alarms,
        "false_alarms": false_alarms,
        "missed": missed,
        "quiet": quiet,
        "precision": _ratio(true_alarms, true_alarms + false_alarms),
        "recall": _ratio(true_alarms, true_alarms + missed),
        "recall_interval": proportion_interval(true_alarms, true_alarms + missed),
        "f1": _ratio(2 * true_alarms, 2 * true_alarms + false_alarms + missed),
        "realised_rate": _ratio(false_alarms, false_alarms + quiet),
        "realised_rate_interval": proportion_interval(false_alarms, false_alarms + quiet),
    }


def fault_f1(labels: Sequence[str], predicted: Sequence[str], faults: Sequence[str]) -> dict[str, float]:
    """F1 of each fault against all other labelled records, normal ones and other faults alike; 0 where it is neither named nor met."""
    truth, answer = np.array(labels, np.str_), np.array(predicted, np.str_)
    return {fault: at_alarm(answer == fault, truth == fault)["f1"] or 0.0 for fault in faults}


NUM_BINS = 15


def calibration_error(probability: np.ndarray, right: np.ndarray) -> float | None:
    """Expected calibration error: |mean probability - share that is right|, averaged over 15 bins of equal mass; None without records.

    Few records make it large by themselves: a bin of ten is off by some .15 where the probabilities are true.

    Source: Naeini et al. 2015, "Obtaining well calibrated probabilities using Bayesian binning", with bins of equal mass.
    """
    p, right = np.asarray(probability, np.float64), np.asarray(right, np.float64)
    if not len(p):
        return None
    _, tie = np.unique(p, return_inverse=True)
    right = (np.bincount(tie, right) / np.bincount(tie))[tie]  # equal probabilities are right alike, in whatever order they come
    bins = [rows for rows in np.array_split(np.argsort(p, kind="stable"), NUM_BINS) if len(rows)]
    return float(sum(len(rows) * abs(p[rows].mean() - right[rows].mean()) for rows in bins) / len(p))


@dataclass(frozen=True)
class Diagnoses:
    """What a classifier said, row by row."""

    fault: Sequence[str]
    """ "normal", "unknown" or the fault's name."""
    faults: tuple[str, ...]
    """The faults it was trained on: those of its own labels."""
    probabilities: np.ndarray | None = None
    """(rows, faults): of each fault, given that the record is abnormal."""


def evaluation(
    scores: Scores,
    labels: Sequence[str | None],
    units: Sequence[str],
    *,
    sensor_ids: Sequence[str] | None = None,
    usable: np.ndarray | Sequence[bool] | None = None,
    cuts: Cuts | GroupedCuts | None = None,
    diagnoses: Diagnoses | None = None,
    num_scored: int | None = None,
) -> dict[str, Any]:
    """Everything that is said of scores where labels are given, ready for JSON: an undefined value is None, its reason under "undefined".

    One entry a row in every argument, which may be the labelled rows alone of `num_scored` (None: all are here). A label is "normal", the
    name of a fault, or None (no label: counted, not evaluated).
    Alarms are score >= the abnormal cut of `cuts`, by group where it has groups (`sensor_ids` for cuts by sensor); for a classifier without
    cuts, score >= .5. A row that is not `usable` (of a machine in service and a calibrated sensor that works) raises no alarm; its score
    counts in the areas as any other.
    A fault's AUROC is that fault against all normal records; a unit's is its own abnormal against its own normal records. Macro-F1 is over
    the faults labelled both here and in the classifier's training; "given_faulty" asks the likeliest fault of faulty records alone, and how
    true its probability is.

    Raises ValueError where lengths differ, UserError where a score is NaN or nothing is labelled.
    """
    s = finite(scores) if len(scores) or num_scored is None else np.empty(0)  # a table whose labels all met lines set aside
    units, is_labelled = list(units), np.array([label is not None for label in labels], bool)
    given = (labels, units, sensor_ids, usable, diagnoses and diagnoses.fault)
    if any(column is not None and len(column) != len(s) for column in given):
        raise ValueError(f"{len(s)} scores, but other columns have {[len(c) for c in given if c is not None]} rows")
    if not is_labelled.any():
        raise UserError(f"none of the {num_scored or len(s)} scored records has a label: nothing can be evaluated")

    rows = np.flatnonzero(is_labelled).tolist()
    label = np.array([labels[row] for row in rows], np.str_)
    unit = np.array([units[row] for row in rows], np.str_)
    score, abnormal = s[rows], label != NORMAL
    faults = sorted(set(label[abnormal].tolist()))

    area = auroc(score, abnormal)
    result: dict[str, Any] = {
        "auroc": area,
        "auroc_std": None if area is None else auroc_std(area, int(abnormal.sum()), int((~abnormal).sum())),
        "auprc": auprc(score, abnormal),
        "prevalence": float(abnormal.mean()),
        "partial_auroc": partial_auroc(score, abnormal),
        "partial_auroc_max_fpr": MAX_FPR,
        "spread_by_unit": bootstrap_by_unit(score, abnormal, unit.tolist()),
        "auroc_by_fault": {fault: _subset_auroc(score, abnormal, ~abnormal | (label == fault)) for fault in faults},
        "auroc_by_unit": {name: _subset_auroc(score, abnormal, unit == name) for name in sorted(set(unit.tolist()))},
        "counts": _counts(num_scored or len(s), label, unit),
        "at_cut": None,
        "macro_f1": None,
        "f1_by_fault": {},
    }
    answer = _alarms(s, units, sensor_ids, usable, cuts, diagnoses)
    if answer is not None:
        alarm, facts = answer
        result["at_cut"] = facts | at_alarm(alarm[rows], abnormal)
    if diagnoses is not None:
        both = sorted(set(faults) & set(diagnoses.faults))
        result["f1_by_fault"] = fault_f1(label.tolist(), [diagnoses.fault[row] for row in rows], both)
        result["macro_f1"] = float(np.mean(list(result["f1_by_fault"].values()))) if both else None
        result["faults_only_here"] = sorted(set(faults) - set(both))
        result["faults_only_in_training"] = sorted(set(diagnoses.faults) - set(both))
        result["given_faulty"] = _given_faulty(label, rows, diagnoses, both)
        result["abnormal_calibration_error"] = calibration_error(score, abnormal)
    result["undefined"] = _undefined(result, label, unit)
    return result


def _given_faulty(label: np.ndarray, rows: list[int], diagnoses: Diagnoses, both: list[str]) -> dict[str, Any] | None:
    """Macro-F1 and calibration error of the likeliest fault, over the records of faults that the classifier knows; None without any."""
    known = np.isin(label, both)
    if diagnoses.probabilities is None or not known.any():
        return None
    p = diagnoses.probabilities[np.array(rows)[known]]
    answer, truth = np.array(diagnoses.faults)[p.argmax(axis=1)], label[known]
    by_fault = fault_f1(truth.tolist(), answer.tolist(), both)
    error = calibration_error(p.max(axis=1), answer == truth)
    return {"macro_f1": float(np.mean(list(by_fault.values()))), "f1_by_fault": by_fault, "calibration_error": error}


def _alarms(
    s: np.ndarray,
    units: Sequence[str],
    sensor_ids: Sequence[str] | None,
    usable: np.ndarray | Sequence[bool] | None,
    cuts: Cuts | GroupedCuts | None,
    diagnoses: Diagnoses | None,
) -> tuple[np.ndarray, dict[str, Any]] | None:
    """Alarm per row and what is to be said of the cut; None where there is no cut."""
    can = np.ones(len(s), bool) if usable is None else np.asarray(usable, bool)
    if cuts is None:
        if diagnoses is None:
            return None
        return can & (s >= PROBABILITY_CUT), {"cut": PROBABILITY_CUT, "method": "probability", "rate_kind": None, "nominal_rate": None}
    above: np.ndarray | Number
    overall = cuts.overall
    if isinstance(cuts, Cuts):
        above = cuts.anomaly_above
    else:
        if cuts.by == "sensor" and sensor_ids is None:
            raise ValueError("the cuts are by sensor: sensor_ids are needed beside the units")
        _, above = cuts.limits(list(units) if cuts.by == "unit" else list(zip(units, sensor_ids or (), strict=True)))
    facts = {"cut": overall.anomaly_above, "method": overall.method, "rate_kind": overall.kind, "nominal_rate": overall.nominal_rate}
    return can & (s >= above), facts


def _counts(num_scored: int, label: np.ndarray, unit: np.ndarray) -> dict[str, Any]:
    def by(names: np.ndarray) -> dict[str, int]:
        found, num = np.unique(names, return_counts=True)
        return dict(zip(found.tolist(), num.tolist(), strict=True))

    abnormal = label != NORMAL
    return {
        "scored": num_scored,
        "labelled": len(label),
        "unlabelled": num_scored - len(label),
        "normal": int((~abnormal).sum()),
        "abnormal": int(abnormal.sum()),
        "by_fault": by(label[abnormal]),
        "by_unit": {
            name: {"normal": int((~abnormal & (unit == name)).sum()), "abnormal": int((abnormal & (unit == name)).sum())}
            for name in by(unit)
        },
    }


def _undefined(result: dict[str, Any], label: np.ndarray, unit: np.ndarray) -> dict[str, str]:
    """Why a value is None, by its name; one a unit as auroc_by_unit.<unit>."""

    def missing(labels: np.ndarray) -> str:
        return "no abnormal record is labelled" if (labels == NORMAL).all() else "no normal record is labelled"

    reasons = {name: missing(label) for name in ("auroc", "auroc_std", "auprc", "partial_auroc") if result[name] is None}
    reasons |= {f"auroc_by_fault.{name}": missing(label) for name, value in result["auroc_by_fault"].items() if value is None}
    reasons |= {f"auroc_by_unit.{name}": missing(label[unit == name]) for name, value in result["auroc_by_unit"].items() if value is None}
    if result["spread_by_unit"] is None:
        reasons["spread_by_unit"] = "records of one unit alone are labelled"
    if result["at_cut"] is None:
        reasons["at_cut"] = "no cuts are given and the scores are not a classifier's"
    else:
        why = {"precision": "no alarm", "recall": "no abnormal record is labelled", "f1": "no alarm and no abnormal record"}
        why |= {"realised_rate": "no normal record is labelled"} | dict.fromkeys(("nominal_rate", "rate_kind"), "the cut states no rate")
        reasons |= {f"at_cut.{name}": why[name] for name in why if result["at_cut"][name] is None}
    if result["macro_f1"] is None:
        reasons["macro_f1"] = "no diagnoses" if "faults_only_here" not in result else "no fault is labelled both here and in training"
    return reasons


def _subset_auroc(score: np.ndarray, abnormal: np.ndarray, where: np.ndarray) -> float | None:
    return auroc(score[where], abnormal[where]) if where.any() else None


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
