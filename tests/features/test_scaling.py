import copy
import json
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import load, save

from tests.reference.robust import b64, limited, log_bands, median_mad, shrunk
from vibray.config import UserError, from_json, to_json
from vibray.features.scaling import Scaling, ScalingConfig
from vibray.features.scaling_fit import ScalingFit
from vibray.models.classical import MahalanobisConfig, build

A, B, RARE, NEW = ("t1", "1"), ("t2", "1"), ("t3", "1"), ("t9", "1")
SENSOR = ScalingConfig(by="sensor", prior_records=16.0)


def keys(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).permutation(n).astype(np.uint64)


def corpus(shape: tuple[int, ...] = (3,), n: int = 120, seed: int = 0) -> tuple[torch.Tensor, list[tuple[str, str]]]:
    """Sensor A around 10 with spread 1, B around -50 with spread 4, RARE three records."""
    rng = np.random.default_rng(seed)
    sensors = [RARE] * 3 + [A, B] * ((n - 3) // 2) + [A] * ((n - 3) % 2)
    centre, spread = {A: 10, B: -50, RARE: 0}, {A: 1, B: 4, RARE: 1}
    x = np.stack([centre[s] + spread[s] * rng.normal(size=shape) for s in sensors])
    return torch.from_numpy(x.astype(np.float32)), sensors


def fitted(config: ScalingConfig, x: torch.Tensor, sensors: list[tuple[str, str]]) -> Scaling:
    fit = ScalingFit(config, tuple(x.shape[1:]))
    fit.update(x, sensors, keys(len(x)))
    return fit.finish()


def by_sensor(values: torch.Tensor, sensors: list[tuple[str, str]]) -> dict[tuple[str, str], np.ndarray]:
    own = values.double().numpy()
    return {sensor: own[[i for i, s in enumerate(sensors) if s == sensor]] for sensor in dict.fromkeys(sensors)}


def test_each_element_of_each_sensor_by_the_slow_twin() -> None:
    x, sensors = corpus()
    scaling = fitted(SENSOR, x, sensors)
    scaled = scaling(x, sensors)
    for sensor in (A, B, RARE):
        mine = torch.tensor([s == sensor for s in sensors])
        for j in range(3):
            location, scale = shrunk(by_sensor(x[:, j], sensors), x[mine, j].double().numpy(), 16.0)
            np.testing.assert_allclose(scaled[mine, j], (x[mine, j].double() - location) / scale, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num", [1, 2, 3, 5, 20, 100])
@pytest.mark.parametrize("prior_records", [0.5, 64.0])
def test_a_new_sensor_from_its_first_record_on_by_the_slow_twin(num: int, prior_records: float) -> None:
    x, sensors = corpus()
    scaling = fitted(ScalingConfig(by="sensor", prior_records=prior_records), x, sensors)
    own = torch.from_numpy(np.random.default_rng(num).normal(5, 3, (num, 3)).astype(np.float32))
    location, scale = scaling.statistics_of(own)
    for j in range(3):
        expected = shrunk(by_sensor(x[:, j], sensors), own[:, j].double().numpy(), prior_records)
        assert (float(location[j]), float(scale[j])) == pytest.approx(expected, rel=1e-5)
    if num == 1:
        assert torch.equal(location, own[0])
        np.testing.assert_allclose(scale, scaling.within * (1 + np.pi / 2) ** 0.5, rtol=1e-6)


def test_with_quantiles_and_rows_the_records_are_counted_and_not_their_columns() -> None:
    x = torch.from_numpy(np.random.default_rng(2).normal(size=(40, 1, 2, 16)).astype(np.float32))
    sensors = [A, B] * 20
    config = ScalingConfig(by="sensor", statistic="quantile", quantiles=(0.1, 0.9), per="row", columns_per_record=4)
    scaling = fitted(config, x, sensors)
    own = x[::2, 0, :, [2, 6, 10, 14]].double().numpy(), x[1::2, 0, :, [2, 6, 10, 14]].double().numpy()
    spread = np.array([np.diff(np.quantile(values, (0.1, 0.9), axis=(0, 2)), axis=0)[0] / 2 for values in own])
    usual = np.median(spread**2, axis=0)
    expected = np.sqrt((19 * spread**2 + 256 * usual) / (19 + 256) * (1 + np.pi / 40))
    np.testing.assert_allclose(scaling.within[0, :, 0], np.sqrt(usual), rtol=1e-5)
    np.testing.assert_allclose(scaling.scale[1:, 0, :, 0], expected, rtol=1e-5)


def test_where_no_sensor_has_two_records_the_fleets_spread_is_the_usual_one() -> None:
    x, _ = corpus()
    scaling = fitted(SENSOR, x[:3], [A, B, RARE])
    assert torch.equal(scaling.within, scaling.scale[0])
    assert torch.equal(scaling.location[1:], x[[0, 1, 2]])
    np.testing.assert_allclose(scaling.scale[1:], (scaling.scale[0] * (1 + np.pi / 2) ** 0.5).expand(3, -1), rtol=1e-6)


def test_rows_of_an_image_share_one_location_and_scale_over_evenly_spaced_columns() -> None:
    x = torch.from_numpy(np.random.default_rng(1).lognormal(size=(60, 2, 5, 24)).astype(np.float32))
    config = ScalingConfig(per="row", columns_per_record=4, transform="log")
    scaling = fitted(config, x, [A] * 60)
    s = np.median(x[..., [3, 9, 15, 21]].double().numpy())
    y = np.log(x.double().numpy() + 1e-6 * s)
    assert scaling.location.shape == (1, 2, 5, 1)
    for channel in range(2):
        for row in range(5):
            location, scale = median_mad(y[:, channel, row, [3, 9, 15, 21]].ravel())
            np.testing.assert_allclose(scaling(x)[:, channel, row], (y[:, channel, row] - location) / scale, atol=2e-5)


def test_quantiles_become_minus_one_and_one() -> None:
    x = torch.linspace(0, 10, 1001)[:, None].repeat(1, 2) * torch.tensor([1.0, 1e-6])
    scaling = fitted(ScalingConfig(statistic="quantile", quantiles=(0.1, 0.9), clip=2.0), x, [A] * 1001)
    np.testing.assert_allclose(scaling(torch.tensor([[1.0, 1e-6], [9.0, 9e-6], [1e9, -1.0]])), [[-1, -1], [1, 1], [2, -2]], atol=1e-5)


def test_a_padded_cell_stays_zero_and_a_constant_becomes_zero() -> None:
    x, sensors = corpus()
    x[:, 0], x[:, 1] = 0, 3.5
    for by in ("fleet", "sensor"):
        assert (fitted(ScalingConfig(by=by), x, sensors)(x, sensors)[:, :2] == 0).all()


def test_no_spread_in_any_sensor_takes_the_fleets_scale_and_no_scale_is_below_what_float32_shows() -> None:
    x, sensors = corpus()
    x[:, 0] = torch.tensor([{A: 2.0, B: 4.0, RARE: 9.0}[s] for s in sensors])
    x[:, 1] = torch.tensor([1e-3 * (i % 5) + {A: 0.0, B: 0.0, RARE: 1e7}[s] for i, s in enumerate(sensors)])
    scaling = fitted(SENSOR, x, sensors)
    assert scaling.location[1, 0] == 2 and scaling.within[0] == scaling.scale[0, 0] > 0
    assert scaling.within[1] < 1e-2 and float(scaling.scale[3, 1]) == pytest.approx(1e7 * 2**-23)


def test_asinh_is_a_logarithm_that_keeps_the_sign() -> None:
    x = torch.tensor([[-1000.0], [-1.0], [0.0], [1.0], [1000.0]])
    y = fitted(ScalingConfig(transform="asinh", by="none"), x, [A] * 5)(x)
    np.testing.assert_allclose(y[:, 0], np.arcsinh(x[:, 0].double().numpy()), rtol=1e-6)  # the median |x| is 1


def test_by_none_only_transforms_and_by_fleet_ignores_sensors() -> None:
    x, sensors = corpus()
    torch.testing.assert_close(fitted(ScalingConfig(by="none"), x, sensors)(x, sensors), x)
    fleet = fitted(ScalingConfig(), x, sensors)
    torch.testing.assert_close(fleet(x, sensors), fleet(x))


def test_unknown_sensors_have_the_fleets_statistics() -> None:
    x, sensors = corpus()
    scaling = fitted(SENSOR, x, sensors)
    assert scaling.known([A, RARE, NEW, B]).tolist() == [True, True, False, True]
    torch.testing.assert_close(scaling(x[:3], [NEW] * 3), scaling(x[:3]))
    location, _ = median_mad(x[:, 0].double().numpy())
    assert float(scaling.location[0, 0]) == pytest.approx(location, rel=1e-6)


def test_a_record_does_not_depend_on_its_batch() -> None:
    x, sensors = corpus()
    scaling = fitted(SENSOR, x, sensors)
    whole = scaling(x, sensors)
    for i in (0, 3, 4, 119 - 1):
        assert torch.equal(scaling(x[i : i + 1], sensors[i : i + 1])[0], whole[i])


@pytest.mark.parametrize("config", [SENSOR, ScalingConfig(transform="log", records_per_sensor=20, fleet_records=30, by="sensor")])
def test_any_split_and_order_gives_the_same_state(config: ScalingConfig) -> None:
    x, sensors = corpus()
    key_hash = keys(len(x))
    whole = ScalingFit(config, (3,))
    whole.update(x, sensors, key_hash)
    order = np.random.default_rng(3).permutation(len(x))
    merged = ScalingFit(config, (3,))
    for part in np.array_split(order, 7):
        worker = ScalingFit(config, (3,))
        for i in part:
            worker.update(x[i : i + 1], [sensors[i]], key_hash[i : i + 1])
        merged.merge(pickle.loads(pickle.dumps(worker)))
    merged.update(x[:0], [], key_hash[:0])
    a, b = whole.finish(), merged.finish()
    assert a.facts() == b.facts()
    assert all(torch.equal(a.state()[name], b.state()[name]) for name in a.state())


def test_the_sample_is_bounded_and_large_enough() -> None:
    config = ScalingConfig(by="sensor", records_per_sensor=50, fleet_records=40)
    x, sensors = corpus(n=1000)
    fit = ScalingFit(config, (3,))
    for i in range(0, 1000, 100):
        fit.update(x[i : i + 100], sensors[i : i + 100], keys(1000)[i : i + 100])
    assert len(fit.fleet.rows) == 40 and set(np.bincount(copy.deepcopy(fit.sensors).table()[0]).tolist()) == {50, 3}
    assert abs(float(fit.finish().location[2, 0]) + 50) < 3 * 4 * 1.253 / 50**0.5  # a sample's median is that close


LIMITED = ScalingConfig(by="sensor", limits=(4.0, 2.0))


@pytest.mark.parametrize("level", [None, 2])
def test_limits_by_the_slow_twin(level: int | None) -> None:
    x, sensors = corpus()
    x[5, 2], x[6, 2], x[8, 2], x[9, 0], x[10, 1], x[12, 1] = -1e3, -65.0, -76.0, 1e4, -1e4, 1e30
    fit = ScalingFit(LIMITED, (3,), level)
    fit.update(x, sensors, keys(len(x)))
    scaling = fit.finish().extend([NEW], [1], torch.zeros(1, 3), torch.ones(1, 3))
    x, sensors = torch.cat([x, 9 * x[:7]]), sensors + [NEW] * 7
    row, counts = {s: i for i, s in enumerate(scaling.sensors, 1)}, {A: 59, B: 58, RARE: 3, NEW: 1}
    z = (x - scaling.location[[row[s] for s in sensors]]) / scaling.scale[[row[s] for s in sensors]]
    of_training = np.quantile(z[: len(x) - 7].numpy(), 0.99, axis=0)
    assert (of_training > 2).any()
    np.testing.assert_allclose(scaling.upper, np.maximum(2, of_training), rtol=1e-5)
    of_level = [None if level is None else float(v) for v in z[:, 2]]
    upper = scaling.upper.tolist()
    for j in range(3):
        own = [limited(float(v), counts[s], 4.0, upper[j], of) for v, s, of in zip(z[:, j], sensors, of_level, strict=True)]
        np.testing.assert_allclose(scaling(x, sensors)[:, j], own, rtol=1e-4, atol=1e-4)
    fleet = (x[:9] - scaling.location[0]) / scaling.scale[0]
    of_level = [None if level is None else float(v) for v in fleet[:, 2]]
    own = [limited(float(v), np.inf, 4.0, upper[0], of) for v, of in zip(fleet[:, 0], of_level, strict=True)]
    np.testing.assert_allclose(scaling(x[:9])[:, 0], own, rtol=1e-4, atol=1e-4)


def test_what_rises_keeps_its_order_and_a_machine_that_stands_still_says_little() -> None:
    x, sensors = corpus()
    fit = ScalingFit(LIMITED, (3,), 0)
    fit.update(x, sensors, keys(len(x)))
    scaling = fit.finish()
    risen = scaling(torch.tensor([[10.0, 10.0 + rise, 10.0] for rise in (10, 100, 1e4, 1e9)]), [A] * 4)[:, 1]
    assert (risen.diff() > 1).all() and risen[-1] < 40
    still = scaling(torch.tensor([[-10.0, 1e6, -1e6], [10.0, 1e6, -1e6]]), [A] * 2)
    assert still[0].abs().max() == 1 and still[1, 1] > 10 and still[1, 2] < -3


def test_limits_of_an_image_are_by_row() -> None:
    x = torch.from_numpy(np.random.default_rng(1).lognormal(size=(60, 2, 5, 24)).astype(np.float32))
    scaling = fitted(ScalingConfig(by="sensor", per="row", transform="log", limits=(4.0, 1.0)), x, [A, B] * 30)
    assert scaling.upper.shape == (2, 5, 1) and scaling.upper.min() > 1
    unlimited = fitted(ScalingConfig(by="sensor", per="row", transform="log"), x, [A, B] * 30)(x, [A, B] * 30)
    observed = unlimited[..., [3 * i + 1 for i in range(8)]].numpy()
    np.testing.assert_allclose(scaling.upper[..., 0], np.quantile(observed, 0.99, axis=(0, 3)), rtol=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.float32, (6, 2), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)),
    st.sampled_from(["none", "log", "asinh"]),
    st.sampled_from(["median_mad", "quantile"]),
    st.sampled_from([{}, {"clip": 5.0}, {"limits": [4.0, 6.0]}]),
)
def test_finite_in_is_finite_out(values: np.ndarray, transform: str, statistic: str, cut: dict) -> None:
    x = torch.from_numpy(values)
    config = from_json(ScalingConfig, {"transform": transform, "statistic": statistic, "by": "sensor", "records_per_sensor": 9, **cut})
    scaling = fitted(config, x[:5], [A, A, B, B, A])
    assert scaling(x, [A, A, B, B, A, NEW]).isfinite().all()


def test_calibration_adds_sensors_by_the_same_formulas() -> None:
    x, sensors = corpus((2, 4, 16))
    config = ScalingConfig(transform="log", by="sensor", per="row")
    seen = [i for i, s in enumerate(sensors) if s != B]
    without = fitted(config, x[seen].abs(), [sensors[i] for i in seen])
    own = x[[i for i, s in enumerate(sensors) if s == B]].abs()
    location, scale = without.statistics_of(own)
    extended = without.extend([B], [len(own)], location.reshape(1, -1), scale.reshape(1, -1))  # as a calibration file stores them
    y = extended(own, [B] * len(own))[..., [1, 3, 5, 7, 9, 11, 13, 15]]
    np.testing.assert_allclose(y.permute(1, 2, 0, 3).reshape(8, -1).median(dim=1).values, 0, atol=0.02)
    assert extended.known([B]).all() and not without.known([B]).any()
    torch.testing.assert_close(extended(x[:4], sensors[:4]), without(x[:4], sensors[:4]))

    with pytest.raises(UserError, match=r"sensor 1 of unit t2 .* already"):
        extended.extend([B], [1], location[None], scale[None])
    with pytest.raises(ValueError, match="one record at least"):
        without.statistics_of(own[:0])
    with pytest.raises(UserError, match="above 0"):
        without.extend([NEW], [1], location[None], 0 * scale[None])
    with pytest.raises(ValueError, match="statistics each"):
        without.extend([NEW], [1], location[None, :1], scale[None, :1])


def test_calibration_of_a_training_sensors_own_records_gives_its_training_statistics() -> None:
    x, sensors = corpus()
    scaling = fitted(SENSOR, x, sensors)
    for row, sensor in enumerate((A, B, RARE), 1):
        location, scale = scaling.statistics_of(x[[i for i, s in enumerate(sensors) if s == sensor]])
        assert torch.equal(location, scaling.location[row]) and torch.equal(scale, scaling.scale[row])


def test_calibration_without_own_statistics_only_makes_a_sensor_known() -> None:
    x, sensors = corpus()
    scaling = fitted(ScalingConfig(), x, sensors)
    location, scale = scaling.statistics_of(x[:10] + 100)
    extended = scaling.extend([NEW], [1], location[None], scale[None])
    assert extended.known([NEW]).all() and torch.equal(extended(x, [NEW] * len(x)), scaling(x))


@pytest.mark.parametrize("by", ["fleet", "sensor"])
def test_saved_and_loaded_it_is_the_same(by: str) -> None:
    x, sensors = corpus()
    config = from_json(ScalingConfig, {"by": by, "transform": "asinh"})
    scaling = fitted(config, x, sensors)
    scaling = scaling.extend([NEW], [1], scaling.location[:1], scaling.scale[:1])
    facts = json.loads(json.dumps(scaling.facts()))
    back = Scaling.load(from_json(ScalingConfig, to_json(config)), (3,), load(save(scaling.state())), facts)
    assert torch.equal(back(x, sensors), scaling(x, sensors))
    assert back.facts() == scaling.facts() and back.known([NEW, A, ("t9", "2")]).tolist() == [True, True, False]
    assert all(torch.equal(a, b) for a, b in zip(back.statistics_of(x[:2]), scaling.statistics_of(x[:2]), strict=True))
    with pytest.raises(UserError, match="was fitted as"):
        Scaling.load(ScalingConfig(transform="log"), (3,), scaling.state(), facts)


def test_a_scaling_that_was_saved_before_a_field_was_added_still_loads() -> None:
    x, sensors = corpus()
    scaling = fitted(SENSOR, x, sensors)
    facts = json.loads(json.dumps(scaling.facts()))
    del facts["config"]["clip"]
    assert torch.equal(Scaling.load(SENSOR, (3,), scaling.state(), facts)(x, sensors), scaling(x, sensors))


def test_what_is_wrong_is_said() -> None:
    x, sensors = corpus()
    fit = ScalingFit(SENSOR, (3,))
    with pytest.raises(UserError, match="no record"):
        fit.finish()
    x[5, 1] = torch.nan
    with pytest.raises(UserError, match="row 5 of the batch, sensor 1 of unit t1"):
        fit.update(x, sensors, keys(len(x)))
    with pytest.raises(ValueError, match="was given 2 sensors"):
        fit.update(x[:3], sensors[:2], keys(3))
    with pytest.raises(ValueError, match="one config and shape"):
        fit.merge(ScalingFit(SENSOR, (4,)))
    with pytest.raises(UserError, match="is for images"):
        ScalingFit(ScalingConfig(per="row"), (3,))
    for prior_records in (0.0, float("inf"), float("nan")):
        with pytest.raises(UserError, match="prior_records"):
            ScalingConfig(prior_records=prior_records)
    with pytest.raises(UserError, match="quantiles"):
        ScalingConfig(quantiles=(0.9, 0.1))
    for config in ({"limits": (0.5, 6.0), "by": "sensor"}, {"limits": (4.0, 6.0), "by": "none"}):
        with pytest.raises(UserError, match="limits"):
            from_json(ScalingConfig, config)


def test_b64_is_that_of_the_yardstick() -> None:
    rng = np.random.default_rng(0)
    sensors = [("t1", "1"), ("t1", "2"), ("t2", "1")]
    pool_sensors = [sensors[i % 3] for i in range(150)]
    test_sensors = [sensors[i % 3] for i in range(30)]
    gains = {sensor: rng.lognormal(size=4096) for sensor in sensors}

    def bands(of: list[tuple[str, str]]) -> np.ndarray:
        spectra = [gains[s] * np.fft.rfft(rng.normal(size=8190)) for s in of]
        return np.stack([log_bands(np.fft.irfft(spectrum, 8190), 8192.0) for spectrum in spectra]).astype(np.float32)

    pool, test = bands(pool_sensors), bands(test_sensors)
    test[::2] += 0.3 * rng.normal(size=(15, 64)).astype(np.float32)
    scaling = fitted(ScalingConfig(by="sensor", prior_records=1e-9), torch.from_numpy(pool), pool_sensors)  # B64 trusts each sensor alone
    detector = build(MahalanobisConfig(), 64)
    detector.update(scaling(torch.from_numpy(pool), pool_sensors), keys(150))
    assert not detector.finish()
    score = detector.score(scaling(torch.from_numpy(test), test_sensors))
    np.testing.assert_allclose(score, b64(pool, pool_sensors, test, test_sensors), rtol=1e-4)
