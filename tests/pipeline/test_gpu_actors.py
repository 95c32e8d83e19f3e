"""How a part reaches a process that holds a GPU, on a Ray that is told of one: the models themselves compute on the CPU here.

The module is also the program that the test starts, since a Ray of its own needs a process of its own.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ray

from tests.pipeline.lines import FACTS, corpus_fields, write_shard
from vibray.config import short_hash
from vibray.fitting.jobs import TrainJob
from vibray.pipeline import session
from vibray.pipeline.featurize import featurize
from vibray.pipeline.jobs import FeaturizeJob, ScoreJob
from vibray.pipeline.parts import PartsJob
from vibray.pipeline.score import score_part
from vibray.pipeline.train import train
from vibray.recipes import banded
from vibray.storage.parts import Parts, check_finished

ROOT = Path(__file__).parents[2]
NUM_SHARDS, NUM_RECORDS = 3, 40


@pytest.mark.slow
def test_actors_that_hold_a_gpu_score_as_tasks_on_cores_do(tmp_path):
    command = [sys.executable, "-m", "tests.pipeline.test_gpu_actors", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 cores beside a GPU" in done.stdout
    found = [Parts(str(tmp_path / name)).read(["record_id", "score"]).sort_by("record_id") for name in ("tasks", "actors")]
    assert found[0].num_rows == NUM_SHARDS * NUM_RECORDS
    assert found[0]["record_id"].equals(found[1]["record_id"])
    np.testing.assert_array_equal(found[0]["score"].to_numpy(), found[1]["score"].to_numpy())


def main(folder: Path) -> None:
    ray.init(address="local", num_cpus=4, num_gpus=1, include_dashboard=False, log_to_driver=False)
    for i in range(NUM_SHARDS):
        write_shard(folder / "raw" / f"{i}.jsonl.gz", NUM_RECORDS, seed=i)
    featurize(FeaturizeJob(str(folder / "raw"), str(folder / "features"), vectors=("spectral",), **corpus_fields(FACTS)))
    run = str(folder / "run")
    train(TrainJob((str(folder / "features"),), run, banded()))
    content = short_hash(check_finished(run)["files"])
    print(session.cores_beside_a_gpu(), "cores beside a GPU")
    for name, use_gpu in (("tasks", False), ("actors", True)):
        identity = {"input": str(folder / "raw"), "run": {"uri": run, "content": content}}
        job = PartsJob(str(folder / "raw"), str(folder / name), "raw", FACTS, identity, 1000, "score", nets=use_gpu)
        arguments = {"scores_uri": str(folder / name), "run_uri": run, "content": content, "calibration": None}
        arguments |= {"evidence_per_part": ScoreJob.evidence_per_part, "device": "cpu", "num_threads": 1 + use_gpu}
        job.run(score_part, lambda place, own=arguments: own)
    ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
