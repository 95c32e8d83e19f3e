"""Shards to raw lines, streaming and in bounded memory: JSON Lines plain, gzip'd or zstd'd, and .json lists of records.

A line is known by the byte offset of its first byte in the decompressed stream, an item of a .json list by its index. Whatever cannot
be read ends as one Broken and never as an exception; what storage refuses (StorageError) is raised.
"""

import re
from collections.abc import Iterator
from io import BufferedIOBase

import zstandard

from vibray.storage import tally
from vibray.storage.gunzip import BrokenStream, gunzip
from vibray.storage.lines import Broken, RawItem, RawLine, split
from vibray.storage.lists import list_items
from vibray.storage.objects import open_read

LINE_LIMIT = 16 << 20
"""Longest line, in bytes, that is read; a longer one is set aside without being held."""

CHUNK = 1 << 20
SUFFIXES = tuple(layout + compression for layout in (".jsonl", ".json") for compression in ("", ".gz", ".zst"))

NDJSON = re.compile(r"\.ndjson(?=(\.gz|\.zst)?$)")
"""Another name for .jsonl."""


def suffix(key: str) -> str | None:
    """The layout of a shard by its name, one of SUFFIXES; None for an object that is no shard."""
    name = NDJSON.sub(".jsonl", key.lower())
    return next((end for end in SUFFIXES if name.endswith(end)), None)


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
        return split(unpack(stream), start, end, limit)
    if layout in SUFFIXES:
        return list_items(unpack(stream), limit)
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
