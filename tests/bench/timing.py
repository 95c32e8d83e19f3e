"""Rows of a table of times: one work by several routes, interleaved in one process on one core."""

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Route:
    """One way to do a work: `call` does it for `num_records` records."""

    name: str
    call: Callable[[], object]
    num_records: int


@dataclass(frozen=True)
class Row:
    """A work, the slow routes it is compared with, and ours. `goal` is words for the last column: no time is asserted."""

    work: str
    baselines: tuple[Route, ...]
    ours: Route
    goal: str


@dataclass(frozen=True)
class Spread:
    """CPU time a record in ms: median, smallest and largest round."""

    median: float
    low: float
    high: float


def spreads(routes: Iterable[Route], rounds: int) -> list[Spread]:
    """Times of each route, one call of each in turn, `rounds` times after one that is thrown away; CPU time, so that a busy machine
    spoils little."""
    torch.set_num_threads(1)
    routes = list(routes)
    times: list[list[float]] = [[] for _ in routes]
    for _ in range(rounds + 1):
        for i, route in enumerate(routes):
            started = time.process_time()
            route.call()
            times[i].append(1e3 * (time.process_time() - started) / route.num_records)
    return [Spread(statistics.median(t[1:]), min(t[1:]), max(t[1:])) for t in times]


def print_rows(rows: Iterable[Row], rounds: int = 9) -> None:
    """The table, a row as soon as it is measured: our time, then how many times longer each baseline took."""
    for row in rows:
        ours, *others = spreads([row.ours, *row.baselines], rounds)
        print(f"{row.work:<44} {ours.median:8.3f} ms [{ours.low:.3f} .. {ours.high:.3f}]   {row.goal}")
        for route, other in zip(row.baselines, others, strict=True):
            times = f"{other.median:8.3f} ms [{other.low:.3f} .. {other.high:.3f}]"
            print(f"    {route.name:<40} {times}   {other.median / ours.median:.1f}x", flush=True)
