"""A run: what training fitted, in memory and as a folder. All that was fitted is here, nothing is computed from the batch at hand."""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, cast

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from vibray.building import (
    blocks_of,
    build_classical,
    build_classifier,
    build_deep,
    build_feature,
    build_vector,
    columns_of,
    net_columns,
)
from vibray.config import UserError, from_json, short_hash, to_json
from vibray.decide.findings import Finding, counts_of
from vibray.decide.fleet_scores import FleetScores
from vibray.decide.state import SensorHistory, causes, state_statistics, states
from vibray.features.scaling import Scaling, Sensor
from vibray.features.spectral import SpectralConfig
from vibray.inputs import Blocks, Inputs
from vibray.models.band_transformer import adapts
from vibray.models.classifier import NO_FAULT, UNKNOWN_FAULT, Classifier, Diagnosis
from vibray.models.diagnosis import LinearDiagnosis
from vibray.models.ensemble import Ensemble
from vibray.models.fitted import Fitted
from vibray.models.inference import CpuScores, folded
from vibray.recipes import AnyRecipe, ClassicalRecipe, ClassifierRecipe, DeepRecipe, DiagnosisRecipe, EnsembleRecipe, FeatureConfig, Recipe
from vibray.schema import FAULT_PREFIX, MEMBER_PREFIX, NORMAL, UNKNOWN, Cause, State
from vibray.signal.harmonics import mains_frequency
from vibray.signal.precision import exact_float32
from vibray.signal.robust import median_mad
from vibray.storage import objects
from vibray.storage.corpus import CorpusFacts
from vibray.storage.parts import check_finished, finish_folder
from vibray.storage.plan import begin_folder

CHUNK = 64
"""Records whose images stand in memory at once."""


Waveforms = Float[Tensor, "batch samples"] | Float[np.ndarray, "batch samples"]


class RunMismatch(UserError):
    """A run and an input do not belong together; the message shows both."""


@dataclass
class Detecting:
    """A fitted detector on one feature, classical or deep."""

    recipe: ClassicalRecipe | DeepRecipe
    scaling: Scaling
    detector: Fitted | nn.Module
    training_scores: Float[Tensor, "2"]
    """median and 1.4826 MAD of the training records' scores: what an ensemble standardises by"""
    on_cpu: CpuScores | None = None
    """the net's scores in the form that is fastest on a CPU, where `Run.hastened` has made it"""

    def outputs(self, inputs: Inputs, sensors: Sequence[Sensor] | None) -> dict[str, Tensor]:
        return {"score": self.of_scaled(self.scaling(inputs[self.recipe.feature], sensors), inputs.facts)}

    def of_scaled(self, x: Tensor, facts: CorpusFacts) -> Float[Tensor, " batch"]:
        """Scores of features that are scaled."""
        if isinstance(self.detector, nn.Module):
            net = cast(Any, self.detector)
            return (net.score(net(x)) if self.on_cpu is None else self.on_cpu(x)).float()
        assert isinstance(self.recipe, ClassicalRecipe)
        feature = build_vector(self.recipe.feature, facts.mains_hz)
        return self.detector.score(x[:, columns_of(feature, self.recipe.detector.blocks)]).float()

    def blocks(self, facts: CorpusFacts) -> Blocks:
        """Of the spectral vector, what is read: the detector's, and the level where the scaling looks at it."""
        recipe = self.recipe
        if not isinstance(recipe, ClassicalRecipe) or not isinstance(recipe.feature, SpectralConfig):
            return {}
        feature = build_vector(recipe.feature, facts.mains_hz)
        return {recipe.feature: blocks_of(feature, recipe.detector.blocks) | ({"level"} if recipe.scaling.limits else set())}

    def scalings(self) -> dict[str, tuple[FeatureConfig, Scaling]]:
        return {"": (self.recipe.feature, self.scaling)}

    def rescaled(self, scalings: Mapping[str, Scaling]) -> "Detecting":
        return replace(self, scaling=scalings[""])

    def hastened(self) -> "Detecting":
        return replace(self, on_cpu=CpuScores(self.detector)) if isinstance(self.detector, nn.Module) else self

    def tensors(self) -> dict[str, Tensor]:
        own = self.detector.state_dict() if isinstance(self.detector, nn.Module) else self.detector.state()
        if isinstance(self.recipe, DeepRecipe) and self.recipe.base is not None:
            own = {name: tensor for name, tensor in own.items() if self.recipe.optim.epochs and adapts(name)}
        return prefixed("detector", own) | prefixed("scaling", self.scaling.state()) | {"training_scores": self.training_scores}


@dataclass
class Fusing:
    """Several fitted detectors and the statistics that make their scores comparable."""

    members: dict[str, "Run"]
    ensemble: Ensemble

    def outputs(self, inputs: Inputs, sensors: Sequence[Sensor] | None) -> dict[str, Tensor]:
        own = {name: member.model.outputs(inputs, sensors)["score"] for name, member in self.members.items()}
        return {"score": self.ensemble.fuse(own).float(), **{MEMBER_PREFIX + name: score for name, score in own.items()}}

    def blocks(self, facts: CorpusFacts) -> Blocks:
        """Of each feature, what any member reads."""
        found: dict[FeatureConfig, set[str]] = {}
        for member in self.members.values():
            for config, names in member.model.blocks(facts).items():
                found.setdefault(config, set()).update(names)
        return found

    def scalings(self) -> dict[str, tuple[FeatureConfig, Scaling]]:
        return {name: member.model.scalings()[""] for name, member in self.members.items()}

    def rescaled(self, scalings: Mapping[str, Scaling]) -> "Fusing":
        members = {name: replace(member, model=member.model.rescaled({"": scalings[name]})) for name, member in self.members.items()}
        return replace(self, members=members)

    def hastened(self) -> "Fusing":
        return replace(self, members={name: member.hastened() for name, member in self.members.items()})

    def tensors(self) -> dict[str, Tensor]:
        return prefixed("ensemble", self.ensemble.state())


def columns_of_diagnosis(diagnosis: Diagnosis, faults: tuple[str, ...]) -> dict[str, Tensor]:
    """Probabilities and fault number by their names in the scores table."""
    columns = {FAULT_PREFIX + name: diagnosis.fault_probability[:, i] for i, name in enumerate(faults)}
    probability = diagnosis.abnormal_probability
    return {"score": probability, "abnormal_probability": probability, "fault": diagnosis.fault, **columns}


@dataclass
class Diagnosing:
    """A fitted net that classifies."""

    recipe: ClassifierRecipe
    faults: tuple[str, ...]
    net: Classifier
    image_scaling: Scaling | None
    vector_scaling: Scaling | None

    def outputs(self, inputs: Inputs, sensors: Sequence[Sensor] | None) -> dict[str, Tensor]:
        x = [scaling(inputs[config], sensors) for config, scaling in self.scalings().values()]
        return columns_of_diagnosis(self.net.diagnose(self.net(x[0] if len(x) == 1 else (x[0], x[1]))), self.faults)

    def blocks(self, facts: CorpusFacts) -> Blocks:
        return {}  # the net reads all

    def scalings(self) -> dict[str, tuple[FeatureConfig, Scaling]]:
        named = {"image": (self.recipe.image, self.image_scaling), "vector": (self.recipe.vector, self.vector_scaling)}
        return {name: (config, scaling) for name, (config, scaling) in named.items() if config is not None and scaling is not None}

    def rescaled(self, scalings: Mapping[str, Scaling]) -> "Diagnosing":
        return replace(self, image_scaling=scalings.get("image"), vector_scaling=scalings.get("vector"))

    def hastened(self) -> "Diagnosing":
        return replace(self, net=folded(self.net))

    def tensors(self) -> dict[str, Tensor]:
        own = prefixed("net", self.net.state_dict())
        for name, (_, scaling) in self.scalings().items():
            own |= prefixed(f"{name}_scaling", scaling.state())
        return own


@dataclass
class Naming:
    """A fitted detector, and what names the faults of its records."""

    detecting: Detecting
    faults: tuple[str, ...]
    diagnosis: LinearDiagnosis

    def outputs(self, inputs: Inputs, sensors: Sequence[Sensor] | None) -> dict[str, Tensor]:
        x = self.detecting.scaling(inputs[self.detecting.recipe.feature], sensors)
        score = self.detecting.of_scaled(x, inputs.facts)
        return columns_of_diagnosis(self.diagnosis(x, score), self.faults) | {MEMBER_PREFIX + DETECTOR: score}

    def blocks(self, facts: CorpusFacts) -> Blocks:
        """All, of the spectral vector too."""
        config = self.detecting.recipe.feature
        return {config: set(build_vector(config, facts.mains_hz).blocks)} if isinstance(config, SpectralConfig) else {}

    def scalings(self) -> dict[str, tuple[FeatureConfig, Scaling]]:
        return self.detecting.scalings()

    def rescaled(self, scalings: Mapping[str, Scaling]) -> "Naming":
        return replace(self, detecting=self.detecting.rescaled(scalings))

    def hastened(self) -> "Naming":
        return self

    def tensors(self) -> dict[str, Tensor]:
        return self.detecting.tensors() | prefixed("diagnosis", self.diagnosis.state())


Model = Detecting | Fusing | Diagnosing | Naming

DETECTOR = "detector"
"""Name of the detector's own score in the columns of a diagnosis."""


@dataclass
class Run:
    """A finished training: its recipe, the corpus' facts it holds for, and the fitted model."""

    recipe: Recipe
    facts: CorpusFacts
    model: Model
    histories: dict[Sensor, SensorHistory] = field(default_factory=dict)
    """what is known of each sensor's own past: the state of its later records depends on it"""
    fleet_scores: FleetScores = field(default_factory=lambda: FleetScores({}))
    """how rare a score is among healthy records of the machines of training"""
    device: str = "cpu"
    """where features are made and nets run"""

    @property
    def members(self) -> tuple[str, ...]:
        if isinstance(self.model, Naming):
            return (DETECTOR,)
        return tuple(self.model.members) if isinstance(self.model, Fusing) else ()

    @property
    def faults(self) -> tuple[str, ...] | None:
        return self.model.faults if isinstance(self.model, Diagnosing | Naming) else None

    def score(self, waveforms: Waveforms, sample_rate_hz: float, sensors: Sequence[Sensor] | None = None) -> Float[Tensor, " batch"]:
        """Anomaly scores, higher = more abnormal. `sensors` are (unit, sensor_id); None or unknown: against the fleet's baseline.

        No record gives no score. Raises RunMismatch where rate or length are not those of the training corpus.
        """
        return self.outputs(waveforms, sample_rate_hz, sensors)["score"]

    def outputs(self, waveforms: Waveforms, sample_rate_hz: float, sensors: Sequence[Sensor] | None = None) -> dict[str, Tensor]:
        """`score`, a column a member of an ensemble, a classifier's probabilities and fault number, by their names in the scores table."""
        return self._passed(waveforms, sample_rate_hz, sensors, with_mains=False)[0]

    def outputs_and_snr_db(
        self, waveforms: Waveforms, sample_rate_hz: float, sensors: Sequence[Sensor] | None = None
    ) -> tuple[dict[str, Tensor], np.ndarray | None]:
        """`outputs`, and what `states` wants to know of the mains' lines: one search for them serves both. None for a machine without."""
        outputs, snr_db = self._passed(waveforms, sample_rate_hz, sensors, with_mains=self.facts.mains_hz is not None)
        return outputs, None if self.facts.mains_hz is None else snr_db.numpy()

    @torch.inference_mode()
    def _passed(
        self, waveforms: Waveforms, sample_rate_hz: float, sensors: Sequence[Sensor] | None, with_mains: bool
    ) -> tuple[dict[str, Tensor], Float[Tensor, " mains"]]:
        self.check(sample_rate_hz, waveforms.shape[1])
        w = torch.tensor(np.ascontiguousarray(waveforms)) if isinstance(waveforms, np.ndarray) else waveforms
        if not len(w):  # nets know no batch of none; the columns are those of any other
            outputs, snr_db = self._passed(w.new_zeros(1, w.shape[1]), sample_rate_hz, None, with_mains)
            return {name: column[:0] for name, column in outputs.items()}, snr_db[:0]
        chunks, snrs, blocks = [], [torch.empty(0)], self.model.blocks(self.facts)
        for start in range(0, len(w), CHUNK):
            part = slice(start, start + CHUNK)
            inputs = Inputs(w[part].to(self.device), self.facts, blocks=blocks)
            chunks.append(self.model.outputs(inputs, None if sensors is None else sensors[part]))
            if with_mains and inputs.mains is not None:
                snrs.append(inputs.mains.snr_db.cpu())
        return {name: torch.cat([chunk[name] for chunk in chunks]).cpu() for name in chunks[0]}, torch.cat(snrs)

    def detector_scores(self, outputs: Mapping[str, Tensor]) -> Float[Tensor, " batch"]:
        """Of the outputs, the score that `fleet_scores` speaks of: a diagnosis keeps its detector's beside its own."""
        return outputs[MEMBER_PREFIX + DETECTOR if isinstance(self.model, Naming) else "score"]

    def check(self, sample_rate_hz: float, num_samples: int) -> None:
        """Raises RunMismatch where a record of this rate and length is none this run was trained for."""
        if (sample_rate_hz, num_samples) != (self.facts.sample_rate_hz, self.facts.num_samples):
            raise RunMismatch(
                f"the run was trained on records of {self.facts.num_samples} samples at {self.facts.sample_rate_hz:g} Hz, "
                f"the input has {num_samples} at {sample_rate_hz:g} Hz: train a run for it, or correct --sample-rate-hz"
            )

    def known(self, sensors: Sequence[Sensor]) -> np.ndarray:
        """bool a record: its sensor has a baseline in the run, or in the calibration that it was given."""
        return np.logical_and.reduce([scaling.known(sensors) for _, scaling in self.model.scalings().values()])

    def num_records(self, sensors: Sequence[Sensor]) -> np.ndarray:
        """int64 a record: how many records made its sensor's baseline, in the run or its calibration; 0 where it has none."""
        counts = [scaling.counts for _, scaling in self.model.scalings().values()]
        return np.array([min(own.get(sensor, 0) for own in counts) for sensor in sensors], np.int64)

    def states(
        self, waveforms: Float[np.ndarray, "batch samples"], sensors: Sequence[Sensor], snr_db: np.ndarray | None, num_threads: int = 1
    ) -> tuple[list[State], list[Cause | None]]:
        """What the machine was doing in each record, and why its sensor is called faulty where it is; `snr_db`: of `mains_snr_db`."""

        def of_chunk(start: int) -> tuple[list[State], list[Cause | None]]:
            part = slice(start, start + CHUNK)
            history = [self.histories.get(sensor) for sensor in sensors[part]]
            statistics = state_statistics(waveforms[part], self.facts.sample_rate_hz)
            found = states(statistics, None if snr_db is None else snr_db[part], history)
            return found, causes(statistics, found)

        with ThreadPoolExecutor(num_threads) as pool:
            chunks = list(pool.map(of_chunk, range(0, len(waveforms), CHUNK)))
        return [state for found, _ in chunks for state in found], [cause for _, why in chunks for cause in why]

    def fault_names(self, number: Tensor) -> list[str]:
        """The `fault` column of a classifier's outputs, in words."""
        names = {NO_FAULT: NORMAL, UNKNOWN_FAULT: UNKNOWN, **dict(enumerate(self.faults or ()))}
        return [names[i] for i in number.tolist()]

    def calibrated(self, calibration: pa.Table) -> "Run":
        """The same run with the sensors of a calibration table added to its baselines."""
        rows = calibration.to_pylist()
        extended = {}
        for name, (_, scaling) in self.model.scalings().items():
            own = [row for row in rows if row["member"] == name]
            table = [torch.tensor([row[column] for row in own]) for column in ("location", "scale")]
            names, counts = [(row["unit"], row["sensor_id"]) for row in own], [row["num_records"] for row in own]
            extended[name] = scaling.extend(names, counts, *table) if own else scaling
        histories = {(row["unit"], row["sensor_id"]): SensorHistory(row["median_rms"], row["mains_share"]) for row in rows}
        return replace(self, model=self.model.rescaled(extended), histories=self.histories | histories)

    def hastened(self) -> "Run":
        """The same run with its nets in the form that is fastest on a CPU, for scoring alone; scores differ by float32's rounding."""
        return replace(self, model=self.model.hastened())

    def to(self, device: str) -> "Run":
        """Moves the nets to a device, such as cuda, where the features are then made too."""
        exact_float32()
        nets = [self.model.net] if isinstance(self.model, Diagnosing) else [m.detector for m in _singles(self.model)]
        for net in nets:
            if isinstance(net, nn.Module):
                net.to(device)
        self.device = device
        return self


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


def deep_members(run: Run) -> list[Detecting]:
    """The deep detectors of a run: itself, or those of an ensemble in their order."""
    return [single for single in _singles(run.model) if isinstance(single.detector, nn.Module)]


def has_nets(run: Run) -> bool:
    """Whether a GPU is of use to the run."""
    return isinstance(run.model, Diagnosing) or bool(deep_members(run))


def _singles(model: Model) -> list[Detecting]:
    if isinstance(model, Naming):
        return [model.detecting]
    if isinstance(model, Fusing):
        return [cast(Detecting, member.model) for member in model.members.values()]
    return [model] if isinstance(model, Detecting) else []


def mains_snr_db(waveforms: Float[np.ndarray, "batch samples"], facts: CorpusFacts) -> np.ndarray | None:
    """How far each record's mains line stands above the noise; None for a machine without one."""
    if facts.mains_hz is None:
        return None
    return mains_frequency(torch.from_numpy(waveforms), facts.sample_rate_hz, facts.mains_hz).snr_db.numpy()


def score_statistics(scores: np.ndarray) -> torch.Tensor:
    """Median and 1.4826 MAD of the training scores: what an ensemble standardises a member by."""
    return torch.tensor(median_mad(scores), dtype=torch.float64)


# ---------------------------------------------------------------- the folder


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
            model = Fusing({name: load(objects.join(uri, "members", name)) for name in recipe.members}, ensemble)
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


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under names that many parts of a run can share a file with."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def part_of(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors that `prefixed` put under a prefix, by their own names."""
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(prefix + ".")}
