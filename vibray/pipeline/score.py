"""Bulk scoring: raw shards stream through features and model in one pass; nothing of an archive is copied to be scored."""

import json
import re
from collections import Counter
from contextlib import suppress
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from vibray import schema
from vibray.config import UserError, first_line, from_json, short_hash, to_json
from vibray.decide.findings import counts_of, print_findings
from vibray.decide.pseudo_labels import UNDECIDED_STATES
from vibray.features.scaling import Sensor
from vibray.pipeline.calibrate import Calibration, Context, load_calibrated
from vibray.pipeline.featurize import audit_of, input_findings, mains_of
from vibray.pipeline.jobs import ReportJob, ScoreJob
from vibray.pipeline.parts import PartsJob, Place
from vibray.runs.folder import run_identity
from vibray.runs.models import has_nets
from vibray.runs.run import Run
from vibray.storage import objects
from vibray.storage.columns import sensors_of
from vibray.storage.corpus import CorpusFacts
from vibray.storage.parts import Parts, check_finished, commit_part
from vibray.storage.plan import PlanMismatch, check_same, read_plan
from vibray.storage.reading import ReadPart
from vibray.storage.records import set_aside
from vibray.storage.since import continued
from vibray.storage.vectors import vector_column, waveforms_of

MAINS_LOOKED_AT = 32
"""Records of a part in which the mains' lines are looked for: a wrong rate is a whole archive's, and a part is one of thousands."""


def score(job: ScoreJob) -> None:
    """Runs the stage; see jobs/score.py."""
    one = objects.absolute
    run_uri, input_uri, scores_uri = one(job.run), one(job.input), one(job.scores)
    calibration_uri = None if job.calibration is None else one(job.calibration)
    first_k = records_of_context(job)
    run = load_calibrated(run_uri, calibration_uri)
    run.check(job.sample_rate_hz, run.facts.num_samples)
    corpus = job.corpus or objects.last_segment(input_uri)
    identity = {"input": input_uri, "corpus": corpus, "facts": to_json(run.facts), "run": run_identity(run_uri, run), "calibration": None}
    held = None
    if job.since_plan is not None:
        held, identity["since"] = continued(one(job.since_plan), input_uri, identity["run"])
    of_context = None
    if first_k is not None:
        identity["calibrate"] = job.calibrate
        check_plan(scores_uri, identity)
        own = (objects.join(scores_uri, "calibration"), run_uri, run, input_uri, corpus, first_k, None, job.lines_per_part, job.local)
        of_context = Calibration(*own)
        calibration_uri = first_pass(of_context, job.dry_run)
    if calibration_uri is not None:
        identity["calibration"] = {"uri": calibration_uri, **check_finished(calibration_uri)}
    planned = None if of_context is None or job.dry_run else of_context.parts_job.folder_uri
    size = (job.lines_per_part, "score", job.local, has_nets(run.model), held, planned)
    parts_job = PartsJob(input_uri, scores_uri, corpus, run.facts, identity, *size)
    if job.dry_run:
        parts_job.preview(Scorer(run.hastened(), job.evidence_per_part).tables)
        return

    def arguments(place: Place) -> dict[str, Any]:
        return {
            "scores_uri": scores_uri,
            "run_uri": run_uri,
            "content": identity["run"]["content"],
            "calibration": None if calibration_uri is None else (calibration_uri, short_hash(identity["calibration"])),
            "context": of_context is not None,
            "evidence_per_part": job.evidence_per_part,
            "device": place.device,
            "num_threads": place.num_threads,
        }

    needed = [objects.join(uri, "_done.json") for uri in (run_uri, calibration_uri) if uri is not None]
    parts = parts_job.run(score_part, arguments, needed)
    summarise(scores_uri, parts)
    if calibration_uri is not None:
        print_calibrated(parts, calibration_uri)
    if job.report is not None:
        from vibray.pipeline.report import report  # drawing takes a second to import

        report(ReportJob((scores_uri,), job.report, title=f"vibray: {corpus}"))


def records_of_context(job: ScoreJob) -> int | None:
    """K of --calibrate first:K. Raises UserError where it says anything else, or another option says otherwise."""
    if job.calibrate is None:
        return None
    found = re.fullmatch(r"first:([1-9]\d{0,8})", job.calibrate)
    if found is None:
        raise UserError(f"--calibrate is first:K, as first:16, with K at least 1, not {job.calibrate!r}")
    if job.calibration is not None:
        raise UserError("--calibrate makes a calibration, --calibration gives one: give one of the two")
    if job.since_plan is not None:
        raise UserError(
            "--calibrate looks for the earliest records of the whole input, --since-plan leaves out what an earlier job holds: give "
            f"--calibration {objects.join(job.since_plan, 'calibration')} if that job was given --calibrate, or one of jobs/calibrate.py"
        )
    return int(found[1])


def first_pass(calibration: Calibration, dry_run: bool) -> str | None:
    """Makes the calibration that is within the scores, unless it stands there; its URI. In a dry run says what that takes."""
    if dry_run:
        calibration.print_cost()
        return None
    if not calibration.finished():
        calibration.make(may_be_empty=True)
    return calibration.uri


def check_plan(scores_uri: str, identity: dict[str, Any]) -> None:
    """Raises PlanMismatch where the folder was begun by another job, whose calibration need not be the question."""
    with suppress(FileNotFoundError):
        there = read_plan(scores_uri).identity
        check_same(scores_uri, {**there, "calibration": None}, {**identity, "calibration": None}, "by another job", PlanMismatch)


def print_calibrated(parts: Parts, calibration_uri: str) -> None:
    """A line where the calibration changed nothing: it may be another input's."""
    own = set(sensors_of(objects.read_table(objects.join(calibration_uri, "calibration.parquet"), ["unit", "sensor_id"])))
    if not own:
        print("--calibrate affected nothing: the run knows every sensor")
    elif parts.total("num_kept") and all(own.isdisjoint(sensors_of(table)) for table in parts.tables(["unit", "sensor_id"])):
        print(f"--calibration affected nothing: no record is of one of its {len(own):,} sensors, as {min(own)[1]} of unit {min(own)[0]}")


class Scorer:
    """A part of records to its scores and its evidence."""

    def __init__(self, run: Run, evidence_per_part: int, num_threads: int = 1, context: Context | None = None):
        self.run, self.evidence_per_part, self.num_threads, self.context = run, evidence_per_part, num_threads, context
        self.schema = schema.scores(run.members, run.faults)
        self.evidence_schema = schema.evidence(run.facts.num_samples, run.members, run.faults)

    def tables(self, records: pa.Table) -> dict[str, pa.Table]:
        """The part's scores, the highest of them with their waveforms, and the records that cannot be scored.

        The evidence are records of machines in service first: what is off or broken raises no alarm that needs one.
        """
        run, evidence_schema = self.run, self.evidence_schema
        nothing = {"": self.schema.empty_table(), "evidence": evidence_schema.empty_table(), "bad": schema.BAD_RECORDS.empty_table()}
        if not records.num_rows:
            return nothing
        w, sensors, record_ids = waveforms_of(records), sensors_of(records), records["record_id"].to_pylist()
        outputs, snr_db, failed = self._finite(torch.from_numpy(w), sensors, record_ids)
        if failed:
            kept, bad = set_aside(records, failed)
            return {**self.tables(kept), "bad": bad} if kept.num_rows else {**nothing, "bad": bad}
        columns: dict[str, Any] = {name: records[name] for name in schema.ORIGIN.names}
        states, causes = run.states(w, sensors, snr_db, self.num_threads)
        columns["state"] = [str(state) for state in states]
        columns["state_cause"] = [None if cause is None else str(cause) for cause in causes]
        columns["calibrated"], num_records = run.known(sensors), run.num_records(sensors)
        if self.context is not None:
            at, rows = self.context.of(record_ids)
            columns["calibrated"][at] = self.context.calibrated[rows]
            num_records[at] -= 1  # its own is not among them
        fleet_p = run.fleet_scores.p_values(run.detector_scores(outputs).numpy(), num_records)
        columns[schema.FLEET_P_VALUE.name] = pa.array(fleet_p, from_pandas=True)
        columns |= {name: values.numpy() for name, values in outputs.items() if name != "fault"}
        if run.faults is not None:
            names = run.fault_names(outputs["fault"])
            columns["fault"] = names
            columns["fault_probability"] = [
                float(outputs[schema.FAULT_PREFIX + n][i]) if n in run.faults else None for i, n in enumerate(names)
            ]
        scored = pa.table(columns, schema=self.schema)
        ids, out = records["record_id"].to_numpy(zero_copy_only=False).astype(str), np.isin(states, UNDECIDED_STATES)
        top = np.sort(np.lexsort((ids, -outputs["score"].numpy(), out))[: self.evidence_per_part])
        evidence = scored.take(pa.array(top)).append_column(evidence_schema.field("waveform"), vector_column(w[top]))
        return {"": scored, "evidence": evidence.cast(evidence_schema), "bad": nothing["bad"]}

    def _finite(
        self, waveforms: torch.Tensor, sensors: list[Sensor], record_ids: list[str]
    ) -> tuple[dict[str, torch.Tensor], np.ndarray | None, dict[int, str]]:
        """The outputs of all, the SNR of their mains lines, and by row why one has no outputs that are finite; one record must not stop
        the others."""
        try:
            outputs, snr_db = self._outputs(waveforms, sensors, record_ids)
        except UserError:
            return {}, None, self._each_alone(waveforms, sensors, record_ids)
        failed: dict[int, str] = {}
        for name, values in outputs.items():
            wrong = (~values.isfinite()).nonzero().flatten().tolist() if values.is_floating_point() else []
            failed = {row: f"{name} is {values[row].item()}" for row in wrong} | failed
        return outputs, snr_db, failed

    def _each_alone(self, waveforms: torch.Tensor, sensors: list[Sensor], record_ids: list[str]) -> dict[int, str]:
        """By row, what each record that fails says when it is scored by itself. Raises that error where several do, and all of them."""
        failed: dict[int, str] = {}
        for row in range(len(waveforms)):
            try:
                self._outputs(waveforms[row : row + 1], [sensors[row]], [record_ids[row]])
            except UserError as error:
                if 1 < len(waveforms) == len(failed) + 1:
                    raise
                failed[row] = first_line(error)
        return failed

    def _outputs(
        self, waveforms: torch.Tensor, sensors: list[Sensor], record_ids: list[str]
    ) -> tuple[dict[str, torch.Tensor], np.ndarray | None]:
        outputs, snr_db = self.run.outputs_and_snr_db(waveforms, self.run.facts.sample_rate_hz, sensors)
        return outputs if self.context is None else self.context.put(outputs, record_ids), snr_db


@lru_cache(maxsize=2)
def _scorer(
    run_uri: str,
    content: str,
    calibration: tuple[str, str] | None,
    evidence_per_part: int,
    device: str,
    num_threads: int = 1,
    context: bool = False,
) -> Scorer:
    """One a process: the run is loaded once. `content`, and what stands beside the calibration's URI, keep another one that was put under
    the same URI from being taken for it."""
    calibration_uri = None if calibration is None else calibration[0]
    run = load_calibrated(run_uri, calibration_uri)
    run = run.hastened() if device == "cpu" else run.to(device)
    own = Context.load(calibration_uri) if context and calibration_uri is not None else None
    return Scorer(run, evidence_per_part, num_threads, own)


def score_part(read: ReadPart, scores_uri: str, **scorer: Any) -> dict[str, Any]:
    """The stage: a part of records in, a part of the scores table out."""
    by = _scorer(**scorer)
    tables = by.tables(read.records)
    states = Counter(tables[""]["state"].to_pylist())
    uncalibrated = tables[""].num_rows - sum(tables[""]["calibrated"].to_pylist())
    causes = Counter(tables[""]["state_cause"].drop_null().to_pylist())
    more: dict[str, Any] = {
        "states": dict(sorted(states.items())),
        "causes": dict(sorted(causes.items())),
        "num_uncalibrated": uncalibrated,
        "mains": mains_of(read.records, by.run.facts, per_sensor=1, most=MAINS_LOOKED_AT),
    }
    bad = pa.concat_tables([read.bad, tables["bad"]])
    return commit_part(scores_uri, read.part_id, {**tables, "bad": bad}, {**read.marker, **more})


def summarise(scores_uri: str, parts: Parts) -> None:
    """Prints and writes summary.json: the account, the states, the spread of the scores, what the records say against one another."""
    table = parts.read(["score"], schema=schema.scores())
    counts: dict[str, Counter[str]] = {"states": Counter(), "causes": Counter()}
    for marker in parts.markers.values():
        for name, counter in counts.items():
            counter.update(marker.get(name, {}))
    values = table["score"].to_numpy()
    quantiles = {f"q{q:g}": float(np.quantile(values, q)) for q in schema.SCORE_QUANTILES} if len(values) else {}
    uncalibrated = parts.total("num_uncalibrated")
    facts = from_json(CorpusFacts, parts.plan.identity["facts"])
    findings = (*input_findings(parts, facts), *audit_of(parts).findings)
    summary = {
        "corpus": parts.plan.corpus,
        "run": parts.plan.identity["run"],
        "read": parts.total("num_read"),
        "kept": parts.total("num_kept"),
        "set_aside": parts.reasons,
        "unread": sorted(key for marker in parts.markers.values() for key in marker.get("unread", ())),
        "states": dict(sorted(counts["states"].items())),
        "sensor_faults": dict(sorted(counts["causes"].items())),
        "findings": counts_of(findings),
        "num_uncalibrated": uncalibrated,
        "score_quantiles": quantiles,
    }
    objects.write_json(objects.join(scores_uri, "summary.json"), summary)
    print("states: " + ", ".join(f"{count:,} {state}" for state, count in sorted(counts["states"].items())))
    if counts["causes"]:
        print("sensor faults: " + ", ".join(f"{count:,} {cause}" for cause, count in sorted(counts["causes"].items())))
    if uncalibrated and "calibrate" in parts.plan.identity:
        print(f"{uncalibrated:,} records are compared with no other one of their sensor: they raise no alarm")
    elif uncalibrated:
        print(f"{uncalibrated:,} records are of sensors that neither the run nor a calibration knows: they raise no alarm;")
        print("  jobs/calibrate.py makes a calibration of their earliest records, as --calibrate first:K does within this job")
    if quantiles:
        print("scores: " + json.dumps({name: round(value, 5) for name, value in quantiles.items()}))
    print_findings(findings)
    if parts.total("num_kept") == 0 and parts.reasons.get(schema.Reason.NOT_FINITE):
        raise UserError("the run gives no record a score that is finite: train it again")
