"""A run as a folder: begun, saved, loaded."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor

from vibray.config import UserError, from_json, short_hash, to_json
from vibray.decide.findings import Finding, counts_of
from vibray.decide.fleet_scores import FleetScores
from vibray.decide.state import SensorHistory
from vibray.features.scaling import Scaling
from vibray.models.classifier import Classifier
from vibray.models.diagnosis import LinearDiagnosis
from vibray.models.ensemble import Ensemble
from vibray.recipes.building import build_classical, build_classifier, build_deep, build_feature, build_vector, columns_of, net_columns
from vibray.recipes.kinds import AnyRecipe, ClassicalRecipe, ClassifierRecipe, DeepRecipe, DiagnosisRecipe, EnsembleRecipe, Recipe
from vibray.runs.models import Detecting, Diagnosing, Fusing, Model, Naming, part_of, prefixed
from vibray.runs.run import Run, RunMismatch
from vibray.storage import objects
from vibray.storage.corpus import CorpusFacts
from vibray.storage.parts import check_finished, finish_folder
from vibray.storage.plan import begin_folder


def begin(uri: str, recipe: Recipe, facts: CorpusFacts, identity: dict[str, Any], faults: tuple[str, ...] | None = None) -> bool:
    """Writes recipe.json at the first start of a training; True where the same training is finished already.

    `identity` is what the same command must find again (inputs, labels). Raises RunMismatch, showing both, where the folder is another's.
    """
    values = {
        "recipe": to_json(recipe),
        "hash": short_hash(recipe),
        "facts": to_json(facts),
        "faults": None if faults is None else list(faults),
        "identity": identity,
    }
    begin_folder(uri, "recipe.json", values, "by another training", RunMismatch)
    return objects.exists(objects.join(uri, "_done.json"))


def save(uri: str, run: Run, metrics: list[dict[str, Any]], environment: dict[str, Any], findings: Sequence[Finding] = ()) -> None:
    """Writes what training fitted beside the recipe.json that `begin` wrote, `_done.json` last, with the counts of `findings`."""
    files = {
        "scaling.json": {
            "scalings": {name: scaling.facts() for name, (_, scaling) in run.model.scalings().items()}
            if not isinstance(run.model, Fusing)
            else {},
            "sensors": [
                {"unit": unit, "sensor_id": sensor_id, "median_rms": h.median_rms, "mains_share": h.mains_share}
                for (unit, sensor_id), h in sorted(run.histories.items())
            ],
        },
        "environment.json": environment,
    }
    for name, values in files.items():
        objects.write_json(objects.join(uri, name), values)
    fitted = run.model.tensors() | prefixed("fleet_scores", run.fleet_scores.state())
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in fitted.items()}
    objects.write_bytes(objects.join(uri, "model.safetensors"), to_safetensors(tensors))
    write_metrics(uri, metrics)
    finish_folder(
        uri, ["recipe.json", *files, "model.safetensors", "metrics.jsonl"], {"members": list(run.members), "findings": counts_of(findings)}
    )


def write_metrics(uri: str, lines: list[dict[str, Any]]) -> None:
    """Writes metrics.jsonl: a line an epoch, then the guards or what else was measured at the end."""
    objects.write_bytes(objects.join(uri, "metrics.jsonl"), "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines).encode())


def load(uri: str) -> Run:
    """A finished run, its files checked against their checksums; ensembles with their members.

    Raises ObjectMissing for a folder that is no finished run, UserError where a file is not what training wrote.
    """
    check_finished(uri)
    with _damage(uri):
        return _read(uri)


def load_detector(uri: str) -> Detecting:
    """The model of a finished run that can be a member of an ensemble. Raises as `load` does, and UserError for another kind."""
    model = load(uri).model
    if not isinstance(model, Detecting):
        raise UserError(f"{uri} is no run of one detector: an ensemble has no other members")
    return model


@contextmanager
def _damage(uri: str) -> Iterator[None]:
    """What goes wrong where files are whole but say other things than training writes: another version's, or put there by hand."""
    try:
        yield
    except UserError:
        raise
    except (SafetensorError, LookupError, TypeError, ValueError, RuntimeError) as error:
        told = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise UserError(f"{uri} does not hold what this vibray's training writes ({told}): train the run again") from error


def _read(uri: str) -> Run:
    facts_of_run = objects.read_json(objects.join(uri, "recipe.json"))
    if facts_of_run["recipe"].get("kind") == "pretraining":
        raise UserError(f"{uri} is a net that jobs/pretrain.py left, no run: give it to jobs/train.py with --init-from")
    recipe = from_json(AnyRecipe, facts_of_run["recipe"], objects.join(uri, "recipe.json"))
    facts = from_json(CorpusFacts, facts_of_run["facts"], objects.join(uri, "recipe.json"))
    scaling = objects.read_json(objects.join(uri, "scaling.json"))
    tensors = from_safetensors(objects.read_bytes(objects.join(uri, "model.safetensors")))
    histories = {(row["unit"], row["sensor_id"]): SensorHistory(row["median_rms"], row["mains_share"]) for row in scaling["sensors"]}
    model: Model
    match recipe:
        case EnsembleRecipe():
            ensemble = Ensemble(recipe.fusion)
            ensemble.load(part_of(tensors, "ensemble"))
            model = Fusing({name: load_detector(objects.join(uri, "members", name)) for name in recipe.members}, ensemble)
        case ClassifierRecipe():
            model = _load_classifier(recipe, tuple(facts_of_run["faults"]), facts, tensors, scaling["scalings"])
        case DiagnosisRecipe():
            detecting = _load_detector(recipe.detector, facts, tensors, scaling["scalings"][""])
            columns = net_columns(build_vector(recipe.detector.feature, facts.mains_hz))
            model = Naming(detecting, tuple(facts_of_run["faults"]), LinearDiagnosis.load(part_of(tensors, "diagnosis"), columns))
        case ClassicalRecipe() | DeepRecipe():
            model = _load_detector(recipe, facts, tensors, scaling["scalings"][""])
    return Run(recipe, facts, model, histories, FleetScores.load(part_of(tensors, "fleet_scores")))


def _load_detector(recipe: ClassicalRecipe | DeepRecipe, facts: CorpusFacts, tensors: dict[str, Tensor], scaling: dict) -> Detecting:
    feature = build_feature(recipe.feature, facts.mains_hz)
    fitted = Scaling.load(recipe.scaling, feature.shape, part_of(tensors, "scaling"), scaling)
    x = fitted(torch.zeros(1, *feature.shape))  # statistics of another shape are told here, not by the first record
    own = part_of(tensors, "detector")
    if isinstance(recipe, DeepRecipe):
        net = build_deep(recipe.detector, feature.shape)
        if recipe.base is not None:
            own = base_state(*recipe.base) | own
        net.load_state_dict(own, assign=True)  # many sites share one base
        return Detecting(recipe, fitted, net.eval(), tensors["training_scores"])
    vector = build_vector(recipe.feature, facts.mains_hz)
    detector = build_classical(recipe.detector, vector)
    detector.load(own)
    detector.score(x[:, columns_of(vector, recipe.detector.blocks)])
    return Detecting(recipe, fitted, detector, tensors["training_scores"])


@lru_cache(maxsize=4)
def base_state(uri: str, sha256: str) -> dict[str, Tensor]:
    """The weights that jobs/pretrain.py left in a folder. Raises UserError where they are others than those of this checksum."""
    data = objects.read_bytes(objects.join(uri, "model.safetensors"))
    if objects.sha256(data) != sha256:
        raise UserError(f"{uri}/model.safetensors is not what the run was made with ({sha256[:12]}): train the run again")
    return from_safetensors(data)


def _load_classifier(
    recipe: ClassifierRecipe, faults: tuple[str, ...], facts: CorpusFacts, tensors: dict[str, Tensor], scalings: dict
) -> Diagnosing:
    fitted: dict[str, Scaling] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, config, scaling in (("image", recipe.image, recipe.image_scaling), ("vector", recipe.vector, recipe.vector_scaling)):
        if config is not None:
            shapes[name] = build_feature(config, facts.mains_hz).shape
            fitted[name] = Scaling.load(scaling, shapes[name], part_of(tensors, f"{name}_scaling"), scalings[name])
            fitted[name](torch.zeros(1, *shapes[name]))
    net = build_classifier(recipe, len(faults), shapes)
    net.load_state_dict(part_of(tensors, "net"))
    return Diagnosing(recipe, faults, cast(Classifier, net.eval()), fitted.get("image"), fitted.get("vector"))


def run_identity(uri: str, run: Run) -> dict[str, Any]:
    """What scores and calibrations say of the run that made them."""
    return {
        "uri": uri,
        "recipe": short_hash(run.recipe),
        "kind": run.recipe.kind,
        "content": short_hash(check_finished(uri)["files"]),
        "members": list(run.members),
        "faults": None if run.faults is None else list(run.faults),
    }
