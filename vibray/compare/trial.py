"""One trial of a search: a recipe trained once a fold, scored once, judged by its objective and by every threshold. No Tune, no Optuna."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from vibray.compare.corpus import Corpus
from vibray.compare.fold_fit import FoldFit, Score, fit_fold
from vibray.compare.folds import FoldRows, fold_rows
from vibray.compare.thresholds import FoldScores, best_setting, threshold_table
from vibray.config import UserError
from vibray.decide.areas import auprc, auroc
from vibray.fitting.pruned import net_mflop
from vibray.fitting.worker import Worker
from vibray.recipes.kinds import ClassicalRecipe, DeepRecipe
from vibray.runs.folder import begin, save
from vibray.runs.run import Run
from vibray.storage import objects

Objective = Literal["auroc", "f1"]
"""AUROC on the folds' labelled records, or F1 at the best cut."""

AtRung = Callable[[int, float], bool]
"""Called on every worker with the trial's clock and what it is worth so far; True ends the trial. Every worker gets the same answer."""


class Stopped(Exception):
    """The scheduler ended the trial early."""

    def __init__(self, clock: int, value: float):
        super().__init__(f"stopped at {clock} epochs with {value:.4f}, below what other trials had there")


@dataclass(frozen=True)
class TrialPlan:
    """What all trials of a search share."""

    search_uri: str
    name: str
    """hash of what is searched: a folder may be moved"""
    objective: Objective
    with_cost: bool
    num_folds: int
    seed: int
    epochs: int
    """of one training; a classical detector has one"""
    rungs: tuple[int, ...]
    """clocks at which a trial may be stopped"""
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Epochs of a whole trial, over its folds in turn: its clock at the end."""
        return self.num_folds * self.epochs


def rungs(total: int, grace: int, factor: int) -> tuple[int, ...]:
    """Clocks at which the asynchronous successive halving compares trials: grace, grace * factor, ... below the total.

    Source: Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning", algorithm 2.
    """
    found, at = [], grace
    while at < total:
        found.append(at)
        at *= factor
    return tuple(found)


@dataclass
class Stopwatch:
    """Where a trial's seconds go; what is in none of the two is training."""

    start: float = field(default_factory=time.perf_counter)
    evaluation: float = 0.0
    waiting: float = 0.0

    @contextmanager
    def on(self, what: Literal["evaluation", "waiting"]) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, what, getattr(self, what) + time.perf_counter() - begun)

    def values(self) -> dict[str, float]:
        whole = time.perf_counter() - self.start
        training = whole - self.evaluation - self.waiting
        return {"training": round(training, 3), "evaluation": round(self.evaluation, 3), "waiting": round(self.waiting, 3)}


class Trial:
    """A trial while it runs; `rungs`, `folds` and the watch tell of one that was stopped too."""

    def __init__(self, worker: Worker, corpus: Corpus, plan: TrialPlan, recipe: DeepRecipe | ClassicalRecipe, run_uri: str):
        self.worker, self.corpus, self.plan, self.recipe, self.run_uri = worker, corpus, plan, recipe, run_uri
        self.watch, self.told, self.folds = Stopwatch(), {}, []
        self.clock = 0

    def run(self, at_rung: AtRung) -> dict[str, Any]:
        """Everything that is said of the trial, ready for JSON. Raises Stopped, CollapsedModel, and what training raises."""
        scores = []
        for fold in range(self.plan.num_folds):
            rows = fold_rows(self.corpus, fold, self.plan.seed)
            fitted = self._fit(rows, at_rung)
            with self.watch.on("evaluation"):
                scores.append(self._note(fold, rows, fitted))
                self._save(fold, fitted)
            self._tell(at_rung, self._worth([]))
        with self.watch.on("evaluation"):
            return self._result(scores)

    def facts(self) -> dict[str, Any]:
        """What is known of the trial whether it came to its end or not."""
        return {"rungs": self.told, "clock": self.clock, "folds": self.folds, "seconds": self.watch.values()}

    def _fit(self, rows: FoldRows, at_rung: AtRung) -> FoldFit:
        base = self.clock

        def at_epoch(epoch: int, score: Score) -> None:
            self.clock = base + epoch
            if self.clock in self.plan.rungs and epoch < self.plan.epochs:  # the last epoch's is told when the net is whole
                with self.watch.on("evaluation"):
                    value = self._auroc(score, rows)
                self._tell(at_rung, self._worth([value]))

        task = self.corpus.task(rows.split, self.plan.seed)
        found = fit_fold(self.worker, self.recipe, task, at_epoch)
        found.fit.guards.check()  # the guards of the winner's training: none is refused after hours
        self.clock = base + self.plan.epochs
        return found

    def _tell(self, at_rung: AtRung, value: float | None) -> None:
        """Reports at the first chance after a rung; a whole trial is no longer stopped."""
        passed = [rung for rung in self.plan.rungs if rung <= self.clock]
        if value is None or not passed or self.clock >= self.plan.total or max(self.told, default=0) >= passed[-1]:
            return
        self.told[self.clock] = value
        with self.watch.on("waiting"):
            stop = at_rung(self.clock, value)
        if stop:
            raise Stopped(self.clock, value)

    def _worth(self, more: Sequence[float | None]) -> float | None:
        """Mean AUROC over the folds so far: what the scheduler compares."""
        known = [value for value in [*(fold["auroc"] for fold in self.folds), *more] if value is not None]
        return float(np.mean(known)) if known else None

    def _auroc(self, score: Score, rows: FoldRows) -> float | None:
        judged = rows.split.judged
        return auroc(score(judged), self.corpus.records.faulty[judged]) if len(judged) else None

    def _note(self, fold: int, rows: FoldRows, fitted: FoldFit) -> FoldScores:
        """Scores the fold once, and notes what is said of it."""
        records, judged, pool = self.corpus.records, rows.split.judged, rows.split.pool
        faulty = records.faulty[judged]
        scores = fitted.score(judged) if len(judged) else np.empty(0)
        trusted = fitted.score(rows.trusted) if len(rows.trusted) else np.empty(0)
        self.folds.append(
            {
                "fold": fold,
                "pool": len(pool),
                "calibration": len(rows.split.calibration),
                "judged": len(judged),
                "judged_faults": int(faulty.sum()),
                "trusted": len(rows.trusted),
                "auroc": auroc(scores, faulty) if len(judged) else None,
                "auprc": auprc(scores, faulty) if len(judged) else None,
                "scores": [float(f"{score:.7g}") for score in scores],  # two trials are compared record by record
            }
        )
        known = fitted.known(self.corpus.table.sensors.of(judged))
        return FoldScores(fitted.fit.scores[~self.corpus.off[pool]], trusted, scores, faulty, known)

    def _save(self, fold: int, fitted: FoldFit) -> None:
        """The fold's run folder; another trial of the same recipe may have written it already."""
        if self.worker.world.rank:
            return
        uri, table = objects.join(self.run_uri, f"fold-{fold}"), self.corpus.table
        if not begin(uri, self.recipe, table.facts, {"search": self.plan.name, "fold": fold}):
            run = Run(self.recipe, table.facts, replace(fitted.fit.detecting, scaling=fitted.scaling), table.histories)
            save(uri, run, fitted.fit.lines, self.plan.environment)

    def _result(self, scores: list[FoldScores]) -> dict[str, Any]:
        labelled = [fold for fold in scores if len(fold.judged)]
        table = threshold_table(labelled) if labelled else []
        best = best_setting(table)
        value = (None if best is None else best["f1"]) if self.plan.objective == "f1" else self._worth([])
        if value is None:
            raise UserError(f"no fold gives the objective {self.plan.objective} a value: are both normal and faulty records labelled?")
        mflop = net_mflop(self.recipe, self.corpus.table.facts.mains_hz) if isinstance(self.recipe, DeepRecipe) else None
        values = [value, mflop] if self.plan.with_cost else [value]
        return {"values": values, "mflop": mflop, "thresholds": table, "best_setting": best, **self.facts()}
