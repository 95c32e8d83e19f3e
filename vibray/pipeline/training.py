"""Training: from finished features tables to a finished run folder, whatever the recipe."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch

from vibray.config import short_hash, to_json
from vibray.models.deep_sad import DeepSadConfig
from vibray.models.ensemble import Ensemble
from vibray.pipeline import session
from vibray.pipeline.classical_training import fit_classical
from vibray.pipeline.deep_training import DeepJob, encoder_of, sad_targets, train_deep
from vibray.pipeline.tables import TrainingTable, identity_hash, open_features
from vibray.recipes import (
    ClassicalRecipe,
    ClassifierRecipe,
    DeepRecipe,
    EnsembleRecipe,
    Recipe,
    build_feature,
)
from vibray.runs import Detecting, Fusing, Run, begin, load, save
from vibray.schema import BAD_RECORDS, LABEL_ABNORMAL, LABEL_NORMAL, NORMAL, UNDECIDED
from vibray.storage import objects
from vibray.storage.labels import match_labels, read_labels
from vibray.storage.parts import Parts, check_finished

T = TypeVar("T")

CACHE_GB = 4.0

OF_A_RECORD = ("sample_rate_hz", "num_samples", "mains", "signal_unit")
"""Facts of a corpus that decide what a record's features are."""


class TrainingError(ValueError):
    """The arguments of a training do not fit one another or the features."""


@dataclass(frozen=True)
class TrainingJob:
    """What jobs/train.py asks for; its help shows these fields."""

    features: tuple[str, ...]
    """finished features tables, one corpus each"""
    run: str
    """folder for the run; it holds this one run"""
    recipe: Recipe
    labels: str | None = None
    """labels file (JSON Lines): for a classifier or deep-sad, or with --normals-only"""
    normals_only: bool = False
    """fit a detector on the records labelled normal alone"""
    pseudo_labels: str | None = None
    """decisions folder whose pseudo-labels a classifier learns from too"""
    init_from: str | None = None
    """run whose encoder, image and scaling a classifier starts from"""
    members: tuple[str, ...] = ()
    """ensemble: finished runs to fuse, instead of training the recipe's members"""
    num_workers: int = 1
    """Ray Train workers, on a GPU each where the cluster has GPUs"""
    cache_gb: float = CACHE_GB
    """images kept on each node's disk during training; what does not fit is made again each epoch"""
    dry_run: bool = False
    """print what would be trained; write nothing"""


def train(job: TrainingJob) -> None:
    """Runs the stage; see jobs/train.py. The same job on a finished run says so; on a run that was stopped it goes on."""
    job = _absolute(job)
    _check_arguments(job)
    table = open_features(job.features)
    recipe = _adopted(job)
    _check_members(job, recipe, table)
    check_features(recipe, table)
    labels = None if job.labels is None else labels_of_records(job.labels, table)
    print(f"{len(table):,} records of {len(set(table.sensors))} sensors in {', '.join(sorted(table.corpora))}", end="")
    print(f" ({table.num_duplicates:,} duplicates left out)" if table.num_duplicates else "")
    plan = _Plan(job, recipe, table, labels)
    if job.dry_run:
        plan.preview()
        return
    plan.run()


def _absolute(job: TrainingJob) -> TrainingJob:
    def one(uri: str | None) -> str | None:
        return None if uri is None else objects.absolute(uri)

    return replace(
        job,
        features=tuple(objects.absolute(uri) for uri in job.features),
        run=objects.absolute(job.run),
        labels=one(job.labels),
        pseudo_labels=one(job.pseudo_labels),
        init_from=one(job.init_from),
        members=tuple(objects.absolute(uri) for uri in job.members),
    )


def _check_arguments(job: TrainingJob) -> None:
    classifier = isinstance(job.recipe, ClassifierRecipe)
    if job.members and not isinstance(job.recipe, EnsembleRecipe):
        raise TrainingError("--members goes with the ensemble recipe alone: put `ensemble` last on the line")
    if (job.pseudo_labels or job.init_from) and not classifier:
        raise TrainingError("--pseudo-labels and --init-from go with a classifier's recipe alone: put `classifier` last on the line")
    if classifier and not job.labels:
        raise TrainingError("a classifier needs --labels: a JSON Lines file of records labelled normal or by the name of their fault")
    if classifier and job.normals_only:
        raise TrainingError("--normals-only is for detectors: a classifier needs faults too")
    if job.normals_only and not job.labels:
        raise TrainingError("--normals-only needs --labels: it fits a detector on the records labelled normal alone")
    sad = isinstance(job.recipe, DeepRecipe) and isinstance(job.recipe.detector, DeepSadConfig)
    if sad and not job.labels:
        raise TrainingError("Deep SAD needs --labels: a JSON Lines file of records labelled normal or by the name of their fault")
    if sad and job.normals_only:
        raise TrainingError("--normals-only leaves Deep SAD nothing to learn from labels: leave it out, or take cwt-svdd")
    if job.labels and not classifier and not sad and not job.normals_only:
        raise TrainingError(
            "a detector learns without labels: leave --labels out, or add --normals-only to fit it on the trusted normals alone"
        )


def _adopted(job: TrainingJob) -> Recipe:
    """The recipe, a classifier's image and trunk being those of the run it starts from."""
    recipe = job.recipe
    if isinstance(recipe, EnsembleRecipe) and job.members:
        members = {objects.last_segment(uri): load(uri).recipe for uri in job.members}
        wrong = [name for name, member in members.items() if not isinstance(member, ClassicalRecipe | DeepRecipe)]
        if wrong or len(members) < len(job.members):
            raise TrainingError(
                f"--members: {', '.join(wrong) or 'two members of one name'}: give detectors' runs whose last segments differ"
            )
        fusion = recipe.fusion
        if {name for name, _ in fusion.weights} != set(members):
            print(f"the members weigh alike: the recipe's weights are of {', '.join(name for name, _ in fusion.weights)}")
            fusion = replace(fusion, weights=tuple((name, 1.0) for name in members))
        return replace(recipe, members=members, fusion=fusion)  # type: ignore[arg-type]
    if isinstance(recipe, ClassifierRecipe) and job.init_from and recipe.image is not None:
        member = encoder_of(load(job.init_from)).recipe
        assert isinstance(member, DeepRecipe)
        print(f"the classifier takes image, scaling and encoder from {job.init_from}")
        detector = replace(recipe.detector, trunk=member.detector.trunk)
        return replace(recipe, image=member.feature, image_scaling=member.scaling, detector=detector)
    return recipe


def _check_members(job: TrainingJob, recipe: Recipe, table: TrainingTable) -> None:
    """Raises TrainingError where an ensemble's weights are not of its members, or a member was trained on records of another kind."""
    if not isinstance(recipe, EnsembleRecipe):
        return
    weighed = {name for name, _ in recipe.fusion.weights}
    if weighed != set(recipe.members):
        raise TrainingError(f"--fusion.weights names {', '.join(sorted(weighed))}, the members are {', '.join(sorted(recipe.members))}")
    for uri in job.members:
        facts = load(uri).facts
        for name in OF_A_RECORD:
            there, here = getattr(facts, name), getattr(table.facts, name)
            if there != here:
                raise TrainingError(
                    f"--members {uri} was trained on other records than --features holds: {name} {there} there, {here} here"
                )


def _nets(recipe: Recipe) -> list[DeepRecipe | ClassifierRecipe]:
    """What of a recipe is a net."""
    own = list(recipe.members.values()) if isinstance(recipe, EnsembleRecipe) else [recipe]
    return [one for one in own if isinstance(one, DeepRecipe | ClassifierRecipe)]


def check_features(recipe: Recipe, table: TrainingTable) -> None:
    """Raises TrainingError where a vector that the recipe wants is not in the table, or was made with another config; ValueError where a
    feature cannot be had at this rate and length."""
    match recipe:
        case EnsembleRecipe():
            for member in recipe.members.values():
                check_features(member, table)
            return
        case ClassicalRecipe() | DeepRecipe():
            wanted = [recipe.feature]
        case ClassifierRecipe():
            wanted = [config for config in (recipe.image, recipe.vector) if config is not None]
    for config in wanted:
        feature = build_feature(config, table.facts.mains_hz)
        feature.check(table.facts.sample_rate_hz, table.facts.num_samples)
        if not isinstance(recipe, ClassicalRecipe):
            continue
        stored = table.vectors.get(config.kind)
        if stored is None:
            has = ", ".join(table.vectors) or "none"
            raise TrainingError(f"the features table has no {config.kind} vector (it has {has}): featurize with --vectors {config.kind}")
        if stored != to_json(config):
            raise TrainingError(f"the recipe's {config.kind} is not the table's:\n  recipe {to_json(config)}\n  table  {stored}")


def labels_of_records(uri: str, table: TrainingTable) -> np.ndarray:
    """The label of each record of the table ("" where there is none), rows that meet a line set aside being counted."""
    bad = pa.concat_tables([Parts(features).read(name="bad", schema=BAD_RECORDS) for features in table.corpora.values()])
    rows = read_labels(uri, table.facts.timezone)
    matched = match_labels(rows, table.index, bad, table.facts.timezone)
    print(f"{matched.num_rows} labels: {matched.table.num_rows} records, {matched.num_quarantined} of lines set aside")
    of = {(c, r): label for c, r, label in zip(*(matched.table[n].to_pylist() for n in ("corpus", "record_id", "label")), strict=True)}
    keys = zip(table.index["corpus"].to_pylist(), table.index["record_id"].to_pylist(), strict=True)
    return np.array([of.get(key, "") for key in keys], dtype=object)


@dataclass(frozen=True)
class _Plan:
    """A training whose arguments are known to fit."""

    job: TrainingJob
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
            "pseudo_labels": None if job.pseudo_labels is None else check_finished(job.pseudo_labels)["files"],
            "init_from": None if job.init_from is None else check_finished(job.init_from)["files"],
            "members": {objects.last_segment(uri): check_finished(uri)["files"] for uri in job.members},
        }

    @property
    def rows(self) -> np.ndarray:
        """Row numbers that a detector is fitted on."""
        if not self.job.normals_only:
            return np.arange(len(self.table))
        assert self.labels is not None
        rows = np.flatnonzero(self.labels == NORMAL)
        if not len(rows):
            raise TrainingError(f"{self.job.labels} names no normal record: --normals-only has nothing to fit on")
        return rows

    def preview(self) -> None:
        """What a dry run prints."""
        recipe = self.recipe
        print(f"train {recipe.kind} recipe {short_hash(recipe)} -> {self.job.run}")
        print(f"  on {len(self.rows) if not isinstance(recipe, ClassifierRecipe) else int((self.labels != '').sum()):,} records")
        for member in _nets(recipe):
            config = member.feature if isinstance(member, DeepRecipe) else member.image
            shape = () if config is None else build_feature(config, self.table.facts.mains_hz).shape
            gib = 4 * int(np.prod(shape)) * len(self.table) / 2**30
            print(f"  {member.optim.epochs} epochs of batches of {member.optim.batch_size}, images {shape}: {gib:.2f} GiB", end="")
            print(
                f" ({self.job.cache_gb:g} GiB are kept, --cache-gb; the rest is made again each epoch)"
                if gib > self.job.cache_gb
                else " kept"
            )
        print("dry run: nothing was written")

    def run(self) -> None:
        recipe, job = self.recipe, self.job
        faults = None
        if _nets(recipe):
            session.num_groups(job.num_workers)
        if isinstance(recipe, ClassifierRecipe):
            assert self.labels is not None
            faults = tuple(sorted(set(self.labels) - {"", NORMAL}))
        if begin(job.run, recipe, self.table.facts, self.identity, faults):
            print(f"{job.run} is finished already: nothing to do")
            return
        session.check_nodes([objects.join(job.run, "recipe.json")])
        match recipe:
            case ClassicalRecipe():
                fit_classical(job.run, recipe, self.table, self.rows)
            case DeepRecipe():
                self.fit_deep([(job.run, recipe)])
            case EnsembleRecipe():
                self.fit_ensemble(recipe)
            case ClassifierRecipe():
                self.fit_classifier(recipe, faults or ())
        print(f"{job.run} is finished")

    # ---------------------------------------------------------------- deep

    def fit_deep(self, runs: Sequence[tuple[str, DeepRecipe]]) -> None:
        """The nets one after another in one group of workers."""
        jobs = []
        for uri, recipe in runs:
            targets, weights = sad_targets(recipe, None if self.labels is None else _schema_labels(self.labels))
            jobs.append(DeepJob(uri, recipe, session.environment(), self.rows, targets, weights))
        train_deep(jobs, self.table, self.job.num_workers, self.job.cache_gb, session.num_gpus() > 0)

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
                    fit_classical(uris[name], member, self.table, self.rows)
            deep = [(uris[name], member) for name, member in todo.items() if isinstance(member, DeepRecipe)]
            if deep:
                self.fit_deep(deep)
        members = {name: load(uri) for name, uri in uris.items()}
        ensemble = Ensemble(recipe.fusion)
        models = [members[name].model for name in ensemble.members]
        statistics = [model.training_scores for model in models if isinstance(model, Detecting)]
        ensemble.load({"location": torch.stack([s[0] for s in statistics]), "scale": torch.stack([s[1] for s in statistics])})
        lines = [
            {"stage": "member", "name": n, "median": float(s[0]), "scale": float(s[1])}
            for n, s in zip(ensemble.members, statistics, strict=True)
        ]
        save(job.run, Run(recipe, self.table.facts, Fusing(members, ensemble), self.table.histories), lines, session.environment())

    def fit_classifier(self, recipe: ClassifierRecipe, faults: tuple[str, ...]) -> None:
        """Real labels, and pseudo-labels where they are given."""
        assert self.labels is not None
        real = self.labels != ""
        targets = np.full((len(self.table), 2), -1, np.int64)
        targets[real, 0] = np.where(self.labels[real] == NORMAL, LABEL_NORMAL, LABEL_ABNORMAL)
        for number, fault in enumerate(faults):
            targets[self.labels == fault, 1] = number
        weights = real.astype(np.float64)
        if self.job.pseudo_labels is not None:
            self._add_pseudo_labels(self.job.pseudo_labels, real, targets, weights)
        indices = np.flatnonzero(targets[:, 0] != UNDECIDED)
        pseudo = len(indices) - int(real.sum())
        print(f"{int(real.sum())} real labels and {pseudo} pseudo-labels, faults: {', '.join(faults) or 'none'}")
        job = DeepJob(self.job.run, recipe, session.environment(), indices, targets, weights, real, faults, self.job.init_from)
        train_deep([job], self.table, self.job.num_workers, self.job.cache_gb, session.num_gpus() > 0)

    def _add_pseudo_labels(self, uri: str, real: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> None:
        check_finished(uri)
        found = objects.read_table(objects.join(uri, "pseudo_labels.parquet"))
        columns = (found[name].to_pylist() for name in ("corpus", "record_id", "label", "weight"))
        of = {(c, r): (label, weight) for c, r, label, weight in zip(*columns, strict=True)}
        met = 0
        for i, key in enumerate(zip(self.table.index["corpus"].to_pylist(), self.table.index["record_id"].to_pylist(), strict=True)):
            label, weight = of.get(key, (None, 0.0))
            met += label is not None
            if label is not None and not real[i] and label != UNDECIDED:
                targets[i, 0], weights[i] = label, weight
        if not met:
            corpora = ", ".join(sorted({c for c, _ in of}))
            here = ", ".join(self.table.corpora)
            raise TrainingError(f"no pseudo-label of {uri} (corpus {corpora}) is of a record in {here}: give its --features too")


def _schema_labels(labels: np.ndarray) -> np.ndarray:
    """Labels in words as 0 (normal), 1 (any fault), -1 (none)."""
    return np.where(labels == "", UNDECIDED, np.where(labels == NORMAL, LABEL_NORMAL, LABEL_ABNORMAL)).astype(np.int64)


def _copy_run(source: str, target: str) -> None:
    """A finished run's files, `_done.json` last."""
    names: Iterable[str] = [*check_finished(source)["files"], "_done.json"]
    for name in names:
        objects.write_bytes(objects.join(target, name), objects.read_bytes(objects.join(source, name)))
