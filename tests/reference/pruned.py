"""What pruning costs and saves: plain-svdd trained on a generated fleet, pruned, fine-tuned.

`python -m tests.reference.pruned [--share 0.2] [--epochs 8] [--seeds 0 1 2] [--bands]` prints the AUROC of the dense net, of
the pruned one before and after fine-tuning and of one of the smaller size that is trained from nothing, and the rank correlation of the
pruned net's scores with the dense one's; operations, parameters and CPU time at the recipe's full size. About eight minutes of CPU.

A fleet of 8 units: 960 records to train on, 600 later ones to judge, half of them faults. Width 64 as in the recipe, but images of 64 x 64
scaled by sensor, 2 epochs of pretraining and 4 of training: the full recipe takes half a day of CPU, and scaled by the fleet it has .6.

`--bands` does the same with the band transformer of tests/reference/sensors.py, which then learns from the dense one on the pool
of a fleet that neither has seen, without labels; its new units are calibrated with 16 records.
"""

import argparse
import time
from dataclasses import replace

import numpy as np
import torch
from scipy.stats import rankdata
from torch import nn

from tests.reference import sensors
from tests.reference.corpora import FLEET, Corpus, of_fleet
from tests.reference.corpora import fleet as generated
from tests.reference.deep_suite import Nets
from tests.reference.leave_corpus_out import embedded, scaled, source_of
from vibray import recipes
from vibray.compare.cells import seeded
from vibray.decide.areas import auroc
from vibray.features.cwt_image import CwtImageConfig
from vibray.fitting.data import Lesson
from vibray.fitting.deep import fit_deep, net_scores
from vibray.fitting.pretraining import describe, rows_of, train_on_examples
from vibray.fitting.pruned import net_mflop, pruned, pruned_recipe, size_of
from vibray.fitting.worker import alone_with
from vibray.models.band_transformer import BandTransformer
from vibray.models.inference import CpuScores
from vibray.recipes.building import build_deep, build_feature, build_image
from vibray.recipes.kinds import DeepRecipe
from vibray.schema import NORMAL
from vibray.signal.synthetic import FleetConfig
from vibray.train.distilled import Distilled

BATCH, ROUNDS = 256, 5
KINDS = ("dense", "cut", "pruned", "from nothing")


def lighter() -> DeepRecipe:
    """plain-svdd at its width, on what a few minutes of CPU are enough for."""
    recipe = recipes.plain_svdd()
    return replace(
        recipe,
        feature=CwtImageConfig(rows=64, columns=64),
        scaling=replace(recipe.scaling, by="sensor"),
        pretrain=replace(recipe.pretrain, epochs=2),
        optim=replace(recipe.optim, epochs=4),
    )


def fleet(seed: int) -> Corpus:
    pool = FleetConfig(seed=seed, num_records=960)
    test = of_fleet(replace(pool, num_records=600, first_step=200, contamination=0.5))
    return Corpus(f"pruned {seed}", FLEET, of_fleet(pool), test, np.zeros(len(test.sensors), np.int64))


def judged(seed: int, share: float, epochs: int) -> dict[str, float]:
    """AUROC by net, and how far the pruned net ranks as the dense one does."""
    corpus, recipe = fleet(seed), seeded(lighter(), seed)
    assert isinstance(recipe, DeepRecipe)
    task, abnormal = Nets(corpus).task, corpus.test.labels != NORMAL
    smaller, lesson = pruned_recipe(recipe, share, epochs, FLEET.mains_hz), Lesson(task.pool)
    with alone_with(task.table, task.waveforms) as worker:
        dense = fit_deep(worker, recipe, lesson).detecting
        fits = {
            "pruned": fit_deep(worker, smaller, lesson, dense=dense),
            "from nothing": fit_deep(worker, replace(recipe, detector=smaller.detector), lesson),
        }
        nets = {"dense": dense.detector, "cut": pruned(dense.detector, smaller)} | {n: fit.detecting.detector for n, fit in fits.items()}
        read = worker.scaled(dense.scaling, worker.images(recipe.feature))
        scores = {name: net_scores(worker, net, read, task.judged) for name, net in nets.items() if isinstance(net, nn.Module)}
    print(f"seed {seed}: guards of the pruned net: {'; '.join(fits['pruned'].guards.reasons) or 'held'}", flush=True)
    found = {name: auroc(own, abnormal) or np.nan for name, own in scores.items()}
    return found | {"ranks": float(np.corrcoef(rankdata(scores["dense"]), rankdata(scores["pruned"]))[0, 1])}


@torch.inference_mode()
def cpu_seconds(those: dict[str, DeepRecipe]) -> dict[str, list[float]]:
    """CPU time of scoring a batch as bulk scoring does, in turn."""
    shape = build_feature(recipes.plain_svdd().feature, FLEET.mains_hz).shape
    score = {name: CpuScores(build_deep(recipe.detector, shape).eval()) for name, recipe in those.items()}
    x, found = torch.randn(BATCH, *shape), {name: [] for name in those}
    for _ in range(ROUNDS + 1):
        for name, own in score.items():
            start = time.process_time()
            own(x)
            found[name].append(time.process_time() - start)
    return {name: times[1:] for name, times in found.items()}


def of_bands(share: float, epochs: int, seeds: list[int]) -> None:
    """The band transformer: dense, cut, fine-tuned on each fleet's pool."""
    recipe, net = sensors.taught(4, 4)
    image = build_image(recipe.feature, None)  # type: ignore[arg-type]
    dense = replace(recipes.band_transformer(), detector=net.config)
    smaller = pruned_recipe(dense, share, epochs, FLEET.mains_hz)
    cut = pruned(net, smaller)
    assert isinstance(cut, BandTransformer)
    x = torch.randn(BATCH, *image.shape)
    x[:, :, 85:] = 0  # as at 8192 Hz
    seconds: dict[str, list[float]] = {"dense": [], "pruned": []}
    with torch.inference_mode():
        for _ in range(4 * ROUNDS):
            for name, own in (("dense", net), ("pruned", cut)):
                start = time.process_time()
                own.score(own(x))
                seconds[name].append(time.process_time() - start)
    before, after = (net_mflop(one, FLEET.mains_hz) for one in (dense, smaller))
    low, middle, high = (np.quantile(np.array(seconds["pruned"]) / np.array(seconds["dense"]), q) for q in (0.05, 0.5, 0.95))
    print(f"{size_of(dense)} -> {size_of(smaller)}: {before:.1f} -> {after:.1f} MFLOP ({after / before:.3f})", flush=True)
    print(f"CPU time {middle:.3f} ({low:.3f} to {high:.3f})")
    print("seed     dense     cut  pruned   kept of AUROC - .5")
    for seed in seeds:
        corpus = generated(seed)
        abnormal = corpus.test.labels != NORMAL
        z, _, _, _ = scaled(corpus, image, recipe.scaling, 16)
        torch.manual_seed(seed)
        own = BandTransformer(cut.config, cut.in_shape)
        own.load_state_dict(cut.state_dict())
        optim = replace(dense.optim, epochs=epochs, seed=seed)
        examples = describe(recipe, source_of(corpus, image), image, seed)
        train_on_examples(Distilled(own, net), rows_of(recipe, [examples], [1.0]), optim)
        areas = [auroc(embedded(one.eval(), z)[1].astype(np.float64), abnormal) or np.nan for one in (net, cut, own)]
        print(f"{seed:<6} " + " ".join(f"{area:8.4f}" for area in areas) + f" {(areas[2] - 0.5) / (areas[0] - 0.5):8.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=0.2, help="of the operations that may stay")
    parser.add_argument("--epochs", type=int, default=8, help="of fine-tuning")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--bands", action="store_true", help="the band transformer instead")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.bands:
        of_bands(arguments.share, arguments.epochs, arguments.seeds)
        return
    dense = recipes.plain_svdd()
    those = {"dense": dense, "pruned": pruned_recipe(dense, arguments.share, arguments.epochs, FLEET.mains_hz)}
    seconds = cpu_seconds(those)
    shape = build_feature(dense.feature, FLEET.mains_hz).shape
    for name, recipe in those.items():
        net, mflop = build_deep(recipe.detector, shape), net_mflop(recipe, FLEET.mains_hz)
        millions = sum(parameter.numel() for parameter in net.parameters()) / 1e6
        print(f"{name:8} {size_of(recipe)}, {mflop:.0f} MFLOP, {millions:.2f} M parameters, ", end="")
        low, middle, high = np.quantile(seconds[name], (0, 0.5, 1))
        print(f"{middle:.2f} s of CPU for {BATCH} records ({low:.2f} to {high:.2f})")
    ratio = np.median(seconds["pruned"]) / np.median(seconds["dense"])
    print(f"CPU time {ratio:.3f}, operations {net_mflop(those['pruned'], FLEET.mains_hz) / net_mflop(dense, FLEET.mains_hz):.3f}")
    found = {seed: judged(seed, arguments.share, arguments.epochs) for seed in arguments.seeds}
    print("seed   " + " ".join(f"{name:>12}" for name in KINDS) + "   kept of AUROC - .5    rank correlation with the dense net")
    for seed, own in found.items():
        kept = (own["pruned"] - 0.5) / (own["dense"] - 0.5)
        print(f"{seed:<6} " + " ".join(f"{own[name]:12.4f}" for name in KINDS) + f" {kept:12.3f} {own['ranks']:12.3f}")
    if found:
        means = {name: np.mean([own[name] for own in found.values()]) for name in KINDS}
        kept = (means["pruned"] - 0.5) / (means["dense"] - 0.5)
        print("mean   " + " ".join(f"{means[name]:12.4f}" for name in KINDS) + f" {kept:12.3f}")


if __name__ == "__main__":
    main()
