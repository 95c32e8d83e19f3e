"""What is said of a record: the numbers against those of the run by hand, and the planted faults against what is drawn."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.reference.attribution import FACTS, PLANTED, faulty, fitted_vector, made, of_default, of_net
from vibray import recipes
from vibray.explain.attribution import integrated_gradients, standing_out
from vibray.features.cwt_image import CwtImageConfig
from vibray.features.scaling import ScalingConfig
from vibray.features.spectral import Spectral, SpectralConfig
from vibray.models.backbone import TrunkConfig
from vibray.models.classifier import ClassifierConfig, Logits
from vibray.models.ensemble import Ensemble, EnsembleConfig
from vibray.models.fused import Fused
from vibray.models.isolation_forest import IsolationForestConfig
from vibray.recipes.building import build_classifier, build_feature, build_scaling_fit, build_vector, columns_of
from vibray.recipes.kinds import ClassicalRecipe, ClassifierRecipe
from vibray.report.data import Bars, Explanation, Map, Nearest, Sentences, Spectrum
from vibray.runs.explained import Records, explained, risen_shares
from vibray.runs.models import Detecting, Diagnosing, Fusing
from vibray.runs.run import Run
from vibray.signal.synthetic import FleetConfig

POOL = FleetConfig(num_units=4, sensors_per_unit=2, num_records=480)
RATE_HZ = FACTS.sample_rate_hz


@pytest.fixture(scope="module")
def run() -> Run:
    waveforms, sensors, _ = made(POOL)
    return Run(recipes.fused(), FACTS, fitted_vector(recipes.fused(), waveforms, sensors))


@pytest.fixture(scope="module")
def records() -> Records:
    """Four records, each with a DC bias or a worn tap changer, and one of a sensor that nobody knows."""
    waveforms, sensors, faults = made(faulty(POOL, 8))
    at = [int(np.flatnonzero(faults == fault)[0]) for fault in PLANTED]
    own = [sensors[at[0]], sensors[at[1]], ("elsewhere", "s")]
    return Records(waveforms[[*at, at[0]]], own, ["bias", "tap", "unknown"])


def of(kind: type[Explanation], told: list[Explanation]) -> list:
    return [each for each in told if isinstance(each, kind)]


def member_of(run: Run) -> tuple[Detecting, Spectral, list[int]]:
    """The detector, its feature, and the columns that it reads."""
    assert isinstance(run.model, Detecting) and isinstance(run.model.recipe, ClassicalRecipe)
    feature = build_vector(run.model.recipe.feature, FACTS.mains_hz)
    assert isinstance(feature, Spectral)
    return run.model, feature, columns_of(feature, run.model.recipe.detector.blocks)


def test_the_parts_that_spoke_are_those_of_the_score(run: Run, records: Records) -> None:
    told = explained(run, records)
    scores = run.score(records.waveforms, RATE_HZ, records.sensors)
    for own, score in zip(told, scores.tolist(), strict=True):
        parts = next(bars for bars in of(Bars, own) if len(bars.names) == 5)
        p = {name.split(":")[0]: 10**-value for name, value in zip(parts.names, parts.values, strict=True)}
        assert set(p) == {"bands", "steady", "octaves", "lines", "net"} and list(parts.values) == sorted(parts.values, reverse=True)
        share = {name: 0.3 if name == "net" else 0.7 / 4 for name in p}
        assert math.log(sum(share[name] / p[name] for name in p)) == pytest.approx(score, rel=1e-5)


def test_the_shares_of_the_columns_sum_up_to_the_scores_rise(run: Run, records: Records) -> None:
    member, feature, columns = member_of(run)
    assert isinstance(member.detector, Fused)
    x = member.scaling(feature(records.waveforms, RATE_HZ), records.sensors)[:, columns].double()
    shares = integrated_gradients(member.detector.score, x)
    torch.testing.assert_close(shares.sum(1), member.detector.score(x) - member.detector.score(0 * x), rtol=1e-3, atol=1e-3)
    for own, by_column, z in zip(explained(run, records), shares.numpy(), x.numpy(), strict=True):
        (drawn,) = of(Map, own)
        assert drawn.values.shape == (len(drawn.rows_hz), 32) and drawn.duration_s == 1.0
        assert drawn.values.sum() == pytest.approx(by_column[z > 0].sum(), rel=1e-6)  # what fell is not drawn
        largest = next(bars for bars in of(Bars, own) if len(bars.names) == 8)
        order = np.argsort(-np.abs(by_column))[:8]
        assert largest.values == pytest.approx(by_column[order].tolist())
        assert [name.split()[0] for name in largest.names] == [feature.columns()[columns[i]] for i in order]


def test_the_spectrum_stands_over_the_sensors_own_range(run: Run, records: Records) -> None:
    member, feature, _ = member_of(run)
    block = feature.blocks["octaves"]
    raw = feature(records.waveforms, RATE_HZ)[:, block].double().numpy()
    told = explained(run, records)
    for i, (own, sensor) in enumerate(zip(told, records.sensors, strict=True)):
        (spectrum,) = of(Spectrum, own)
        row = 1 + member.scaling.sensors.index(sensor) if sensor in member.scaling.sensors else 0
        location, scale = (t[row, block].double().numpy() for t in (member.scaling.location, member.scaling.scale))
        decibels = 10 / math.log(10)
        np.testing.assert_allclose(spectrum.value, decibels * raw[i])
        np.testing.assert_allclose(spectrum.median, decibels * location)
        np.testing.assert_allclose(spectrum.high - spectrum.median, decibels * 1.6449 * scale)
        np.testing.assert_allclose(spectrum.median - spectrum.low, spectrum.high - spectrum.median)
        assert spectrum.hz == pytest.approx(feature.frequencies_hz(RATE_HZ)[block])
        assert ("of 60 records" in spectrum.title) == (row > 0) and ("fleet" in spectrum.title) == (row == 0)


def test_a_pure_line_that_rises_is_told_in_decibels(run: Run) -> None:
    """The DC bias of the first record, doubled by hand: its odd lines are 6 dB higher."""
    waveforms, sensors, _ = made(replace(POOL, num_records=1, first_step=200, contamination=0.0))
    time_s = torch.arange(8192) / RATE_HZ
    odd = sum(0.05 * torch.sin(2 * torch.pi * hz * time_s) for hz in (150, 250, 350))
    both = Records(torch.stack([waveforms[0] + odd, waveforms[0] + 2 * odd]), sensors * 2, ["a", "b"])
    lines = [next(iter(of(Sentences, own))).lines[0] for own in explained(run, both)]
    assert all("odd multiples of the mains: DC bias" in line for line in lines)
    levels = [[int(part.split(" dB")[0].split()[-1]) for part in line.split(", ")[:3]] for line in lines]
    assert [b - a for a, b in zip(*levels, strict=True)] == pytest.approx([6, 6, 6], abs=1)
    assert "直流偏磁" in of(Sentences, explained(run, both, language="zh")[0])[0].lines[0]


def test_the_nearest_labelled_records_are_told_by_their_distance(run: Run, records: Records) -> None:
    waveforms, sensors, faults = made(faulty(POOL, 24))
    labelled = Records(waveforms, sensors, [str(i) for i in range(24)], tuple(faults.tolist()))
    own = Records(waveforms[:2], sensors[:2], ["0", "1"])
    member, feature, _ = member_of(run)
    x = member.scaling(feature(waveforms, RATE_HZ), sensors).double()
    for i, told in enumerate(explained(run, own, labelled)):
        (nearest,) = of(Nearest, told)
        distance = (x - x[i]).square().mean(1).sqrt()
        distance[i] = math.inf
        order = distance.argsort()[:3].tolist()
        assert [(name, label) for name, label, _ in nearest.records] == [(str(j), faults[j]) for j in order]
        assert [d for _, _, d in nearest.records] == pytest.approx(distance[order].tolist(), rel=1e-6)
    assert not any(of(Nearest, told) for told in explained(run, records))


def test_a_machine_without_mains_has_bands_and_what_moves_alone() -> None:
    facts = replace(FACTS, mains="none")
    waveforms, sensors, _ = made(POOL)
    recipe = recipes.banded()
    feature = build_vector(recipe.feature, None)
    with_mains = fitted_vector(recipe, waveforms, sensors)
    fit = build_scaling_fit(recipe.scaling, feature)
    fit.update(feature(waveforms, RATE_HZ), sensors, np.arange(len(sensors), dtype=np.uint64))
    run = Run(recipe, facts, replace(with_mains, scaling=fit.finish()))
    burst = waveforms[:1].clone()
    burst[:, 4000:4100] += 2 * torch.sin(2 * torch.pi * 2000 / RATE_HZ * torch.arange(100))
    (told,) = explained(run, Records(burst, sensors[:1], ["x"]))
    assert of(Sentences, told)[0].lines[0].startswith("bursts at ") and "mains" not in of(Sentences, told)[0].lines[0]
    (drawn,) = of(Map, told)
    assert drawn.values[:, 14:18].sum() > 0.5 * drawn.values.sum()


def test_what_has_no_baseline_or_no_gradient_is_not_drawn(records: Records) -> None:
    waveforms, sensors, _ = made(replace(POOL, num_records=160))
    plain = recipes.iforest()
    assert explained(Run(plain, FACTS, fitted_vector(plain, waveforms, sensors)), records) == [[], [], []]
    forest = ClassicalRecipe(scaling=ScalingConfig(by="sensor"), detector=IsolationForestConfig(blocks=("bands",)))
    for told in explained(Run(forest, FACTS, fitted_vector(forest, waveforms, sensors)), records):
        assert [type(each) for each in told] == [Spectrum, Sentences]


def test_members_share_one_spectrum(run: Run, records: Records) -> None:
    assert isinstance(run.model, Detecting)
    both = Run(recipes.baselines(), FACTS, Fusing({"a": run.model, "b": run.model}, Ensemble(EnsembleConfig())))
    kinds = [type(each).__name__ for each in explained(both, records)[0]]
    assert sorted(kinds) == ["Bars"] * 4 + ["Map"] * 2 + ["Sentences", "Spectrum"]
    assert [each.title.endswith(": a") for each in of(Map, explained(both, records)[0])] == [True, False]


@pytest.mark.parametrize("inputs", ["image", "union"])
def test_a_classifier_has_a_map_of_each_of_its_answers(inputs) -> None:
    torch.manual_seed(0)
    recipe = ClassifierRecipe(
        image=CwtImageConfig(rows=16, columns=32, min_hz=60.0),
        image_scaling=ScalingConfig(transform="log", by="sensor", per="row"),
        vector=SpectralConfig() if inputs == "union" else None,
        detector=ClassifierConfig(inputs=inputs, trunk=TrunkConfig(kind="time", width=4)),
    )
    waveforms, sensors, _ = made(replace(POOL, num_records=64))
    scalings, scaled, shapes = [], [], {}
    for name, config, how in (("image", recipe.image, recipe.image_scaling), ("vector", recipe.vector, recipe.vector_scaling)):
        if config is None:
            continue
        feature = build_feature(config, FACTS.mains_hz)
        fit = build_scaling_fit(how, feature)
        fit.update(feature(waveforms, RATE_HZ), sensors, np.arange(64, dtype=np.uint64))
        scalings.append(fit.finish())
        scaled.append(scalings[-1](feature(waveforms[:6], RATE_HZ), sensors[:6]))
        shapes[name] = feature.shape
    net = build_classifier(recipe, 2, shapes).eval()
    x, beside = scaled[0], scaled[1:]

    def answers(at: torch.Tensor) -> Logits:
        return net((at, *beside) if beside else at)  # type: ignore[arg-type]

    net.unknown_below.zero_()
    with torch.no_grad():
        net.head[-1].bias[0] -= answers(x).abnormal.median() + 1e-4  # type: ignore[index,operator]
        number = net.diagnose(answers(x)).fault.tolist()
        abnormal = standing_out(risen_shares(lambda at: answers(at).abnormal, x))
        of_fault = [standing_out(risen_shares(lambda at, n=n: answers(at).fault[:, n], x)) for n in (0, 1)]
    assert 0 < sum(n >= 0 for n in number) < 6
    model = Diagnosing(recipe, ("one", "two"), net, scalings[0], scalings[1] if beside else None)
    told = explained(Run(recipe, FACTS, model), Records(waveforms[:6], sensors[:6], list("abcdef")))
    for i, (own, n) in enumerate(zip(told, number, strict=True)):
        maps = of(Map, own)
        np.testing.assert_allclose(maps[0].values, abnormal[i].numpy(), atol=1e-6)
        assert [m.title.split(": ")[-1] for m in maps] == ["abnormal", *([("one", "two")[n]] if n >= 0 else [])]
        if n >= 0:
            np.testing.assert_allclose(maps[1].values, of_fault[n][i].numpy(), atol=1e-6)


def test_the_defaults_map_shows_where_the_fault_was_planted() -> None:
    """In 80 % of the records and more half of what is drawn lies in the 15 % of the plane that the fault changed most."""
    found, faults, _ = of_default(0, 240, unseen=False)
    inside = found["default, drawn, 15% mask"]
    for fault in PLANTED:
        assert (faults == fault).sum() >= 100
        assert np.mean(inside[faults == fault] >= 0.5) >= 0.8, fault


@pytest.mark.slow
def test_the_map_of_cwt_svdd_shows_where_a_tap_changer_hit() -> None:
    """Not so a DC bias: rows of a wavelet of six cycles do not tell lines 50 Hz apart above 300 Hz."""
    found, faults, _ = of_net("cwt-svdd", 0, 240)
    assert np.mean(found["cwt-svdd, drawn"][faults == "tap_changer"] >= 0.5) >= 0.8
