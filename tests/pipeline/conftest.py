"""Lines on small records that tests of several files start from, made once: none of these tests writes what another reads."""

from pathlib import Path

import pytest

from tests.pipeline.lines import FACTS, RATE_HZ, corpus_fields, tiny_svdd, write_labels, write_shard
from vibray.fitting.jobs import TrainJob
from vibray.pipeline.featurize import featurize
from vibray.pipeline.jobs import FeaturizeJob, ScoreJob
from vibray.pipeline.score import score
from vibray.pipeline.train import train
from vibray.recipes import banded


@pytest.fixture(scope="session")
def line(tmp_path_factory, local_ray):
    """A featurized pool, a trained run, scores of pool and test: what most tests start from."""
    folder = tmp_path_factory.mktemp("line")
    write_shard(folder / "pool" / "a.jsonl.gz", 60, bad=3, seed=1)
    write_shard(folder / "pool" / "b.jsonl", 40, seed=2)
    labels = write_shard(folder / "test" / "a.jsonl", 60, seed=3, fault_share=0.5)
    write_labels(folder / "test_labels.jsonl", labels)
    featurize(FeaturizeJob(str(folder / "pool"), str(folder / "features"), lines_per_part=25, **corpus_fields(FACTS)))
    train(TrainJob((str(folder / "features"),), str(folder / "run"), banded()))
    for name in ("pool", "test"):
        score(ScoreJob(str(folder / "run"), str(folder / name), str(folder / f"scores-{name}"), sample_rate_hz=RATE_HZ, lines_per_part=25))
    return folder


@pytest.fixture(scope="session")
def features(tmp_path_factory, local_ray):
    folder = tmp_path_factory.mktemp("deep")
    write_shard(folder / "raw" / "a.jsonl.gz", 53, seed=5)
    featurize(FeaturizeJob(str(folder / "raw"), str(folder / "features"), **corpus_fields(FACTS)))
    return str(folder / "features")


@pytest.fixture(scope="session")
def one_and_two(features, tmp_path_factory) -> list[Path]:
    """The same training on one worker and on two; the second tells an MLflow database of it, where mlflow is installed."""
    folder = tmp_path_factory.mktemp("one-and-two")
    for workers in (1, 2):
        with pytest.MonkeyPatch.context() as patch:
            if workers == 2:
                patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
            train(TrainJob((features,), str(folder / f"run{workers}"), tiny_svdd(2), num_workers=workers))
    return [folder / "run1", folder / "run2"]
