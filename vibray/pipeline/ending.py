"""How a job ends that cannot go on: one line for a person, an exit code for a script.

0 finished; 2 something to mend, which the line names: a UserError, no other; 3 something that may pass (storage or a machine failed): the
same command again goes on where this one stopped; 130 interrupted, 143 terminated, the same holds; 1 a defect, with its traceback. Ray need
not be imported: where it is not, none of its errors can have come.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

from vibray.config import UserError, first_line
from vibray.pipeline import logs
from vibray.storage.errors import StorageBusy

MEND, AGAIN, INTERRUPTED, TERMINATED = 2, 3, 130, 143

GO_ON = "run the same command again to go on where it stopped"

log = logging.getLogger(__name__)


class ClusterError(UserError):
    """The cluster cannot run this job; one line says why and what to do."""


class ClusterAway(RuntimeError):
    """The cluster does not answer, or its nodes do not come: trying again may mend it."""


class Terminated(KeyboardInterrupt):
    """SIGTERM: `ray job stop`, or a node that goes."""


signalled = threading.Event()
"""SIGTERM came."""


class Ending(NamedTuple):
    """Exit code, and what to tell the person."""

    code: int
    line: str


OF_A_MACHINE = (
    ("OutOfMemoryError", "a worker was stopped because its node ran out of memory: give nodes more memory, or fewer CPUs"),
    ("OutOfDiskError ObjectStoreFullError", "a node has no room left for what workers hand on: give nodes more disk"),
    ("RuntimeEnvSetupError", "a node could not set up the runtime environment (--runtime-env)"),
    ("RayError", "the cluster lost a worker or a node that it could not do without"),
    ("TrainingFailedError", "the training was started again as often as it may be, and failed each time"),
)
"""Ray's errors that are nobody's code, from the special to the general, by the names of their classes."""

OF_A_TASK = {"RayTaskError", "UserCodeException"}
"""Ray's errors that stand for one of a task's own."""


def ending(error: BaseException) -> Ending | None:
    """What an exception means to the person; None for a defect."""
    if isinstance(error, KeyboardInterrupt):
        # Ray's calls end with a KeyboardInterrupt of their own whatever the handler of a signal raised
        terminated = isinstance(error, Terminated) or signalled.is_set()
        return Ending(TERMINATED, f"terminated: {GO_ON}") if terminated else Ending(INTERRUPTED, f"interrupted: {GO_ON}")
    # Ray Data raises whatever was not a task's own from an empty SystemException
    chain = [cause for cause in causes(error) if "SystemException" not in _of_ray(cause)] or [error]
    for cause in chain:
        if "RayError" in _of_ray(cause):  # some are of the class of their cause too, but their text is a page
            continue
        if isinstance(cause, StorageBusy | ClusterAway):
            return Ending(AGAIN, f"error: {_text(cause)}; {GO_ON}")
        if isinstance(cause, UserError):
            return Ending(MEND, f"error: {_text(cause)}")
    last = _of_ray(chain[-1])  # where a task's own error lies at the bottom, it is a defect
    for names, words in OF_A_MACHINE:
        if last & set(names.split()) and not last & OF_A_TASK:
            return Ending(AGAIN, f"error: {words} ({first_line(chain[-1])}); {GO_ON}")
    return None


def _of_ray(error: BaseException) -> set[str]:
    """Names of the classes of Ray's that an error is of."""
    return {kind.__name__ for kind in type(error).__mro__ if kind.__module__.partition(".")[0] == "ray"}


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from, through what Ray wraps around it."""
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        yield error
        workers = getattr(error, "worker_failures", None)  # of a training's group
        inner = getattr(error, "cause", None) or (next(iter(workers.values())) if workers else None) or error.__cause__
        if isinstance(inner, BaseException):
            error = inner


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """What stands around a job: its log (logs.py), and its end, in one line and as exit code. VIBRAY_TRACEBACK=1 shows the traceback."""
    begun = time.monotonic()
    verb = Path(sys.argv[0]).stem
    try:
        with logs.told(verb), interruptible():
            log.debug("%s begins", verb, extra=logs.event("begin"))
            try:
                yield
            except (Exception, KeyboardInterrupt) as error:
                _end(error)
            log.debug("%s is finished", verb, extra=logs.event("end", seconds=round(time.monotonic() - begun, 3), exit_code=0))
    except logs.UnknownSwitch as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(MEND) from None


def _end(error: Exception | KeyboardInterrupt) -> NoReturn:
    end = ending(error)
    if logs.as_json():
        code, line = end or Ending(1, f"a defect: {first_line(error)}")
        shown = end is None or bool(os.environ.get("VIBRAY_TRACEBACK"))
        log.error("%s", line, extra=logs.event("end", exit_code=code), exc_info=error if shown else None)
        raise SystemExit(code) from None
    if end is None:
        raise error
    if os.environ.get("VIBRAY_TRACEBACK"):
        print(logs.without_secrets("".join(traceback.format_exception(error))), file=sys.stderr)
    print(logs.without_secrets(end.line), file=sys.stderr)
    raise SystemExit(end.code) from None


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM raises Terminated, once, so that Ray is shut down and the end is told."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(*_: object) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signalled.set()
        raise Terminated

    signalled.clear()
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _text(error: BaseException) -> str:
    """What the error says, without the advice on retries that Ray Data appends to what a task raised."""
    return str(error).split("\nFailed to ", 1)[0]
