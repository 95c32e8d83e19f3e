"""Raw shards to finished parts: featurize in a local Ray with one and two workers, against the original plan's loop in one plain process.

    python -m tests.bench.line [NUMBER OF A CASE ...]

Every round runs each route once, so that what else the machine does meets all of them; ratios are of one round. The first case is
60,000 records, since Ray Data has one task run for its first second, until it has been told how large the cluster is. It takes a quarter
of an hour, the others seven minutes together.
"""

import contextlib
import gzip
import io
import json
import multiprocessing
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from tests.bench.processes import worker_seconds
from tests.bench.vectors import zerone
from tests.pipeline.lines import corpus_fields
from vibray.pipeline import session
from vibray.pipeline.featurize import CONFIGS, featurize, make_features
from vibray.pipeline.jobs import FeaturizeJob, VectorName
from vibray.signal.synthetic import FleetConfig, fleet_lines
from vibray.storage.corpus import CorpusFacts
from vibray.storage.parts import Parts
from vibray.storage.plan import make_plan
from vibray.storage.reading import read_shard

RATE_HZ = 8192.0
ROUNDS = 3


@dataclass(frozen=True)
class Case:
    """What is made of `num_shards` of `num_records` each, and how many records the plan's loop makes it of (0: there is no such loop)."""

    name: str
    facts: CorpusFacts
    vectors: tuple[VectorName, ...]
    num_shards: int
    num_records: int
    num_planned: int


NO_MAINS = CorpusFacts(RATE_HZ, mains="none")
CASES = (
    Case("Zerone vector, --mains none", NO_MAINS, ("zerone",), 60, 1000, 200),
    Case("all vectors, --mains 50", CorpusFacts(RATE_HZ), ("spectral", "zerone", "harmonic"), 4, 1000, 0),
)


@dataclass(frozen=True)
class Taken:
    """Wall and CPU time of a route, in ms a record."""

    wall_ms: float
    cpu_ms: float


def print_line(cases: Sequence[Case] = CASES, rounds: int = ROUNDS) -> None:
    """The table of some cases."""
    spawned = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(prefix="vibray-bench-") as folder,
        ProcessPoolExecutor(1, spawned) as one,
        ProcessPoolExecutor(1, spawned) as other,
        session.started(num_cpus=2),
    ):
        for case in cases:
            source = str(_write_corpus(Path(folder, "raw"), case))
            routes: dict[str, Callable[[], Taken]] = {
                "one plain process": partial(_plain, case, source, [one]),
                "featurize, 1 worker": partial(_in_ray, case, source, 1),
                "two plain processes": partial(_plain, case, source, [one, other]),
                "featurize, 2 workers": partial(_in_ray, case, source, 2),
            }
            if case.num_planned:
                routes["the plan's loop, one process"] = partial(_plan, case, source, one)
            found: dict[str, list[Taken]] = {name: [] for name in routes}
            for number in range(rounds + 1):
                for name, route in routes.items():
                    taken = route()
                    if number:  # the first round loads what processes keep
                        found[name].append(taken)
            _print(case, found)
            shutil.rmtree(source)


def _print(case: Case, found: dict[str, list[Taken]]) -> None:
    print(f"{case.name}: {case.num_shards} shards of {case.num_records} records, {len(found['one plain process'])} rounds")
    for name, taken in found.items():
        cpu = _spread([t.cpu_ms for t in taken], "ms CPU")
        print(f"  {name:<32} {_spread([t.wall_ms for t in taken], 'ms')}   {cpu} a record")
    ratios = [
        ("the plan's loop, one process", "one plain process"),
        ("the plan's loop, one process", "featurize, 1 worker"),
        ("one plain process", "two plain processes"),
        ("featurize, 1 worker", "featurize, 2 workers"),
        ("two plain processes", "featurize, 2 workers"),
    ]
    for slow, fast in ratios:
        if slow in found:
            print(f"  {fast} : {slow}   {_spread(_ratios(found, slow, fast), 'x')}")
    plain, ray = _ratios(found, "one plain process", "two plain processes"), _ratios(found, "featurize, 1 worker", "featurize, 2 workers")
    shares = [100 * r / p for r, p in zip(ray, plain, strict=True)]
    print(f"  second worker's gain in Ray, of that of the second process   {_spread(shares, '%')}", flush=True)


def _ratios(found: dict[str, list[Taken]], slow: str, fast: str) -> list[float]:
    return [s.wall_ms / f.wall_ms for s, f in zip(found[slow], found[fast], strict=True)]


def _spread(values: list[float], unit: str) -> str:
    return f"{statistics.median(values):7.2f} [{min(values):.2f} .. {max(values):.2f}] {unit}"


def _taken(case: Case, wall_s: float, cpu_s: float) -> Taken:
    num_records = case.num_shards * case.num_records
    return Taken(1e3 * wall_s / num_records, 1e3 * cpu_s / num_records)


def _write_corpus(folder: Path, case: Case) -> Path:
    """One shard of the synthetic fleet, under several names."""
    folder.mkdir()
    data = gzip.compress(b"".join(line for line, _ in fleet_lines(FleetConfig(num_records=case.num_records), 0, case.num_records)), 6)
    for i in range(case.num_shards):
        (folder / f"{i}.jsonl.gz").write_bytes(data)
    return folder


def _plan(case: Case, source: str, pool: ProcessPoolExecutor) -> Taken:
    return pool.submit(_planned, case, source).result()


def _plain(case: Case, source: str, pools: list[ProcessPoolExecutor]) -> Taken:
    started = time.perf_counter()
    keys = [f"{i}.jsonl.gz" for i in range(case.num_shards)]
    runs = [pool.submit(_plainly, case, source, keys[i :: len(pools)]) for i, pool in enumerate(pools)]
    cpu_s = sum(run.result() for run in runs)
    return _taken(case, time.perf_counter() - started, cpu_s)


def _planned(case: Case, source: str) -> Taken:
    """json.loads, float(), scipy's and pywt's own functions, record by record, as the original plan has it; without its models."""
    cpu, wall = time.process_time(), time.perf_counter()
    with gzip.open(Path(source, "0.jsonl.gz")) as lines:
        for _, line in zip(range(case.num_planned), lines, strict=False):
            waveform = np.array([float(value) for value in json.loads(line)["signal_value"].split(",")], np.float32)
            zerone(waveform, RATE_HZ)
    return Taken(1e3 * (time.perf_counter() - wall) / case.num_planned, 1e3 * (time.process_time() - cpu) / case.num_planned)


def _plainly(case: Case, source: str, keys: list[str]) -> float:
    """What a worker does with these shards, in a process without Ray; returns its CPU time in s."""
    torch.set_num_threads(1)
    cpu = time.process_time()
    plan = make_plan(source, "raw", {})
    with tempfile.TemporaryDirectory(prefix="vibray-bench-") as folder:
        for part in plan.parts:
            if part.key in keys:
                for read in read_shard(part, case.facts, "raw", plan.base_uri):
                    make_features(read, folder, case.facts, {name: CONFIGS[name] for name in case.vectors})
    return time.process_time() - cpu


def _in_ray(case: Case, source: str, num_workers: int) -> Taken:
    with (
        tempfile.TemporaryDirectory(prefix="vibray-bench-") as folder,
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        patch.object(session, "num_cpus", lambda: num_workers),
    ):
        cpu, wall = worker_seconds(), time.perf_counter()
        featurize(FeaturizeJob(source, folder, corpus="raw", vectors=case.vectors, **corpus_fields(case.facts)))
        wall_s = time.perf_counter() - wall
        cpu_s = sum(seconds - cpu.get(pid, 0.0) for pid, seconds in worker_seconds().items())
        assert Parts(folder).total("num_kept") == case.num_shards * case.num_records
    return _taken(case, wall_s, cpu_s)


if __name__ == "__main__":
    print_line([CASES[int(number) - 1] for number in sys.argv[1:]] or CASES)
