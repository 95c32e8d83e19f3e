"""Scores to decisions: cuts and pseudo-labels. Cheap and repeatable; the scores are never edited."""

import json
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int8

from vibray.config import UserError, from_json, short_hash, to_json
from vibray.decide.budget import budget_per_week, print_budget
from vibray.decide.cuts import Cuts, CutsWarning, GroupedCuts
from vibray.decide.findings import counts_of, print_findings
from vibray.decide.groups import sensor_groups
from vibray.decide.pseudo_labels import NPZ_RECORDS, by_cut, export_npz, label_of_each, pseudo_labels, row_groups
from vibray.decide.reference import usable_rows
from vibray.decide.review import review_queue, review_rows
from vibray.decide.said import Said
from vibray.decide.thresholds import ConformalConfig, cuts_of, grouped_cuts
from vibray.decide.unit_alarms import UnitConfig
from vibray.decide.unit_diagnoses import FILE as UNIT_DIAGNOSES_FILE
from vibray.decide.unit_diagnoses import unit_diagnoses
from vibray.decide.units import Compared, compare, decide_units, keep_budget, print_units, write_units
from vibray.pipeline.jobs import By, LabelJob
from vibray.report.anchors import record_anchor
from vibray.report.distribution import score_distribution_png
from vibray.schema import LABEL_ABNORMAL, LABEL_NORMAL, NORMAL, PSEUDO_LABELS, UNDECIDED
from vibray.storage import objects
from vibray.storage.columns import one_chunk, rows_of
from vibray.storage.corpus import InputsDiffer, one_corpus_each
from vibray.storage.labels import match_labels, read_labels, review_csv
from vibray.storage.parts import check_finished, finish_folder
from vibray.tables.decisions import DecisionsMismatch, check_run, cuts_in, scores_identity
from vibray.tables.scores import ScoresTable, open_scores, out_of_sample

REVIEW = "review.csv"

OF_STANDING = {
    "method", "by", "pool_sensors", "pool_tolerance_s", "normals_only", "min_group_records", "budget",
    "unit_window", "persist", "unit_rate", "fdr", "unit_combine", "reference_records",
}  # fmt: skip
"""What standing decisions say, so that the job may not."""


def label(job: LabelJob) -> None:
    """Runs the stage; see jobs/label.py."""
    if job.review is not None and job.review < 1:
        raise UserError(f"--review {job.review}: a queue has one record or more")
    if job.budget is not None:
        budget_per_week(job.budget)
        if job.by != "none":
            raise UserError(f"--budget makes one cut for all records: leave --by {job.by} out")
    job, made = (job, None) if job.standing is None else with_standing(job, job.standing)
    decisions_uri, table = objects.absolute(job.decisions), open_scores([objects.absolute(uri) for uri in job.scores])
    reference = open_scores([objects.absolute(uri) for uri in job.unit_reference]) if job.unit_reference else None
    if made is not None:
        check_run(str(job.standing), made, table)
        print(f"cuts and rule for units stand in {job.standing}")
    by_moment = job.pool_sensors or job.review is not None or table.faults is not None
    identity = json.loads(
        json.dumps(
            {
                "scores": scores_identity(table),
                "run": table.run,
                "method": to_json(job.method),
                "by": job.by,
                "pool_sensors": job.pool_sensors,
                "pool_tolerance_s": job.pool_tolerance_s if by_moment else None,
                "labels": None if job.labels is None else objects.sha256(objects.read_bytes(job.labels)),
                "normals_only": job.normals_only,
                "min_group_records": job.min_group_records,
                "round": job.round,
                "review": job.review,
                "report": job.report,
                "budget": job.budget,
                "units": to_json(job.units),
                "unit_reference": None if reference is None else scores_identity(reference),
                "standing": None if made is None else made["content"],
            }
        )
    )
    if not job.dry_run and _finished(decisions_uri, identity):
        print(f"{decisions_uri} is finished already: nothing to do")
        return
    human = None if job.labels is None else labels_of(job.labels, table)
    from_normals = job.normals_only or isinstance(job.method, ConformalConfig)
    judged = table
    if job.pool_sensors:
        judged, num_partners = table.over_sensors(job.pool_tolerance_s)
        print_pooled(judged, num_partners, job.pool_tolerance_s)
    if reference is not None:
        check_reference(table, reference)
        if not set(sensor_groups(table.scores).names) & set(sensor_groups(reference.scores).names):
            print("--unit-reference holds no sensor of --scores: each is compared with the reference of all sensors together")
    others = None if reference is None else reference.scores
    tolerance_s = job.pool_tolerance_s if job.pool_sensors else None
    rule, budget = job.units, None
    if made is not None:
        cuts, budget = cuts_in(made, str(job.standing)), made.get("budget")
    else:
        cuts = fit_cuts(judged.scores, job.method, job.by, human, from_normals, job.min_group_records)
    compared = compare(table.scores, job.reference_records, human, from_normals, others, out_of_sample(table))
    if job.budget is not None:
        assert isinstance(cuts, Cuts)
        cuts, rule, budget = keep_budget(job.budget, compared, cuts, rule, human, tolerance_s)
    labels = label_of_each(judged.scores, cuts, human)
    print_decisions(judged, cuts, labels, human)
    if job.budget is not None and budget is not None:
        print_budget(budget, compared.normals)
    queue = None if job.review is None else review_of(job, judged, cuts, human, compared)
    of_units = decide_units(compared, cuts, rule, tolerance_s)
    print_units(of_units)
    diagnosed = None if table.faults is None else unit_diagnoses(table.scores, table.faults, job.pool_tolerance_s)
    if diagnosed is not None:
        print_unit_diagnoses(diagnosed)
    print_findings(table.findings)
    if job.dry_run:
        print("dry run: nothing was written")
        return
    del compared
    values = {"cuts": to_json(cuts), "grouped": isinstance(cuts, GroupedCuts), "findings": counts_of(table.findings), **identity}
    if budget is not None:
        values["budget"] = budget
    objects.write_json(objects.join(decisions_uri, "cuts.json"), values)
    unit_files = write_units(decisions_uri, of_units)
    if diagnosed is not None:
        objects.write_table(objects.join(decisions_uri, UNIT_DIAGNOSES_FILE), diagnosed)
        unit_files = [*unit_files, UNIT_DIAGNOSES_FILE]
    del of_units, diagnosed  # millions of windows
    origin = "threshold" if table.faults is None else "classifier"
    objects.write_tables(
        objects.join(decisions_uri, "pseudo_labels.parquet"),
        PSEUDO_LABELS,
        lambda: pseudo_labels(judged.scores, labels, human, job.round, origin),
    )
    files, left_out = write_pictures(decisions_uri, judged.scores, labels, cuts)
    if queue is not None:  # no file of the folder's marker: a person writes into it, wherever it lies
        objects.write_bytes(objects.join(decisions_uri, REVIEW), review_csv(queue))
    extra = {"identity": identity, **({"left_out": left_out} if left_out else {})}
    finish_folder(decisions_uri, ["cuts.json", "pseudo_labels.parquet", *files, *unit_files], extra)
    print(f"decisions are in {decisions_uri}")


def with_standing(job: LabelJob, standing_uri: str) -> tuple[LabelJob, dict[str, Any]]:
    """The job with the rule for units of finished decisions, sensors pooled as they were, and their cuts.json with a name of its content.

    Raises UserError where the job asks for any of it itself.
    """
    content = short_hash(check_finished(standing_uri)["files"])
    asked = [field.name for field in fields(LabelJob) if field.name in OF_STANDING and getattr(job, field.name) != field.default]
    if asked:
        named = ", ".join("the method" if name == "method" else f"--{name.replace('_', '-')}" for name in asked)
        raise UserError(f"--standing takes cuts and rule as they stand in {standing_uri}: leave {named} out")
    made, where = objects.read_json(objects.join(standing_uri, "cuts.json")), objects.join(standing_uri, "unit_alarms.json")
    job = replace(job.with_units(from_json(UnitConfig, objects.read_json(where)["config"], where)), by=made["by"])
    if made["pool_sensors"]:
        job = replace(job, pool_sensors=True, pool_tolerance_s=made["pool_tolerance_s"])
    return job, {**made, "content": content}


def write_pictures(
    decisions_uri: str, scores: pa.Table, labels: Int8[np.ndarray, " records"], cuts: Cuts | GroupedCuts
) -> tuple[list[str], dict[str, str]]:
    """Writes the histogram and the .npz; which files there are, and why one is not."""
    overall, left_out = cuts.overall, {}
    drawn = score_distribution_png(one_chunk(scores["score"]).to_numpy(), overall.normal_below, overall.anomaly_above)
    objects.write_bytes(objects.join(decisions_uri, "score_distribution.png"), drawn)
    if scores.num_rows <= NPZ_RECORDS:
        objects.write_bytes(objects.join(decisions_uri, "pseudo_labels.npz"), export_npz(scores, labels, cuts))
        return ["score_distribution.png", "pseudo_labels.npz"], left_out
    left_out["pseudo_labels.npz"] = (
        f"{scores.num_rows:,} records; it is made of {NPZ_RECORDS:,} at most, pseudo_labels.parquet holds the same"
    )
    for name, why in left_out.items():
        print(f"{name} is left out: {why}")
    return ["score_distribution.png"], left_out


def print_unit_diagnoses(diagnosed: pa.Table) -> None:
    """How many moments of units are abnormal, and by which faults."""
    counts = Counter(fault for fault in diagnosed["fault"].to_pylist() if fault != NORMAL)
    named = ", ".join(f"{count:,} {fault}" for fault, count in counts.most_common()) or "none"
    print(f"units' moments, all sensors together: {diagnosed.num_rows:,}, abnormal: {named}")


def review_of(job: LabelJob, judged: ScoresTable, cuts: Cuts | GroupedCuts, human: Said | None, compared: Compared) -> list[dict[str, str]]:
    """The rows of review.csv, their links into the report among them; says how many there are and of what."""
    assert job.review is not None
    rows = review_rows(judged.scores, human, job.review, job.pool_tolerance_s)
    above = by_cut(judged.scores.take(pa.array(rows)), cuts) == LABEL_ABNORMAL
    queue = review_queue(judged.scores, rows, above, compared.p_values_of(rows))
    for row in queue:
        row["link"] = "" if job.report is None else f"{job.report}#{record_anchor(row['corpus'], row['record_id'])}"
    guesses = ", ".join(f"{count} {name}" for name, count in Counter(row["guess"] for row in queue).most_common())
    print(
        f"review: {len(queue)} records of {len({row['unit'] for row in queue})} units ({guesses or 'nobody is left to ask about'}):",
        end=" ",
    )
    print(f"fill in label (normal, or the fault's name) in {REVIEW} and give it as --labels")
    return queue


def print_pooled(judged: ScoresTable, num_partners: int, tolerance_s: float) -> None:
    """What pooling did."""
    if not num_partners:
        print(
            f"--pool-sensors affected nothing: no two sensors of a unit have usable records within {tolerance_s:g} s (--pool-tolerance-s)"
        )
        return
    print(
        f"scores are means over the sensors of a unit at one time: {num_partners:,} of {judged.scores.num_rows:,} records found a partner "
        f"within {tolerance_s:g} s"
    )


def check_reference(table: ScoresTable, reference: ScoresTable) -> None:
    """Raises InputsDiffer where the reference's scores cannot stand beside the others."""
    both = [identity["corpus"] for identity in (*table.identities, *reference.identities)]
    one_corpus_each([*("--scores",) * len(table.identities), *("--unit-reference",) * len(reference.identities)], both)
    if table.run["content"] != reference.run["content"]:
        raise InputsDiffer(
            f"--unit-reference holds scores of the run {reference.run['uri']}, --scores of {table.run['uri']}: scores differ in scale; "
            "score the reference with the same run"
        )


def _finished(decisions_uri: str, identity: dict[str, Any]) -> bool:
    try:
        done = objects.read_json(objects.join(decisions_uri, "_done.json"))
    except FileNotFoundError:
        for name in ("plan.json", "recipe.json", "search.json", "grid.json"):
            if objects.exists(objects.join(decisions_uri, name)):
                raise DecisionsMismatch(f"{decisions_uri} is another job's folder (it holds {name}): use another folder") from None
        return False
    if "identity" not in done:
        holds, asked = ", ".join(done.get("files", {})), ", ".join(identity["scores"])
        raise DecisionsMismatch(f"{decisions_uri} is another job's folder (it holds {holds}), no decisions on {asked}: use another folder")
    there = done["identity"]
    differing = [f"  {name}: {there.get(name)} there, {value} now" for name, value in identity.items() if there.get(name) != value]
    if differing:
        raise DecisionsMismatch(f"{decisions_uri} holds other decisions; use another folder, or remove this one:\n" + "\n".join(differing))
    return True


def labels_of(labels_uri: str, table: ScoresTable) -> Said:
    """The scored records with a human label; rows that meet a line that was set aside are counted."""
    how = (table.facts.timezone, table.facts.time_format)
    matched = match_labels(read_labels(labels_uri, *how), table.scores, table.bad_records(), *how)
    print(matched.told("scored records"))
    rows = rows_of(table.scores, matched.table)
    order = np.argsort(rows)
    return Said(table.scores.num_rows, rows[order], np.array(matched.table["label"].to_pylist(), np.str_)[order])


def fit_cuts(
    scores: pa.Table, method: Any, by: By, human: Said | Sequence[str | None] | None, normals_only: bool, min_group_records: int
) -> Cuts | GroupedCuts:
    """Cuts fitted on the records whose score speaks of the machine: of calibrated sensors, not off, in transition or of a faulty sensor.

    With `normals_only`, on those that a person calls normal alone: their rate is then a false-alarm probability.
    """
    fit_on = usable_rows(scores)
    if not fit_on.any():
        raise UserError("no record can be used to fit cuts: all are off, in transition, of a faulty sensor or of one without calibration")
    normal = None
    if normals_only:
        if human is None:
            raise UserError("cuts from trusted normals need --labels with records labelled normal")
        said = Said.of(human, scores.num_rows)
        normal = said.mask(~said.faulty)[fit_on]
        if not normal.any():
            raise UserError(
                "--labels names no normal record that can be used (calibrated; not off, switching or of a faulty sensor): "
                "there are no trusted normals to fit on"
            )
    values = one_chunk(scores["score"]).to_numpy()[fit_on].astype(np.float64)  # which every method takes without a copy
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CutsWarning)  # each stands in the cuts too, and is printed from there
        if by == "none":
            return cuts_of(method, values, None if normal is None else values[normal])
        names, number = row_groups(scores, by)
        return grouped_cuts((names, number[fit_on]), values, method, by, min_group_records, normal)


def print_decisions(table: ScoresTable, cuts: Cuts | GroupedCuts, labels: Int8[np.ndarray, " records"], human: Said | None) -> None:
    """The cuts in words and the pseudo-labels by origin."""
    overall = cuts.overall
    rate = float(np.mean(by_cut(table.scores, cuts)[usable_rows(table.scores)] == LABEL_ABNORMAL))
    kind = "rate of a Gaussian" if overall.kind == "rule" else overall.kind
    nominal = "" if overall.nominal_rate is None else f", nominal {kind} {overall.nominal_rate:.3g}"
    print(f"{overall.method} on {overall.num_scores:,} {overall.scale} scores:", end=" ")
    print(f"normal <= {overall.normal_below:.6g}, anomaly >= {overall.anomaly_above:.6g}{nominal}")
    print(f"  {rate:.2%} of the usable scores are at or above {'the cut' if overall is cuts else 'their own cut'}")
    if overall.kind == "rate" and overall.method != "budget":
        print("  that is a rate of the corpus, faults included, and no false-alarm probability: no trusted normals were used")
    if overall.kind == "rule":
        print("  MAD is a rule and promises no rate: a Gaussian would pass it so often, and scores are rarely one")
    for warning in overall.warnings:
        print(f"  warning: {warning}")
    if isinstance(cuts, GroupedCuts):
        own = sum(group.cuts is not None for group in cuts.groups)
        print(f"  {own} of {len(cuts.groups)} groups (by {cuts.by}) have cuts of their own, the others those of all")
        if not own:
            print(f"  --by {cuts.by} affected nothing: no group has {cuts.min_records} usable records (--min-group-records)")
    names = {LABEL_NORMAL: "normal", LABEL_ABNORMAL: "abnormal", UNDECIDED: "undecided"}
    counts = {name: int((labels == value).sum()) for value, name in names.items()}
    by_human = 0 if human is None else len(human.rows)
    print(f"pseudo-labels: {', '.join(f'{count:,} {name}' for name, count in counts.items())} ({by_human} human)")
    for name in ("normal", "abnormal"):
        if not counts[name]:
            print(f"  no record is called {name}: that is a result; a classifier needs both kinds")
