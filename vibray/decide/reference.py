"""A record's p-value against its own sensor's reference scores: how rare its score is for that sensor when healthy."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float64, Int64

from vibray.decide import pareto
from vibray.decide.pseudo_labels import undecided_rows
from vibray.decide.thresholds import FEW_EXCESSES, FEWEST_EXCESSES
from vibray.schema import FLEET_P_VALUE, SENSOR, TIME_TRUSTED

FEWEST_REFERENCE = 50
"""Scores of all sensors together that can stand for a sensor's own."""
FEWEST_CONFORMAL = 99
"""With fewer a rank among a sensor's own reference cannot say 1 %: the p-value is an estimate, drawn towards other sensors."""
PRIOR_RECORDS = 20
"""What other sensors say counts as so many reference scores of the sensor's own. On the synthetic fleet, 200 new units of five seeds, it
holds 1 and 5 % best of 20, 50, 100 and 200, and brings the units' rates closer together than either alone."""
TAIL_SHARE = 0.1
NUM_FOLDS = 5
LOWEST_P = 1e-300
"""A p-value is never 0, so that its logarithm is finite."""


def usable_rows(scores: pa.Table) -> Bool[np.ndarray, " records"]:
    """The records whose score speaks of the machine: of a calibrated sensor, and not off, in transition or of a faulty sensor."""
    return ~undecided_rows(scores) & scores["calibrated"].to_numpy().astype(bool)


def trusted_rows(scores: pa.Table) -> Bool[np.ndarray, " records"]:
    """The records whose time can be; all of them where nobody looked."""
    if TIME_TRUSTED.name not in scores.column_names:
        return np.ones(scores.num_rows, bool)
    return scores[TIME_TRUSTED.name].to_numpy(zero_copy_only=False).astype(bool)


OutOfSample = Mapping[tuple[str, str], tuple[float, float | None]]
"""By (corpus, record_id) of a record that calibrated its sensor, its score and fleet_p_value against a baseline that had not seen it."""


def with_out_of_sample(scores: pa.Table, out_of_sample: OutOfSample) -> pa.Table:
    """The table, the scores of records that calibrated their sensor being those of jobs/calibrate.py, against a baseline that had not seen
    them. As scored they stand too low: beside them any new record looks rare."""
    if not out_of_sample:
        return scores
    keys = list(zip(scores["corpus"].to_pylist(), scores["record_id"].to_pylist(), strict=True))
    for i, name in enumerate(("score", FLEET_P_VALUE.name)):
        own = [out_of_sample[key][i] if key in out_of_sample else value for key, value in zip(keys, scores[name].to_pylist(), strict=True)]
        scores = scores.set_column(scores.column_names.index(name), scores.schema.field(name), pa.array(own, pa.float32()))
    return scores


SensorGroups = list[tuple[tuple[str, str], Int64[np.ndarray, " _"]]]
"""What `sensor_groups` gives: it sorts the table, so that who needs it twice makes it once."""


def sensor_groups(scores: pa.Table) -> SensorGroups:
    """Each (unit, sensor_id), in order, with its rows in order of (measured_at, corpus, record_id)."""
    columns = scores.select([*SENSOR, "measured_at", "corpus", "record_id"]).append_column("row", pa.array(np.arange(len(scores))))
    ordered = columns.sort_by([(name, "ascending") for name in (*SENSOR, "measured_at", "corpus", "record_id")])
    rows = ordered["row"].to_numpy().astype(np.int64)
    names = list(zip(*(ordered[name].to_pylist() for name in SENSOR), strict=True))
    starts = [i for i in range(len(names)) if i == 0 or names[i] != names[i - 1]]
    return [(names[a], rows[a:b]) for a, b in zip(starts, [*starts[1:], len(names)], strict=True)]


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
    ref = np.sort(reference)
    num = len(ref)
    p = (1.0 + num - np.searchsorted(ref, scores, side="left")) / (num + 1)
    num_tail = max(FEWEST_EXCESSES, int(TAIL_SHARE * num))
    if num < 2 * num_tail:
        return p
    beyond = scores > ref[-1]
    level = ref[-num_tail - 1]
    excesses = ref[ref > level] - level
    if beyond.any() and len(excesses) >= FEWEST_EXCESSES:
        tail = pareto.fit(excesses) if len(excesses) >= FEW_EXCESSES else pareto.Pareto(0.0, float(excesses.mean()))
        tail = tail if tail.shape > 0 else pareto.Pareto(0.0, float(excesses.mean()))
        *log_sf, at_largest = tail.log_survival(np.append(scores[beyond], ref[-1]) - level)
        p[beyond] = np.maximum(np.exp(np.array(log_sf) - at_largest) / (num + 1), LOWEST_P)
    return p


def record_p_values(
    scores: pa.Table,
    usable: Bool[np.ndarray, " records"],
    in_reference: Bool[np.ndarray, " records"],
    groups: SensorGroups | None = None,
    smoothed: bool = False,
) -> Float64[np.ndarray, " records"]:
    """The p-value of each usable record against the reference records of its sensor; NaN for the others.

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
    score, prior = scores["score"].to_numpy().astype(np.float64), _of_others(scores, usable, in_reference)
    p = np.full(len(score), np.nan)

    def against(rows: Int64[np.ndarray, " _"], own: Int64[np.ndarray, " _"], conformal: bool) -> Float64[np.ndarray, " _"]:
        if conformal:
            return p_values(score[rows], score[own])
        above = len(own) - np.searchsorted(np.sort(score[own]), score[rows], side="left")
        return (above + PRIOR_RECORDS * prior[rows]) / (len(own) + PRIOR_RECORDS)

    for _, rows in sensor_groups(scores) if groups is None else groups:
        mine = rows[usable[rows]]
        known, new = mine[in_reference[mine]], mine[~in_reference[mine]]
        conformal = len(known) >= FEWEST_CONFORMAL
        p[new] = against(new, known, conformal)
        for fold in np.array_split(np.arange(len(known)), NUM_FOLDS):
            others = np.delete(known, fold)
            p[known[fold]] = against(known[fold], others, conformal)
            if smoothed and conformal:
                drawn, step = rng.random(len(fold)), 1 / (len(others) + 1)
                p[known[fold]] -= np.where(p[known[fold]] > 1.5 * step, drawn * step, 0.0)  # beyond the highest it is drawn already
    return p


def _of_others(
    scores: pa.Table, usable: Bool[np.ndarray, " records"], in_reference: Bool[np.ndarray, " records"]
) -> Float64[np.ndarray, " records"]:
    """How rare each score is for other sensors, NaN where nothing tells."""
    score, p = scores["score"].to_numpy().astype(np.float64), np.full(scores.num_rows, np.nan)
    pooled = score[usable & in_reference]
    if len(pooled) >= FEWEST_REFERENCE:
        p = p_values(score, pooled)
    told = scores[FLEET_P_VALUE.name].to_numpy(zero_copy_only=False).astype(np.float64)
    return np.where(np.isfinite(told), told, p)
