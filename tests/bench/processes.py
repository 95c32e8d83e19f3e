"""What processes have taken of this machine, by /proc: CPU time and memory of one, or of it and all that came of it and still runs."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

TICKS_S = os.sysconf("SC_CLK_TCK")
WORKERS = ("ray::IDLE", "ray::MapBatches")


def family(root: int) -> Iterator[int]:
    """A process and all that came of it and still runs."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            parents[int(folder.name)] = int(_stat(int(folder.name))[1])
    for pid in parents:
        at = pid
        while at in parents and at != root:
            at = parents[at]
        if at == root:
            yield pid


def cpu_s(root: int) -> float:
    """CPU time so far of a process and its family, those that have ended among them."""
    total = 0
    for pid in family(root):
        with contextlib.suppress(OSError):
            total += sum(map(int, _stat(pid)[11:15]))
    return total / TICKS_S


def worker_seconds() -> dict[int, float]:
    """CPU time so far of each worker of this process's Ray, by pid."""
    found = {}
    for pid in family(os.getpid()):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode().startswith(WORKERS):
                found[pid] = sum(map(int, _stat(pid)[11:13])) / TICKS_S
    return found


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat from the third on: state, parent, ..."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()


def status_mb(name: str, pid: int | str = "self") -> float:
    """A line of /proc/<pid>/status. (ru_maxrss is the parent's where that was larger.)"""
    return next(int(row.split()[1]) for row in Path(f"/proc/{pid}/status").read_text().splitlines() if row.startswith(f"{name}:")) / 1024


def private_mb(pid: int) -> float:
    """What no other process shares. Raises OSError for a process that has ended."""
    rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(row.split()[1]) for row in rows if row.startswith("Private_")) / 1024


def peak_mb(root: int) -> float:
    """Peak resident memory of a process and its family, each at its own peak: what they share counts in each."""
    total = 0.0
    for pid in family(root):
        with contextlib.suppress(OSError):
            total += status_mb("VmHWM", pid)
    return total


@contextlib.contextmanager
def watching(look: Callable[[], None], period_s: float = 0.2) -> Iterator[None]:
    """Looks again and again, in a thread of its own, while the block runs."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(period_s):
            look()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
