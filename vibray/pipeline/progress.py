"""Progress of long work on the terminal; in a job's log, a line now and then."""

import sys
from typing import Any

from tqdm import tqdm


class Progress:
    """How far one piece of work is: records, epochs, parts. Shows rate, time left and any further facts."""

    def __init__(self, label: str, total: int | None, unit: str = ""):
        terminal = sys.stderr.isatty()
        self.bar = tqdm(
            desc=label,
            total=total,
            unit=unit and f" {unit}",
            # a log is not a terminal: a line each quarter of a minute tells as much as ten a second
            mininterval=0.5 if terminal else 15,
            dynamic_ncols=terminal,
            ascii=not terminal,
            file=sys.stderr,
            leave=True,
        )

    def add(self, count: int, **facts: Any) -> None:
        """`count` more are done."""
        self.bar.set_postfix(facts, refresh=False)
        self.bar.update(count)

    def at(self, done: int, **facts: Any) -> None:
        """`done` are done in all."""
        self.add(done - self.bar.n, **facts)

    def close(self) -> None:
        self.bar.close()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
