"""A diagnosis on vectors whose faults are planted directions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from vibray.config import UserError
from vibray.models.classifier import NO_FAULT, UNKNOWN_FAULT
from vibray.models.context_scorer import SIZES, shipped
from vibray.models.diagnosis import (
    COMPARED_WHITENING,
    WHITENING,
    LinearDiagnosis,
    LinearDiagnosisConfig,
    Whitening,
    deviations,
    whitening,
)
from vibray.train.diagnosis import PRIOR, PRIOR_SPREAD, PRIOR_TEMPERATURE, Labels, fit_diagnosis

DIMS, FAULTS = 24, ("松动", "dc_bias", "arc")


def planted(num: int, seed: int, strength: tuple[float, float] = (6.0, 14.0), dims: int = DIMS, faults: int = 3):
    """(x, fault number or -1): noise with one loud correlated direction, and faults along fixed directions, some stronger than others."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(7)
    loud, ways = fixed.standard_normal(dims), fixed.standard_normal((faults, dims))
    x = rng.standard_normal((num, dims)) + 3 * rng.standard_normal((num, 1)) * loud / np.linalg.norm(loud)
    fault = np.arange(num) % (faults + 1) - 1
    size = rng.uniform(*strength, (num, 1)) * (fault >= 0)[:, None]
    x += size * (ways / np.linalg.norm(ways, axis=1, keepdims=True))[fault]
    return torch.from_numpy(x).float(), fault.astype(np.int64)


def labels_of(fault: np.ndarray, **more: np.ndarray) -> Labels:
    at = np.arange(len(fault))
    known = {"weight": np.ones(len(fault)), "human": np.ones(len(fault), bool), "unit": at // 4 % 6, "moment": at}
    return Labels((fault >= 0).astype(np.int64), fault, **{**known, **more})


def scores_of(x: torch.Tensor) -> np.ndarray:
    return x.double().norm(dim=1).numpy()


def fitted(num: int = 48, config: LinearDiagnosisConfig = LinearDiagnosisConfig(), **more: np.ndarray):
    healthy = planted(2000, 1)
    pool = healthy[0][torch.from_numpy(healthy[1] < 0)]
    x, fault = planted(num, 2)
    return fit_diagnosis(config, pool, scores_of(pool), x, scores_of(x), labels_of(fault, **more), FAULTS, None, [])


@pytest.fixture(scope="module")
def diagnosis() -> LinearDiagnosis:
    return fitted().diagnosis


def test_whitened_healthy_records_have_the_covariance_that_the_power_asks_for():
    x = planted(40_000, 3, (0.0, 0.0))[0].double()
    covariance = torch.cov(x.T)
    for power in (0.0, 0.5, 1.0):
        found = torch.cov(whitening(x.mean(dim=0), covariance, power)(x).T)
        wanted = torch.diag(torch.linalg.eigvalsh(covariance).pow(1 - power))
        torch.testing.assert_close(found, wanted, atol=1e-8, rtol=1e-6)


def test_faults_of_planted_directions_are_named_and_healthy_records_are_not(diagnosis: LinearDiagnosis):
    x, fault = planted(800, 4)
    told = diagnosis(x, torch.from_numpy(scores_of(x)))
    assert np.mean((told.abnormal_probability.numpy() >= 0.5) == (fault >= 0)) > 0.95
    named = fault >= 0
    assert np.mean(told.fault_probability.argmax(dim=1).numpy()[named] == fault[named]) > 0.97
    torch.testing.assert_close(told.fault_probability.sum(dim=1), torch.ones(800))
    assert set(told.fault.numpy()[told.abnormal_probability.numpy() < 0.5]) == {NO_FAULT}


def test_a_direction_that_no_label_has_is_unknown(diagnosis: LinearDiagnosis):
    x = planted(400, 5, (0.0, 0.0))[0]
    known, fault = planted(400, 6)
    other = torch.randn(DIMS, generator=torch.Generator().manual_seed(3))
    x = x + 12 * other / other.norm()
    unknown = diagnosis(x, torch.from_numpy(scores_of(x))).fault == UNKNOWN_FAULT
    called = diagnosis(known, torch.from_numpy(scores_of(known))).fault[torch.from_numpy(fault >= 0)] == UNKNOWN_FAULT
    assert unknown.double().mean() > 0.8
    assert called.double().mean() < 0.2


def test_an_answer_depends_on_no_other_record(diagnosis: LinearDiagnosis):
    x, _ = planted(9, 7)
    score = torch.from_numpy(scores_of(x))
    whole = diagnosis(x, score)
    for i in range(9):
        alone = diagnosis(x[i : i + 1], score[i : i + 1])
        torch.testing.assert_close(alone.abnormal_probability, whole.abnormal_probability[i : i + 1])
        torch.testing.assert_close(alone.fault_probability, whole.fault_probability[i : i + 1])


def test_the_regression_is_scikit_learns_on_the_directions(diagnosis: LinearDiagnosis):
    x, fault = planted(48, 2)
    seen = deviations(x, diagnosis.deviation, None, [], None, None).direction.numpy()
    model = LogisticRegression(C=0.1, class_weight="balanced", max_iter=5000).fit(seen[fault >= 0], fault[fault >= 0])
    np.testing.assert_allclose(diagnosis.fault.numpy(), model.coef_, atol=1e-8)


def test_two_faults_are_told_apart_by_the_same_softmax():
    two, fault = planted(60, 8, faults=2)
    pool = planted(900, 9, (0.0, 0.0))[0]
    found = fit_diagnosis(
        LinearDiagnosisConfig(), pool, scores_of(pool), two, scores_of(two), labels_of(fault), ("a", "b"), None, []
    ).diagnosis
    model = LogisticRegression(C=0.1, class_weight="balanced", max_iter=5000)
    seen = deviations(two, found.deviation, None, [], None, None).direction.numpy()
    model.fit(seen[fault >= 0], fault[fault >= 0])
    p = torch.softmax(torch.from_numpy(seen) @ found.fault.T + found.fault_bias, dim=1).numpy()
    np.testing.assert_allclose(p, model.predict_proba(seen), atol=1e-7)


def test_one_fault_needs_no_regression_and_is_always_the_answer():
    x, fault = planted(40, 10, faults=1)
    pool = planted(900, 9, (0.0, 0.0))[0]
    found = fit_diagnosis(LinearDiagnosisConfig(), pool, scores_of(pool), x, scores_of(x), labels_of(fault), ("a",), None, [])
    assert (found.diagnosis(x, torch.from_numpy(scores_of(x))).fault_probability == 1).all()
    assert found.figures["macro_f1"] == 1.0


def test_a_smaller_prevalence_makes_each_probability_smaller():
    x, _ = planted(200, 11, (0.0, 5.0))
    score = torch.from_numpy(scores_of(x))
    even, rare = (fitted(config=LinearDiagnosisConfig(prevalence=p)).diagnosis(x, score).abnormal_probability for p in (0.5, 0.05))
    assert (rare < even).all()


def test_a_detector_that_ranks_upside_down_is_not_turned_around():
    x, fault = planted(48, 2)
    pool = planted(900, 9, (0.0, 0.0))[0]
    against = -scores_of(x)
    found = fit_diagnosis(LinearDiagnosisConfig(), pool, -scores_of(pool), x, against, labels_of(fault), FAULTS, None, []).diagnosis
    assert found.abnormal[0] == 0 and found.abnormal[1] > 0


def test_the_net_s_layer_joins_where_it_is_given():
    rng = np.random.default_rng(0)
    dims, columns = sum(SIZES) + 4, list(range(sum(SIZES)))
    pool = torch.from_numpy(rng.standard_normal((400, dims))).float()
    ways = rng.standard_normal((3, dims))
    fault = np.arange(60) % 4 - 1
    x = torch.from_numpy(rng.standard_normal((60, dims)) + 1.5 * ways[fault] * (fault >= 0)[:, None]).float()
    given = (pool, scores_of(pool), x, scores_of(x), labels_of(fault.astype(np.int64)), FAULTS, shipped(), columns)
    with_net, without = (fit_diagnosis(LinearDiagnosisConfig(embedding=wanted), *given).diagnosis for wanted in (True, False))
    assert with_net.fault.shape == (3, dims + 64) and without.fault.shape == (3, dims)
    assert with_net.embedded is not None and with_net.compared is not None
    # axes are divided by deviations to a power: what a power of .5 leaves, one of .75 takes a quarter more of
    loud = [axes.norm(dim=0).log() for axes in (with_net.embedded.axes, with_net.compared.axes)]
    torch.testing.assert_close(loud[1], COMPARED_WHITENING / WHITENING * loud[0])
    again = LinearDiagnosis.load(with_net.state(), columns)
    told, read = (one(x, torch.from_numpy(scores_of(x))) for one in (with_net, again))
    assert torch.equal(told.fault_probability, read.fault_probability) and torch.equal(told.fault, read.fault)


def test_what_is_calibrated_has_not_seen_the_record_s_unit_or_moment():
    """Labels that are mere noise: answers of a fit that had seen them would be right, and sure."""
    rng = np.random.default_rng(5)
    x = torch.from_numpy(rng.standard_normal((80, DIMS))).float()
    fault = rng.integers(-1, 3, 80).astype(np.int64)
    pool = planted(900, 9, (0.0, 0.0))[0]
    found = fit_diagnosis(LinearDiagnosisConfig(), pool, scores_of(pool), x, scores_of(x), labels_of(fault), FAULTS, None, [])
    assert found.figures["macro_f1"] < 0.55
    told = found.diagnosis(*(lambda y: (y, torch.from_numpy(scores_of(y))))(planted(300, 12, (0.0, 0.0))[0]))
    assert told.fault_probability.max(dim=1).values.median() < 0.6  # the temperature says that nothing is known


def test_labels_of_one_kind_are_refused():
    x, fault = planted(40, 2)
    pool = planted(900, 9, (0.0, 0.0))[0]
    for wanted, missing in ((fault >= 0, "normal"), (fault < 0, "abnormal")):
        own = labels_of(fault[wanted])
        with pytest.raises(UserError, match=f"no {missing} record"):
            fit_diagnosis(
                LinearDiagnosisConfig(), pool, scores_of(pool), x[torch.from_numpy(wanted)], np.ones(wanted.sum()), own, FAULTS, None, []
            )


def test_few_labels_leave_what_cannot_be_calibrated_as_it_was_thought_before():
    found = fitted(8)
    assert abs(found.figures["temperature"] - PRIOR_TEMPERATURE) < 0.15 and found.figures["unknown_below"] == -1.0
    healthy = planted(2000, 1)
    low, high = np.quantile(scores_of(healthy[0][torch.from_numpy(healthy[1] < 0)]), (0.5, 0.9))

    def moved(abnormal: torch.Tensor) -> np.ndarray:
        a, c, a0 = abnormal.numpy()  # of the score in steps from the pool's median
        return np.abs(np.array([a * (high - low), c, a0 + a * low]) - PRIOR) / PRIOR_SPREAD

    few, many = moved(found.diagnosis.abnormal), moved(fitted(400).diagnosis.abnormal)
    assert few.max() < 1 and many.max() > 2 * few.max()
    assert (found.diagnosis(*(lambda y: (y, torch.from_numpy(scores_of(y))))(planted(50, 13)[0])).fault != UNKNOWN_FAULT).all()


@pytest.mark.parametrize("num_normal", [1, 2, 3])
def test_one_normal_record_is_enough(num_normal: int):
    """Left out, it leaves a fold without any."""
    x, fault = planted(40, 2)
    kept = np.flatnonzero((fault >= 0) | (np.cumsum(fault < 0) <= num_normal))
    pool = planted(900, 9, (0.0, 0.0))[0]
    x, own = x[torch.from_numpy(kept)], labels_of(fault[kept])
    found = fit_diagnosis(LinearDiagnosisConfig(), pool, scores_of(pool), x, scores_of(x), own, FAULTS, None, []).diagnosis
    test, truth = planted(400, 14)
    told = found(test, torch.from_numpy(scores_of(test)))
    assert np.mean((told.abnormal_probability.numpy() >= 0.5) == (truth >= 0)) > 0.85
    assert found.abnormal.isfinite().all()


def test_no_evidence_is_the_prevalence():
    """One normal, and a detector that ranks it the highest."""
    x, fault = planted(40, 2)
    kept = np.flatnonzero((fault >= 0) | (np.cumsum(fault < 0) <= 1))
    pool = planted(900, 9, (0.0, 0.0))[0]
    x, own, against = x[torch.from_numpy(kept)], labels_of(fault[kept]), -scores_of(x)[kept]
    config = LinearDiagnosisConfig(prevalence=0.2)
    found = fit_diagnosis(config, pool, -scores_of(pool), x, against, own, FAULTS, None, []).diagnosis
    told = found(x, torch.from_numpy(against)).abnormal_probability
    torch.testing.assert_close(told, torch.full_like(told, 0.2))


@pytest.mark.parametrize("wrong", [{"inverse_penalty": 0.0}, {"partner_weight": 1.5}, {"prevalence": 1.0}, {"unknown_share": -0.1}])
def test_a_setting_out_of_range_is_the_users_to_mend(wrong: dict[str, float]):
    with pytest.raises(UserError, match=next(iter(wrong))):
        replace(LinearDiagnosisConfig(), **wrong)


def test_a_direction_of_nothing_is_nothing():
    nothing = Whitening(torch.zeros(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64))
    assert torch.equal(deviations(torch.zeros(1, 3), nothing, None, [], None, None).direction, torch.zeros(1, 3, dtype=torch.float64))
