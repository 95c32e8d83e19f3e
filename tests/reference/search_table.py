"""What a search is worth: its winner on units that no trial has seen, beside the recipe as it is and an exhaustive grid; and whether an
objective without labels points the same way as the labels would.

  python -m tests.reference.search_table make --folder F                       the fleet, featurized (minutes)
  python -m tests.reference.search_table search --folder F                     24 trials by the job
  python -m tests.reference.search_table search --folder F --pixels 64 --epochs 6     the same with larger images and longer training
  python -m tests.reference.search_table grid --folder F --minutes 9           every point of a grid; again until it is whole
  python -m tests.reference.search_table correlate --folder F --minutes 9      40 random recipes on the fleet
  python -m tests.reference.search_table correlate --folder F --gfd G          the same on the gearbox, G being its folder
  python -m tests.reference.search_table show --folder F                       the figures

Pool: 2,000 records of 16 units, 5 % faults, no labels; 96 labelled records of these units, half of them faults. Judged: 960 records of 16
other units, half of them faults, calibrated by their first 40 records a sensor. On the gearbox, which has one unit, the test records are
of sensors known from training. A point that is done is a JSON file and is not computed again.
"""

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import ray
import torch

from vibray.config import from_json, short_hash
from vibray.decide.areas import auroc
from vibray.decide.splits import Split
from vibray.pipeline.benchmark_cells import Corpus
from vibray.pipeline.deep_worker import Worker
from vibray.pipeline.featurize import featurize
from vibray.pipeline.search import SearchJob, search
from vibray.pipeline.search_corpus import open_corpus, with_records
from vibray.pipeline.search_models import FoldRows, fit_fold, fold_rows
from vibray.pipeline.search_space import bounded, propose, recipe_of, space_of
from vibray.pipeline.search_study import Folder
from vibray.pipeline.search_trial import rank_correlation, unlabelled_worth
from vibray.pipeline.session import started
from vibray.pipeline.synthesis import synthesize
from vibray.recipes import AnyRecipe, DeepRecipe, cwt_svdd
from vibray.schema import NORMAL
from vibray.signal.synthetic import FleetConfig
from vibray.storage.corpus import CorpusFacts
from vibray.train.guards import CollapsedModel
from vibray.train.images import Images
from vibray.train.reduce import World

FACTS = CorpusFacts(sample_rate_hz=8192.0, unit_pattern=r"^(u\d+)-", signal_unit="g")
GFD_FACTS = CorpusFacts(sample_rate_hz=10000.0, unit_pattern=r"^(gbx\d+)-", mains="none", signal_unit="g")

BOUNDS = ("objective=hypersphere", "metric=mahalanobis", "latent_dim=32", "weakest_db=-30,-20,-10")
"""The search and the grid differ in how they walk it: width, learning rate and the weakest injected fault."""

GRID = {"width": (16, 45, 128), "lr": (1e-4, 1e-3, 1e-2), "weakest_db": (-30.0, -20.0, -10.0)}

TRIALS, RANDOM_TRIALS = 24, 40


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
            synthesize(str(folder / "raw" / name), str(folder / "labels" / f"{name}.jsonl"), config, shard_records=500)
            featurize(str(folder / "raw" / name), str(folder / "features" / name), FACTS, name, vectors=("spectral",))


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
        corpus, _ = open_corpus(tuple(uris.values()), None, recipe(), 2, 20, 0)
        self.corpus: Corpus = with_records(corpus, recipe(), True, lambda done, total: None)
        self.part = np.array(self.corpus.table.index["corpus"].to_pylist())
        labels = [json.loads(line) for line in test_labels.read_text().splitlines()]
        of = {(row["sensor_id"], row["data_time"][:19]): row["label"] for row in labels}
        keys = zip(self.corpus.table.index["sensor_id"].to_pylist(), self.corpus.table.index["measured_at"].to_pylist(), strict=True)
        self.label = np.array([of.get((sensor, f"{at:%Y-%m-%dT%H:%M:%S}"), "") for sensor, at in keys])
        self.test = np.flatnonzero((self.part == "test") & (self.label != ""))
        self.scratch = tempfile.TemporaryDirectory(prefix="vibray-table-")
        self.made: dict[str, Images] = {}
        self.worker = Worker(
            World(), 0, 1, torch.device("cpu"), self.corpus.table, self.corpus.waveforms, Path(self.scratch.name), 4 << 30, self.made,
            lambda *_, **__: None,
        )  # fmt: skip

    def area(self, made: DeepRecipe, rows: np.ndarray) -> float | None:
        """AUROC on the test records of the recipe trained on these rows; None where it collapses."""
        split = Split(rows, np.flatnonzero(self.part == "calibration"), self.test, rows[:0], 0)
        try:
            fitted = fit_fold(self.worker, self.corpus, made, FoldRows(split, rows[:0], rows[:0]), lambda *_: None)
        except (CollapsedModel, ArithmeticError):
            return None
        return auroc(fitted.score(self.test), self.label[self.test] != NORMAL)

    def correlated(self, made: DeepRecipe) -> dict[str, float] | None:
        """The true AUROC of a net of one fold's pool beside what objectives without labels say of it; None where a net collapses."""
        # new units take part in no fold: only the pool's and the gearbox's unlabelled records are held out and probed
        inside = np.isin(self.part, ("pool", "unlabelled"))
        rows = fold_rows(self.corpus, 0, 0)
        keep = [index[inside[index]] for index in (rows.split.pool, rows.split.calibration, rows.probe)]
        calibration = np.union1d(keep[1], np.flatnonzero(self.part == "calibration"))
        fold = FoldRows(Split(keep[0], calibration, self.test, keep[0][:0], 0), keep[0][:0], keep[2])
        try:
            whole = fit_fold(self.worker, self.corpus, made, fold, lambda *_: None)
            halves = [fit_fold(self.worker, self.corpus, made, fold.half(self.corpus, which), lambda *_: None) for which in (0, 1)]
        except (CollapsedModel, ArithmeticError):
            return None
        values = {
            "true": auroc(whole.score(self.test), self.label[self.test] != NORMAL),
            "injected": unlabelled_worth("injected", [whole], fold.probe),
            "stability": unlabelled_worth("stability", halves, fold.probe),
        }
        return {name: float(value) for name, value in values.items() if value is not None}


def fleet_judge(folder: Path) -> Judge:
    return Judge({name: str(folder / "features" / name) for name in ("pool", "calibration", "test")}, folder / "labels" / "test.jsonl")


def gfd_judge(folder: Path, gfd: Path) -> Judge:
    """The gearbox, featurized into the folder at the first call."""
    uris = {name: str(folder / "gfd" / name) for name in ("unlabelled", "test")}
    if not all(Path(uri, "feature.json").exists() for uri in uris.values()):
        with started(num_cpus=2):
            for name, uri in uris.items():
                featurize(str(gfd / name), uri, GFD_FACTS, name, vectors=("spectral",))
    return Judge(uris, gfd / "test_labels.jsonl")


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


def correlate(folder: Path, judge: Judge, corpus: str, minutes: float) -> None:
    """40 recipes drawn at random from the whole space of nets with injected faults or the soft boundary."""
    done, start = folder / f"correlate-{corpus}", time.monotonic()
    done.mkdir(exist_ok=True)
    space = space_of(recipe())
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=5))
    for number in range(10 * RANDOM_TRIALS):
        trial = study.ask()
        made = propose(trial, recipe(), space)
        assert isinstance(made, DeepRecipe)
        file = done / f"{number:03d}-{short_hash(made)}.json"
        whole = sum(json.loads(other.read_text())["values"] is not None for other in done.iterdir())
        if whole >= RANDOM_TRIALS or time.monotonic() - start > 60 * minutes:
            return
        if not file.exists():
            file.write_text(json.dumps({"params": trial.params, "values": judge.correlated(made)}))


def show(folder: Path) -> None:
    """Every figure that there is."""
    found: dict[str, list[float]] = {}
    for file in sorted((folder / "grid").glob("*.json")) if (folder / "grid").exists() else []:
        values = json.loads(file.read_text())
        found.setdefault(values["name"], []).append(float("nan") if values["auroc"] is None else values["auroc"])
    for name, areas in sorted(found.items(), key=lambda item: -np.nanmean(item[1])):
        print(f"{name:32} AUROC on unseen units {np.mean(areas):.4f} ({np.std(areas):.4f} over {len(areas)} seeds)")
    for corpus in ("fleet", "gfd"):
        files = sorted((folder / f"correlate-{corpus}").glob("*.json")) if (folder / f"correlate-{corpus}").exists() else []
        rows: list[dict[str, Any]] = [json.loads(file.read_text()) for file in files]
        whole = [row for row in rows if row["values"]]
        for label, those in (("all", whole), ("hypersphere", [r for r in whole if r["params"]["objective"] == "hypersphere"])):
            if len(those) < 3:
                continue
            true = np.array([row["values"]["true"] for row in those])
            figures = []
            for name in ("injected", "stability"):
                other = np.array([row["values"][name] for row in those])
                figures.append(f"{name} {rank_correlation(other, true):+.2f} {_interval(other, true)}")
            print(f"{corpus}, {label}: {len(those)} recipes, true AUROC {true.min():.3f} to {true.max():.3f}: {', '.join(figures)}")
        if rows:
            print(f"{corpus}: {len(rows) - len(whole)} of {len(rows)} recipes collapsed")
    for file in sorted(folder.glob("search*/search_summary.json")):
        summary = json.loads(file.read_text())
        trials = Folder(str(file.parent)).trials()
        print(f"{file.parent.name}: {len(trials)} trials, winner {summary['winner']}, {summary['seconds']}")


def _interval(a: np.ndarray, b: np.ndarray) -> str:
    """95 % by bootstrap of the recipes."""
    rng = np.random.default_rng(0)
    drawn = [rank_correlation(a[i], b[i]) for i in rng.integers(0, len(a), (1000, len(a)))]
    return "({:+.2f} to {:+.2f})".format(*np.percentile(drawn, [2.5, 97.5]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("make", "search", "grid", "correlate", "show"))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--gfd", type=Path)
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
        case "correlate":
            judge = gfd_judge(folder, arguments.gfd) if arguments.gfd else fleet_judge(folder)
            correlate(folder, judge, "gfd" if arguments.gfd else "fleet", arguments.minutes)
        case "show":
            show(folder)
    if ray.is_initialized():
        ray.shutdown()


if __name__ == "__main__":
    main()
