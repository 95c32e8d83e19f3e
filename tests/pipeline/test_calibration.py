"""Baselines of sensors that a run, or one of its members, does not know. No Ray, no files."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests.pipeline.lines import FACTS, NUM_SAMPLES, RATE_HZ, START, waveform
from vibray import schema
from vibray.features.scaling import ScalingFit, Sensor
from vibray.models.ensemble import Ensemble, EnsembleConfig
from vibray.pipeline.calibrate import calibration_table
from vibray.recipes import ClassicalRecipe, EnsembleRecipe, banded, build_classical, build_vector, columns_of
from vibray.runs import Detecting, Fusing, Inputs, Run, score_statistics
from vibray.train.classical import Rows, fit_detector, fit_scaling, score_parts

OFTEN, RARE, NEW = ("t1", "t1-s0"), ("t1", "t1-s1"), ("t2", "t2-s0")


def waves(count: int, sensor: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([waveform(rng, sensor) for _ in range(count)]).astype(np.float32)


def detecting(recipe: ClassicalRecipe, x: np.ndarray, sensors: list[Sensor]) -> Run:
    feature = build_vector(recipe.feature, FACTS.mains_hz)
    rows = Rows(feature(torch.from_numpy(x), RATE_HZ), sensors, np.arange(len(x), dtype=np.uint64))
    columns = columns_of(feature, recipe.detector.blocks)
    scaling = fit_scaling(ScalingFit(recipe.scaling, feature.shape), [0], lambda _: rows)
    detector = fit_detector(build_classical(recipe.detector, feature), scaling, columns, [0], lambda _: rows)
    scores = score_parts(detector, scaling, columns, [0], lambda _: rows)
    return Run(recipe, FACTS, Detecting(recipe, scaling, detector, score_statistics(scores)))


@pytest.fixture(scope="module")
def run() -> Run:
    """Two members on the same records; a sensor with 25 of them is known to one that asks for 20, and not to one that asks for 40."""
    x, sensors = np.concatenate([waves(200, 0), waves(25, 1)]), [OFTEN] * 200 + [RARE] * 25
    recipes = {name: replace(banded(), scaling=replace(banded().scaling, min_records=num)) for name, num in (("a", 20), ("b", 40))}
    members = {name: detecting(recipe, x, sensors) for name, recipe in recipes.items()}
    fusion = EnsembleConfig(weights=(("a", 0.5), ("b", 0.5)))
    ensemble = Ensemble(fusion)
    ensemble.fit({name: member.score(torch.from_numpy(x), RATE_HZ, sensors) for name, member in members.items()})
    return Run(EnsembleRecipe(members=dict(recipes), fusion=fusion), members["a"].facts, Fusing(members, ensemble))


def records(sensor: Sensor, x: np.ndarray) -> pa.Table:
    num = len(x)
    columns = {
        "corpus": ["new"] * num,
        "record_id": [f"a.jsonl@{i}" for i in range(num)],
        "line": pa.nulls(num, pa.int64()),
        "unit": [sensor[0]] * num,
        "sensor_id": [sensor[1]] * num,
        "measured_at": pa.array([START] * num, schema.TIME),
        "sample_rate_hz": np.full(num, RATE_HZ),
        "content_hash": [f"{i:032x}" for i in range(num)],
        "waveform": pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), NUM_SAMPLES),
    }
    return pa.table(columns, schema=schema.records(NUM_SAMPLES))


def test_a_member_that_knows_the_sensor_keeps_its_own_baseline(run):
    assert run.known([OFTEN, RARE, NEW]).tolist() == [True, False, False]
    x = waves(50, 1, seed=1)
    table, too_few = calibration_table(run, {RARE: records(RARE, x), NEW: records(NEW, waves(50, 3))})
    assert not too_few
    named = list(zip(table["member"].to_pylist(), table["sensor_id"].to_pylist(), strict=True))
    assert named == [("b", "t1-s1"), ("a", "t2-s0"), ("b", "t2-s0")]

    calibrated = run.calibrated(table)
    assert calibrated.known([OFTEN, RARE, NEW]).all()
    before, after = (r.outputs(torch.from_numpy(x), RATE_HZ, [RARE] * 50) for r in (run, calibrated))
    assert torch.equal(after["score_a"], before["score_a"])
    config, scaling = calibrated.model.scalings()["b"]
    own = scaling(Inputs(torch.from_numpy(x), run.facts)[config], [RARE] * 50)
    assert own.quantile(0.5, dim=0).abs().max() < 1e-5  # against its own records, no longer against the fleet
    assert not torch.equal(after["score_b"], before["score_b"])
    assert table["scores"].to_pylist()[0] == pytest.approx(after["score"].tolist())


def test_a_sensor_with_too_few_records_is_named(run):
    table, too_few = calibration_table(run, {RARE: records(RARE, waves(39, 1)), NEW: records(NEW, waves(40, 3))})
    assert too_few == {RARE: 39}
    assert set(table["sensor_id"].to_pylist()) == {"t2-s0"}
