"""How well recipes do on machines that nobody tuned them to: the development suite.

`python -m tests.reference.suite [--recipes fused knn cwt-svdd fused+cwt-svdd ...] [--fast] [--choose]` prints, for every corpus and recipe,
AUROC, AUPRC and partial AUROC, then the mean and the worst, each recipe's difference to the first with its standard error, and the curve
over the number of records that calibrate a sensor. `a+b` is two recipes fused by their tail probabilities, as the default fuses its parts.
A deep recipe is fitted once for each of `--trainings`, and its figures are the means over them. So is a classical one for each of `--draws`
where a sensor's pool is longer than what the scaling keeps of it, drawn by the hash of a key; elsewhere it is fitted once. `--choose` picks
the default's settings by leave-one-corpus-out: a corpus's figure is that of the setting which is best on the others.
"""

import argparse
import itertools
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context

import numpy as np
import torch

from tests.reference.corpora import KS, REAL, Corpus, Records, fleet, real
from tests.reference.deep_suite import POOL, VARIANTS, Nets
from vibray import recipes
from vibray.decide.areas import auprc, auroc, partial_auroc, resampled_areas
from vibray.decide.pooling import mean_by
from vibray.features.scaling import Scaling
from vibray.fitting.classical import fit_parts
from vibray.models.ensemble import Ensemble
from vibray.models.fitted import Fitted
from vibray.models.fused import Fused, FusedMahalanobisConfig
from vibray.recipes.building import build_vector, columns_of
from vibray.recipes.kinds import ClassicalRecipe, ClassifierRecipe, DeepRecipe, DiagnosisRecipe, EnsembleRecipe
from vibray.schema import NORMAL

RECIPES = ("fused", "unsupervised", "banded", "mahalanobis", "knn", "local-knn", "pca", "movement", "iforest", "rms")
NUM_RESAMPLES = 500
DRAWS = 5
MEASURES = {"AUROC": auroc, "AUPRC": auprc, "partial AUROC": partial_auroc}

Contestant = ClassicalRecipe | DeepRecipe | EnsembleRecipe | tuple["Contestant", ...]
"""A recipe, or several to be fused by their tail probabilities."""

Where = tuple[str, int | None]
"""A corpus, seeds apart, and how many records calibrate a sensor (None: the sensors are the pool's)."""

MAIN: tuple[Where, ...] = (("fleet", max(KS)), ("uestc", None), ("hit", None), ("femto", 50), ("femto", 10), ("gfd", None))
SHOWN: tuple[Where, ...] = (*(("fleet", k) for k in KS), ("quiet", max(KS)), *MAIN[1:])


@dataclass(frozen=True)
class Said:
    """Scores (trainings, records) of a recipe; where training draws nothing there is one. A draw of keys counts as a training."""

    pool: np.ndarray
    test: dict[int | None, np.ndarray]
    """by the number of records that calibrate a sensor"""


@dataclass(frozen=True)
class Judged:
    """What recipes say of one corpus' test records, (trainings, records) each."""

    where: Where
    abnormal: np.ndarray
    cluster: np.ndarray
    scores: dict[str, np.ndarray]
    over_sensors: dict[str, np.ndarray] | None
    """of the means over a unit's sensors at one time; None where no unit has several"""


class Given:
    """A detector whose score is the column that it is given."""

    def update(self, x: torch.Tensor, key_hash: np.ndarray) -> None: ...

    def finish(self) -> bool:
        return False

    def score(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, 0]


def fitted(recipe: ClassicalRecipe, pool: Records, mains_hz: float | None, draw: int = 0) -> tuple[Scaling, Fitted]:
    """The recipe on a pool, as training fits it."""
    scaling, detector, _ = fit_parts(recipe, mains_hz, [pool.rows(draw)], lambda part: part)
    return scaling, detector


def classical(corpus: Corpus, recipe: ClassicalRecipe, draws: int) -> Said:
    """What it says, a row a draw of the pool's keys; one where all records of a sensor are kept."""
    longest = max(Counter(corpus.pool.sensors).values())
    each = [_drawn(corpus, recipe, draw) for draw in range(draws if longest > recipe.scaling.records_per_sensor else 1)]
    test = {k: np.stack([one.test[k] for one in each]) for k in each[0].test}
    return Said(np.stack([one.pool for one in each]), test)


def _drawn(corpus: Corpus, recipe: ClassicalRecipe, draw: int) -> Said:
    """Fitted on one draw of the corpus' pool, and its scores (records)."""
    columns = columns_of(build_vector(recipe.feature, corpus.facts.mains_hz), recipe.detector.blocks)
    scaling, detector = fitted(recipe, corpus.pool, corpus.facts.mains_hz, draw)
    test: dict[int | None, np.ndarray] = {}
    for k in corpus.ks or (None,):
        own = scaling
        if k is not None and corpus.context is not None:
            vectors = corpus.context.vectors
            own = scaling.with_sensors((sensor, vectors[at]) for sensor, at in corpus.context.first(k))
        x = own(corpus.test.vectors, corpus.test.sensors)[:, columns]
        test[k] = detector.score(x).numpy()
    return Said(detector.score(scaling(corpus.pool.vectors, corpus.pool.sensors)[:, columns]).numpy(), test)


def fused(table: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """From the pool's scores (records, members), the fusion of their tail probabilities."""
    detector = Fused(FusedMahalanobisConfig(), [Given() for _ in table.T], [1] * table.shape[1])  # type: ignore[misc]
    key = np.arange(len(table), dtype=np.uint64)
    detector.update(table, key)
    while detector.finish():
        detector.update(table, key)
    return detector.score


def ensemble(recipe: EnsembleRecipe, table: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """From the pool's scores (records, members), the recipe's own fusion."""
    model = Ensemble(recipe.fusion)
    model.fit(dict(zip(recipe.members, table.T, strict=True)))
    return lambda x: model.fuse(dict(zip(recipe.members, x.T, strict=True)))


def together(members: Sequence[Said], fit: Callable[[torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]) -> Said:
    """Several recipes as one, training by training."""
    num = max(len(one.pool) for one in members)

    def table(scores: Sequence[np.ndarray], training: int) -> torch.Tensor:
        return torch.from_numpy(np.stack([own[training % len(own)] for own in scores], axis=1).astype(np.float64))

    pools = [table([one.pool for one in members], i) for i in range(num)]
    fusions = [fit(pool) for pool in pools]

    def of(k: int | None) -> np.ndarray:
        return np.stack([fuse(table([one.test[k] for one in members], i)).numpy() for i, fuse in enumerate(fusions)])

    return Said(np.stack([fuse(pool).numpy() for fuse, pool in zip(fusions, pools, strict=True)]), {k: of(k) for k in members[0].test})


def said(corpus: Corpus, nets: Nets, recipe: Contestant, trainings: Sequence[int], draws: int) -> Said:
    """What a recipe fitted on the corpus' pool says of it, and of the test records for each number of calibrating ones."""
    match recipe:
        case ClassicalRecipe():
            return classical(corpus, recipe, draws)
        case DeepRecipe():
            each = [nets.scores(recipe, training) for training in trainings]
            of = {name: np.stack([one[name] for one in each]) for name in each[0]}
            return Said(of[POOL], {k: of[str(k)] for k in corpus.ks or (None,)})
        case EnsembleRecipe():
            return together([said(corpus, nets, one, trainings, draws) for one in recipe.members.values()], partial(ensemble, recipe))
    return together([said(corpus, nets, one, trainings, draws) for one in recipe], fused)


def judged(corpus: Corpus, those: Mapping[str, Contestant], trainings: Sequence[int], draws: int = DRAWS) -> list[Judged]:
    """Every recipe fitted on the corpus' pool, and its scores for each number of calibrating records."""
    torch.set_num_threads(1)
    nets, name, moment = Nets(corpus), corpus.name.split()[0], corpus.test.moment
    found = {one: said(corpus, nets, recipe, trainings, draws) for one, recipe in those.items()}
    several = len(np.unique(moment)) < len(moment)

    def of(k: int | None) -> Judged:
        scores = {one: own.test[k] for one, own in found.items()}
        means = {one: np.stack([mean_by(moment, row) for row in own]) for one, own in scores.items()} if several else None
        return Judged((name, k), corpus.test.labels != NORMAL, corpus.cluster, scores, means)

    return [of(k) for k in corpus.ks or (None,)]


def _corpus(name: str) -> Corpus:
    kind, _, seed = name.partition(" ")
    return real(kind) if kind in REAL else fleet(int(seed), disturbed=kind == "fleet")


def _judged_by_name(those: Mapping[str, Contestant], trainings: Sequence[int], draws: int, name: str) -> list[Judged]:
    return judged(_corpus(name), those, trainings, draws)


def all_judged(
    those: Mapping[str, Contestant],
    seeds: Sequence[int],
    quiet: Sequence[int],
    trainings: Sequence[int] = (0,),
    draws: int = DRAWS,
    processes: int | None = None,
) -> dict[Where, list[Judged]]:
    """What the recipes say of every corpus of the suite, by corpus, one entry a seed. A process a core."""
    names = [*REAL, *(f"fleet {seed}" for seed in seeds), *(f"quiet {seed}" for seed in quiet)]
    found: dict[Where, list[Judged]] = {}
    with ProcessPoolExecutor(processes or os.cpu_count(), get_context("spawn")) as pool:
        for of_corpus in pool.map(partial(_judged_by_name, those, trainings, draws), names):
            for one in of_corpus:
                found.setdefault(one.where, []).append(one)
    return found


# ---------------------------------------------------------------- figures


def by_training(measure: str, runs: Sequence[Judged], recipe: str, over_sensors: bool = False) -> np.ndarray:
    """(seeds, trainings); NaN where no unit has several sensors and their mean is asked for."""
    scores = [(run.over_sensors or {}) if over_sensors else run.scores for run in runs]
    return np.array(
        [
            [MEASURES[measure](row, run.abnormal) for row in own[recipe]] if recipe in own else [np.nan]
            for own, run in zip(scores, runs, strict=True)
        ],
        dtype=np.float64,
    )


def figure(measure: str, runs: Sequence[Judged], recipe: str, over_sensors: bool = False) -> float:
    """Mean over the seeds and trainings."""
    return float(by_training(measure, runs, recipe, over_sensors).mean())


def over_suite(figures: Mapping[Where, float]) -> float:
    """The mean over the suite's corpora, femto's two calibrations counting half each."""
    weight = {where: 0.5 if where[0] == "femto" else 1.0 for where in MAIN}
    return float(np.average([figures[where] for where in MAIN], weights=list(weight.values())))


def difference(measure: str, runs: Sequence[Judged], recipe: str, other: str, rng: np.random.Generator) -> np.ndarray:
    """Resampled differences of a figure, recipe less other, on the same draws of clusters, averaged over seeds and trainings."""
    column = list(MEASURES).index(measure)
    total = np.zeros(NUM_RESAMPLES)
    for run in runs:
        names, place = np.unique(run.cluster, return_inverse=True)
        drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), NUM_RESAMPLES)[:, place]
        both = [
            np.mean([resampled_areas(row, run.abnormal, drawn)[:, column] for row in run.scores[name]], axis=0) for name in (recipe, other)
        ]
        total += (both[0] - both[1]) / len(runs)
    return total


def show(found: Mapping[Where, list[Judged]], names: Sequence[str], seeds: Sequence[int]) -> None:
    shown = [where for where in SHOWN if where in found]
    heads = [name if k is None else f"{name} {k}" for name, k in shown]
    wide = max(map(len, (*names, *MEASURES)))
    print(f"{len(seeds)} fleets of 8 unseen units, their sensors calibrated with the earliest 1 to {max(KS)} records; quiet: without")
    print("disturbances; femto: new bearings, with 50 and 10; uestc, hit and gfd: the pool's own sensors. Mean and worst are of fleet 200,")
    print("uestc, hit, femto (half each) and gfd.")
    for measure in MEASURES:
        print(f"\n{measure:{wide}} " + " ".join(f"{head:>9}" for head in heads) + f" {'mean':>7} {'worst':>7}")
        for name in names:
            figures = {where: figure(measure, found[where], name) for where in shown}
            cells = " ".join(f"{figures[where]:9.3f}" for where in shown)
            print(f"{name:{wide}} {cells} {over_suite(figures):7.4f} {min(figures[where] for where in MAIN):7.3f}")
    drawn = [where for where in shown if any(len(scores) > 1 for run in found[where] for scores in run.scores.values())]
    if drawn:
        print("\nAUROC by draw of the keys, or training: smallest and largest; the figures above are means over them")
        print(f"{'':{wide}} " + " ".join(f"{name if k is None else f'{name} {k}':>14}" for name, k in drawn))
    for name in names if drawn else ():
        each = [by_training("AUROC", found[where], name).mean(axis=0) for where in drawn]
        print(f"{name:{wide}} " + " ".join(f"{own.min():.4f} .. {own.max():.4f}" for own in each))
    print("\nAUROC of the mean over a unit's sensors at one time")
    several = [where for where in shown if where[0] in ("fleet", "gfd", "quiet")]
    print(f"{'':{wide}} " + " ".join(f"{name if k is None else f'{name} {k}':>9}" for name, k in several))
    for name in names:
        cells = " ".join(f"{figure('AUROC', found[where], name, True):9.3f}" for where in several)
        print(f"{name:{wide}} {cells}")
    for measure in ("AUROC", "AUPRC"):
        print(f"\n{measure}, {names[0]} less each (standard error of the paired difference: units, or blocks of time, drawn again)")
        print(f"{'':{wide}} " + " ".join(f"{head:>13}" for head in heads) + "    mean [95 %]")
        for name in names[1:]:
            rng = np.random.default_rng(0)
            of = {where: difference(measure, found[where], names[0], name, rng) for where in shown}
            mean = sum(of[where] * (0.5 if where[0] == "femto" else 1.0) for where in MAIN) / 5
            at = {where: figure(measure, found[where], names[0]) - figure(measure, found[where], name) for where in shown}
            cells = " ".join(f"{at[where]:+.3f}({np.nanstd(of[where]):.3f})" for where in shown)
            low, high = np.nanquantile(mean, (0.025, 0.975))
            print(f"{name:{wide}} {cells} {over_suite(at):+.4f} [{low:+.4f}, {high:+.4f}]")


# ---------------------------------------------------------------- the default's settings


def settings() -> Iterator[tuple[str, ClassicalRecipe]]:
    """What the default was chosen from."""
    default = recipes.fused()
    blocks = {
        "without coarse": ("bands", "steady", "octaves", "lines"),
        "five parts": ("bands", "steady", "coarse", "octaves", "lines"),
        "with log_mean": ("bands", "steady", "coarse", "octaves", "lines", "log_mean"),
        "log_mean for coarse": ("bands", "steady", "log_mean", "octaves", "lines"),
        "with movement": ("bands", "steady", "coarse", "octaves", "lines", "movement"),
        "with log_cv": ("bands", "steady", "coarse", "octaves", "lines", "log_cv"),
    }
    for (what, own), fall, rise, prior in itertools.product(blocks.items(), (2.0, 4.0, 6.0), (6.0, 12.0), (16.0, 64.0, 256.0, 1024.0)):
        scaling = replace(default.scaling, limits=(fall, rise), prior_records=prior)
        yield (
            f"{what}, fall {fall:g}, rise {rise:g}, prior {prior:g}",
            replace(default, scaling=scaling, detector=replace(default.detector, blocks=own)),
        )


def choose(seeds: Sequence[int], draws: int) -> None:
    """Prints which setting is the best on all corpora but one, what it has on that one, and which is the best on all."""
    those = dict(settings())
    found = all_judged(those, seeds, [], draws=draws)
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


def named(name: str) -> Contestant:
    """The recipe of a name, or those of several joined by +."""
    if "+" in name:
        return tuple(named(one) for one in name.split("+"))
    recipe = (recipes.NAMED | VARIANTS)[name]()
    assert not isinstance(recipe, ClassifierRecipe | DiagnosisRecipe), "a classifier needs labels"
    return recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--recipes", nargs="+", default=list(RECIPES), help="names, a+b of two fused; the first is compared with all others"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="fleets")
    parser.add_argument("--quiet-seeds", type=int, nargs="*", default=[0, 1], help="fleets without disturbances")
    parser.add_argument("--trainings", type=int, nargs="+", default=[0], help="seeds of the nets' weights and of the order of records")
    parser.add_argument(
        "--draws", type=int, default=DRAWS, help="seeds of the keys that decide which records of a long past a classical recipe keeps"
    )
    parser.add_argument("--processes", type=int, help="at once; default: one a core")
    parser.add_argument("--fast", action="store_true", help="one fleet of each kind")
    parser.add_argument("--choose", action="store_true", help="choose the default's settings instead")
    arguments = parser.parse_args()
    seeds, quiet = ([0], [0]) if arguments.fast else (arguments.seeds, arguments.quiet_seeds)
    start = time.perf_counter()
    if arguments.choose:
        choose(seeds, arguments.draws)
    else:
        those = {name: named(name) for name in arguments.recipes}
        show(all_judged(those, seeds, quiet, arguments.trainings, arguments.draws, arguments.processes), list(those), seeds)
    print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
