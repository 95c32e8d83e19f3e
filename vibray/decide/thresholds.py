"""Two cuts on a score: percentile, MAD, peaks over threshold, conformal; global, and by unit or sensor."""

import dataclasses
import math
import warnings
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import scipy  # its rooms (stats, optimize) are imported on first use: they take a second, which no --help needs
from jaxtyping import Int
from pydantic import Field, with_config

from vibray.config import STRICT
from vibray.decide import pareto
from vibray.decide.cuts import Cuts, CutsError, CutsWarning, GroupCuts, GroupedCuts, Number, Scores, finite
from vibray.signal.robust import median_mad

NORMAL_PERCENT = 5.0
"""The share of the fitted scores called normal where a method says nothing of its own about the lower cut."""

SKEWED = 0.1
"""mad(log="auto") takes scores as skewed above this quartile skewness, (q75 + q25 - 2 q50) / (q75 - q25).

A normal distribution has 0, chi2(5) .15, the exponential .26; a twentieth of faults far away moves it by less than .06."""

FEWEST_EXCESSES, FEW_EXCESSES = 10, 30
HEAVIEST_SHAPE, BOUNDED_SHAPE = 1.0, -0.5


class TailError(CutsError):
    """The upper tail bears no fit: too few excesses, or one so heavy that it has no mean."""


def percentile(scores: Scores, normal: Number = 5, anomaly: Number = 99) -> Cuts:
    """The `normal` and `anomaly` percentiles of the scores (linear between order statistics).

    They pick a rate: of a contaminated corpus 1 % is called abnormal whether .1 % or 5 % are. Raises CutsError where the two cuts coincide.
    """
    if not 0 <= normal < anomaly <= 100:
        raise CutsError(f"percentiles must satisfy 0 <= normal < anomaly <= 100, not normal = {normal}, anomaly = {anomaly}")
    s = finite(scores)
    low, high = np.percentile(s, [normal, anomaly])
    return Cuts(float(low), float(high), "percentile", nominal_rate=1 - anomaly / 100, num_scores=len(s))


def mad(scores: Scores, normal: Number = 2, anomaly: Number = 4, log: Literal["auto"] | bool = "auto") -> Cuts:
    """median - `normal` and median + `anomaly` robust standard deviations (1.4826 x the median absolute deviation).

    On raw right-skewed scores the lower cut falls below every score and selects nothing. `log="auto"` therefore takes the first of: the
    scores as they are, unless their quartile skewness exceeds 0.1; their logarithm, where all are positive; the logarithm of their height
    above the smallest - whose lower cut selects a score. `Cuts.scale` says which. `log=True` insists on log(score), False on the raw score;
    where its lower cut selects nothing, the 5th percentile stands for it. That is right for scores that are logarithms already, as the
    default's: a logarithm of those puts the upper cut out of reach (two fleets' pools: recall of faults 0 against .72 to .85 at .4 to .7 %
    of healthy records).

    It is a rule and promises no rate, on trusted normals neither: the nominal rate is that of a Gaussian beyond `anomaly` standard
    deviations, true only as far as the healthy (log) scores are one.
    Raises CutsError where half of the scores are equal, or log is True and a score is not positive. Warns where the percentile stands in.
    """
    s = finite(scores)
    if log is True and s.min() <= 0:
        raise CutsError(f"the smallest score is {s.min():.6g} and has no logarithm: use log='auto'")
    scales = {True: ["log"], False: ["raw"], "auto": _scales_by_skew(s)}[log]
    for scale in scales:
        cuts = _mad_on(s, scale, normal, anomaly)
        if cuts.normal_below >= s.min():
            return cuts
    low = float(np.percentile(s, NORMAL_PERCENT))
    said = f"the lower cut {cuts.normal_below:.6g} ({cuts.scale} scores) lies below the smallest score {s.min():.6g}"
    return _said(dataclasses.replace(cuts, normal_below=low).warned(f"{said}: the lowest {NORMAL_PERCENT:g} % are called normal"))


def _scales_by_skew(s: np.ndarray) -> list[str]:
    q25, q50, q75 = np.percentile(s, [25, 50, 75])
    raw = [] if q75 > q25 and (q75 + q25 - 2 * q50) / (q75 - q25) > SKEWED else ["raw"]
    return raw + (["log"] if s.min() > 0 else []) + ["log above the smallest"]


def _mad_on(s: np.ndarray, scale: str, normal: Number, anomaly: Number) -> Cuts:
    origin = {"raw": 0.0, "log": 0.0, "log above the smallest": s.min()}[scale]
    # the smallest score's own height has the logarithm -inf, which leaves a median as it is; where half are the smallest, the spread is NaN
    with np.errstate(divide="ignore", invalid="ignore"):
        v = s if scale == "raw" else np.log(s - origin)
        median, spread = median_mad(v)
    if not (np.isfinite(spread) and spread > 0):
        raise CutsError(f"the median absolute deviation of {len(s)} scores is {spread:.6g}: half or more are equal; use percentile")
    low, high = median - normal * spread, median + anomaly * spread
    if scale != "raw":
        with np.errstate(over="ignore"):  # Cuts refuses an infinite one
            low, high = origin + np.exp(low), origin + np.exp(high)
    return Cuts(
        float(low), float(high), "mad", kind="rule", nominal_rate=float(scipy.stats.norm.sf(anomaly)), num_scores=len(s), scale=scale
    )


def pot(scores: Scores, q: Number = 0.001, level: Number = 0.90, normal: Number = 5) -> Cuts:
    """Peaks over threshold: the score passed with probability `q`, from a generalised Pareto fitted above the `level` quantile t.

    z_q = t + scale / shape ((q n / N_t)^(-shape) - 1), N_t of n scores lying above t; the normal cut is the `normal` percentile. The
    location stays 0: a free one, as in the original plan, sometimes realises a rate of 0 on bounded scores.

    Raises TailError where N_t < 10, or the shape exceeds 1 (no mean; nothing can be extrapolated). Warns, and says so in the cuts, where
    N_t < 30 (exponential tail) and where the tail is bounded (shape < -0.5): there z_q is never above the largest score.

    Source: Siffer et al. 2017, "Anomaly detection in streams with extreme value theory", eq. 1.
    """
    if not (0 < q < 1 and 0 < level < 1 and 0 <= normal < 100 * level):
        raise CutsError(f"POT needs 0 < q < 1, 0 < level < 1 and normal below the level, not q = {q}, level = {level}, normal = {normal}")
    s = finite(scores)
    low, t = np.percentile(s, [normal, 100 * level])
    excesses = s[s > t] - t
    if len(excesses) < FEWEST_EXCESSES:
        found = f"{len(excesses)} of {len(s)} scores lie above the {level} quantile"
        raise TailError(f"{found} and POT needs {FEWEST_EXCESSES}: lower the level or use mad")
    probability = q * len(s) / len(excesses)
    if probability >= 1:
        raise CutsError(f"q = {q} is not below the share of scores above the level, {len(excesses) / len(s):.4g}: lower q or the level")

    few = len(excesses) < FEW_EXCESSES
    tail = pareto.Pareto(0.0, float(excesses.mean())) if few else pareto.fit(excesses)
    if tail.shape > HEAVIEST_SHAPE:
        raise TailError(f"the tail's shape is {tail.shape:.3g}, above 1: no mean, nothing can be extrapolated; use mad, on log scores")
    z = float(t) + tail.height(probability)
    bounded = tail.shape < BOUNDED_SHAPE
    if bounded:
        z = min(z, float(s.max()))

    cuts = Cuts(float(low), z, "pot", nominal_rate=float(q), num_scores=len(s))
    cuts = dataclasses.replace(cuts, level=float(t), num_excesses=len(excesses), shape=tail.shape, tail_scale=tail.scale)
    if few:
        cuts = cuts.warned(f"only {len(excesses)} scores above the level: an exponential tail is taken for granted")
    if bounded:
        cuts = cuts.warned(f"the scores' tail is bounded (shape {tail.shape:.3g}): the cut is held at or below the largest score")
    return _said(cuts)


def conformal(normal_scores: Scores, q: Number) -> Cuts:
    """The cut at which a new healthy record raises an alarm with probability at most `q`, from the scores of trusted normals alone.

    A score is abnormal where its conformal p-value (1 + number of normals at or above it) / (n + 1) is at most q: above the k-th largest
    normal score, k = floor(q (n + 1)). The guarantee holds over the draw of the normals, if they and the new record are exchangeable. The
    normal cut is their 5th percentile.

    Raises CutsError with fewer than 1 / q - 1 normals: 1 % needs 99.

    Source: Vovk, Gammerman and Shafer 2005, "Algorithmic Learning in a Random World", chapter 2.
    """
    if not 0 < q < 1:
        raise CutsError(f"conformal needs 0 < q < 1, not {q}")
    s = finite(normal_scores)
    k = math.floor(q * (len(s) + 1) + 1e-9)  # 0.01 (99 + 1) must be 1 in floating point too
    if k < 1:
        needed = math.ceil(1 / q - 1 - 1e-9)
        raise CutsError(f"a false-alarm probability of {q} needs {needed} trusted normals and there are {len(s)}: no cut exists")
    above = np.nextafter(np.sort(s)[-k], np.inf)  # "abnormal" is >=, and a tie with the k-th normal is none
    low = np.percentile(s, NORMAL_PERCENT)
    return Cuts(float(low), float(above), "conformal", kind="false-alarm probability", nominal_rate=float(q), num_scores=len(s))


@with_config(STRICT)
@dataclasses.dataclass(frozen=True)
class PercentileConfig:
    """Two percentiles of the scores: a stated rate."""

    kind: Literal["percentile"] = "percentile"
    normal: float = 5.0
    """Scores at or below this percentile are normal."""
    anomaly: float = 99.0
    """Scores at or above this percentile are abnormal."""


@with_config(STRICT)
@dataclasses.dataclass(frozen=True)
class MadConfig:
    """Median and MAD of the scores, or of their logarithm: robust to a contaminated corpus."""

    kind: Literal["mad"] = "mad"
    normal: float = 2.0
    """Robust standard deviations below the median: the normal cut."""
    anomaly: float = 4.0
    """Robust standard deviations above the median: the abnormal cut."""
    log: Literal["auto"] | bool = "auto"
    """Work on the logarithm of the scores; auto: where they are skewed, or where the raw lower cut would select nothing."""


@with_config(STRICT)
@dataclasses.dataclass(frozen=True)
class PotConfig:
    """Peaks over threshold: a generalised Pareto fitted to the upper tail of the scores."""

    kind: Literal["pot"] = "pot"
    q: float = 0.001
    """Rate of records above the abnormal cut."""
    level: float = 0.90
    """Quantile above which the tail is fitted."""
    normal: float = 5.0
    """Scores at or below this percentile are normal."""


@with_config(STRICT)
@dataclasses.dataclass(frozen=True)
class ConformalConfig:
    """Conformal p-values from trusted normals: a guaranteed false-alarm probability."""

    kind: Literal["conformal"] = "conformal"
    q: float = 0.01
    """False-alarm probability; 0.01 needs at least 99 trusted normals."""


CutsConfig = Annotated[PercentileConfig | MadConfig | PotConfig | ConformalConfig, Field(discriminator="kind")]


def cuts_of(
    config: PercentileConfig | MadConfig | PotConfig | ConformalConfig, scores: Scores, trusted_normal_scores: Scores | None = None
) -> Cuts:
    """The cuts of one method. With trusted normals it is fitted on them alone, and its rate is then a false-alarm probability (not MAD's).

    Raises CutsError as the method does, and for conformal without trusted normals.
    """
    fitted_on = scores if trusted_normal_scores is None else trusted_normal_scores
    match config:
        case PercentileConfig():
            cuts = percentile(fitted_on, config.normal, config.anomaly)
        case MadConfig():
            cuts = mad(fitted_on, config.normal, config.anomaly, config.log)
        case PotConfig():
            cuts = pot(fitted_on, config.q, config.level, config.normal)
        case ConformalConfig():
            if trusted_normal_scores is None:
                raise CutsError("conformal cuts are made of trusted normals alone: give records labelled normal, or choose another method")
            cuts = conformal(trusted_normal_scores, config.q)
    return cuts if trusted_normal_scores is None or cuts.kind == "rule" else dataclasses.replace(cuts, kind="false-alarm probability")


Groups = tuple[Sequence[tuple[str, ...]], Int[np.ndarray, " records"]]
"""Names of groups, (unit,) or (unit, sensor_id) each, and the number of each record's."""


def grouped_cuts(
    groups: Groups,
    scores: Scores,
    config: PercentileConfig | MadConfig | PotConfig | ConformalConfig,
    by: Literal["unit", "sensor"] = "unit",
    min_records: int = 200,
    trusted_normal: np.ndarray | None = None,
) -> GroupedCuts:
    """One pair of cuts over all scores and one a group, so that a loud unit does not fill the anomaly class.

    `groups` are units, or sensors where `by` is "sensor"; `trusted_normal` (bool) marks the records to fit on. A group of fewer than
    `min_records` scores to fit on, or one that the method refuses, falls back to the cuts of all and says why. A group's warnings stand in
    its own cuts. Raises as `cuts_of` does, for all scores together.
    """
    s, (names, number) = finite(scores), groups
    if len(number) != len(s):
        raise CutsError(f"{len(number)} groups for {len(s)} scores")
    fit_on = np.ones(len(s), bool) if trusted_normal is None else np.asarray(trusted_normal, bool)
    order = np.argsort(number, kind="stable")
    ends = np.searchsorted(number[order], np.arange(len(names) + 1))

    def fitted(where: np.ndarray) -> Cuts:
        chosen = s[where[fit_on[where]]]
        return cuts_of(config, chosen, None if trusted_normal is None else chosen)

    overall = fitted(np.arange(len(s)))
    found = []
    for name, a, b in sorted(zip(names, ends.tolist(), ends[1:].tolist(), strict=False)):
        where = order[a:b]
        if not len(where):
            continue
        num = int(fit_on[where].sum())
        cuts, reason = None, f"{num} records to fit on, fewer than {min_records}"
        if num >= min_records:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", CutsWarning)
                try:
                    cuts, reason = fitted(where), ""
                except CutsError as error:
                    reason = str(error)
        found.append(GroupCuts(name, num, cuts, reason))
    return GroupedCuts(overall, by, min_records, tuple(found))


def _said(cuts: Cuts) -> Cuts:
    for message in cuts.warnings:
        warnings.warn(message, CutsWarning, stacklevel=3)
    return cuts
