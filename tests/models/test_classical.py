import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import load, save
from sklearn import covariance, decomposition, ensemble, neighbors
from sklearn.metrics import roc_auc_score

from vibray.config import UserError, to_json
from vibray.models.classical import (
    AnyClassical,
    ClassicalConfig,
    IsolationForestConfig,
    KnnConfig,
    LocalKnnConfig,
    MahalanobisConfig,
    PcaConfig,
    RmsConfig,
    build,
)
from vibray.models.fitted import Fitted, TooFewRecords
from vibray.models.fused import FusedMahalanobisConfig
from vibray.models.moments import Moments
from vibray.models.trimming import TrimConfig

TRIM = TrimConfig(share=0.1, rounds=3)
CONFIGS: list[AnyClassical] = [
    MahalanobisConfig(),
    MahalanobisConfig(covariance="empirical"),
    MahalanobisConfig(covariance="empirical", ridge=0.1),
    PcaConfig(),
    PcaConfig(num_components=2),
    KnnConfig(k=3, max_records=100),
    LocalKnnConfig(k=3, max_records=100),
    IsolationForestConfig(num_trees=20, max_records=100, samples_per_tree=64),
    MahalanobisConfig(trim=TRIM),
    FusedMahalanobisConfig(blocks=("four", "two"), trim=None),
    FusedMahalanobisConfig(blocks=("one", "three", "two"), max_records=150),
    KnnConfig(max_records=100, trim=TrimConfig(records=80)),
]


def vectors(n: int, dims: int = 6, seed: int = 0, mean: float = 5.0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(dims, dims)) * np.geomspace(3, 0.1, dims)
    return torch.from_numpy((mean + rng.standard_t(5, size=(n, dims)) @ mixing.T).astype(np.float32))


def keys(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**64, n, dtype=np.uint64)


BLOCKS = {"all": 6, "four": 4, "three": 3, "two": 2, "one": 1, "empty": 0}


def built(config: AnyClassical, dims: int) -> Fitted:
    """A fused one for the blocks that its config names here, of six columns in all."""
    return build(config, *(BLOCKS[name] for name in config.blocks)) if isinstance(config, FusedMahalanobisConfig) else build(config, dims)


def fitted(config: AnyClassical, x: torch.Tensor, key_hash: np.ndarray | None = None) -> Fitted:
    detector, more = built(config, x.shape[1]), True
    while more:
        detector.update(x, keys(len(x)) if key_hash is None else key_hash)
        more = detector.finish()
    return detector


# outside implementations


@pytest.mark.parametrize(("n", "dims", "mean"), [(200, 10, 0.0), (200, 10, 1e6), (20, 60, 3.0), (2, 5, 0.0), (40, 1200, 2.0)])
def test_ledoit_wolf_is_scikit_learns(n: int, dims: int, mean: float) -> None:
    x = vectors(n, dims).double() + mean
    moments = Moments(dims)
    for batch in x.split(7):
        moments.update(batch)
    outside = covariance.LedoitWolf().fit(x.numpy())
    C, shrinkage = moments.ledoit_wolf()
    assert shrinkage == pytest.approx(outside.shrinkage_, abs=1e-6)
    np.testing.assert_allclose(C, outside.covariance_, atol=1e-6 * np.abs(outside.covariance_).max())


def test_moments_by_the_plain_sums() -> None:
    x = vectors(31, 4).double()
    moments = Moments(4)
    for batch in x.split(5):
        moments.update(batch)
    d = x - x.mean(dim=0)
    square = d.square().sum(dim=1)
    torch.testing.assert_close(moments.scatter, d.T @ d)
    torch.testing.assert_close(moments.cubic, (square[:, None] * d).sum(dim=0))
    torch.testing.assert_close(moments.quartic, square.square().sum())


@pytest.mark.parametrize(("n", "dims"), [(300, 12), (30, 80)])
def test_mahalanobis_is_scikit_learns(n: int, dims: int) -> None:
    train, test = vectors(n, dims), vectors(50, dims, seed=1)
    outside = covariance.LedoitWolf().fit(train.double().numpy()).mahalanobis(test.double().numpy())
    np.testing.assert_allclose(fitted(MahalanobisConfig(), train).score(test), np.sqrt(outside), rtol=1e-6)


def test_mahalanobis_with_the_empirical_covariance() -> None:
    train, test = vectors(300, 8), vectors(50, 8, seed=1)
    outside = covariance.EmpiricalCovariance().fit(train.double().numpy()).mahalanobis(test.double().numpy())
    np.testing.assert_allclose(fitted(MahalanobisConfig(covariance="empirical"), train).score(test), np.sqrt(outside), rtol=1e-6)
    C = np.cov(train.double().numpy().T, bias=True)
    d = test.double().numpy() - train.double().numpy().mean(axis=0)
    expected = np.sqrt((d @ np.linalg.inv(C + 0.1 * np.trace(C) / 8 * np.eye(8)) * d).sum(axis=1))
    np.testing.assert_allclose(fitted(MahalanobisConfig(covariance="empirical", ridge=0.1), train).score(test), expected, rtol=1e-9)


@pytest.mark.parametrize("num_components", [None, 1, 3])
def test_pca_residual_is_scikit_learns(num_components: int | None) -> None:
    train, test = vectors(200, 8), vectors(50, 8, seed=1)
    outside = decomposition.PCA(num_components or 0.9, svd_solver="full").fit(train.double().numpy())
    residual = test.double().numpy() - outside.inverse_transform(outside.transform(test.double().numpy()))
    score = fitted(PcaConfig(num_components=num_components, explained=0.9), train).score(test)
    np.testing.assert_allclose(score, np.linalg.norm(residual, axis=1), rtol=1e-6)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_knn_is_scikit_learns(offset: float) -> None:
    train, test = vectors(600) + offset, vectors(300, seed=1) + offset
    outside = neighbors.NearestNeighbors(n_neighbors=4, algorithm="brute").fit(train.double().numpy() - offset)
    distance, _ = outside.kneighbors(test.double().numpy() - offset)
    np.testing.assert_allclose(fitted(KnnConfig(k=4), train).score(test), distance.mean(axis=1), rtol=1e-6)
    distance, _ = outside.kneighbors()  # of the training records, each without itself
    np.testing.assert_allclose(fitted(KnnConfig(k=4), train).score(train), distance.mean(axis=1), rtol=1e-6)


def test_a_kept_record_made_again_with_other_last_digits_is_still_itself() -> None:
    train = vectors(300)
    again = train * (1 + 1e-7 * torch.randn(300, 6, generator=torch.Generator().manual_seed(0)))
    detector = fitted(KnnConfig(k=4), train)
    torch.testing.assert_close(detector.score(again), detector.score(train), rtol=1e-4, atol=0)


def test_local_knn_by_the_slow_twin() -> None:
    train, test = vectors(80).double().numpy(), vectors(20, seed=1).double().numpy()
    reach = [np.sort(np.linalg.norm(train - y, axis=1))[1:4].mean() for y in train]
    expected = [np.sort(np.linalg.norm(train - x, axis=1) / reach)[:3].mean() for x in test]
    score = fitted(LocalKnnConfig(k=3), torch.from_numpy(train).float()).score(torch.from_numpy(test).float())
    np.testing.assert_allclose(score, expected, rtol=1e-6)


def test_local_knn_does_not_mistake_a_loose_machine_for_an_abnormal_one() -> None:
    tight, loose = 0.1 * vectors(200, mean=0), 4 * vectors(200, seed=1, mean=0) + 300
    train = torch.cat([tight[:150], loose[:150]])
    share = {}
    for config in (KnnConfig(), LocalKnnConfig()):
        detector = fitted(config, train)
        share[config.kind] = float(detector.score(tight[150:]).median() / detector.score(loose[150:]).median())
    assert share["knn"] < 0.05 and 0.8 < share["local_knn"] < 1.25


@pytest.mark.parametrize(("n", "samples_per_tree"), [(500, 256), (50, 256), (2, 256), (300, 2)])
def test_isolation_forest_is_scikit_learns(n: int, samples_per_tree: int) -> None:
    train, test = vectors(n), vectors(100, seed=1)
    order = np.argsort(keys(n))
    outside = ensemble.IsolationForest(n_estimators=30, random_state=3)
    outside.set_params(max_samples=min(n, samples_per_tree)).fit(train.numpy()[order])
    detector = fitted(IsolationForestConfig(num_trees=30, samples_per_tree=samples_per_tree, seed=3), train)
    np.testing.assert_allclose(detector.score(test), -outside.score_samples(test.numpy()), atol=1e-6)


def test_rms_is_the_column_itself() -> None:
    x = vectors(10, 1)
    np.testing.assert_array_equal(fitted(RmsConfig(), x).score(x), x[:, 0].double())
    with pytest.raises(UserError, match="one column"):
        build(RmsConfig(), 2)


# invariants


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.kind)
def test_any_split_and_order_gives_the_same_detector(config: AnyClassical) -> None:
    x, test = vectors(240), vectors(40, seed=1)
    key_hash, order = keys(240), np.random.default_rng(5).permutation(240)
    detector, more = built(config, 6), True
    while more:
        workers = [pickle.loads(pickle.dumps(detector)) for _ in range(3)]
        for worker, part in zip(workers, np.array_split(order, 3), strict=True):
            for indices in (part[:50], part[:0], part[50:]):
                worker.update(x[indices], key_hash[indices])
        detector = workers[2]
        detector.merge(workers[0])
        detector.merge(pickle.loads(pickle.dumps(workers[1])))
        more = detector.finish()
    np.testing.assert_allclose(detector.score(test), fitted(config, x, key_hash).score(test), rtol=1e-9)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.kind)
def test_a_score_does_not_depend_on_batch_mates_and_survives_safetensors(config: AnyClassical) -> None:
    x, test = vectors(240), vectors(300, seed=1)
    detector = fitted(config, x)
    whole = detector.score(test)
    assert whole.shape == (300,) and len(detector.score(test[:0])) == 0
    for i in (0, 17, 299):
        np.testing.assert_allclose(detector.score(test[i : i + 1]), whole[i : i + 1], rtol=1e-12)
    back = built(config, 6)
    back.load(load(save(detector.state())))
    assert torch.equal(back.score(test), whole)
    assert torch.equal(pickle.loads(pickle.dumps(back)).score(test), whole)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.kind)
def test_the_higher_the_more_abnormal(config: AnyClassical) -> None:
    detector = fitted(config, vectors(240, mean=0))
    normal, abnormal = vectors(100, seed=1, mean=0), vectors(100, seed=2, mean=0) + torch.tensor([0, 30.0, 30.0, 0, 0, 30.0])
    scores = torch.cat([detector.score(normal), detector.score(abnormal)])
    assert roc_auc_score([0] * 100 + [1] * 100, scores) > 0.95


@pytest.mark.parametrize("config", [MahalanobisConfig(), PcaConfig(), KnnConfig(), LocalKnnConfig(), IsolationForestConfig(num_trees=10)])
def test_many_columns_and_fewer_records(config: AnyClassical) -> None:
    x = vectors(40, 400, mean=0)
    x[:, 7] = 3.0  # a constant column
    score = fitted(config, x).score(x)
    assert score.isfinite().all() and score.unique().numel() > 30


def test_repeated_records_make_no_nan() -> None:
    x = torch.cat([torch.zeros(30, 3), vectors(5, 3)])
    for config in (KnnConfig(), LocalKnnConfig(), IsolationForestConfig(num_trees=5), MahalanobisConfig(), PcaConfig(num_components=1)):
        assert fitted(config, x).score(vectors(9, 3, seed=1)).isfinite().all()


def test_the_sample_is_bounded() -> None:
    detector: Any = build(KnnConfig(max_records=50), 6)
    for seed in range(5):
        detector.update(vectors(100, seed=seed), keys(100, seed))
    assert detector.reservoir.rows.shape == (50, 6)
    detector.finish()
    assert int(detector.state()["num_records"]) == 500


# contamination


@pytest.mark.parametrize("config", [MahalanobisConfig(), PcaConfig(num_components=3)])
def test_trimming_finds_faults_of_one_kind_that_the_training_pool_holds(config: MahalanobisConfig | PcaConfig) -> None:
    def faults(n: int, seed: int) -> torch.Tensor:
        return vectors(n, seed=seed, mean=0) + 3 * torch.tensor([1, -1, 0.5, 0, 1, 0])

    train = torch.cat([vectors(540, mean=0), faults(60, 7)])
    test, labels = torch.cat([vectors(200, seed=1, mean=0), faults(200, 2)]), [0] * 200 + [1] * 200
    plain = roc_auc_score(labels, fitted(config, train).score(test))
    trimmed = roc_auc_score(labels, fitted(replace(config, trim=TrimConfig(share=0.12, rounds=3)), train).score(test))
    assert plain < 0.95 and trimmed > 0.98


def test_trimming_by_the_slow_twin() -> None:
    train, test = vectors(300), vectors(50, seed=1)
    x = train.double().numpy()
    kept = x
    for _ in range(3):
        outside = covariance.LedoitWolf().fit(kept)
        kept = x[np.argsort(outside.mahalanobis(x))[:270]]
    expected = covariance.LedoitWolf().fit(kept).mahalanobis(test.double().numpy())
    detector = fitted(MahalanobisConfig(trim=TRIM), train)
    np.testing.assert_allclose(detector.score(test), np.sqrt(expected), rtol=1e-6)
    assert int(detector.state()["num_records"]) == 270


def test_trimming_beyond_its_sample_keeps_about_the_same_share() -> None:
    x = vectors(3000)
    kept = int(fitted(MahalanobisConfig(trim=TrimConfig(share=0.1, records=500)), x).state()["num_records"])
    assert abs(kept / 3000 - 0.9) < 4 * (0.09 / 500) ** 0.5


# fused


def test_fused_scores_by_the_slow_twin() -> None:
    train, test = vectors(400, mean=0), vectors(60, seed=1, mean=0)
    config = FusedMahalanobisConfig(blocks=("four", "two"), trim=None)
    x, y = train.double().numpy(), test.double().numpy()
    inverse = []
    for columns in (slice(0, 4), slice(4, 6)):
        outside = covariance.LedoitWolf().fit(x[:, columns])
        known, new = (np.sqrt(outside.mahalanobis(rows[:, columns])) for rows in (x, y))
        levels = np.linspace(0, 0.9, 91)
        q90 = np.quantile(known, 0.9)
        decay = np.median(known[known > q90] - q90) / np.log(2)
        counted = np.interp(new, np.quantile(known, levels), 1 - levels)
        inverse.append(1 / np.where(new > q90, 0.1 * np.exp((q90 - new) / decay), counted))
    expected = -np.log(1 / np.mean(inverse, axis=0))
    np.testing.assert_allclose(fitted(config, train).score(test), expected, rtol=1e-5, atol=1e-6)


def test_a_part_that_is_often_upset_by_something_benign_has_a_small_say() -> None:
    rng = np.random.default_rng(0)

    def records(n: int, gusts: float) -> torch.Tensor:
        x = rng.normal(size=(n, 6))
        x[:, 4:] += 40 * (rng.random((n, 1)) < gusts)
        return torch.from_numpy(x.astype(np.float32))

    train, healthy, faulty = records(2000, 0.1), records(1000, 0.1), records(1000, 0.0)
    faulty[:, :4] += 2.2
    x, labels = torch.cat([healthy, faulty]), [0] * 1000 + [1] * 1000
    apart = fitted(FusedMahalanobisConfig(blocks=("four", "two")), train).score(x)
    together = fitted(MahalanobisConfig(trim=TRIM), train).score(x)
    assert roc_auc_score(labels, apart) > roc_auc_score(labels, together) + 0.02


def test_a_block_that_the_feature_leaves_empty_is_left_out() -> None:
    x = vectors(60)
    without, with_empty = (FusedMahalanobisConfig(blocks=names) for names in (("four", "two"), ("four", "empty", "two")))
    assert fitted(with_empty, x).score(x).equal(fitted(without, x).score(x))


def test_fused_says_what_is_wrong() -> None:
    for make in (
        lambda: FusedMahalanobisConfig(blocks=()),
        lambda: FusedMahalanobisConfig(max_records=10),
    ):
        with pytest.raises(UserError, match="must be"):
            make()
    config = FusedMahalanobisConfig(blocks=("all",))
    with pytest.raises(TooFewRecords, match=r"at least 20 records .* not 19"):
        fitted(config, vectors(19))
    assert fitted(config, vectors(20)).score(vectors(4, seed=1)).isfinite().all()
    assert fitted(config, torch.cat([vectors(5)] * 10)).score(vectors(4, seed=1)).isfinite().all()
    with pytest.raises(ValueError, match="finished"):
        fitted(config, vectors(30)).update(vectors(3), keys(3))


# errors and configs


@pytest.mark.parametrize(
    ("config", "needed"),
    [
        (MahalanobisConfig(), 3),
        (MahalanobisConfig(covariance="empirical"), 7),
        (PcaConfig(), 3),
        (PcaConfig(num_components=4), 6),
        (KnnConfig(k=5), 7),
        (LocalKnnConfig(k=2), 4),
        (IsolationForestConfig(), 2),
    ],
)
def test_too_few_records_names_the_number(config: AnyClassical, needed: int) -> None:
    detector = build(config, 6)
    detector.update(vectors(needed - 1), keys(needed - 1))
    with pytest.raises(TooFewRecords, match=f"at least {needed} records .* not {needed - 1}"):
        detector.finish()
    assert fitted(config, vectors(needed)).score(vectors(4, seed=1)).isfinite().all()


def test_what_cannot_be_fitted_or_scored_is_said() -> None:
    x = vectors(50)
    x[:, 2] = x[:, 1]
    with pytest.raises(UserError, match="no inverse"):
        fitted(MahalanobisConfig(covariance="empirical"), x)
    with pytest.raises(UserError, match="no inverse"):
        fitted(MahalanobisConfig(), torch.ones(50, 6))
    with pytest.raises(UserError, match="0 directions"):
        fitted(PcaConfig(), torch.ones(50, 6))
    with pytest.raises(UserError, match="leave no residual"):
        build(PcaConfig(num_components=6), 6)
    for make in (
        lambda: KnnConfig(max_records=5),
        lambda: PcaConfig(explained=1.0),
        lambda: TrimConfig(share=0.7),
        lambda: IsolationForestConfig(num_trees=0),
    ):
        with pytest.raises(UserError, match="must be"):
            make()
    for config in (MahalanobisConfig(), KnnConfig(), IsolationForestConfig(num_trees=3)):
        detector = fitted(config, vectors(50))
        with pytest.raises(ValueError, match="6 columns was given 5"):
            detector.score(vectors(3, 5))
        with pytest.raises(UserError, match="1 of 3 feature vectors"):
            detector.score(vectors(3).index_fill(0, torch.tensor(1), torch.nan))
        with pytest.raises(ValueError, match="finished"):
            detector.update(vectors(3), keys(3))


@pytest.mark.parametrize("config", [RmsConfig(), *CONFIGS], ids=lambda c: c.kind)
def test_to_json_and_back(config: AnyClassical) -> None:
    values = to_json(config, ClassicalConfig)
    assert TypeAdapter(ClassicalConfig).validate_python(values) == config
    with pytest.raises(ValueError, match="unexpected"):
        TypeAdapter(ClassicalConfig).validate_python(values | {"unexpected": 1})
