"""Who a fold of a search trains on, calibrates with and judges. No Ray, no waveform."""

import numpy as np
import pyarrow as pa

from tests.pipeline.lines import FACTS
from vibray.compare.cells import Corpus
from vibray.compare.folds import fold_rows
from vibray.decide.splits import UNLABELLED, Records, Setting
from vibray.tables.training import TrainingTable

NUM_UNITS, NUM_RECORDS = 4, 30


def corpus_of(label: np.ndarray, fold: np.ndarray) -> Corpus:
    """Four machines of a sensor each, 30 records a machine in the order of time."""
    unit = np.repeat(np.arange(NUM_UNITS), NUM_RECORDS)
    names = [f"t{u}" for u in unit]
    origin = {"corpus": ["a"] * len(unit), "record_id": [f"{i:03d}" for i in range(len(unit))], "unit": names, "sensor_id": names}
    rows = np.arange(len(unit))
    table = TrainingTable(
        FACTS,
        {},
        {"a": "a"},
        pa.table(origin),
        ("part",),
        np.zeros(len(unit), int),
        rows,
        np.zeros(len(unit), bool),
        np.ones(len(unit), bool),
        0,
    )
    records = Records(np.array(names), unit, rows, rows, label)
    return Corpus(table, records, fold, {}, np.empty((len(unit), 0), np.float32), np.zeros(len(unit), bool), 10, True)


def by_unit() -> np.ndarray:
    return np.repeat([0, 0, 1, 1], NUM_RECORDS)


def labels(num_unlabelled: int) -> np.ndarray:
    """Of each machine's records the first so many have no label, of the others every third is a fault."""
    at = np.tile(np.arange(NUM_RECORDS), NUM_UNITS)
    return np.where(at < num_unlabelled, UNLABELLED, np.where(at % 3 == 0, "tone", "normal")).astype(object)


def test_where_most_records_have_a_label_their_faults_are_trained_on_too():
    for num_unlabelled in (0, 12, 14):
        label = labels(num_unlabelled)
        corpus = corpus_of(label, by_unit())
        rows, told = fold_rows(corpus, 0, 0), corpus.rows(Setting(0, 0, 0.0))
        assert rows.split.pool.tolist() == list(range(60, 120))
        assert (label[rows.split.pool] == "tone").sum() > 0
        assert not len(rows.trusted)  # no labelled normal is left that training has not seen
        assert np.array_equal(rows.split.calibration, told.calibration)
        assert np.array_equal(rows.split.judged, told.judged)
        assert len(told.calibration) == 20


def test_labelled_records_stay_out_of_a_pool_that_has_as_many_others():
    for num_unlabelled in (15, 20):
        label = labels(num_unlabelled)
        rows = fold_rows(corpus_of(label, by_unit()), 0, 0)
        other = by_unit() != 0
        assert np.array_equal(rows.split.pool, np.flatnonzero(other & (label == UNLABELLED)))
        assert np.array_equal(rows.trusted, np.flatnonzero(other & (label == "normal")))


def test_what_a_label_says_decides_nothing_about_the_pool():
    """Among labelled records the normal and the faulty change places: the same are trained on and calibrate."""
    for num_unlabelled in (0, 8, 12, 14, 15, 20):
        label = labels(num_unlabelled)
        swapped = np.where(label == "normal", "tone", np.where(label == "tone", "normal", label))
        one, other = (fold_rows(corpus_of(own, by_unit()), 0, 0).split for own in (label, swapped))
        assert np.array_equal(one.pool, other.pool)
        assert np.array_equal(one.calibration, other.calibration)


def test_a_sensor_that_was_trained_on_is_not_calibrated_again():
    """Folds are blocks of time, and a machine has only faults in the other blocks."""
    fold = np.tile(np.repeat([0, 1], NUM_RECORDS // 2), NUM_UNITS)
    label = labels(0)
    label[(np.arange(120) < NUM_RECORDS) & (fold == 1)] = "tone"
    rows = fold_rows(corpus_of(label, fold), 0, 0)
    assert np.array_equal(rows.split.pool, np.flatnonzero(fold == 1))
    assert not len(rows.split.calibration)
