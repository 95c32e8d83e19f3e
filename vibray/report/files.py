"""The files of one report, and the rule that none is written over the result of other inputs."""

import html
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from vibray.config import UserError
from vibray.storage import objects

HEAD_BYTES = 1 << 16
"""In so many bytes the page says what it is and what it was made of."""


TABLES = ("alarms.csv", "no_alarm.csv", "unit_alarms.csv")


@dataclass(frozen=True)
class ReportFiles:
    """URIs of the page and of the tables that follow it."""

    page: str
    alarms: str
    no_alarm: str
    unit_alarms: str

    @property
    def tables(self) -> tuple[str, ...]:
        return self.alarms, self.no_alarm, self.unit_alarms


def report_files(uri: str) -> ReportFiles:
    """Where the files of a report lie: a.html has a.alarms.csv beside it; any other name is a folder, with report.html and alarms.csv."""
    whole = objects.absolute(uri)
    name = PurePosixPath(whole.rsplit("/", 1)[-1])
    if uri.endswith("/") or name.suffix.lower() not in (".html", ".htm"):
        return ReportFiles(*(objects.join(whole, file) for file in ("report.html", *TABLES)))
    return ReportFiles(whole, *(objects.join(objects.parent(whole), f"{name.stem}.{file}") for file in TABLES))


def check_free(files: ReportFiles, inputs: str) -> bool:
    """True where nothing stands, False where the page of the same inputs does (their hash, as the page carries it).

    Raises UserError where the page is of other inputs or none of ours, or where a table stands without it.
    """
    if objects.exists(files.page):
        there = _what_stands(files.page, inputs)
        if there:
            raise UserError(f"{files.page} is {there}: use another name, or remove it")
        return False
    for table in files.tables:
        if objects.exists(table):
            raise UserError(f"{table} stands there without its report ({files.page}): use another name, or remove it")
    return True


def _what_stands(page_uri: str, inputs: str) -> str:
    """What a page is that was not made of these inputs; empty for one that was."""
    with objects.open_read(page_uri) as stream:
        head = stream.read(HEAD_BYTES).decode(errors="replace")
    if '<meta name="generator" content="vibray">' not in head:
        return "no report of vibray"
    made_of = re.search(r'<meta name="vibray-inputs" content="(\w+)">', head)
    if made_of is not None and made_of[1] == inputs:
        return ""
    title = re.search(r"<title>(.*?)</title>", head, re.DOTALL)
    named = "a report" if title is None else f"the report {html.unescape(title[1])[:80]!r}"
    return f"{named} of other inputs" if made_of else f"{named}, which does not say of what inputs"


def write_report(files: ReportFiles, inputs: str, page: str, tables: Mapping[str, Callable[[], Iterable[str]]]) -> None:
    """Writes the page, then its tables, by URI, each in pieces that are asked for as they are written. Raises as `check_free` does."""
    is_free = check_free(files, inputs)
    objects.write_bytes(files.page, page.encode(), exclusive=is_free)
    for uri in files.tables:
        if uri in tables:
            objects.write_stream(uri, lambda file, pieces=tables[uri]: file.writelines(piece.encode() for piece in pieces()))
