"""Which records a diagnosis learns from."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from tests.tables.sensors import numbered
from vibray.decide.splits import UNLABELLED
from vibray.fitting.data import classifier_lesson, without_labelled
from vibray.fitting.diagnosis import labels_of
from vibray.schema import ORIGIN
from vibray.storage.corpus import CorpusFacts
from vibray.tables.training import TrainingTable

START = datetime(2026, 1, 1, tzinfo=UTC)


def table(rows: list[tuple[str, str, int]], untrusted: tuple[int, ...] = (), repeats: tuple[int, ...] = ()) -> TrainingTable:
    """(unit, sensor, second) a record."""
    at = np.arange(len(rows))
    columns = {
        "corpus": ["c"] * len(rows),
        "record_id": [f"s@{i}" for i in at],
        "line": [None] * len(rows),
        "unit": [unit for unit, _, _ in rows],
        "sensor_id": [sensor for _, sensor, _ in rows],
        "measured_at": [START + timedelta(seconds=second) for _, _, second in rows],
        "sample_rate_hz": [8192.0] * len(rows),
        "content_hash": [f"{i}" for i in at],
    }
    index = pa.table(columns, schema=ORIGIN)
    return TrainingTable(CorpusFacts(8192.0), {}, {"c": "c"}, index, ("p",), at * 0, at, np.isin(at, repeats), ~np.isin(at, untrusted), 0)


def lesson(names: list[str], pseudo: list[int] | None = None):
    labels = np.array([name or UNLABELLED for name in names], object)
    weights = None if pseudo is None else np.full(len(names), 0.25)
    return classifier_lesson(labels, None if pseudo is None else np.array(pseudo), weights)


def test_what_is_said_of_one_sensor_is_said_of_the_others_at_that_moment():
    rows = [("u", "a", 0), ("u", "b", 0), ("u", "c", 0), ("v", "a", 0), ("u", "a", 60), ("u", "b", 60)]
    labelled, labels = labels_of(table(rows), lesson(["arc", "", "", "", "normal", ""]), 0.5)
    assert labelled.tolist() == [0, 1, 2, 4, 5]
    assert labels.fault.tolist() == [0, 0, 0, -1, -1] and labels.label.tolist() == [1, 1, 1, 0, 0]
    assert labels.weight.tolist() == [1.0, 0.5, 0.5, 1.0, 0.5] and labels.human.tolist() == [True, False, False, True, False]
    assert len(set(labels.moment.tolist())) == 2 and len(set(labels.unit.tolist())) == 1
    alone, _ = labels_of(table(rows), lesson(["arc", "", "", "", "normal", ""]), 0.0)
    assert alone.tolist() == [0, 4]


def test_sensors_that_a_person_judged_apart_stay_as_judged_and_say_nothing_of_a_third():
    rows = [("u", "a", 0), ("u", "b", 0), ("u", "c", 0)]
    labelled, labels = labels_of(table(rows), lesson(["arc", "normal", ""]), 0.5)
    assert labelled.tolist() == [0, 1] and labels.label.tolist() == [1, 0]


def test_a_time_that_cannot_be_and_a_repeat_are_no_partners():
    rows = [("u", "a", 0), ("u", "b", 0), ("u", "c", 0)]
    labelled, _ = labels_of(table(rows, untrusted=(1,), repeats=(2,)), lesson(["arc", "", ""]), 0.5)
    assert labelled.tolist() == [0]


def test_a_persons_word_for_the_moment_stands_before_a_pseudo_label():
    rows = [("u", "a", 0), ("u", "b", 0), ("u", "a", 60)]
    labelled, labels = labels_of(table(rows), lesson(["arc", "", ""], pseudo=[-1, 0, 0]), 0.5)
    assert labelled.tolist() == [0, 1, 2]
    assert labels.label.tolist() == [1, 1, 0] and labels.fault.tolist() == [0, 0, -1] and labels.weight.tolist() == [1.0, 0.5, 0.25]
    assert labels.human.tolist() == [True, False, False]


def test_the_detector_is_fitted_on_a_sensors_other_records_where_it_has_as_many():
    sensors = [("u", "a")] * 4 + [("v", "b")] * 3
    labels = np.array(["arc", UNLABELLED, UNLABELLED, "normal", "arc", "normal", UNLABELLED], object)
    assert without_labelled(labels, np.arange(7), numbered(sensors)).tolist() == [1, 2, 4, 5, 6]
    assert without_labelled(labels, np.array([0, 1, 6]), numbered(sensors)).tolist() == [1, 6]
