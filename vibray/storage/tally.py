"""What this process did since it was last asked: retries, bytes, seconds. Storage counts, and knows nothing of who shows it.

Each amount is taken once, so that the sum over all that was taken is exact, whatever threads and parts the process was working on.
"""

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

Name = Literal["retries", "bytes_read", "read_seconds", "work_seconds", "write_seconds"]

_lock = threading.Lock()
_amounts: dict[str, int | float] = {}


def add(name: Name, amount: int | float = 1) -> None:
    """Counts what happened."""
    put({name: amount})


@contextmanager
def seconds(name: Name) -> Iterator[None]:
    """Adds the time that the block takes, the block of an error included."""
    started = time.perf_counter()
    try:
        yield
    finally:
        add(name, time.perf_counter() - started)


def timed(name: Name, items: Iterable[Any]) -> Iterator[Any]:
    """The items, the time that making them took added; what becomes of an item is not counted."""
    iterator = iter(items)
    while True:
        with seconds(name):
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item
        del item  # the next one is not made while this one is still held


def put(amounts: Mapping[str, int | float]) -> None:
    """Adds what another process took."""
    with _lock:
        for name, amount in amounts.items():
            _amounts[name] = _amounts.get(name, 0) + amount


def take() -> dict[str, int | float]:
    """The amounts since the last call, which are zero from now on."""
    with _lock:
        taken = dict(_amounts)
        _amounts.clear()
    return taken


def on_attempt(request: Any, **_: Any) -> None:
    """What botocore calls before it sends a request: any attempt but the first is a retry."""
    said = request.headers.get("amz-sdk-request", b"")
    text = said.decode() if isinstance(said, bytes) else str(said)
    if "attempt=" in text and not text.startswith("attempt=1"):
        add("retries")
