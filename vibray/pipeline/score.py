"""Bulk scoring: raw shards stream through features and model in one pass; nothing of an archive is copied to be scored."""

import json
from collections import Counter
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from vibray import schema
from vibray.config import UserError, short_hash, to_json
from vibray.features.scaling import Sensor
from vibray.pipeline.distil import Cascade, cascade_identity, load_cascade
from vibray.pipeline.jobs import ScoreJob
from vibray.pipeline.parts import PartsJob, Place
from vibray.runs import Run, has_nets, load
from vibray.storage import objects
from vibray.storage.parts import Parts, check_finished, commit_part
from vibray.storage.reading import ReadPart
from vibray.storage.since import continued
from vibray.tables import sensors_of, vector_column, waveforms_of


class CalibrationMismatch(UserError):
    """The calibration was made with another run."""


def score(job: ScoreJob) -> None:
    """Runs the stage; see jobs/score.py."""
    one = objects.absolute
    run_uri, input_uri, scores_uri = one(job.run), one(job.input), one(job.scores)
    calibration_uri = None if job.calibration is None else one(job.calibration)
    cascade_uri = None if job.cascade is None else one(job.cascade)
    run = load_calibrated(run_uri, calibration_uri)
    run.check(job.sample_rate_hz, run.facts.num_samples)
    corpus = job.corpus or objects.last_segment(input_uri)
    identity = {
        "input": input_uri,
        "corpus": corpus,
        "facts": to_json(run.facts),
        "run": run_identity(run_uri, run),
        "calibration": None if calibration_uri is None else {"uri": calibration_uri, **check_finished(calibration_uri)},
    }
    cascade, held = None, None
    if cascade_uri is not None:
        cascade = load_cascade(cascade_uri, job.cascade_share, identity["run"]["content"])
        # the members saw some records alone: their scores are no columns
        identity["run"] = {**identity["run"], "members": [], "cascade": cascade_identity(cascade_uri, job.cascade_share)}
    if job.since_plan is not None:
        held, identity["since"] = continued(one(job.since_plan), input_uri, identity["run"])
    size = (job.lines_per_part, "score", job.local, has_nets(run), held)
    parts_job = PartsJob(input_uri, scores_uri, corpus, run.facts, identity, *size)
    if job.dry_run:
        parts_job.preview(Scorer(run.hastened(), job.evidence_per_part, cascade).tables)
        return

    def arguments(place: Place) -> dict[str, Any]:
        return {
            "scores_uri": scores_uri,
            "run_uri": run_uri,
            "content": identity["run"]["content"],
            "calibration_uri": calibration_uri,
            "evidence_per_part": job.evidence_per_part,
            "cascade": None if cascade_uri is None else (cascade_uri, job.cascade_share),
            "device": place.device,
            "num_threads": place.num_threads,
        }

    needed = [objects.join(uri, "_done.json") for uri in (run_uri, cascade_uri) if uri is not None]
    summarise(scores_uri, parts_job.run(score_part, arguments, needed))


def run_identity(run_uri: str, run: Run) -> dict[str, Any]:
    """What scores say of the run that made them."""
    return {
        "uri": run_uri,
        "recipe": short_hash(run.recipe),
        "kind": run.recipe.kind,
        "content": short_hash(check_finished(run_uri)["files"]),
        "members": list(run.members),
        "faults": None if run.faults is None else list(run.faults),
    }


def load_calibrated(run_uri: str, calibration_uri: str | None) -> Run:
    """The run, with the sensors of a calibration where one is given. Raises CalibrationMismatch for another run's calibration."""
    run = load(run_uri)
    if calibration_uri is None:
        return run
    made_with = check_finished(calibration_uri).get("run")
    if made_with is None:
        raise CalibrationMismatch(f"{calibration_uri} is no calibration: give a folder that jobs/calibrate.py made")
    if made_with["content"] != run_identity(run_uri, run)["content"]:
        raise CalibrationMismatch(
            f"{calibration_uri} was made with the run {made_with['uri']}, not with {run_uri}: calibrate with this run"
        )
    return run.calibrated(objects.read_table(objects.join(calibration_uri, "calibration.parquet")))


class Scorer:
    """A part of records to its scores and its evidence."""

    def __init__(self, run: Run, evidence_per_part: int, cascade: Cascade | None = None, num_threads: int = 1):
        self.run, self.evidence_per_part, self.cascade, self.num_threads = run, evidence_per_part, cascade, num_threads
        of_scores = () if cascade else run.members, run.faults, cascade is not None
        self.schema = schema.scores(*of_scores)
        self.evidence_schema = schema.evidence(run.facts.num_samples, *of_scores)

    def tables(self, records: pa.Table) -> dict[str, pa.Table]:
        """The part's scores, and the highest of them with their waveforms."""
        run, evidence_schema = self.run, self.evidence_schema
        if not records.num_rows:
            return {"": self.schema.empty_table(), "evidence": evidence_schema.empty_table()}
        w, sensors = waveforms_of(records), sensors_of(records)
        outputs = self._outputs(torch.from_numpy(w), sensors)
        columns: dict[str, Any] = {name: records[name] for name in schema.ORIGIN.names}
        columns["state"] = [str(state) for state in run.states(w, sensors, self.num_threads)]
        columns["calibrated"] = run.known(sensors)
        columns |= {name: values.numpy() for name, values in outputs.items() if name != "fault"}
        if run.faults is not None:
            names = run.fault_names(outputs["fault"])
            columns["fault"] = names
            columns["fault_probability"] = [
                float(outputs[schema.FAULT_PREFIX + n][i]) if n in run.faults else None for i, n in enumerate(names)
            ]
        scored = pa.table(columns, schema=self.schema)
        value = outputs["score"].numpy()
        if not np.isfinite(value).all():
            raise UserError(f"the run gives {int((~np.isfinite(value)).sum())} scores that are NaN or infinite: train it again")
        top = np.sort(np.lexsort((records["record_id"].to_numpy(zero_copy_only=False).astype(str), -value))[: self.evidence_per_part])
        evidence = scored.take(pa.array(top)).append_column(evidence_schema.field("waveform"), vector_column(w[top]))
        return {"": scored, "evidence": evidence.cast(evidence_schema)}

    def _outputs(self, waveforms: torch.Tensor, sensors: list[Sensor]) -> dict[str, torch.Tensor]:
        if self.cascade is not None:
            return self.cascade.outputs(self.run, waveforms, sensors)
        return self.run.outputs(waveforms, self.run.facts.sample_rate_hz, sensors)


@lru_cache(maxsize=2)
def _scorer(
    run_uri: str,
    content: str,
    calibration_uri: str | None,
    evidence_per_part: int,
    cascade: tuple[str, float] | None,
    device: str,
    num_threads: int = 1,
) -> Scorer:
    """One a process: the run is loaded once. `content` keeps another run that was put under the same URI from being taken for it."""
    run = load_calibrated(run_uri, calibration_uri)
    run = run.hastened() if device == "cpu" else run.to(device)
    return Scorer(run, evidence_per_part, None if cascade is None else load_cascade(*cascade, content), num_threads)


def score_part(read: ReadPart, scores_uri: str, **scorer: Any) -> dict[str, Any]:
    """The stage: a part of records in, a part of the scores table out."""
    tables = _scorer(**scorer).tables(read.records)
    states = Counter(tables[""]["state"].to_pylist())
    uncalibrated = tables[""].num_rows - sum(tables[""]["calibrated"].to_pylist())
    more: dict[str, Any] = {"states": dict(sorted(states.items())), "num_uncalibrated": uncalibrated}
    if "deep" in tables[""].column_names:
        more["num_deep"] = sum(tables[""]["deep"].to_pylist())
    return commit_part(scores_uri, read.part_id, {**tables, "bad": read.bad}, {**read.marker, **more})


def summarise(scores_uri: str, parts: Parts) -> None:
    """Prints and writes summary.json: the account, the states, the spread of the scores."""
    table = parts.read(["score"], schema=schema.scores())
    states: Counter[str] = Counter()
    for marker in parts.markers.values():
        states.update(marker["states"])
    values = table["score"].to_numpy()
    quantiles = {f"q{q:g}": float(np.quantile(values, q)) for q in (0.01, 0.05, 0.5, 0.95, 0.99, 0.999)} if len(values) else {}
    uncalibrated = parts.total("num_uncalibrated")
    summary = {
        "corpus": parts.plan.corpus,
        "run": parts.plan.identity["run"],
        "read": parts.total("num_read"),
        "kept": parts.total("num_kept"),
        "set_aside": parts.reasons,
        "states": dict(sorted(states.items())),
        "num_uncalibrated": uncalibrated,
        "score_quantiles": quantiles,
    }
    if "cascade" in parts.plan.identity["run"]:
        deep = summary["num_deep"] = parts.total("num_deep")
        print(f"the run saw {deep:,} records ({deep / max(1, parts.total('num_kept')):.1%}); the others' scores are the gate's predictions")
    objects.write_json(objects.join(scores_uri, "summary.json"), summary)
    print("states: " + ", ".join(f"{count:,} {state}" for state, count in sorted(states.items())))
    if uncalibrated:
        print(f"{uncalibrated:,} records are of sensors that neither the run nor a calibration knows: they raise no alarm;")
        print("  jobs/calibrate.py makes a calibration of their earliest records")
    if quantiles:
        print("scores: " + json.dumps({name: round(value, 5) for name, value in quantiles.items()}))
