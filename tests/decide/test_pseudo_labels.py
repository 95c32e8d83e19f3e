import io
import zipfile

import numpy as np
import pyarrow as pa
import pytest

from vibray.decide.cuts import Cuts, GroupCuts, GroupedCuts
from vibray.decide.pseudo_labels import export_npz, label_of_each, pseudo_labels
from vibray.schema import PSEUDO_LABELS, scores

CUTS = Cuts(1.0, 2.0)


def table(score, state=None, calibrated=None, record_id=None, corpus=None, unit=None):
    n = len(score)
    columns = {
        "corpus": corpus or ["c"] * n,
        "record_id": record_id or [f"part@{i:03d}" for i in range(n)],
        "line": [None] * n,
        "unit": unit or ["u"] * n,
        "sensor_id": ["1"] * n,
        "measured_at": [0] * n,
        "sample_rate_hz": [8192.0] * n,
        "content_hash": ["h"] * n,
        "state": state or ["energised"] * n,
        "state_cause": [None] * n,
        "calibrated": calibrated or [True] * n,
        "score": np.array(score, np.float32),
        "fleet_p_value": [None] * n,
    }
    return pa.table([pa.array(columns[field.name], field.type) for field in scores()], schema=scores())


def labels_of(made, cuts=CUTS, human=None, **more):
    return pa.concat_tables(pseudo_labels(made, label_of_each(made, cuts, human), human, **more))


def rows(labels, *names):
    return list(zip(*(labels[name].to_pylist() for name in names), strict=True))


def test_labels_weights_and_origins_by_the_cuts():
    labels = labels_of(table([0.5, 1.0, 1.5, 2.0, 9.0]), round=3)
    assert labels.schema == PSEUDO_LABELS
    assert rows(labels, "label", "weight") == [(0, 0.5), (0, 0.5), (-1, 0.0), (1, 0.5), (1, 0.5)]
    assert set(labels["origin"].to_pylist()) == {"threshold"}
    assert set(labels["round"].to_pylist()) == {3}
    assert set(labels_of(table([0.5, 9.0]), origin="classifier")["origin"].to_pylist()) == {"classifier"}


@pytest.mark.parametrize("state", ["off", "transient", "sensor_fault"])
def test_states_that_are_no_condition_of_the_machine_are_undecided(state):
    made = table([0.5, 9.0, 0.5, 9.0], state=[state, state, "energised", "unknown"])
    assert label_of_each(made, CUTS).tolist() == [-1, -1, 0, 1]


def test_an_uncalibrated_sensor_raises_no_alarm():
    made = table([0.5, 9.0, 0.5, 9.0], calibrated=[False, False, True, True])
    assert label_of_each(made, CUTS).tolist() == [0, -1, 0, 1]


def test_human_labels_always_win():
    made = table(
        [9.0, 0.5, 1.5, 9.0, 9.0, 0.5, 9.0],
        state=["energised", "energised", "energised", "off", "energised", "energised", "energised"],
        calibrated=[True, True, True, True, False, True, True],
    )
    human = ["normal", "core_looseness", "normal", "dc_bias", "fan_bearing", None, None]
    labels = labels_of(made, CUTS, human)
    assert rows(labels, "label", "weight", "origin") == [
        (0, 1.0, "human"),
        (1, 1.0, "human"),
        (0, 1.0, "human"),
        (1, 1.0, "human"),
        (1, 1.0, "human"),
        (0, 0.5, "threshold"),
        (1, 0.5, "threshold"),
    ]
    with pytest.raises(ValueError, match="human labels of 1 records for 7 scores"):
        label_of_each(made, CUTS, ["normal"])


@pytest.mark.parametrize(("score", "expected"), [([1.5, 3.0], [-1, 1]), ([0.5, 1.5], [0, -1]), ([1.5, 1.6], [-1, -1])])
def test_a_class_without_records_is_a_result(score, expected):
    assert label_of_each(table(score), CUTS).tolist() == expected


def test_cuts_by_group_are_each_units_own():
    grouped = GroupedCuts(CUTS, "unit", 200, (GroupCuts(("loud",), 300, Cuts(10.0, 20.0)),))
    made = table([0.5, 3.0, 3.0, 25.0], unit=["quiet", "quiet", "loud", "loud"])
    assert label_of_each(made, grouped).tolist() == [0, 1, 0, 1]
    by_sensor = GroupedCuts(CUTS, "sensor", 200, (GroupCuts(("loud", "1"), 300, Cuts(10.0, 20.0)),))
    assert label_of_each(made, by_sensor).tolist() == [0, 1, 0, 1]


# the .npz file


def exported(made, cuts=CUTS, human=None):
    return np.load(io.BytesIO(export_npz(made, label_of_each(made, cuts, human), cuts)), allow_pickle=False)


def test_npz_has_the_plans_names_in_key_order():
    made = table([3.0, 1.5, 0.5, 0.6], corpus=["b", "b", "a", "a"], record_id=["s@9", "s@10", "t@0", "é@0"])
    file = exported(made)
    assert set(file.files) == {"scores", "indices", "keys", "pseudo_normal", "pseudo_anomaly", "uncertain", "t_normal", "t_anomaly"}
    assert file["keys"].tolist() == ["a/t@0", "a/é@0", "b/s@10", "b/s@9"]
    assert file["scores"].tolist() == pytest.approx([0.5, 0.6, 1.5, 3.0])
    assert file["indices"].tolist() == [0, 1, 2, 3]
    assert file["indices"].dtype == np.int64
    assert [file[name].tolist() for name in ("pseudo_normal", "pseudo_anomaly", "uncertain")] == [[0, 1], [3], [2]]
    assert {file[name].dtype for name in ("pseudo_normal", "pseudo_anomaly", "uncertain")} == {np.dtype(np.int64)}
    assert (file["t_normal"], file["t_anomaly"]) == (1.0, 2.0)
    assert file["keys"].dtype.kind == "U"


def test_npz_does_not_depend_on_the_order_of_rows_nor_on_the_hour():
    rng = np.random.default_rng(0)
    made = table(list(rng.uniform(0, 3, 50)))
    shuffled = made.take(rng.permutation(50))
    first = export_npz(made, label_of_each(made, CUTS), CUTS)
    assert export_npz(shuffled, label_of_each(shuffled, CUTS), CUTS) == first
    assert {entry.date_time for entry in zipfile.ZipFile(io.BytesIO(first)).infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_npz_parts_are_all_records_once():
    file = exported(table(list(np.linspace(0, 3, 31))), human=[None] * 30 + ["normal"])
    parts = np.concatenate([file[name] for name in ("pseudo_normal", "pseudo_anomaly", "uncertain")])
    assert sorted(parts) == file["indices"].tolist()
    assert 30 in file["pseudo_normal"]  # a human said so
