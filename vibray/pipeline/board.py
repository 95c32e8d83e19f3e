"""What the workers of a training tell the person who waits for it: progress, lines of text, and the error that ends it."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import ray

from vibray.pipeline.progress import Progress


class TrainingFailed(ValueError):
    """A worker met an error that starting again would not mend."""


class Board:
    """Where workers leave what a person should see, and the error for which starting again is no use."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, int, int, dict[str, Any]]] = []
        self.failed: str | None = None

    def tell(self, label: str, done: int, total: int, figures: dict[str, Any]) -> None:
        self.messages.append((label, done, total, figures))

    def take(self) -> list[tuple[str, int, int, dict[str, Any]]]:
        taken, self.messages = self.messages, []
        return taken

    def fail(self, text: str) -> None:
        self.failed = self.failed or text

    def failure(self) -> str | None:
        return self.failed


@contextlib.contextmanager
def watched(board: Any) -> Iterator[None]:
    """Shows what arrives on the board (a Ray actor) meanwhile. Raises TrainingFailed where a worker left an error there."""
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(board, over), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join(timeout=10)
    failure = ray.get(board.failure.remote())
    if failure is not None:
        raise TrainingFailed(failure)


def _watch(board: Any, over: threading.Event) -> None:
    bars: dict[str, Progress] = {}
    while True:
        last = over.wait(timeout=0.5)
        for label, done, total, figures in ray.get(board.take.remote()):
            if total == 0:
                print(label, flush=True)
                continue
            if label not in bars:
                bars[label] = Progress(label, total)
            bars[label].at(done, **figures)
            if done >= total:
                bars.pop(label).close()
        if last:
            return
