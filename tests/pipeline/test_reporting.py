"""What a report explains is the score that it shows. No Ray: nets with random weights, corpora of a few records."""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests.pipeline.lines import FACTS, write_shard
from vibray.config import to_json
from vibray.explain.attribution import standing_out
from vibray.explain.residual import cone_of_influence, residual_map
from vibray.features.cwt_image import CwtImage, CwtImageConfig
from vibray.features.scaling import ScalingConfig
from vibray.fitting.calibration import calibration_table
from vibray.fitting.earliest import by_sensor
from vibray.models.backbone import TrunkConfig
from vibray.models.deep_svdd import DeepSvdd, DeepSvddConfig
from vibray.models.ensemble import score_statistics
from vibray.models.vae import VaeConfig
from vibray.pipeline.calibrate import load_calibrated
from vibray.pipeline.report import explanations, gather
from vibray.pipeline.score import Scorer
from vibray.recipes.building import build_deep, build_feature, build_scaling_fit
from vibray.recipes.kinds import DeepRecipe
from vibray.report.data import Map, Nearest, ReportConfig
from vibray.runs.explained import risen_shares
from vibray.runs.folder import begin, load, run_identity, save
from vibray.runs.models import Detecting
from vibray.runs.run import Run
from vibray.signal.cwt import OMEGA0
from vibray.storage import objects
from vibray.storage.columns import sensors_of
from vibray.storage.parts import commit_part, finish_folder, make_plan, read_shard, start_plan
from vibray.storage.reading import ReadPart
from vibray.storage.vectors import waveforms_of
from vibray.tables.scores import open_scores

IMAGE = CwtImageConfig(rows=16, columns=32, min_hz=60.0)
SCALING = ScalingConfig(transform="log", by="sensor", per="row")


def read(folder: Path, corpus: str, identity: dict[str, Any], **options: Any) -> ReadPart:
    """A corpus of one shard and its finished plan in scores-<corpus>."""
    if not (folder / corpus).exists():
        write_shard(folder / corpus / "a.jsonl", 44, **options)
    plan = start_plan(str(folder / f"scores-{corpus}"), lambda: make_plan(str(folder / corpus), corpus, identity), identity)
    return next(read_shard(plan.parts[0], FACTS, corpus, plan.base_uri))


def saved_run(folder: Path, recipe: DeepRecipe) -> str:
    """A run whose net has random weights, and whose scaling knows one machine."""
    uri, pool = str(folder / "run"), read(folder, "pool", {}).records
    feature = build_feature(recipe.feature, None)
    fit = build_scaling_fit(recipe.scaling, feature)
    fit.update(feature(torch.from_numpy(waveforms_of(pool)), FACTS.sample_rate_hz), sensors_of(pool), np.arange(44, dtype=np.uint64))
    torch.manual_seed(0)
    net = build_deep(recipe.detector, feature.shape).eval()
    if isinstance(net, DeepSvdd):
        net.center.normal_()
        if net.config.metric == "mahalanobis":
            net.location.normal_()
            net.whitening.normal_()
    begin(uri, recipe, FACTS, {})
    save(uri, Run(recipe, FACTS, Detecting(recipe, fit.finish(), net, score_statistics(np.arange(9.0)))), [], {})
    return uri


def calibrated_scores(folder: Path, run_uri: str, corpus: str, **options: Any) -> str:
    """Scores of a corpus whose sensors the run does not know, with a calibration of their own records."""
    run, calibration_uri = load(run_uri), str(folder / f"calibration-{corpus}")
    earlier = read(folder, f"earlier-{corpus}", {}, **options).records
    table, _ = calibration_table(run, dict(by_sensor(earlier)))
    objects.write_table(objects.join(calibration_uri, "calibration.parquet"), table)
    finish_folder(calibration_uri, ["calibration.parquet"], {"run": run_identity(run_uri, run)})
    done = objects.read_json(objects.join(calibration_uri, "_done.json"))
    of_run = run_identity(run_uri, run)
    identity = {"corpus": corpus, "facts": to_json(FACTS), "run": of_run, "calibration": {"uri": calibration_uri, **done}}
    part = read(folder, corpus, identity, **options)
    scores_uri, scorer = str(folder / f"scores-{corpus}"), Scorer(load_calibrated(run_uri, calibration_uri).hastened(), 2)
    commit_part(scores_uri, part.part_id, scorer.tables(part.records), part.marker)
    return scores_uri


def two_corpora(folder: Path, recipe: DeepRecipe) -> list[str]:
    """The same two sensors in both, three times as loud in the second: each corpus has a calibration of its own."""
    run_uri = saved_run(folder, recipe)
    options = {"unit": "t9", "fault_share": 0.3}
    return [
        calibrated_scores(folder, run_uri, "quiet", seed=5, gain=1.0, **options),
        calibrated_scores(folder, run_uri, "loud", seed=6, gain=3.0, **options),
    ]


def explained(uris: list[str]) -> tuple[pa.Table, dict[tuple[str, str], np.ndarray]]:
    """The evidence, and the one map of each record."""
    table = open_scores(uris)
    data = gather(table, None, None, "explained", ReportConfig(num_records=999, records_per_sensor=999))
    found = explanations(data, table, ReportConfig(num_records=4))
    assert data.evidence is not None
    maps = {}
    for key, made in found.items():
        (own,) = (each for each in made if isinstance(each, Map))
        maps[key] = np.asarray(own.values)
    return data.evidence, maps


@pytest.mark.parametrize("residual", ["absolute", "excess"])
def test_the_vaes_map_is_what_the_score_in_the_table_is_made_of(tmp_path, residual):
    """Of both corpora: the image is scaled as it was when it was scored; the ends of its low rows are taken
    off, and what stands out is drawn."""
    detector = VaeConfig(trunk=TrunkConfig(width=4), latent_channels=2, residual=residual, kl_in_score=0.0)
    uris = two_corpora(tmp_path, DeepRecipe(feature=IMAGE, scaling=SCALING, detector=detector))
    evidence, maps = explained(uris)
    assert len(maps) == evidence.num_rows == 4
    rows_hz, duration_s = CwtImage(IMAGE).rows_hz(FACTS.sample_rate_hz), FACTS.num_samples / FACTS.sample_rate_hz
    ends = cone_of_influence(rows_hz, OMEGA0 / (2 * np.pi), 32, duration_s)
    score = dict(zip(evidence["record_id"].to_pylist(), evidence["score"].to_pylist(), strict=True))
    for corpus, own, net, x in by_hand(tmp_path, evidence):
        whole = residual_map(net, x)
        for i, record_id in enumerate(own["record_id"].to_pylist()):
            assert own["calibrated"][i].as_py()
            assert whole[i].mean().item() == pytest.approx(score[record_id], rel=1e-4)
            kept = np.where(ends, 0, whole[i].numpy())
            expected = np.maximum(kept - np.quantile(kept, 0.9), 0)
            np.testing.assert_allclose(maps[corpus, record_id], expected, rtol=1e-3, atol=1e-5 * kept.max())


@pytest.mark.parametrize("metric", ["distance", "mahalanobis"])
def test_the_shares_of_deep_svdd_are_of_the_score(tmp_path, metric):
    detector = DeepSvddConfig(trunk=TrunkConfig(kind="time", width=4), hidden=6, latent_dim=3, metric=metric)
    uris = two_corpora(tmp_path, DeepRecipe(feature=IMAGE, scaling=SCALING, detector=detector))
    evidence, maps = explained(uris)
    assert len(maps) == 4
    for corpus, own, net, x in by_hand(tmp_path, evidence):
        expected = standing_out(risen_shares(lambda at, net=net: net.score(net(at)), x))
        for i, record_id in enumerate(own["record_id"].to_pylist()):
            np.testing.assert_allclose(maps[corpus, record_id], expected[i].numpy(), atol=2e-3 * float(expected[i].abs().max()))


def test_labelled_records_of_the_evidence_are_told_to_those_like_them(tmp_path):
    """Of the record's own corpus alone, and never itself."""
    detector = DeepSvddConfig(trunk=TrunkConfig(kind="time", width=4), hidden=6, latent_dim=3)
    table = open_scores(two_corpora(tmp_path, DeepRecipe(feature=IMAGE, scaling=SCALING, detector=detector)))
    data = gather(table, None, None, "explained", ReportConfig(num_records=999, records_per_sensor=999))
    assert data.evidence is not None
    keys = list(zip(data.evidence["corpus"].to_pylist(), data.evidence["record_id"].to_pylist(), strict=True))
    quiet = [key for key in keys if key[0] == "quiet"]
    told = explanations(dataclasses.replace(data, labels={quiet[0]: "dc_bias", quiet[1]: "normal"}), table, ReportConfig(num_records=4))
    near = {key: [each.records for each in made if isinstance(each, Nearest)] for key, made in told.items()}
    assert [[(name, label) for name, label, _ in own] for own in near[quiet[0]]] == [[(quiet[1][1], "normal")]]
    assert [[(name, label) for name, label, _ in own] for own in near[quiet[1]]] == [[(quiet[0][1], "dc_bias")]]
    assert all(near[key] == [] for key in keys if key[0] == "loud")


def by_hand(folder: Path, evidence: pa.Table) -> Iterator[tuple[str, pa.Table, Any, torch.Tensor]]:
    """Of each corpus its records, the net, and their images scaled by the corpus' own calibration."""
    for corpus in ("quiet", "loud"):
        own = evidence.filter(np.array(evidence["corpus"].to_pylist()) == corpus)
        run = load_calibrated(str(folder / "run"), str(folder / f"calibration-{corpus}"))
        assert isinstance(run.model, Detecting)
        raw = build_feature(IMAGE, None)(
            torch.from_numpy(np.stack([waveform.values.to_numpy() for waveform in own["waveform"]])), FACTS.sample_rate_hz
        )
        yield corpus, own, run.model.detector, run.model.scaling(raw, sensors_of(own))


def test_scores_whose_calibration_or_run_is_another_now_are_not_explained(tmp_path, capsys):
    detector = DeepSvddConfig(trunk=TrunkConfig(kind="time", width=4), hidden=6, latent_dim=3)
    recipe = DeepRecipe(feature=IMAGE, scaling=SCALING, detector=detector)
    uris = two_corpora(tmp_path, recipe)
    shutil.rmtree(tmp_path / "calibration-loud")
    _, maps = explained(uris)
    assert {corpus for corpus, _ in maps} == {"quiet"}
    assert "records of loud are not explained" in capsys.readouterr().out
    shutil.copytree(tmp_path / "calibration-quiet", tmp_path / "calibration-loud")
    _, maps = explained(uris)
    assert {corpus for corpus, _ in maps} == {"quiet"}
    assert "records of loud are not explained: their run or calibration was made again" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "run")
    saved_run(tmp_path, dataclasses.replace(recipe, detector=dataclasses.replace(detector, hidden=7)))
    assert explained(uris)[1] == {}
