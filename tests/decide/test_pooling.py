"""Means over the sensors of a unit at one time."""

import numpy as np
import pyarrow as pa
import pytest

from tests.decide.fleet import at_one_time, fleet, replaced
from vibray.decide.areas import auroc
from vibray.decide.pooling import moments, over_sensors


def test_each_record_gets_the_mean_of_its_units_sensors_at_its_time() -> None:
    table = at_one_time(fleet(3, 4, 20))
    pooled, num_partners = over_sensors(table)
    own = table["score"].to_numpy().reshape(3, 4, 20).astype(np.float64)
    expected = np.broadcast_to(own.mean(axis=1, keepdims=True), own.shape)
    np.testing.assert_allclose(pooled["score"].to_numpy().reshape(3, 4, 20), expected, rtol=1e-6)
    assert pooled.schema == table.schema
    assert pooled.drop_columns(["score"]).equals(table.drop_columns(["score"]))
    assert num_partners == len(table)
    assert over_sensors(pooled)[0].equals(pooled)


def test_what_is_not_usable_keeps_its_own_score_and_has_no_say() -> None:
    table = at_one_time(fleet(1, 4, 5))
    state, calibrated = np.full(20, "energised", object), np.ones(20, bool)
    state[0], calibrated[5] = "sensor_fault", False  # sensors 0 and 1 at the first time
    table = replaced(replaced(table, "state", state.tolist()), "calibrated", calibrated)
    own, pooled = (t["score"].to_numpy().reshape(4, 5) for t in (table, over_sensors(table)[0]))
    assert (pooled[:2, 0] == own[:2, 0]).all()
    np.testing.assert_allclose(pooled[2:, 0], own[2:, 0].mean(), rtol=1e-6)
    np.testing.assert_allclose(pooled[:, 1:], np.broadcast_to(own[:, 1:].mean(axis=0), (4, 4)), rtol=1e-6)
    off = replaced(table, "state", ["off"] * 20)
    assert over_sensors(off)[0].equals(off) and over_sensors(off)[1] == 0


def test_order_does_not_matter_and_other_times_stay_apart() -> None:
    table = at_one_time(fleet(2, 3, 30))
    shuffled = np.random.default_rng(0).permutation(len(table))
    assert over_sensors(table.take(pa.array(shuffled)))[0]["score"].to_numpy() == pytest.approx(
        over_sensors(table)[0]["score"].to_numpy()[shuffled], rel=1e-6
    )
    apart = fleet(2, 3, 30)  # a second from one sensor to the next
    assert over_sensors(apart)[0].equals(apart)
    units, sensors, times = np.array(["a", "b", "a", "b"]), np.array(["1", "1", "2", "2"]), np.array([5, 5, 5, 7])
    assert moments(units, sensors, times, 0.0).tolist() == [0, 1, 0, 2]


def slow_moments(units: list[str], sensors: list[str], times: list[int], tolerance_ms: float) -> list[set[int]]:
    """The same, record by record."""
    found: list[set[int]] = []
    for unit in sorted(set(units)):
        first, seen = -np.inf, set()
        for row in sorted((i for i, name in enumerate(units) if name == unit), key=lambda i: (times[i], sensors[i])):
            if times[row] - first > tolerance_ms or sensors[row] in seen:
                found.append(set())
                first, seen = times[row], set()
            found[-1].add(row)
            seen.add(sensors[row])
    return found


@pytest.mark.parametrize("seed", range(20))
def test_moments_within_a_tolerance_are_those_of_the_slow_twin(seed: int) -> None:
    rng = np.random.default_rng(seed)
    units, sensors = rng.choice(["a", "b"], 60), rng.choice(["1", "2", "3"], 60)
    times = rng.integers(0, 8000, 60)
    moment = moments(units, sensors, times, 0.5)
    found = [set(np.flatnonzero(moment == m).tolist()) for m in range(moment.max() + 1)]
    assert sorted(map(sorted, found)) == sorted(map(sorted, slow_moments(units.tolist(), sensors.tolist(), times.tolist(), 500)))


def test_sensors_a_few_ms_apart_are_partners_and_one_of_a_wrong_time_is_none() -> None:
    table = fleet(2, 3, 30)
    step = np.arange(len(table)) // 30 % 3
    times = pa.array(1_700_000_000_000 + 3_600_000 * (np.arange(len(table)) % 30) + 3 * step, pa.int64()).cast(
        table.schema.field("measured_at").type
    )
    table = table.set_column(table.column_names.index("measured_at"), table.schema.field("measured_at"), times)
    pooled, num_partners = over_sensors(table)
    assert num_partners == len(table)
    own = table["score"].to_numpy().reshape(2, 3, 30).astype(np.float64)
    np.testing.assert_allclose(
        pooled["score"].to_numpy().reshape(2, 3, 30), np.broadcast_to(own.mean(1, keepdims=True), own.shape), rtol=1e-6
    )
    assert over_sensors(table, 0.002)[1] == 0
    trusted = np.ones(len(table), bool)
    trusted[0] = False
    alone, num_partners = over_sensors(table.append_column("time_trusted", pa.array(trusted)))
    assert num_partners == len(table) - 1 and alone["score"][0].as_py() == table["score"][0].as_py()


@pytest.mark.parametrize(("shared", "gain"), [(0.0, 0.08), (1.0, 0.0)])
def test_the_mean_tells_a_weak_fault_where_the_sensors_noise_is_their_own(shared: float, gain: float) -> None:
    table = at_one_time(fleet(40, 3, 100, sick=[(i, 50, 1.0) for i in range(40)], shared=shared))
    sick = np.arange(len(table)) % 100 >= 50
    own, pooled = (auroc(t["score"].to_numpy(), sick) for t in (table, over_sensors(table)[0]))
    assert own is not None and pooled is not None
    assert pooled >= own + gain - 1e-6
