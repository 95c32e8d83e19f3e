"""What a benchmark compares on what: the recipes with their controls, the cells, the corpus with its folds, and what is said of them."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from vibray.decide.splits import UNLABELLED, Records, Setting, folds, independent, sizes
from vibray.decide.state import is_off
from vibray.pipeline.benchmark_cells import Contestant, Corpus, LabelsOnly, is_deep, needs_labels, uses_labels, with_epochs
from vibray.pipeline.calibration import RECORDS_PER_SENSOR
from vibray.pipeline.tables import TrainingTable, open_features
from vibray.pipeline.training import check_features, labels_of_records
from vibray.recipes import NAMED, ClassicalRecipe, ClassifierRecipe, DeepRecipe, EnsembleRecipe, Recipe, banded, iforest, rms, small
from vibray.schema import NORMAL
from vibray.storage import objects

RECIPES = ("fused", "mahalanobis", "knn", "local-knn", "pca", "movement")

CONTROLS: dict[str, Callable[[], Recipe]] = {"rms": rms, "iforest": iforest, "banded": banded}
"""What everything must beat; `labels-only` and a net with random weights beside each deep recipe join them."""


class BenchmarkError(ValueError):
    """The arguments of a benchmark do not fit one another, its corpus or its folder."""


@dataclass(frozen=True)
class BenchmarkJob:
    """What jobs/benchmark.py asks for; its help shows these fields."""

    features: tuple[str, ...]
    """finished features tables, one corpus each"""
    labels: str
    """labels file (JSON Lines); records that it does not name are unlabelled"""
    benchmark: str
    """folder for the benchmark; it holds this one grid"""
    recipes: tuple[str, ...] = RECIPES
    """named recipes to compare; the help of jobs/train.py lists and describes them"""
    num_folds: int = 5
    """parts of the units; fewer units than that are split by time, with a warning"""
    seeds: int = 3
    """draws of faults and labels, and trainings of nets, in each fold"""
    contamination: tuple[float, ...] = (0.0, 0.02, 0.05, 0.1, 0.2)
    """shares of faults in the pool"""
    main_contamination: float | None = None
    """the share at which nets take part and that the main table is of; default: the middle one of --contamination"""
    label_budgets: tuple[int, ...] = (0, 5, 20, 50)
    """numbers of labels for recipes that learn from labels"""
    calibration_records: int = RECORDS_PER_SENSOR
    """earliest records of a held-out sensor that calibrate it; half of its records where it has fewer than twice as many"""
    unlabelled_pool: bool = False
    """unlabelled records are trained on too; the stated contamination is then a lower bound"""
    small: bool = False
    """nets on small images with a narrow trunk, for CPUs"""
    epochs: int | None = None
    """with --small: epochs of each net"""
    max_hours: float | None = None
    """refuse a grid that would take longer"""
    dry_run: bool = False
    """print grid, sizes and cost; write nothing"""

    def checked(self) -> "BenchmarkJob":
        """The job with whole URIs and the contamination of its main table. Raises BenchmarkError."""
        main = self.main_contamination
        if main is None and self.contamination:
            main = self.contamination[len(self.contamination) // 2]
        if main not in self.contamination:
            raise BenchmarkError(f"--main-contamination {main} is none of --contamination {' '.join(map(str, self.contamination))}")
        for name in ("contamination", "label_budgets", "recipes"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise BenchmarkError(f"--{name.replace('_', '-')} names one value twice")
        if not all(0 <= share < 1 for share in self.contamination):
            raise BenchmarkError("--contamination takes shares from 0 to below 1, as 0.05")
        if min(self.seeds, self.calibration_records, *(b + 1 for b in self.label_budgets), 1) < 1:
            raise BenchmarkError("--seeds and --calibration-records must be 1 or more, --label-budgets 0 or more")
        if self.epochs is not None and not self.small:
            raise BenchmarkError("--epochs goes with --small: without it nets are trained as their recipes say")
        whole = tuple(objects.absolute(uri) for uri in self.features)
        return replace(
            self,
            features=whole,
            labels=objects.absolute(self.labels),
            benchmark=objects.absolute(self.benchmark),
            main_contamination=main,
        )


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


def open_corpus(job: BenchmarkJob, entries: dict[str, Entry]) -> tuple[Corpus, list[str]]:
    """The corpus with its folds, vectors and waveforms still in storage, and what a reader of the figures must know of it.

    Raises BenchmarkError, TrainingError or SplitError where it does not hold what the grid needs.
    """
    table = open_features(job.features)
    for entry in entries.values():
        check_features(entry.recipe.base if isinstance(entry.recipe, LabelsOnly) else entry.recipe, table)
    label = labels_of_records(job.labels, table)
    keep = np.flatnonzero(independent(table.index["content_hash"].to_pylist(), label))
    num_left_out = table.num_duplicates + len(table) - len(keep)
    table, label = table.take(keep), label[keep]
    records = records_of(table, label)
    fold, by_unit = folds(records, job.num_folds)
    no_waveforms = np.empty((len(table), 0), np.float32)
    corpus = Corpus(table, records, fold, {}, no_waveforms, off_records(table), job.calibration_records, job.unlabelled_pool)
    return corpus, _facts(job, corpus, by_unit, num_left_out)


def records_of(table: TrainingTable, label: np.ndarray) -> Records:
    """The columns that splits are made by."""
    unit = np.array([unit for unit, _ in table.sensors], np.str_)
    _, sensor = np.unique(np.array([f"{u}\n{s}" for u, s in table.sensors], np.str_), return_inverse=True)
    time = table.index["measured_at"].cast("int64").to_numpy()
    order = np.empty(len(table), np.int64)
    order[np.lexsort((np.array(table.index["record_id"].to_pylist(), np.str_), time))] = np.arange(len(table))
    return Records(unit, sensor, order, time, label)


def off_records(table: TrainingTable) -> np.ndarray:
    """bool a record: state `off`, the one that needs no waveform."""
    rms, snr = (table.index[name].to_numpy(zero_copy_only=False).astype(np.float64) for name in ("rms", "mains_snr_db"))
    return is_off(rms, snr, [table.histories[sensor] for sensor in table.sensors])


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
            case EnsembleRecipe():
                return {kind for member in recipe.members.values() for kind in of(member)}
            case DeepRecipe() | ClassifierRecipe():
                return set()

    return sorted({kind for entry in entries.values() for kind in of(entry.recipe)})


def with_values(corpus: Corpus, vectors: list[str], waveforms: bool, progress: Callable[[int, int], None]) -> Corpus:
    """The corpus with its vectors, and waveforms where they are needed, read from storage, a part at a time."""
    table = corpus.table
    parts = np.unique(table.part)
    values: dict[str, np.ndarray] = {}
    for done, part in enumerate(parts):
        at = np.flatnonzero(table.part == part)
        stored = objects.read_table(table.parts[part], vectors + ["waveform"] * waveforms)
        for name in stored.column_names:
            column = stored[name].combine_chunks()
            rows = column.flatten().to_numpy().reshape(len(column), -1)[table.row[at]]
            values.setdefault(name, np.empty((len(table), rows.shape[1]), np.float32))[at] = rows
        progress(done + 1, len(parts))
    own = values.pop("waveform", corpus.waveforms)
    return replace(corpus, vectors=values, waveforms=own)
