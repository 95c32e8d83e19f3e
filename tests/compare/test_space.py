"""Search spaces: what is drawn, between which bounds, and that a recipe comes back from its own values."""

from dataclasses import replace

import optuna
import pytest

from vibray.compare.space import Choice, Range, SpaceError, bounded, own_params, propose, recipe_of, space_of, to_values
from vibray.config import from_json, short_hash, to_json
from vibray.models.deep_svdd import DeepSvddConfig
from vibray.recipes import NAMED, cwt_svdd, cwt_vae, fused, knn, plain_svdd
from vibray.recipes.kinds import AnyRecipe, DeepRecipe

SEARCHABLE = ("cwt-svdd", "plain-svdd", "cwt-svdd-soft", "seed-svdd", "cwt-vae", "hetero-vae", "fused")


def drawn(recipe, count: int, space=None):
    """`count` random (params, recipe) of a space."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(count):
        trial = study.ask()
        made = propose(trial, recipe, space or space_of(recipe))
        yield trial.params, made


@pytest.mark.parametrize("name", SEARCHABLE)
def test_every_draw_is_a_recipe_with_a_hash_of_its_own(name):
    recipe = NAMED[name]()
    hashes = set()
    for params, made in drawn(recipe, 30):
        assert from_json(AnyRecipe, to_json(made)) == made
        assert recipe_of(params, recipe, space_of(recipe)) == made
        hashes.add(short_hash(made))
    assert len(hashes) == 30


@pytest.mark.parametrize("name", SEARCHABLE)
def test_the_recipe_as_it_is_lies_in_its_own_space(name):
    recipe = NAMED[name]()
    own = own_params(recipe, space_of(recipe))
    assert own is not None
    assert recipe_of(own, recipe, space_of(recipe)) == recipe


def test_what_another_value_makes_meaningless_is_not_drawn():
    for params, made in drawn(cwt_svdd(), 40):
        assert isinstance(made, DeepRecipe) and isinstance(made.detector, DeepSvddConfig)
        soft = params["objective"] == "soft-boundary"
        assert ("nu" in params) == soft
        assert ("weakest_db" in params) == ("metric" in params) == (not soft)
        assert (made.exposure is None) == soft
        if soft:
            assert made.detector.nu == params["nu"]
            assert made.detector.warmup_epochs < made.optim.epochs
    # pretrained one-class nets draw a metric and no injected faults
    one_class = [params for params, made in drawn(plain_svdd(), 40) if params["objective"] == "one-class"]
    assert one_class and all("metric" in params and "weakest_db" not in params for params in one_class)


def test_bounds_come_from_the_command_line():
    space = bounded(space_of(cwt_svdd()), ["latent_dim=8:64", "objective=hypersphere", "lr=0.001", "weakest_db=-30,-5"])
    assert space["latent_dim"] == Range(8, 64, whole=True)
    assert space["lr"] == Range(0.001, 0.001)
    assert space["objective"] == Choice(("hypersphere",))
    assert space["weakest_db"] == Choice((-30.0, -5.0))
    for params, _ in drawn(cwt_svdd(), 20, space):
        assert 8 <= params["latent_dim"] <= 64
        assert params["lr"] == 0.001
        assert params["objective"] == "hypersphere"
    assert own_params(cwt_svdd(), space) is None  # -20 dB is left out
    assert to_values(space)["weakest_db"] == [-30.0, -5.0]


@pytest.mark.parametrize(
    "bad",
    ["nothing=1:2", "latent_dim", "latent_dim=", "lr=0:1", "lr=2:1", "latent_dim=8.5:9", "lr=a:b", "weakest_db=x", "objective=hypershere"],
)
def test_bounds_that_mean_nothing_are_refused(bad):
    with pytest.raises(SpaceError, match="--bounds"):
        bounded(space_of(cwt_svdd()), [bad])


def test_a_recipe_without_a_space_is_told():
    with pytest.raises(SpaceError, match="cwt-svdd"):
        space_of(knn())


def test_a_default_outside_the_bounds_is_no_first_trial():
    recipe = cwt_svdd()
    small = replace(recipe, detector=replace(recipe.detector, latent_dim=4))
    assert own_params(small, space_of(small)) is None
    assert own_params(fused(), bounded(space_of(fused()), ["fall=2:4"])) is None
    vae = cwt_vae()
    own = own_params(vae, space_of(vae))
    assert own is not None and vae.trunk is not None and own["width"] == vae.trunk.width and own["lr"] == vae.optim.lr
