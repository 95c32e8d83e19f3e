"""Corpora of two rates and small fleets to a net, and from there to scores: whoever does it, and wherever it was stopped, the same."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.pipeline.lines import FACTS, RATE_HZ, corpus_fields, killed, rows, write_labels, write_shard
from vibray import runs
from vibray.config import UserError
from vibray.fitting import pretraining as fitting
from vibray.fitting.data import TrainingError
from vibray.fitting.examples import FleetsConfig
from vibray.fitting.jobs import PretrainJob, PruneJob, TrainJob
from vibray.fitting.pretraining import context_scorer, small_transformer
from vibray.fitting.pruned import net_mflop
from vibray.models.band_transformer import BandTransformer, BandTransformerConfig, adapts
from vibray.pipeline import pretrain as stage
from vibray.pipeline.featurize import featurize
from vibray.pipeline.jobs import FeaturizeJob, ReportJob, ScoreJob
from vibray.pipeline.pretrain import PretrainingMismatch, pretrain, read_examples
from vibray.pipeline.report import report
from vibray.pipeline.score import score
from vibray.pipeline.train import prune, train
from vibray.recipes import adapter, band_transformer, cwt_svdd
from vibray.recipes.kinds import DeepRecipe
from vibray.runs.folder import base_state
from vibray.runs.models import Detecting
from vibray.storage import objects
from vibray.storage.parts import Parts, check_finished

TINY = replace(
    small_transformer(),
    detector=BandTransformerConfig(width=16, layers=2, heads=4, head_width=4, feedforward=32, hidden=16),
    fleets=FleetsConfig(units=4, sensors=2, moments=12, contamination=0.4),
    context=replace(small_transformer().context, per_source=6),
    optim=replace(small_transformer().optim, epochs=2, batch_size=7),
)
OTHER_RATE = replace(FACTS, sample_rate_hz=5000.0)


@pytest.fixture(scope="module")
def features(tmp_path_factory) -> list[str]:
    """Two corpora, of which one says that it was sampled faster."""
    folder, made = tmp_path_factory.mktemp("corpora"), []
    for name, facts, seed in (("slow", FACTS, 1), ("fast", OTHER_RATE, 2)):
        write_shard(folder / name / "a.jsonl", 60, seed=seed)
        uri = str(folder / f"{name}-features")
        featurize(FeaturizeJob(str(folder / name), uri, local=True, **corpus_fields(facts)))
        made.append(uri)
    return made


@pytest.fixture(scope="module")
def whole(features, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pretrained") / "bands"
    pretrain(job(folder, features))
    return folder


def job(folder: Path, features: list[str], **options) -> PretrainJob:
    return PretrainJob(str(folder), **{"recipe": TINY, "features": tuple(features), "fleets": 1, "local": True, **options})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_a_finished_folder_says_what_it_holds(whole, features, capsys):
    assert set(check_finished(str(whole))["files"]) == {"recipe.json", "model.safetensors", "environment.json", "metrics.jsonl"}
    assert fitting.read_pretrained(str(whole)).recipe == TINY
    made = [read_examples(str(path)) for path in sorted((whole / "examples").iterdir())]
    assert len(made) == 3 and sum((each.fault >= 0).any() for each in made) == 1
    assert all(each.z.shape[2:] == (2, 128, 2) and np.isfinite(each.z).all() for each in made)
    heard = [int((each.z != 0).any(axis=(0, 1, 2, 4)).sum()) for each in made]
    assert set(heard) == {74, 85}  # a faster corpus hears more bands
    pretrain(job(whole, features))
    assert "finished already" in capsys.readouterr().out
    with pytest.raises(PretrainingMismatch, match="epochs"):
        pretrain(job(whole, features, recipe=replace(TINY, optim=replace(TINY.optim, epochs=3))))
    with pytest.raises(PretrainingMismatch, match="fleets"):
        pretrain(job(whole, features, fleets=2))


@pytest.mark.parametrize(("what", "name", "most"), [(stage, "make_examples", 2), (fitting, "fit", 0), ("save", "save", 1)])
def test_killed_and_started_again_it_goes_on(whole, features, tmp_path, monkeypatch, what, name, most):
    """Among the examples, before the first step, and after an epoch whose checkpoint stands."""
    from vibray.train.checkpoints import Checkpoints

    with killed(monkeypatch, Checkpoints if what == "save" else what, name, most):
        pretrain(job(tmp_path, features))
    pretrain(job(tmp_path, features))
    assert (tmp_path / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_on_two_workers_of_ray_the_same(whole, features, tmp_path, local_ray):
    """In float32, whose sums differ by their order; float64 is compared in tests/train/test_reduce.py."""
    pretrain(job(tmp_path, features, local=False, num_workers=2))
    one, two = weights(whole), weights(tmp_path)
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-3
    assert (tmp_path / "examples/fleet-0000.safetensors").read_bytes() == (whole / "examples/fleet-0000.safetensors").read_bytes()


def test_a_machine_that_nothing_was_trained_on_is_scored(whole, features, tmp_path):
    train(TrainJob((features[0],), str(tmp_path / "run"), band_transformer(), init_from=str(whole), local=True))
    run = runs.load(str(tmp_path / "run"))
    assert isinstance(run.model, Detecting) and isinstance(run.model.detector, BandTransformer)
    own, taught = run.model.detector.state_dict(), weights(whole)
    assert all(torch.equal(own[name], taught[name]) for name in taught)
    assert (tmp_path / "run/model.safetensors").stat().st_size < 60_000  # statistics of sensors, and no weight
    write_shard(tmp_path / "raw/a.jsonl", 12, seed=5)
    score(ScoreJob(str(tmp_path / "run"), str(tmp_path / "raw"), str(tmp_path / "scores"), RATE_HZ, local=True))
    scores = Parts(str(tmp_path / "scores")).read()["score"].to_numpy()
    assert len(scores) == 12 and np.isfinite(scores).all() and (scores > 0).all()
    report(ReportJob((str(tmp_path / "scores"),), str(tmp_path / "report.html")))
    assert "How far each band is from the sensor" in (tmp_path / "report.html").read_text()


def test_an_adapter_is_a_few_kilobytes_beside_its_base(whole, features, tmp_path):
    recipe = replace(adapter(), optim=replace(adapter().optim, epochs=1))
    train(TrainJob((features[0],), str(tmp_path / "run"), recipe, init_from=str(whole), local=True))
    run = runs.load(str(tmp_path / "run"))
    assert isinstance(run.model, Detecting) and isinstance(run.model.detector, BandTransformer)
    own, taught = run.model.detector.state_dict(), weights(whole)
    kept = [name for name in taught if not adapts(name)]
    assert all(torch.equal(own[name], taught[name]) for name in kept) and len(kept) == len(taught) - 2
    assert all(adapts(name) for name in own if name not in taught)
    assert any(bool(own[name].any()) for name in own if "up.weight" in name)
    base = base_state(run.model.detector.config.base or "", run.model.detector.config.base_sha256)
    assert all(own[name].data_ptr() == base[name].data_ptr() for name in kept)  # loaded once for many sites


def test_where_all_weights_are_trained_all_are_kept(whole, features, tmp_path):
    recipe = replace(band_transformer(), optim=replace(band_transformer().optim, epochs=1))
    train(TrainJob((features[0],), str(tmp_path / "run"), recipe, init_from=str(whole), local=True))
    shutil.copytree(tmp_path / "run", tmp_path / "moved")
    base_state.cache_clear()
    run, taught = runs.load(str(tmp_path / "moved")), weights(whole)
    assert isinstance(run.model, Detecting) and isinstance(run.model.detector, BandTransformer)
    own = run.model.detector.state_dict()
    assert set(own) == set(taught) and not torch.equal(own["to_width.weight"], taught["to_width.weight"])
    assert base_state.cache_info().misses == 0  # its base is not read


def test_an_adapter_learns_from_labels(whole, features, tmp_path):
    told = [{**label, "label": "knock"} for _, label in rows(60, seed=1)][:3]
    path = write_labels(tmp_path / "labels.jsonl", told)
    recipe = replace(adapter(), optim=replace(adapter().optim, epochs=1))
    found = []
    for name, uri in (("with", str(path)), ("without", None)):
        train(TrainJob((features[0],), str(tmp_path / name), recipe, labels=uri, init_from=str(whole), local=True))
        found.append(runs.load(str(tmp_path / name)).model.tensors())
    assert any(not torch.equal(found[0][name], found[1][name]) for name in found[0] if adapts(name.removeprefix("detector.")))


def test_it_is_pruned_to_a_run_of_its_own(whole, features, tmp_path):
    train(TrainJob((features[0],), str(tmp_path / "run"), band_transformer(), init_from=str(whole), local=True))
    prune(PruneJob(str(tmp_path / "run"), str(tmp_path / "small"), (features[0],), share=0.3, epochs=1, local=True))
    dense, small = (runs.load(str(tmp_path / name)) for name in ("run", "small"))
    assert isinstance(dense.recipe, DeepRecipe) and isinstance(small.recipe, DeepRecipe)
    config = small.recipe.detector
    assert isinstance(config, BandTransformerConfig) and config.base is None and config.keep < 1 and config.feedforward < 32
    assert net_mflop(small.recipe, 50.0) <= 0.3 * net_mflop(dense.recipe, 50.0)
    write_shard(tmp_path / "raw/a.jsonl", 12, seed=5)
    score(ScoreJob(str(tmp_path / "small"), str(tmp_path / "raw"), str(tmp_path / "scores"), RATE_HZ, local=True))
    assert np.isfinite(Parts(str(tmp_path / "scores")).read()["score"].to_numpy()).all()


def test_a_base_that_is_another_one_is_told(whole, features, tmp_path):
    shutil.copytree(whole, tmp_path / "base")
    train(TrainJob((features[0],), str(tmp_path / "run"), band_transformer(), init_from=str(tmp_path / "base"), local=True))
    base_state.cache_clear()
    (tmp_path / "base/model.safetensors").write_bytes(b"another")
    with pytest.raises(UserError, match="is not what the run was made with"):
        runs.load(str(tmp_path / "run"))


def test_a_corpus_that_a_net_cannot_read_is_named_before_any_work(tmp_path):
    write_shard(tmp_path / "raw/a.jsonl", 6, seed=3)
    facts = replace(FACTS, mains="none")
    featurize(FeaturizeJob(str(tmp_path / "raw"), str(tmp_path / "features"), local=True, **corpus_fields(facts)))
    with pytest.raises(UserError, match="features has no mains frequency"):
        pretrain(job(tmp_path / "scorer", [str(tmp_path / "features")], recipe=context_scorer()))
    recipe = replace(TINY, context=replace(TINY.context, sizes=(16,)))
    with pytest.raises(UserError, match="features: no unit has the 18 records"):
        pretrain(job(tmp_path / "bands", [str(tmp_path / "features")], fleets=0, recipe=recipe))


def test_what_cannot_be_is_refused(whole, features, tmp_path):
    with pytest.raises(UserError, match="--features has to be given"):
        pretrain(job(tmp_path, [], fleets=0))
    with pytest.raises(UserError, match="both corpus"):
        pretrain(job(tmp_path, [features[0], features[0]]))
    with pytest.raises(UserError, match="reads the spectral vector"):
        replace(context_scorer(), feature=TINY.feature)
    with pytest.raises(TrainingError, match="a pretrained net is needed"):
        train(TrainJob((features[0],), str(tmp_path / "a"), band_transformer(), local=True))
    with pytest.raises(TrainingError, match="--init-from goes with"):
        train(TrainJob((features[0],), str(tmp_path / "b"), cwt_svdd(), init_from=str(whole), local=True))
    with pytest.raises(UserError, match="pretrained band transformer"):
        scorer = replace(context_scorer(), fleets=FleetsConfig(units=6, moments=12), optim=replace(context_scorer().optim, epochs=1))
        pretrain(PretrainJob(str(tmp_path / "scorer"), scorer, fleets=1, local=True))
        train(TrainJob((features[0],), str(tmp_path / "c"), band_transformer(), init_from=str(tmp_path / "scorer"), local=True))
    with pytest.raises(UserError, match="no run: give it to"):
        runs.load(str(whole))
    assert not objects.exists(str(tmp_path / "a/_done.json"))
