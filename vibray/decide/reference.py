"""A record's p-value against its own sensor's reference scores: how rare its score is for that sensor when healthy."""

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float64, Int64

from vibray.decide import pareto
from vibray.decide.groups import SensorGroups, sensor_groups
from vibray.decide.pseudo_labels import undecided_rows
from vibray.decide.thresholds import FEW_EXCESSES, FEWEST_EXCESSES
from vibray.schema import FLEET_P_VALUE, TIME_TRUSTED
from vibray.storage.columns import flags, one_chunk, rows_of

FEWEST_REFERENCE = 50
"""Scores of all sensors together that can stand for a sensor's own."""
FEWEST_CONFORMAL = 99
"""With fewer a rank among a sensor's own reference cannot say 1 %: the p-value is an estimate, drawn towards other sensors."""
PRIOR_RECORDS = 20
"""What other sensors say counts as so many reference scores of the sensor's own. On the synthetic fleet, 200 new units of five seeds, it
holds 1 and 5 % best of 20, 50, 100 and 200, and brings the units' rates closer together than either alone."""
TAIL_SHARE = 0.1
NUM_FOLDS = 5
PValues = Iterator[tuple[Int64[np.ndarray, " _"], Float64[np.ndarray, " _"]]]
"""A sensor's rows in order of time, and their p-values."""

LOWEST_P = 1e-300
"""A p-value is never 0, so that its logarithm is finite."""


def usable_rows(scores: pa.Table) -> Bool[np.ndarray, " records"]:
    """The records whose score speaks of the machine: of a calibrated sensor, and not off, in transition or of a faulty sensor."""
    return ~undecided_rows(scores) & flags(scores["calibrated"])


def trusted_rows(scores: pa.Table) -> Bool[np.ndarray, " records"]:
    """The records whose time can be; all of them where nobody looked."""
    if TIME_TRUSTED.name not in scores.column_names:
        return np.ones(scores.num_rows, bool)
    return flags(scores[TIME_TRUSTED.name])


def with_out_of_sample(scores: pa.Table, out_of_sample: pa.Table | None) -> pa.Table:
    """The table, the scores of records that calibrated their sensor being those of jobs/calibrate.py (OUT_OF_SAMPLE), against a baseline
    that had not seen them. As scored they stand too low: beside them any new record looks rare."""
    if out_of_sample is None or not out_of_sample.num_rows:
        return scores
    rows = rows_of(scores, out_of_sample)
    for name in ("score", FLEET_P_VALUE.name):
        values = one_chunk(scores[name]).to_numpy(zero_copy_only=False).copy()
        values[rows[rows >= 0]] = one_chunk(out_of_sample[name]).to_numpy(zero_copy_only=False)[rows >= 0]
        own = pa.array(values, pa.float32(), from_pandas=name != "score")
        scores = scores.set_column(scores.column_names.index(name), scores.schema.field(name), own)
    return scores


def earliest_rows(groups: SensorGroups, usable: Bool[np.ndarray, " records"], num_records: int) -> Bool[np.ndarray, " records"]:
    """The earliest usable records of each sensor: `num_records` of them, and never more than half, so that some are left to be judged."""
    chosen = np.zeros(len(usable), bool)
    for _, rows in groups:
        mine = rows[usable[rows]]
        chosen[mine[: min(num_records, len(mine) // 2)]] = True
    return chosen


def estimated_sensors(groups: SensorGroups, usable: Bool[np.ndarray, " records"], in_reference: Bool[np.ndarray, " records"]) -> int:
    """How many sensors with a usable record have fewer than 99 of them in their reference: their p-values are estimates, not conformal."""
    known = usable & in_reference
    return sum(bool(usable[rows].any() and known[rows].sum() < FEWEST_CONFORMAL) for _, rows in groups)


def p_values(scores: Float64[np.ndarray, " records"], reference: Float64[np.ndarray, " reference"]) -> Float64[np.ndarray, " records"]:
    """The conformal p-value (1 + number of reference scores at or above) / (n + 1), carried on beyond the largest reference score.

    Up to that score nothing is assumed but exchangeability: P(p <= q) <= q for a healthy record. Beyond it the rank can fall no further,
    and p = 1 / (n + 1) S(s - t) / S(max - t), S the survival function of a generalised Pareto with shape >= 0 fitted by maximum likelihood
    to the highest tenth (at least 10 scores) of the reference, t the level below them; exponential for fewer than 30. A bounded tail
    is taken as exponential: an end point from a few hundred scores would call a healthy record impossible. Both are continuous at the
    largest score. With fewer than 20 reference scores nothing is carried on.

    Source: Vovk, Gammerman and Shafer 2005, "Algorithmic Learning in a Random World", chapter 2, for the rank.
    """
    return _Reference(reference).p_values(scores)


class _Reference:
    """Reference scores in order, and the tail that is carried on beyond them; it is fitted where a score asks for it, once."""

    def __init__(self, scores: Float64[np.ndarray, " reference"]) -> None:
        self.scores = np.sort(scores)

    @cached_property
    def tail(self) -> tuple[float, pareto.Pareto] | None:
        """The level, and the distribution of what lies above it."""
        num = len(self.scores)
        num_tail = max(FEWEST_EXCESSES, int(TAIL_SHARE * num))
        if num < 2 * num_tail:
            return None
        level = self.scores[-num_tail - 1]
        excesses = self.scores[self.scores > level] - level
        if len(excesses) < FEWEST_EXCESSES:
            return None
        tail = pareto.fit(excesses) if len(excesses) >= FEW_EXCESSES else pareto.Pareto(0.0, float(excesses.mean()))
        return level, tail if tail.shape > 0 else pareto.Pareto(0.0, float(excesses.mean()))

    def p_values(self, scores: Float64[np.ndarray, " records"]) -> Float64[np.ndarray, " records"]:
        num = len(self.scores)
        p = (1.0 + num - np.searchsorted(self.scores, scores, side="left")) / (num + 1)
        beyond = scores > self.scores[-1] if num else np.zeros(len(scores), bool)
        if beyond.any() and self.tail is not None:
            level, tail = self.tail
            *log_sf, at_largest = tail.log_survival(np.append(scores[beyond], self.scores[-1]) - level)
            p[beyond] = np.maximum(np.exp(np.array(log_sf) - at_largest) / (num + 1), LOWEST_P)
        return p


def p_values_by_sensor(
    scores: pa.Table,
    usable: Bool[np.ndarray, " records"],
    in_reference: Bool[np.ndarray, " records"],
    groups: SensorGroups | None = None,
    smoothed: bool = False,
) -> PValues:
    """Sensor by sensor its rows in order of time, and the p-value of each usable one against the reference records; NaN for the others.

    A reference record is compared with the reference records of other times only, in 5 folds of consecutive records: against a fit that had
    seen it no record is surprising. With n < 99 reference records of its sensor

        p = (number of them at or above + kappa p') / (n + kappa),   kappa = PRIOR_RECORDS

    p' being what the machines of training say (`fleet_p_value`), or where the run says nothing the p-value against the reference of all
    sensors of the table; where that is of fewer than 50 records, there is no p-value. (The mean of a Dirichlet process' posterior whose
    base is p'.) As the scores of a sensor's first records resemble one another, few of them say little.

    A rank among n is at most q for floor(q (n + 1)) of n + 1 records. A reference record stands against four fifths of them, so where how
    often its windows exceed is to be known for any q, the steps of its own rank would tell: `smoothed`, it is drawn within its step.
    (Vovk et al., equation 2.20; the draw is fixed.)
    """
    rng = np.random.default_rng(0)
    score = one_chunk(scores["score"]).to_numpy()
    told = one_chunk(scores[FLEET_P_VALUE.name]).to_numpy(zero_copy_only=False)
    of_all = score[usable & in_reference].astype(np.float64)
    pooled = _Reference(of_all) if len(of_all) >= FEWEST_REFERENCE else None
    del of_all

    def prior(rows: Int64[np.ndarray, " _"]) -> Float64[np.ndarray, " _"]:
        """How rare each score is for other sensors, NaN where nothing tells."""
        own = told[rows].astype(np.float64)
        if pooled is None or np.isfinite(own).all():
            return own
        return np.where(np.isfinite(own), own, pooled.p_values(score[rows].astype(np.float64)))

    def against(rows: Int64[np.ndarray, " _"], own: Int64[np.ndarray, " _"], conformal: bool) -> Float64[np.ndarray, " _"]:
        values, known = score[rows].astype(np.float64), score[own].astype(np.float64)
        if conformal:
            return p_values(values, known)
        above = len(known) - np.searchsorted(np.sort(known), values, side="left")
        return (above + PRIOR_RECORDS * prior(rows)) / (len(known) + PRIOR_RECORDS)

    for _, rows in sensor_groups(scores) if groups is None else groups:
        p = np.full(len(rows), np.nan)
        at_known, at_new = np.flatnonzero(usable[rows] & in_reference[rows]), np.flatnonzero(usable[rows] & ~in_reference[rows])
        known, conformal = rows[at_known], len(at_known) >= FEWEST_CONFORMAL
        p[at_new] = against(rows[at_new], known, conformal)
        for fold in np.array_split(np.arange(len(known)), NUM_FOLDS):
            others = np.delete(known, fold)
            own = against(known[fold], others, conformal)
            if smoothed and conformal:
                drawn, step = rng.random(len(fold)), 1 / (len(others) + 1)
                own -= np.where(own > 1.5 * step, drawn * step, 0.0)  # beyond the highest it is drawn already
            p[at_known[fold]] = own
        yield rows, p
