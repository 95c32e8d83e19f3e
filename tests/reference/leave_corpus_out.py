"""What a band transformer knows of a corpus that it was not trained on.

`python -m tests.reference.leave_corpus_out [--corpora fleet gfd ...] [--variants full ...] [--fleets 2] [--epochs 2] [--seeds 0]`
leaves each corpus out, pretrains on the pools of all others (the fleet among them, other machines of it) and prints AUROC on its test
records: of the nearest of a sensor's own context records among deviations (`raw`) and among embeddings, and of the scorer. The variants:
all three losses; without the contrastive one (alpha = 0), without reconstruction (beta = 0), without the scorer's (gamma = 0), random
weights; and wavelets for bands. Some four CPU minutes a training.
"""

import argparse
from dataclasses import replace

import numpy as np
import torch

from tests.reference.corpora import CHUNK, REAL, SOURCES, Corpus, Records, cached, fleet, key_of, real
from vibray.config import to_json
from vibray.decide.areas import auroc
from vibray.features.cwt_image import CwtImageConfig
from vibray.features.scaling import Scaling, ScalingConfig
from vibray.fitting.examples import HEALTHY, Examples, Source, make_source
from vibray.fitting.pretraining import PretrainingRecipe, build_net, describe, pretrained, small_transformer
from vibray.models.band_transformer import BandTransformer, BandTransformerConfig
from vibray.recipes.building import Image, build_image, build_scaling_fit
from vibray.schema import NORMAL
from vibray.train.classical import Rows, fit_scaling

NEIGHBOURS = 3
SHOWN_KS = {"fleet": (1, 4, 16, 200), "femto": (10, 50)}
VARIANTS = ("full", "alpha=0", "beta=0", "gamma=0", "random")


def images(records: Records, image: Image, name: str, corpus: Corpus) -> torch.Tensor:
    """The images of some records, kept in the suite's cache."""

    def make() -> dict[str, np.ndarray]:
        w = records.waveforms()
        chunks = (w[i : i + CHUNK] for i in range(0, len(w), CHUNK))
        return {"x": np.concatenate([image(torch.from_numpy(x), corpus.facts.sample_rate_hz).numpy() for x in chunks])}

    return torch.from_numpy(cached(key_of("image", name, corpus.name, to_json(image.config)), make)["x"])


def source_of(corpus: Corpus, image: Image) -> Source:
    """A corpus' pool."""
    pool = corpus.pool
    unit, sensor = (np.array([one[which] for one in pool.sensors]) for which in (0, 1))
    first = np.full(pool.moment.max() + 1, len(unit))
    np.minimum.at(first, pool.moment, np.arange(len(unit)))
    moment = np.argsort(np.argsort(first))[pool.moment]
    x, healthy = images(pool, image, "pool", corpus), np.full(len(unit), HEALTHY)
    mild, whole = np.zeros(len(unit), np.float32), np.ones(len(unit), bool)
    return Source(x, unit, sensor, moment, healthy, mild, whole, corpus.facts.sample_rate_hz)


def scaled(corpus: Corpus, image: Image, config: ScalingConfig, k: int | None) -> tuple[torch.Tensor, torch.Tensor, list, Scaling]:
    """Deviations of the test records and of each sensor's context, whose sensors come third."""
    pool = images(corpus.pool, image, "pool", corpus)
    rows = Rows(pool, corpus.pool.sensors, corpus.pool.rows().key_hash)
    scaling = fit_scaling(build_scaling_fit(config, image), [rows], lambda part: part)
    context, sensors = pool, corpus.pool.sensors
    if k is not None and corpus.context is not None:
        whole = images(corpus.context, image, "context", corpus)
        first = list(corpus.context.first(k))
        scaling = scaling.with_sensors((sensor, whole[at]) for sensor, at in first)
        context, sensors = torch.cat([whole[at] for _, at in first]), [sensor for sensor, at in first for _ in at]
    test = images(corpus.test, image, "test", corpus)
    return scaling(test, corpus.test.sensors), scaling(context, sensors), sensors, scaling


def nearest(test: torch.Tensor, of: list, context: torch.Tensor, sensors: list) -> np.ndarray:
    """Mean distance to the nearest context records of the same sensor."""
    found = torch.zeros(len(test), dtype=torch.float64)
    for sensor in set(of):
        at, own = [i for i, one in enumerate(of) if one == sensor], [i for i, one in enumerate(sensors) if one == sensor]
        distance = torch.cdist(test[at].flatten(1).double(), context[own].flatten(1).double())
        found[at] = distance.topk(min(NEIGHBOURS, len(own)), largest=False).values.mean(1)
    return found.numpy()


@torch.no_grad()
def embedded(net: BandTransformer, z: torch.Tensor) -> tuple[torch.Tensor, np.ndarray]:
    """Embeddings and scores."""
    out = [net(part) for part in z.split(256)]
    return torch.cat([one.embedding[:, 0] for one in out]), torch.cat([net.score(one) for one in out]).numpy()


def of_fleet(recipe: PretrainingRecipe, number: int) -> Examples:
    """The examples of a generated fleet, kept in the suite's cache."""

    def make() -> dict[str, np.ndarray]:
        found = describe(recipe, *make_source(number, recipe.feature, recipe.fleets, recipe.context), number)
        return {key: tensor.numpy() for key, tensor in found.tensors().items()}

    content = [to_json(part) for part in (recipe.feature, recipe.scaling, recipe.context, recipe.fleets)]
    kept = cached(key_of("examples", number, content, sources=(*SOURCES, "fitting")), make)
    return Examples.load({key: torch.from_numpy(values) for key, values in kept.items()})


def examples_by_corpus(recipe: PretrainingRecipe, image: Image, judged: dict[str, Corpus], fleets: int) -> dict[str, list[Examples]]:
    """Of the pools of the real corpora, and of so many generated fleets."""
    made = {one: [describe(recipe, source_of(corpus, image), image, 7)] for one, corpus in judged.items() if one != "fleet"}
    return made | {"fleet": [of_fleet(recipe, number) for number in range(fleets)]}


def net_without(left: str, recipe: PretrainingRecipe, examples: dict[str, list[Examples]]) -> BandTransformer:
    """Trained on all corpora but one, each counting as much as another; kept in the suite's cache."""
    kept = [(each, 1 / len(own)) for one, own in examples.items() if one != left for each in own]

    def make() -> dict[str, np.ndarray]:
        net = pretrained(recipe, [each for each, _ in kept], [weight for _, weight in kept])
        return {name: tensor.numpy() for name, tensor in net.state_dict().items()}

    content = [left, to_json(recipe), [len(each) for each, _ in kept]]
    state = cached(key_of("net", content, sources=(*SOURCES, "fitting", "models", "train")), make)
    net = build_net(recipe, kept[0][0].z.shape[2:])
    assert isinstance(net, BandTransformer)
    net.load_state_dict({name: torch.from_numpy(values) for name, values in state.items()})
    return net.eval()


def variant(recipe: PretrainingRecipe, name: str) -> PretrainingRecipe:
    assert isinstance(recipe.detector, BandTransformerConfig)
    match name:
        case "alpha=0" | "beta=0" | "gamma=0":
            return replace(recipe, detector=replace(recipe.detector, **{name[:-2]: 0.0}))
        case "wavelets":
            return replace(
                recipe,
                feature=CwtImageConfig(rows=128, columns=2, min_hz=40.0),
                scaling=replace(recipe.scaling, transform="log"),
            )
    return recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", nargs="+", default=["fleet", *REAL])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=[*VARIANTS, "wavelets"])
    parser.add_argument("--fleets", type=int, default=2, help="generated fleets in training")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'left out':8} {'variant':9} seed    k     raw  embedded  scorer", flush=True)
    for name in arguments.variants:
        recipe = variant(small_transformer(), name)
        image = build_image(recipe.feature, None)  # type: ignore[arg-type]
        judged = {"fleet": fleet(0)} | {one: real(one) for one in REAL}
        examples = examples_by_corpus(recipe, image, judged, arguments.fleets)
        for left in arguments.corpora:
            for seed in arguments.seeds:
                taught = replace(recipe, optim=replace(recipe.optim, epochs=0 if name == "random" else arguments.epochs, seed=seed))
                net = net_without(left, taught, examples)
                corpus = judged[left]
                abnormal = corpus.test.labels != NORMAL
                for k in SHOWN_KS.get(left, (None,)):
                    z, context, sensors, _ = scaled(corpus, image, recipe.scaling, k)
                    (own, score), (other, _) = embedded(net, z), embedded(net, context)
                    found = [
                        nearest(_compressed(z), corpus.test.sensors, _compressed(context), sensors),
                        nearest(own, corpus.test.sensors, other, sensors),
                        score,
                    ]
                    areas = "  ".join(f"{auroc(np.asarray(one, np.float64), abnormal):.3f}" for one in found)
                    print(f"{left:8} {name:9} {seed:4} {k or '':>4}   {areas}", flush=True)


def _compressed(z: torch.Tensor) -> torch.Tensor:
    """As the net reads deviations."""
    return z.sign() * z.abs().log1p()


if __name__ == "__main__":
    main()
