"""A trained net pruned on small records: the run it leaves, resuming, workers, errors."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.pipeline.lines import FACTS, RATE_HZ, corpus_fields, killed, tiny_svdd, waveform, write_shard
from vibray import runs
from vibray.config import UserError
from vibray.fitting.classifier import encoder_of
from vibray.fitting.jobs import PruneJob, TrainJob
from vibray.fitting.pruned import net_mflop
from vibray.models.backbone import TrunkConfig
from vibray.models.deep_svdd import DeepSvdd
from vibray.pipeline.featurize import featurize
from vibray.pipeline.jobs import FeaturizeJob, ScoreJob
from vibray.pipeline.score import score
from vibray.pipeline.train import prune, train
from vibray.recipes import banded, cwt_svdd, plain_vae
from vibray.recipes.kinds import DeepRecipe, EnsembleRecipe
from vibray.runs.models import Detecting
from vibray.storage import objects
from vibray.storage.parts import Parts
from vibray.train.checkpoints import Checkpoints

EPOCHS = 3


def local(folder: Path, name: str = "narrow", **changes) -> PruneJob:
    return replace(PruneJob(str(folder / "run"), str(folder / name), (str(folder / "features"),), epochs=EPOCHS, local=True), **changes)


def net_of(run: Path) -> DeepSvdd:
    model = runs.load(str(run)).model
    assert isinstance(model, Detecting) and isinstance(model.detector, DeepSvdd)
    return model.detector


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Shards, features, a trained net of width 16 and the same pruned."""
    folder = tmp_path_factory.mktemp("pruning")
    write_shard(folder / "raw" / "a.jsonl.gz", 53, seed=5)
    featurize(FeaturizeJob(str(folder / "raw"), str(folder / "features"), local=True, **corpus_fields(FACTS)))
    recipe = tiny_svdd(1)
    recipe = replace(recipe, detector=replace(recipe.detector, trunk=TrunkConfig(width=16)))
    train(TrainJob((str(folder / "features"),), str(folder / "run"), recipe, local=True))
    prune(local(folder))
    return folder


def test_it_is_a_run_of_the_same_recipe_with_a_smaller_net(folder):
    dense, narrow = (runs.load(str(folder / name)) for name in ("run", "narrow"))
    assert isinstance(dense.recipe, DeepRecipe) and isinstance(narrow.recipe, DeepRecipe)
    assert narrow.recipe.detector == replace(dense.recipe.detector, trunk=TrunkConfig(width=6))
    assert net_mflop(narrow.recipe, 50.0) <= 0.2 * net_mflop(dense.recipe, 50.0)
    assert narrow.recipe.feature == dense.recipe.feature and narrow.facts == dense.facts and narrow.histories == dense.histories
    assert torch.equal(net_of(folder / "narrow").center, net_of(folder / "run").center)
    for name, value in dense.model.scalings()[""][1].state().items():
        assert torch.equal(narrow.model.scalings()[""][1].state()[name], value)
    lines = [json.loads(line) for line in (folder / "narrow" / "metrics.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == [*["train"] * EPOCHS, "guards"]
    assert lines[-2]["loss"] < lines[0]["loss"]


def test_it_scores_and_starts_a_pruning_of_its_own(folder, tmp_path):
    score(ScoreJob(str(folder / "narrow"), str(folder / "raw"), str(tmp_path / "scores"), sample_rate_hz=RATE_HZ, local=True))
    scores = Parts(str(tmp_path / "scores")).read(["score"])["score"].to_numpy()
    assert len(scores) == 53 and np.isfinite(scores).all()
    waveforms = np.stack([waveform(np.random.default_rng(i), 0) for i in range(3)]).astype(np.float32)
    run = runs.load(str(folder / "narrow"))
    torch.testing.assert_close(run.hastened().score(waveforms, RATE_HZ), run.score(waveforms, RATE_HZ), rtol=1e-3, atol=1e-5)
    assert encoder_of(run).recipe == run.recipe  # for --init-from
    prune(local(folder, run=str(folder / "narrow"), pruned=str(tmp_path / "narrower"), share=0.5))
    assert net_of(tmp_path / "narrower").trunk.out_channels == 24


def test_the_same_command_after_a_kill_leaves_the_same_bytes(folder, monkeypatch, capsys):
    with killed(monkeypatch, Checkpoints, "note", 2):  # type: ignore[arg-type]
        prune(local(folder, "killed"))
    assert not (folder / "killed" / "_done.json").exists()
    prune(local(folder, "killed"))
    assert (folder / "killed" / "model.safetensors").read_bytes() == (folder / "narrow" / "model.safetensors").read_bytes()
    capsys.readouterr()
    prune(local(folder, "killed"))
    assert "is finished already" in capsys.readouterr().out


def test_a_dry_run_writes_nothing_and_says_what_is_left(folder, capsys):
    prune(local(folder, "dry", dry_run=True))
    assert re.search(r"width 16 -> width 6: [\d.]+ -> [\d.]+ MFLOP a record \(1\d\.\d%\)", capsys.readouterr().out)
    assert not (folder / "dry").exists()


def test_another_share_on_the_folder_is_an_error_that_shows_both(folder):
    with pytest.raises(UserError, match=r"(?s)by another training.*width"):
        prune(local(folder, share=0.5))


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5, float("nan")])
def test_a_share_is_a_share(folder, share):
    with pytest.raises(UserError, match="--share is a share"):
        prune(local(folder, share=share))


def test_a_share_that_no_net_has_is_told(folder):
    with pytest.raises(UserError, match="a net of width 1 has more"):
        prune(local(folder, share=1e-3))


@pytest.mark.parametrize("recipe", [banded(), cwt_svdd(), plain_vae(), EnsembleRecipe()], ids=lambda recipe: recipe.kind)
def test_a_run_without_a_rule_is_told_which_has_one(folder, monkeypatch, recipe):
    dense = replace(runs.load(str(folder / "run")), recipe=recipe)
    monkeypatch.setattr("vibray.pipeline.train.load", lambda uri: dense)
    with pytest.raises(UserError, match="such as plain-svdd"):
        prune(local(folder, "other"))


def test_records_of_another_kind_are_an_error_that_shows_both(folder, monkeypatch):
    dense = runs.load(str(folder / "run"))
    monkeypatch.setattr("vibray.pipeline.train.load", lambda uri: replace(dense, facts=replace(dense.facts, sample_rate_hz=4096.0)))
    with pytest.raises(UserError, match=r"(?s)of other records.*8192.*4096"):
        prune(local(folder, "other"))


@pytest.mark.slow
def test_two_workers_of_ray_train_are_one(folder, local_ray):
    prune(local(folder, "two", num_workers=2, local=False))
    one, two = net_of(folder / "narrow").state_dict(), net_of(folder / "two").state_dict()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4, msg=name)
    assert objects.exists(f"{folder}/two/_done.json")
