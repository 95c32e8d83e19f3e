"""What the machines of training would score if each were new: made vectors, the default's own way of fitting."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.pipeline.lines import FACTS
from tests.tables.sensors import numbered
from vibray.decide.fleet_scores import LEVELS
from vibray.features.scaling import Sensor
from vibray.fitting.fleet_scores import NUM_FIRST, NUM_LATER, NUM_WINDOWS, fleet_scores, windows_of
from vibray.recipes import banded
from vibray.recipes.building import build_classical, build_scaling_fit, build_vector, columns_of
from vibray.recipes.kinds import ClassicalRecipe
from vibray.runs.inputs import Inputs
from vibray.runs.models import Detecting
from vibray.runs.run import Run
from vibray.train.classical import Rows, fit_detector, fit_scaling

FEATURE = build_vector(banded().feature, FACTS.mains_hz)
NUM_SENSORS, NUM_RECORDS = 40, 80


def vectors(seed: int, num_sensors: int, num_records: int, fault_share: float = 0.0) -> tuple[torch.Tensor, list[Sensor], np.ndarray]:
    """Records in order of time, sensor by sensor: levels of its own, and a load that moves slowly and all bands with it."""
    rng = np.random.default_rng(seed)
    size = FEATURE.shape[0]
    load = np.sin(np.arange(num_records) / 5 + rng.uniform(0, 6, (num_sensors, 1)))
    with_load = rng.normal(0, 0.2, (num_sensors, 1, size)) * load[..., None]
    log_x = rng.normal(0, 2, (num_sensors, 1, size)) + with_load + rng.normal(0, 0.3, (num_sensors, num_records, size))
    faulty = rng.random((num_sensors, num_records)) < fault_share
    log_x[faulty] += rng.normal(0, 1.0, (int(faulty.sum()), size))
    sensors = [(f"u{i}", "s") for i in range(num_sensors) for _ in range(num_records)]
    return torch.from_numpy(np.exp(log_x).astype(np.float32).reshape(-1, size)), sensors, faulty.ravel()


def fitted(recipe: ClassicalRecipe, x: torch.Tensor, sensors: list[Sensor]) -> Run:
    rows = Rows(x, sensors, np.random.default_rng(0).permutation(len(x)).astype(np.uint64))
    columns = columns_of(FEATURE, recipe.detector.blocks)
    scaling = fit_scaling(build_scaling_fit(recipe.scaling, FEATURE), [rows], lambda part: part)
    detector = fit_detector(build_classical(recipe.detector, FEATURE), scaling, columns, [rows], lambda part: part)
    return Run(recipe, FACTS, Detecting(recipe, scaling, detector, torch.zeros(2, dtype=torch.float64)))


@pytest.fixture(scope="module")
def run() -> Run:
    x, sensors, _ = vectors(0, NUM_SENSORS, NUM_RECORDS, fault_share=0.05)
    run = fitted(banded(), x, sensors)
    return replace(run, fleet_scores=fleet_scores(banded(), FACTS.mains_hz, np.arange(len(x)), numbered(sensors), lambda rows: x[rows]))


@pytest.mark.parametrize("k", [1, 5, 20])
def test_a_new_machines_rate_is_near_what_is_asked_from_the_first_record(run, k):
    x, sensors, _ = vectors(1, 60, 120)
    sensors = [(f"new-{unit}", sensor_id) for unit, sensor_id in sensors]
    later = np.arange(len(x)) % 120 >= k
    new = run.model.scalings()[""][1].with_sensors((sensors[120 * i], x[120 * i : 120 * i + k]) for i in range(60))
    told = [sensors[i] for i in np.flatnonzero(later)]
    score = run.model.rescaled({"": new}).outputs(Inputs(torch.empty(len(told), 0), FACTS, {banded().feature: x[later]}), told)["score"]
    p = run.fleet_scores.p_values(score.numpy(), np.full(len(told), k))
    for rate in (0.01, 0.05):
        assert (0 if k == 1 else 0.3 * rate) <= np.mean(p <= rate) < 2 * rate  # one record of 40 sensors tells little of a tail


def test_records_that_are_faulty_by_the_whole_history_say_nothing(run):
    x, sensors, faulty = vectors(0, NUM_SENSORS, NUM_RECORDS, fault_share=0.05)
    model = run.model.outputs(Inputs(torch.empty(len(x), 0), FACTS, {banded().feature: x}), sensors)["score"].numpy()
    assert np.median(model[faulty]) > run.fleet_scores.scores[20].max()


def test_levels_rest_on_records_enough(run):
    assert set(run.fleet_scores.scores) == set(LEVELS)
    medians = [float(run.fleet_scores.scores[level].median()) for level in LEVELS]
    assert medians == sorted(medians, reverse=True)  # the fewer records, the higher a healthy one scores
    x, sensors, _ = vectors(0, 2, 30)
    few = fleet_scores(banded(), FACTS.mains_hz, np.arange(60), numbered(sensors), lambda rows: x[rows])
    assert few.scores == {}  # 60 records at most


@pytest.mark.parametrize(("num_sensors", "num_records", "num_windows"), [(1, 1000, 62), (3, 400, 75), (200, 20, NUM_WINDOWS), (4, 20, 4)])
def test_windows(num_sensors, num_records, num_windows):
    sensors = [(f"u{i % num_sensors}", "s") for i in range(num_sensors * num_records)]
    found = windows_of(np.arange(len(sensors)), numbered(sensors))
    assert len(found) == num_windows
    for window in found:
        assert {sensors[row] for row in window.rows} == {window.sensor}
        assert np.all(np.diff(window.rows[: window.num_first]) == num_sensors)  # consecutive
        assert window.num_first == min(NUM_FIRST, num_records - window.rows[0] // num_sensors)
        assert 0 < window.spaced.sum() <= NUM_LATER and not window.spaced[0] and window.spaced[-1]
    assert windows_of(np.arange(3), numbered([("a", "s"), ("b", "s"), ("c", "s")])) == []
