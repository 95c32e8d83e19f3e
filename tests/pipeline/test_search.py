"""The search on Ray Tune: trials, early stops, a folder that goes on, what a person is shown."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
import torch

from tests.pipeline.lines import FACTS, NUM_UNITS, RATE_HZ, UNIT_RECORDS, corpus_fields, write_labels, write_units
from vibray import runs
from vibray.compare.corpus import Opened, open_corpus, with_values
from vibray.compare.folds import fold_rows
from vibray.compare.jobs import SearchJob
from vibray.compare.space import SpaceError
from vibray.compare.study import Folder, SearchError
from vibray.config import short_hash
from vibray.fitting.jobs import TrainJob
from vibray.models.backbone import TrunkConfig
from vibray.pipeline.ending import ClusterError
from vibray.pipeline.featurize import featurize
from vibray.pipeline.jobs import FeaturizeJob
from vibray.pipeline.search import describe, search
from vibray.pipeline.train import train
from vibray.recipes import cwt_svdd, fused, knn
from vibray.recipes.kinds import DeepRecipe
from vibray.runs.models import Detecting
from vibray.storage import objects
from vibray.storage.parts import Parts

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture(scope="module")
def job(tmp_path_factory, local_ray) -> SearchJob:
    """Four machines of two sensors; a quarter of the records has a label, a third is faulty."""
    folder = tmp_path_factory.mktemp("search")
    file = write_labels(folder / "labels.jsonl", write_units(folder / "raw")[2::4])
    featurize(FeaturizeJob(str(folder / "raw"), str(folder / "features"), vectors=("spectral",), **corpus_fields(FACTS)))
    uri = str(folder / "features")
    return SearchJob((uri,), str(folder / "search"), fused(), labels=str(file), num_trials=5, num_folds=2, calibration_records=22)


def tiny(epochs: int) -> DeepRecipe:
    """cwt-svdd in seconds."""
    recipe = cwt_svdd()
    detector = replace(recipe.detector, trunk=TrunkConfig(kind="time", width=16), hidden=8, latent_dim=8)
    image = replace(recipe.feature, rows=16, columns=16, min_hz=60.0)
    return replace(recipe, feature=image, detector=detector, optim=replace(recipe.optim, epochs=epochs, batch_size=32))


def opened_of(job: SearchJob, labels: str | None) -> Opened:
    return open_corpus(job.features, labels, [fused()], job.num_folds, job.calibration_records, unlabelled_pool=True)


def record(uri: str) -> dict[int, dict]:
    """The trials without what depends on the clock on the wall."""
    return {number: {k: v for k, v in t.items() if k not in ("seconds", "run")} for number, t in Folder(uri).trials().items()}


def test_no_unit_stands_on_both_sides_and_labelled_records_train_nobody(job):
    opened = opened_of(job, job.labels)
    corpus, said = opened.corpus, describe(job, opened)
    label = corpus.records.label
    for fold in range(2):
        rows = fold_rows(corpus, fold, 0)
        held = set(corpus.records.unit[corpus.fold == fold])
        assert len(held) == 2
        for inside in (rows.split.calibration, rows.split.judged):
            assert set(corpus.records.unit[inside]) == held
        for outside in (rows.split.pool, rows.trusted):
            assert not set(corpus.records.unit[outside]) & held
        assert (label[rows.split.pool] == "").all()
        assert (label[rows.trusted] == "normal").all()
        assert (label[rows.split.judged] != "").all()
    assert "judged on" in said[-1]
    # labels decide nothing but who is judged: without them the pool is the same and what was labelled besides
    blind = opened_of(job, None).corpus
    assert not len(fold_rows(blind, 0, 0).split.judged)


def test_a_search_that_was_killed_is_the_search_that_was_not(job, tmp_path, capsys):
    """One trial at a time: the same trials, the same rungs, the same winner. Another command on the folder shows both."""
    whole = replace(job, search=str(tmp_path / "whole"), max_concurrent_trials=1, storage=f"sqlite:///{tmp_path / 'mirror.db'}")
    search(whole)
    out = capsys.readouterr().out
    assert "winner: trial" in out and "halving" in out
    expected = record(whole.search)
    assert list(expected) == list(range(5))
    assert {t["state"] for t in expected.values()} == {"complete", "pruned"}
    assert expected[0]["hash"] == short_hash(fused())

    # killed while trial 2 ran: it had begun, nothing more is there
    parts = tmp_path / "parts"
    shutil.copytree(whole.search, parts)
    for name in ("_done.json", "winner.json", "search.md", "search.html", "search_summary.json"):
        (parts / name).unlink()
    for number in (2, 3, 4):
        (parts / "trials" / f"{number:05d}.json").unlink()
    for number in (3, 4):
        (parts / "started" / f"{number:05d}.json").unlink()
    search(replace(whole, search=str(parts), storage=None))
    assert record(str(parts)) == expected
    names = ("winner.json",)
    assert all(json.loads((parts / n).read_text()) == json.loads((tmp_path / "whole" / n).read_text()) for n in names)

    capsys.readouterr()
    search(whole)
    assert "finished already" in capsys.readouterr().out
    with pytest.raises(SearchError, match="seed: 0 in the folder, 1 now"):
        search(replace(whole, seed=1))

    summary = objects.read_json(str(parts / "search_summary.json"))
    assert summary["seconds"]["training"] > 0
    page = (parts / "search.html").read_text()
    assert page.count("<svg") >= 2 and "http:" not in page and "https:" not in page
    assert "## Thresholds of the winner" in (parts / "search.md").read_text()


def test_every_fold_of_a_trial_is_a_run_like_any_other_and_scores_as_the_trial_did(job, tmp_path):
    own = replace(job, search=str(tmp_path / "s"), recipe=tiny(2), num_trials=3, bounds=("objective=hypersphere", "width=16:32"))
    search(own)
    trials = Folder(own.search).trials()
    assert trials[0]["hash"] == short_hash(tiny(2))
    complete = [t for t in trials.values() if t["state"] == "complete"]
    assert complete
    corpus = with_values(opened_of(job, own.labels).corpus, [], True, lambda done, total: None)
    for trial in complete[:1]:
        for fold in range(2):
            run = runs.load(objects.join(trial["run"], f"fold-{fold}"))
            assert short_hash(run.recipe) == trial["hash"]
            judged = fold_rows(corpus, fold, 0).split.judged
            sensors = [corpus.table.sensors[i] for i in judged]
            scores = run.score(torch.from_numpy(corpus.waveforms[judged].copy()), RATE_HZ, sensors).numpy()
            faulty = corpus.records.faulty[judged]
            above = (scores[faulty][:, None] > scores[~faulty][None]).mean()
            assert above == pytest.approx(trial["folds"][fold]["auroc"], abs=0.02)
        assert len(trial["thresholds"]) == 19
        assert trial["best_setting"]["f1"] == max(row["f1"] for row in trial["thresholds"] if row["f1"] is not None)


@pytest.mark.parametrize("recipe", [fused(), tiny(2)], ids=["classical", "deep"])
def test_a_training_on_a_trial_s_rows_is_the_trial_s_run(job, tmp_path, recipe):
    """What jobs/train.py makes of the records of a fold's other units is, to the bit, what the trial made of them: detector, scaling, the
    scores' statistics, and of a net the epochs and the guards."""
    own = replace(job, search=str(tmp_path / "s"), recipe=recipe, num_trials=1, train_winner=True)
    search(own)
    corpus = opened_of(job, own.labels).corpus
    others = {unit[1:] for unit in np.unique(corpus.records.unit[corpus.fold != 0])}
    (tmp_path / "raw").mkdir()
    for number in others:  # under their own names: a record's key decides what is drawn
        shutil.copy(Path(job.features[0]).parent / "raw" / f"{number}.jsonl", tmp_path / "raw" / f"{number}.jsonl")
    features = str(tmp_path / "features")
    featurize(FeaturizeJob(str(tmp_path / "raw"), features, corpus="raw", vectors=("spectral",), **corpus_fields(FACTS)))
    rows = [json.loads(line) for line in Path(job.labels or "").read_text().splitlines()]
    labels = write_labels(tmp_path / "labels.jsonl", [row for row in rows if row["unit"][1:] in others])
    train(TrainJob((features,), str(tmp_path / "run"), recipe, labels=str(labels), search_pool=True))

    trained, trial = (runs.load(uri) for uri in (str(tmp_path / "run"), objects.join(Folder(own.search).trials()[0]["run"], "fold-0")))
    assert isinstance(trained.model, Detecting) and isinstance(trial.model, Detecting)
    ours, theirs = trained.model.tensors(), trial.model.tensors()
    known = len(trained.model.scaling.sensors)
    assert trial.model.scaling.sensors[:known] == trained.model.scaling.sensors
    assert set(ours) == set(theirs)
    for name, tensor in ours.items():
        # the trial's scaling knows the held-out sensors besides
        their = theirs[name][: len(tensor)] if name in ("scaling.location", "scaling.scale") else theirs[name]
        assert torch.equal(tensor, their), name
    lines = [[json.loads(line) for line in objects.read_bytes(f"{uri}/metrics.jsonl").splitlines()] for uri in run_uris(tmp_path, own)]
    assert [without_times(line) for line in lines[0]] == [without_times(line) for line in lines[1]]

    winner = runs.load(objects.join(own.search, "winner"))
    num_unlabelled = int((corpus.records.label == "").sum())
    assert isinstance(winner.model, Detecting)
    assert sum(winner.model.scaling.counts.values()) == num_unlabelled  # the rows that the trials' rule picks


def run_uris(folder: Path, job: SearchJob) -> tuple[str, str]:
    return str(folder / "run"), objects.join(Folder(job.search).trials()[0]["run"], "fold-0")


def without_times(line: dict) -> dict:
    return {name: value for name, value in line.items() if "second" not in name and "per_s" not in name}


def test_what_fails_is_a_trial_with_its_reason(job, tmp_path, capsys):
    """A learning rate of 1e30 diverges; a search of nothing else has no winner and says why."""
    own = replace(job, search=str(tmp_path / "s"), recipe=tiny(2), num_trials=2, bounds=("objective=hypersphere", "lr=1e30"))
    with pytest.raises(SearchError, match=r"none of 2 trials came to its end(.|\n)*trial 0: "):
        search(own)
    trials = Folder(own.search).trials()
    assert [t["state"] for t in trials.values()] == ["pruned"] * 2
    assert all(t["cause"] in ("guard", "error") and t["reason"] for t in trials.values())
    assert not objects.exists(objects.join(own.search, "_done.json"))


def test_without_labels_the_recipe_stays_as_it_is_and_then_scores(job, tmp_path, capsys):
    raw = Path(job.features[0]).parent / "raw"
    own = replace(job, search=str(tmp_path / "s"), labels=None, num_trials=2)
    own = replace(own, then_score=str(tmp_path / "scores"), input=str(raw), sample_rate_hz=RATE_HZ)
    search(own)
    assert "no sound objective" in capsys.readouterr().out
    assert not (tmp_path / "s" / "trials").exists()
    winner = objects.read_json(str(tmp_path / "s" / "winner.json"))
    assert winner["hash"] == short_hash(fused()) and winner["number"] is None
    assert Parts(str(tmp_path / "scores")).total("num_kept") == NUM_UNITS * UNIT_RECORDS
    assert runs.load(str(tmp_path / "s" / "winner")).recipe == fused()


@pytest.mark.slow
def test_two_objectives_have_a_front(job, tmp_path):
    bounds = ("objective=hypersphere", "metric=mahalanobis", "weakest_db=-20")
    own = replace(job, search=str(tmp_path / "s"), recipe=tiny(1), num_trials=4, with_cost=True, bounds=bounds)
    search(own)
    trials = Folder(own.search).trials()
    points = {n: t["values"] for n, t in trials.items() if t["state"] == "complete"}
    front = set(objects.read_json(objects.join(own.search, "search_summary.json"))["front"])
    for number, (value, cost) in points.items():
        beaten = any(v >= value and c <= cost and (v, c) != (value, cost) for v, c in points.values())
        assert (number in front) == (not beaten)
    assert "Objective and cost" in Path(own.search, "search.html").read_text()


def test_arguments_that_do_not_fit_are_told(job, tmp_path):
    own = replace(job, search=str(tmp_path / "s"))
    with pytest.raises(SpaceError, match="cwt-svdd"):
        search(replace(own, recipe=knn()))
    with pytest.raises(SearchError, match="needs --labels"):
        search(replace(own, labels=None, objective="f1"))
    with pytest.raises(SearchError, match="go together"):
        search(replace(own, then_score="x"))
    with pytest.raises(ClusterError, match="the cluster has 2"):
        search(replace(own, num_workers=3))
    with pytest.raises(SearchError, match="no fold has both"):
        one = write_labels(tmp_path / "one.jsonl", [json.loads(Path(job.labels or "").read_text().splitlines()[0])])
        search(replace(own, labels=str(one)))
    search(replace(own, search=str(tmp_path / "dry"), dry_run=True))
    assert not (tmp_path / "dry").exists()


@pytest.mark.slow
def test_trials_of_two_workers_stop_early_and_release_what_they_took(job, tmp_path):
    """The figures of a trial are those of one worker; after trials that were ended early every core and placement group is free."""
    bounds = ("objective=hypersphere", "metric=mahalanobis", "weakest_db=-20", "width=16")
    own = replace(job, recipe=tiny(4), num_trials=5, bounds=bounds, grace_epochs=1, max_concurrent_trials=1)
    search(replace(own, search=str(tmp_path / "one")))
    search(replace(own, search=str(tmp_path / "two"), num_workers=2))
    one, two = (Folder(str(tmp_path / name)).trials() for name in ("one", "two"))
    assert any(t["state"] == "pruned" and t["cause"] == "halving" for t in two.values())
    # the first trials are not drawn by what others gave
    for number in range(2):
        assert one[number]["params"] == two[number]["params"]
        assert one[number]["rungs"]["1"] == pytest.approx(two[number]["rungs"]["1"], abs=0.02)
    assert ray.available_resources()["CPU"] == ray.cluster_resources()["CPU"]
    states = {group["state"] for group in ray.util.placement_group_table().values()}
    assert states <= {"REMOVED"}
    from ray._private.state import actors

    left = [a for a in actors().values() if a["State"] == "ALIVE" and a["ActorClassName"] in ("PlacementGroupCleaner", "RayTrainWorker")]
    assert not left
    assert not (tmp_path / "two" / "ray").exists() or not list((tmp_path / "two" / "ray").rglob("*.json"))
