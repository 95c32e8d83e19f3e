"""What a job says of itself, on stderr: lines for a person, or with VIBRAY_LOG=json one JSON object a line, prints and warnings included.

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
from collections.abc import Iterator
from typing import Any

from vibray.config import UserError

SWITCH = "VIBRAY_LOG"
SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "RAY_AUTH_TOKEN")
"""Variables whose values are taken out of every line. Nothing of ours logs them; a library's message might."""

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
