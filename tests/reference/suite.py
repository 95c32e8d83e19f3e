"""How well recipes do on machines that nobody tuned them to: the development suite.

`python -m tests.reference.suite [--recipes fused knn ...] [--fast] [--choose]` prints, for every corpus and recipe, AUROC, AUPRC and
partial AUROC, then the mean and the worst, each recipe's difference to the first with its standard error, and the curve over the number of
records that calibrate a sensor. `--choose` picks the default's settings by leave-one-corpus-out: a corpus's figure is that of the setting
which is best on the others.
"""

import argparse
import itertools
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context

import numpy as np
import torch

from tests.reference.corpora import KS, REAL, Corpus, Records, fleet, real
from vibray import recipes
from vibray.decide.areas import auprc, auroc, partial_auroc, weighted_auroc
from vibray.decide.pooling import mean_by
from vibray.features.scaling import Scaling, ScalingFit
from vibray.models.fitted import Fitted
from vibray.recipes import ClassicalRecipe, build_classical, build_vector, columns_of, level_of
from vibray.schema import NORMAL
from vibray.train.classical import fit_detector, fit_scaling

RECIPES = ("fused", "banded", "mahalanobis", "knn", "local-knn", "pca", "movement", "iforest", "rms")
NUM_RESAMPLES = 500
MEASURES = {"AUROC": auroc, "AUPRC": auprc, "partial AUROC": partial_auroc}

Where = tuple[str, int | None]
"""A corpus, seeds apart, and how many records calibrate a sensor (None: the sensors are the pool's)."""

MAIN: tuple[Where, ...] = (("fleet", max(KS)), ("uestc", None), ("hit", None), ("femto", 50), ("femto", 10), ("gfd", None))
SHOWN: tuple[Where, ...] = (*(("fleet", k) for k in KS), ("quiet", max(KS)), *MAIN[1:])


@dataclass(frozen=True)
class Judged:
    """What recipes say of one corpus' test records."""

    where: Where
    abnormal: np.ndarray
    cluster: np.ndarray
    scores: dict[str, np.ndarray]
    over_sensors: dict[str, np.ndarray] | None
    """of the means over a unit's sensors at one time; None where no unit has several"""


def fitted(recipe: ClassicalRecipe, pool: Records, mains_hz: float | None) -> tuple[Scaling, Fitted]:
    """The recipe on a pool, as training fits it."""
    feature = build_vector(recipe.feature, mains_hz)
    scaling = fit_scaling(ScalingFit(recipe.scaling, feature.shape, level_of(feature)), [0], pool.rows)
    columns = columns_of(feature, recipe.detector.blocks)
    return scaling, fit_detector(build_classical(recipe.detector, feature), scaling, columns, [0], pool.rows)


def judged(corpus: Corpus, those: Mapping[str, ClassicalRecipe]) -> list[Judged]:
    """Every recipe fitted on the corpus' pool, as training does it, and its scores for each number of calibrating records."""
    torch.set_num_threads(1)
    found: dict[int | None, dict[str, np.ndarray]] = {}
    for name, recipe in those.items():
        columns = columns_of(build_vector(recipe.feature, corpus.mains_hz), recipe.detector.blocks)
        scaling, detector = fitted(recipe, corpus.pool, corpus.mains_hz)
        for k in corpus.ks or (None,):
            own = scaling
            if k is not None and corpus.context is not None:
                rows = dict(corpus.context.first(k))
                statistics = [scaling.statistics_of(corpus.context.vectors[at]) for at in rows.values()]
                tables = (torch.stack([one[i] for one in statistics]) for i in (0, 1))
                own = scaling.extend(list(rows), [len(at) for at in rows.values()], *tables)
            x = own(corpus.test.vectors, corpus.test.sensors)[:, columns]
            found.setdefault(k, {})[name] = detector.score(x).numpy()
    abnormal, moment = corpus.test.labels != NORMAL, corpus.test.moment
    several = len(np.unique(moment)) < len(moment)
    name = corpus.name.split()[0]
    return [
        Judged(
            (name, k),
            abnormal,
            corpus.cluster,
            scores,
            {one: mean_by(moment, s) for one, s in scores.items()} if several else None,
        )
        for k, scores in found.items()
    ]


def _corpus(name: str) -> Corpus:
    kind, _, seed = name.partition(" ")
    return real(kind) if kind in REAL else fleet(int(seed), disturbed=kind == "fleet")


def _judged_by_name(those: Mapping[str, ClassicalRecipe], name: str) -> list[Judged]:
    return judged(_corpus(name), those)


def all_judged(those: Mapping[str, ClassicalRecipe], seeds: Sequence[int], quiet: Sequence[int]) -> dict[Where, list[Judged]]:
    """What the recipes say of every corpus of the suite, by corpus, one entry a seed. A process a core."""
    names = [*(f"fleet {seed}" for seed in seeds), *(f"quiet {seed}" for seed in quiet), *REAL]
    found: dict[Where, list[Judged]] = {}
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        for of_corpus in pool.map(partial(_judged_by_name, those), names):
            for one in of_corpus:
                found.setdefault(one.where, []).append(one)
    return found


# ---------------------------------------------------------------- figures


def figure(measure: str, runs: Sequence[Judged], recipe: str, over_sensors: bool = False) -> float:
    """Mean over the seeds; NaN where no unit has several sensors and their mean is asked for."""
    scores = [(run.over_sensors or {}) if over_sensors else run.scores for run in runs]
    values = [MEASURES[measure](s[recipe], run.abnormal) if recipe in s else np.nan for s, run in zip(scores, runs, strict=True)]
    return float(np.mean(values))


def over_suite(figures: Mapping[Where, float]) -> float:
    """The mean over the suite's corpora, femto's two calibrations counting half each."""
    weight = {where: 0.5 if where[0] == "femto" else 1.0 for where in MAIN}
    return float(np.average([figures[where] for where in MAIN], weights=list(weight.values())))


def difference(measure: str, runs: Sequence[Judged], recipe: str, other: str, rng: np.random.Generator) -> np.ndarray:
    """Resampled differences of a figure, recipe less other, on the same draws of clusters, averaged over the seeds."""
    areas = {"AUROC": weighted_auroc, "AUPRC": weighted_auprc}[measure]
    total = np.zeros(NUM_RESAMPLES)
    for run in runs:
        names, place = np.unique(run.cluster, return_inverse=True)
        drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), NUM_RESAMPLES)[:, place]
        both = [np.array([areas(run.scores[name], run.abnormal, weight) for weight in drawn]) for name in (recipe, other)]
        total += (both[0] - both[1]) / len(runs)
    return total


def weighted_auprc(scores: np.ndarray, abnormal: np.ndarray, weight: np.ndarray) -> float:
    """Average precision of records that count `weight` times each."""
    order = np.argsort(-scores, kind="stable")
    true, every = np.cumsum((weight * abnormal)[order]), np.cumsum(weight[order])
    steps = np.diff(true, prepend=0.0)
    return float((steps * true / np.maximum(every, 1)).sum() / max(true[-1], 1)) if true[-1] else np.nan


def show(found: Mapping[Where, list[Judged]], names: Sequence[str], seeds: Sequence[int]) -> None:
    heads = [name if k is None else f"{name} {k}" for name, k in SHOWN]
    print(f"{len(seeds)} fleets of 8 unseen units, their sensors calibrated with the earliest 1 to {max(KS)} records; quiet: without")
    print("disturbances; femto: new bearings, with 50 and 10; uestc, hit and gfd: the pool's own sensors. Mean and worst are of fleet 200,")
    print("uestc, hit, femto (half each) and gfd.")
    for measure in MEASURES:
        print(f"\n{measure:14} " + " ".join(f"{head:>9}" for head in heads) + f" {'mean':>7} {'worst':>7}")
        for name in names:
            figures = {where: figure(measure, found[where], name) for where in SHOWN}
            cells = " ".join(f"{figures[where]:9.3f}" for where in SHOWN)
            print(f"{name:14} {cells} {over_suite(figures):7.4f} {min(figures[where] for where in MAIN):7.3f}")
    print("\nAUROC of the mean over a unit's sensors at one time")
    several = [where for where in SHOWN if where[0] in ("fleet", "gfd", "quiet")]
    print(f"{'':14} " + " ".join(f"{name if k is None else f'{name} {k}':>9}" for name, k in several))
    for name in names:
        cells = " ".join(f"{figure('AUROC', found[where], name, True):9.3f}" for where in several)
        print(f"{name:14} {cells}")
    for measure in ("AUROC", "AUPRC"):
        print(f"\n{measure}, {names[0]} less each (standard error of the paired difference: units, or blocks of time, drawn again)")
        for name in names[1:]:
            rng = np.random.default_rng(0)
            of = {where: difference(measure, found[where], names[0], name, rng) for where in SHOWN}
            mean = sum(of[where] * (0.5 if where[0] == "femto" else 1.0) for where in MAIN) / 5
            at = {where: figure(measure, found[where], names[0]) - figure(measure, found[where], name) for where in SHOWN}
            cells = " ".join(f"{at[where]:+.3f}({np.nanstd(of[where]):.3f})" for where in MAIN)
            print(f"{name:14} {cells}  mean {over_suite(at):+.4f} [{np.nanquantile(mean, 0.025):+.4f}, {np.nanquantile(mean, 0.975):+.4f}]")


# ---------------------------------------------------------------- the default's settings


def settings() -> Iterator[tuple[str, ClassicalRecipe]]:
    """What the default was chosen from."""
    default = recipes.fused()
    parts = default.detector.blocks
    blocks = {
        "five parts": parts,
        "without coarse": tuple(one for one in parts if one != "coarse"),
        "with log_mean": (*parts, "log_mean"),
        "log_mean for coarse": (*(one for one in parts if one != "coarse"), "log_mean"),
        "with movement": (*parts, "movement"),
        "with log_cv": (*parts, "log_cv"),
    }
    for (what, own), fall, rise, prior in itertools.product(blocks.items(), (4.0, 6.0), (6.0,), (64.0, 256.0, 1024.0)):
        scaling = replace(default.scaling, limits=(fall, rise), prior_records=prior)
        yield (
            f"{what}, fall {fall:g}, rise {rise:g}, prior {prior:g}",
            replace(default, scaling=scaling, detector=replace(default.detector, blocks=own)),
        )


def choose(seeds: Sequence[int]) -> None:
    """Prints which setting is the best on all corpora but one, what it has on that one, and which is the best on all."""
    those = dict(settings())
    found = all_judged(those, seeds, [])
    groups = {"fleet": [("fleet", k) for k in KS], "femto": [("femto", 50), ("femto", 10)]}
    groups |= {name: [(name, None)] for name in REAL if name != "femto"}
    table = {
        name: {corpus: float(np.mean([figure("AUROC", found[where], name) for where in own])) for corpus, own in groups.items()}
        for name in those
    }

    def best(without: str | None) -> str:
        return max(table, key=lambda name: np.mean([value for corpus, value in table[name].items() if corpus != without]))

    print(f"{len(those)} settings; a corpus's figure is that of the setting which is best on the others (fleet: mean over k)")
    for corpus, own in groups.items():
        chosen = best(corpus)
        cells = ", ".join(f"{where[0]} {where[1] or ''} {figure('AUROC', found[where], chosen):.4f}" for where in own)
        print(f"  without {corpus:6} {chosen:50} -> {cells}")
    chosen = best(None)
    print(f"  on all         {chosen:50} -> " + ", ".join(f"{corpus} {value:.4f}" for corpus, value in table[chosen].items()))
    print("the ten best on all:")
    for name in sorted(table, key=lambda name: -np.mean(list(table[name].values())))[:10]:
        print(f"  {name:50} {np.mean(list(table[name].values())):.4f} " + ", ".join(f"{c} {v:.4f}" for c, v in table[name].items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--recipes", nargs="+", default=list(RECIPES), help="names of classical recipes; the first is compared with all others"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="fleets")
    parser.add_argument("--quiet-seeds", type=int, nargs="+", default=[0, 1], help="fleets without disturbances")
    parser.add_argument("--fast", action="store_true", help="one fleet of each kind")
    parser.add_argument("--choose", action="store_true", help="choose the default's settings instead")
    arguments = parser.parse_args()
    seeds, quiet = ([0], [0]) if arguments.fast else (arguments.seeds, arguments.quiet_seeds)
    start = time.perf_counter()
    if arguments.choose:
        choose(seeds)
    else:
        those = {name: recipe for name in arguments.recipes if isinstance(recipe := recipes.NAMED[name](), ClassicalRecipe)}
        show(all_judged(those, seeds, quiet), list(those), seeds)
    print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
