"""A smaller recipe and net from trained ones: which nets can be pruned, and to what size."""

import math
from bisect import bisect_right
from dataclasses import replace

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vibray.config import UserError
from vibray.models.backbone import TrunkConfig
from vibray.models.band_transformer import BandTransformer, BandTransformerConfig
from vibray.models.deep_svdd import DeepSvdd, DeepSvddConfig
from vibray.models.fitted import Fitted
from vibray.models.pruning import narrowed, thinned
from vibray.recipes.building import build_deep, build_feature
from vibray.recipes.kinds import DeepRecipe, Recipe

BLOCK = 8
"""channels that a CPU computes together: 27 take it as long as 28, 24 a quarter less (tests/reference/pruned.py)"""


def pruned_recipe(recipe: Recipe, share: float, epochs: int, mains_hz: float | None) -> DeepRecipe:
    """The same recipe with the largest net that has at most `share` of the operations, trained for so many epochs, without pretraining.

    Raises UserError where there is no such net, or no rule for its kind.
    """
    if not 0 < share <= 1:
        raise UserError(f"--share is a share of the net's operations and must lie above 0 and not above 1, not {share:g}")
    match recipe:
        case DeepRecipe(detector=DeepSvddConfig(trunk=TrunkConfig(kind="resnet18"))):
            return replace(
                _narrower(recipe, share, mains_hz), pretrain=replace(recipe.pretrain, epochs=0), optim=replace(recipe.optim, epochs=epochs)
            )
        case DeepRecipe(detector=BandTransformerConfig()):
            return replace(_thinner(recipe, share, mains_hz), optim=replace(recipe.optim, epochs=epochs))
    kind = recipe.detector.kind if isinstance(recipe, DeepRecipe) else recipe.kind
    raise UserError(
        f"--run is of a {kind} recipe that has no rule for pruning: give a run of Deep SVDD on ResNet-18, such as plain-svdd, or of a "
        "band transformer (an ensemble's members are pruned one by one)"
    )


def pruned(net: Fitted | nn.Module, recipe: DeepRecipe) -> DeepSvdd | BandTransformer:
    """The net of a recipe that `pruned_recipe` made, with what it keeps of the dense net's weights."""
    match net, recipe.detector:
        case DeepSvdd(), DeepSvddConfig():
            return narrowed(net, recipe.detector)
        case BandTransformer(), BandTransformerConfig():
            return thinned(net, recipe.detector)
    raise ValueError(f"no rule prunes {type(net).__name__} to {recipe.detector}")


def size_of(recipe: DeepRecipe) -> str:
    """What pruning changes of a recipe, in words."""
    if isinstance(recipe.detector, BandTransformerConfig):
        c = recipe.detector
        return f"{c.heads} heads, {c.feedforward} hidden units and {c.keep:.0%} of the tokens"
    return f"width {recipe.trunk.width}" if recipe.trunk is not None else recipe.detector.kind


def _narrower(recipe: DeepRecipe, share: float, mains_hz: float | None) -> DeepRecipe:
    assert isinstance(recipe.detector, DeepSvddConfig)
    own = recipe.detector

    def of(width: int) -> DeepRecipe:
        return replace(recipe, detector=replace(own, trunk=replace(own.trunk, width=width)))

    limit, width = share * net_mflop(recipe, mains_hz), own.trunk.width
    most = bisect_right(range(1, width + 1), limit, key=lambda one: net_mflop(of(one), mains_hz))
    if not most:
        raise UserError(f"--share {share:g}: a net of width 1 has more than that of the operations of width {width}")
    return of(most if most == width or most < BLOCK else most - most % BLOCK)


def _thinner(recipe: DeepRecipe, share: float, mains_hz: float | None) -> DeepRecipe:
    """Heads and hidden units by the fourth root of the share, then as many tokens as that leaves operations for: a token that hardly
    deviates from its context says little about a fault, a head says something about any."""
    own = recipe.detector
    assert isinstance(own, BandTransformerConfig)
    heads = max(1, math.ceil(share**0.25 * own.heads))
    part = replace(own, heads=heads, feedforward=max(1, own.feedforward * heads // own.heads), base=None, base_sha256="")

    def of(percent: int) -> DeepRecipe:
        return replace(recipe, detector=replace(part, keep=own.keep * percent / 100))

    limit = share * net_mflop(recipe, mains_hz)
    most = bisect_right(range(1, 101), limit, key=lambda percent: net_mflop(of(percent), mains_hz))
    if not most:
        raise UserError(f"--share {share:g}: one token in a hundred has more than that of the operations")
    return of(most)


def net_mflop(recipe: DeepRecipe, mains_hz: float | None) -> float:
    """Millions of floating-point operations with which the net scores one record, its image not counted: a cost without noise."""
    shape = build_feature(recipe.feature, mains_hz).shape
    # which tokens are there decides a transformer's shapes, and a meta tensor holds nothing
    device = "cpu" if isinstance(recipe.detector, BandTransformerConfig) else "meta"
    with torch.device(device), torch.no_grad(), FlopCounterMode(display=False) as counter:
        net = build_deep(recipe.detector, shape).eval()
        net.score(net(torch.ones(1, *shape)))  # type: ignore[operator] (whichever net has both)
    return counter.get_total_flops() / 1e6
