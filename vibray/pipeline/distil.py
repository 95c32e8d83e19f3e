"""The cascade: a gate predicts from a cheap vector what a deep run would score, and the deep run sees the high ones alone."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor

from vibray.building import build_vector
from vibray.config import UserError, from_json, short_hash, to_json
from vibray.decide.findings import counts_of, print_findings
from vibray.features.scaling import Scaling, ScalingConfig, Sensor
from vibray.features.scaling_fit import ScalingFit
from vibray.features.spectral import SpectralConfig
from vibray.models.gate import Agreement, Gate, GateConfig, agreement
from vibray.pipeline.jobs import DistilJob
from vibray.runs import CHUNK, Run, part_of, prefixed
from vibray.storage import objects
from vibray.storage.columns import one_chunk, rows_of
from vibray.storage.corpus import CorpusFacts
from vibray.storage.parts import Parts, check_finished, finish_folder
from vibray.storage.plan import begin_folder
from vibray.tables import InputsDiffer, TrainingTable, identity_hash, open_features, open_scores

SHARES = (0.05, 0.1, 0.15, 0.2, 0.3)
RATES = (0.01, 0.05)
"""What a finished gate is judged at: shares given to the deep run, rates of flagged records."""

SCALING = ScalingConfig(by="sensor")


class CascadeMismatch(UserError):
    """A gate and a run, or a gate and what it was to be made of, do not belong together."""


@dataclass(frozen=True)
class Cascade:
    """A gate as scoring needs it."""

    feature: SpectralConfig
    scaling: Scaling
    gate: Gate
    threshold: float

    def outputs(self, run: Run, waveforms: Float[Tensor, "batch samples"], sensors: list[Sensor]) -> dict[str, Tensor]:
        """`score`, and `deep`: the run itself gave it. A record that the run never saw has the gate's prediction of the run's score, which
        is below the gate's threshold. A sensor that the gate does not know is the run's.
        """
        predicted = self.predict(waveforms, run, sensors)
        deep = (predicted >= self.threshold) | ~torch.from_numpy(self.scaling.known(sensors))
        rows = deep.nonzero().flatten()
        scores = predicted.float()
        if len(rows):
            scores[rows] = run.score(waveforms[rows], run.facts.sample_rate_hz, [sensors[i] for i in rows.tolist()])
        return {"score": scores, "deep": deep}

    @torch.inference_mode()
    def predict(self, waveforms: Float[Tensor, "batch samples"], run: Run, sensors: list[Sensor]) -> Tensor:
        """The gate's predictions, float64."""
        feature, found = build_vector(self.feature, run.facts.mains_hz), []
        for start in range(0, len(waveforms), CHUNK):
            part = slice(start, start + CHUNK)
            found.append(self.gate.predict(self.scaling(feature(waveforms[part], run.facts.sample_rate_hz), sensors[part])))
        return torch.cat(found)


def distil(job: DistilJob) -> None:
    """Runs the stage; see jobs/distil.py. The same job on a finished gate says so."""
    features_uri, scores_uri, gate_uri = (objects.absolute(uri) for uri in (job.features, job.scores, job.gate))
    config = GateConfig()
    table, scores = open_features([features_uri]), open_scores([scores_uri])
    if scores.run["kind"] == "classical" or scores.faults is not None or "deep" in scores.scores.column_names:
        raise CascadeMismatch(f"{scores_uri} is not of a deep detector or an ensemble alone: only such a run is worth a gate")
    if table.facts != scores.facts:
        raise InputsDiffer(f"what is known of the records differs:\n  {features_uri}: {table.facts}\n  {scores_uri}: {scores.facts}")
    if "spectral" not in table.vectors:
        raise CascadeMismatch(f"{features_uri} has no spectral vector: featurize with --vectors spectral")
    feature = from_json(SpectralConfig, table.vectors["spectral"])
    table, own = _matched(table, scores.scores, config.max_records)
    if not len(table):
        raise CascadeMismatch(f"no record of {features_uri} was scored in {scores_uri}: give the scores of the same shards and --corpus")
    print(f"{len(table):,} records with a score by {scores.run['uri']}")
    print_findings(table.findings)
    if job.dry_run:
        print("dry run: nothing was written")
        return
    identity = {"features": identity_hash([Parts(features_uri)]), "scores": identity_hash(scores.folders), "config": to_json(config)}
    values = {"run": scores.run, "feature": to_json(feature), "facts": to_json(table.facts), "made_of": identity}
    begin_folder(gate_uri, "gate.json", values, "as another gate", CascadeMismatch)
    if objects.exists(objects.join(gate_uri, "_done.json")):
        print(f"{gate_uri} is finished already: nothing to do")
        return
    scaling, gate, predicted = _fitted(table, feature, config, own)
    found = [(share, rate, agreement(own, predicted, gate.threshold(share), rate)) for share in SHARES for rate in RATES]
    print_agreement(found)
    rows = [{"share": share, "rate": rate, **asdict(how)} for share, rate, how in found]
    objects.write_json(objects.join(gate_uri, "scaling.json"), scaling.facts())
    objects.write_json(objects.join(gate_uri, "agreement.json"), {"pool": rows, "findings": counts_of(table.findings)})
    tensors = prefixed("gate", gate.state()) | prefixed("scaling", scaling.state())
    objects.write_bytes(objects.join(gate_uri, "model.safetensors"), to_safetensors({n: t.contiguous() for n, t in tensors.items()}))
    finish_folder(gate_uri, ["gate.json", "scaling.json", "agreement.json", "model.safetensors"])
    print(f"{gate_uri} is finished")


def _matched(table: TrainingTable, scores: Any, max_records: int) -> tuple[TrainingTable, np.ndarray]:
    """The records that have a score, in the order of the parts, and these scores."""
    at = rows_of(scores, table.index)
    own = np.where(at >= 0, one_chunk(scores["score"]).to_numpy()[at].astype(np.float64), np.nan)
    rows = np.flatnonzero(np.isfinite(own) & ~table.repeats)
    rows = rows[np.argsort(table.key_hash[rows], kind="stable")[:max_records]]
    rows = rows[np.argsort(table.part[rows], kind="stable")]
    return table.take(rows), own[rows]


def _fitted(table: TrainingTable, feature: SpectralConfig, config: GateConfig, own: np.ndarray) -> tuple[Scaling, Gate, np.ndarray]:
    x = torch.from_numpy(table.read("spectral", np.arange(len(table))))
    fit = ScalingFit(SCALING, tuple(x.shape[1:]))
    fit.update(x, table.sensors, table.key_hash)
    scaling = fit.finish()
    gate = Gate(config, x.shape[1])
    predicted = gate.fit(scaling(x, table.sensors), torch.from_numpy(own), table.key_hash)
    return scaling, gate, predicted.numpy()


def print_agreement(found: list[tuple[float, float, Agreement]]) -> None:
    """The trade-off: what the deep run need not see, and what that misses."""
    print("of the records that the run alone flags the cascade flags (recall), and of the cascade's the run's (precision):")
    for share, rate, how in found:
        print(f"  --cascade-share {share:<4g} {rate:4.0%} flagged ({how.num_flagged:,}): {how.recall:.3f}, {how.precision:.3f}")


def load_cascade(uri: str, share: float, run_content: str) -> Cascade:
    """A finished gate, for a share of the records. Raises CascadeMismatch where it was made of another run's scores."""
    if not 0 < share < 1:
        raise CascadeMismatch(f"--cascade-share is a share and must lie between 0 and 1, not {share:g}")
    check_finished(uri)
    facts = objects.read_json(objects.join(uri, "gate.json"))
    if facts["run"]["content"] != run_content:
        raise CascadeMismatch(f"{uri} was made of the scores of {facts['run']['uri']}, another run than this: distil this run's scores")
    feature = from_json(SpectralConfig, facts["feature"])
    tensors = from_safetensors(objects.read_bytes(objects.join(uri, "model.safetensors")))
    shape = build_vector(feature, from_json(CorpusFacts, facts["facts"]).mains_hz).shape
    scaling = Scaling.load(SCALING, shape, part_of(tensors, "scaling"), objects.read_json(objects.join(uri, "scaling.json")))
    gate = Gate(from_json(GateConfig, facts["made_of"]["config"]), shape[0])
    gate.load(part_of(tensors, "gate"))
    return Cascade(feature, scaling, gate, gate.threshold(share))


def cascade_identity(uri: str, share: float) -> dict[str, Any]:
    """What scores say of the cascade that made them."""
    return {"uri": uri, "content": short_hash(check_finished(uri)["files"]), "share": share}
