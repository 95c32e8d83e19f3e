"""Runs on a GPU as on a CPU: every kind of recipe scores the same, and training goes the same way, on one GPU or on all there are."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.bench.scoring import FACTS, fleet, make_run
from tests.pipeline.lines import FACTS as CORPUS
from tests.pipeline.lines import corpus_fields, tiny_svdd, write_shard
from vibray import runs
from vibray.fitting.jobs import TrainJob
from vibray.pipeline import session
from vibray.pipeline.featurize import featurize
from vibray.pipeline.jobs import FeaturizeJob
from vibray.pipeline.train import train
from vibray.recipes import NAMED, small
from vibray.recipes.kinds import ClassicalRecipe, DeepRecipe, EnsembleRecipe

pytestmark = pytest.mark.gpu

DETECTORS = [
    name
    for name, make in NAMED.items()
    if isinstance(made := make(), ClassicalRecipe | DeepRecipe | EnsembleRecipe) and not (isinstance(made, DeepRecipe) and made.base)
]


@pytest.fixture(scope="module")
def pool() -> tuple[np.ndarray, list[tuple[str, str]]]:
    return fleet(400)


@pytest.mark.parametrize("name", DETECTORS)
def test_a_run_scores_the_same(name: str, pool) -> None:
    """To a thousandth of the scores' spread: what a part that was scored on a GPU may differ by from its neighbour."""
    waveforms, sensors = pool
    recipe = small(NAMED[name]())
    assert isinstance(recipe, ClassicalRecipe | DeepRecipe | EnsembleRecipe)
    run = make_run(recipe, waveforms, sensors)
    expected = run.score(waveforms[:64], FACTS.sample_rate_hz, sensors[:64])
    got = run.to("cuda").score(waveforms[:64], FACTS.sample_rate_hz, sensors[:64])
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
    assert (got - expected).abs().max() <= 1e-3 * expected.std()


def test_a_net_learns_the_same_way_on_every_gpu_there_is(tmp_path: Path) -> None:
    """Ray Train with NCCL, a worker a GPU, beside this process on the CPU: the losses of the first epochs, and scores on either device."""
    write_shard(tmp_path / "raw" / "a.jsonl", 64, seed=5)
    featurize(FeaturizeJob(str(tmp_path / "raw"), str(tmp_path / "features"), local=True, **corpus_fields(CORPUS)))
    losses = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        train(TrainJob((str(tmp_path / "features"),), str(tmp_path / "cpu"), tiny_svdd(3), local=True))
    with session.started():
        assert session.num_gpus() == torch.cuda.device_count()
        train(TrainJob((str(tmp_path / "features"),), str(tmp_path / "gpu"), tiny_svdd(3), num_workers=torch.cuda.device_count()))
    for name in ("cpu", "gpu"):
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        losses[name] = [line["loss"] for line in lines if line["stage"] == "train"]
    np.testing.assert_allclose(losses["gpu"], losses["cpu"], rtol=0.02)
    waveforms = np.random.default_rng(0).normal(size=(16, CORPUS.num_samples)).astype(np.float32)
    run = runs.load(str(tmp_path / "gpu"))
    expected = run.score(waveforms, CORPUS.sample_rate_hz)
    torch.testing.assert_close(run.to("cuda").score(waveforms, CORPUS.sample_rate_hz), expected, rtol=1e-3, atol=1e-4)
