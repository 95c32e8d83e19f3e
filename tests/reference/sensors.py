"""What the band transformer's attention over a unit's sensors is worth against the mean and the highest of what each says alone.

`python -m tests.reference.sensors [--seeds 0 1 2 3 4] [--fleets 4] [--epochs 4]` trains a net on generated fleets with three sensors a
unit, each unit heard by all of them or by one, and prints AUROC of unseen units' moments by the number of records that calibrate a sensor,
fleet by fleet: of the mean of the sensors' logits, each scored alone; of their highest; and of their mean where they attend to one another.
Then the same on the gearbox's four accelerometers, by the net that was pretrained without it (tests/reference/leave_corpus_out.py).
"""

import argparse
from dataclasses import replace

import numpy as np
import torch

from tests.reference.corpora import REAL, Corpus, fleet, real
from tests.reference.leave_corpus_out import examples_by_corpus, net_without, of_fleet, scaled
from vibray.decide.areas import auroc
from vibray.fitting.pretraining import PretrainingRecipe, small_transformer
from vibray.models.band_transformer import BandTransformer, mean_over
from vibray.recipes.building import Image, build_image
from vibray.schema import NORMAL

KS = (1, 16, 200)


@torch.no_grad()
def of_moments(net: BandTransformer, corpus: Corpus, image: Image, recipe: PretrainingRecipe, k: int | None) -> dict[str, float]:
    """AUROC of a corpus' test moments."""
    z, _, _, _ = scaled(corpus, image, recipe.scaling, k)
    moment, at = np.unique(corpus.test.moment, return_inverse=True)
    names = sorted({sensor for _, sensor in corpus.test.sensors})
    number = np.array([names.index(sensor) for _, sensor in corpus.test.sensors])
    slot = np.zeros(len(at), np.int64)
    for one in range(len(moment)):  # the how-manieth sensor of its moment
        own = np.flatnonzero(at == one)
        slot[own[np.argsort(number[own])]] = np.arange(len(own))
    units = torch.zeros(len(moment), int(slot.max()) + 1, *z.shape[1:])
    units[at, slot] = z
    abnormal = np.zeros(len(moment), bool)
    abnormal[at] = corpus.test.labels != NORMAL
    together, alone, there = [], [], []
    for part in units.split(128):
        out = net(part)
        together.append(mean_over(out.logit, out.present))
        alone.append(torch.stack([net(part[:, s]).logit[:, 0] for s in range(part.shape[1])], dim=1))
        there.append(out.present)
    lone, present = torch.cat(alone), torch.cat(there)
    said = {
        "mean": mean_over(lone, present),
        "highest": lone.masked_fill(~present, -torch.inf).amax(1),
        "attention": torch.cat(together),
    }
    areas = {name: auroc(score.numpy().astype(np.float64), abnormal) for name, score in said.items()}
    return {name: area for name, area in areas.items() if area is not None}


def taught(fleets: int, epochs: int) -> tuple[PretrainingRecipe, BandTransformer]:
    """A net of so many generated fleets with three sensors a unit."""
    recipe = small_transformer()
    own = replace(recipe.fleets, units=100, sensors=3)
    recipe = replace(recipe, fleets=own, optim=replace(recipe.optim, epochs=epochs, seed=0))
    return recipe, net_without("", recipe, {"fleet": [of_fleet(recipe, number) for number in range(fleets)]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--fleets", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=4)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    recipe, net = taught(arguments.fleets, arguments.epochs)
    image = build_image(recipe.feature, None)  # type: ignore[arg-type]
    print("corpus      k    mean  highest  attention")
    for k in KS:
        found = []
        for seed in arguments.seeds:
            areas = of_moments(net, fleet(seed), image, recipe, k)
            found.append([areas["mean"], areas["highest"], areas["attention"]])
            print(f"fleet {seed} {k:6}  " + "  ".join(f"{area:.4f}" for area in found[-1]), flush=True)
        gain = np.array(found)[:, 2] - np.array(found)[:, 0]
        error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else float("nan")
        print(f"k = {k}: attention less mean {gain.mean():+.4f} ({error:.4f}), {int((gain > 0).sum())} of {len(gain)} above")
    others = small_transformer()
    others = replace(others, optim=replace(others.optim, epochs=2, seed=0))
    judged = {"fleet": fleet(0)} | {one: real(one) for one in REAL}
    examples = examples_by_corpus(others, image, judged, 2)
    areas = of_moments(net_without("gfd", others, examples), judged["gfd"], image, others, None)
    print("gfd             " + "  ".join(f"{areas[name]:.4f}" for name in ("mean", "highest", "attention")))


if __name__ == "__main__":
    main()
