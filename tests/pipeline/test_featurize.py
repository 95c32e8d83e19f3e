"""The check of the stated sample rate, from records to the line at the job's end; without Ray."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests.pipeline.lines import FACTS, NUM_SAMPLES, START, corpus_fields, write_shard
from vibray.config import UserError
from vibray.decide.state import state_statistics
from vibray.features.cwt_image import CwtImageConfig
from vibray.features.hetero_image import HeteroImageConfig
from vibray.features.seed_image import SeedImageConfig
from vibray.features.zerone_image import ZeroneImageConfig
from vibray.pipeline import featurize as stage
from vibray.pipeline.featurize import CONFIGS, MAINS_RECORDS, featurize, finite_rows, mains_of, rate_findings
from vibray.pipeline.jobs import FeaturizeJob
from vibray.recipes.building import build_feature
from vibray.schema import BAD_RECORDS
from vibray.storage.parts import Parts
from vibray.storage.vectors import vector_column


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """Four machines of two sensors, six records a sensor, at 8192 Hz."""
    folder = tmp_path_factory.mktemp("raw")
    for unit in range(4):
        write_shard(folder / f"{unit}.jsonl", 12, seed=unit, unit=f"t{unit}")
    return folder


def run(raw: Path, features: Path, **facts) -> dict:
    featurize(FeaturizeJob(str(raw), str(features), vectors=(), local=True, **corpus_fields(replace(FACTS, **facts))))
    return json.loads((features / "feature.json").read_text())


@pytest.mark.parametrize(("stated", "mains", "said"), [
    (8192.0, "50", None),
    (10000.0, "none", None),
    (10000.0, "50", "the sample rate is 8,192 Hz rather than 10,000 Hz (--sample-rate-hz 8192)"),
    (16384.0, "50", "the sample rate is 8,192 Hz rather than 16,384 Hz (--sample-rate-hz 8192)"),
    (4096.0, "50", "the sample rate is 8,192 Hz rather than 4,096 Hz (--sample-rate-hz 8192)"),
    (8192.0, "60", "the sample rate may be 8,192 Hz as stated if the mains frequency is 50 Hz (--mains 50)"),
])  # fmt: skip
def test_a_wrong_rate_is_said_once_and_counted(raw, tmp_path, capsys, stated, mains, said) -> None:
    written = run(raw, tmp_path / "features", sample_rate_hz=stated, mains=mains)
    found = [text for text in capsys.readouterr().out.splitlines() if text.startswith("found: ")]
    if said is None:
        assert not found and written["findings"] == {}
    else:
        assert len(found) == 1 and said in found[0] and written["findings"] == {"wrong_rate": 8}


def test_markers_hold_the_families_and_older_ones_are_passed_over(raw, tmp_path) -> None:
    run(raw, tmp_path / "features", sample_rate_hz=10000.0)
    facts = replace(FACTS, sample_rate_hz=10000.0)
    parts = Parts(str(tmp_path / "features"))
    looked = {sensor: of for marker in parts.markers.values() for sensor, of in marker["mains"].items()}
    assert set(looked) == {f"t{unit}/t{unit}-s{sensor}" for unit in range(4) for sensor in range(2)}
    for sensor, of in looked.items():
        assert of["unit"] == sensor[:2] and of["num_looked_at"] == 6
        np.testing.assert_allclose(of["family_hz"], 122.07, atol=0.1)
    before = rate_findings(parts, facts)
    parts.markers["older"] = {"mains": {sensor: [100.0] * 8 for sensor in looked}}
    parts.markers["oldest"] = {}
    assert rate_findings(parts, facts) == before != []
    for marker in parts.markers.values():
        marker["mains"] = {"t0/t0-s0": [122.0] * 8}
    assert rate_findings(parts, facts) == []


def records_of(sensors: list[tuple[str, str]]) -> pa.Table:
    """Records of noise."""
    noise = np.random.default_rng(0).standard_normal((len(sensors), NUM_SAMPLES)).astype(np.float32)
    waveform = pa.FixedSizeListArray.from_arrays(pa.array(noise.ravel()), NUM_SAMPLES)
    return pa.table({"unit": [u for u, _ in sensors], "sensor_id": [s for _, s in sensors], "waveform": waveform})


def test_few_records_are_looked_at(monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(stage, "mains_family_hz", lambda x, rate: seen.append(len(x)) or (x[:, 0].double() * np.nan))
    records = records_of([(f"u{i % 5}", f"s{i % 10}") for i in range(230)])
    assert all(of == {"unit": key[:2], "num_looked_at": 8, "family_hz": []} for key, of in mains_of(records, FACTS).items())
    assert len(mains_of(records, FACTS, per_sensor=1)) == 10
    assert len(mains_of(records, FACTS, per_sensor=1, most=3)) == 3
    assert seen == [10 * MAINS_RECORDS, 10, 3]
    assert mains_of(records, replace(FACTS, mains="none")) == mains_of(records.slice(0, 0), FACTS) == {}


def test_options_that_changed_nothing_and_sensors_without_a_record_are_said(raw, tmp_path, capsys) -> None:
    run(raw, tmp_path / "a", timezone="Europe/Berlin", wrong_length="fit")
    out = capsys.readouterr().out
    assert "--timezone Europe/Berlin affected nothing" in out and "--wrong-length fit affected nothing" in out
    sensors = [f"t{u}-s{s},t{u}\n" for u in range(4) for s in range(2)]
    (tmp_path / "units.csv").write_text("".join(["sensor_id,unit\n", *sensors, "t9-s0,t9\n"]))
    fields = {**corpus_fields(FACTS), "unit_pattern": None, "units": str(tmp_path / "units.csv")}
    featurize(FeaturizeJob(str(raw), str(tmp_path / "b"), vectors=(), local=True, **fields))
    out = capsys.readouterr().out
    assert "--units names 1 of 9 sensors that no record is of, as 't9-s0'" in out and "affected nothing" not in out


def test_where_nothing_is_kept_the_reason_stands_with_an_example(raw, tmp_path, capsys) -> None:
    written = run(raw, tmp_path / "a", num_samples=NUM_SAMPLES // 2)
    out = capsys.readouterr().out
    assert written["num_records"] == 0 and "48 wrong length, as 0.jsonl@0: 2048 samples, 1024 expected" in out
    assert "no record was kept" in out


def test_a_rate_in_khz_is_an_error_that_says_so(raw, tmp_path) -> None:
    with pytest.raises(UserError, match="is it in kHz"):
        run(raw, tmp_path / "a", sample_rate_hz=8.192)


def test_a_feature_that_is_not_finite_sets_its_record_aside_by_its_id() -> None:
    vectors = vector_column(np.array([[1, 2], [3, np.inf], [5, 6]], np.float32))
    origin = {"corpus": ["c"] * 3, "record_id": ["a@0", "b#7", "a@90"], "line": [1, None, 2], "unit": ["u"] * 3, "sensor_id": ["s"] * 3}
    more = {"measured_at": [START] * 3, "sample_rate_hz": [1.0] * 3, "content_hash": ["x", "y", "z"], "rms": [1.0, 1.0, np.nan]}
    table = pa.table({**origin, **more, "spectral": vectors})
    kept, bad = finite_rows(table, BAD_RECORDS.empty_table(), ("rms", "spectral"))
    assert kept["record_id"].to_pylist() == ["a@0"]
    rows = bad.select(["shard", "offset", "line", "reason", "detail"]).to_pylist()
    reason = "feature or score not finite"
    assert rows == [
        {"shard": "b", "offset": 7, "line": None, "reason": reason, "detail": "spectral is NaN or infinite"},
        {"shard": "a", "offset": 90, "line": 2, "reason": reason, "detail": "rms is NaN or infinite"},
    ]
    assert finite_rows(table.slice(0, 0), bad, ("rms", "spectral"))[1] is bad


@pytest.mark.parametrize("amplitude", [1e-11, 1e-6, 1.0, 1e6, 2.0**31])
def test_features_of_every_amplitude_that_is_kept_are_finite(amplitude: float) -> None:
    """The range of samples.py is one that the features carry: nothing of an archive ends a training at its row 30."""
    time_s = np.arange(8192) / 8192
    waves = np.stack(
        [np.sin(2 * np.pi * 100 * time_s), np.sign(np.sin(2 * np.pi * 100 * time_s)), np.random.default_rng(0).normal(size=8192)]
    )
    w = torch.from_numpy((amplitude * waves).astype(np.float32))
    for config in (*CONFIGS.values(), CwtImageConfig(), SeedImageConfig(), ZeroneImageConfig(), HeteroImageConfig()):
        assert build_feature(config, 50.0)(w, 8192.0).isfinite().all(), config.kind
    assert all(np.isfinite(values).all() for values in state_statistics(w.numpy(), 8192.0).values())
