"""Who is trained on and who is judged, when recipes are compared: folds of units, pools of a stated contamination, labels for a budget.

All draws are nested: a larger contamination or budget holds the records of a smaller one of the same seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vibray.config import UserError
from vibray.schema import NORMAL

UNLABELLED = ""

RECORDS_PER_SENSOR = 200
"""Earliest records that calibrate a new sensor. P(realised rate within [.6, 1.5] of 1 %) is .97 with so many; with 20 or 50 no conformal
cut exists."""


class SplitError(UserError):
    """A corpus cannot be split as asked: too few units, records or faults; the message says what would help."""


@dataclass(frozen=True)
class Records:
    """What a split needs to know of each record, one entry a record in every array."""

    unit: np.ndarray
    sensor: np.ndarray
    """int: records of one number are of one sensor, (unit, sensor_id)"""
    order: np.ndarray
    """int: rank by (measured_at, record_id)"""
    time: np.ndarray
    """anything that sorts by measured_at"""
    label: np.ndarray
    """ "normal", the name of a fault, or "" """

    @property
    def healthy(self) -> np.ndarray:
        return self.label == NORMAL

    @property
    def faulty(self) -> np.ndarray:
        return (self.label != NORMAL) & (self.label != UNLABELLED)


@dataclass(frozen=True)
class Setting:
    """One cell of a benchmark's grid, but for its recipe."""

    fold: int
    seed: int
    contamination: float
    budget: int | None = None
    """labels that the recipe may see; None for one that sees none"""


@dataclass(frozen=True)
class Split:
    """Row numbers. A record stands in `pool` or in one of `calibration` and `judged`; those of `labelled` are the pool's own units'."""

    pool: np.ndarray
    """trained on, labels unseen"""
    calibration: np.ndarray
    """the earliest of each sensor that the pool does not hold, unlabelled use"""
    judged: np.ndarray
    """labelled records of the fold that do not calibrate"""
    labelled: np.ndarray
    """records whose labels a recipe with a budget may see"""
    halved: int
    """sensors with fewer than twice the calibration records, which calibrate with half of what they have"""


def independent(content_hash: Sequence[str], label: np.ndarray) -> np.ndarray:
    """bool a record: True for one of each waveform, the labelled one first; none where labels contradict each other.

    decide/duplicates.py has left out records read twice; here the same waveform under another sensor or time goes too, which would stand
    on both sides of a split.
    """
    rows: dict[str, list[int]] = {}
    for row, content in enumerate(content_hash):
        rows.setdefault(content, []).append(row)
    keep = np.zeros(len(label), bool)
    for same in rows.values():
        labels = {label[row] for row in same} - {UNLABELLED}
        if len(labels) <= 1:
            keep[next((row for row in same if label[row] != UNLABELLED), same[0])] = True
    return keep


def folds(records: Records, num_folds: int, seed: int = 0) -> tuple[np.ndarray, bool]:
    """The fold of each record, and whether folds are of units. A unit is in one fold, and the folds get equal shares of the faults.

    With fewer units than folds each unit's history is cut into `num_folds` blocks of time, records of one moment staying together; the
    sensors are then known from training. Raises SplitError where not even that is possible.
    """
    if num_folds < 2:
        raise SplitError(f"at least 2 folds are needed, not {num_folds}")
    units, of = np.unique(records.unit, return_inverse=True)
    if len(units) < num_folds:
        return _blocks(records, of, num_folds), False
    num_faults, num_records = np.bincount(of[records.faulty], minlength=len(units)).tolist(), np.bincount(of).tolist()
    drawn = np.random.default_rng(seed).permutation(len(units)).tolist()
    sums = [(0, 0, fold) for fold in range(num_folds)]
    fold_of_unit = np.empty(len(units), np.int64)
    for unit in sorted(drawn, key=lambda u: (-num_faults[u], -num_records[u])):
        faults, count, fold = min(sums)
        fold_of_unit[unit] = fold
        sums[fold] = (faults + num_faults[unit], count + num_records[unit], fold)
    return fold_of_unit[of], True


def _blocks(records: Records, unit: np.ndarray, num_folds: int) -> np.ndarray:
    fold = np.empty(len(unit), np.int64)
    for u in range(unit.max() + 1):
        rows = np.flatnonzero(unit == u)
        moments, at = np.unique(records.time[rows], return_inverse=True)
        if len(moments) < num_folds:
            raise SplitError(f"unit {records.unit[rows[0]]} has {len(moments)} moments, too few for {num_folds} folds: lower --num-folds")
        fold[rows] = at * num_folds // len(moments)
    return fold


def split(records: Records, fold: np.ndarray, setting: Setting, calibration_records: int, unlabelled_pool: bool = False) -> Split:
    """The rows of one cell. The same arguments give the same rows.

    `unlabelled_pool` takes the unlabelled records of the other folds into the pool too, counted as normal: the stated contamination is then
    a lower bound. Raises SplitError where the contamination cannot be had.
    """
    train, test = fold != setting.fold, fold == setting.fold
    random = np.random.default_rng((setting.seed, setting.fold))
    normal = random.permutation(np.flatnonzero(train & (records.healthy | (unlabelled_pool & (records.label == UNLABELLED)))))
    faulty = random.permutation(np.flatnonzero(train & records.faulty))
    pool = _pool(normal, faulty, setting)
    new = test & ~np.isin(records.sensor, np.unique(records.sensor[pool]))
    calibration, halved = _earliest(records, np.flatnonzero(new), calibration_records)
    rest = test & (records.label != UNLABELLED)
    rest[calibration] = False
    labelled = _labelled(records, normal[records.healthy[normal]], faulty, setting.budget or 0)
    return Split(np.sort(pool), calibration, np.flatnonzero(rest), np.sort(labelled), halved)


def _pool(normal: np.ndarray, faulty: np.ndarray, setting: Setting) -> np.ndarray:
    """All normals and the faults that make up the share; where faults are too few, all of them and fewer normals."""
    share = setting.contamination
    if not 0 <= share < 1:
        raise SplitError(f"a contamination is a share from 0 to below 1, not {share}")
    num_normal, num_faulty = len(normal), round(len(normal) * share / (1 - share))
    if num_faulty > len(faulty):
        num_normal, num_faulty = round(len(faulty) * (1 - share) / share), len(faulty)
    if not num_normal:
        missing = "normal record" if not len(normal) else "fault"
        raise SplitError(f"the training units of fold {setting.fold} have no labelled {missing}: no pool of contamination {share:g} exists")
    return np.concatenate([normal[:num_normal], faulty[:num_faulty]])


def _earliest(records: Records, rows: np.ndarray, count: int) -> tuple[np.ndarray, int]:
    """The `count` earliest rows of each sensor, half of them where it has fewer than twice as many; and how many sensors those are."""
    taken, halved = [], 0
    for sensor in np.unique(records.sensor[rows]):
        own = rows[records.sensor[rows] == sensor]
        own = own[np.argsort(records.order[own])]
        halved += len(own) < 2 * count
        taken.append(own[: min(count, len(own) // 2)])
    return np.sort(np.concatenate([np.empty(0, np.int64), *taken])), halved


def _labelled(records: Records, normal: np.ndarray, faulty: np.ndarray, budget: int) -> np.ndarray:
    """Half faults, the kinds in turn, half normals; from the far end of the draw, so that they are in the pool only where few are left."""
    num_faulty = min((budget + 1) // 2, len(faulty))
    faulty, normal = faulty[::-1], normal[::-1]
    turn = np.zeros(len(faulty), np.int64)
    for kind in set(records.label[faulty].tolist()):
        own = records.label[faulty] == kind
        turn[own] = np.arange(own.sum())
    return np.concatenate([faulty[np.argsort(turn, kind="stable")][:num_faulty], normal[: budget - num_faulty]])


def sizes(records: Records, rows: Split) -> dict[str, Any]:
    """The counts of a split that are told with its figures."""
    judged = records.label[rows.judged]
    return {
        "pool": len(rows.pool),
        "pool_faults": int(records.faulty[rows.pool].sum()),
        "pool_unlabelled": int((records.label[rows.pool] == UNLABELLED).sum()),
        "calibration": len(rows.calibration),
        "judged": len(judged),
        "judged_faults": int((judged != NORMAL).sum()),
        "labelled": len(rows.labelled),
        "halved_sensors": rows.halved,
    }
