"""Tables that go through a spreadsheet and come back: CSV that Excel opens well, and what it makes of it when it saves.

Written: UTF-8 with its mark, commas, CRLF, quotes as RFC 4180 has them. Read: UTF-8, or UTF-16 with its mark; commas, semicolons or tabs,
whichever parts the first line into columns that are known; any line end; blanks around a cell do not count.
"""

import csv
import io
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from vibray.config import UserError

SEPARATORS = (",", ";", "\t")

_FORMULA = re.compile(r"[=+\-@'\s]")
_TAKEN = re.compile(r"[=+\-@'\s]|[^\w\s]?\d|(true|false)$|(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*[\W_]*\d", re.IGNORECASE)
_NUMBER = re.compile(r"0|[1-9][0-9]{0,14}")


class SpreadsheetError(UserError):
    """A file that is no table of the columns that are wanted."""


def guarded(text: str, name: bool = False) -> str:
    """The text with an apostrophe before it where a spreadsheet would run it (it begins with = + - @, a tab or another blank); of a `name`
    also where it would take it for a number, a date or a truth value that it writes otherwise ("007", "2024-05", "may24", "1e5").

    An apostrophe of its own is guarded too, so that `unguarded` undoes it exactly, but for blanks at its end.
    Source: OWASP, "CSV Injection".
    """
    changed = _FORMULA.match(text) or (name and _TAKEN.match(text) and not _NUMBER.fullmatch(text))
    return f"'{text}" if changed else text


def unguarded(text: str) -> str:
    """What `guarded` was given."""
    return text[1:] if text.startswith("'") and _TAKEN.match(text[1:]) else text


def csv_bytes(columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> bytes:
    """The rows under a first line that names the columns. Cells are written as they are: who has text that is not ours guards it."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(columns)
    writer.writerows([row[name] for name in columns] for row in rows)
    return out.getvalue().encode("utf-8-sig")


def utf8(data: bytes) -> bytes:
    """The file as UTF-8 without a mark, where its own mark says UTF-8 or UTF-16; else as it is."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        try:
            return data.decode("utf-16").encode()
        except UnicodeDecodeError:
            return data
    return data.removeprefix(b"\xef\xbb\xbf")


@dataclass(frozen=True, slots=True)
class Row:
    """The cells of a line, by column; where the line and its first cell stand."""

    cells: dict[str, str]
    line: int
    """1-based; a cell may hold line ends, and a spreadsheet counts rows"""
    number: int
    letters: dict[str, str]

    def cell(self, name: str) -> str:
        """A cell's name in a spreadsheet, such as H5."""
        return f"{self.letters[name]}{self.number}"


def read_rows(uri: str, data: bytes, columns: Collection[str]) -> tuple[set[str], list[Row]]:
    """The columns that a CSV file has, and its rows that hold anything, without outer blanks and guards; other columns are let pass.

    The first row names the columns (in any case): the `columns` that are there, in any order. Raises SpreadsheetError where the file is in
    another encoding, no CSV, or names a column twice, or where a row is longer than the first.
    """
    if data.startswith(b"PK\x03\x04"):
        raise SpreadsheetError(f"{uri} is a workbook: {SAVE_AS}")
    try:
        text = utf8(data).decode()
    except UnicodeDecodeError as error:
        raise SpreadsheetError(f"{uri} is not in UTF-8 (byte {error.start}), nor in UTF-16 with its mark: {SAVE_AS}") from None
    separator = max(SEPARATORS, key=lambda mark: len(set(columns) & set(_first_row(text, mark))))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    names: list[str] = []
    rows: list[Row] = []
    line = number = 0
    try:
        for cells in reader:
            begins, line, number = line + 1, reader.line_num, number + 1
            stripped = [unguarded(cell.strip()) for cell in cells]
            if not any(stripped):
                continue
            if not names:
                names = [cell.lower() for cell in stripped]
                if doubled := sorted({name for name in names if name in columns and names.count(name) > 1}):
                    raise SpreadsheetError(
                        f"{uri}, line {begins} names the column {' and '.join(doubled)} more than once: leave one of each"
                    )
                letters = {name: _letters(i) for i, name in enumerate(names)}
                continue
            if any(stripped[len(names) :]):
                where = f"{uri}, line {begins} (cell {_letters(len(names))}{number})"
                raise SpreadsheetError(f"{where}: more cells than columns: put a cell that holds {separator!r} into quotes")
            found = dict.fromkeys(names, "") | dict(zip(names, stripped, strict=False))
            rows.append(Row({name: cell for name, cell in found.items() if name in columns}, begins, number, letters))
    except csv.Error as error:
        raise SpreadsheetError(f"{uri}, line {line + 1} is no CSV ({error}): a quote within a quoted cell is written twice") from None
    return set(columns) & set(names), rows


SAVE_AS = 'in Excel choose File, Save As, "CSV UTF-8 (Comma delimited)"; in LibreOffice keep the character set UTF-8'


def _first_row(text: str, separator: str) -> list[str]:
    try:
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        return next(([cell.strip().lower() for cell in row] for row in rows if any(cell.strip() for cell in row)), [])
    except csv.Error:
        return []


def _letters(column: int) -> str:
    """A, B, ... Z, AA, ... of a column that counts from 0."""
    letters = ""
    column += 1
    while column:
        column, rest = divmod(column - 1, 26)
        letters = chr(ord("A") + rest) + letters
    return letters
