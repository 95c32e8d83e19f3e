"""One trial of a search: a recipe trained once a fold, scored once, judged by its objective and by every threshold. No Tune, no Optuna."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from scipy.stats import rankdata

from vibray.decide.areas import auprc, auroc
from vibray.pipeline.benchmark_cells import Corpus
from vibray.pipeline.deep_worker import Worker
from vibray.pipeline.search_models import Fitted, FoldRows, Score, fit_fold, fold_rows, net_mflop
from vibray.pipeline.search_thresholds import FoldScores, best_setting, threshold_table
from vibray.recipes import ClassicalRecipe, DeepRecipe
from vibray.runs import Run, begin, save
from vibray.storage import objects

Objective = Literal["auroc", "f1", "injected", "stability"]
"""With labels AUROC, or F1 at the best cut; without them AUROC on injected faults, or how alike two halves of the pool rank new records."""

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
    def num_nets(self) -> int:
        """Trainings in a fold: stability compares two."""
        return 2 if self.objective == "stability" else 1

    @property
    def total(self) -> int:
        """Epochs of a whole trial, over its folds in turn: its clock at the end."""
        return self.num_folds * self.num_nets * self.epochs


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
                self._note(fold, rows, fitted)
                scores.append(self._fold_scores(rows, fitted[0]))
                self._save(fold, fitted[0])
            self._tell(at_rung, self._worth([]))
        with self.watch.on("evaluation"):
            return self._result(scores)

    def facts(self) -> dict[str, Any]:
        """What is known of the trial whether it came to its end or not."""
        return {"rungs": self.told, "clock": self.clock, "folds": self.folds, "seconds": self.watch.values()}

    def _fit(self, rows: FoldRows, at_rung: AtRung) -> list[Fitted]:
        base, epochs, found = self.clock, self.plan.epochs, []
        for number in range(self.plan.num_nets):

            def at_epoch(epoch: int, score: Score, number: int = number) -> None:
                self.clock = base + number * epochs + epoch
                # the last epoch's is told when the net is whole; stability has nothing to say before
                if self.clock in self.plan.rungs and epoch < epochs and self.plan.objective in ("auroc", "f1"):
                    with self.watch.on("evaluation"):
                        value = self._auroc(score, rows)
                    self._tell(at_rung, self._worth([value]))

            half = rows.half(self.corpus, number) if self.plan.num_nets == 2 else rows
            found.append(fit_fold(self.worker, self.corpus, self.recipe, half, at_epoch))
        self.clock = base + self.plan.num_nets * epochs
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
        """Mean over the folds so far of what the scheduler compares."""
        name = "auroc" if self.plan.objective == "f1" else self.plan.objective
        known = [value for value in [*(fold[name] for fold in self.folds), *more] if value is not None]
        return float(np.mean(known)) if known else None

    def _auroc(self, score: Score, rows: FoldRows) -> float | None:
        judged = rows.split.judged
        return auroc(score(judged), self.corpus.records.faulty[judged]) if len(judged) else None

    def _note(self, fold: int, rows: FoldRows, fitted: list[Fitted]) -> None:
        records, judged = self.corpus.records, rows.split.judged
        first = fitted[0]
        figures: dict[str, Any] = {
            "fold": fold,
            "pool": len(rows.split.pool),
            "calibration": len(rows.split.calibration),
            "judged": len(judged),
            "judged_faults": int(records.faulty[judged].sum()),
            "trusted": len(rows.trusted),
        }
        figures |= {"auroc": None, "auprc": None, "scores": []}
        if len(judged):
            scores = first.score(judged)
            figures |= {"auroc": auroc(scores, records.faulty[judged]), "auprc": auprc(scores, records.faulty[judged])}
            figures["scores"] = [float(f"{score:.7g}") for score in scores]  # two trials are compared record by record
        if self.plan.objective in ("injected", "stability"):
            figures[self.plan.objective] = unlabelled_worth(self.plan.objective, fitted, rows.probe)
        self.folds.append(figures)

    def _fold_scores(self, rows: FoldRows, fitted: Fitted) -> FoldScores:
        judged = rows.split.judged
        trained_on = rows.half(self.corpus, 0).split.pool if self.plan.num_nets == 2 else rows.split.pool
        return FoldScores(
            fitted.pool_scores[~self.corpus.off[trained_on]],
            fitted.score(rows.trusted) if len(rows.trusted) else np.empty(0),
            fitted.score(judged) if len(judged) else np.empty(0),
            self.corpus.records.faulty[judged],
            fitted.known,
        )

    def _save(self, fold: int, fitted: Fitted) -> None:
        """The fold's run folder; another trial of the same recipe may have written it already."""
        if self.worker.world.rank:
            return
        uri, table = objects.join(self.run_uri, f"fold-{fold}"), self.corpus.table
        if not begin(uri, self.recipe, table.facts, {"search": self.plan.name, "fold": fold}):
            save(uri, Run(self.recipe, table.facts, fitted.detecting, table.histories), fitted.lines, self.plan.environment)

    def _result(self, scores: list[FoldScores]) -> dict[str, Any]:
        labelled = [fold for fold in scores if len(fold.judged)]
        table = threshold_table(labelled) if labelled else []
        best = best_setting(table)
        value = (None if best is None else best["f1"]) if self.plan.objective == "f1" else self._worth([])
        if value is None:
            raise ValueError(f"no fold gives the objective {self.plan.objective} a value: are both normal and faulty records labelled?")
        mflop = net_mflop(self.recipe, self.corpus.table.facts.mains_hz) if isinstance(self.recipe, DeepRecipe) else None
        values = [value, mflop] if self.plan.with_cost else [value]
        return {"values": values, "mflop": mflop, "thresholds": table, "best_setting": best, **self.facts()}


def unlabelled_worth(objective: str, fitted: Sequence[Fitted], probe: np.ndarray) -> float | None:
    """The objectives that need no label, on records of units that training has not seen.

    injected: AUROC of the records with an injected fault each against the same records as they are. stability: Spearman's correlation of
    the scores by two nets, each trained on half of the pool. None where there are too few records.
    """
    if len(probe) < 3:
        return None
    plain = fitted[0].score(probe)
    if objective == "injected":
        faulty = fitted[0].score_injected(probe)
        return auroc(np.concatenate([plain, faulty]), np.arange(2 * len(probe)) >= len(probe))
    return rank_correlation(plain, fitted[1].score(probe))


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's correlation; 0 where one of the two is constant."""
    ranks = np.stack([rankdata(a), rankdata(b)])
    return float(np.corrcoef(ranks)[0, 1]) if (np.ptp(ranks, axis=1) > 0).all() else 0.0
