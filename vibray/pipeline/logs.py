"""What a job says of itself, on stderr: lines for a person, or with VIBRAY_LOG=json one JSON object a line, prints and warnings included;
and how far its long work is: on a terminal a bar, in a log a line every quarter of a minute, with rate, share done and time left.

An event is a log record with a dict `facts`: `log.info("plan fixed", extra=event("plan", num_parts=12))`. A line of JSON has time, level,
job, event, message and those facts. No line holds the value of a variable in SECRETS.
"""

import contextlib
import io
import json
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from vibray.config import UserError

SWITCH = "VIBRAY_LOG"
SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "RAY_AUTH_TOKEN")
"""Variables whose values are taken out of every line. Nothing of ours logs them; a library's message might."""

LINE_S = 15
"""In a log, a line each quarter of a minute tells as much as ten a second."""

WINDOW_S = 300
"""Rates are those of the last five minutes: parts come in bursts, and nodes come and go."""

log = logging.getLogger("vibray")


class UnknownSwitch(UserError):
    """The switch has a value that means nothing."""


def event(name: str, **facts: Any) -> dict[str, Any]:
    """The `extra` of a log call."""
    return {"event": name, "facts": facts}


def as_json() -> bool:
    """True where the switch asks for JSON. Raises UnknownSwitch."""
    value = os.environ.get(SWITCH, "text")
    if value not in ("text", "json"):
        raise UnknownSwitch(f"{SWITCH}={value}: write text or json")
    return value == "json"


@contextlib.contextmanager
def told(job: str) -> Iterator[None]:
    """Logging for the time of a job: vibray's own events, and what other libraries warn of."""
    structured, root = as_json(), logging.getLogger()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(job) if structured else TextLines())
    level = log.level
    log.setLevel(logging.DEBUG if structured else logging.INFO)
    root.addHandler(handler)
    logging.captureWarnings(structured)
    try:
        with contextlib.redirect_stdout(Printed()) if structured else contextlib.nullcontext():
            yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        log.setLevel(level)


def without_secrets(line: str) -> str:
    for name in SECRETS:
        secret = os.environ.get(name, "")
        if len(secret) >= 8:  # a shorter one is a test's, and might be part of any word
            line = line.replace(secret, f"<{name}>")
    return line


class JsonLines(logging.Formatter):
    """One JSON object a record; time in UTC."""

    def __init__(self, job: str):
        super().__init__()
        self.job = job

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        values = {"time": stamp, "level": record.levelname.lower(), "job": self.job}
        values |= {"event": getattr(record, "event", record.name), "message": record.getMessage(), **getattr(record, "facts", {})}
        if record.exc_info:
            values["traceback"] = self.formatException(record.exc_info)
        return without_secrets(json.dumps(values, ensure_ascii=False, default=str))


class TextLines(logging.Formatter):
    """A line for a person; in a file with its time, UTC."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = "" if sys.stderr.isatty() else time.strftime("%Y-%m-%dT%H:%M:%SZ ", time.gmtime(record.created))
        level = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        return without_secrets(f"{stamp}{level}{record.getMessage()}")


class Printed(io.TextIOBase):
    """What is printed, as events."""

    def __init__(self) -> None:
        self.begun = ""

    def write(self, text: str, /) -> int:
        *lines, self.begun = (self.begun + text).split("\n")
        for line in lines:
            if line.strip():
                log.info("%s", line, extra=event("message"))
        return len(text)


class Progress:
    """How far one piece of work is.

    `total` is what the share done is of: as many as are counted, or another measure of the work, such as bytes, of which `done` (of it,
    at the start) and `add`'s `weight` speak too. None where it is not known: then there is neither share nor time left.
    """

    def __init__(self, label: str, total: float | int | None, unit: str = "", done: float | int = 0):
        self.label, self.total, self.unit = label, total, unit
        self.count, self.done, self.facts = 0, done, {}
        self.begun = self.told_at = time.monotonic()
        self.told_count = 0
        self.window = deque([(self.begun, 0, done)])
        self.bar = None
        if sys.stderr.isatty() and not as_json():
            form = "{desc}: {percentage:3.0f}% |{bar}| {postfix}" if total else "{desc}: {postfix}"
            self.bar = tqdm(desc=label, total=total or None, initial=done, bar_format=form, mininterval=0.5, dynamic_ncols=True)

    def add(self, count: int, weight: float | int | None = None, **facts: Any) -> None:
        """`count` more are done, which are `weight` of the total (as many as are counted, unless said)."""
        now, weight = time.monotonic(), count if weight is None else weight
        self.count, self.done, self.facts = self.count + count, self.done + weight, facts
        self.window.append((now, self.count, self.done))
        while len(self.window) > 2 and self.window[1][0] < now - WINDOW_S:
            self.window.popleft()
        if self.bar is not None:
            self.bar.set_postfix_str(self.text(share=False), refresh=False)
            self.bar.update(weight)
        elif now - self.told_at >= LINE_S:
            self._tell()

    def at(self, done: int, **facts: Any) -> None:
        """`done` are done in all; where the first call says more than one, the others were done before."""
        if not self.count and done > 1:
            self.count = self.done = done - 1
            self.window[0] = (self.begun, self.count, self.done)
        self.add(done - self.count, **facts)

    def close(self) -> None:
        """What was not told yet, as a last line."""
        if self.bar is not None:
            self.bar.refresh()
            self.bar.close()
        elif self.count > self.told_count:
            self._tell()

    def values(self) -> dict[str, Any]:
        """The figures: count, per_s, share_done (0 to 1) and left_s, the last two None where they are not known."""
        (then, count, done), (now, _, _) = self.window[0], self.window[-1]
        elapsed = now - then
        speed = (self.done - done) / elapsed if elapsed > 0 else 0.0
        return {
            "count": self.count,
            "per_s": float(f"{(self.count - count) / elapsed:.4g}") if elapsed > 0 else None,
            "share_done": round(min(1.0, self.done / self.total), 4) if self.total else None,
            "left_s": round(max(0.0, self.total - self.done) / speed) if self.total and speed > 0 else None,
            **self.facts,
        }

    def text(self, share: bool = True) -> str:
        """The figures as words."""
        values = self.values()
        words = [f"{self.count:,} {self.unit}".strip()]
        if share and values["share_done"] is not None:
            words.insert(0, f"{100 * values['share_done']:.0f} % done")
        rate = values["per_s"]
        if rate:
            words.append(f"{rate:,.{0 if rate >= 10 else 2}f} {self.unit}".strip() + "/s" if rate >= 0.1 else f"{1 / rate:,.0f} s each")
        if values["left_s"] is not None:
            words.append(f"{tqdm.format_interval(values['left_s'])} left")
        return ", ".join([*words, *(f"{name.replace('_', ' ')} {value}" for name, value in self.facts.items())])

    def _tell(self) -> None:
        self.told_at, self.told_count = time.monotonic(), self.count
        log.info("%s: %s", self.label, self.text(), extra=event("progress", label=self.label, unit=self.unit, **self.values()))

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Bars:
    """Several pieces of work by their labels, each with its own progress from its first word to its last."""

    def __init__(self) -> None:
        self.running: dict[str, Progress] = {}

    def tell(self, label: str, done: int, total: int, **facts: Any) -> None:
        """`done` of `total` of what `label` names; a total of 0: the label is a line of text."""
        if total == 0:
            print(label, flush=True)
            return
        if label not in self.running:
            self.running[label] = Progress(label, total)
        self.running[label].at(done, **facts)
        if done >= total:
            self.running.pop(label).close()

    def __enter__(self) -> "Bars":
        return self

    def __exit__(self, *error: object) -> None:
        for progress in self.running.values():
            progress.close()
