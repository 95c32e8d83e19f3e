"""An archive that grew, and one that is scored again with another run."""

import pytest

from tests.pipeline.lines import FACTS, RATE_HZ, corpus_fields, write_shard
from vibray.fitting.jobs import TrainJob
from vibray.pipeline.featurize import featurize
from vibray.pipeline.jobs import FeaturizeJob, ScoreJob
from vibray.pipeline.score import score
from vibray.pipeline.train import train
from vibray.recipes import banded, mahalanobis
from vibray.storage.corpus import InputsDiffer
from vibray.storage.parts import Parts
from vibray.storage.plan import PlanMismatch
from vibray.tables.scores import open_scores

pytestmark = pytest.mark.usefixtures("local_ray")


def content(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_came_since_is_scored_and_another_run_writes_beside(tmp_path, capsys):
    archive, first, second = tmp_path / "archive", tmp_path / "first", tmp_path / "second"
    write_shard(archive / "a.jsonl", 60, seed=1)
    write_shard(archive / "b.jsonl.gz", 20, seed=2)
    featurize(FeaturizeJob(str(archive), str(tmp_path / "features"), **corpus_fields(FACTS)))
    for name, recipe in (("banded", banded()), ("mahalanobis", mahalanobis())):
        train(TrainJob((str(tmp_path / "features"),), str(tmp_path / name), recipe))
    run = str(tmp_path / "banded")
    score(ScoreJob(run, str(archive), str(first), sample_rate_hz=RATE_HZ, lines_per_part=25))
    before = content(first)

    write_shard(archive / "b.jsonl.gz", 21, seed=3)
    write_shard(archive / "c.jsonl", 15, bad=2, seed=4)
    capsys.readouterr()
    score(ScoreJob(run, str(archive), str(second), sample_rate_hz=RATE_HZ, corpus="archive-2", since_plan=str(first)))
    out = capsys.readouterr().out
    assert "since then 1 came and 1 changed" in out
    assert "changed, so scored again as a whole: b.jsonl.gz" in out
    assert "read 38 = kept 36 + set aside 2" in out
    ids = Parts(str(second)).read(["record_id"])["record_id"].to_pylist()
    assert {name.split("@")[0] for name in ids} == {"b.jsonl.gz", "c.jsonl"}
    assert content(first) == before

    both = open_scores([str(first), str(second)])  # under names of their own
    assert both.scores.num_rows == 60 + 36  # of the changed shard its later records alone
    assert both.num_duplicates == 0
    score(ScoreJob(run, str(archive), str(tmp_path / "third"), sample_rate_hz=RATE_HZ, since_plan=str(second)))
    assert "since then 0 came and 0 changed" in capsys.readouterr().out
    assert Parts(str(tmp_path / "third")).total("num_read") == 0
    with pytest.raises(InputsDiffer, match="--corpus"):
        open_scores([str(first), str(tmp_path / "third")])

    with pytest.raises(PlanMismatch, match=r"run\.recipe"):
        score(ScoreJob(str(tmp_path / "mahalanobis"), str(archive), str(first), sample_rate_hz=RATE_HZ, lines_per_part=25))
    assert content(first) == before
    score(ScoreJob(str(tmp_path / "mahalanobis"), str(archive), str(tmp_path / "beside"), sample_rate_hz=RATE_HZ))
    assert content(first) == before
    assert Parts(str(tmp_path / "beside")).total("num_kept") == 60 + 21 + 15
