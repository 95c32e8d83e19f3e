"""What a user would write instead scores every record, in any state of the extra [bench]."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.bench import peers
from tests.bench.alternatives import PEERS, Machine, by_shard
from tests.bench.peers import kept, moment, thinned, write_fleet
from tests.reference import corpora
from vibray.decide.areas import auroc
from vibray.schema import NORMAL
from vibray.signal.synthetic import FleetConfig

BY_NAME = {peer.name: peer for peer in PEERS}
SHARDS = ("000000.jsonl", "000010.jsonl")


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


def test_a_thinned_folder_holds_labelled_records_evenly_in_the_shards_they_came_in(tmp_path: Path) -> None:
    rows = [row for first in (0, 10) for row in write_fleet(tmp_path / "whole", FleetConfig(num_records=20), first, first + 10)]
    labels = {moment(row["sensor_id"], row["data_time"]): True for row in rows[7:]}
    thin = thinned(tmp_path / "whole", 4, labels, tmp_path / "thin")
    whole = [line for name in SHARDS for line in (tmp_path / "whole" / name).read_bytes().splitlines()]
    assert [(thin / name).read_bytes().splitlines() for name in SHARDS] == [[whole[7]], [whole[11], whole[15], whole[19]]]


def test_kept_features_are_those_of_the_folder_and_are_made_once_a_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "cache_folder", lambda: tmp_path / "cache")
    for first in (0, 10):
        write_fleet(tmp_path / "whole", FleetConfig(num_records=20), first, first + 10)
    peer, asked = BY_NAME["scipy + scikit-learn forest"], []

    def features(folder: Path) -> tuple[pd.DataFrame, np.ndarray]:
        asked.append([path.name for path in folder.iterdir()])
        return by_shard(lambda x: x[:, :3], folder)

    keys, x = features(tmp_path / "whole")
    asked.clear()
    for _ in range(2):
        kept_keys, kept_x = kept(peer, 8192.0)(features)(tmp_path / "whole")
        assert [moment(*key) for key in kept_keys.to_numpy()] == [moment(*key) for key in keys.to_numpy()]
        np.testing.assert_array_equal(kept_x, x)
    assert asked == [[name] for name in SHARDS]


def test_a_peer_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["peers", "--only", "librosa"])
    peers.main()
    assert capsys.readouterr().out == ("librosa + scikit-learn forest: left out, not installed: librosa (pip install -e '.[bench]')\n")
