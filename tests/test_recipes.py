"""Every named recipe goes to JSON and back, and nothing unknown passes."""

import pytest

from vibray.config import UserError, from_json, short_hash, to_json
from vibray.models.classical import MahalanobisConfig
from vibray.models.fused import Fused
from vibray.recipes import NAMED, small
from vibray.recipes.building import build_classical, build_vector, columns_of
from vibray.recipes.kinds import AnyRecipe, ClassicalRecipe, DeepRecipe, EnsembleRecipe


@pytest.mark.parametrize("name", NAMED)
def test_a_recipe_survives_json(name):
    recipe = NAMED[name]()
    values = to_json(recipe)
    back = from_json(AnyRecipe, values)
    assert back == recipe
    assert type(back) is type(recipe)
    assert short_hash(back) == short_hash(recipe)
    assert NAMED[name].__doc__


def test_recipes_differ_in_their_hash():
    assert len({short_hash(make()) for make in NAMED.values()}) == len(NAMED)


@pytest.mark.parametrize("name", NAMED)
def test_an_unknown_field_is_refused_wherever_it_stands(name):
    values = to_json(NAMED[name]())

    def nested(values):
        yield values
        for value in values.values():
            if isinstance(value, dict):
                yield from nested(value)

    places = [place for place in nested(values) if place is not values.get("members")]
    assert places
    for place in places:
        place["unheard_of"] = 1
        with pytest.raises(UserError, match="unheard_of"):
            from_json(AnyRecipe, values, "recipe.json")
        del place["unheard_of"]


def test_text_is_not_taken_for_a_number():
    values = to_json(NAMED["cwt-svdd"]())
    values["optim"]["epochs"] = "80"
    with pytest.raises(UserError, match=r"recipe\.json.*\n.*epochs"):
        from_json(AnyRecipe, values, "recipe.json")


def test_columns_are_blocks_or_names_and_nothing_else():
    recipe = NAMED["rms"]()
    assert isinstance(recipe, ClassicalRecipe)
    feature = build_vector(recipe.feature, None)
    assert [feature.columns()[i] for i in columns_of(feature, ("rms",))] == ["rms"]
    assert columns_of(feature, ()) == list(range(feature.shape[0]))
    assert len(columns_of(feature, ("bands",))) == 64
    with pytest.raises(UserError, match=r"'band'.*bands"):
        columns_of(feature, ("band",))


def test_the_default_has_a_part_for_the_lines_where_the_corpus_has_a_mains_frequency():
    recipe = NAMED["fused"]()
    assert isinstance(recipe, ClassicalRecipe)
    parts = {mains: build_classical(recipe.detector, build_vector(recipe.feature, mains)) for mains in (None, 50.0)}
    assert all(isinstance(detector, Fused) for detector in parts.values())
    sizes = {mains: detector.sizes for mains, detector in parts.items() if isinstance(detector, Fused)}
    assert sizes == {None: [64, 64, 48], 50.0: [64, 64, 48, 30]}
    with pytest.raises(UserError, match="--mains"):
        build_classical(MahalanobisConfig(blocks=("lines",)), build_vector(recipe.feature, None))


def test_small_recipes_are_smaller_and_nothing_else():
    recipe, smaller = NAMED["ensemble"](), small(NAMED["ensemble"](), 7)
    assert isinstance(recipe, EnsembleRecipe) and isinstance(smaller, EnsembleRecipe)
    for name, member in smaller.members.items():
        own = recipe.members[name]
        assert isinstance(member, DeepRecipe) and isinstance(own, DeepRecipe)
        assert own.trunk is not None and member.trunk is not None
        width = 16 if own.trunk.kind == "resnet18" else own.trunk.width
        assert (member.optim.epochs, member.trunk.width, member.scaling) == (7, width, own.scaling)
