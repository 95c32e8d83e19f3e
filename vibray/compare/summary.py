"""What a finished search says: the table of trials, the winner, importance, the figures; all of it from the trials' files."""

import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import optuna

from vibray.compare.study import Folder, SearchError, Study
from vibray.compare.winner import Judged, best_of, verdict
from vibray.config import environment, short_hash
from vibray.decide.findings import Finding, counts_of, print_findings
from vibray.report.search import document, trial_table, verdict_text
from vibray.report.search_page import search_context, search_page
from vibray.storage import objects
from vibray.storage.parts import check_finished, finish_folder

RESULTS = ("winner.json", "search_summary.json", "search.md", "search.html")


def write_results(
    folder: Folder,
    study: Study,
    plan: dict[str, Any],
    objective: str,
    judged: Sequence[Judged],
    wall_s: float,
    concurrent: int,
    findings: Sequence[Finding] = (),
) -> None:
    """Writes the results and `_done.json`, with the counts of what the records say against one another; prints the table of trials.

    Raises SearchError where no trial came to its end.
    """
    trials = [values for _, values in sorted(study.finished.items())]
    found = verdict(study.finished, short_hash(study.recipe), objective, judged)
    if found is None:
        reasons = "\n".join(f"  trial {values['number']}: {values['reason']}" for values in trials[:5])
        raise SearchError(f"none of {len(trials)} trials came to its end; mend what they say and search in another folder:\n{reasons}")
    winner = study.finished[found.winner]
    summary = {
        "objective": objective,
        **asdict(found),
        "front": front(study, plan["with_cost"]),
        "importance": importance(study.study),
        "seconds": seconds(trials, wall_s, concurrent),
        "environment": environment(),
        "findings": counts_of(findings),
    }
    objects.write_json(objects.join(folder.uri, "winner.json"), {key: winner[key] for key in WINNER})
    objects.write_json(objects.join(folder.uri, "search_summary.json"), summary)
    objects.write_bytes(objects.join(folder.uri, "search.md"), document(plan, trials, summary).encode())
    objects.write_bytes(objects.join(folder.uri, "search.html"), search_page(plan, trials, summary).encode())
    finish_folder(folder.uri, ["search.json", *RESULTS], {"num_trials": len(trials)})
    print(trial_table(trials, objective))
    print(f"winner: trial {winner['number']} ({winner['hash']}), {objective} {winner['values'][0]:.4f}: {json.dumps(winner['params'])}")
    print(verdict_text(summary))
    print_findings(findings)


def told(finished: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """What stands beside the progress bar: the best so far, and how many were ended early."""
    best = best_of(finished)
    pruned = sum(values["state"] == "pruned" for values in finished.values())
    return ({} if best is None else {"best": f"{best['values'][0]:.4f} (trial {best['number']})"}) | {"pruned": pruned}


WINNER = ("number", "params", "recipe", "hash", "values", "best_setting", "folds")


def read_search(uri: str) -> dict[str, Any]:
    """A finished search as the report's section shows it. Raises UserError for one without trials, and for a folder that is none."""
    check_finished(uri)
    trials = list(Folder(uri).trials().values())
    if not trials:
        raise SearchError(f"{uri} took the recipe as it is, without a trial: there is nothing to show")
    plan, summary = (objects.read_json(objects.join(uri, name)) for name in ("search.json", "search_summary.json"))
    return search_context(plan, trials, summary)


def seconds(trials: list[dict[str, Any]], wall_s: float, concurrent: int) -> dict[str, float]:
    """Where the time went. `overhead` is the share of wall-clock x trials at a time in which none of them trained or evaluated; it means
    something where the search was not stopped in between."""
    work = {what: sum(values["seconds"].get(what, 0.0) for values in trials) for what in ("training", "evaluation")}
    slots = wall_s * concurrent
    return {**work, "wall": wall_s, "overhead": 1 - sum(work.values()) / slots if slots else 0.0}


def front(study: Study, with_cost: bool) -> list[int]:
    """Numbers of the trials that no other beats in both objective and cost."""
    return [trial.number for trial in study.study.best_trials] if with_cost else []


def importance(study: optuna.Study) -> dict[str, float]:
    """Optuna's own measure of how much each value moved the objective, highest first; empty where trials are too few."""
    target = None if len(study.directions) == 1 else lambda trial: trial.values[0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
            found = optuna.importance.get_param_importances(study, evaluator=evaluator, target=target)
    except (ValueError, RuntimeError):
        return {}
    return {name: float(value) for name, value in found.items()}
