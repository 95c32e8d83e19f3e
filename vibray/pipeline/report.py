"""Tables to the report: gathers what one page shows, and the explanations of its highest records."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from vibray.config import UserError, short_hash
from vibray.decide.cuts import Cuts, GroupedCuts, realised_rate
from vibray.decide.pseudo_labels import row_groups
from vibray.decide.reference import usable_rows
from vibray.decide.unit_diagnoses import unit_diagnoses
from vibray.decide.units import read_units
from vibray.explain.words import Language
from vibray.pipeline.calibrate import Context, load_calibrated
from vibray.pipeline.evaluate import content_of, evaluate_table, judged_inputs, judged_labels
from vibray.pipeline.featurize import input_findings
from vibray.pipeline.jobs import ReportJob
from vibray.report.alarms import alarms_csv, no_alarm_csv, unit_alarms_csv
from vibray.report.data import Explanation, ReportConfig, ReportData
from vibray.report.files import check_free, report_files, write_report
from vibray.report.page import render
from vibray.report.records import chosen, highest
from vibray.report.run_facts import run_facts
from vibray.runs.explained import Records, explained
from vibray.runs.folder import run_identity
from vibray.runs.run import Run
from vibray.schema import FLEET_P_VALUE, UNIT_SCORES
from vibray.storage import objects
from vibray.storage.columns import PLACE, codes, one_chunk, rows_of, sensors_of, with_record_ids
from vibray.storage.parts import check_finished
from vibray.tables.decisions import as_decided, decided_on, read_cuts, scores_identity
from vibray.tables.scores import ScoresTable, open_scores, out_of_sample

BAD_SHOWN = 1000

MOST_LABELLED = 256
"""Labelled records of the evidence among which those like a record are looked for."""


def report(job: ReportJob, config: ReportConfig = ReportConfig()) -> None:
    """Runs the stage; see jobs/report.py."""
    files = report_files(job.report)
    table = open_scores([objects.absolute(uri) for uri in job.scores])
    inputs = short_hash(inputs_of(job, table))
    if not job.dry_run:
        check_free(files, inputs)
    data = gather(table, job.decisions, job.labels, job.title, config)
    apart = out_of_sample(table) if data.scores is table.scores else None  # not of means over sensors
    data = replace(data, inputs=inputs, out_of_sample=apart)
    if job.search is not None:
        from vibray.compare.summary import read_search  # Optuna takes a second to import

        data = replace(data, search=read_search(objects.absolute(job.search)))
    if job.dry_run:
        shown = min(config.num_records, 0 if data.evidence is None else data.evidence.num_rows)
        print(f"report of {data.scores.num_rows:,} scores, {int(data.alarm.sum()):,} alarms, up to {shown} records drawn -> {files.page}")
        print("dry run: nothing was written")
        return
    if job.explain:
        data = replace(data, explanations=explanations(data, table, config, job.language))
    tables = {files.alarms: lambda: alarms_csv(data), files.no_alarm: lambda: no_alarm_csv(data)}
    if data.unit_facts is not None:
        tables[files.unit_alarms] = lambda: unit_alarms_csv(data)
    write_report(files, inputs, render(data, config, job.language), tables)
    print(f"report: {files.page}\nalarms: {files.alarms} ({int(data.alarm.sum()):,} records)")
    print(f"above the cut, but no alarm: {files.no_alarm} ({int(data.no_alarm.sum()):,} records)")
    if data.unit_facts is not None:
        print(f"alarms of units: {files.unit_alarms} ({sum(unit.alarm for unit in data.units):,} units)")


def inputs_of(job: ReportJob, table: ScoresTable) -> dict[str, Any]:
    """What decides whether two commands make one report."""
    search = None if job.search is None else content_of(objects.absolute(job.search))
    return {**judged_inputs(table, job.labels, job.decisions), "search": search, "language": job.language}


def gather(
    table: ScoresTable, decisions_uri: str | None, labels_uri: str | None, title: str, config: ReportConfig = ReportConfig()
) -> ReportData:
    """What the report shows."""
    cuts, facts, notes, own = None, table.facts, [], table
    metrics, labels = None, {}
    if labels_uri is not None:
        judged = judged_labels(labels_uri, table)
        metrics = evaluate_table(table, judged, decisions_uri)
        keys = with_record_ids(table.scores.select(["corpus", *PLACE]).take(pa.array(judged.rows)))
        labels = dict(zip(_keys(keys), judged.labels.tolist(), strict=True))
    if decisions_uri is not None:
        cuts, judged = read_cuts(decisions_uri), as_decided(decisions_uri, table)
        if judged is not table:
            notes.append(
                "Each score is the mean over its unit's sensors at one time; alarms of units and drift are of each sensor's own scores."
            )
        table = judged
    units = None if decisions_uri is None else read_units(decisions_uri)
    same_scores = units is not None and decided_on(decisions_uri or "") == scores_identity(table)
    if units is not None and not same_scores:
        notes.append(
            "The cuts were made on other scores than these: their realised rate is that of new records, and alarms of units and drift are "
            "not shown. jobs/label.py makes them with these scores as --scores and the others as --unit-reference."
        )
    shown, alarms = (units, units.alarms) if units is not None and same_scores else (None, ())
    if shown is not None:
        shown = replace(shown, scores=UNIT_SCORES.empty_table())  # a fleet's windows take as much as a third of its scores
    del units
    pa.default_memory_pool().release_unused()
    counts = {}
    for parts in table.folders:
        account = {"read": parts.total("num_read"), "kept": parts.total("num_kept"), "set_aside": parts.reasons}
        counts[parts.plan.corpus] = account
    data = ReportData(
        title=title,
        generated_at=datetime.now(UTC),
        scores=table.scores if table is own else _means_alone(table.scores),
        counts=counts,
        run={
            "run": table.run["uri"],
            "recipe": f"{table.run['kind']} {table.run['recipe']}",
            "members": ", ".join(table.run["members"]) or None,
            "faults": None if table.faults is None else ", ".join(table.faults) or "none labelled",
            "sample rate": f"{facts.sample_rate_hz:g} Hz",
            "samples a record": facts.num_samples,
            "mains": "none" if facts.mains_hz is None else f"{facts.mains_hz:g} Hz",
            "calibration": (table.identities[0]["calibration"] or {}).get("uri"),
        },
        evidence=table.evidence(),
        bad_records=table.bad_records().slice(0, BAD_SHOWN),
        cuts=None if cuts is None else _cuts_for_report(cuts, table.scores),
        metrics=metrics,
        labels=labels,
        units=alarms,
        unit_facts=None if shown is None else shown.facts,
        drift=None if shown is None else shown.drift,
        trends=None if shown is None else shown.trends,
        budget=None if decisions_uri is None else objects.read_json(objects.join(decisions_uri, "cuts.json")).get("budget"),
        unit_diagnoses=None if own.faults is None else unit_diagnoses(own.scores, own.faults),
        model=run_facts(table.run, [identity["calibration"] for identity in table.identities], facts.mains_hz),
        num_duplicates=table.num_duplicates,
        signal_unit=facts.signal_unit,
        notes=tuple(notes),
        findings=(*(finding for parts in table.folders for finding in input_findings(parts, facts)), *table.findings),
    )
    return with_waveforms(data, own, config)


def _means_alone(scores: pa.Table) -> pa.Table:
    """Means over sensors without `fleet_p_value`, which is of each sensor's own score."""
    at = scores.column_names.index(FLEET_P_VALUE.name)
    return scores.set_column(at, FLEET_P_VALUE, pa.nulls(scores.num_rows, FLEET_P_VALUE.type))


def _cuts_for_report(cuts: Cuts | GroupedCuts, scores: pa.Table) -> dict[str, Any]:
    """Nominal against realised rate; the realised one is of the records that can raise an alarm of the machine, of a group its own."""
    usable, groups = usable_rows(scores), {}
    values = one_chunk(scores["score"]).to_numpy()[usable]
    if isinstance(cuts, GroupedCuts):
        names, number = row_groups(scores, cuts.by)
        order = np.argsort(number[usable], kind="stable")
        ends = np.cumsum(np.bincount(number[usable], minlength=len(names)))
        rows = {tuple(name): order[b - n : b] for name, b, n in zip(names, ends.tolist(), np.diff(ends, prepend=0).tolist(), strict=True)}
        groups = {"/".join(g.group): _cut(g.cuts, values[rows.get(g.group, order[:0])]) for g in cuts.groups if g.cuts is not None}
    return {"global": _cut(cuts.overall, values), "groups": groups}


def _cut(cut: Cuts, values: np.ndarray) -> dict[str, Any]:
    return {
        "normal_below": cut.normal_below,
        "anomaly_above": cut.anomaly_above,
        "method": cut.method if cut.method != "mad" else f"mad ({cut.scale} scores)",
        "rate_kind": cut.kind,
        "nominal_rate": cut.nominal_rate,
        "realised_rate": realised_rate(cut, values) if len(values) else None,
        "num_records": len(values),
    }


def _keys(table: pa.Table) -> list[tuple[str, str]]:
    return list(zip(table["corpus"].to_pylist(), table["record_id"].to_pylist(), strict=True))


def with_waveforms(data: ReportData, table: ScoresTable, config: ReportConfig) -> ReportData:
    """The same with the waveforms of those records of the evidence that are shown, or that a person has judged."""
    if data.evidence is None:
        return data
    judged = rows_of(data.evidence, pa.table({"corpus": [c for c, _ in data.labels], "record_id": [r for _, r in data.labels]}))
    judged = np.sort(judged[judged >= 0])
    few = [own[:MOST_LABELLED] for own in np.split(judged, np.flatnonzero(np.diff(codes(data.evidence["corpus"])[1][judged])) + 1)]
    waveforms = table.waveforms(data.evidence, np.unique(np.concatenate([chosen(data, config)[0], *few])))
    return replace(data, evidence=data.evidence.append_column("waveform", waveforms))


# ---------------------------------------------------------------- explanations


def explanations(
    data: ReportData, table: ScoresTable, config: ReportConfig, language: Language = "en"
) -> dict[tuple[str, str], list[Explanation]]:
    """By record, why its score is what it is (vibray/explained.py)."""
    shown = [(card.corpus, card.record_id) for card in highest(data, config).cards]
    evidence = data.evidence
    if evidence is None or not shown:
        return {}
    keys = _keys(evidence)
    at = {key: i for i, key in enumerate(keys)}
    found: dict[tuple[str, str], list[Explanation]] = {key: [] for key in shown}
    for identity in table.identities:
        mine = [key for key in found if key[0] == identity["corpus"]]
        run = _run_of_scores(identity) if mine else None
        if run is not None and "calibrate" in identity:  # what calibrated its sensor was scored against the others, which no table holds
            context = Context.load(identity["calibration"]["uri"])
            mine = [key for key in mine if key[1] not in context.row]
        if run is not None and mine:
            rows = [at[key] for key in mine]
            judged = [i for i, key in enumerate(keys) if key[0] == identity["corpus"] and key in data.labels][:MOST_LABELLED]
            like = records_of(evidence, judged, tuple(data.labels[keys[i]] for i in judged)) if judged else None
            found |= dict(zip(mine, explained(run, records_of(evidence, rows), like, language), strict=True))
    return {key: value for key, value in found.items() if value}


def records_of(evidence: pa.Table, rows: list[int], labels: tuple[str, ...] = ()) -> Records:
    """Some of the evidence as what is explained, or as what a person has judged."""
    own = evidence.take(pa.array(rows))
    waveforms = np.stack([waveform.values.to_numpy() for waveform in own["waveform"]])
    return Records(torch.from_numpy(waveforms), sensors_of(own), own["record_id"].to_pylist(), labels)


def _run_of_scores(identity: dict[str, Any]) -> Run | None:
    """The run with the calibration that a corpus' scores were made with.

    None where one is gone or another lies in its place: the report then shows what the scores hold and explains nothing of the corpus.
    """
    run_uri, calibration = identity["run"]["uri"], identity["calibration"]
    try:
        same = calibration is None or calibration == {"uri": calibration["uri"], **check_finished(calibration["uri"])}
        run = load_calibrated(run_uri, None if calibration is None else calibration["uri"])
    except UserError as error:
        print(f"the records of {identity['corpus']} are not explained: {error}")
        return None
    if not same or run_identity(run_uri, run)["content"] != identity["run"]["content"]:
        print(f"the records of {identity['corpus']} are not explained: their run or calibration was made again since they were scored")
        return None
    return run
