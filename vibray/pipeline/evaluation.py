"""Scores against labels: what jobs/evaluate.py prints and writes."""

import json
from typing import Any

import numpy as np

from vibray.decide.metrics import Diagnoses, evaluation
from vibray.pipeline.decisions import check_decisions, labels_of, read_cuts
from vibray.pipeline.tables import ScoresTable, open_scores
from vibray.schema import MEMBER_PREFIX
from vibray.storage import objects


def evaluate(
    scores_uris: tuple[str, ...],
    labels_uri: str,
    decisions_uri: str | None = None,
    output_uri: str | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Runs the stage; see jobs/evaluate.py. Returns what it writes."""
    table = open_scores([objects.absolute(uri) for uri in scores_uris])
    labels = labels_of(labels_uri, table)
    result = evaluate_table(table, labels, decisions_uri)
    print_evaluation(result)
    if dry_run:
        print("dry run: nothing was written")
        return result
    output_uri = output_uri or objects.join(objects.absolute(scores_uris[0]), "evaluation.json")
    objects.write_json(output_uri, result)
    print(f"written to {output_uri}")
    return result


def evaluate_table(table: ScoresTable, labels: list[str | None], decisions_uri: str | None) -> dict[str, Any]:
    """The evaluation of a scores table, and the AUROC of each member of an ensemble."""
    cuts = None
    if decisions_uri is not None:
        cuts = read_cuts(decisions_uri)
        check_decisions(decisions_uri, table)
    scores = table.scores
    diagnoses = None if table.faults is None else Diagnoses(scores["fault"].to_pylist(), table.faults)
    units = scores["unit"].to_pylist()
    columns = {"sensor_ids": scores["sensor_id"].to_pylist(), "calibrated": scores["calibrated"].to_numpy()}
    result = evaluation(scores["score"].to_numpy(), labels, units, cuts=cuts, diagnoses=diagnoses, **columns)
    members = {}
    for name in scores.column_names:
        if name.startswith(MEMBER_PREFIX):
            members[name.removeprefix(MEMBER_PREFIX)] = evaluation(scores[name].to_numpy(), labels, units)["auroc"]
    return {
        "run": table.run["uri"],
        "recipe": table.run["recipe"],
        "corpora": [identity["corpus"] for identity in table.identities],
        "num_duplicates": table.num_duplicates,
        "num_set_aside": sum(parts.total("num_bad") for parts in table.folders),
        **result,
        "auroc_by_member": members,
    }


def print_evaluation(result: dict[str, Any]) -> None:
    """The figures a person asks for first; the JSON has all."""
    spread = "" if result["auroc_std"] is None else f" +- {result['auroc_std']:.3f} (Hanley-McNeil)"
    print(f"{result['counts']['labelled']} labelled of {result['counts']['scored']} scored records, prevalence {result['prevalence']:.3f}")
    print(f"AUROC {_figure(result['auroc'])}{spread}, AUPRC {_figure(result['auprc'])}, partial AUROC {_figure(result['partial_auroc'])}")
    for name, area in result["auroc_by_member"].items():
        print(f"  member {name}: AUROC {_figure(area)}")
    for what in ("fault", "unit"):
        for name, area in result[f"auroc_by_{what}"].items():
            print(f"  {what} {name}: AUROC {_figure(area)}")
    if result["at_cut"] is not None:
        print("at the cut: " + json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in result["at_cut"].items()}))
    if result["macro_f1"] is not None:
        print(f"macro-F1 over {', '.join(result['f1_by_fault'])}: {result['macro_f1']:.3f}")
    for name, why in result["undefined"].items():
        print(f"  {name} is not defined: {why}")


def _figure(value: float | None) -> str:
    return "-" if value is None or np.isnan(value) else f"{value:.3f}"
