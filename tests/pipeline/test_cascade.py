"""The cascade end to end: a gate distilled from a run's scores, what the run sees and what it does not, what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.pipeline.lines import FACTS, RATE_HZ, corpus_fields, write_labels, write_shard
from vibray.config import UserError
from vibray.decide.thresholds import PercentileConfig
from vibray.fitting.jobs import TrainJob
from vibray.models.ensemble import EnsembleConfig
from vibray.pipeline.distil import CascadeMismatch, distil, load_cascade
from vibray.pipeline.evaluate import evaluate
from vibray.pipeline.featurize import featurize
from vibray.pipeline.jobs import DistilJob, EvaluateJob, FeaturizeJob, LabelJob, ScoreJob
from vibray.pipeline.label import label
from vibray.pipeline.score import score
from vibray.pipeline.train import train
from vibray.recipes import EnsembleRecipe, banded, knn
from vibray.storage import objects
from vibray.storage.parts import Parts
from vibray.storage.plan import PlanMismatch

pytestmark = pytest.mark.usefixtures("local_ray")

SHARE = 0.2


@pytest.fixture(scope="module")
def line(tmp_path_factory, local_ray):
    """A pool, an ensemble that is cheap to train in the place of a deep one, its scores, its gate, and an archive scored by the cascade."""
    folder = tmp_path_factory.mktemp("cascade")
    for name, seed in (("pool", 1), ("archive", 3)):
        labels = write_shard(folder / name / "a.jsonl", 260, bad=3, seed=seed, fault_share=0.1)
        write_labels(folder / f"{name}_labels.jsonl", labels)
    write_shard(folder / "archive" / "b.jsonl", 40, seed=4, unit="t2")
    recipe = EnsembleRecipe(members={"banded": banded(), "knn": knn()}, fusion=EnsembleConfig(weights=(("banded", 0.6), ("knn", 0.4))))
    featurize(FeaturizeJob(str(folder / "pool"), str(folder / "features"), **corpus_fields(FACTS)))
    train(TrainJob((str(folder / "features"),), str(folder / "run"), recipe))
    for name in ("pool", "archive"):
        score(ScoreJob(str(folder / "run"), str(folder / name), str(folder / f"scores-{name}"), sample_rate_hz=RATE_HZ))
    distil(DistilJob(str(folder / "features"), str(folder / "scores-pool"), str(folder / "gate")))
    cascaded(folder, "cascaded")
    return folder


def cascaded(folder, name: str, share: float = SHARE, **options) -> str:
    uri = str(folder / name)
    job = ScoreJob(str(folder / "run"), str(folder / "archive"), uri, RATE_HZ, cascade=str(folder / "gate"), cascade_share=share)
    score(replace(job, **options))
    return uri


def scored(uri) -> dict:
    table = Parts(str(uri)).read()
    return {row["record_id"]: row for row in table.to_pylist()}


def test_the_run_scores_what_the_gate_calls_high_and_the_gate_the_rest(line):
    own, found = scored(line / "scores-archive"), scored(line / "cascaded")
    run_content = objects.read_json(str(line / "gate" / "gate.json"))["run"]["content"]
    threshold = load_cascade(str(line / "gate"), SHARE, run_content).gate.threshold(SHARE)
    assert own.keys() == found.keys()
    deep = {key for key, row in found.items() if row["deep"]}
    assert 0 < len(deep) < len(found) / 2
    for key, row in found.items():
        if key in deep:
            assert row["score"] == pytest.approx(own[key]["score"], rel=1e-5, abs=1e-6)
        else:
            assert row["score"] <= threshold + 1e-6
        assert row["state"] == own[key]["state"] and not [name for name in row if name.startswith("score_")]
    # a sensor that the gate does not know is the run's, whatever the gate would say
    assert all(row["deep"] for key, row in found.items() if key.startswith("b.jsonl"))


def test_high_scores_survive_the_gate(line):
    own, found = scored(line / "scores-archive"), scored(line / "cascaded")
    known = [key for key in own if key.startswith("a.jsonl")]
    high = sorted(known, key=lambda key: -own[key]["score"])[: len(known) // 20]
    assert np.mean([found[key]["deep"] for key in high]) >= 0.6  # by chance .2; a real pool is larger than 260 records


def test_the_account_says_how_many_the_run_saw(line):
    summary = objects.read_json(str(line / "cascaded" / "summary.json"))
    parts = Parts(str(line / "cascaded"))
    assert summary["num_deep"] == sum(row["deep"] for row in scored(line / "cascaded").values()) == parts.total("num_deep")
    assert summary["run"]["cascade"]["share"] == SHARE and summary["run"]["members"] == []
    assert summary["read"] == summary["kept"] + sum(summary["set_aside"].values()) == 303


def test_parts_and_batch_mates_do_not_change_a_cascades_scores(line):
    found, parted = scored(line / "cascaded"), scored(cascaded(line, "parted", lines_per_part=37))
    assert {key: row["deep"] for key, row in found.items()} == {key: row["deep"] for key, row in parted.items()}
    np.testing.assert_allclose([parted[key]["score"] for key in found], [row["score"] for row in found.values()], rtol=1e-5, atol=1e-6)


def test_later_stages_read_a_cascades_scores(line, tmp_path):
    label(LabelJob((str(line / "cascaded"),), str(tmp_path / "decisions"), method=PercentileConfig()))
    evaluate(EvaluateJob((str(line / "cascaded"),), str(line / "archive_labels.jsonl"), str(tmp_path / "decisions")))
    assert objects.read_json(str(line / "cascaded" / "evaluation.json"))["auroc"] > 0.8


def test_the_gate_says_what_its_shares_cost(line):
    rows = objects.read_json(str(line / "gate" / "agreement.json"))["pool"]
    assert {(row["share"], row["rate"]) for row in rows} >= {(0.1, 0.01), (0.1, 0.05), (0.3, 0.05)}
    of = {(row["share"], row["rate"]): row["recall"] for row in rows}
    assert of[0.05, 0.05] <= of[0.3, 0.05] and of[0.3, 0.05] >= 0.6


def test_the_same_command_again_has_nothing_to_do(line, capsys):
    distil(DistilJob(str(line / "features"), str(line / "scores-pool"), str(line / "gate")))
    cascaded(line, "cascaded")
    assert capsys.readouterr().out.count("is finished already") == 2


def test_what_does_not_belong_together_is_refused(line, tmp_path):
    train(TrainJob((str(line / "features"),), str(tmp_path / "other"), banded()))
    with pytest.raises(CascadeMismatch, match="another run"):
        job = ScoreJob(str(tmp_path / "other"), str(line / "archive"), str(tmp_path / "scores"), RATE_HZ)
        score(replace(job, cascade=str(line / "gate"), cascade_share=SHARE))
    with pytest.raises(CascadeMismatch, match="between 0 and 1"):
        cascaded(line, "never", share=1.5)
    with pytest.raises(PlanMismatch, match="share"):
        cascaded(line, "cascaded", share=0.3)
    with pytest.raises(CascadeMismatch, match="deep detector or an ensemble"):
        distil(DistilJob(str(line / "features"), str(line / "cascaded"), str(tmp_path / "gate")))
    with pytest.raises(CascadeMismatch, match="the same shards"):
        score(ScoreJob(str(line / "run"), str(line / "archive"), str(tmp_path / "elsewhere"), sample_rate_hz=RATE_HZ, corpus="elsewhere"))
        distil(DistilJob(str(line / "features"), str(tmp_path / "elsewhere"), str(tmp_path / "gate")))


def test_a_file_of_the_gate_that_is_another_is_noticed(line, tmp_path):
    for name in ("gate.json", "scaling.json", "agreement.json", "model.safetensors", "_done.json"):
        objects.write_bytes(str(tmp_path / name), objects.read_bytes(str(line / "gate" / name)))
    facts = json.loads(objects.read_bytes(str(tmp_path / "gate.json")))
    (tmp_path / "model.safetensors").write_bytes(b"something else")
    with pytest.raises(UserError, match=r"model\.safetensors is not the file that was written there"):
        load_cascade(str(tmp_path), SHARE, facts["run"]["content"])
