"""Training: from finished features tables to a finished run folder, whatever the recipe; a pruned net is one more."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from vibray.config import environment, short_hash
from vibray.decide.findings import print_findings
from vibray.decide.fleet_scores import FleetScores
from vibray.fitting.arguments import absolute, adopted, check_arguments, check_members
from vibray.fitting.classical import StoredVectors, fit_classical
from vibray.fitting.data import (
    FitResult,
    Lesson,
    TrainingError,
    check_both_classes,
    check_features,
    classifier_lesson,
    detector_lesson,
    independent_rows,
    known_labels,
    labels_of_records,
    search_pool,
    without_labelled,
)
from vibray.fitting.diagnosis import fit_naming
from vibray.fitting.fleet_scores import fleet_scores
from vibray.fitting.jobs import PruneJob, TrainJob
from vibray.fitting.pruned import net_mflop, pruned_recipe, size_of
from vibray.fitting.runs import NetJob, train_net
from vibray.fitting.worker import alone_with
from vibray.models.band_transformer import BandTransformerConfig
from vibray.models.ensemble import Ensemble
from vibray.pipeline.local import map_here, one_thread, works_alone
from vibray.pipeline.logs import Bars
from vibray.recipes.building import build_feature
from vibray.recipes.kinds import ClassicalRecipe, ClassifierRecipe, DeepRecipe, DiagnosisRecipe, EnsembleRecipe, Recipe
from vibray.runs.folder import begin, load, load_detector, save
from vibray.runs.models import Fusing
from vibray.runs.run import Run
from vibray.schema import NORMAL, UNDECIDED
from vibray.storage import objects
from vibray.storage.parts import Parts, check_finished, identity_hash
from vibray.tables.training import TrainingTable, open_features
from vibray.train.classical import Map
from vibray.train.tracking import Tracking


def train(job: TrainJob) -> None:
    """Runs the stage; see jobs/train.py. The same job on a finished run says so; on a run that was stopped it goes on."""
    job = absolute(job)
    check_arguments(job)
    table = open_features(job.features)
    recipe = adopted(job)
    check_members(job, recipe, table)
    train_on(job, recipe, table)


def prune(job: PruneJob) -> None:
    """Runs the stage; see jobs/prune.py. It is a training that starts from the run: resumed, shared out and found finished as any other."""
    run_uri, pruned_uri, features = objects.absolute(job.run), objects.absolute(job.pruned), tuple(map(objects.absolute, job.features))
    dense = load(run_uri)
    recipe = pruned_recipe(dense.recipe, job.share, job.epochs, dense.facts.mains_hz)
    assert isinstance(dense.recipe, DeepRecipe)
    table = open_features(features)
    if table.facts != dense.facts:
        raise TrainingError(
            f"--features and --run are of other records:\n  {', '.join(features)}: {table.facts}\n  {run_uri}: {dense.facts}"
        )
    before, after = (net_mflop(one, dense.facts.mains_hz) for one in (dense.recipe, recipe))
    print(f"{size_of(dense.recipe)} -> {size_of(recipe)}: {before:,.1f} -> {after:,.1f} MFLOP a record ({after / before:.1%})")
    train_on(
        TrainJob(
            features,
            pruned_uri,
            recipe,
            init_from=run_uri,
            num_workers=job.num_workers,
            cache_gb=job.cache_gb,
            disk_gb=job.disk_gb,
            local=job.local,
            dry_run=job.dry_run,
        ),
        recipe,
        table,
    )


def train_on(job: TrainJob, recipe: Recipe, table: TrainingTable) -> None:
    """A training of absolute URIs that are known to go together: shown, begun, gone on with or found finished."""
    check_features(recipe, table)
    labels = None if job.labels is None else labels_of_records(job.labels, table)
    print(f"{len(table):,} records of {len(table.sensors.names)} sensors in {', '.join(sorted(table.corpora))}", end="")
    print(f" ({table.num_duplicates:,} duplicates left out)" if table.num_duplicates else "")
    plan = _Plan(job, recipe, table, labels)
    if job.dry_run:
        plan.preview()
        return
    plan.run()
    print_findings(table.findings)


def _nets(recipe: Recipe) -> list[DeepRecipe | ClassifierRecipe]:
    """What of a recipe is a net."""
    own = list(recipe.members.values()) if isinstance(recipe, EnsembleRecipe) else [recipe]
    return [one for one in own if isinstance(one, DeepRecipe | ClassifierRecipe)]


@dataclass(frozen=True)
class _Plan:
    """A training whose arguments are known to fit."""

    job: TrainJob
    recipe: Recipe
    table: TrainingTable
    labels: np.ndarray | None

    @property
    def identity(self) -> dict[str, Any]:
        """What decides whether two commands are one training."""
        job = self.job
        return {
            "features": {corpus: {"uri": uri, "content": identity_hash([Parts(uri)])} for corpus, uri in self.table.corpora.items()},
            "labels": None if job.labels is None else objects.sha256(objects.read_bytes(job.labels)),
            "normals_only": job.normals_only,
            "search_pool": job.search_pool,
            "pseudo_labels": None if job.pseudo_labels is None else check_finished(job.pseudo_labels)["files"],
            "init_from": None if job.init_from is None else check_finished(job.init_from)["files"],
            "members": {objects.last_segment(uri): check_finished(uri)["files"] for uri in job.members},
        }

    @cached_property
    def alone(self) -> bool:
        """Works in this process."""
        return works_alone(self.job.local, len(self.table.parts)) and self.job.num_workers == 1

    @cached_property
    def rows(self) -> np.ndarray:
        """Row numbers that a detector is fitted on."""
        if self.labels is not None and self.job.search_pool:
            return search_pool(self.labels, independent_rows(self.table, self.labels))
        if self.labels is not None and isinstance(self.recipe, DiagnosisRecipe):
            return without_labelled(self.labels, np.flatnonzero(~self.table.repeats), self.table.sensors)
        if not self.job.normals_only:
            return np.flatnonzero(~self.table.repeats)
        assert self.labels is not None
        rows = np.flatnonzero((self.labels == NORMAL) & ~self.table.repeats)
        if not len(rows):
            raise TrainingError(f"{self.job.labels} names no normal record: --normals-only has nothing to fit on")
        return rows

    def preview(self) -> None:
        """What a dry run prints."""
        recipe, most = self.recipe, self.job.cache_gb
        print(f"train {recipe.kind} recipe {short_hash(recipe)} -> {self.job.run}")
        if not isinstance(recipe, ClassifierRecipe):
            print(f"  on {len(self.rows):,} records")
        if isinstance(recipe, ClassifierRecipe | DiagnosisRecipe):
            print(f"  on {int((self.labels != '').sum()):,} labels")
        for member in _nets(recipe):
            config = member.feature if isinstance(member, DeepRecipe) else member.image
            shape = () if config is None else build_feature(config, self.table.facts.mains_hz).shape
            gib = 4 * int(np.prod(shape)) * len(self.table) / 2**30
            kept = "kept" if gib <= most else f"({most:g} GiB are kept, --cache-gb; the rest is made again each epoch)"
            print(f"  {member.optim.epochs} epochs of batches of {member.optim.batch_size}, images {shape}: {gib:.2f} GiB {kept}")
        print("dry run: nothing was written")

    def run(self) -> None:
        if self.alone:
            self._run()
            return
        from vibray.pipeline import session

        with session.started(num_cpus=self.job.num_workers if self.job.num_workers > 1 else None):
            if _nets(self.recipe):
                session.num_groups(self.job.num_workers)
                session.await_room("GPU" if session.num_gpus() else "CPU", self.job.num_workers)
            self._run()

    def _run(self) -> None:
        recipe, job, lesson = self.recipe, self.job, None
        if isinstance(recipe, ClassifierRecipe | DiagnosisRecipe):
            assert self.labels is not None
            lesson = classifier_lesson(self.labels, *self._pseudo_labels())
            lesson = replace(lesson, indices=lesson.indices[~self.table.repeats[lesson.indices]])
            check_both_classes(lesson)
            num_real = int(lesson.real[lesson.indices].sum()) if lesson.real is not None else 0
            print(f"{num_real} real labels and {len(lesson.indices) - num_real} pseudo-labels", end="")
            print(f", faults: {', '.join(lesson.faults) or 'none'}")
        if begin(job.run, recipe, self.table.facts, self.identity, None if lesson is None else lesson.faults):
            print(f"{job.run} is finished already: nothing to do")
            return
        if not self.alone:
            from vibray.pipeline import session

            session.check_nodes([objects.join(job.run, "recipe.json")])
        match recipe:
            case ClassicalRecipe():
                self.fit_classical(job.run, recipe)
            case DeepRecipe():
                self.fit_deep([(job.run, recipe)])
            case EnsembleRecipe():
                self.fit_ensemble(recipe)
            case DiagnosisRecipe():
                assert lesson is not None
                self.fit_diagnosis(recipe, lesson)
            case ClassifierRecipe():
                assert lesson is not None
                self.train_nets([NetJob(job.run, recipe, environment(), lesson, job.init_from)])
        print(f"{job.run} is finished")

    def fit_classical(self, uri: str, recipe: ClassicalRecipe) -> None:
        """A classical detector and its run folder."""
        fit = self.fitted(recipe)
        # histories are of all records, whatever the detector is fitted on
        run = Run(recipe, self.table.facts, fit.detecting, self.table.histories, self.fleet_scores(recipe))
        save(uri, run, fit.lines, environment(), self.table.findings)

    def fit_diagnosis(self, recipe: DiagnosisRecipe, lesson: Lesson) -> None:
        """A detector, the diagnosis of its records, and their run folder."""
        fit = self.fitted(recipe.detector)
        named = fit_naming(recipe, fit.detecting, self.table, self.rows, lesson, self.reading(recipe.detector))
        print_diagnosis(named.line)
        run = Run(recipe, self.table.facts, named.naming, self.table.histories, self.fleet_scores(recipe.detector))
        save(self.job.run, run, [*fit.lines, named.line], environment(), self.table.findings)

    def fitted(self, recipe: ClassicalRecipe) -> FitResult:
        """A classical detector, in passes over the parts."""
        return fit_classical(recipe, self.table, self.rows, StoredVectors(recipe.feature.kind), self.passes())

    def fleet_scores(self, recipe: ClassicalRecipe) -> FleetScores:
        """What the machines of training would score with few records."""
        order = self.table.in_order(self.rows)
        return fleet_scores(recipe, self.table.facts.mains_hz, order, self.table.sensors, self.reading(recipe))

    def reading(self, recipe: ClassicalRecipe) -> Callable[[np.ndarray], torch.Tensor]:
        """Reads the vectors of row numbers, in their order."""

        def read(rows: np.ndarray) -> torch.Tensor:
            order = np.argsort(self.table.part[rows], kind="stable")
            parts = self.passes()("few records")(StoredVectors(recipe.feature.kind), self.table.slices(rows[order]))
            found = torch.cat([part.x for part in parts])
            return found[torch.from_numpy(np.argsort(order))]

        return read

    def passes(self) -> Callable[[str], Map]:
        """Who does a pass over the parts."""
        if self.alone:
            return map_here
        from vibray.pipeline.workers import map_on_ray

        return map_on_ray

    # ---------------------------------------------------------------- deep

    def fit_deep(self, runs: Sequence[tuple[str, DeepRecipe]]) -> None:
        """Deep detectors, one after another."""
        labels, rows = None if self.labels is None else known_labels(self.labels), self.rows
        # a net of a pretrained one says so in its recipe; any other detector that starts from a run is pruned from it
        starts = [None if isinstance(r.detector, BandTransformerConfig) and r.detector.base else self.job.init_from for _, r in runs]
        jobs = zip(runs, starts, strict=True)
        self.train_nets([NetJob(uri, r, environment(), detector_lesson(r, rows, labels), start) for (uri, r), start in jobs])

    def train_nets(self, jobs: Sequence[NetJob]) -> None:
        """Nets one after another, by one group of workers or in this process."""
        job = self.job
        if not self.alone:
            from vibray.pipeline import session
            from vibray.pipeline.workers import train_on_ray

            train_on_ray(jobs, self.table, job.num_workers, job.cache_gb, job.disk_gb, session.num_gpus() > 0)
            return
        one_thread()
        with Bars() as bars, alone_with(self.table, None, job.cache_gb, job.disk_gb, bars.tell) as worker:
            for one in jobs:
                train_net(worker, one, Tracking.from_environment(), lambda *_: None)

    def fit_ensemble(self, recipe: EnsembleRecipe) -> None:
        """The members, trained here or copied, then their medians and MADs."""
        job = self.job
        uris = {name: objects.join(job.run, "members", name) for name in recipe.members}
        for source, (name, uri) in zip(job.members, uris.items(), strict=False):
            print(f"member {name}: {source}")
            _copy_run(source, uri)
        if not job.members:
            open_ones = {name: not begin(uris[name], member, self.table.facts, self.identity) for name, member in recipe.members.items()}
            todo = {name: member for name, member in recipe.members.items() if open_ones[name]}
            for name, member in todo.items():
                if isinstance(member, ClassicalRecipe):
                    self.fit_classical(uris[name], member)
            deep = [(uris[name], member) for name, member in todo.items() if isinstance(member, DeepRecipe)]
            if deep:
                self.fit_deep(deep)
        members = {name: load_detector(uri) for name, uri in uris.items()}
        ensemble = Ensemble(recipe.fusion)
        statistics = [members[name].training_scores for name in ensemble.members]
        ensemble.load({"location": torch.stack([s[0] for s in statistics]), "scale": torch.stack([s[1] for s in statistics])})
        lines = [
            {"stage": "member", "name": n, "median": float(s[0]), "scale": float(s[1])}
            for n, s in zip(ensemble.members, statistics, strict=True)
        ]
        run = Run(recipe, self.table.facts, Fusing(members, ensemble), self.table.histories)
        save(job.run, run, lines, environment(), self.table.findings)

    def _pseudo_labels(self) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
        """Pseudo-label and weight of each record of the table."""
        uri = self.job.pseudo_labels
        if uri is None:
            return None, None
        check_finished(uri)
        found = objects.read_table(objects.join(uri, "pseudo_labels.parquet"))
        rows, own = self.table.rows_of(found.select(["corpus", "record_id", "label", "weight"]))
        if not len(rows):
            corpora = ", ".join(sorted(found["corpus"].unique().to_pylist()))
            here = ", ".join(self.table.corpora)
            raise TrainingError(f"no pseudo-label of {uri} (corpus {corpora}) is of a record in {here}: give its --features too")
        labels, weights = np.full(len(self.table), UNDECIDED, np.int64), np.zeros(len(self.table))
        labels[rows], weights[rows] = own["label"].to_numpy(), own["weight"].to_numpy()
        return labels, weights


def print_diagnosis(line: dict[str, Any]) -> None:
    """What is known of a diagnosis before it is used: its answers to labelled records whose unit or moment the fit had not seen."""
    if "macro_f1" not in line:
        print(f"{line['num_labels']} labels are too few to say how well faults are told apart")
        return
    faults = ", ".join(f"{fault} {value:.2f}" for fault, value in line["f1_by_fault"].items())
    print(f"labelled records, each judged without its unit or moment: macro-F1 over faults {line['macro_f1']:.3f} ({faults})")


def _copy_run(source: str, target: str) -> None:
    """A finished run's files, `_done.json` last."""
    names: Iterable[str] = [*check_finished(source)["files"], "_done.json"]
    for name in names:
        objects.write_bytes(objects.join(target, name), objects.read_bytes(objects.join(source, name)))
