"""The sentence in the mission as one command: search a net's values, train the winner on everything, score the archive; all of it on S3."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.pipeline.lines import FACTS, NUM_UNITS, RATE_HZ, UNIT_RECORDS, corpus_fields, write_labels, write_units
from vibray import runs
from vibray.compare.study import Folder
from vibray.pipeline.featurize import featurize
from vibray.pipeline.jobs import FeaturizeJob
from vibray.storage import objects
from vibray.storage.parts import Parts

ROOT = Path(__file__).parents[2]
NUM_TRIALS = 3
RECIPE = """cwt-svdd --feature.rows 16 --feature.columns 16 --feature.min-hz 60 --detector.trunk.width 16 --detector.hidden 8
    --detector.latent-dim 8 --optim.epochs 2 --optim.batch-size 16"""


@pytest.mark.slow
def test_a_net_is_searched_for_trained_and_scores_the_archive(local_ray, bucket, tmp_path):
    file = write_labels(tmp_path / "labels.jsonl", write_units(tmp_path / "raw")[2::4])
    featurize(FeaturizeJob(str(tmp_path / "raw"), str(tmp_path / "features"), vectors=("spectral",), **corpus_fields(FACTS)))
    for name in ("raw", "features"):
        for info in objects.list_objects(str(tmp_path / name), hidden=True):
            objects.write_bytes(f"{bucket}/{name}/{info.key}", objects.read_bytes(str(tmp_path / name / info.key)))
    objects.write_bytes(f"{bucket}/labels.jsonl", file.read_bytes())

    command = [sys.executable, "jobs/search.py", "--features", f"{bucket}/features", "--labels", f"{bucket}/labels.jsonl"]
    command += ["--search", f"{bucket}/search", "--num-trials", str(NUM_TRIALS), "--num-folds", "2", "--calibration-records", "22"]
    command += ["--then-score", f"{bucket}/scores", "--input", f"{bucket}/raw", "--sample-rate-hz", str(RATE_HZ)]
    command += ["--bounds", "objective=hypersphere", "width=16:24", "latent_dim=8:12", *RECIPE.split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stdout + done.stderr

    assert len(Folder(f"{bucket}/search").trials()) == NUM_TRIALS
    winner = objects.read_json(f"{bucket}/search/winner.json")
    run = runs.load(f"{bucket}/search/winner")
    assert json.loads(objects.read_bytes(f"{bucket}/search/winner/recipe.json"))["hash"] == winner["hash"]
    scores = Parts(f"{bucket}/scores")
    assert scores.total("num_kept") == NUM_UNITS * UNIT_RECORDS
    assert scores.plan.identity["run"]["uri"] == f"{bucket}/search/winner"
    table = scores.read(["unit", "sensor_id", "score"], name="evidence")
    own = scores.read(["waveform"], name="evidence")["waveform"].to_pylist()
    sensors = list(zip(table["unit"].to_pylist(), table["sensor_id"].to_pylist(), strict=True))
    again = run.score(torch.from_numpy(np.asarray(own, np.float32)), RATE_HZ, sensors).numpy()
    np.testing.assert_allclose(again, table["score"].to_numpy(), rtol=1e-3)
