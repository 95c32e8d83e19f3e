"""Rounds of pseudo-labels: train, score, label, classify, again; and beside them what does without: do rounds help here?"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vibray.config import UserError
from vibray.decide.splits import UNLABELLED
from vibray.decide.thresholds import PercentileConfig
from vibray.fitting.data import labels_of_records
from vibray.fitting.jobs import TrainJob
from vibray.pipeline.evaluate import evaluate
from vibray.pipeline.jobs import EvaluateJob, LabelJob, RoundsJob, ScoreJob
from vibray.pipeline.label import label
from vibray.pipeline.score import score
from vibray.pipeline.train import train
from vibray.recipes import classifier, deep_sad, fused
from vibray.recipes.kinds import Recipe
from vibray.schema import NORMAL
from vibray.storage import objects
from vibray.storage.columns import times_ms
from vibray.storage.parts import Parts, finish_folder, identity_hash
from vibray.storage.plan import begin_folder
from vibray.tables.training import TrainingTable, open_features
from vibray.train.validation import held_out_rows

LABELS_ONLY, DEEP_SAD, DETECTOR = "labels-only", "deep-sad", "detector"


class RoundsMismatch(UserError):
    """A folder holds the rounds of another job, or the labels cannot be split."""


@dataclass(frozen=True)
class Figures:
    """What a run has on the labels held out."""

    auroc: float | None
    macro_f1: float | None
    """over the faults, each against all other labelled records; None for a detector"""

    @property
    def rank(self) -> tuple[float, float]:
        """Higher is better: the faults first, then the ranking."""
        return self.macro_f1 or 0.0, self.auroc or 0.0

    def __str__(self) -> str:
        f1 = "-" if self.macro_f1 is None else f"{self.macro_f1:.3f}"
        return f"macro-F1 {f1:>5}, AUROC {'-' if self.auroc is None else f'{self.auroc:.3f}'}"


def rounds(job: RoundsJob) -> dict[str, Figures]:
    """Runs the stage; see jobs/rounds.py. Each run, table and decision in it is a folder as any other job leaves it, resumed as such."""
    uri, features = objects.absolute(job.rounds), tuple(objects.absolute(one) for one in job.features)
    table = open_features(features)
    taught, held_out = split_labels(job, table)
    identity = {
        "features": {corpus: identity_hash([Parts(one)]) for corpus, one in table.corpora.items()},
        "labels": objects.sha256(objects.read_bytes(job.labels)),
        "held_out": None if job.held_out is None else objects.sha256(objects.read_bytes(job.held_out)),
        **{name: getattr(job, name) for name in ("held_out_share", "num_rounds", "normal_percent", "abnormal_percent", "deep_sad")},
    }
    print(f"{len(taught):,} labels teach, {len(held_out):,} are held out and judge")
    if job.dry_run:
        print(f"up to {job.num_rounds} rounds after the detector -> {uri}\ndry run: nothing was written")
        return {}
    begin_folder(uri, "rounds.json", {"identity": identity}, "by other rounds", RoundsMismatch)
    work = _Work(job, uri, features, table)
    for name, rows in (("taught", taught), ("held_out", held_out)):
        objects.write_bytes(
            work.at("labels", f"{name}.jsonl"), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        )
    found = {LABELS_ONLY: work.judged(LABELS_ONLY, classifier(), labelled=True)}
    if job.deep_sad:
        found[DEEP_SAD] = work.judged(DEEP_SAD, deep_sad(), labelled=True)
    found[DETECTOR] = work.judged(DETECTOR, fused())
    teacher, best = DETECTOR, found[LABELS_ONLY]
    for number in range(1, job.num_rounds + 1):
        name = f"round-{number}"
        work.label(teacher, name, number)
        found[name] = work.judged(name, classifier(), labelled=True, decisions=work.at(name, "decisions"))
        if found[name].rank <= best.rank:
            print(f"\n{name} is no better than what was there before it: no further round")
            break
        teacher, best = name, found[name]
    print_rounds(found, len(held_out))
    values = {"figures": {name: {"auroc": own.auroc, "macro_f1": own.macro_f1} for name, own in found.items()}, "held_out": len(held_out)}
    objects.write_json(work.at("figures.json"), values)
    finish_folder(uri, ["rounds.json", "figures.json"], {"identity": identity})
    print(f"rounds are in {uri}")
    return found


def split_labels(job: RoundsJob, table: TrainingTable) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of the labels that teach and of those that judge; these never enter a round.

    Raises RoundsMismatch where the labels are too few to be split and --held-out gives none.
    """
    labels = labels_of_records(job.labels, table)
    rows = np.flatnonzero(labels != UNLABELLED)
    if job.held_out is not None:
        other = labels_of_records(job.held_out, table)
        judged = np.flatnonzero(other != UNLABELLED)
        if len(both := np.intersect1d(rows, judged)):
            raise RoundsMismatch(f"{len(both):,} records stand in --labels and in --held-out: a record that teaches cannot judge")
        return _rows(table, labels, rows), _rows(table, other, judged)
    names = sorted(set(labels[rows].tolist()) - {NORMAL})
    kind = np.array([0 if name == NORMAL else 1 + names.index(name) for name in labels[rows].tolist()])
    times = times_ms(table.index)
    times = np.where(table.time_trusted, times, times.min())  # the latest may be held out: a time that cannot be is none of them
    mask = held_out_rows(kind, np.array([unit for unit, _ in table.sensors.of(rows)]), times[rows], job.held_out_share)
    if not mask.any():
        raise RoundsMismatch(f"{len(rows):,} labels are too few to hold some out: label more, or give --held-out")
    return _rows(table, labels, rows[~mask]), _rows(table, labels, rows[mask])


def _rows(table: TrainingTable, labels: np.ndarray, rows: np.ndarray) -> list[dict[str, Any]]:
    keys = table.index.select(["corpus", "record_id"]).take(rows).to_pylist()
    return [{**key, "label": str(labels[row])} for key, row in zip(keys, rows.tolist(), strict=True)]


@dataclass(frozen=True)
class _Work:
    """The steps of a round, each by the job that a person would run."""

    job: RoundsJob
    uri: str
    features: tuple[str, ...]
    table: TrainingTable

    def at(self, *names: str) -> str:
        return objects.join(self.uri, *names)

    def judged(self, name: str, recipe: Recipe, labelled: bool = False, decisions: str | None = None) -> Figures:
        """Trains a recipe, scores every corpus of the features with it, and judges it on the labels held out."""
        print(f"\n== {name}", flush=True)
        job, run = self.job, self.at(name, "run")
        labels = self.at("labels", "taught.jsonl") if labelled else None
        train(TrainJob(self.features, run, recipe, labels, pseudo_labels=decisions, num_workers=job.num_workers, local=job.local))
        for corpus, features in self.table.corpora.items():
            identity = Parts(features).plan.identity
            score(ScoreJob(run, identity["input"], self.scores(name, corpus), self.table.facts.sample_rate_hz, corpus, local=job.local))
        asked = EvaluateJob(self.all_scores(name), self.at("labels", "held_out.jsonl"), output=self.at(name, "evaluation.json"))
        result = evaluate(asked)
        return Figures(result["auroc"], result["macro_f1"])

    def label(self, teacher: str, name: str, number: int) -> None:
        """Pseudo-labels of a round, from the scores of what was the best before it; a person's labels stand as they are."""
        print(f"\n== pseudo-labels of {name}, by {teacher}", flush=True)
        cuts = PercentileConfig(normal=self.job.normal_percent, anomaly=self.job.abnormal_percent)
        taught = self.at("labels", "taught.jsonl")
        label(LabelJob(self.all_scores(teacher), self.at(name, "decisions"), labels=taught, round=number, method=cuts))

    def scores(self, name: str, corpus: str) -> str:
        return self.at(name, f"scores-{corpus}")

    def all_scores(self, name: str) -> tuple[str, ...]:
        return tuple(self.scores(name, corpus) for corpus in self.table.corpora)


def print_rounds(found: dict[str, Figures], num_held_out: int) -> None:
    """The figures side by side, and in words whether rounds help."""
    print(f"\non {num_held_out:,} labels held out:")
    for name, figures in found.items():
        print(f"  {name:12} {figures}")
    print(verdict(found))


def verdict(found: dict[str, Figures]) -> str:
    """One sentence."""
    of_rounds: Sequence[str] = [name for name in found if name.startswith("round-")]
    best = max(of_rounds, key=lambda name: found[name].rank)
    gain = (found[best].macro_f1 or 0.0) - (found[LABELS_ONLY].macro_f1 or 0.0)
    if found[best].rank <= found[LABELS_ONLY].rank:
        return f"rounds do not help here: the best of them is {gain:+.3f} from the labels alone. Take {LABELS_ONLY}/run."
    return f"{best} is {gain:+.3f} above the labels alone: take {best}/run. So few labels held out can be wrong: look at both."
