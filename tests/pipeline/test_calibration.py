"""Baselines of sensors that a run, or one of its members, does not know. No Ray, no files."""

from datetime import UTC, datetime, timedelta
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests.pipeline.lines import FACTS, NUM_SAMPLES, RATE_HZ, START, waveform
from vibray import schema
from vibray.features.scaling import Sensor
from vibray.fitting.calibration import calibration_table
from vibray.fitting.earliest import Earliest, plausible
from vibray.models.ensemble import Ensemble, EnsembleConfig, score_statistics
from vibray.recipes import banded
from vibray.recipes.building import build_classical, build_scaling_fit, build_vector, columns_of
from vibray.recipes.kinds import ClassicalRecipe, EnsembleRecipe
from vibray.runs.inputs import Inputs
from vibray.runs.models import Detecting, Fusing
from vibray.runs.run import Run
from vibray.train.classical import Rows, fit_detector, fit_scaling, score_parts

OFTEN, RARE, NEW = ("t1", "t1-s0"), ("t1", "t1-s1"), ("t2", "t2-s0")


def waves(count: int, sensor: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([waveform(rng, sensor) for _ in range(count)]).astype(np.float32)


def detecting(recipe: ClassicalRecipe, x: np.ndarray, sensors: list[Sensor]) -> Run:
    feature = build_vector(recipe.feature, FACTS.mains_hz)
    rows = Rows(feature(torch.from_numpy(x), RATE_HZ), sensors, np.arange(len(x), dtype=np.uint64))
    columns = columns_of(feature, recipe.detector.blocks)
    scaling = fit_scaling(build_scaling_fit(recipe.scaling, feature), [rows], lambda part: part)
    detector = fit_detector(build_classical(recipe.detector, feature), scaling, columns, [rows], lambda part: part)
    scores = score_parts(detector, scaling, columns, [rows], lambda part: part)
    return Run(recipe, FACTS, Detecting(recipe, scaling, detector, score_statistics(scores)))


@pytest.fixture(scope="module")
def run() -> Run:
    """Two members; one was trained on the records of a second sensor too, of which the other knows nothing."""
    x, sensors = np.concatenate([waves(200, 0), waves(25, 1)]), [OFTEN] * 200 + [RARE] * 25
    recipes = {"a": banded(), "b": banded()}
    members = {name: detecting(recipes[name], x[:num], sensors[:num]) for name, num in (("a", 225), ("b", 200))}
    fusion = EnsembleConfig(weights=(("a", 0.5), ("b", 0.5)))
    ensemble = Ensemble(fusion)
    ensemble.fit({name: member.score(torch.from_numpy(x), RATE_HZ, sensors) for name, member in members.items()})
    detectors = {name: member.model for name, member in members.items() if isinstance(member.model, Detecting)}
    return Run(EnsembleRecipe(members=dict(recipes), fusion=fusion), members["a"].facts, Fusing(detectors, ensemble))


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
    table, _ = calibration_table(run, {RARE: records(RARE, x), NEW: records(NEW, waves(50, 3))})
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


def test_scores_of_a_calibration_are_out_of_sample(run):
    x = waves(60, 3)
    table, _ = calibration_table(run, {NEW: records(NEW, x)})
    assert table["record_ids"].to_pylist()[0] == [f"a.jsonl@{i}" for i in range(60)]
    for held in (np.arange(6), np.arange(54, 60)):  # the first tenth and the last, against the other nine
        others, _ = calibration_table(run, {NEW: records(NEW, np.delete(x, held, axis=0))})
        expected = run.calibrated(others).score(torch.from_numpy(x[held]), RATE_HZ, [NEW] * 6)
        assert np.array(table["scores"].to_pylist()[0])[held] == pytest.approx(expected.numpy(), rel=1e-5)
    in_sample = run.calibrated(table).score(torch.from_numpy(x), RATE_HZ, [NEW] * 60)
    assert np.mean(table["scores"].to_pylist()[0]) > in_sample.mean()


@pytest.mark.parametrize("num", [1, 2, 4])
def test_few_records_calibrate_and_each_is_scored_against_all_the_others(run, num):
    x = waves(num, 3)
    table, _ = calibration_table(run, {NEW: records(NEW, x)})
    assert table["num_records"].to_pylist() == [num, num] and run.calibrated(table).known([NEW]).all()
    for i in range(num) if num > 1 else ():
        others = run.calibrated(calibration_table(run, {NEW: records(NEW, np.delete(x, i, axis=0))})[0])
        expected = others.score(torch.from_numpy(x[[i]]), RATE_HZ, [NEW])
        assert table["scores"].to_pylist()[0][i] == pytest.approx(float(expected), rel=1e-5)
    assert [len(scores) for scores in table["scores"].to_pylist()] == [num if num > 1 else 0] * 2


def test_records_of_a_sensor_that_hangs_have_no_score_out_of_sample(run):
    x = waves(60, 3)
    x[7, 1000:2000] = x[7, 1000]
    table, _ = calibration_table(run, {NEW: records(NEW, x)})
    assert table["record_ids"].to_pylist()[0] == [f"a.jsonl@{i}" for i in range(60) if i != 7] and len(table["scores"].to_pylist()[0]) == 59


def at(sensor: Sensor, x: np.ndarray, times: list[datetime], first: int = 0) -> pa.Table:
    made = records(sensor, x)
    rows = np.arange(first, first + len(x))
    for name, values in (
        ("measured_at", pa.array(times, schema.TIME)),
        ("record_id", [f"a.jsonl@{i}" for i in rows]),
        ("content_hash", [blake2b(f"{sensor[1]}{i}".encode(), digest_size=16).hexdigest() for i in rows]),
    ):
        made = made.set_column(made.column_names.index(name), made.schema.field(name), pa.array(values, made.schema.field(name).type))
    return made


def test_a_clock_that_was_never_set_calibrates_nothing_in_whatever_order_the_parts_come():
    hours = [START + timedelta(hours=i) for i in range(100)]
    lost = [datetime(1970, 1, 1, tzinfo=UTC) + timedelta(hours=i) for i in range(60)]
    x, other = waves(160, 3), ("t3", "t3-s0")
    parts = [
        at(NEW, x[:50], lost[:50]),
        at(NEW, x[50:60], lost[50:], 50),
        at(NEW, x[60:100], hours[:40], 60),
        at(NEW, x[100:], hours[40:], 100),
    ]
    for order in ([0, 1, 2, 3], [3, 1, 0, 2], [2, 3, 1, 0]):
        earliest = Earliest(frozenset(), 50)
        for part in order:
            earliest.add("0", parts[part])
        earliest.add("1", at(other, waves(100, 2), hours))
        found, findings = plausible(earliest.picked(), "new", 50)
        times = found.time_ms[found.sensor == found.sensors.index(NEW)]
        assert times.astype("datetime64[ms]").tolist() == [time.replace(tzinfo=None) for time in hours[:50]]
        assert [finding.kind for finding in findings] == ["implausible_times"]


def test_a_waveform_that_is_sent_again_calibrates_once():
    made = at(NEW, waves(20, 3), [START + timedelta(hours=i) for i in range(20)])
    content = pa.array(["ab" * 16] * 15 + [f"{i:032x}" for i in 10**20 * np.arange(1, 6, dtype=object)])
    again = made.set_column(made.column_names.index("content_hash"), made.schema.field("content_hash"), content)
    earliest = Earliest(frozenset(), 10)
    earliest.add("0", again)
    found = earliest.picked()
    assert found.record_ids(slice(None)).to_pylist() == ["a.jsonl@0", *(f"a.jsonl@{i}" for i in range(15, 20))]
