"""Who is trained on and who is judged in a fold of a search."""

from dataclasses import dataclass

import numpy as np

from vibray.compare.corpus import Corpus
from vibray.decide.splits import Setting, Split
from vibray.fitting.data import search_pool


@dataclass(frozen=True)
class FoldRows:
    """Row numbers of one fold."""

    split: Split
    """pool, the held-out sensors' calibration, and judged: the labelled records of the fold's units"""
    trusted: np.ndarray
    """labelled normals of other units that are not in the pool"""


def fold_rows(corpus: Corpus, fold: int, seed: int) -> FoldRows:
    """The rows of a fold. No label decides who is trained on, but that labelled records may stay out of the pool (`search_pool`)."""
    split, sensor = corpus.rows(Setting(fold, seed, 0.0)), corpus.records.sensor
    pool = search_pool(corpus.records.label, np.flatnonzero(corpus.fold != fold))
    # where folds are blocks of time: a sensor that was trained on has a baseline, which no calibration may give again
    calibration = split.calibration[~np.isin(sensor[split.calibration], sensor[pool])]
    split = Split(pool, calibration, split.judged, split.labelled, split.halved)
    outside = corpus.records.healthy & (corpus.fold != fold)
    outside[split.pool] = False
    return FoldRows(split, np.flatnonzero(outside))
