"""Nets in a benchmark's cell are trained as train.py trains them. No Ray, a tiny net."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from tests.pipeline.lines import FACTS, waveform
from vibray.compare.cells import scores_of
from vibray.compare.corpus import Task
from vibray.features.cwt_image import CwtImageConfig
from vibray.features.scaling import ScalingConfig
from vibray.fitting import deep
from vibray.models.backbone import TrunkConfig
from vibray.models.deep_sad import DeepSadConfig
from vibray.recipes.kinds import DeepRecipe
from vibray.schema import UNDECIDED
from vibray.tables.training import TrainingTable
from vibray.train.fit import OptimConfig

POOL, LABELLED, JUDGED = np.arange(40), np.array([3, 40, 41, 42]), np.arange(43, 48)


@pytest.fixture(scope="module")
def task() -> Task:
    """48 records of one sensor; of four, one of them in the pool, the label is told."""
    rng = np.random.default_rng(0)
    waveforms = np.array([waveform(rng, 0, fault=i % 3 == 2) for i in range(48)], np.float32)
    origin = {"corpus": ["a"] * 48, "record_id": [f"{i:03d}" for i in range(48)], "unit": ["t1"] * 48, "sensor_id": ["s"] * 48}
    table = TrainingTable(
        FACTS, {}, {"a": "a"}, pa.table(origin), ("part",), np.zeros(48, int), np.arange(48), np.zeros(48, bool), np.ones(48, bool), 0
    )
    label = np.array(["normal", "normal", "tone", "normal"], object)
    return Task(table, {}, waveforms, POOL, np.empty(0, int), JUDGED, LABELLED, label, 0)


def recipe(label_weight: float) -> DeepRecipe:
    image = CwtImageConfig(rows=16, columns=16, min_hz=60.0)
    detector = DeepSadConfig(trunk=TrunkConfig(kind="time", width=4), hidden=6, latent_dim=3, label_weight=label_weight)
    optim = OptimConfig(epochs=2, batch_size=16)
    scaling = ScalingConfig(transform="log", by="sensor", per="row")
    return DeepRecipe(feature=image, scaling=scaling, detector=detector, pretrain=replace(optim, epochs=0), optim=optim)


def test_deep_sad_weighs_the_labels_of_its_budget(task, monkeypatch):
    seen, train = [], deep.train_deep_svdd

    def trained(net, rows, *args, **options):
        seen.append(rows)
        return train(net, rows, *args, **options)

    monkeypatch.setattr(deep, "train_deep_svdd", trained)
    light, heavy = (scores_of(recipe(weight), task) for weight in (1.0, 30.0))
    for rows, weight in zip(seen, (1.0, 30.0), strict=True):
        assert rows.indices.tolist() == list(range(43))
        assert rows.targets[LABELLED].tolist() == [0, 0, 1, 0]
        assert (np.delete(rows.targets, LABELLED) == UNDECIDED).all()
        assert rows.weights[LABELLED].tolist() == [weight] * 4
        assert (np.delete(rows.weights, LABELLED) == 1).all()
    assert not np.allclose(light.judged, heavy.judged)


def test_without_a_budget_the_pool_alone_is_trained_on(task, monkeypatch):
    seen, train = [], deep.train_deep_svdd
    monkeypatch.setattr(deep, "train_deep_svdd", lambda net, rows, *a, **o: [seen.append(rows), train(net, rows, *a, **o)][1])
    scores_of(recipe(30.0), replace(task, labelled=LABELLED[:0], label=task.label[:0]))
    assert np.array_equal(seen[0].indices, POOL)
    assert seen[0].targets is seen[0].weights is None
