import numpy as np
import pytest
import torch

from vibray.config import UserError
from vibray.models.classical import build
from vibray.models.context_scorer import BLOCKS, SIZES, WEIGHTS, ContextNet, ContextScorer, ContextScorerConfig
from vibray.models.fused import Fused, FusedMahalanobisConfig
from vibray.recipes import NAMED, fused, unsupervised, zero_shot
from vibray.recipes.building import build_classical, build_vector, columns_of
from vibray.recipes.kinds import ClassicalRecipe

SIZE = sum(SIZES)
Z = torch.from_numpy(np.random.default_rng(0).normal(size=(500, SIZE)).astype(np.float32))
KEY = np.random.default_rng(1).permutation(500).astype(np.uint64)


def finished(detector):
    detector.update(Z, KEY)
    while detector.finish():
        detector.update(Z, KEY)
    return detector


def test_the_shipped_weights_are_small_and_of_the_columns_of_the_default():
    assert WEIGHTS.stat().st_size < 1_000_000
    feature = build_vector(zero_shot().feature, 50.0)
    assert tuple(len(columns_of(feature, (name,))) for name in BLOCKS) == SIZES
    assert unsupervised().detector.blocks == BLOCKS == zero_shot().detector.blocks


def test_a_record_far_from_its_context_scores_higher_whatever_moved():
    scorer, rng = ContextScorer(), np.random.default_rng(2)
    usual = scorer.score(0.2 * Z)
    for width in (1, 8, 64):
        moved = 0.2 * Z
        for row in moved:
            start = int(rng.integers(0, SIZE - width))
            row[start : start + width] += 8.0
        assert (scorer.score(moved) > usual).float().mean() > 0.9
    assert usual.dtype == torch.float64 and usual.shape == (500,)


def test_each_record_is_scored_by_itself():
    scorer = ContextScorer()
    assert torch.allclose(scorer.score(Z)[7:8], scorer.score(Z[7:8]), rtol=1e-5)


def test_it_begins_as_the_distance_from_the_context():
    torch.manual_seed(0)
    net = ContextNet()
    assert torch.allclose(net(Z), 1.5 * Z.abs().mean(dim=1).log(), atol=1e-6)
    assert torch.isfinite(net(torch.zeros(2, SIZE))).all()


def test_a_run_holds_the_weights_it_was_made_with():
    other = ContextScorer(ContextNet())
    back = ContextScorer()
    back.load(other.state())
    assert torch.equal(back.score(Z), other.score(Z)) and not torch.equal(back.score(Z), ContextScorer().score(Z))
    part = finished(build(FusedMahalanobisConfig(scorer=True), *SIZES))
    again = build(FusedMahalanobisConfig(scorer=True), *SIZES)
    again.load(part.state())
    assert torch.equal(again.score(Z), part.score(Z))


def test_as_a_part_it_is_one_more_and_left_out_where_the_columns_are_others():
    for sizes, num in ((SIZES, 5), ((64, 64, 48, 0), 3), ((64, 64, 48, 20), 4)):
        detector = build(FusedMahalanobisConfig(scorer=True), *sizes)
        assert isinstance(detector, Fused) and len(detector.parts) == num
    without, both = (finished(build(FusedMahalanobisConfig(scorer=scorer), *SIZES)) for scorer in (False, True))
    assert isinstance(without, Fused) and len(without.parts) == 4
    moved = Z.clone()
    moved[:, :40] += 3
    rank = [float((detector.score(moved)[:, None] > detector.score(Z)).float().mean()) for detector in (without, both)]
    assert min(rank) > 0.9


def test_a_recipe_of_before_has_no_net():
    """Its run was made without: the field's default is what such a recipe meant."""
    assert not FusedMahalanobisConfig().scorer
    recipe = NAMED["fused"]()
    assert isinstance(recipe, ClassicalRecipe) and recipe == fused()


def test_alone_it_wants_the_columns_it_was_trained_on():
    with pytest.raises(UserError, match="--mains"):
        build_classical(zero_shot().detector, build_vector(zero_shot().feature, None))
    with pytest.raises(UserError, match="bands, steady"):
        ContextScorerConfig(blocks=("bands",))
    with pytest.raises(ValueError, match="206 columns"):
        ContextScorer().score(Z[:, :10])
