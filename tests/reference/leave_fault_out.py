"""What the default makes of a fault that its net has never been shown.

`python -m tests.reference.leave_fault_out --pretrained FOLDER [--seeds 0 1 2 3 4]` prints, for each of the five faults left out of its
training and for the sixth that it never saw, by the number of records that calibrate a sensor: AUROC on that fault alone of the net, of the
default without it and with it, and the paired difference of the last two with its standard error (new units drawn with replacement). FOLDER
is what jobs/pretrain.py left, whose examples are taught again without the fault. Then the default with contexts of which a fifth is faulty.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from tests.reference.corpora import (
    FLEET,
    KS,
    NEW_UNITS,
    POOL_UNITS,
    SOURCES,
    TEST_RECORDS,
    Corpus,
    Records,
    cached,
    fleet,
    key_of,
    of_fleet,
)
from tests.reference.suite import fitted
from vibray import recipes
from vibray.config import to_json
from vibray.decide.areas import auroc, resampled_areas
from vibray.features.scaling import Scaling
from vibray.fitting.pretraining import context_scorer, pretrained
from vibray.models.context_scorer import ContextNet, ContextScorer
from vibray.models.fused import Fused, FusedMahalanobisConfig
from vibray.pipeline.pretrain import read_examples
from vibray.recipes.building import build_classical, build_vector, columns_of
from vibray.schema import NORMAL
from vibray.signal.synthetic import FleetConfig
from vibray.train.classical import fit_detector

SHOWN = (1, 16, 200)
SIXTH = "inter_turn_short"
RECIPE = recipes.unsupervised()
COLUMNS = columns_of(build_vector(RECIPE.feature, FLEET.mains_hz), RECIPE.detector.blocks)


def taught_without(fault: str, folder: Path) -> ContextScorer:
    """The net that the examples in a folder of jobs/pretrain.py give without one fault; kept in the suite's cache."""
    recipe, paths = context_scorer(), sorted((folder / "examples").iterdir())

    def make() -> dict[str, np.ndarray]:
        net = pretrained(recipe, [read_examples(str(path)).without(fault) for path in paths])
        return {name: tensor.numpy() for name, tensor in net.state_dict().items()}

    content = [fault, to_json(recipe), [[path.name, path.stat().st_size] for path in paths]]
    state = cached(key_of("left out", content, sources=(*SOURCES, "fitting", "train")), make)
    net = ContextNet()
    net.load_state_dict({name: torch.from_numpy(values) for name, values in state.items()})
    return ContextScorer(net)


def with_net(corpus: Corpus, scaling: Scaling, net: ContextScorer, share: float) -> Fused:
    """The default fitted on a pool with this net for the shipped one."""
    config = recipes.fused().detector
    assert isinstance(config, FusedMahalanobisConfig)
    feature = build_vector(RECIPE.feature, FLEET.mains_hz)
    detector = build_classical(replace(config, scorer_share=share), feature)
    assert isinstance(detector, Fused)
    detector.parts[-1] = net
    fit_detector(detector, scaling, COLUMNS, [corpus.pool.rows(0)], lambda part: part)
    return detector


def sixth(corpus: Corpus, seed: int) -> Records:
    """Records of the corpus' new units, half of them with the fault that nothing is trained with."""
    config = FleetConfig(seed=seed, first_unit=POOL_UNITS, num_units=NEW_UNITS, num_records=TEST_RECORDS, first_step=max(KS))
    return of_fleet(replace(config, contamination=0.5, faults=(SIXTH,)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pretrained", required=True)
    parser.add_argument("--share", type=float, help="the net's share of the say, for the default's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = recipes.fused().detector
    assert isinstance(config, FusedMahalanobisConfig)
    share = config.scorer_share if arguments.share is None else arguments.share
    nets = {SIXTH: ContextScorer()}
    nets |= {fault: taught_without(fault, Path(arguments.pretrained)) for fault in context_scorer().fleets.faults}
    found: dict[tuple[str, int], list[np.ndarray]] = {}
    drawn: dict[tuple[str, int], list[np.ndarray]] = {}
    spoiled: list[np.ndarray] = []
    rng = np.random.default_rng(0)
    for seed in arguments.seeds:
        corpus = fleet(seed)
        scaling, without = fitted(RECIPE, corpus.pool, FLEET.mains_hz)
        assert corpus.context is not None
        for fault, net in nets.items():
            both, test = with_net(corpus, scaling, net, share), sixth(corpus, seed) if fault == SIXTH else corpus.test
            kept = np.flatnonzero((test.labels == NORMAL) | (test.labels == fault))
            abnormal, sensors = test.labels[kept] != NORMAL, [test.sensors[i] for i in kept]
            unit = np.unique([name for name, _ in sensors], return_inverse=True)[1]
            for k in SHOWN:
                own = scaling.with_sensors((sensor, corpus.context.vectors[at]) for sensor, at in corpus.context.first(k))
                x = own(test.vectors[kept], sensors)[:, COLUMNS]
                scores = [part.score(x).numpy() for part in (net, without, both)]
                found.setdefault((fault, k), []).append(np.array([auroc(score, abnormal) for score in scores], np.float64))
                draws = rng.integers(0, NEW_UNITS, (200, NEW_UNITS))
                weights = np.stack([np.bincount(draw, minlength=NEW_UNITS)[unit] for draw in draws])
                areas = [resampled_areas(score, abnormal, weights)[:, 0] for score in scores[1:]]
                drawn.setdefault((fault, k), []).append(areas[1] - areas[0])
        healthy = corpus.context.labels == NORMAL
        mixed, new = [], replace(FleetConfig(seed=seed, num_units=NEW_UNITS, first_unit=POOL_UNITS), contamination=1.0, off_share=0.0)
        faulty = of_fleet(replace(new, num_records=4 * NEW_UNITS * new.sensors_per_unit))
        for sensor, at in corpus.context.first(max(KS)):
            wrong = np.flatnonzero([other == sensor for other in faulty.sensors])[:3]
            mixed.append((sensor, torch.cat([corpus.context.vectors[at[healthy[at]][:13]], faulty.vectors[wrong]])))
        x = scaling.with_sensors(mixed)(corpus.test.vectors, corpus.test.sensors)[:, COLUMNS]
        abnormal = corpus.test.labels != NORMAL
        shipped = with_net(corpus, scaling, ContextScorer(), share)
        spoiled.append(np.array([auroc(part.score(x).numpy(), abnormal) for part in (ContextScorer(), without, shipped)], np.float64))
        print(f"seed {seed}", flush=True)
    print(f"{'left out':20} {'k':>4}     net  without     with  difference (standard error)")
    for (fault, k), own in found.items():
        net, without, both = np.mean(own, axis=0)
        error = np.std(np.mean(drawn[fault, k], axis=0))
        print(f"{fault:20} {k:4} {net:7.4f} {without:8.4f} {both:8.4f} {both - without:+8.4f} ({error:.4f})")
    for k in SHOWN:
        mean = np.mean([np.mean(own, axis=0) for (_, other), own in found.items() if other == k], axis=0)
        print(f"{'mean':20} {k:4} {mean[0]:7.4f} {mean[1]:8.4f} {mean[2]:8.4f} {mean[2] - mean[1]:+8.4f}")
    print("three of 16 context records faulty: " + ", ".join(f"{value:.4f}" for value in np.mean(spoiled, axis=0)))


if __name__ == "__main__":
    main()
