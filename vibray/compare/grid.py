"""What a benchmark compares on what: the recipes with their controls, the cells, and what is said of the corpus."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from vibray.compare.cells import Contestant, LabelsOnly, is_deep, needs_labels, uses_labels, with_epochs
from vibray.compare.corpus import Corpus, open_corpus
from vibray.compare.jobs import BenchmarkJob
from vibray.config import UserError
from vibray.decide.splits import UNLABELLED, Setting, sizes
from vibray.recipes import NAMED, banded, iforest, rms, small
from vibray.recipes.kinds import ClassicalRecipe, ClassifierRecipe, DeepRecipe, DiagnosisRecipe, EnsembleRecipe, Recipe
from vibray.schema import NORMAL
from vibray.storage import objects

CONTROLS: dict[str, Callable[[], Recipe]] = {"rms": rms, "iforest": iforest, "banded": banded}
"""What everything must beat; `labels-only` and a net with random weights beside each deep recipe join them."""


class BenchmarkError(UserError):
    """The arguments of a benchmark do not fit one another, its corpus or its folder."""


def checked(job: BenchmarkJob) -> BenchmarkJob:
    """The job with whole URIs and the contamination of its main table. Raises BenchmarkError."""
    main = job.main_contamination
    if main is None and job.contamination:
        main = job.contamination[len(job.contamination) // 2]
    if main not in job.contamination:
        raise BenchmarkError(f"--main-contamination {main} is none of --contamination {' '.join(map(str, job.contamination))}")
    for name in ("contamination", "label_budgets", "recipes"):
        if len(set(getattr(job, name))) < len(getattr(job, name)):
            raise BenchmarkError(f"--{name.replace('_', '-')} names one value twice")
    if not all(0 <= share < 1 for share in job.contamination):
        raise BenchmarkError("--contamination takes shares from 0 to below 1, as 0.05")
    if min(job.seeds, job.calibration_records, *(b + 1 for b in job.label_budgets), 1) < 1:
        raise BenchmarkError("--seeds and --calibration-records must be 1 or more, --label-budgets 0 or more")
    if job.epochs is not None and not job.small:
        raise BenchmarkError("--epochs goes with --small: without it nets are trained as their recipes say")
    features = tuple(objects.absolute(uri) for uri in job.features)
    whole = {name: objects.absolute(getattr(job, name)) for name in ("labels", "benchmark")}
    return replace(job, features=features, main_contamination=main, **whole)


@dataclass(frozen=True)
class Entry:
    """A recipe that takes part."""

    recipe: Contestant
    control: bool


def contestants(job: BenchmarkJob) -> dict[str, Entry]:
    """The recipes by name, controls last."""
    found: dict[str, Entry] = {}
    for name in job.recipes:
        if name not in NAMED:
            raise BenchmarkError(f"there is no recipe {name!r}: choose among {', '.join(NAMED)}")
        recipe = NAMED[name]()
        found[name] = Entry(small(recipe, job.epochs) if job.small else recipe, name in CONTROLS or name == "untrained-svdd")
    beside = {f"{name}-untrained": with_epochs(entry.recipe, 0) for name, entry in found.items() if _is_trained(entry.recipe)}
    controls = {**{name: make() for name, make in CONTROLS.items()}, **beside}
    if any(job.label_budgets):
        controls["labels-only"] = LabelsOnly()
    return found | {name: Entry(recipe, True) for name, recipe in controls.items() if name not in found}


def _is_trained(recipe: Contestant) -> bool:
    """A deep detector with epochs: one that has random weights as a control. A classifier's control is `labels-only`."""
    return is_deep(recipe) and not needs_labels(recipe) and with_epochs(recipe, 0) != recipe


@dataclass(frozen=True)
class Cell:
    """One training and judgement."""

    recipe: str
    setting: Setting

    @property
    def name(self) -> str:
        s = self.setting
        return f"{self.recipe}-f{s.fold}-s{s.seed}-c{s.contamination:g}" + ("" if s.budget is None else f"-l{s.budget}")


def cells_of(job: BenchmarkJob, entries: dict[str, Entry]) -> list[Cell]:
    """The grid: classical detectors at every contamination, nets and whatever sees labels at the main one, those with every budget."""
    assert job.main_contamination is not None
    cells = []
    for name, entry in entries.items():
        recipe = entry.recipe
        shares = (job.main_contamination,) if is_deep(recipe) or uses_labels(recipe) else job.contamination
        budgets: list[int | None] = [None]
        if uses_labels(recipe):
            budgets = [budget for budget in job.label_budgets if budget or not needs_labels(recipe)]
        for share in shares:
            for budget in budgets:
                cells += [Cell(name, Setting(f, s, share, budget)) for s in range(job.seeds) for f in range(job.num_folds)]
    return cells


# ---------------------------------------------------------------- the corpus


def labelled_corpus(job: BenchmarkJob, entries: dict[str, Entry]) -> tuple[Corpus, list[str]]:
    """The corpus, and what a reader of the figures must know of it. Raises TrainingError or SplitError."""
    recipes = [entry.recipe.base if isinstance(entry.recipe, LabelsOnly) else entry.recipe for entry in entries.values()]
    opened = open_corpus(job.features, job.labels, recipes, job.num_folds, job.calibration_records, job.unlabelled_pool)
    return opened.corpus, _facts(job, opened.corpus, opened.by_unit, opened.num_left_out)


def _facts(job: BenchmarkJob, corpus: Corpus, by_unit: bool, num_left_out: int) -> list[str]:
    records, label = corpus.records, corpus.records.label
    num_units, num_unlabelled = len(np.unique(records.unit)), int((label == UNLABELLED).sum())
    faults = ", ".join(f"{int((label == f).sum()):,} {f}" for f in sorted(set(label.tolist()) - {NORMAL, UNLABELLED}))
    said = [
        f"{len(label):,} records of {num_units} units and {records.sensor.max() + 1} sensors in {', '.join(sorted(corpus.table.corpora))}: "
        f"{int(records.healthy.sum()):,} normal, {int(records.faulty.sum()):,} faulty ({faults or 'none'}), {num_unlabelled:,} unlabelled",
        f"{num_left_out:,} duplicates were left out" if num_left_out else "no duplicates",
        f"{job.num_folds} folds of units x {job.seeds} seeds"
        if by_unit
        else f"{job.num_folds} blocks of time in each unit x {job.seeds} seeds",
        f"{int(corpus.off.sum()):,} records of machines that are off set no cut; what they are labelled is judged all the same",
        f"{job.calibration_records} earliest records of each sensor of a fold calibrate it, labels unseen, and are not judged",
    ]
    if not by_unit:
        said.append(
            f"warning: {num_units} units are fewer than {job.num_folds} folds: each unit's history is cut into blocks of time; sensors are "
            "known from training and nothing is calibrated, so the figures say nothing of machines never seen"
        )
    if num_unlabelled and job.unlabelled_pool:
        said.append("warning: unlabelled records count as normal in the pools: the stated contamination is a lower bound")
    elif num_unlabelled:
        said.append(f"{num_unlabelled:,} unlabelled records are in no pool (--unlabelled-pool takes them in); they may calibrate")
    return said


def describe(job: BenchmarkJob, corpus: Corpus) -> list[str]:
    """The sizes of each fold, and warnings. Raises SplitError where a pool cannot be had."""
    said = []
    assert job.main_contamination is not None
    for fold in range(job.num_folds):
        counted = {c: sizes(corpus.records, corpus.rows(Setting(fold, 0, c))) for c in job.contamination}
        main = counted[job.main_contamination]
        held = np.unique(corpus.records.unit[corpus.fold == fold]).tolist()
        shown = ", ".join(held[:4]) + (f" and {len(held) - 4} more" if len(held) > 4 else "")
        said.append(
            f"fold {fold} ({shown}): pool {main['pool']:,} with {main['pool_faults']:,} faults, calibration {main['calibration']:,}, "
            f"judged {main['judged']:,} with {main['judged_faults']:,} faults"
        )
        if main["halved_sensors"]:
            said.append(
                f"warning: {main['halved_sensors']} sensors of fold {fold} have fewer than {2 * job.calibration_records} records: half of "
                "what they have calibrates"
            )
        if main["judged_faults"] in (0, main["judged"]):
            said.append(f"warning: fold {fold} has no judged {'fault' if main['judged'] else 'record'}: no AUROC there")
        normals = {c: own["pool"] - own["pool_faults"] for c, own in counted.items()}
        fewer = [f"{100 * c:g} %: {n:,}" for c, n in normals.items() if n < max(normals.values())]
        if fewer:
            said.append(
                f"warning: fold {fold} has too few faults to train among, so pools hold fewer normals than {max(normals.values()):,} at "
                + ", ".join(fewer)
            )
    return said


def needs_waveforms(entries: dict[str, Entry]) -> bool:
    """True where a recipe makes its own features."""
    return any(is_deep(entry.recipe) for entry in entries.values())


def vectors_needed(entries: dict[str, Entry]) -> list[str]:
    """Columns of stored vectors that classical recipes read."""

    def of(recipe: Contestant) -> set[str]:
        match recipe:
            case LabelsOnly():
                return {recipe.base.feature.kind}
            case ClassicalRecipe():
                return {recipe.feature.kind}
            case DiagnosisRecipe():
                return {recipe.detector.feature.kind}
            case EnsembleRecipe():
                return {kind for member in recipe.members.values() for kind in of(member)}
            case DeepRecipe() | ClassifierRecipe():
                return set()

    return sorted({kind for entry in entries.values() for kind in of(entry.recipe)})
