"""A run in memory and as a folder: what it scores, and what is said of a folder that holds something else."""

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from tests.pipeline.lines import FACTS, RATE_HZ, waveform
from vibray import runs
from vibray.config import UserError
from vibray.models.ensemble import Ensemble, EnsembleConfig, score_statistics
from vibray.recipes import NAMED, banded, small
from vibray.recipes.building import (
    build_classical,
    build_classifier,
    build_deep,
    build_feature,
    build_scaling_fit,
    build_vector,
    columns_of,
)
from vibray.recipes.kinds import ClassicalRecipe, ClassifierRecipe, DeepRecipe, DiagnosisRecipe, EnsembleRecipe
from vibray.runs.models import Detecting, Diagnosing, Fusing, Naming
from vibray.runs.run import Run, RunMismatch
from vibray.storage import objects
from vibray.storage.parts import finish_folder
from vibray.train.diagnosis import Labels, fit_diagnosis

FAULTS = "arc", "bolt"
SENSORS = [("t1", f"t1-s{i % 2}") for i in range(70)]


def waves(num_records: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack([waveform(rng, i % 2) for i in range(num_records)]).astype(np.float32)


def keys(num: int) -> np.ndarray:
    return np.arange(num, dtype=np.uint64)


def classical() -> Run:
    recipe, w = banded(), torch.from_numpy(waves(70))
    feature = build_vector(recipe.feature, FACTS.mains_hz)
    fit = build_scaling_fit(recipe.scaling, feature)
    fit.update(feature(w, RATE_HZ), SENSORS, keys(70))
    scaling, detector = fit.finish(), build_classical(recipe.detector, feature)
    x = scaling(feature(w, RATE_HZ), SENSORS)[:, columns_of(feature, recipe.detector.blocks)]
    detector.update(x, keys(70))
    while detector.finish():
        detector.update(x, keys(70))
    return Run(recipe, FACTS, Detecting(recipe, scaling, detector, score_statistics(detector.score(x).numpy())))


def deep() -> Run:
    recipe = small(NAMED["cwt-svdd"](), 1)
    assert isinstance(recipe, DeepRecipe)
    feature = build_feature(recipe.feature, FACTS.mains_hz)
    fit = build_scaling_fit(recipe.scaling, feature)
    fit.update(feature(torch.from_numpy(waves(4)), RATE_HZ), SENSORS[:4], keys(4))
    torch.manual_seed(0)
    net = build_deep(recipe.detector, feature.shape).eval()
    return Run(recipe, FACTS, Detecting(recipe, fit.finish(), net, score_statistics(np.arange(9.0))))


def ensemble() -> Run:
    members = {"classical": classical(), "deep": deep()}
    fusion = EnsembleConfig(weights=(("classical", 0.5), ("deep", 0.5)))
    fused = Ensemble(fusion)
    fused.fit({name: member.score(waves(9), RATE_HZ) for name, member in members.items()})
    recipes = {name: member.recipe for name, member in members.items() if isinstance(member.recipe, ClassicalRecipe | DeepRecipe)}
    return Run(
        EnsembleRecipe(members=recipes, fusion=fusion),
        FACTS,
        Fusing({name: m.model for name, m in members.items() if isinstance(m.model, Detecting)}, fused),
    )


def classifier() -> Run:
    recipe = small(NAMED["cwt-classifier"](), 1)
    assert isinstance(recipe, ClassifierRecipe) and recipe.image is not None
    feature = build_feature(recipe.image, FACTS.mains_hz)
    fit = build_scaling_fit(recipe.image_scaling, feature)
    fit.update(feature(torch.from_numpy(waves(4)), RATE_HZ), SENSORS[:4], keys(4))
    torch.manual_seed(0)
    net = build_classifier(recipe, len(FAULTS), {"image": feature.shape}).eval()
    return Run(recipe, FACTS, Diagnosing(recipe, FAULTS, net, fit.finish(), None), device="cpu")


def diagnosis() -> Run:
    """Without the net's layer, whose columns a short record has not."""
    recipe, w, of = DiagnosisRecipe(detector=banded()), torch.from_numpy(waves(60)), SENSORS[:60]
    feature = build_vector(recipe.detector.feature, FACTS.mains_hz)
    found = classical().model
    assert isinstance(found, Detecting)
    x = found.scaling(feature(w, RATE_HZ), of)
    number = np.arange(24) % 3 - 1  # normal, one fault, the other
    shift = 20 * torch.randn(2, x.shape[1], generator=torch.Generator().manual_seed(1))
    labelled = torch.stack([x[i] + (shift[n] if n >= 0 else 0) for i, n in enumerate(number.tolist())])
    labels = Labels((number >= 0).astype(np.int64), number, np.ones(24), np.ones(24, bool), np.arange(24) % 6, np.arange(24))
    scores, own = (found.of_scaled(values, FACTS).double().numpy() for values in (x, labelled))
    named = fit_diagnosis(recipe.diagnosis, x, scores, labelled, own, labels, FAULTS, None, []).diagnosis
    return Run(recipe, FACTS, Naming(found, FAULTS, named))


KINDS = {"classical": classical, "deep": deep, "ensemble": ensemble, "classifier": classifier, "diagnosis": diagnosis}


@pytest.mark.parametrize("kind", KINDS)
def test_an_array_scores_as_a_tensor_does_and_no_record_gives_no_score(kind):
    run, w = KINDS[kind](), waves(3)
    whole = run.outputs(torch.from_numpy(w), RATE_HZ, SENSORS[:3])
    assert torch.equal(run.score(w, RATE_HZ, SENSORS[:3]), whole["score"])
    backwards = w[::-1]
    backwards.flags.writeable = False  # as pyarrow hands arrays on
    assert torch.equal(run.score(backwards, RATE_HZ), run.score(torch.from_numpy(backwards.copy()), RATE_HZ))
    for hastened in (run, run.hastened()):
        for none in (w[:0], torch.from_numpy(w[:0])):
            empty = hastened.outputs(none, RATE_HZ, [])
            assert {name: (len(column), column.dtype) for name, column in empty.items()} == {
                name: (0, column.dtype) for name, column in whole.items()
            }
            assert hastened.score(none, RATE_HZ).shape == (0,)
    with pytest.raises(RunMismatch, match="samples"):
        run.score(w[:0, :-1], RATE_HZ)


@pytest.mark.parametrize("kind", ["classical", "deep", "classifier", "diagnosis"])
def test_a_folder_that_says_other_things_than_training_writes_is_the_users_to_mend(kind, tmp_path):
    run, uri = KINDS[kind](), str(tmp_path / "run")
    runs.begin(uri, run.recipe, run.facts, {}, run.faults)
    runs.save(uri, run, [], {})
    w = waves(2)
    assert torch.equal(runs.load(uri).score(w, RATE_HZ), run.score(w, RATE_HZ))
    names, weights = list(objects.read_json(f"{uri}/_done.json")["files"]), objects.join(uri, "model.safetensors")
    tensors = load(objects.read_bytes(weights))

    def refused(data: bytes) -> None:
        objects.write_bytes(weights, data)
        finish_folder(uri, names, {"members": []})
        with pytest.raises(UserError, match="train the run again"):
            runs.load(uri)

    refused(b"no tensors")
    # safetensors reads in any order; how many batches a normalisation has seen is of no use to a trained net, and torch lets it be absent
    needed = sorted(name for name in tensors if not name.endswith("num_batches_tracked"))
    for name in {n.partition(".")[0]: n for n in needed}.values():  # one of each part of the run
        refused(save({n: t for n, t in tensors.items() if n != name}))
    scaling = next(name for name in tensors if name.endswith("scaling.location"))
    location = tensors[scaling]
    other = location[..., :-1, :] if location.ndim > 2 else location[:, :-1]  # a row or an element fewer
    refused(save(tensors | {scaling: other.contiguous()}))
    refused(save(tensors | {scaling.replace("location", "within"): torch.ones(7)}))
    objects.write_bytes(weights, save(tensors))
    facts = objects.read_json(f"{uri}/scaling.json")
    objects.write_json(f"{uri}/scaling.json", {name: value for name, value in facts.items() if name != "scalings"})
    finish_folder(uri, names, {"members": []})
    with pytest.raises(UserError, match="KeyError: 'scalings'"):
        runs.load(uri)


def test_a_run_of_before_a_change_of_its_format_is_named_as_such(tmp_path):
    run, uri = classical(), str(tmp_path / "run")
    runs.begin(uri, run.recipe, run.facts, {})
    runs.save(uri, run, [], {})
    recipe = tmp_path / "run" / "recipe.json"
    recipe.write_text(recipe.read_text().replace('"format_version": 2', '"format_version": 1', 1))
    finish_folder(uri, list(objects.read_json(f"{uri}/_done.json")["files"]), {"members": []})
    for reading in (lambda: runs.load(uri), lambda: runs.begin(uri, run.recipe, run.facts, {})):
        with pytest.raises(UserError, match=r"recipe.json was made by version 1 of the format; this vibray reads version 2"):
            reading()
