"""How rare each score is for its own sensor: one in so many healthy records, and no more than its reference can say."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int

from vibray.decide.fleet_scores import FEWEST_SCORES
from vibray.decide.groups import SensorGroups, sensor_groups
from vibray.decide.reference import (
    FEWEST_CONFORMAL,
    NUM_FOLDS,
    PRIOR_RECORDS,
    earliest_rows,
    p_values_by_sensor,
    trusted_rows,
    usable_rows,
    with_out_of_sample,
)
from vibray.report.words import ENGLISH, Words
from vibray.schema import FLEET_P_VALUE
from vibray.storage.columns import one_chunk

MOST_ESTIMATED = FEWEST_SCORES
"""An estimate that leans on other machines says no more than one in so many: the fewest healthy scores that are kept of the run's."""

SAME = 1e-9
"""Relative: two p-values no further apart are one rank."""


@dataclass(frozen=True)
class Rarity:
    """Of each record: one in `one_in` healthy records of its sensor scores as high or higher."""

    one_in: Int[np.ndarray, " records"]
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


def rarity(scores: pa.Table, num_reference: int, out_of_sample: pa.Table | None = None, groups: SensorGroups | None = None) -> Rarity:
    """Against the earliest `num_reference` usable records of each sensor, at most half of them, as alarms of units are judged.

    A score above all n of them is rarer than one in n; the tail that `reference.p_values` carries on beyond them orders alarms, but no
    person should read "one in 80,000" where 200 records were seen. A reference record is compared with four fifths of them. With fewer
    than 99 the p-value leans on other machines, the run's or those of the table, and says no more than one in 200; with fewer than 20 it is
    `fleet_p_value` where there is one: of seven records two may be faulty, and hide a third. `groups` are the table's, where
    they are known.
    """
    judged = with_out_of_sample(scores, out_of_sample)
    usable, groups = usable_rows(judged), sensor_groups(judged) if groups is None else groups
    in_reference = earliest_rows(groups, usable & trusted_rows(judged), num_reference)
    of_fleet = one_chunk(judged[FLEET_P_VALUE.name]).to_numpy(zero_copy_only=False)
    one_in = np.zeros(len(usable), np.int16 if max(num_reference, MOST_ESTIMATED) < 2**15 else np.int32)
    beyond, estimate = np.zeros(len(usable), bool), np.zeros(len(usable), bool)
    for rows, p in p_values_by_sensor(judged, usable, in_reference, groups):
        num, known = int(in_reference[rows].sum()), in_reference[rows]
        estimated, told = num < FEWEST_CONFORMAL, of_fleet[rows].astype(np.float64)
        if num < PRIOR_RECORDS:
            p = np.where(usable[rows] & np.isfinite(told), told, p)
        most = np.full(len(rows), MOST_ESTIMATED) if estimated else np.where(known, num - -(-num // NUM_FOLDS), num)
        has = np.isfinite(p) & (most > 0)
        rarer = has & (p <= (1 + SAME) / (most + 1))  # a score that equals the largest has twice that
        one = np.minimum(1 / np.maximum(np.where(has, p, 1.0), 1e-12) * (1 + SAME), most)
        if estimated:  # an estimate has one digit
            digit = 10.0 ** np.floor(np.log10(np.maximum(one, 1)))
            one = np.round(one / digit) * digit
        one_in[rows] = np.where(has, np.where(rarer, most, one), 0)
        beyond[rows], estimate[rows] = rarer, has & estimated
    return Rarity(one_in, beyond, estimate, in_reference)
