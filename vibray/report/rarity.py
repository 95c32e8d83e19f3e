"""How rare each score is for its own sensor: one in so many healthy records, and no more than its reference can say."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int64

from vibray.decide.fleet_scores import FEWEST_SCORES
from vibray.decide.reference import (
    FEWEST_CONFORMAL,
    NUM_FOLDS,
    PRIOR_RECORDS,
    OutOfSample,
    earliest_rows,
    record_p_values,
    sensor_groups,
    trusted_rows,
    usable_rows,
    with_out_of_sample,
)
from vibray.report.words import ENGLISH, Words
from vibray.schema import FLEET_P_VALUE

MOST_ESTIMATED = FEWEST_SCORES
"""An estimate that leans on other machines says no more than one in so many: the fewest healthy scores that are kept of the run's."""

SAME = 1e-9
"""Relative: two p-values no further apart are one rank."""


@dataclass(frozen=True)
class Rarity:
    """Of each record: one in `one_in` healthy records of its sensor scores as high or higher."""

    one_in: Int64[np.ndarray, " records"]
    """0 where nothing is known: not calibrated, off, switching, a faulty sensor, or too few records to compare with"""
    beyond: Bool[np.ndarray, " records"]
    """rarer than that: it is above all that the reference holds"""
    estimate: Bool[np.ndarray, " records"]
    """the sensor's own reference is too small for 1 %, so that other machines have a say"""
    in_reference: Bool[np.ndarray, " records"]
    """the record is of the reference"""

    def words(self, row: int | None, t: Words = ENGLISH) -> str:
        """A phrase; a dash where nothing is known."""
        if row is None or not self.one_in[row]:
            return "–"
        return phrase(int(self.one_in[row]), bool(self.beyond[row]), bool(self.estimate[row]), t)

    def rank(self, row: int | None) -> int:
        """A number that sorts as the phrases do; 0 where nothing is known."""
        return 0 if row is None else 2 * int(self.one_in[row]) + int(self.beyond[row])


def phrase(one_in: int, beyond: bool, estimate: bool, t: Words = ENGLISH) -> str:
    """ "usual", "one in 40", "rarer than one in 99", "about one in 40"."""
    if one_in < 2:
        return t.plain("usual")
    if beyond:
        return t.plain("probably rarer than one in {n}" if estimate else "rarer than one in {n}", n=f"{one_in:,}")
    return t.plain("about one in {n}" if estimate else "one in {n}", n=f"{one_in:,}")


def rarity(scores: pa.Table, num_reference: int, out_of_sample: OutOfSample | None = None) -> Rarity:
    """Against the earliest `num_reference` usable records of each sensor, at most half of them, as alarms of units are judged.

    A score above all n of them is rarer than one in n; the tail that `reference.p_values` carries on beyond them orders alarms, but no
    person should read "one in 80,000" where 200 records were seen. A reference record is compared with four fifths of them. With fewer
    than 99 the p-value leans on other machines, the run's or those of the table, and says no more than one in 200; with fewer than 20 it is
    `fleet_p_value` where there is one: of seven records two may be faulty, and hide a third.
    """
    if not scores.num_rows:
        none = np.zeros(0, bool)
        return Rarity(np.zeros(0, np.int64), none, none, none)
    judged = with_out_of_sample(scores, out_of_sample or {})
    usable, groups = usable_rows(judged), sensor_groups(judged)
    in_reference = earliest_rows(groups, usable & trusted_rows(judged), num_reference)
    p = record_p_values(judged, usable, in_reference, groups)
    own = np.zeros(len(p), np.int64)
    for _, rows in groups:
        own[rows] = in_reference[rows].sum()
    of_fleet = judged[FLEET_P_VALUE.name].to_numpy(zero_copy_only=False).astype(np.float64)
    p = np.where((own < PRIOR_RECORDS) & usable & np.isfinite(of_fleet), of_fleet, p)
    estimate = own < FEWEST_CONFORMAL
    own[in_reference] -= -(-own[in_reference] // NUM_FOLDS)
    most = np.where(estimate, MOST_ESTIMATED, own)
    known = np.isfinite(p) & (most > 0)
    beyond = known & (p <= (1 + SAME) / (most + 1))  # a score that equals the largest has twice that
    one_in = np.zeros(len(p), np.int64)
    told = np.minimum(1 / np.maximum(np.where(known, p, 1.0), 1e-12) * (1 + SAME), most)
    digit = 10.0 ** np.floor(np.log10(np.maximum(told, 1)))
    told = np.where(estimate, np.round(told / digit) * digit, told)  # an estimate has one digit
    one_in[known] = np.where(beyond, most, told)[known].astype(np.int64)
    return Rarity(one_in, beyond, estimate & known, in_reference)
