import inspect
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import with_config
from scipy import stats

from vibray.config import STRICT, UserError, from_json, to_json
from vibray.decide.cuts import Cuts, CutsError, CutsWarning, GroupedCuts, realised_rate
from vibray.decide.pareto import Pareto
from vibray.decide.thresholds import (
    ConformalConfig,
    CutsConfig,
    MadConfig,
    PercentileConfig,
    PotConfig,
    TailError,
    conformal,
    cuts_of,
    grouped_cuts,
    mad,
    percentile,
    pot,
)

TAILS = {
    "exponential": stats.expon(),
    "chi2(1)": stats.chi2(1),
    "chi2(5)": stats.chi2(5),
    "half-normal": stats.halfnorm(),
    "lognormal(.5)": stats.lognorm(0.5),
    "lognormal(1)": stats.lognorm(1),
    "Pareto(1.5)": stats.pareto(1.5),
    "Pareto(2)": stats.pareto(2),
    "Pareto(3)": stats.pareto(3),
    "uniform": stats.uniform(),
}
NUM_SCORES = 30_000


def quiet_pot(scores, **arguments) -> Cuts:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CutsWarning)
        return pot(scores, **arguments)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (percentile, [("scores", None), ("normal", 5), ("anomaly", 99)]),
        (mad, [("scores", None), ("normal", 2), ("anomaly", 4), ("log", "auto")]),
        (pot, [("scores", None), ("q", 0.001), ("level", 0.90), ("normal", 5)]),
        (conformal, [("normal_scores", None), ("q", None)]),
    ],
)
def test_signatures(function, expected):
    parameters = inspect.signature(function).parameters.values()
    assert [(p.name, None if p.default is p.empty else p.default) for p in parameters] == expected


@pytest.mark.parametrize("method", [percentile, mad, pot, lambda scores: conformal(scores, 0.1)])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_are_refused_with_their_row(method, bad):
    scores = np.random.default_rng(0).normal(size=500)
    scores[17] = bad
    with pytest.raises(CutsError, match="1 of 500 scores are NaN or infinite, the first in row 17"):
        method(scores)
    with pytest.raises(CutsError, match="not empty"):
        method([])


# percentile


def test_percentile_is_that_of_the_uniform_grid():
    cuts = percentile(np.arange(1001.0))
    assert (cuts.normal_below, cuts.anomaly_above) == (50.0, 990.0)
    assert cuts.kind == "rate"
    assert cuts.nominal_rate == pytest.approx(0.01)


def test_percentile_refuses_equal_cuts_and_limits_in_the_wrong_order():
    with pytest.raises(CutsError, match="not below"):
        percentile(np.ones(100))
    with pytest.raises(CutsError, match="normal < anomaly"):
        percentile(np.arange(100.0), 99, 5)


# MAD


def test_mad_of_a_gaussian_lies_at_its_deviations():
    scores = 10 + 3 * stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    cuts = mad(scores)
    assert cuts.scale == "raw"
    assert cuts.normal_below == pytest.approx(10 - 2 * 3, abs=0.01)
    assert cuts.anomaly_above == pytest.approx(10 + 4 * 3, abs=0.01)
    assert cuts.nominal_rate == pytest.approx(3.167e-5, rel=1e-3)
    assert cuts.kind == "rule"


@pytest.mark.parametrize("scale", ["raw", "log", "log above the smallest"])
def test_mad_is_its_own_definition_with_scipys_deviation(scale):
    scores = {"raw": stats.norm(9, 2), "log": stats.lognorm(1), "log above the smallest": stats.expon(-1, 2)}[scale].rvs(
        999, random_state=2
    )
    cuts = mad(scores, normal=1.5, anomaly=3.5)
    assert cuts.scale == scale
    origin = scores.min() if scale == "log above the smallest" else 0.0
    with np.errstate(divide="ignore"):
        v = scores if scale == "raw" else np.log(scores - origin)
    deviation = 1.4826 * float(stats.median_abs_deviation(v[np.isfinite(v)] if scale == "log" else v, nan_policy="omit"))
    limits = np.median(v) + deviation * np.array([-1.5, 3.5])
    expected = limits if scale == "raw" else origin + np.exp(limits)
    assert [cuts.normal_below, cuts.anomaly_above] == pytest.approx(list(expected), rel=1e-9)


def test_mad_of_a_lognormal_lies_at_the_deviations_of_its_logarithm():
    z = stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    cuts = mad(np.exp(1 + 0.5 * z))
    assert cuts.scale == "log"
    assert np.log([cuts.normal_below, cuts.anomaly_above]) == pytest.approx([1 - 2 * 0.5, 1 + 4 * 0.5], abs=0.01)


def test_raw_mad_on_skewed_scores_takes_a_percentile_for_its_lower_cut_and_says_so():
    scores = stats.chi2(1).rvs(2000, random_state=0)
    with pytest.warns(CutsWarning, match="below the smallest score"):
        raw = mad(scores, log=False)
    assert raw.normal_below == np.percentile(scores, 5)
    assert raw.anomaly_above == pytest.approx(np.median(scores) + 4 * 1.4826 * np.median(np.abs(scores - np.median(scores))), rel=1e-4)
    assert raw.warnings
    assert np.mean(raw.decide(scores) == 0) == pytest.approx(0.05, abs=0.001)


@pytest.mark.parametrize("shift", [0.0, -5.0, 1000.0])
@pytest.mark.parametrize("name", TAILS)
def test_mad_always_selects_normals(name, shift):
    scores = TAILS[name].rvs(5000, random_state=0) + shift
    share = np.mean(mad(scores).decide(scores) == 0)
    assert 0.01 < share < 0.2


def test_mad_above_the_smallest_moves_and_scales_with_the_scores():
    scores = stats.expon().rvs(3000, random_state=1)
    one, other = mad(scores - 1), mad(7 * (scores - 1) - 40)
    assert one.scale == other.scale == "log above the smallest"
    assert other.normal_below == pytest.approx(7 * one.normal_below - 40, abs=1e-9)
    assert other.anomaly_above == pytest.approx(7 * one.anomaly_above - 40, abs=1e-9)


def test_mad_is_not_moved_far_by_contamination_where_percentile_and_pot_are():
    rng = np.random.default_rng(0)
    healthy, faulty = np.exp(0.3 * rng.normal(size=9500)), np.exp(1.6 + 0.3 * rng.normal(size=500))
    both = np.concatenate([healthy, faulty])
    assert realised_rate(mad(both), faulty) > 0.8
    assert realised_rate(percentile(both), faulty) < 0.25  # 1 % of all is a fifth of the faults: a rate, not a probability
    assert realised_rate(quiet_pot(both), faulty) < 0.1


def test_mad_refuses_scores_of_which_half_are_equal_and_logs_of_negatives():
    with pytest.raises(CutsError, match="half or more are equal"):
        mad(np.array([1.0] * 60 + [2.0, 3.0] * 20))
    with pytest.raises(CutsError, match="half or more are equal"):
        mad(np.array([0.0] * 60 + [1.0, 2.0] * 20))
    with pytest.raises(CutsError, match="must be finite"):
        mad(np.exp(np.linspace(-600, 600, 1000)))
    with pytest.raises(CutsError, match="no logarithm"):
        mad(np.arange(-5.0, 100.0), log=True)


# POT


def test_pot_is_the_formula_with_scipys_fit():
    scores = stats.gamma(2).rvs(20_000, random_state=3)
    cuts = pot(scores, q=0.002, level=0.95)
    t = np.quantile(scores, 0.95)
    y = scores[scores > t] - t
    shape, _, scale = stats.genpareto.fit(y, floc=0)
    z = t + scale / shape * ((0.002 * len(scores) / len(y)) ** -shape - 1)
    assert cuts.anomaly_above == pytest.approx(z, rel=1e-4)
    assert cuts.normal_below == pytest.approx(np.percentile(scores, 5))
    assert (cuts.level, cuts.num_excesses, cuts.nominal_rate) == (t, len(y), 0.002)


def test_pot_of_few_excesses_is_the_exponential_in_closed_form():
    scores = np.random.default_rng(0).normal(size=200)
    with pytest.warns(CutsWarning, match="only 20 scores above the level"):
        cuts = pot(scores)
    t = np.quantile(scores, 0.9)
    y = scores[scores > t] - t
    assert cuts.anomaly_above == pytest.approx(t - y.mean() * np.log(0.001 * 200 / 20), rel=1e-12)
    assert cuts.shape == 0.0
    assert "only 20" in cuts.warnings[0]


def test_pot_of_an_exponential_is_its_quantile():
    scores = stats.expon(scale=4).ppf((np.arange(50_000) + 0.5) / 50_000)
    assert pot(scores, q=0.01).anomaly_above == pytest.approx(-4 * np.log(0.01), rel=2e-3)


def realised(method, name: str, q: float, seed: int) -> float:
    """The true survival function at the cut over the nominal rate."""
    return float(TAILS[name].sf(method(TAILS[name].rvs(NUM_SCORES, random_state=seed), q).anomaly_above) / q)


RATES = {
    "pot": lambda scores, q: quiet_pot(scores, q=q),
    "percentile": lambda scores, q: percentile(scores, anomaly=100 * (1 - q)),
    "conformal": conformal,
}


@pytest.mark.parametrize("method", RATES)
@pytest.mark.parametrize("name", TAILS)
def test_a_single_fit_realises_one_percent_of_every_tail(name, method):
    for seed in range(3):
        assert 0.7 <= realised(RATES[method], name, 0.01, seed) <= 1.4


@pytest.mark.parametrize("method", RATES)
@pytest.mark.parametrize("name", TAILS)
def test_the_median_fit_realises_one_in_a_thousand(name, method):
    """Seven runs instead of 200: the median of a rate that scatters by an eighth, of percentiles by a fifth."""
    assert 0.75 <= np.median([realised(RATES[method], name, 0.001, seed) for seed in range(7)]) <= 1.35


@pytest.mark.slow
@pytest.mark.parametrize("method", RATES)
@pytest.mark.parametrize("name", TAILS)
def test_the_median_of_200_fits_realises_one_in_a_thousand(name, method):
    assert 0.9 <= np.median([realised(RATES[method], name, 0.001, seed) for seed in range(200)]) <= 1.1
    rates = [realised(RATES[method], name, 0.01, seed) for seed in range(60)]
    assert 0.7 <= min(rates) <= max(rates) <= 1.4


def test_pots_cut_is_continuous_through_shape_zero(monkeypatch):
    """As the shape of the fit passes through 0, so does the cut: no jump, and at 0 the exponential's."""
    scores = stats.expon().rvs(5000, random_state=0)
    t = np.quantile(scores, 0.9)
    scale = float((scores[scores > t] - t).mean())

    def cut(shape: float) -> float:
        monkeypatch.setattr("vibray.decide.pareto.fit", lambda excesses: Pareto(shape, scale))
        return float(pot(scores, q=1e-4).anomaly_above)

    assert cut(0.0) == pytest.approx(t - scale * np.log(1e-4 * 5000 / 500), rel=1e-12)
    for shape in (1e-15, 1e-10, 1e-6, 1e-3):
        for signed in (shape, -shape):
            assert cut(signed) == pytest.approx(cut(0.0), rel=10 * shape + 1e-14)
    cuts = [cut(shape) for shape in np.linspace(-0.01, 0.01, 41)]
    assert np.all(np.diff(cuts) > 0)
    assert np.ptp(np.diff(cuts)) < 0.1 * np.mean(np.diff(cuts))


@pytest.mark.parametrize("tail", [stats.uniform(), stats.beta(2, 1.5)], ids=["uniform", "beta"])
def test_pot_on_bounded_scores_stays_at_or_below_the_largest_and_never_realises_zero(tail):
    for seed in range(4):
        scores = tail.rvs(2000, random_state=seed)
        with pytest.warns(CutsWarning, match="bounded"):
            cuts = pot(scores, q=1e-6)
        assert np.quantile(scores, 0.9) < cuts.anomaly_above <= scores.max()
        assert tail.sf(cuts.anomaly_above) > 0
        assert realised_rate(cuts, scores) >= 1 / 2000


def test_pot_refuses_too_few_excesses_and_a_tail_without_mean():
    with pytest.raises(TailError, match="9 of 90 scores"):
        pot(np.random.default_rng(0).normal(size=90))
    with pytest.raises(TailError, match="above 1"):
        pot(stats.genpareto(1.5).rvs(20_000, random_state=0))
    with pytest.raises(CutsError, match="not below the share of scores above the level"):
        pot(np.random.default_rng(0).normal(size=5000), q=0.2)
    with pytest.raises(TailError, match="0 of 1000"):
        pot(np.ones(1000))  # no score lies above a level that all of them share
    assert issubclass(TailError, ValueError)


@pytest.mark.parametrize("name", ["exponential", "Pareto(3)", "uniform"])
def test_pot_moves_and_scales_with_the_scores(name):
    scores = TAILS[name].rvs(5000, random_state=0)
    one, other = quiet_pot(scores), quiet_pot(0.003 * scores - 8)
    assert other.shape == pytest.approx(one.shape, abs=1e-6)
    assert (other.anomaly_above + 8) / 0.003 == pytest.approx(one.anomaly_above, rel=1e-6)
    assert (other.normal_below + 8) / 0.003 == pytest.approx(one.normal_below, rel=1e-9)


EQUIVARIANT = {
    "percentile": percentile,
    "raw MAD": lambda s: mad(s, log=False),
    "POT": quiet_pot,
    "conformal": lambda s: conformal(s, 0.02),
}


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 100),
    factor=st.floats(1e-6, 1e6),
    shift=st.floats(-1e3, 1e3),
    method=st.sampled_from(sorted(EQUIVARIANT)),
)
def test_cuts_move_and_scale_with_the_scores(seed, factor, shift, method):
    scores = np.random.default_rng(seed).normal(size=400)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CutsWarning)
        one, other = EQUIVARIANT[method](scores), EQUIVARIANT[method](factor * (scores + shift))
    tolerance = 1e-6 + 1e-12 * abs(shift)  # the shift takes digits from the scores themselves
    assert other.anomaly_above / factor - shift == pytest.approx(one.anomaly_above, abs=tolerance, rel=1e-6)
    assert other.normal_below / factor - shift == pytest.approx(one.normal_below, abs=tolerance, rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 100), factor=st.floats(1e-6, 1e6), power=st.floats(0.2, 3))
def test_mad_on_logarithms_scales_and_takes_powers(seed, factor, power):
    """Median and MAD of a log (s^a) + log c: the cuts are c cut^a."""
    scores = np.random.default_rng(seed).lognormal(0, 0.5, 300)
    one, other = mad(scores, log=True), mad(factor * scores**power, log=True)
    assert other.anomaly_above == pytest.approx(factor * one.anomaly_above**power, rel=1e-9)
    assert other.normal_below == pytest.approx(factor * one.normal_below**power, rel=1e-9)


@pytest.mark.parametrize("method", [percentile, mad, quiet_pot])
def test_the_order_of_the_scores_changes_nothing(method):
    scores = np.random.default_rng(0).gamma(2, size=3000)
    shuffled = np.random.default_rng(1).permutation(scores)
    assert method(shuffled) == method(scores)


# conformal


def test_conformal_alarms_are_those_of_the_p_value():
    rng = np.random.default_rng(0)
    normals = rng.integers(0, 40, 250).astype(float)  # full of ties
    new = rng.integers(0, 45, 400).astype(float)
    for q in (0.01, 0.05, 0.1):
        p_values = np.array([(1 + np.sum(normals >= s)) / (len(normals) + 1) for s in new])
        assert np.array_equal(new >= conformal(normals, q).anomaly_above, p_values <= q)


def test_conformal_needs_99_normals_for_one_percent():
    normals = np.random.default_rng(0).normal(size=99)
    with pytest.raises(CutsError, match="needs 99 trusted normals and there are 98"):
        conformal(normals[:98], 0.01)
    cuts = conformal(normals, 0.01)
    assert cuts.anomaly_above > normals.max()
    assert cuts.anomaly_above == pytest.approx(normals.max(), rel=1e-15)
    assert cuts.kind == "false-alarm probability"


def test_conformal_keeps_its_probability_over_many_fleets():
    rng = np.random.default_rng(0)
    rates = [stats.norm.sf(conformal(rng.normal(size=199), 0.05).anomaly_above) for _ in range(400)]
    assert np.mean(rates) == pytest.approx(10 / 200, abs=4 * float(np.std(rates)) / 20)  # exactly k / (n + 1) for continuous scores


# configs and groups


CONFIGS = (PercentileConfig(anomaly=97.5), MadConfig(log=False), MadConfig(), PotConfig(q=0.01), ConformalConfig(q=0.05))


@with_config(STRICT)
@dataclass(frozen=True)
class Labelling:
    method: CutsConfig


@pytest.mark.parametrize("config", CONFIGS)
def test_configs_to_json_and_back(config):
    values = to_json(Labelling(config))
    assert from_json(Labelling, values) == Labelling(config)
    with pytest.raises(UserError, match="unknown_field"):
        from_json(Labelling, {"method": values["method"] | {"unknown_field": 1}})


@pytest.mark.parametrize("config", CONFIGS)
def test_every_method_fitted_on_trusted_normals_ignores_the_corpus(config):
    rng = np.random.default_rng(0)
    normals, corpus = 10 + rng.normal(size=1000), rng.normal(size=1000) + 99
    cuts = cuts_of(config, corpus, normals)
    assert cuts.kind == ("rule" if isinstance(config, MadConfig) else "false-alarm probability")
    assert cuts.anomaly_above < 20
    if not isinstance(config, ConformalConfig):
        assert cuts_of(config, corpus).kind == ("rule" if isinstance(config, MadConfig) else "rate")
        assert cuts_of(config, corpus).normal_below > 90


def test_conformal_without_trusted_normals_is_refused():
    with pytest.raises(CutsError, match="trusted normals alone"):
        cuts_of(ConformalConfig(), np.arange(500.0))


def numbered(groups: list[Any]) -> Any:
    names = sorted(set(groups))
    return [GroupedCuts.name_of(name) for name in names], np.array([names.index(name) for name in groups])


def test_a_loud_unit_does_not_fill_the_anomaly_class():
    rng = np.random.default_rng(0)
    units = ["quiet"] * 2700 + ["loud"] * 300
    scores = np.concatenate([rng.normal(size=2700), 8 + rng.normal(size=300)])
    found = grouped_cuts(numbered(units), scores, PercentileConfig())
    loud = np.array(units) == "loud"
    assert np.mean(found.overall.decide(scores)[loud] == 1) == pytest.approx(0.1)  # all alarms are the loud unit's
    by_group = found.decide(units, scores)
    assert np.mean(by_group[loud] == 1) == pytest.approx(0.01, abs=1e-9)
    assert np.mean(by_group[~loud] == 1) == pytest.approx(0.01, abs=1e-9)


def test_small_and_refused_groups_fall_back_and_say_why():
    rng = np.random.default_rng(0)
    sensors: list[tuple[str, str]] = [("u1", "1")] * 300 + [("u1", "2")] * 199 + [("u2", "1")] * 300
    scores = np.concatenate([rng.normal(size=499), np.ones(300)])
    found = grouped_cuts(numbered(sensors), scores, MadConfig(), by="sensor")
    own = {g.group: g for g in found.groups}
    assert own["u1", "1"].cuts is not None
    assert (own["u1", "2"].cuts, own["u1", "2"].reason) == (None, "199 records to fit on, fewer than 200")
    assert own["u2", "1"].cuts is None
    assert "half or more are equal" in own["u2", "1"].reason
    below, above = found.limits([("u1", "1"), ("u1", "2"), ("u2", "1"), ("u9", "9")])
    assert above[0] == own["u1", "1"].cuts.anomaly_above  # type: ignore[union-attr]
    assert set(above[1:]) == {found.overall.anomaly_above}
    assert set(below[1:]) == {found.overall.normal_below}


def test_a_groups_warnings_stand_in_its_own_cuts():
    scores = np.random.default_rng(0).exponential(size=1000)
    found = grouped_cuts(numbered(["a"] * 800 + ["b"] * 200), scores, PotConfig())  # warnings are errors here
    assert [len(g.cuts.warnings) for g in found.groups if g.cuts] == [0, 1]


def test_groups_fitted_on_their_trusted_normals():
    rng = np.random.default_rng(0)
    normal = np.arange(1000) % 2 == 0
    scores = np.where(normal, rng.normal(size=1000), 50.0)
    units: list[Any] = ["a"] * 500 + ["b"] * 500
    found = grouped_cuts(numbered(units), scores, ConformalConfig(q=0.01), trusted_normal=normal)
    for group in found.groups:
        mine = np.array(units) == group.group[0]
        assert group.num_records == 250
        assert group.cuts == conformal(scores[mine & normal], 0.01)
