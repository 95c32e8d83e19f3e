import numpy as np
import pytest

from vibray.config import UserError, from_json, to_json
from vibray.decide.cuts import Cuts, CutsError, GroupCuts, GroupedCuts, realised_rate


def test_both_cuts_belong_to_their_class():
    assert Cuts(1.0, 2.0).decide([0.9, 1.0, 1.1, 1.9, 2.0, 2.1]).tolist() == [0, 0, -1, -1, 1, 1]
    assert Cuts(1, 2).decide([1, 2]).dtype == np.int8


def test_float32_scores_are_not_compared_in_float32():
    score = np.float32(0.1)  # above 0.1 by 1.5e-9
    above = Cuts(0.0, float(np.nextafter(np.float64(score), 1)))
    assert score >= above.anomaly_above  # what numpy does by itself: the cut is rounded to float32
    assert above.decide(np.array([score])).tolist() == [-1]
    assert realised_rate(above, np.array([score])) == 0


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, 1.0), (float("nan"), 1.0), (0.0, float("inf"))])
def test_cuts_that_cut_nothing_are_refused(low, high):
    with pytest.raises(CutsError):
        Cuts(low, high)


def test_nan_scores_are_refused():
    with pytest.raises(CutsError, match="row 1"):
        Cuts(0.0, 1.0).decide([0.5, float("nan")])


def test_realised_rate_counts_the_cut_itself():
    assert realised_rate(Cuts(0.0, 3.0), np.arange(5.0)) == pytest.approx(0.4)


def test_to_json_and_back():
    cuts = Cuts(0.1, 0.7, "pot", nominal_rate=0.001, shape=0.1, warnings=("few",))
    assert from_json(Cuts, to_json(cuts)) == cuts
    grouped = GroupedCuts(cuts, "sensor", 200, (GroupCuts(("u", "1"), 300, cuts), GroupCuts(("u", "2"), 3, None, "few")))
    assert from_json(GroupedCuts, to_json(grouped)) == grouped
    with pytest.raises(UserError, match="extra"):
        from_json(Cuts, to_json(cuts) | {"extra": 1})
    with pytest.raises(UserError, match="not below"):
        from_json(Cuts, to_json(cuts) | {"normal_below": 1.0})
