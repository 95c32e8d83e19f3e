"""What a user would write instead scores every record, in any state of the extra [bench]."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.bench import peers
from tests.bench.alternatives import PEERS, Machine
from tests.bench.peers import moment, thinned, write_fleet
from vibray.decide.areas import auroc
from vibray.schema import NORMAL
from vibray.signal.synthetic import FleetConfig

BY_NAME = {peer.name: peer for peer in PEERS}


def test_features_by_sensor_and_a_forest_score_every_record_of_new_sensors(tmp_path: Path) -> None:
    write_fleet(tmp_path / "pool", FleetConfig(num_records=30, num_units=2, contamination=0.0), 0, 30)
    new = FleetConfig(num_records=30, num_units=2, first_unit=2, contamination=0.5, severity=(1.0, 1.0))
    rows = write_fleet(tmp_path / "test", new, 0, 30)
    made = BY_NAME["scipy by sensor + scikit-learn forest"].make(Machine(8192.0, "50", None, 50), 0)
    made.fit(tmp_path / "pool")
    keys, scores = made.score(tmp_path / "test")
    assert [moment(*key) for key in zip(keys["sensor_id"], keys["data_time"], strict=True)] == [
        moment(row["sensor_id"], row["data_time"]) for row in rows
    ]
    area = auroc(scores, np.array([row["label"] != NORMAL for row in rows]))
    assert area is not None and area > 0.6  # the higher, the more abnormal


def test_a_thinned_folder_holds_labelled_records_evenly(tmp_path: Path) -> None:
    rows = write_fleet(tmp_path / "whole", FleetConfig(num_records=20), 0, 20)
    labels = {moment(row["sensor_id"], row["data_time"]): True for row in rows[10:]}
    lines = (thinned(tmp_path / "whole", 4, labels, tmp_path / "thin") / "0.jsonl").read_bytes().splitlines()
    whole = (tmp_path / "whole" / "000000.jsonl").read_bytes().splitlines()
    assert lines == [whole[i] for i in (10, 13, 16, 19)]


def test_a_peer_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["peers", "--only", "librosa"])
    peers.main()
    assert capsys.readouterr().out == ("librosa + scikit-learn forest: left out, not installed: librosa (pip install -e '.[bench]')\n")
