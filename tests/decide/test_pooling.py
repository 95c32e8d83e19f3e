"""Means over the sensors of a unit at one time."""

import numpy as np
import pyarrow as pa
import pytest

from tests.decide.fleet import at_one_time, fleet, replaced
from vibray.decide.areas import auroc
from vibray.decide.pooling import moments, over_sensors


def test_each_record_gets_the_mean_of_its_units_sensors_at_its_time() -> None:
    table = at_one_time(fleet(3, 4, 20))
    pooled = over_sensors(table)
    own = table["score"].to_numpy().reshape(3, 4, 20).astype(np.float64)
    expected = np.broadcast_to(own.mean(axis=1, keepdims=True), own.shape)
    np.testing.assert_allclose(pooled["score"].to_numpy().reshape(3, 4, 20), expected, rtol=1e-6)
    assert pooled.schema == table.schema
    assert pooled.drop_columns(["score"]).equals(table.drop_columns(["score"]))
    assert over_sensors(pooled).equals(pooled)


def test_what_is_not_usable_keeps_its_own_score_and_has_no_say() -> None:
    table = at_one_time(fleet(1, 4, 5))
    state, calibrated = np.full(20, "energised", object), np.ones(20, bool)
    state[0], calibrated[5] = "sensor_fault", False  # sensors 0 and 1 at the first time
    table = replaced(replaced(table, "state", state.tolist()), "calibrated", calibrated)
    own, pooled = (t["score"].to_numpy().reshape(4, 5) for t in (table, over_sensors(table)))
    assert (pooled[:2, 0] == own[:2, 0]).all()
    np.testing.assert_allclose(pooled[2:, 0], own[2:, 0].mean(), rtol=1e-6)
    np.testing.assert_allclose(pooled[:, 1:], np.broadcast_to(own[:, 1:].mean(axis=0), (4, 4)), rtol=1e-6)
    off = replaced(table, "state", ["off"] * 20)
    assert over_sensors(off).equals(off)


def test_order_does_not_matter_and_other_times_stay_apart() -> None:
    table = at_one_time(fleet(2, 3, 30))
    shuffled = np.random.default_rng(0).permutation(len(table))
    assert over_sensors(table.take(pa.array(shuffled)))["score"].to_numpy() == pytest.approx(
        over_sensors(table)["score"].to_numpy()[shuffled], rel=1e-6
    )
    apart = fleet(2, 3, 30)  # a second from one sensor to the next
    assert over_sensors(apart).equals(apart)
    assert moments(np.array(["a", "b", "a", "b"]), np.array([5, 5, 5, 7])).tolist() == [0, 1, 0, 2]


@pytest.mark.parametrize(("shared", "gain"), [(0.0, 0.08), (1.0, 0.0)])
def test_the_mean_tells_a_weak_fault_where_the_sensors_noise_is_their_own(shared: float, gain: float) -> None:
    table = at_one_time(fleet(40, 3, 100, sick=[(i, 50, 1.0) for i in range(40)], shared=shared))
    sick = np.arange(len(table)) % 100 >= 50
    own, pooled = (auroc(t["score"].to_numpy(), sick) for t in (table, over_sensors(table)))
    assert own is not None and pooled is not None
    assert pooled >= own + gain - 1e-6
