"""Work in this process, without Ray: importing and starting it takes longer than one part of records does.

torch is imported where it is needed: a fleet is made without it.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from vibray.pipeline.logs import Progress
from vibray.storage.corpus import CorpusFacts
from vibray.storage.plan import Plan, Todo
from vibray.storage.reading import ReadPart, read_shard

CHAIN_BYTES = 64 << 20
"""Of a compressed shard: the lines of one part are seldom more (2,000 of 32 kB)."""


def running_ray() -> Any | None:
    """The module ray, where this process has started or joined one."""
    ray = sys.modules.get("ray")
    return ray if ray is not None and ray.is_initialized() else None


def works_alone(local: bool, num_parts: int) -> bool:
    """True where a job works in this process: where it was told to (--local), or where one part is all there is and no Ray was named."""
    return local or (num_parts <= 1 and not os.environ.get("RAY_ADDRESS") and running_ray() is None)


def num_parts(todo: Todo) -> int:
    """How many parts are to do; of a chain of them, a compressed object or many small ones, by its size."""
    return sum(1 + (part.num_bytes // CHAIN_BYTES if part.chain else 0) for part, _ in todo)


def device_here(nets: bool) -> str:
    """Where this process computes."""
    import torch

    return "cuda" if nets and torch.cuda.is_available() else "cpu"


def one_thread() -> None:
    """As a worker computes: the same bytes."""
    import torch

    torch.set_num_threads(1)


def read_here(plan: Plan, facts: CorpusFacts, todo: Todo) -> Iterator[ReadPart]:
    """The unfinished parts, one after another."""
    one_thread()
    for part, done in todo:
        yield from read_shard(part, facts, plan.corpus, plan.base_uri, done)


def map_here(label: str) -> Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]:
    """A map over parts that shows how far it is."""

    def run(function: Callable[[Any], Any], parts: Sequence[Any]) -> Iterator[Any]:
        one_thread()
        with Progress(label, len(parts), "parts") as progress:
            for part in parts:
                yield function(part)
                progress.add(1)

    return run
