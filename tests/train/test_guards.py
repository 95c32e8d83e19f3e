import json

import numpy as np
import pytest

from vibray.train.guards import (
    CollapsedModel,
    GuardReport,
    center_guards,
    embedding_figures,
    injected_faults_guard,
    participation_ratio,
    participation_warning,
    score_figures,
    score_guards,
)

HEALTHY = np.random.default_rng(0).gamma(3, size=500)


def failed(guards) -> list[str]:
    return [guard.name for guard in guards if not guard.passed]


def test_healthy_scores_pass():
    assert failed(score_guards(HEALTHY)) == []


def test_scores_that_collapsed_trip():
    assert failed(score_guards(np.full(500, 0.3))) == ["distinct scores", "spread of scores"]
    assert failed(score_guards(np.zeros(500))) == ["distinct scores", "spread of scores"]
    assert failed(score_guards(1 + 1e-5 * HEALTHY)) == ["spread of scores"]
    assert failed(score_guards(np.round(HEALTHY, 1))) == ["distinct scores"]
    assert "finite scores" in failed(score_guards(np.append(HEALTHY, np.nan)))


def test_the_centre_must_be_finite_and_stay():
    center = np.array([0.1, -0.5])
    assert failed(center_guards(center, center.copy())) == []
    assert failed(center_guards(center, center + 1e-9)) == ["fixed centre"]
    assert failed(center_guards(np.array([0.1, np.inf]), np.array([0.1, np.inf]))) == ["finite centre"]


def test_participation_ratio():
    assert participation_ratio(np.eye(7)) == pytest.approx(7)
    assert participation_ratio(np.diag([1.0, 0, 0])) == pytest.approx(1)
    assert participation_ratio(np.zeros((3, 3))) == 0
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    spectrum = np.array([4.0, 2, 1, 1])
    assert participation_ratio(rotation @ np.diag(spectrum) @ rotation.T) == pytest.approx(64 / 22)


@pytest.mark.parametrize("shape", [(40, 5), (5, 40)])
def test_figures_of_an_embedding_against_its_covariance(shape):
    embedding = np.random.default_rng(1).normal(3, 2, size=shape)
    covariance = np.cov(embedding.T, ddof=0)
    figures = embedding_figures(embedding)
    assert figures["participation"] == pytest.approx(participation_ratio(covariance))
    assert figures["embedding_std"] ** 2 == pytest.approx(np.diag(covariance).mean())


def test_figures_of_an_epoch_are_what_the_guards_judge():
    for scores in (HEALTHY, np.round(HEALTHY, 1), np.zeros(9)):
        values = [guard.value for guard in score_guards(scores)]
        assert values == [1.0, *score_figures(scores).values()]
    assert score_figures(np.append(HEALTHY, np.nan)) == {"distinct_scores": 0.0, "score_spread": 0.0}
    assert score_guards(np.append(HEALTHY, np.nan))[0].value == pytest.approx(500 / 501)


def test_a_low_participation_ratio_is_a_warning_unless_another_guard_trips():
    assert participation_warning(2.0, 6.0) == ()
    assert participation_warning(1.4, 1.0)  # 1.5 is the least
    warning = participation_warning(1.9, 6.0)
    alone = GuardReport(score_guards(HEALTHY), warning)
    assert alone.passed
    assert alone.reasons == ()
    beside = GuardReport(score_guards(np.full(9, 1.0)), warning)
    assert not beside.passed
    assert beside.reasons[-1] == warning[0]


def test_injected_faults_must_be_seen_as_well_as_untrained():
    plain = HEALTHY
    assert injected_faults_guard((plain, plain + 5), (plain, plain + 1)).passed
    assert not injected_faults_guard((plain, plain), (plain, plain + 1)).passed
    assert injected_faults_guard((plain, plain + 1), (plain, plain + 1.001)).passed


def test_report_to_json_and_as_error():
    report = GuardReport(score_guards(HEALTHY)).with_guard(injected_faults_guard((HEALTHY, HEALTHY), (HEALTHY, HEALTHY + 5)))
    values = json.loads(json.dumps(report.values()))
    assert values["passed"] is False
    assert [guard["name"] for guard in values["guards"]] == ["finite scores", "distinct scores", "spread of scores", "injected faults"]
    with pytest.raises(CollapsedModel, match=r"injected faults: AUROC on injected faults is 0\.500"):
        report.check()
    GuardReport(score_guards(HEALTHY)).check()
