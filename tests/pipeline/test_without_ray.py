"""Where no Ray runs, none is started nor imported; and what is computed in this process is, byte for byte, what Ray's workers compute."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.pipeline.lines import FACTS, RATE_HZ, corpus_fields, tiny_svdd, write_shard
from vibray.fitting.jobs import TrainJob
from vibray.pipeline.calibrate import calibrate
from vibray.pipeline.featurize import featurize
from vibray.pipeline.jobs import CalibrateJob, FeaturizeJob, ScoreJob
from vibray.pipeline.score import score
from vibray.pipeline.train import train
from vibray.recipes import banded
from vibray.storage.parts import Parts

pytestmark = pytest.mark.usefixtures("local_ray")

ROOT = Path(__file__).parents[2]

LINE = """
import sys
from pathlib import Path

from vibray.decide.thresholds import PercentileConfig
from vibray.fitting.jobs import TrainJob
from vibray.models.ensemble import EnsembleConfig
from vibray.pipeline.evaluate import evaluate
from vibray.pipeline.featurize import featurize
from vibray.pipeline.jobs import EvaluateJob, FeaturizeJob, LabelJob, ReportJob, ScoreJob, SynthesizeJob
from vibray.pipeline.label import label
from vibray.pipeline.report import report
from vibray.pipeline.score import score
from vibray.pipeline.synthesize import synthesize
from vibray.pipeline.train import train
from vibray.recipes import banded, knn
from vibray.recipes.kinds import EnsembleRecipe
from vibray.signal.synthetic import FleetConfig

def at(name):
    return str(Path(sys.argv[1], name))

raw, features, run, scores, labels, decisions = (at(name) for name in ("raw", "features", "run", "scores", "labels.jsonl", "decisions"))
fleet = FleetConfig(num_records=240, num_units=2, sensors_per_unit=2, num_samples=2048, contamination=0.2, seed=1)
recipe = EnsembleRecipe(members={"banded": banded(), "knn": knn()}, fusion=EnsembleConfig(weights=(("banded", 0.6), ("knn", 0.4))))
synthesize(SynthesizeJob(raw, labels, fleet, shard_records=240, local=True))
featurize(FeaturizeJob(raw, features, 8192.0, num_samples=2048, unit_pattern=r"^(u\\d+)-"))
train(TrainJob((features,), run, recipe))
score(ScoreJob(run, raw, scores, 8192.0))
label(LabelJob((scores,), decisions, method=PercentileConfig()))
evaluate(EvaluateJob((scores,), labels, decisions))
report(ReportJob((scores,), at("report/index.html"), decisions, labels))
assert "ray" not in sys.modules
"""


def test_the_line_on_one_part_ends_without_ray(tmp_path):
    """Unasked but for the fleet: one part is worked on so."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-c", LINE, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [name for name in ("scores/evaluation.json", "report/index.html") if not (tmp_path / name).exists()] == []
    assert Parts(str(tmp_path / "scores")).total("num_kept") == 240


def part_files(folder) -> dict[str, bytes]:
    """Parts of every table of a folder, bad lines and markers by their names."""
    patterns = ("*.parquet", "*/*.parquet", "_done/*.json")
    return {str(path.relative_to(folder)): path.read_bytes() for pattern in patterns for path in Path(folder).glob(pattern)}


def weights(run) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(run).glob("*.safetensors")}


def test_a_classical_line_of_several_parts_has_the_same_bytes(line, tmp_path):
    """`--local` on two shards, four parts, that Ray worked on before."""
    features, run = tmp_path / "features", tmp_path / "run"
    job = FeaturizeJob(str(line / "pool"), str(features), lines_per_part=25, local=True, **corpus_fields(FACTS))
    featurize(job)
    here, there = part_files(features), part_files(line / "features")
    assert here == there
    assert len([name for name in here if name.startswith("_done")]) == 4
    assert len([name for name in here if name.startswith("bad/")]) >= 1
    train(TrainJob((str(features),), str(run), banded(), local=True))
    assert weights(run) == weights(line / "run") != {}
    for name in ("pool", "test"):
        scores = tmp_path / f"scores-{name}"
        score(ScoreJob(str(run), str(line / name), str(scores), sample_rate_hz=RATE_HZ, lines_per_part=25, local=True))
        assert part_files(scores) == part_files(line / f"scores-{name}") != {}
        assert list(scores.glob("evidence/*.parquet"))


def test_a_net_has_the_same_weights_and_scores(features, one_and_two, tmp_path):
    """One worker of Ray Train, and this process, with room for no waveform on its disk."""
    raw, run = Path(features).with_name("raw"), tmp_path / "run"
    featurize(FeaturizeJob(str(raw), str(tmp_path / "features"), local=True, **corpus_fields(FACTS)))
    assert part_files(tmp_path / "features") == part_files(features)
    train(TrainJob((str(tmp_path / "features"),), str(run), tiny_svdd(2), local=True, disk_gb=0.0))
    assert weights(run) == weights(one_and_two[0]) != {}
    for name, uri, local in (("here", run, True), ("there", one_and_two[0], False)):
        score(ScoreJob(str(uri), str(raw), str(tmp_path / name), sample_rate_hz=RATE_HZ, local=local))
    assert part_files(tmp_path / "here") == part_files(tmp_path / "there") != {}


def test_a_calibration_has_the_same_bytes(line, tmp_path):
    for name, seed in (("a.jsonl", 20), ("b.jsonl", 21)):
        write_shard(tmp_path / "new" / name, 40, seed=seed, unit="t7", gain=5.0)
    job = CalibrateJob(str(line / "run"), str(tmp_path / "new"), str(tmp_path / "there"), sample_rate_hz=RATE_HZ, records_per_sensor=25)
    calibrate(job)
    calibrate(replace(job, calibration=str(tmp_path / "here"), local=True))
    here, there = ((tmp_path / name / "calibration.parquet").read_bytes() for name in ("here", "there"))
    assert here == there
    for name, local in (("scored-here", True), ("scored-there", False)):
        own = ScoreJob(job.run, job.input, str(tmp_path / name), RATE_HZ, calibrate="first:5", lines_per_part=15, local=local)
        score(own)
    assert part_files(tmp_path / "scored-here") == part_files(tmp_path / "scored-there") != {}
    assert part_files(tmp_path / "scored-here" / "calibration") == part_files(tmp_path / "scored-there" / "calibration")
