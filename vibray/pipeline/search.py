"""A search over a recipe's values: the folder, the study, the trials, the winner; then, on request, the winner scores an archive."""

import json
import time
from dataclasses import dataclass, replace
from typing import Any, Literal

from vibray.config import from_json, short_hash, to_json
from vibray.pipeline import session
from vibray.pipeline.calibration import RECORDS_PER_SENSOR
from vibray.pipeline.progress import Progress
from vibray.pipeline.scoring import score
from vibray.pipeline.search_corpus import open_corpus, with_records
from vibray.pipeline.search_models import fold_rows
from vibray.pipeline.search_report import told, write_results
from vibray.pipeline.search_space import bounded, own_params, space_of, to_values
from vibray.pipeline.search_study import Folder, SearchError, Study, check_storage, mirrored
from vibray.pipeline.search_thresholds import SETTINGS
from vibray.pipeline.search_trial import TrialPlan, rungs
from vibray.pipeline.search_tune import run_trials
from vibray.pipeline.search_winner import Judged
from vibray.pipeline.tables import identity_hash
from vibray.pipeline.training import TrainingJob, train
from vibray.recipes import AnyRecipe, ClassicalRecipe, DeepRecipe, Recipe
from vibray.storage import objects
from vibray.storage.parts import Parts, finish_folder

MEASURED = {
    "injected": {"the synthetic fleet": 0.82, "gearboxes": 0.50},
    "stability": {"the synthetic fleet": 0.50, "gearboxes": 0.05},
}
"""Rank correlation of each objective without labels to the true AUROC, by corpus, over 40 random recipes each (`python -m
tests.reference.search_table correlate`). One that is to be the default without labels has to reach .6 on each: none does."""


@dataclass(frozen=True)
class SearchJob:
    """What jobs/search.py asks for; its help shows these fields."""

    features: tuple[str, ...]
    """finished features tables, one corpus each"""
    search: str
    """folder for the search; it holds this one search"""
    recipe: Recipe
    labels: str | None = None
    """labels file (JSON Lines); records that it does not name are unlabelled. No label is trained on"""
    num_trials: int = 64
    """trials in all, those that are ended early among them"""
    objective: Literal["auroc", "f1", "injected", "stability"] | None = None
    """what is made high; with labels auroc, or f1 at the best threshold. Without labels: none, or, if you insist, AUROC on injected faults
    or how alike two nets, each of half the pool, rank new records"""
    with_cost: bool = False
    """two objectives: the net's operations a record are to be few; the report shows the front, and no trial is ended early"""
    bounds: tuple[str, ...] = ()
    """other bounds: latent_dim=8:64, objective=hypersphere, metric=mahalanobis,distance; --dry-run shows those in force"""
    num_folds: int = 3
    """parts of the units; a trial is trained once for each"""
    calibration_records: int = RECORDS_PER_SENSOR
    """earliest records of a held-out sensor that calibrate it; half of its records where it has fewer than twice as many"""
    seed: int = 0
    """of the trials that are drawn, and of the folds"""
    grace_epochs: int | None = None
    """epochs before a trial may be ended; default: half of a fold's"""
    reduction: int = 3
    """one trial in so many goes on at each comparison"""
    early_stopping: bool = True
    """compare trials while they train"""
    num_workers: int = 1
    """workers a trial, on a GPU each where the cluster has GPUs; several train as one by Ray Train"""
    max_concurrent_trials: int | None = None
    """trials at a time, at most; default: as many as the cluster's cores or GPUs carry"""
    storage: str | None = None
    """Optuna storage that gets a copy of each trial, for optuna-dashboard: sqlite:///search.db, postgresql://user@host/database"""
    train_winner: bool = False
    """train the winner on all features, into the folder's winner/"""
    then_score: str | None = None
    """folder for the scores table that the winner makes of --input"""
    input: str | None = None
    """with --then-score: folder of shards, or one shard"""
    sample_rate_hz: float | None = None
    """with --then-score: samples a second of the input"""
    dry_run: bool = False
    """print records, folds and space; write nothing"""

    def checked(self) -> "SearchJob":
        """The job with whole URIs. Raises SearchError."""
        given = (value for value in (self.max_concurrent_trials, self.grace_epochs) if value is not None)
        if min(self.num_trials, self.num_workers, self.calibration_records, *given) < 1:
            raise SearchError(
                "--num-trials, --num-workers, --calibration-records, --grace-epochs and --max-concurrent-trials are 1 or more"
            )
        if self.reduction < 2 or self.num_folds < 2:
            raise SearchError("--reduction and --num-folds are 2 or more")
        if self.objective in ("auroc", "f1") and not self.labels:
            raise SearchError(
                f"--objective {self.objective} needs --labels: a JSON Lines file of records labelled normal or by their fault"
            )
        if (self.then_score is None) != (self.input is None) or (self.then_score is None) != (self.sample_rate_hz is None):
            raise SearchError("--then-score, --input and --sample-rate-hz go together")
        if self.with_cost and not isinstance(self.recipe, DeepRecipe):
            raise SearchError("--with-cost counts a net's operations: it goes with a deep recipe")
        if isinstance(self.recipe, DeepRecipe) and self.recipe.optim.epochs < 1:
            raise SearchError("--optim.epochs is 1 or more: a net that is not trained has nothing to search for")
        if self.storage:
            check_storage(self.storage)
        one = objects.absolute
        return replace(
            self,
            features=tuple(one(uri) for uri in self.features),
            search=one(self.search),
            labels=None if self.labels is None else one(self.labels),
            then_score=None if self.then_score is None else one(self.then_score),
            input=None if self.input is None else one(self.input),
        )


def search(job: SearchJob) -> None:
    """Runs the stage; see jobs/search.py."""
    job = job.checked()
    recipe = job.recipe
    space = bounded(space_of(recipe), job.bounds)
    assert isinstance(recipe, DeepRecipe | ClassicalRecipe)
    objective = job.objective or ("auroc" if job.labels else None)
    if objective is None or objective in ("injected", "stability"):
        print(_without_labels(objective))
    folder = Folder(job.search)
    plan = _plan(job, to_values(space), objective)
    folder.check(plan)
    if objects.exists(objects.join(job.search, "_done.json")):
        print(f"{job.search} is finished already: look at search.md and search.html")
    elif objective is None:
        _defaults(job, folder, plan)
    else:
        _search(job, recipe, objective, folder, plan, started=time.perf_counter())
    if not job.dry_run and (job.train_winner or job.then_score):
        _apply(job)


def _without_labels(objective: str | None) -> str:
    """What a person has to know who searches without labels."""
    said = "without labels there is no sound objective. Rank correlation to the true AUROC, as measured over 40 recipes: " + "; ".join(
        f"{name} {', '.join(f'{rho:+.2f} on {corpus}' for corpus, rho in found.items())}" for name, found in MEASURED.items()
    )
    if objective is not None:
        return f"{said}. You insist on {objective}"
    return f"{said}. The recipe's own values are taken; --objective injected or stability insists"


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
    plan = TrialPlan(job.search, name, objective, job.with_cost, job.num_folds, job.seed, epochs, (), session.environment())
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
    corpus, said = open_corpus(job.features, job.labels, recipe, job.num_folds, job.calibration_records, job.seed)
    print("\n".join(said))
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
            with Progress("read", len(set(corpus.table.part.tolist())), "parts") as progress:
                corpus = with_records(corpus, recipe, objective == "injected", lambda done, _: progress.at(done))
            with Progress("search", job.num_trials, "trials") as progress:

                def finished(values: dict[str, Any]) -> None:
                    mirror(values)
                    progress.at(len(study.finished), **told(study.finished))

                run_trials(study, trial_plan, corpus, job.num_trials, job.num_workers, most, job.reduction, finished)
            ray_files = objects.join(job.search, "ray")
            objects.remove(objects.join(ray_files, info.key) for info in _listed(ray_files))
    judged = [fold_rows(corpus, fold, job.seed).split.judged for fold in range(job.num_folds)]
    records = [Judged(corpus.records.faulty[rows], corpus.records.unit[rows]) for rows in judged]
    write_results(folder, study, plan, objective, records, time.perf_counter() - started, most)
    print(f"{job.search} is finished")


def _listed(uri: str) -> list[Any]:
    try:
        return objects.list_objects(uri, hidden=True)
    except FileNotFoundError:
        return []


def _apply(job: SearchJob) -> None:
    """The winner trained on all features, then the archive scored with it."""
    winner = objects.read_json(objects.join(job.search, "winner.json"))
    recipe = from_json(AnyRecipe, winner["recipe"], objects.join(job.search, "winner.json"))
    run = objects.join(job.search, "winner")
    train(TrainingJob(job.features, run, recipe, num_workers=job.num_workers))
    if job.then_score and job.input and job.sample_rate_hz:
        score(run, job.input, job.then_score, job.sample_rate_hz)
    if winner["best_setting"]:
        print("the best cut of the search: " + json.dumps(winner["best_setting"]["setting"]))
