"""A search over a recipe's values: the folder, the study, the trials, the winner; then, on request, the winner scores an archive."""

import json
import time
from dataclasses import replace
from typing import Any

import numpy as np

from vibray.compare.corpus import Opened, open_corpus, with_values
from vibray.compare.folds import fold_rows
from vibray.compare.jobs import SearchJob
from vibray.compare.space import bounded, own_params, space_of, to_values
from vibray.compare.study import Folder, SearchError, Study, check_storage, mirrored
from vibray.compare.summary import told, write_results
from vibray.compare.thresholds import SETTINGS
from vibray.compare.trial import TrialPlan, rungs
from vibray.compare.winner import Judged
from vibray.config import environment, from_json, short_hash, to_json
from vibray.fitting.jobs import TrainJob
from vibray.pipeline import session
from vibray.pipeline.jobs import ScoreJob
from vibray.pipeline.logs import Progress
from vibray.pipeline.score import score
from vibray.pipeline.train import train
from vibray.pipeline.tune import run_trials
from vibray.recipes.kinds import AnyRecipe, ClassicalRecipe, DeepRecipe
from vibray.storage import objects
from vibray.storage.parts import Parts, finish_folder, identity_hash

WITHOUT_LABELS = (
    "without labels there is no sound objective: neither AUROC on injected faults nor the agreement of two halves of the pool ranked "
    "recipes as their true AUROC does (vibray/DECISIONS.md). The recipe's own values are taken"
)


def search(job: SearchJob) -> None:
    """Runs the stage; see jobs/search.py."""
    job = checked(job)
    recipe = job.recipe
    space = bounded(space_of(recipe), job.bounds)
    assert isinstance(recipe, DeepRecipe | ClassicalRecipe)
    objective = (job.objective or "auroc") if job.labels else None
    if objective is None:
        print(WITHOUT_LABELS)
    folder = Folder(job.search)
    plan = _plan(job, to_values(space), objective)
    folder.check(plan)
    with session.started(needed=not job.dry_run):
        if objects.exists(objects.join(job.search, "_done.json")):
            print(f"{job.search} is finished already: look at search.md and search.html")
        elif objective is None:
            _defaults(job, folder, plan)
        else:
            _search(job, recipe, objective, folder, plan, started=time.perf_counter())
        if not job.dry_run and (job.train_winner or job.then_score):
            _apply(job)


def checked(job: SearchJob) -> SearchJob:
    """The job with whole URIs. Raises SearchError."""
    given = (value for value in (job.max_concurrent_trials, job.grace_epochs) if value is not None)
    if min(job.num_trials, job.num_workers, job.calibration_records, *given) < 1:
        raise SearchError("--num-trials, --num-workers, --calibration-records, --grace-epochs and --max-concurrent-trials are 1 or more")
    if job.reduction < 2 or job.num_folds < 2:
        raise SearchError("--reduction and --num-folds are 2 or more")
    if job.objective and not job.labels:
        raise SearchError(f"--objective {job.objective} needs --labels: a JSON Lines file of records labelled normal or by their fault")
    if (job.then_score is None) != (job.input is None) or (job.then_score is None) != (job.sample_rate_hz is None):
        raise SearchError("--then-score, --input and --sample-rate-hz go together")
    if job.with_cost and not isinstance(job.recipe, DeepRecipe):
        raise SearchError("--with-cost counts a net's operations: it goes with a deep recipe")
    if isinstance(job.recipe, DeepRecipe) and job.recipe.optim.epochs < 1:
        raise SearchError("--optim.epochs is 1 or more: a net that is not trained has nothing to search for")
    if job.storage:
        check_storage(job.storage)
    places = {name: getattr(job, name) for name in ("search", "labels", "then_score", "input")}
    whole = {name: None if uri is None else objects.absolute(uri) for name, uri in places.items()}
    return replace(job, features=tuple(objects.absolute(uri) for uri in job.features), **whole)


def _plan(job: SearchJob, space: dict[str, Any], objective: str | None) -> dict[str, Any]:
    """What decides whether two commands are one search."""
    return json.loads(
        json.dumps(
            {
                "features": [{"uri": uri, "content": identity_hash([Parts(uri)])} for uri in job.features],
                "labels": None if job.labels is None else objects.sha256(objects.read_bytes(job.labels)),
                "recipe": to_json(job.recipe),
                "space": space,
                "objective": objective,
                "with_cost": job.with_cost,
                "num_trials": job.num_trials,
                "num_folds": job.num_folds,
                "calibration_records": job.calibration_records,
                "seed": job.seed,
                "grace_epochs": job.grace_epochs,
                "reduction": job.reduction,
                "early_stopping": job.early_stopping,
                "thresholds": [to_json(setting) for setting in SETTINGS],
            }
        )
    )


def _trial_plan(job: SearchJob, recipe: DeepRecipe | ClassicalRecipe, objective: Any, name: str) -> TrialPlan:
    epochs = recipe.optim.epochs if isinstance(recipe, DeepRecipe) else 1
    plan = TrialPlan(job.search, name, objective, job.with_cost, job.num_folds, job.seed, epochs, (), environment())
    # a cheap net of a lower AUROC may stand on the front: nothing is stopped where cost counts
    grace = job.grace_epochs or max(1, epochs // 2)
    return replace(plan, rungs=rungs(plan.total, grace, job.reduction) if job.early_stopping and not job.with_cost else ())


def _defaults(job: SearchJob, folder: Folder, plan: dict[str, Any]) -> None:
    """No objective: the recipe as it is wins without a trial."""
    if job.dry_run:
        print("dry run: nothing was written")
        return
    folder.begin(plan)
    winner = {"number": None, "recipe": to_json(job.recipe), "hash": short_hash(job.recipe), "values": None, "best_setting": None}
    objects.write_json(objects.join(job.search, "winner.json"), winner)
    finish_folder(job.search, ["search.json", "winner.json"])


def _search(
    job: SearchJob, recipe: DeepRecipe | ClassicalRecipe, objective: str, folder: Folder, plan: dict[str, Any], started: float
) -> None:
    opened = open_corpus(job.features, job.labels, [recipe], job.num_folds, job.calibration_records, unlabelled_pool=True)
    corpus = opened.corpus
    print("\n".join(describe(job, opened)))
    trial_plan = _trial_plan(job, recipe, objective, short_hash(plan))
    space = bounded(space_of(recipe), job.bounds)
    first = own_params(recipe, space)
    print(f"{job.num_trials} trials of {trial_plan.total} epochs each, the first is " + ("the recipe as it is" if first else "drawn"))
    print("  " + "; ".join(f"{name} {knob}" for name, knob in space.items()))
    if trial_plan.rungs:
        print(f"  compared at {', '.join(map(str, trial_plan.rungs))} epochs, over the folds in turn: 1 in {job.reduction} goes on")
    if job.dry_run:
        print("dry run: nothing was written")
        return
    most = min(job.max_concurrent_trials or 10**6, session.num_groups(job.num_workers))
    session.await_room("GPU" if session.num_gpus() else "CPU", job.num_workers)
    folder.begin(plan)
    session.check_nodes([objects.join(job.search, "search.json")])
    num_objectives = 1 + job.with_cost
    study = Study(folder, recipe, space, job.seed, num_objectives, first)
    left = job.num_trials - len(study.finished)
    print(f"{left} trials left, {most} at a time with {job.num_workers} worker{'s' * (job.num_workers > 1)} each")
    with mirrored(job.storage, objects.last_segment(job.search), num_objectives) as mirror:
        for values in study.finished.values():
            mirror(values)
        if left > 0:
            deep = isinstance(recipe, DeepRecipe)
            with Progress("read", len(set(corpus.table.part.tolist())), "parts") as progress:
                corpus = with_values(corpus, [] if deep else [recipe.feature.kind], deep, lambda done, _: progress.at(done))
            with Progress("search", job.num_trials, "trials") as progress:

                def finished(values: dict[str, Any]) -> None:
                    mirror(values)
                    progress.at(len(study.finished), **told(study.finished))

                run_trials(study, trial_plan, corpus, job.num_trials, job.num_workers, most, job.reduction, finished)
            ray_files = objects.join(job.search, "ray")
            objects.remove(objects.join(ray_files, info.key) for info in _listed(ray_files))
    judged = [fold_rows(corpus, fold, job.seed).split.judged for fold in range(job.num_folds)]
    records = [Judged(corpus.records.faulty[rows], corpus.records.unit[rows]) for rows in judged]
    write_results(folder, study, plan, objective, records, time.perf_counter() - started, most, corpus.table.findings)
    print(f"{job.search} is finished")


def describe(job: SearchJob, opened: Opened) -> list[str]:
    """What is said of the corpus and of each fold. Raises SearchError where no fold can be judged with the labels given."""
    corpus, records = opened.corpus, opened.corpus.records
    said = [
        f"{len(corpus.table):,} records of {len(np.unique(records.unit))} units and {records.sensor.max() + 1} sensors, "
        f"{opened.num_left_out:,} duplicates left out; {int(records.healthy.sum()):,} are labelled normal, "
        f"{int(records.faulty.sum()):,} faulty",
        f"{job.num_folds} folds of units"
        if opened.by_unit
        else f"{job.num_folds} blocks of time in each unit: too few units for folds of them, so no figure is of a machine never seen",
    ]
    judgeable = 0
    for number in range(job.num_folds):
        rows = fold_rows(corpus, number, job.seed).split
        faults = int(records.faulty[rows.judged].sum())
        judgeable += 0 < faults < len(rows.judged)
        said.append(
            f"fold {number}: trained on {len(rows.pool):,}, calibrated by {len(rows.calibration):,}, "
            f"judged on {len(rows.judged):,} with {faults:,} faults"
        )
    if not judgeable:
        raise SearchError(
            f"no fold has both normal and faulty labels to be judged on: label more records, or change --num-folds {job.num_folds}"
        )
    return said


def _listed(uri: str) -> list[Any]:
    try:
        return objects.list_objects(uri, hidden=True)
    except FileNotFoundError:
        return []


def _apply(job: SearchJob) -> None:
    """The winner trained on all features, as its trials were on the folds', then the archive scored with it."""
    winner = objects.read_json(objects.join(job.search, "winner.json"))
    recipe = from_json(AnyRecipe, winner["recipe"], objects.join(job.search, "winner.json"))
    run = objects.join(job.search, "winner")
    trials = winner["number"] is not None
    train(TrainJob(job.features, run, recipe, job.labels if trials else None, search_pool=trials, num_workers=job.num_workers))
    if job.then_score and job.input and job.sample_rate_hz:
        score(ScoreJob(run, job.input, job.then_score, job.sample_rate_hz))
    if winner["best_setting"]:
        print("the best cut of the search: " + json.dumps(winner["best_setting"]["setting"]))
