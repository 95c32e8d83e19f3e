"""Shards to raw lines, streaming and in bounded memory: JSON Lines plain, gzip'd or zstd'd, and .json lists of records.

A line is known by the byte offset of its first byte in the decompressed stream, an item of a .json list by its index. Whatever cannot
be read ends as one Broken and never as an exception; what storage refuses (StorageError) is raised.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedIOBase
from typing import Any

import ijson
import zstandard

from vibray.config import UserError
from vibray.schema import Reason
from vibray.storage import tally
from vibray.storage.gunzip import BrokenStream, gunzip
from vibray.storage.objects import open_read

LINE_LIMIT = 16 << 20
"""Longest line, in bytes, that is read; a longer one is set aside without being held."""

HEAD = 200
"""Characters of a line that are kept where it is set aside."""

CHUNK = 1 << 20
BOM = b"\xef\xbb\xbf"
MAX_DEPTH = 500
SUFFIXES = tuple(layout + compression for layout in (".jsonl", ".json") for compression in ("", ".gz", ".zst"))


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


def suffix(key: str) -> str | None:
    """The layout of a shard by its name, one of SUFFIXES; None for an object that is no shard."""
    name = key.lower()
    return next((end for end in SUFFIXES if name.endswith(end)), None)


def head_of(raw: bytes) -> str:
    """The first 200 characters of a line, unreadable bytes replaced."""
    return raw[: 4 * HEAD].decode("utf-8", "replace")[:HEAD]


def read_lines(
    uri: str, start: int = 0, end: int | None = None, etag: str | None = None, limit: int = LINE_LIMIT, size: int | None = None
) -> Iterator[RawLine | RawItem | Broken]:
    """The non-blank lines of a shard whose first byte lies in [start, end); a compressed shard or a list is read from its beginning.

    Raises StorageError, ObjectChanged where the object is not the one of `etag`.
    """
    # one byte earlier: that byte says whether a line begins at `start`
    with open_read(uri, max(start - 1, 0), etag, size) as stream:
        yield from lines_of(_Counted(stream), suffix(uri) or "", start, end, limit)


def lines_of(
    stream: BufferedIOBase, layout: str, start: int = 0, end: int | None = None, limit: int = LINE_LIMIT
) -> Iterator[RawLine | RawItem | Broken]:
    """The same from an open stream that stands at byte max(start - 1, 0); `layout` is one of SUFFIXES."""
    unpack = gunzip if layout.endswith(".gz") else _unzstd if layout.endswith(".zst") else _plain
    if layout.startswith(".jsonl"):
        return _split(unpack(stream), start, end, limit)
    if layout in SUFFIXES:
        return _list_items(unpack(stream), limit)
    raise ValueError(f"a shard ends in one of {', '.join(SUFFIXES)}")


# ---------------------------------------------------------------- bytes


class _Counted(BufferedIOBase):
    """A stream, its bytes counted as they are stored: what is known of the progress of a shard whose unpacked size is not."""

    def __init__(self, stream: BufferedIOBase):
        self.stream = stream

    def read(self, size: int | None = -1, /) -> bytes:
        data = self.stream.read(size)
        tally.add("bytes_read", len(data))
        return data


def _plain(stream: BufferedIOBase) -> Iterator[bytes]:
    while data := stream.read(CHUNK):
        yield data


def _unzstd(stream: BufferedIOBase) -> Iterator[bytes]:
    """All frames. zstandard's own reader is silent about a stream that ends too early, hence the frame by frame reading."""
    frame = None
    while block := stream.read(CHUNK):
        at = 0
        while at < len(block):
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            # small steps bound the memory: a kilobyte can hold 32 MB of one repeated byte
            step = block[at : at + 256]
            try:
                data = frame.decompress(step)
            except zstandard.ZstdError as error:
                raise BrokenStream(str(error)) from None
            at += len(step)
            if frame.eof:
                at -= len(frame.unused_data)
                frame = None
            if data:
                yield data
    if frame is not None:
        raise BrokenStream("Compressed file ended before the end of a frame")


# ---------------------------------------------------------------- lines


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


def _split(chunks: Iterator[bytes], start: int, end: int | None, limit: int) -> Iterator[RawLine | Broken]:
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


# ---------------------------------------------------------------- lists


class _Fault(Exception):
    def __init__(self, reason: Reason, detail: str):
        self.reason, self.detail = reason, detail


class _Feed:
    """What ijson reads from: chunks, with a bound on the bytes of one item."""

    # ijson 3.6 hands out a null pointer for an integer longer than Python's int() takes
    LONG_NUMBER = re.compile(rb"[0-9]{4000}")

    def __init__(self, chunks: Iterator[bytes], limit: int):
        self.chunks, self.limit = chunks, limit
        self.pending, self.taken, self.first = b"", 0, b""
        self.item: Any = None  # the builder of the item that is being read

    def read(self, size: int = -1) -> bytes:
        if size == 0:
            return b""
        if not self.pending:
            self.pending = next(self.chunks, b"")
            if not self.first:
                self.pending = self.pending.removeprefix(BOM)
        data, self.pending = (self.pending[:size], self.pending[size:]) if size > 0 else (self.pending, b"")
        self.first = self.first or data.lstrip()[: 4 * HEAD]
        self.taken += len(data)
        if self.taken > self.limit + (1 << 16):
            raise _Fault(Reason.LINE_TOO_LONG, f"an item of more than {self.limit} bytes; what follows it in the list is not read")
        if self.LONG_NUMBER.search(data):
            raise _Fault(Reason.NOT_JSON, "a number of thousands of digits; what follows it in the list is not read")
        return data


def _list_items(chunks: Iterator[bytes], limit: int) -> Iterator[RawItem | Broken]:
    feed = _Feed(chunks, limit)
    index = 0
    try:
        for value in _values(feed):
            yield RawItem(index, value)
            index += 1
            feed.taken = 0
        return
    except UserError:
        raise
    except _Fault as fault:
        reason, detail = fault.reason, fault.detail
    except BrokenStream as error:
        reason, detail = Reason.TRUNCATED_STREAM, str(error)
    except (ijson.JSONError, ValueError) as error:
        if not feed.first:  # nothing but blanks: an empty shard
            return
        reason, detail = Reason.NOT_JSON, " ".join(str(error).split())[:HEAD]
    head = head_of_value(getattr(feed.item, "value", None)) or (head_of(feed.first) if index == 0 else "")
    yield Broken(index, None, reason, detail, head)


def _values(feed: _Feed) -> Iterator[Any]:
    """The items of the list, or of the list that is the only value of a dict."""
    events = ijson.basic_parse(feed)
    event, _ = next(events)
    keyed = event == "start_map"
    if keyed:
        next(events)
        event, _ = next(events, ("", None))
    if event != "start_array":
        raise _Fault(
            Reason.NOT_AN_OBJECT,
            "neither a list of records nor a dict with one key whose value is one (one record a line? then name it .jsonl)",
        )
    item, depth = ijson.ObjectBuilder(), 0
    for event, value in events:
        if depth == 0:
            if event == "end_array":
                break
            feed.item = item = ijson.ObjectBuilder()
        item.event(event, value)
        depth += event.startswith("start_") - event.startswith("end_")
        if depth > MAX_DEPTH:
            feed.item = None
            raise _Fault(Reason.NOT_JSON, "nested too deeply; what follows it in the list is not read")
        if depth == 0:
            feed.item = None
            yield item.value
    if keyed and next(events)[0] != "end_map":
        raise _Fault(Reason.NOT_AN_OBJECT, "a second key after the list of records; what follows it is not read")
    next(events, None)  # anything after the end is an error of ijson's


def head_of_value(value: Any) -> str:
    """The first 200 characters of an item of a list, written again as JSON."""
    if value is None:
        return ""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, TypeError, RecursionError):
        text = ""
    return text[:HEAD].encode("utf-8", "replace").decode()
