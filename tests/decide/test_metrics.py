import json

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics

from tests.reference.pairs import auroc_by_pairs, average_precision_by_steps, partial_area_by_steps
from vibray.config import UserError
from vibray.decide.areas import _weighted_areas, auprc, auroc, auroc_std, bootstrap_by_unit, partial_auroc, proportion_interval
from vibray.decide.cuts import Cuts, GroupCuts, GroupedCuts
from vibray.decide.metrics import Diagnoses, at_alarm, calibration_error, evaluation, fault_f1


def drawn(seed, ties):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, 80).astype(float) if ties else rng.normal(size=80)
    return scores, rng.random(80) < 0.3


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_areas_are_those_of_the_slow_twins_and_of_sklearn(seed, ties):
    scores, abnormal = drawn(seed, ties)
    assert auroc(scores, abnormal) == pytest.approx(auroc_by_pairs(scores, abnormal), rel=1e-12)
    assert auroc(scores, abnormal) == pytest.approx(sklearn_metrics.roc_auc_score(abnormal, scores), rel=1e-12)
    assert auprc(scores, abnormal) == pytest.approx(average_precision_by_steps(scores.tolist(), abnormal.tolist()), rel=1e-12)
    area = partial_area_by_steps(scores.tolist(), abnormal.tolist(), 0.1)
    mcclish = (1 + (area - 0.1**2 / 2) / (0.1 - 0.1**2 / 2)) / 2
    assert partial_auroc(scores, abnormal) == pytest.approx(mcclish, rel=1e-12)


def test_areas_in_closed_form():
    n = 4000
    normal = stats.norm.ppf((np.arange(n) + 0.5) / n)
    scores, abnormal = np.concatenate([normal, normal + 1.5]), np.repeat([False, True], n)
    assert auroc(scores, abnormal) == pytest.approx(stats.norm.cdf(1.5 / np.sqrt(2)), abs=1e-3)
    assert auroc(-scores, abnormal) == pytest.approx(1 - stats.norm.cdf(1.5 / np.sqrt(2)), abs=1e-3)
    perfect = abnormal.astype(float)
    assert auroc(perfect, abnormal) == auprc(perfect, abnormal) == partial_auroc(perfect, abnormal) == 1
    constant = np.ones(2 * n)
    assert auroc(constant, abnormal) == partial_auroc(constant, abnormal) == 0.5
    assert auprc(constant, abnormal) == 0.5  # the prevalence


def test_a_monotone_map_of_the_scores_changes_no_area():
    scores, abnormal = drawn(0, ties=True)
    for area in (auroc, auprc, partial_auroc):
        assert area(np.exp(scores), abnormal) == pytest.approx(area(scores, abnormal), rel=1e-12)


def test_areas_without_both_classes_are_none():
    assert auroc([1.0, 2.0], [True, True]) is None
    assert auroc([1.0, 2.0], [False, False]) is None
    assert auprc([1.0, 2.0], [False, False]) is None
    assert partial_auroc([1.0, 2.0], [True, True]) is None


def test_spread_in_closed_form_and_over_many_draws():
    assert auroc_std(0.8, 1, 1) == pytest.approx(np.sqrt(0.8 * 0.2))  # one pair: a Bernoulli trial
    assert auroc_std(1.0, 10, 10) == 0
    rng = np.random.default_rng(0)
    abnormal = np.repeat([False, True], [60, 20])
    areas = [auroc(rng.exponential(size=80) * np.where(abnormal, 3, 1), abnormal) for _ in range(1000)]
    assert auroc_std(0.75, 20, 60) == pytest.approx(np.std([a for a in areas if a is not None]), rel=0.08)  # exact for exponentials


@pytest.mark.parametrize(("part", "whole"), [(0, 30), (3, 300), (17, 40), (9, 9)])
def test_the_interval_of_a_share_is_clopper_pearsons(part, whole):
    low, high = proportion_interval(part, whole) or []
    assert low == (0 if part == 0 else pytest.approx(stats.beta.ppf(0.025, part, whole - part + 1), rel=1e-9))
    assert high == (1 if part == whole else pytest.approx(stats.beta.ppf(0.975, part + 1, whole - part), rel=1e-9))
    assert proportion_interval(0, 0) is None


@pytest.mark.parametrize("ties", [False, True])
def test_a_draw_of_the_bootstrap_has_the_areas_of_sklearn(ties):
    scores, abnormal = drawn(3, ties)
    order = np.argsort(-scores, kind="stable")
    weight = np.random.default_rng(0).integers(0, 4, 80)
    ends = np.flatnonzero(np.diff(scores[order], append=np.inf))
    again = np.repeat(np.arange(80), weight)
    s, y = scores[again], abnormal[again]
    found = _weighted_areas(abnormal[order], ends, weight[order])
    assert found == pytest.approx((auroc(s, y), auprc(s, y), partial_auroc(s, y)), rel=1e-12)


def test_the_bootstrap_by_unit_sees_that_units_differ_where_the_bootstrap_by_record_does_not():
    rng = np.random.default_rng(0)
    units = np.repeat([f"u{i}" for i in range(12)], 60)
    abnormal = np.arange(720) % 3 == 0
    alike = rng.normal(size=720) + 1.5 * abnormal
    unlike = rng.normal(size=720) + np.repeat(rng.uniform(-1, 4, 12), 60) * abnormal
    spreads = []
    for scores in (alike, unlike):
        found = bootstrap_by_unit(scores, abnormal, units.tolist())
        assert found is not None
        assert (found["num_units"], found["num_resamples"]) == (12, 200)
        low, high = found["auroc"]["interval"]
        assert low < (auroc(scores, abnormal) or 0) < high
        spreads.append(found["auroc"]["std"])
        assert found == bootstrap_by_unit(scores, abnormal, units.tolist())
    assert spreads[0] == pytest.approx(auroc_std(auroc(alike, abnormal) or 0, 240, 480), rel=0.4)
    assert spreads[1] > 2.5 * auroc_std(auroc(unlike, abnormal) or 0, 240, 480)
    assert bootstrap_by_unit(alike, abnormal, ["u"] * 720) is None
    one_sided = bootstrap_by_unit([0.1, 0.9], [False, True], ["a", "b"])
    assert one_sided is not None
    assert one_sided["num_resamples"] < 200  # a draw of one unit twice has one class


def test_answers_at_a_cut():
    said = at_alarm(np.array([1, 1, 1, 0, 0, 0, 0], bool), np.array([1, 1, 0, 1, 0, 0, 0], bool))
    assert [said[name] for name in ("true_alarms", "false_alarms", "missed", "quiet")] == [2, 1, 1, 3]
    assert (said["precision"], said["recall"], said["f1"], said["realised_rate"]) == (2 / 3, 2 / 3, 2 / 3, 1 / 4)
    nothing = at_alarm(np.zeros(3, bool), np.array([1, 1, 0], bool))
    assert said["recall_interval"] == proportion_interval(2, 3)
    assert said["realised_rate_interval"] == proportion_interval(1, 4)
    assert (nothing["precision"], nothing["recall"], nothing["f1"]) == (None, 0.0, 0.0)


def test_fault_f1_is_sklearns():
    rng = np.random.default_rng(0)
    names = np.array(["normal", "a", "b", "c"])
    truth, answer = names[rng.integers(0, 4, 200)].tolist(), names[rng.integers(0, 3, 200)].tolist()
    found = fault_f1(truth, answer, ["a", "b", "c"])
    for fault in "abc":
        expected = sklearn_metrics.f1_score([name == fault for name in truth], [name == fault for name in answer])
        assert found[fault] == pytest.approx(expected, rel=1e-12)
    assert found["c"] == 0  # never named


# evaluation


SCORES = [0.1, 0.2, 0.3, 0.9, 0.8, 0.15, 0.7, 0.05]
LABELS = ["normal", "normal", "bolt", "bolt", "fan", "normal", None, "normal"]
UNITS = ["u1", "u1", "u1", "u2", "u2", "u2", "u2", "u3"]


def test_evaluation_of_a_detector():
    result = evaluation(SCORES, LABELS, UNITS, cuts=Cuts(0.1, 0.15, "percentile", nominal_rate=0.01))
    assert result["auroc"] == 1.0
    assert result["prevalence"] == 3 / 7
    assert result["auroc_by_fault"] == {"bolt": 1.0, "fan": 1.0}
    assert result["auroc_by_unit"] == {"u1": 1.0, "u2": 1.0, "u3": None}
    assert result["undefined"]["auroc_by_unit.u3"] == "no abnormal record is labelled"
    counts = result["counts"]
    assert (counts["scored"], counts["labelled"], counts["unlabelled"], counts["normal"], counts["abnormal"]) == (8, 7, 1, 4, 3)
    assert counts["by_fault"] == {"bolt": 2, "fan": 1}
    assert counts["by_unit"]["u2"] == {"normal": 1, "abnormal": 2}
    at_cut = result["at_cut"]
    assert (at_cut["recall"], at_cut["false_alarms"], at_cut["realised_rate"]) == (1.0, 2, 0.5)
    assert (at_cut["nominal_rate"], at_cut["rate_kind"], at_cut["cut"], at_cut["method"]) == (0.01, "rate", 0.15, "percentile")
    assert result["macro_f1"] is None
    assert result["undefined"]["macro_f1"] == "no diagnoses"
    assert result["spread_by_unit"]["num_units"] == 3
    assert "spread_by_unit" in evaluation(SCORES, LABELS, ["u"] * 8)["undefined"]
    json.dumps(result, allow_nan=False)


def test_a_faults_area_is_against_all_normals_and_no_other_fault():
    scores, labels = [1.0, 2.0, 3.0, 1.5], ["normal", "normal", "a", "b"]
    assert evaluation(scores, labels, ["u"] * 4)["auroc_by_fault"] == {"a": 1.0, "b": 0.5}


def test_evaluation_of_a_classifier():
    said = Diagnoses(["normal", "normal", "bolt", "bolt", "bolt", "unknown", "fan", "normal"], ("bolt", "fan", "crack"))
    labels = [*LABELS[:-1], "leak"]
    result = evaluation(SCORES, labels, UNITS, diagnoses=said)
    assert result["at_cut"]["cut"] == 0.5
    assert (result["at_cut"]["true_alarms"], result["at_cut"]["false_alarms"], result["at_cut"]["missed"]) == (2, 0, 2)
    assert result["f1_by_fault"] == {"bolt": 4 / 5, "fan": 0.0}  # the unlabelled row that was called fan counts nowhere
    assert result["macro_f1"] == pytest.approx(0.4)
    assert (result["faults_only_here"], result["faults_only_in_training"]) == (["leak"], ["crack"])
    assert {"at_cut.nominal_rate", "at_cut.rate_kind"} <= set(result["undefined"])
    json.dumps(result, allow_nan=False)


def test_the_calibration_error_is_nothing_for_true_probabilities_and_the_distance_for_others():
    rng = np.random.default_rng(0)
    p = rng.random(200_000)
    right = rng.random(200_000) < p
    assert calibration_error(p, right) == pytest.approx(0.0, abs=0.01)
    assert calibration_error(np.full(1000, 0.9), np.arange(1000) < 600) == pytest.approx(0.3)
    assert calibration_error(np.array([0.2, 0.8]), np.array([False, True])) == pytest.approx(0.2)
    assert calibration_error(np.empty(0), np.empty(0, bool)) is None


def test_the_likeliest_fault_is_asked_of_faulty_records_alone():
    p = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.5, 0.5]])
    said = Diagnoses(["normal", "b", "unknown", "normal"], ("a", "b"), p)
    result = evaluation([0.1, 0.9, 0.7, 0.2], ["a", "b", "b", "normal"], ["u"] * 4, diagnoses=said)
    assert result["given_faulty"]["f1_by_fault"] == {"a": pytest.approx(2 / 3), "b": pytest.approx(2 / 3)}
    assert result["given_faulty"]["calibration_error"] == pytest.approx((0.1 + 0.2 + 0.6) / 3)
    json.dumps(result, allow_nan=False)


def test_no_common_fault_has_no_macro_f1():
    result = evaluation([0.1, 0.9], ["normal", "a"], ["u", "u"], diagnoses=Diagnoses(["normal", "b"], ("b",)))
    assert result["macro_f1"] is None
    assert result["undefined"]["macro_f1"] == "no fault is labelled both here and in training"


def test_an_uncalibrated_sensor_raises_no_alarm_and_counts_in_the_areas():
    cuts = Cuts(0.1, 0.5)
    known = evaluation([0.2, 0.9], ["normal", "a"], ["u", "u"], cuts=cuts)
    unknown = evaluation([0.2, 0.9], ["normal", "a"], ["u", "u"], cuts=cuts, usable=[True, False])
    assert (known["at_cut"]["true_alarms"], unknown["at_cut"]["true_alarms"]) == (1, 0)
    assert known["auroc"] == unknown["auroc"] == 1.0


def test_alarms_by_group():
    scores, labels, units, sensors = [5.0, 5.0, 25.0], ["normal", "a", "a"], ["loud", "quiet", "loud"], ["1", "1", "1"]
    by_unit = GroupedCuts(Cuts(1.0, 2.0), "unit", 200, (GroupCuts(("loud",), 300, Cuts(10.0, 20.0)),))
    by_sensor = GroupedCuts(Cuts(1.0, 2.0), "sensor", 200, (GroupCuts(("loud", "1"), 300, Cuts(10.0, 20.0)),))
    for cuts in (by_unit, by_sensor):
        at_cut = evaluation(scores, labels, units, sensor_ids=sensors, cuts=cuts)["at_cut"]
        assert (at_cut["true_alarms"], at_cut["false_alarms"]) == (2, 0)
    with pytest.raises(ValueError, match="sensor_ids"):
        evaluation(scores, labels, units, cuts=by_sensor)


@pytest.mark.parametrize("labels", [["normal", "normal"], ["a", "b"]])
def test_one_class_alone_is_none_with_a_reason(labels):
    result = evaluation([0.1, 0.9], labels, ["u", "u"], cuts=Cuts(1.0, 2.0))
    for name in ("auroc", "partial_auroc", "auroc_std"):
        assert result[name] is None
        assert "record is labelled" in result["undefined"][name]
    json.dumps(result, allow_nan=False)


def test_what_cannot_be_evaluated_is_refused():
    with pytest.raises(UserError, match="nothing can be evaluated"):
        evaluation([0.1], [None], ["u"])
    with pytest.raises(UserError, match="NaN"):
        evaluation([float("nan")], ["normal"], ["u"])
    with pytest.raises(ValueError, match="2 scores"):
        evaluation([0.1, 0.2], ["normal"], ["u"])


def test_the_order_of_rows_changes_nothing():
    rng = np.random.default_rng(0)
    n = 200
    scores = rng.normal(size=n)
    labels = [str(name) for name in rng.choice(["normal", "a", "b"], n)]
    units = [str(name) for name in rng.choice(["u1", "u2"], n)]
    order = rng.permutation(n)
    cuts = Cuts(-1.0, 1.0)
    one = evaluation(scores, labels, units, cuts=cuts)
    assert evaluation(scores[order], [labels[i] for i in order], [units[i] for i in order], cuts=cuts) == one
