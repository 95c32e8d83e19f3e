"""The check of the stated sample rate, from records to the line at the job's end; without Ray."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.pipeline.lines import FACTS, NUM_SAMPLES, corpus_fields, write_shard
from vibray.pipeline import featurize as stage
from vibray.pipeline.featurize import MAINS_RECORDS, featurize, mains_of, rate_findings
from vibray.pipeline.jobs import FeaturizeJob
from vibray.storage.parts import Parts


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


@pytest.mark.parametrize(("stated", "mains", "line"), [
    (8192.0, "50", None),
    (10000.0, "none", None),
    (10000.0, "50", "the sample rate is 8,192 Hz rather than 10,000 Hz (--sample-rate-hz 8192)"),
    (16384.0, "50", "the sample rate is 8,192 Hz rather than 16,384 Hz (--sample-rate-hz 8192)"),
    (4096.0, "50", "the sample rate is 8,192 Hz rather than 4,096 Hz (--sample-rate-hz 8192)"),
    (8192.0, "60", "the sample rate may be 8,192 Hz as stated if the mains frequency is 50 Hz (--mains 50)"),
])  # fmt: skip
def test_a_wrong_rate_is_said_once_and_counted(raw, tmp_path, capsys, stated, mains, line) -> None:
    written = run(raw, tmp_path / "features", sample_rate_hz=stated, mains=mains)
    found = [text for text in capsys.readouterr().out.splitlines() if text.startswith("found: ")]
    if line is None:
        assert not found and written["findings"] == {}
    else:
        assert len(found) == 1 and line in found[0] and written["findings"] == {"wrong_rate": 8}


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
