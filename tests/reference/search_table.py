"""What a search is worth: its winner on units that no trial has seen, beside the recipe as it is and an exhaustive grid.

  python -m tests.reference.search_table make --folder F                       the fleet, featurized (minutes)
  python -m tests.reference.search_table search --folder F                     24 trials by the job
  python -m tests.reference.search_table search --folder F --pixels 64 --epochs 6     the same with larger images and longer training
  python -m tests.reference.search_table grid --folder F --minutes 9           every point of a grid; again until it is whole
  python -m tests.reference.search_table show --folder F                       the figures

Pool: 2,000 records of 16 units, 5 % faults, no labels; 96 labelled records of these units, half of them faults. Judged: 960 records of 16
other units, half of them faults, calibrated by their first 40 records a sensor. A point
that is done is a JSON file and is not computed again.
"""

import argparse
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import ray
import torch

from tests.pipeline.lines import corpus_fields
from vibray.compare.corpus import Corpus, open_corpus, with_values
from vibray.compare.fold_fit import fit_fold
from vibray.compare.jobs import SearchJob
from vibray.compare.space import bounded, recipe_of, space_of
from vibray.compare.study import Folder
from vibray.config import from_json, short_hash
from vibray.decide.areas import auroc
from vibray.decide.splits import Split
from vibray.fitting.worker import alone_with
from vibray.pipeline.featurize import featurize
from vibray.pipeline.jobs import FeaturizeJob, SynthesizeJob
from vibray.pipeline.search import search
from vibray.pipeline.session import started
from vibray.pipeline.synthesize import synthesize
from vibray.recipes import cwt_svdd
from vibray.recipes.kinds import AnyRecipe, DeepRecipe
from vibray.schema import NORMAL
from vibray.signal.synthetic import FleetConfig
from vibray.storage.corpus import CorpusFacts
from vibray.train.guards import CollapsedModel

FACTS = CorpusFacts(sample_rate_hz=8192.0, unit_pattern=r"^(u\d+)-", signal_unit="g")

BOUNDS = ("objective=hypersphere", "metric=mahalanobis", "latent_dim=32", "weakest_db=-30,-20,-10")
"""The search and the grid differ in how they walk it: width, learning rate and the weakest injected fault."""

GRID = {"width": (16, 45, 128), "lr": (1e-4, 1e-3, 1e-2), "weakest_db": (-30.0, -20.0, -10.0)}

TRIALS = 24


def recipe(epochs: int = 4, pixels: int = 32) -> DeepRecipe:
    """cwt-svdd on small images."""
    own = cwt_svdd()
    return replace(own, feature=replace(own.feature, rows=pixels, columns=pixels), optim=replace(own.optim, epochs=epochs))


def make(folder: Path) -> None:
    """The corpora of a fleet: pool and labelled of 16 units, calibration and test of 16 others."""
    pool = FleetConfig(seed=11, num_records=2000, num_units=16, sensors_per_unit=2)
    new = replace(pool, first_unit=16, num_units=16)
    corpora = {
        "pool": pool,
        "labelled": replace(pool, num_records=96, first_step=64, contamination=0.5),
        "calibration": replace(new, num_records=1280),
        "test": replace(new, num_records=960, first_step=40, contamination=0.5),
    }
    with started():
        for name, config in corpora.items():
            synthesize(SynthesizeJob(str(folder / "raw" / name), str(folder / "labels" / f"{name}.jsonl"), config, shard_records=500))
            featurize(
                FeaturizeJob(
                    str(folder / "raw" / name), str(folder / "features" / name), corpus=name, vectors=("spectral",), **corpus_fields(FACTS)
                )
            )


def run_search(folder: Path, made: DeepRecipe) -> None:
    """The job, on pool and labelled."""
    features = tuple(str(folder / "features" / name) for name in ("pool", "labelled"))
    uri = str(folder / ("search" if made == recipe() else f"search-{short_hash(made)}"))
    job = SearchJob(features, uri, made, labels=str(folder / "labels" / "labelled.jsonl"), num_trials=TRIALS)
    with started(num_cpus=2):
        start = time.perf_counter()
        search(replace(job, bounds=BOUNDS, num_folds=2, calibration_records=20))
        print(f"{time.perf_counter() - start:.0f} s in all")


# ---------------------------------------------------------------- on units never seen


class Judge:
    """Trains recipes on the pool in this process and judges them on the test records."""

    def __init__(self, uris: dict[str, str], test_labels: Path):
        opened = open_corpus(tuple(uris.values()), None, [recipe()], 2, 20, unlabelled_pool=True)
        self.corpus: Corpus = with_values(opened.corpus, [], True, lambda done, total: None)
        self.part = np.array(self.corpus.table.index["corpus"].to_pylist())
        labels = [json.loads(line) for line in test_labels.read_text().splitlines()]
        of = {(row["sensor_id"], row["data_time"][:19]): row["label"] for row in labels}
        keys = zip(self.corpus.table.index["sensor_id"].to_pylist(), self.corpus.table.index["measured_at"].to_pylist(), strict=True)
        self.label = np.array([of.get((sensor, f"{at:%Y-%m-%dT%H:%M:%S}"), "") for sensor, at in keys])
        self.test = np.flatnonzero((self.part == "test") & (self.label != ""))

    def area(self, made: DeepRecipe, rows: np.ndarray) -> float | None:
        """AUROC on the test records of the recipe trained on these rows; None where it collapses."""
        split = Split(rows, np.flatnonzero(self.part == "calibration"), self.test, rows[:0], 0)
        try:
            with alone_with(self.corpus.table, self.corpus.waveforms) as worker:
                return auroc(fit_fold(worker, made, self.corpus.task(split, 0)).score(self.test), self.label[self.test] != NORMAL)
        except (CollapsedModel, ArithmeticError):
            return None


def fleet_judge(folder: Path) -> Judge:
    return Judge({name: str(folder / "features" / name) for name in ("pool", "calibration", "test")}, folder / "labels" / "test.jsonl")


def points() -> Iterator[tuple[str, DeepRecipe]]:
    """The grid, and the recipe as it is."""
    space = bounded(space_of(recipe()), [bound for bound in BOUNDS if not bound.startswith("weakest")])
    yield "default", recipe()
    for width in GRID["width"]:
        for lr in GRID["lr"]:
            for weakest in GRID["weakest_db"]:
                params = {"objective": "hypersphere", "metric": "mahalanobis", "latent_dim": 32}
                made = recipe_of({**params, "width": width, "lr": lr, "weakest_db": weakest}, recipe(), space)
                assert isinstance(made, DeepRecipe)
                yield f"grid-{width}-{lr:g}-{weakest:g}", made


def with_winners(folder: Path) -> Iterator[tuple[str, DeepRecipe]]:
    """The grid, and of each search the winner and trial 0, the recipe as it was."""
    yield from points()
    for file in sorted(folder.glob("search*/winner.json")):
        winner, own = json.loads(file.read_text()), json.loads((file.parent / "trials" / "00000.json").read_text())
        for name, values in (("winner", winner), ("recipe", own)):
            yield f"{file.parent.name}-{name}-{values['hash']}", from_json(AnyRecipe, values["recipe"])


def grid(folder: Path, minutes: float) -> None:
    """AUROC on unseen units of every point, three seeds of training each."""
    done, start, judge = folder / "grid", time.monotonic(), None
    done.mkdir(exist_ok=True)
    for seed in (0, 1, 2):
        for name, made in with_winners(folder):
            file = done / f"{name}-s{seed}.json"
            if file.exists() or time.monotonic() - start > 60 * minutes:
                continue
            judge = judge or fleet_judge(folder)
            own = replace(made, optim=replace(made.optim, seed=seed))
            area = judge.area(own, np.flatnonzero(judge.part == "pool"))
            file.write_text(json.dumps({"name": name, "seed": seed, "auroc": area}))


def show(folder: Path) -> None:
    """Every figure that there is."""
    found: dict[str, list[float]] = {}
    for file in sorted((folder / "grid").glob("*.json")) if (folder / "grid").exists() else []:
        values = json.loads(file.read_text())
        found.setdefault(values["name"], []).append(float("nan") if values["auroc"] is None else values["auroc"])
    for name, areas in sorted(found.items(), key=lambda item: -np.nanmean(item[1])):
        print(f"{name:32} AUROC on unseen units {np.mean(areas):.4f} ({np.std(areas):.4f} over {len(areas)} seeds)")
    for file in sorted(folder.glob("search*/search_summary.json")):
        summary = json.loads(file.read_text())
        trials = Folder(str(file.parent)).trials()
        print(f"{file.parent.name}: {len(trials)} trials, winner {summary['winner']}, {summary['seconds']}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("make", "search", "grid", "show"))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--pixels", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=1e9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("ray").setLevel(logging.ERROR)
    match arguments.what:
        case "make":
            make(folder)
        case "search":
            run_search(folder, recipe(arguments.epochs, arguments.pixels))
        case "grid":
            grid(folder, arguments.minutes)
        case "show":
            show(folder)
    if ray.is_initialized():
        ray.shutdown()


if __name__ == "__main__":
    main()
