"""Lines cut out of a stream of bytes, in bounded memory, and what stands for a line or an item on its way to a record."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vibray.schema import Reason
from vibray.storage.gunzip import BrokenStream

HEAD = 200
"""Characters of a line that are kept where it is set aside."""

BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class RawLine:
    """A line without its end. `line` is its 1-based number, blank lines counted; None where the range began after byte 0."""

    offset: int
    line: int | None
    raw: bytes

    @property
    def size(self) -> int:
        return len(self.raw)


@dataclass(frozen=True, slots=True)
class RawItem:
    """An item of a .json list; its offset is its index."""

    offset: int
    value: Any
    line: None = None

    @property
    def size(self) -> int:
        """Bytes the item is counted as: from its values alone, so that it does not depend on how the stream was cut."""
        signal = self.value.get("signal_value") if isinstance(self.value, dict) else None
        return len(signal) if isinstance(signal, str) else 8 * len(signal) if isinstance(signal, list) else 0


@dataclass(frozen=True, slots=True)
class Broken:
    """A line or item that could not be read, and why."""

    offset: int
    line: int | None
    reason: Reason
    detail: str
    head: str
    size: int = 0
    num_objects: int = 1
    """JSON objects that stand there"""


def head_of(raw: bytes) -> str:
    """The first 200 characters of a line, unreadable bytes replaced."""
    return raw[: 4 * HEAD].decode("utf-8", "replace")[:HEAD]


def head_of_value(value: Any) -> str:
    """The first 200 characters of an item of a list, written again as JSON."""
    if value is None:
        return ""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, TypeError, RecursionError):
        text = ""
    return text[:HEAD].encode("utf-8", "replace").decode()


def _cut(
    chunks: Iterator[bytes], offset: int, limit: int, start: int, end: int | None
) -> Iterator[tuple[int, bytes, int, BrokenStream | None]]:
    """(offset, line, its length, what broke it) for each line; of one longer than `limit` only the head is held.

    A line that begins before `start` and goes on beyond `end` is not read further: a thousand ranges within one endless line would each be.
    """
    held: list[bytes] = []
    length = 0
    try:
        for chunk in chunks:
            at = 0
            while at < len(chunk):
                newline = chunk.find(b"\n", at)
                stop = newline if newline >= 0 else len(chunk)
                length += stop - at
                if length <= limit:
                    held.append(chunk[at:stop])  # the chunk itself where all of it is the line's
                else:
                    held = [_beginning([*held, chunk[at : min(stop, at + 4 * HEAD)]])]
                at = stop + 1
                if newline >= 0:
                    yield offset, b"".join(held), length, None
                    offset += length + 1
                    held, length = [], 0
            if end is not None and offset < start and offset + length >= end:
                return
    except BrokenStream as error:
        yield offset, b"".join(held), length, error
        return
    if length:
        yield offset, b"".join(held), length, None


def _beginning(pieces: list[bytes]) -> bytes:
    """What the head of a line is made from; the rest is not copied."""
    begun = b""
    for piece in pieces:
        begun += piece[: 4 * HEAD - len(begun)]
        if len(begun) == 4 * HEAD:
            break
    return begun


def split(chunks: Iterator[bytes], start: int, end: int | None, limit: int) -> Iterator[RawLine | Broken]:
    """The non-blank lines whose first byte lies in [start, end), of chunks that begin one byte before `start`."""
    number = 0
    for offset, held, length, broken in _cut(chunks, max(start - 1, 0), limit, start, end):
        if end is not None and offset >= end:
            return
        if offset < start:  # the end of a line that belongs to the range before
            continue
        number += 1
        line = number if start == 0 else None
        if broken:
            yield Broken(offset, line, Reason.TRUNCATED_STREAM, f"{broken}; {length} bytes of this line came before", head_of(held))
        elif length > limit:
            yield Broken(offset, line, Reason.LINE_TOO_LONG, f"{length} bytes, at most {limit} are read", head_of(held))
        else:
            raw = (held.removeprefix(BOM) if offset == 0 else held).rstrip(b"\r")
            if raw and not raw.isspace():
                yield RawLine(offset, line, raw)
