"""The inner level of a search: every setting of every threshold method on the scores that a trial has made once."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vibray.config import to_json
from vibray.decide.cuts import CutsError, CutsWarning
from vibray.decide.metrics import at_alarm
from vibray.decide.thresholds import ConformalConfig, MadConfig, PercentileConfig, PotConfig, cuts_of

CutsSetting = PercentileConfig | MadConfig | PotConfig | ConformalConfig

SETTINGS: tuple[CutsSetting, ...] = (
    *(PercentileConfig(anomaly=percent) for percent in (90.0, 95.0, 97.0, 98.0, 99.0, 99.5)),
    *(MadConfig(anomaly=deviations) for deviations in (2.0, 3.0, 4.0, 5.0, 6.0)),
    *(PotConfig(q=rate) for rate in (0.001, 0.003, 0.01, 0.03)),
    *(ConformalConfig(q=rate) for rate in (0.01, 0.02, 0.05, 0.1)),
)
"""Method and parameter; four methods, 19 settings: milliseconds each, so that none is left to chance."""

FIGURES = "f1", "precision", "recall", "realised_rate"


@dataclass(frozen=True)
class FoldScores:
    """What one model says of the records that a cut is made of and of those it is judged on."""

    pool: np.ndarray
    """of the records that it was trained on, machines that are off left out"""
    trusted: np.ndarray
    """of records labelled normal that neither trained it nor are judged"""
    judged: np.ndarray
    abnormal: np.ndarray
    """bool a judged record"""
    calibrated: np.ndarray
    """bool a judged record: its sensor has a baseline; without one it raises no alarm"""


def threshold_table(folds: Sequence[FoldScores], settings: Sequence[CutsSetting] = SETTINGS) -> list[dict[str, Any]]:
    """One row a setting, in their order: F1, precision, recall and rate of false alarms, each the mean over the folds where it is defined.

    `setting` is the config, `num_folds` in how many folds there was a cut, `reason` why there was none in others ("": in all there was).
    A setting that gave no cut in some fold has no F1: it could not be used there.
    """
    rows = []
    for setting in settings:
        found, reason = [], ""
        for fold in folds:
            try:
                found.append(_at_cut(setting, fold))
            except CutsError as error:
                reason = str(error)
        means = {name: _mean([figures[name] for figures in found]) for name in FIGURES}
        if reason:
            means["f1"] = None
        rows.append({"setting": to_json(setting), **means, "num_folds": len(found), "reason": reason})
    return rows


def _at_cut(setting: CutsSetting, fold: FoldScores) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CutsWarning)
        if isinstance(setting, ConformalConfig):
            if not len(fold.trusted):
                raise CutsError("no records labelled normal stand outside the training pool and the fold")
            cuts = cuts_of(setting, fold.trusted, fold.trusted)
        else:
            cuts = cuts_of(setting, fold.pool)
    return at_alarm(fold.calibrated & (fold.judged >= cuts.anomaly_above), fold.abnormal)


def best_setting(table: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The row with the highest F1, at a tie the one with fewer false alarms, then the first; None where no row has an F1."""
    known = [row for row in table if row["f1"] is not None]
    return max(known, key=lambda row: (row["f1"], -(row["realised_rate"] or 0.0)), default=None)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
