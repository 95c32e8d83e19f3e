"""What evaluate and report say of one scores table, and which files they may write. No Ray, no run."""

from pathlib import Path

import numpy as np
import pytest

from tests.decide.fleet import fleet, replaced
from tests.pipeline.test_decisions import write_labels, write_scores
from vibray.decide.thresholds import PercentileConfig
from vibray.pipeline.evaluate import evaluate
from vibray.pipeline.jobs import EvaluateJob, LabelJob
from vibray.pipeline.label import as_decided, label, overall_of, read_cuts
from vibray.pipeline.report import gather
from vibray.tables import open_scores


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Scores of two corpora, one with states of every kind, labels and decisions of each."""
    folder = tmp_path_factory.mktemp("results")
    for name, seed in (("first", 0), ("second", 1)):
        table = fleet(4, num_times=100, seed=seed)
        states = np.array(["energised", "off", "transient", "sensor_fault", "unknown"])[np.arange(len(table)) % 5]
        table = replaced(table, "state", states if name == "first" else ["energised"] * len(table))
        write_scores(folder, table, name)
        write_labels(folder / f"{name}.jsonl", table, name, since=60)
        label(LabelJob((str(folder / "scores" / name),), str(folder / "decisions" / name), method=PercentileConfig(anomaly=90.0)))
    return folder


def test_evaluate_counts_the_alarms_that_the_report_shows(folder):
    """A record of a machine that is off, or of a faulty sensor, is in the areas, and no alarm."""
    scores, decisions = (str(folder / "scores" / "first"),), str(folder / "decisions" / "first")
    at = evaluate(EvaluateJob(scores, str(folder / "first.jsonl"), decisions, dry_run=True))["at_cut"]
    table = as_decided(decisions, open_scores(scores))
    data, above = gather(table, decisions, None, ""), table.scores["score"].to_numpy() >= overall_of(read_cuts(decisions)).anomaly_above
    assert at["true_alarms"] + at["false_alarms"] == data.alarm.sum() > 20
    assert data.no_alarm.sum() > 20
    np.testing.assert_array_equal(data.alarm | data.no_alarm, above)
