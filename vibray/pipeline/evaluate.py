"""Scores against labels: what jobs/evaluate.py prints and writes."""

from typing import Any

import numpy as np
import pyarrow as pa

from vibray.config import UserError, same_name, short_hash
from vibray.decide.areas import auprc, auroc, partial_auroc
from vibray.decide.cuts import finite
from vibray.decide.findings import counts_of, print_findings
from vibray.decide.metrics import Diagnoses, evaluation
from vibray.decide.reference import usable_rows
from vibray.decide.said import Said
from vibray.pipeline.jobs import EvaluateJob
from vibray.pipeline.label import labels_of
from vibray.schema import FAULT_PREFIX, MEMBER_PREFIX, NORMAL
from vibray.storage import objects
from vibray.storage.columns import one_chunk, plain
from vibray.storage.errors import StorageError
from vibray.storage.labels import read_labels
from vibray.storage.parts import check_finished
from vibray.tables.decisions import as_decided, read_cuts, scores_identity
from vibray.tables.scores import ScoresTable, open_scores


def evaluate(job: EvaluateJob) -> dict[str, Any]:
    """Runs the stage; see jobs/evaluate.py. Returns what it writes."""
    table = open_scores([objects.absolute(uri) for uri in job.scores])
    output_uri, identity = _output(job), judged_inputs(table, job.labels, job.decisions)
    if not job.dry_run:
        _check_free(output_uri, identity)
    labels = judged_labels(job.labels, table)
    result = {"identity": identity, **evaluate_table(table, labels, job.decisions)}
    print_evaluation(result)
    print_findings(table.findings)
    if job.dry_run:
        print("dry run: nothing was written")
        return result
    objects.write_json(output_uri, result, exclusive=_check_free(output_uri, identity))
    print(f"written to {output_uri}")
    return result


def _output(job: EvaluateJob) -> str:
    """The JSON file to write; a name that ends as a folder's does is one."""
    if job.output is None or job.output.endswith("/"):
        return objects.join(objects.absolute(job.output or job.scores[0]), "evaluation.json")
    return objects.absolute(job.output)


def judged_inputs(table: ScoresTable, labels_uri: str | None, decisions_uri: str | None) -> dict[str, Any]:
    """What scores, labels and decisions hold, wherever they lie."""
    return {
        "scores": scores_identity(table),
        "labels": None if labels_uri is None else objects.sha256(objects.read_bytes(labels_uri)),
        "decisions": None if decisions_uri is None else content_of(decisions_uri),
    }


def content_of(folder_uri: str) -> str:
    """A short name of what a finished folder holds."""
    return short_hash(check_finished(folder_uri)["files"])


def _check_free(output_uri: str, identity: dict[str, Any]) -> bool:
    """True where nothing stands, False where the evaluation of the same inputs does. Raises UserError where anything else does."""
    remedy = "give another --output, or remove it"
    if not objects.exists(output_uri):
        return True
    try:
        there = objects.read_json(output_uri).get("identity")
    except StorageError:
        raise
    except UserError:
        raise UserError(f"{output_uri} is no evaluation of this vibray: {remedy}") from None
    if not isinstance(there, dict):
        raise UserError(f"{output_uri} does not say of what scores and labels it is: {remedy}")
    differing = [f"  {name}: {there.get(name)} there, {value} now" for name, value in identity.items() if there.get(name) != value]
    if differing:
        raise UserError(f"{output_uri} is the evaluation of other inputs; {remedy}:\n" + "\n".join(differing))
    return False


def judged_labels(labels_uri: str, table: ScoresTable) -> Said:
    """The human labels of scored records, as `labels_of` gives them.

    Raises UserError where a label is "normal" or one of the classifier's faults in another spelling, which would count as a miss.
    """
    said, names = labels_of(labels_uri, table), (NORMAL, *(table.faults or ()))
    labels = said.labels.tolist()
    meant = {same_name(name): name for name in names}
    wrong = {label: meant[same_name(label)] for label in set(labels) if label not in names and same_name(label) in meant}
    if wrong:
        line = {row.label: row.line for row in reversed(read_labels(labels_uri, table.facts.timezone))}
        lines = [f"  line {line[label]}: {label!r} ({labels.count(label)} records), {name!r} in the run" for label, name in wrong.items()]
        raise UserError("\n".join([f"{labels_uri} spells labels otherwise than the run; write them as the run does:", *sorted(lines)]))
    return said


def evaluate_table(table: ScoresTable, said: Said, decisions_uri: str | None) -> dict[str, Any]:
    """The evaluation of a scores table, the AUROC of each member of an ensemble, and the areas of means over sensors.

    Cuts made on means over sensors are judged on them, and so is all else.
    """
    cuts = None
    over_sensors = _areas_over_sensors(table, said)
    if decisions_uri is not None:
        cuts, table = read_cuts(decisions_uri), as_decided(decisions_uri, table)
    if not np.isfinite(one_chunk(table.scores["score"]).to_numpy()).all():
        finite(one_chunk(table.scores["score"]).to_numpy())  # it says which
    scores = plain(table.scores.take(pa.array(said.rows)))
    labels, abnormal = said.labels.tolist(), said.faulty
    result = evaluation(
        scores["score"].to_numpy(),
        labels,
        scores["unit"].to_pylist(),
        sensor_ids=scores["sensor_id"].to_pylist(),
        usable=usable_rows(scores),
        cuts=cuts,
        diagnoses=None if table.faults is None else diagnoses_of(scores, table.faults),
        num_scored=table.scores.num_rows,
    )
    members = {}
    for name in scores.column_names:
        if name.startswith(MEMBER_PREFIX):
            members[name.removeprefix(MEMBER_PREFIX)] = auroc(scores[name].to_numpy(), abnormal)
    return {
        "run": table.run["uri"],
        "recipe": table.run["recipe"],
        "corpora": [identity["corpus"] for identity in table.identities],
        "num_duplicates": table.num_duplicates,
        "findings": counts_of(table.findings),
        "num_set_aside": sum(parts.total("num_bad") for parts in table.folders),
        **result,
        "auroc_by_member": members,
        "over_sensors": over_sensors,
    }


def diagnoses_of(scores: pa.Table, faults: tuple[str, ...]) -> Diagnoses:
    """What a classifier's scores say."""
    columns = [scores[FAULT_PREFIX + fault].to_numpy() for fault in faults]
    return Diagnoses(scores["fault"].to_pylist(), faults, np.stack(columns, axis=1) if columns else None)


def _areas_over_sensors(table: ScoresTable, said: Said) -> dict[str, Any] | None:
    """The areas of the mean scores over the sensors of a unit at one time; None where no labelled record shares its moment."""
    own, pooled = (one_chunk(scores["score"]).to_numpy()[said.rows] for scores in (table.scores, table.over_sensors()[0].scores))
    if (own == pooled).all():
        return None
    label, abnormal = said.labels, said.faulty
    of_fault = {fault: ~abnormal | (label == fault) for fault in sorted(set(label[abnormal].tolist()))}
    return {
        "auroc": auroc(pooled, abnormal),
        "auprc": auprc(pooled, abnormal),
        "partial_auroc": partial_auroc(pooled, abnormal),
        "auroc_by_fault": {fault: auroc(pooled[those], abnormal[those]) for fault, those in of_fault.items()},
    }


def print_evaluation(result: dict[str, Any]) -> None:
    """The figures a person asks for first; the JSON has all."""
    spread = "" if result["auroc_std"] is None else f" +- {result['auroc_std']:.3f} (Hanley-McNeil)"
    print(f"{result['counts']['labelled']} labelled of {result['counts']['scored']} scored records, prevalence {result['prevalence']:.3f}")
    print(f"AUROC {_figure(result['auroc'])}{spread}, AUPRC {_figure(result['auprc'])} (no skill: the prevalence),", end=" ")
    print(f"partial AUROC to FPR {result['partial_auroc_max_fpr']:g}: {_figure(result['partial_auroc'])} (no skill: .5)")
    of_units = result["spread_by_unit"]
    if of_units is not None and of_units["num_resamples"]:
        ends = {name: "{:.3f} to {:.3f}".format(*of_units[name]["interval"]) for name in ("auroc", "auprc", "partial_auroc")}
        print(f"  95 % by bootstrap of the {of_units['num_units']} units: AUROC {ends['auroc']},", end=" ")
        print(f"AUPRC {ends['auprc']}, partial AUROC {ends['partial_auroc']}")
    if result["over_sensors"] is not None:
        means = result["over_sensors"]
        print(f"  by the mean over a unit's sensors at one time (label --pool-sensors): AUROC {_figure(means['auroc'])},", end=" ")
        print(f"AUPRC {_figure(means['auprc'])}, partial AUROC {_figure(means['partial_auroc'])}")
    for name, area in result["auroc_by_member"].items():
        print(f"  member {name}: AUROC {_figure(area)}")
    for what in ("fault", "unit"):
        for name, area in result[f"auroc_by_{what}"].items():
            print(f"  {what} {name}: AUROC {_figure(area)}")
    if result["at_cut"] is not None:
        print_at_cut(result["at_cut"])
    if result["macro_f1"] is not None:
        print(f"macro-F1 over {', '.join(result['f1_by_fault'])}: {result['macro_f1']:.3f}")
    if result.get("given_faulty") is not None:
        faulty = result["given_faulty"]
        by_fault = ", ".join(f"{fault} {value:.2f}" for fault, value in faulty["f1_by_fault"].items())
        print(f"  the likeliest fault of faulty records: macro-F1 {faulty['macro_f1']:.3f} ({by_fault})")
        print(
            f"expected calibration error: of being abnormal {result['abnormal_calibration_error']:.3f}, at this set's prevalence;", end=" "
        )
        print(f"of the fault {faulty['calibration_error']:.3f}")
    for name, why in result["undefined"].items():
        print(f"  {name} is not defined: {why}")


def print_at_cut(at: dict[str, Any]) -> None:
    """Nominal against realised rate, and recall, with exact intervals; counts."""
    aims = "no stated rate" if at["nominal_rate"] is None else f"nominal {at['nominal_rate']:.3g} ({RATE_WORDS[at['rate_kind']]})"
    print(f"at the cut {at['cut']:.6g} ({at['method'] or 'given'}): {aims}")
    normal, abnormal = at["false_alarms"] + at["quiet"], at["true_alarms"] + at["missed"]
    print(f"  false alarms: {_share(at['false_alarms'], normal, at['realised_rate_interval'])} of the records labelled normal")
    print(f"  recall: {_share(at['true_alarms'], abnormal, at['recall_interval'])} of those labelled abnormal")
    print(f"  precision {_figure(at['precision'])} at this prevalence, F1 {_figure(at['f1'])}")


RATE_WORDS = {
    "rate": "a rate of whatever was scored, faults included",
    "false-alarm probability": "a false-alarm probability, from trusted normals",
    "rule": "what a Gaussian would pass: the cut is a rule",
    None: "",
}


def _share(part: int, whole: int, interval: list[float] | None) -> str:
    if interval is None:
        return "none"
    return f"{part} of {whole}, {part / whole:.4g} (95 % {interval[0]:.4g} to {interval[1]:.4g}, Clopper-Pearson)"


def _figure(value: float | None) -> str:
    return "-" if value is None or np.isnan(value) else f"{value:.3f}"
