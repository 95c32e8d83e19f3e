"""What an adapter of a pretrained band transformer is worth on a corpus that the net has not seen.

`python -m tests.reference.adapters [--corpora gfd ...] [--fleets 2] [--epochs 2] [--seeds 0 1 2]` takes the net that was pretrained without
a corpus (tests/reference/leave_corpus_out.py) and prints AUROC on its test records of that net, frozen; with adapters trained on its pool;
with all weights trained on it; and both again with the labels of its tens of labelled records.
"""

import argparse
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from tests.reference.corpora import REAL, Corpus, fleet, real, real_records
from tests.reference.leave_corpus_out import (
    SHOWN_KS,
    embedded,
    examples_by_corpus,
    images,
    net_without,
    scaled,
    source_of,
)
from vibray.decide.areas import auroc
from vibray.fitting.examples import HEALTHY, Source
from vibray.fitting.pretraining import PretrainingRecipe, describe, rows_of, small_transformer, train_on_examples
from vibray.models.band_transformer import BandTransformer, BandTransformerConfig
from vibray.recipes.building import Image, build_image
from vibray.schema import NORMAL

EPOCHS = 4
WAYS = {"adapter": (8, 3e-3), "all": (0, 2e-4)}
"""Width of the adapters and learning rate."""


def with_labels(corpus: Corpus, image: Image) -> Source:
    """The pool and the labelled records."""
    pool = source_of(corpus, image)
    told = real_records(corpus.name, Path(os.environ["VIBRAY_CORPORA"]) / corpus.name / "labelled", labelled=True)
    x = images(told, image, "labelled", corpus)
    unit, sensor = (np.array([one[which] for one in told.sensors]) for which in (0, 1))
    faulty = told.labels != NORMAL
    return Source(
        torch.cat([pool.x, x]),
        np.concatenate([pool.unit, unit]),
        np.concatenate([pool.sensor, sensor]),
        np.concatenate([pool.moment, pool.moment.max() + 1 + np.arange(len(unit))]),
        np.concatenate([pool.fault, np.where(faulty, 0, HEALTHY)]),
        np.concatenate([pool.severity, faulty.astype(np.float32)]),
        np.concatenate([pool.pool, ~faulty]),
        pool.sample_rate_hz,
    )


def tuned(net: BandTransformer, recipe: PretrainingRecipe, source: Source, image: Image, way: str, seed: int) -> BandTransformer:
    """The net after `EPOCHS` on the corpus' examples."""
    width, lr = WAYS[way]
    torch.manual_seed(seed)
    own = BandTransformer(replace(net.config, adapter=width), net.in_shape)
    own.load_state_dict(net.state_dict(), strict=False)
    optim = replace(recipe.optim, epochs=EPOCHS, lr=lr, seed=seed)
    recipe = replace(recipe, optim=optim)
    train_on_examples(own, rows_of(recipe, [describe(recipe, source, image, seed)], [1.0]), optim)
    return own.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", nargs="+", default=[*REAL, "fleet"])
    parser.add_argument("--fleets", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    recipe = small_transformer()
    assert isinstance(recipe.detector, BandTransformerConfig)
    image = build_image(recipe.feature, None)  # type: ignore[arg-type]
    judged = {"fleet": fleet(0)} | {one: real(one) for one in REAL}
    examples = examples_by_corpus(recipe, image, judged, arguments.fleets)
    taught = replace(recipe, optim=replace(recipe.optim, epochs=arguments.epochs, seed=0))
    print(f"{'corpus':8} {'trained':8} {'on':10}    k  AUROC, one a seed", flush=True)
    for name in arguments.corpora:
        corpus = judged[name]
        net, k = net_without(name, taught, examples), SHOWN_KS.get(name, (None,))[-1]
        z, _, _, _ = scaled(corpus, image, recipe.scaling, k)
        abnormal = corpus.test.labels != NORMAL
        adapted = BandTransformer(replace(net.config, adapter=WAYS["adapter"][0]), net.in_shape)
        sizes = [sum(p.numel() for p in adapted.parameters() if p.requires_grad), sum(p.numel() for p in net.parameters())]

        def area(own: BandTransformer) -> str:
            found = auroc(embedded(own, z)[1].astype(np.float64), abnormal)  # noqa: B023 (called within the loop)
            return f"{found:.4f}"

        print(f"{name:8} {'nothing':8} {'':10} {k or '':>4}  {area(net)}", flush=True)
        sources = {"pool": source_of(corpus, image)} | ({"and labels": with_labels(corpus, image)} if name != "fleet" else {})
        for on, source in sources.items():
            for way in WAYS:
                areas = [area(tuned(net, recipe, source, image, way, seed)) for seed in arguments.seeds]
                print(f"{name:8} {way:8} {on:10} {k or '':>4}  {' '.join(areas)}", flush=True)
        print(f"{name:8} an adapter is {sizes[0]:,} weights of {sizes[1]:,}: {sizes[0] / sizes[1]:.1%}", flush=True)


if __name__ == "__main__":
    main()
