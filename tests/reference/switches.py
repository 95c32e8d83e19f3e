"""What the switches of pretraining are worth: curriculum, adversarial training, Lookahead, and more epochs beside them.

`python -m tests.reference.switches --pretrained FOLDER [--sources 8] [--seeds 1000 1001 1002] [--fleets 0 1 2]` teaches the context
scorer again on the first examples of what jobs/pretrain.py left in FOLDER, with each switch and each seed, and prints the AUROC of the net
alone on new units of other fleets, by the number of records that calibrate a sensor, on the faults that it was shown and on the sixth; then
each switch's paired difference to none with its standard error over seeds.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from tests.reference.corpora import FLEET, fleet
from tests.reference.leave_fault_out import COLUMNS, RECIPE, SHOWN, sixth
from tests.reference.suite import fitted
from vibray.decide.areas import auroc
from vibray.fitting.pretraining import PretrainingRecipe, context_scorer, pretrained
from vibray.models.context_scorer import ContextNet
from vibray.pipeline.pretrain import read_examples
from vibray.schema import NORMAL

ADVERSARIAL_STEP = 0.05
"""In spreads of a sensor: what moves a record so far is no fault."""


def switched(name: str, seed: int) -> PretrainingRecipe:
    recipe = replace(context_scorer(), curriculum=False)
    optim = replace(recipe.optim, seed=seed, adversarial=0.0)
    match name:
        case "curriculum":
            return replace(recipe, curriculum=True, optim=optim)
        case "adversarial":
            return replace(recipe, optim=replace(optim, adversarial=ADVERSARIAL_STEP))
        case "lookahead":
            return replace(recipe, optim=replace(optim, lookahead=True))
    return replace(recipe, optim=optim)


def judged(seeds: list[int]) -> list[tuple[str, int, torch.Tensor, np.ndarray]]:
    """What is asked ("known" or "sixth"), k, deviations and truth, fleet by fleet."""
    made = []
    for seed in seeds:
        corpus = fleet(seed)
        assert corpus.context is not None
        scaling, _ = fitted(RECIPE, corpus.pool, FLEET.mains_hz)
        for name, test in (("known", corpus.test), ("sixth", sixth(corpus, seed))):
            for k in SHOWN:
                own = scaling.with_sensors((sensor, corpus.context.vectors[at]) for sensor, at in corpus.context.first(k))
                made.append((name, k, own(test.vectors, test.sensors)[:, COLUMNS], test.labels != NORMAL))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pretrained", required=True)
    parser.add_argument("--sources", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1000, 1001, 1002])
    parser.add_argument("--fleets", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--switches", nargs="+", default=["none", "curriculum", "adversarial", "lookahead"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    examples = [read_examples(str(path)) for path in sorted((Path(arguments.pretrained) / "examples").iterdir())[: arguments.sources]]
    asked = judged(arguments.fleets)
    columns = [(name, k) for name in ("known", "sixth") for k in SHOWN]
    print(f"{'switch':12} seed  " + "  ".join(f"{name} {k:<3}" for name, k in columns), flush=True)
    found: dict[str, list[list[float]]] = {}
    for name in arguments.switches:
        for seed in arguments.seeds:
            net = pretrained(switched(name, seed), examples)
            assert isinstance(net, ContextNet)
            areas: dict[tuple[str, int], list[float]] = {}
            with torch.no_grad():
                for what, k, z, truth in asked:
                    area = auroc(net(z).numpy().astype(np.float64), truth)
                    assert area is not None
                    areas.setdefault((what, k), []).append(area)
            row = [float(np.mean(areas[column])) for column in columns]
            found.setdefault(name, []).append(row)
            print(f"{name:12} {seed:4}  " + "  ".join(f"{area:9.4f}" for area in row), flush=True)
    plain = np.array(found[arguments.switches[0]])
    for name in arguments.switches[1:]:
        difference = np.array(found[name]) - plain
        error = difference.std(axis=0, ddof=1) / np.sqrt(len(difference))
        print(
            f"{name:12} less   " + "  ".join(f"{mean:+.4f} ({one:.4f})" for mean, one in zip(difference.mean(axis=0), error, strict=True))
        )


if __name__ == "__main__":
    main()
