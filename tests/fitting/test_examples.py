from dataclasses import replace

import numpy as np
import pytest
import torch

from vibray.config import UserError
from vibray.decide.areas import auroc
from vibray.features.band_image import BandImage, BandImageConfig
from vibray.features.scaling import ScalingConfig
from vibray.features.scaling_fit import ScalingFit
from vibray.fitting.examples import HEALTHY, NAMES, ContextConfig, Examples, FleetsConfig, Source, examples_of, make_source
from vibray.fitting.generic import Axis, axis_of, generic_fault
from vibray.fitting.pretraining import (
    Lessons,
    context_scorer,
    describe,
    joining,
    pretrained,
    record_rows,
    rows_of,
    small_transformer,
    view_rows,
)
from vibray.models.context_scorer import BLOCKS, SIZES, ContextNet
from vibray.recipes.building import build_vector
from vibray.train.classical import Rows, fit_scaling

FLEETS = FleetsConfig(units=6, sensors=2, moments=12, contamination=0.4, severity=(0.8, 1.0))
CONTEXT = ContextConfig(sizes=(1, 2, 4), per_source=12)
IMAGE = BandImage(BandImageConfig())


@pytest.fixture(scope="module")
def fleet() -> Source:
    return make_source(0, BandImageConfig(), FLEETS, CONTEXT)[0]


def area(score: np.ndarray, abnormal: np.ndarray) -> float:
    found = auroc(score.astype(np.float64), abnormal)
    assert found is not None
    return found


def of(source: Source, context: ContextConfig = CONTEXT, seed: int = 0) -> Examples:
    return examples_of(source, IMAGE, (), ScalingConfig(by="sensor", per="row"), context, seed)


def planted(z: np.ndarray, fault: np.ndarray, axis: Axis) -> Examples:
    """Examples of one context of one moment."""
    num = len(z)
    return Examples(z, fault, np.zeros(num, np.int64), np.ones(num, np.int64), (fault != HEALTHY).astype(np.float32), axis)


def test_a_curriculum_goes_from_the_plain_to_the_weak(fleet) -> None:
    made = of(fleet)
    joins = joining([made], 8)
    assert joins.min() == 0 and joins.max() == 4
    assert (joins[(made.size == 4) & (made.fault == HEALTHY)] == 0).all() and (joins[made.size == 1] == 4).all()
    weak = joins[(made.size == 4) & (made.severity < 0.85) & (made.fault != HEALTHY)]
    assert len(weak) and (weak >= joins[(made.size == 4) & (made.severity > 0.95)].max()).all()
    recipe = replace(small_transformer(), curriculum=True, optim=replace(small_transformer().optim, epochs=8))
    rows = rows_of(recipe, [made], [1.0])
    assert rows.joins is not None and len(rows.joins) == len(rows) and rows_of(small_transformer(), [made], [1.0]).joins is None


def test_an_example_is_a_record_by_its_contexts_statistics(fleet) -> None:
    """With a context of one moment there is one moment m such that each example is (x - x_m) / spread of some other moment, sensor by
    sensor; the spread is what is usual within a sensor of the pool."""
    made = of(fleet, replace(CONTEXT, sizes=(1,), per_unit=1, per_source=1))
    assert made.z.shape[1:] == (2, 2, 128, 2) and len(np.unique(made.context)) == 6
    rows = np.flatnonzero(fleet.pool)
    sensors = [(str(fleet.unit[i]), str(fleet.sensor[i])) for i in rows]
    some = Rows(fleet.x[rows], sensors, rows.astype(np.uint64))
    scaling = fit_scaling(ScalingFit(ScalingConfig(by="sensor", per="row"), IMAGE.shape), [some], lambda part: part)
    spread = scaling.statistics_of(fleet.x[:1])[1]
    for number, unit in enumerate(np.unique(fleet.unit)):
        x = fleet.x[fleet.unit == unit].unflatten(0, (-1, 2))
        z = (x[:, None] - x.mean(dim=-1, keepdim=True)) / spread  # moment, context, sensor, ...; the location is the mean of two stretches
        found = torch.from_numpy(made.z[made.context == number].astype(np.float32))
        far = (found[:, None, None] - z[None]).abs().amax(dim=(3, 4, 5, 6)).amin(dim=1)  # example, context
        assert (far.amax(dim=0) < 0.05).sum() == 1


def test_examples_are_a_function_of_the_source(fleet) -> None:
    one, again, other = of(fleet), of(fleet), of(fleet, seed=1)
    assert np.array_equal(one.z, again.z) and np.array_equal(one.fault, again.fault) and not np.array_equal(one.z[:8], other.z[:8])
    back = Examples.load(one.tensors())
    assert np.array_equal(back.z, one.z) and np.array_equal(back.axis.hz, one.axis.hz)
    assert {NAMES[i] for i in set(one.fault.tolist()) - {HEALTHY}} <= set(FLEETS.faults)
    assert area(np.abs(one.z.astype(np.float32)).mean(axis=(1, 2, 3, 4)), one.fault != HEALTHY) > 0.8
    left = one.without("dc_bias")
    assert len(left) == (one.fault != NAMES.index("dc_bias")).sum() > 0


def test_a_sensor_that_is_missing_is_nothing_and_an_example_without_any_is_none(fleet) -> None:
    gone = (fleet.sensor == 1) & (fleet.unit == fleet.unit.min())
    kept = ~gone
    columns = {name: getattr(fleet, name)[kept] for name in ("x", "unit", "sensor", "moment", "fault", "severity", "pool")}
    source = Source(**columns, sample_rate_hz=8192.0)
    made = of(source)
    there = (made.z != 0).any(axis=(2, 3, 4))
    assert there.any(axis=1).all() and (~there).any() and there.all(axis=1).any()
    with pytest.raises(UserError, match="42 records"):
        of(fleet, replace(CONTEXT, sizes=(40,)))


def test_rows_of_views(fleet) -> None:
    """Two healthy ones of one context, and one with its fault or with a generic one, which is the same each time it is read."""
    made = of(fleet)
    lessons = Lessons([made, made], [1.0, 3.0], 0)
    rows, third = view_rows(lessons, 0.5)
    assert len(third) == len(rows)
    z = rows.read(rows.indices)
    some = rows.read(rows.indices[3:5])
    assert isinstance(z, torch.Tensor) and isinstance(some, torch.Tensor)
    assert z.shape[1:] == (3, 2, 2, 128, 2) and torch.equal(z[3:5], some)
    assert rows.weights is not None and rows.weights.sum() == pytest.approx(len(rows))
    assert rows.weights[len(rows) // 2 :].sum() == pytest.approx(3 * rows.weights[: len(rows) // 2].sum())
    stored = {each.tobytes() for each in made.z.astype(np.float32)}
    healthy = {each.tobytes() for each in made.z[made.fault == HEALTHY].astype(np.float32)}
    there = (z != 0).any(dim=(3, 4, 5)).numpy()
    assert (there == there[:, :1]).all() and 0.3 < there.all(axis=(1, 2)).mean() < 0.7  # the others are heard by one sensor
    assert (there.sum(axis=2) >= 1).all()
    seen = [[view.numpy().tobytes() for view in row] for row in z[torch.from_numpy(there.all(axis=(1, 2)))]]
    assert all(a in healthy and b in healthy and a != b and c not in healthy for a, b, c in seen)
    named = np.mean([c in stored for _, _, c in seen])
    assert 0.3 < named < 0.7
    many = replace(made, z=np.repeat(made.z, 5, axis=1))
    with pytest.raises(UserError, match="10 sensors, the net sees 8"):
        view_rows(Lessons([many], [1.0], 0), 0.5)
    nobody = made.take(made.fault == HEALTHY)
    with pytest.raises(UserError, match="no healthy example"):
        Lessons([made.without("dc_bias").without("fan_bearing")][:0], [], 0)
    generic, _ = view_rows(Lessons([nobody], [1.0], 0), 0.5)
    assert len(generic) == len(nobody)


def test_rows_of_records() -> None:
    """The healthy weigh as much as the faulty and the generic together do, where there are as many of both."""
    axis = Axis(np.linspace(10, 4000, 20), np.zeros(20, np.int64))
    z = np.random.default_rng(0).normal(size=(60, 1, 20)).astype(np.float16)
    made = planted(z, np.repeat([HEALTHY, 0], 30), axis)
    rows, _ = record_rows(Lessons([made], [1.0], 0), 0.25)
    assert rows.targets is not None and rows.weights is not None and len(rows) == 120
    weight = [rows.weights[part].sum() for part in (slice(0, 30), slice(30, 60), slice(60, 120))]
    assert weight[0] == pytest.approx(weight[1] + weight[2]) and weight[2] == pytest.approx(weight[1] / 3)
    x = rows.read(np.arange(120))
    assert isinstance(x, torch.Tensor)
    assert torch.equal(x[:60], torch.from_numpy(z[:, 0].astype(np.float32))) and not any(torch.equal(x[80], other) for other in x[:30])
    two = replace(made, z=np.concatenate([z, np.where(np.arange(60)[:, None, None] % 2, z + 1, 0).astype(np.float16)], axis=1))
    both, of_example = record_rows(Lessons([two], [1.0], 0), 0.25)
    assert np.bincount(of_example[:90]).tolist() == [1, 2] * 30  # a sensor that is not there is no record
    seen = both.read(np.flatnonzero(of_example[:45] == 1))
    assert isinstance(seen, torch.Tensor) and torch.equal(seen, torch.from_numpy(two.z[1].astype(np.float32)))
    alone, _ = record_rows(Lessons([made.take(np.arange(30))], [1.0], 0), 0.25)
    assert alone.targets is not None and alone.weights is not None
    assert np.average(alone.targets, weights=alone.weights) == pytest.approx(1 / 3)


def test_generic_faults_are_moved_alike_in_each_description() -> None:
    feature = build_vector(context_scorer().feature, 50.0)  # type: ignore[arg-type]
    axis = axis_of(feature, BLOCKS, 8192.0)
    assert np.bincount(axis.block).tolist() == list(SIZES) and (np.diff(axis.hz[:64]) > 0).all()
    rng = np.random.default_rng(0)
    z = rng.normal(size=(1, len(axis.hz), 1))
    kept, centres, shares = z.copy(), [], []
    for _ in range(400):
        made = generic_fault(z, axis, rng)
        moved = (made - z)[0, :, 0]
        assert made.shape == z.shape and np.isfinite(made).all() and np.abs(moved).max() > 0
        shares.append((moved != 0).mean())
        own = [axis.block == n for n in (0, 1)]
        if shares[-1] < 0.3 and all(moved[each].any() for each in own):
            centres.append([np.average(np.log(axis.hz[each]), weights=np.abs(moved[each])) for each in own])
    assert np.array_equal(z, kept)
    assert min(shares) < 0.05 and max(shares) == 1.0
    assert np.corrcoef(np.array(centres).T)[0, 1] > 0.7


def test_generic_faults_leave_alone_what_nobody_hears() -> None:
    axis, rng = axis_of(IMAGE, (), 8192.0), np.random.default_rng(1)
    z = rng.normal(size=(3, 256, 2))
    z[:, 85:128], z[:, 213:], z[2] = 0, 0, 0
    for _ in range(100):
        made = generic_fault(z, axis, rng)
        assert (made[z == 0] == 0).all() and not np.array_equal(made, z)


def test_it_learns() -> None:
    """What is planted in few columns is found, where the distance alone does not find it."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(4000, 1, sum(SIZES))).astype(np.float16)
    fault = np.where(rng.random(4000) < 0.5, 0, HEALTHY)
    z[fault == 0, :, 100:103] += 2
    axis = axis_of(build_vector(context_scorer().feature, 50.0), BLOCKS, 8192.0)  # type: ignore[arg-type]
    recipe = replace(context_scorer(), generic=0.0, optim=replace(context_scorer().optim, epochs=20))
    net = pretrained(recipe, [planted(z[:3000], fault[:3000], axis)])
    assert isinstance(net, ContextNet)
    x = torch.from_numpy(z[3000:, 0].astype(np.float32))
    with torch.no_grad():
        found = net(x).numpy()
    assert area(found, fault[3000:] == 0) > 0.95 > 0.8 > area(x.abs().mean(dim=1).numpy(), fault[3000:] == 0)


def test_the_examples_of_the_default_are_those_of_its_vector() -> None:
    recipe = replace(context_scorer(), fleets=replace(FLEETS, sensors=1), context=CONTEXT)
    made = describe(recipe, *make_source(1, recipe.feature, recipe.fleets, recipe.context), 1)
    assert made.z.shape[1:] == (1, sum(SIZES)) and len(made.axis.hz) == sum(SIZES)
    assert small_transformer().context == ContextConfig()
