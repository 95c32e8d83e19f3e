"""The records on which recipes are compared: features tables with labels, folds of units, and who is trained on and judged in a fold."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vibray.decide.splits import UNLABELLED, Records, Setting, Split, folds, split
from vibray.decide.state import is_off
from vibray.features.scaling import Sensor
from vibray.fitting.data import check_features, independent_rows, labels_of_records
from vibray.recipes.kinds import Recipe
from vibray.storage.columns import times_ms
from vibray.tables.training import TrainingTable, open_features


@dataclass(frozen=True)
class Corpus:
    """All records of a benchmark, in memory: workers of one node share the arrays."""

    table: TrainingTable
    records: Records
    fold: np.ndarray
    vectors: dict[str, np.ndarray]
    waveforms: np.ndarray
    """(records, samples); (records, 0) where no recipe needs them"""
    off: np.ndarray
    """bool a record: the machine is off, by its level and mains line; its scores set no cut, as in jobs/label.py"""
    calibration_records: int
    unlabelled_pool: bool = False

    def rows(self, setting: Setting) -> Split:
        """Who is trained on and who is judged in a cell."""
        return split(self.records, self.fold, setting, self.calibration_records, self.unlabelled_pool)

    def task(self, rows: Split, seed: int) -> "Task":
        """What a recipe is given in a cell."""
        label = self.records.label[rows.labelled]
        return Task(self.table, self.vectors, self.waveforms, rows.pool, rows.calibration, rows.judged, rows.labelled, label, seed)


@dataclass(frozen=True)
class Task:
    """What a recipe is given: features, rows, and no label but those of its budget."""

    table: TrainingTable
    vectors: dict[str, np.ndarray]
    waveforms: np.ndarray
    pool: np.ndarray
    calibration: np.ndarray
    judged: np.ndarray
    labelled: np.ndarray
    label: np.ndarray
    """of the rows in `labelled`"""
    seed: int

    def sensors(self, rows: np.ndarray) -> list[Sensor]:
        return self.table.sensors.of(rows)

    @property
    def label_of(self) -> np.ndarray:
        """The label of each record of the table as far as the budget goes, "" elsewhere."""
        labels = np.full(len(self.table), UNLABELLED, dtype=object)
        labels[self.labelled] = self.label
        return labels


@dataclass(frozen=True)
class Opened:
    """A corpus whose vectors and waveforms are still in storage, and what must be known of how it was made."""

    corpus: Corpus
    by_unit: bool
    """folds are of units; else blocks of time of each"""
    num_left_out: int
    """duplicates"""


def open_corpus(
    features: Sequence[str],
    labels: str | None,
    recipes: Iterable[Recipe],
    num_folds: int,
    calibration_records: int,
    unlabelled_pool: bool,
) -> Opened:
    """The records that the recipes can be compared on. Raises TrainingError or SplitError where the tables do not hold what is needed."""
    table = open_features(features)
    for recipe in recipes:
        check_features(recipe, table)
    label = labels_of_records(labels, table) if labels else np.full(len(table), UNLABELLED, dtype=object)
    keep = independent_rows(table, label)
    num_left_out = table.num_duplicates + len(table) - len(keep)
    table, label = table.take(keep), label[keep]
    records = records_of(table, label)
    fold, by_unit = folds(records, num_folds)
    no_waveforms = np.empty((len(table), 0), np.float32)
    corpus = Corpus(table, records, fold, {}, no_waveforms, off_records(table), calibration_records, unlabelled_pool)
    return Opened(corpus, by_unit, num_left_out)


def records_of(table: TrainingTable, label: np.ndarray) -> Records:
    """The columns that splits are made by."""
    sensors = table.sensors
    unit = np.array([unit for unit, _ in sensors.names], np.str_)[sensors.code]
    _, number = np.unique(np.array([f"{u}\n{s}" for u, s in sensors.names], np.str_), return_inverse=True)
    sensor = number.reshape(-1)[sensors.code]
    time = times_ms(table.index)
    order = np.empty(len(table), np.int64)
    # the earliest calibrate: a time that cannot be is none of them
    order[np.lexsort((np.array(table.index["record_id"].to_pylist(), np.str_), time, ~table.time_trusted))] = np.arange(len(table))
    return Records(unit, sensor, order, time, label)


def off_records(table: TrainingTable) -> np.ndarray:
    """bool a record: state `off`, the one that needs no waveform."""
    rms, snr = (table.index[name].to_numpy(zero_copy_only=False).astype(np.float64) for name in ("rms", "mains_snr_db"))
    return is_off(rms, snr, [table.histories[sensor] for sensor in table.sensors])


def with_values(corpus: Corpus, vectors: Sequence[str], waveforms: bool, progress: Callable[[int, int], None]) -> Corpus:
    """The corpus with its vectors, and waveforms where they are needed, read from storage; what its keys say is derived once."""
    table, rows = corpus.table, np.arange(len(corpus.table))
    _ = table.sensors, table.key_hash, table.histories
    columns = [*vectors, *["waveform"] * waveforms]
    values = {}
    for number, column in enumerate(columns):
        values[column] = table.read(column, rows, lambda done, total, number=number: progress(number * total + done, len(columns) * total))
    own = values.pop("waveform", corpus.waveforms)
    return replace(corpus, vectors=values, waveforms=own)
