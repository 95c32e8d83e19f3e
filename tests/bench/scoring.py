"""Scoring against the original plan's loop: raw lines to committed scores, by recipe, on one core.

    python -m tests.bench.scoring                 ms a record by recipe and stage
    python -m tests.bench.scoring --floor         the default's stages, and below each what no other program could do without
    python -m tests.bench.scoring --workers       end to end in Ray with one and two workers, beside one and two plain processes
    python -m tests.bench.scoring --memory        private memory of the workers and Ray's object store, 2,000 and 50,000 records

take about three minutes, one, eight and eight. The nets have random weights: time does not depend on them.
"""

import argparse
import contextlib
import gzip
import io
import json
import math
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import ray
import torch
from ray._private.internal_api import get_memory_info_reply, get_state_from_address
from torch import nn

from tests.bench.images import planned_image
from tests.bench.processes import private_mb, watching, worker_seconds
from tests.bench.timing import Route, spreads
from vibray import recipes
from vibray.config import short_hash
from vibray.features.scaling_fit import ScalingFit
from vibray.features.seed_image import SeedImageConfig
from vibray.models.ensemble import Ensemble, score_statistics
from vibray.pipeline import session
from vibray.pipeline.jobs import ScoreJob
from vibray.pipeline.score import Scorer, score, score_part
from vibray.recipes.building import build_classical, build_deep, build_feature, build_scaling_fit, build_vector, columns_of
from vibray.recipes.kinds import ClassicalRecipe, DeepRecipe, EnsembleRecipe
from vibray.runs.folder import begin, save
from vibray.runs.inputs import Inputs, mains_snr_db
from vibray.runs.models import Detecting, Fusing
from vibray.runs.run import CHUNK, Run
from vibray.signal.synthetic import FleetConfig, fleet_lines, place, waveform
from vibray.storage.columns import sensors_of
from vibray.storage.corpus import CorpusFacts
from vibray.storage.parts import Parts, check_finished, commit_part
from vibray.storage.plan import make_plan
from vibray.storage.reading import ReadPart, read_shard
from vibray.storage.records import content_hash
from vibray.storage.shortcut import parse_floats
from vibray.storage.vectors import waveforms_of
from vibray.train.classical import Rows, fit_detector, fit_scaling, score_parts

FACTS = CorpusFacts(8192.0, unit_pattern=r"^(u\d+)-")
NUM_POOL, NUM_SHARDS = 600, 64
SEED_VAE = replace(recipes.plain_vae(), feature=SeedImageConfig(), scaling=recipes.seed_svdd().scaling)
PLAIN = replace(recipes.ensemble(), members={"svdd": recipes.plain_svdd(), "vae": recipes.plain_vae()})
DEEP = {
    "ensemble": recipes.ensemble(),
    "plain-svdd + plain-vae": PLAIN,
    "seed-svdd + VAE on its image": replace(PLAIN, members={"svdd": recipes.seed_svdd(), "vae": SEED_VAE}),
}
"""The recipe; the plan's two networks, each a ResNet-18 as wide as its own, on our large image; and on the plan's, 3 x 224 x 224."""

CLASSICAL = ("fused", "mahalanobis", "knn", "iforest", "zerone-mahalanobis", "harmonic-mahalanobis")


def fleet(num_records: int) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """Waveforms of the synthetic fleet, and their sensors."""
    config = FleetConfig(num_records=num_records)
    places = [place(config, i) for i in range(num_records)]
    return np.stack([waveform(config, at) for at in places]), [(f"u{at.unit:02d}", f"u{at.unit:02d}-s{at.sensor + 1}") for at in places]


# ---------------------------------------------------------------- runs


def make_run(recipe: ClassicalRecipe | DeepRecipe | EnsembleRecipe, pool: np.ndarray, sensors: Sequence[tuple[str, str]]) -> Run:
    """A run of this recipe: scaling and classical detectors fitted on the pool, nets as they are drawn."""
    if isinstance(recipe, EnsembleRecipe):
        members = {name: cast(Detecting, make_run(member, pool, sensors).model) for name, member in recipe.members.items()}
        ensemble = Ensemble(recipe.fusion)
        own = [members[name].training_scores for name in ensemble.members]
        ensemble.load({"location": torch.stack([s[0] for s in own]), "scale": torch.stack([s[1] for s in own])})
        return Run(recipe, FACTS, Fusing(members, ensemble))
    num = len(pool) if isinstance(recipe, ClassicalRecipe) else 48  # an image costs 20 vectors
    rows = Rows(_features(recipe, pool[:num]), list(sensors[:num]), np.arange(num, dtype=np.uint64))
    if isinstance(recipe, ClassicalRecipe):
        feature = build_vector(recipe.feature, FACTS.mains_hz)
        columns = columns_of(feature, recipe.detector.blocks)
        scaling = fit_scaling(build_scaling_fit(recipe.scaling, feature), [rows], lambda part: part)
        detector = fit_detector(build_classical(recipe.detector, feature), scaling, columns, [rows], lambda part: part)
        scores = score_parts(detector, scaling, columns, [rows], lambda part: part)
        return Run(recipe, FACTS, Detecting(recipe, scaling, detector, score_statistics(scores)))
    scaling = fit_scaling(ScalingFit(recipe.scaling, tuple(rows.x.shape[1:])), [rows], lambda part: part)
    torch.manual_seed(0)
    net = build_deep(recipe.detector, tuple(rows.x.shape[1:]))
    with torch.no_grad():
        net.train()(scaling(rows.x, rows.sensors))  # running statistics that are not 0 and 1
        scores = net.eval().score(net(scaling(rows.x, rows.sensors))).double().numpy()  # type: ignore[operator]
    return Run(recipe, FACTS, Detecting(recipe, scaling, net, score_statistics(scores)))


def _features(recipe: ClassicalRecipe | DeepRecipe, waveforms: np.ndarray) -> torch.Tensor:
    feature = build_feature(recipe.feature, FACTS.mains_hz)
    return torch.cat([feature(part, FACTS.sample_rate_hz) for part in torch.from_numpy(waveforms).split(32)])


# ---------------------------------------------------------------- the plan's loop


def planned_nets() -> tuple[nn.Module, nn.Module]:
    """A ResNet-18 Deep SVDD and the spatial VAE for images of 3 x 224 x 224."""
    torch.manual_seed(0)
    configs = recipes.seed_svdd().detector, recipes.plain_vae().detector
    svdd, vae = (build_deep(config, (3, 224, 224)).eval() for config in configs)
    return svdd, vae


def planned(lines: Sequence[bytes], nets: Sequence[Any], dtype: Any) -> None:
    """json.loads and float(), pywt.cwt and resize record by record, then both nets in float32, all images in a batch."""
    images = []
    for line in lines:
        x = np.array([float(value) for value in json.loads(line)["signal_value"].split(",")], dtype)
        images.append(np.repeat(planned_image(x)[None].astype(np.float32), 3, axis=0))
    batch = torch.from_numpy(np.stack(images))
    with torch.inference_mode():
        for net in nets:
            net.score(net(batch))


# ---------------------------------------------------------------- one core, by recipe and stage


class Bench:
    """One shard of the fleet, read and scored as a worker does, into a folder that is thrown away."""

    def __init__(self, folder: Path, num_records: int):
        self.folder, self.num_records, self.number = folder, num_records, 0
        source = folder / f"raw{num_records}"
        source.mkdir(parents=True)
        (source / "0.jsonl").write_bytes(b"".join(line for line, _ in fleet_lines(FleetConfig(num_records=num_records), 0, num_records)))
        self.plan = make_plan(str(source), "raw", {})
        self.read_once = self.read()
        self.waveforms, self.sensors = waveforms_of(self.read_once.records), sensors_of(self.read_once.records)
        self.snr_db = mains_snr_db(self.waveforms, FACTS)

    def read(self) -> ReadPart:
        (part,) = read_shard(self.plan.parts[0], FACTS, "raw", self.plan.base_uri)
        return part

    def whole(self, scorer: Scorer) -> None:
        read = self.read()
        self.number += 1
        uri = str(self.folder / "scores" / str(self.number))
        commit_part(uri, read.part_id, {**scorer.tables(read.records), "bad": read.bad}, read.marker)

    def features(self, run: Run) -> None:
        for part in torch.from_numpy(self.waveforms).split(CHUNK):
            inputs = Inputs(part, FACTS, blocks=run.model.blocks(FACTS))
            for config, _ in run.model.scalings().values():
                inputs[config]

    def routes(self, name: str, run: Run) -> list[Route]:
        """The whole, and of it what can be timed alone; the rest is scaling, the model, the table and its file."""
        scorer = Scorer(run.hastened(), ScoreJob.evidence_per_part)
        return [
            Route(f"{name}", lambda: self.whole(scorer), self.num_records),
            Route("  read and parse", self.read, self.num_records),
            Route("  the mains' lines", lambda: mains_snr_db(self.waveforms, FACTS), self.num_records),
            Route("  state", lambda: run.states(self.waveforms, self.sensors, self.snr_db), self.num_records),
            Route("  features, with these lines", lambda: self.features(run), self.num_records),
        ]


TRANSFORMS = {
    "the mains' lines": ((torch.float64, 2 * 8192, 1),),
    "spectra": ((torch.float64, 1024, 15), (torch.float32, 2048, 13), (torch.float32, 4096, 5)),
}
"""Of a record of 8192 samples, by stage: precision, length and number of the real transforms that the default makes."""


def bare_transforms(which: Sequence[tuple[torch.dtype, int, int]], num_records: int) -> None:
    """Nothing but these transforms, of numbers that lie in the cache."""
    for dtype, length, number in which:
        frames = torch.zeros(16, length, dtype=dtype)
        spectra = torch.empty(16, length // 2 + 1, dtype=dtype.to_complex())
        for _ in range(number * num_records // len(frames)):
            torch.fft.rfft(frames, out=spectra)


def work_of(which: Sequence[tuple[torch.dtype, int, int]]) -> str:
    """Their arithmetic (2.5 n log2 n of n real numbers) and what they read and write."""
    flops = sum(2.5 * length * math.log2(length) * number for _, length, number in which)
    moved = sum((2 * length + 2) * dtype.itemsize * number for dtype, length, number in which)
    return f"{flops / 1e6:.2f} MFLOP, {moved / 1e3:.0f} kB"


def print_floor(rounds: int) -> None:
    """The default's stages on one core, each with what it cannot be without: digits to numbers and a hash, transforms."""
    pool, sensors = fleet(NUM_POOL)
    with tempfile.TemporaryDirectory(prefix="vibray-bench-") as folder:
        bench, run = Bench(Path(folder), 400), make_run(recipes.fused(), pool, sensors)
        lines = (Path(folder) / "raw400" / "0.jsonl").read_bytes().splitlines()
        digits = [b"[" + json.loads(line)["signal_value"].encode() + b"]" for line in lines]
        least = Route("    numbers by simdjson, blake2b", lambda: read_barely(digits, bench.waveforms), bench.num_records)
        whole, read, mains, state, features = bench.routes("fused", run)
        bare = [
            Route(f"    {work_of(which)}", partial(bare_transforms, which, bench.num_records), bench.num_records)
            for which in TRANSFORMS.values()
        ]
        print_group([whole, read, least, mains, bare[0], state, features, bare[1]], rounds, compared=False)


def read_barely(digits: Sequence[bytes], waveforms: np.ndarray) -> None:
    """Digits to numbers and samples to hashes, nothing checked."""
    for text, samples in zip(digits, waveforms, strict=True):
        parse_floats(text, False)
        content_hash(samples)


def compare_scores(name: str, run: Run, bench: Bench) -> None:
    """How far scoring on CPUs is from the nets as they were trained, relative to the spread of the scores."""
    x, rate = torch.from_numpy(bench.waveforms), FACTS.sample_rate_hz
    own, fast = run.score(x, rate, bench.sensors), run.hastened().score(x, rate, bench.sensors)
    print(f"{name}: scores within {float((own - fast).abs().max() / own.std()):.1e} of the eager nets', in their standard deviation")


def print_costs(rounds: int) -> None:
    """By groups: ms of one core a record, and how many times longer the plan's loop takes, which is timed in turn with each group."""
    pool, sensors = fleet(NUM_POOL)
    with tempfile.TemporaryDirectory(prefix="vibray-bench-") as folder:
        few, many = Bench(Path(folder), 32), Bench(Path(folder), 400)
        lines = (Path(folder) / "raw32" / "0.jsonl").read_bytes().splitlines()[:8]
        nets = planned_nets()
        loops = [
            Route("the plan's loop, float32", lambda: planned(lines, nets, np.float32), len(lines)),
            Route("the plan's loop, float64", lambda: planned(lines, nets, np.float64), len(lines)),
        ]
        made = {name: make_run(recipe, pool, sensors) for name, recipe in DEEP.items()}
        for name, run in made.items():
            eager = Route(f"{name}, nets eager", partial(few.whole, Scorer(run, ScoreJob.evidence_per_part)), few.num_records)
            print_group([*loops, eager, *few.routes(name, run)], rounds)
            compare_scores(name, run, few)
        routes = []
        for name in CLASSICAL:
            own = many.routes(name, make_run(recipes.NAMED[name](), pool, sensors))  # type: ignore[arg-type]
            routes += own if name == "fused" else own[:1]
        print_group([*loops, *routes], rounds)


def print_group(routes: list[Route], rounds: int, compared: bool = True) -> None:
    """Times of some routes; of the whole ones, how many times longer the first two take, which are then the plan's loops."""
    found = spreads(routes, rounds)
    for route, spread in zip(routes, found, strict=True):
        ratios = (
            f"{found[0].median / spread.median:8.1f}x {found[1].median / spread.median:8.1f}x" if compared and route.name[0] != " " else ""
        )
        print(f"{route.name:<44} {spread.median:9.3f} ms [{spread.low:.3f} .. {spread.high:.3f}] {ratios}", flush=True)


# ---------------------------------------------------------------- in Ray


@dataclass(frozen=True)
class Archive:
    """Shards of one content under several names, and a run to score them with."""

    folder: Path
    num_shards: int
    shard_records: int = 1000

    @property
    def run(self) -> str:
        return str(self.folder / "run")

    @property
    def source(self) -> str:
        return str(self.folder / "raw")

    def write(self, recipe: str = "fused") -> "Archive":
        pool, sensors = fleet(NUM_POOL)
        made = make_run(recipes.NAMED[recipe](), pool, sensors)  # type: ignore[arg-type]
        begin(self.run, made.recipe, FACTS, {})
        save(self.run, made, [], {})
        Path(self.source).mkdir()
        first = Path(self.source, "0.jsonl.gz")
        lines = fleet_lines(FleetConfig(num_records=self.shard_records), 0, self.shard_records)
        first.write_bytes(gzip.compress(b"".join(line for line, _ in lines), 1))
        for i in range(1, self.num_shards):
            os.link(first, first.with_name(f"{i}.jsonl.gz"))
        return self

    def score(self, num_workers: int) -> float:
        """Wall time of jobs/score.py's stage with so many workers, in s."""
        with tempfile.TemporaryDirectory(prefix="vibray-bench-") as folder, contextlib.redirect_stdout(io.StringIO()):
            with contextlib.redirect_stderr(io.StringIO()), patch.object(session, "num_cpus", lambda: num_workers):
                started = time.perf_counter()
                score(ScoreJob(self.run, self.source, folder, sample_rate_hz=FACTS.sample_rate_hz))
                taken = time.perf_counter() - started
            assert Parts(folder).total("num_kept") == self.num_shards * self.shard_records
        return taken

    def plainly(self, pools: list[ProcessPoolExecutor]) -> float:
        """Wall time of plain processes that share the shards, in s."""
        started = time.perf_counter()
        runs = [pool.submit(_plainly, self.run, self.source, i, len(pools)) for i, pool in enumerate(pools)]
        for run in runs:
            run.result()
        return time.perf_counter() - started


def _plainly(run_uri: str, source: str, rank: int, size: int) -> None:
    """What a worker does with every size-th part, in a process without Ray."""
    torch.set_num_threads(1)
    plan, content = make_plan(source, "raw", {}), short_hash(check_finished(run_uri)["files"])
    arguments = {"run_uri": run_uri, "content": content, "calibration": None, "evidence_per_part": ScoreJob.evidence_per_part}
    with tempfile.TemporaryDirectory(prefix="vibray-bench-") as folder:
        for part in plan.parts[rank::size]:
            for read in read_shard(part, FACTS, "raw", plan.base_uri):
                score_part(read, folder, **arguments, device="cpu")


def print_workers(rounds: int) -> None:
    """The second worker's gain in Ray, beside that of a second plain process."""
    spawned = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(prefix="vibray-bench-") as folder,
        ProcessPoolExecutor(1, spawned) as one,
        ProcessPoolExecutor(1, spawned) as other,
        session.started(num_cpus=2),
    ):
        archive = Archive(Path(folder), NUM_SHARDS).write()
        routes: dict[str, Callable[[], float]] = {
            "one plain process": partial(archive.plainly, [one]),
            "score, 1 worker": partial(archive.score, 1),
            "two plain processes": partial(archive.plainly, [one, other]),
            "score, 2 workers": partial(archive.score, 2),
        }
        found: dict[str, list[float]] = {name: [] for name in routes}
        small = Archive(Path(folder, "small"), 2)
        small.folder.mkdir()
        small.write()
        for route in (partial(small.plainly, [one, other]), partial(small.score, 2)):
            route()  # loads what processes keep
        for _ in range(rounds):
            for name, route in routes.items():
                found[name].append(route())
    num_records = archive.num_shards * archive.shard_records
    for name, taken in found.items():
        print(f"{name:<24} {statistics.median(taken):7.2f} s [{min(taken):.2f} .. {max(taken):.2f}] for {num_records:,} records")
    plain = [a / b for a, b in zip(found["one plain process"], found["two plain processes"], strict=True)]
    ray = [a / b for a, b in zip(found["score, 1 worker"], found["score, 2 workers"], strict=True)]
    for name, gain in (("two plain processes : one", plain), ("2 workers : 1", ray)):
        print(f"{name:<28} {statistics.median(gain):.2f}x [{min(gain):.2f} .. {max(gain):.2f}]")
    shares = [r / p for r, p in zip(ray, plain, strict=True)]
    print(f"{'of what the processes gain':<28} {statistics.median(shares):.0%} [{min(shares):.0%} .. {max(shares):.0%}]")


# ---------------------------------------------------------------- memory


class Watch:
    """The highest private memory of each worker and the most of the object store that was in use, in MB."""

    def __init__(self) -> None:
        self.private: dict[int, float] = {}
        self.store_mb = self.spilled_mb = 0.0
        self.state = get_state_from_address(ray.get_runtime_context().gcs_address)

    def look(self) -> None:
        for pid in worker_seconds():
            with contextlib.suppress(OSError):
                self.private[pid] = max(self.private.get(pid, 0.0), private_mb(pid))
        store = get_memory_info_reply(self.state).store_stats
        self.store_mb = max(self.store_mb, store.object_store_bytes_used / 2**20)
        self.spilled_mb = store.spilled_bytes_total / 2**20


def print_memory() -> None:
    """Private memory and object store by the number of records."""
    for num_shards in (2, 50):
        with tempfile.TemporaryDirectory(prefix="vibray-bench-") as folder, session.started(num_cpus=2):
            archive, watch = Archive(Path(folder), num_shards).write(), Watch()
            with watching(watch.look):
                taken = archive.score(2)
            private = ", ".join(f"{mb:.0f}" for mb in sorted(watch.private.values()) if mb > 200)  # others have done nothing but import
            print(f"{num_shards * archive.shard_records:6,} records, {taken:4.0f} s: workers {private} MB,", end=" ")
            print(f"object store {watch.store_mb:.1f} MB, spilled {watch.spilled_mb:.0f} MB", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--floor", action="store_true", help="the default's stages and the least that each must do")
    parser.add_argument("--workers", action="store_true", help="one and two workers in Ray")
    parser.add_argument("--memory", action="store_true", help="memory of the workers")
    parser.add_argument("--rounds", type=int, default=3)
    parsed = parser.parse_args()
    if parsed.floor:
        print_floor(parsed.rounds)
    elif parsed.workers:
        print_workers(parsed.rounds)
    elif parsed.memory:
        print_memory()
    else:
        print_costs(parsed.rounds)
