import contextlib
import gzip
import io
import json
import tracemalloc
import zlib
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import records as twin
from vibray.schema import Reason
from vibray.storage.errors import StorageError
from vibray.storage.gunzip import BrokenStream, gunzip
from vibray.storage.shards import SUFFIXES, Broken, RawItem, RawLine, lines_of, suffix

BOM = b"\xef\xbb\xbf"
LINES = b'{"a": 1}\r\n\n  \n[2]\n\nno \xff json\n{"last": 3}'


def cut(data: bytes, start: int = 0, end: int | None = None, layout: str = ".jsonl", **options) -> list[Any]:
    stream = io.BytesIO(data)
    stream.seek(max(start - 1, 0))
    return list(lines_of(stream, layout, start, end, **options))


def zst(data: bytes, **options) -> bytes:
    return zstandard.ZstdCompressor(**options).compress(data)


@pytest.mark.parametrize(
    ("key", "layout"), [("a/b.jsonl", ".jsonl"), ("b.JSON.GZ", ".json.gz"), ("x.jsonl.zst", ".jsonl.zst"), ("jsonl", None)]
)
def test_layout_by_name(key, layout):
    assert suffix(key) == layout


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from([b"{}", b"", b" ", b"\r", b"abc", b"\xff\x00", BOM, b"\n"])).map(b"\n".join), st.integers(1, 9))
def test_lines_are_those_of_the_twin_whatever_the_chunks(data, size):
    class Slow(io.BytesIO):
        def read(self, n=-1, /):
            return super().read(min(size, n or 0))

    found = [(line.offset, line.line, line.raw) for line in lines_of(Slow(data), ".jsonl") if isinstance(line, RawLine)]
    assert found == twin.lines(data)


def test_every_cut_gives_the_same_lines():
    data = BOM + LINES + b"\n"
    whole = [(line.offset, line.raw) for line in cut(data)]
    assert len(whole) == 4
    for first in range(len(data) + 1):
        for second in range(first, len(data) + 1):
            ranges = [cut(data, 0, first), cut(data, first, second), cut(data, second, len(data))]
            assert [(line.offset, line.raw) for lines in ranges for line in lines] == whole
            assert all(line.line is None for line in ranges[2] if second > 0)


@pytest.mark.parametrize(
    "packed",
    [
        gzip.compress(LINES),
        gzip.compress(LINES[:9]) + gzip.compress(b"") + gzip.compress(LINES[9:]) + b"\0" * 100,
        zst(LINES),
        zst(LINES[:9]) + zst(b"") + zst(LINES[9:], write_checksum=True),
        b"\x50\x2a\x4d\x18\x04\x00\x00\x00skip" + zst(LINES),
    ],
    ids=["gz", "gz members and padding", "zst", "zst frames", "zst skippable frame"],
)
def test_packed_lines_are_the_plain_ones(packed):
    assert cut(packed, layout=".jsonl.gz" if packed[:2] == b"\x1f\x8b" else ".jsonl.zst") == cut(LINES)


@pytest.mark.parametrize("layout", SUFFIXES)
def test_an_empty_shard_has_no_lines(layout):
    assert cut(b"", layout=layout) == []


@pytest.mark.parametrize(("layout", "pack"), [(".jsonl.gz", gzip.compress), (".jsonl.zst", zst)])
def test_a_stream_cut_short_keeps_what_came_before_and_ends_in_one_row(layout, pack):
    # lines that do not compress, so that every cut loses some
    data = b"".join(json.dumps({"a": (bytes(range(40, 90)) * 3).decode()[i:], "n": str(i) * 40}).encode() + b"\n" for i in range(40))
    packed, whole = pack(data), cut(data)
    for size in range(1, len(packed), 29):
        found = cut(packed[:size], layout=layout)
        *before, broken = found
        assert before == whole[: len(before)]
        assert isinstance(broken, Broken)
        assert broken.reason == Reason.TRUNCATED_STREAM
        assert broken.offset == (whole[len(before)].offset if len(before) < len(whole) else len(data))


def test_damage_ends_in_one_row():
    data = b"".join(b'{"a": %d}\n' % i for i in range(5000))
    packed = bytearray(gzip.compress(data))
    packed[-6] ^= 1  # the checksum
    *before, broken = cut(bytes(packed), layout=".jsonl.gz")
    assert before == cut(data)
    assert (broken.offset, broken.reason) == (len(data), Reason.TRUNCATED_STREAM)
    packed = bytearray(zst(data, write_checksum=True))
    packed[-1] ^= 1
    assert [line.reason for line in cut(bytes(packed), layout=".jsonl.zst") if isinstance(line, Broken)] == [Reason.TRUNCATED_STREAM]
    for layout in (".jsonl.gz", ".jsonl.zst", ".json.gz"):
        assert [line.reason for line in cut(b"garbage that is nothing", layout=layout)] == [Reason.TRUNCATED_STREAM]
    *before, broken = cut(gzip.compress(LINES + b"\n") + b"garbage", layout=".jsonl.gz")
    assert (before, broken.offset) == (cut(LINES), len(LINES) + 1)


def unzipped(data: bytes) -> tuple[bytes, str]:
    found = b""
    try:
        for step in gunzip(io.BytesIO(data)):
            found += step
    except BrokenStream as error:
        return found, str(error)
    return found, ""


def member(data: bytes, level: int, name: str) -> bytes:
    packed = io.BytesIO()
    with gzip.GzipFile(name, "wb", level, packed) as file:
        file.write(data)
    return packed.getvalue()


MEMBERS = st.builds(
    member, st.binary(max_size=50) | st.binary(max_size=9).map(lambda b: 9000 * b), st.integers(0, 9), st.sampled_from(["", "a" * 99])
)


@settings(max_examples=150, deadline=None)
@given(st.lists(MEMBERS, max_size=3).map(b"".join), st.sampled_from([b"", b"\0" * 9, b"\0\0rest", b"\x1f", b"\x1f\x8b\x08\x1f"]), st.data())
def test_unzipped_bytes_are_those_of_gzip(members, rest, data):
    whole = members + rest
    found, broken = unzipped(whole)
    assert found == gzip.decompress(members)
    try:
        assert gzip.decompress(whole) == found
        assert broken == ""
    except (EOFError, gzip.BadGzipFile):
        assert broken
    size = data.draw(st.integers(0, len(members)))
    beginning, broken = unzipped(members[:size])
    assert found.startswith(beginning)
    if not broken:
        assert gzip.decompress(members[:size]) == beginning
    if members:  # one damaged byte is noticed wherever gzip notices it
        at = data.draw(st.integers(0, len(members) - 1))
        damaged = members[:at] + bytes([members[at] ^ data.draw(st.integers(1, 255))]) + members[at + 1 :]
        beginning, broken = unzipped(damaged)
        try:
            assert gzip.decompress(damaged) == beginning or broken
        except (EOFError, gzip.BadGzipFile, zlib.error):
            assert broken


def test_the_extras_of_a_header_are_passed_over():
    body = gzip.compress(LINES)[10:]
    header = b"\x1f\x8b\x08\x1e" + b"\0" * 6 + b"\x05\0extra" + b"n" * 40_000 + b"\0" + b"comment\0" + b"cc"
    assert unzipped(header + body) == (LINES, "") and gzip.decompress(header + body) == LINES


def test_a_cut_stream_loses_no_more_than_gzip_does():
    data = bytes(range(256)) * 3000
    packed = gzip.compress(data, 1)
    for size in range(len(packed) // 2, len(packed), 997):
        ours, broken = unzipped(packed[:size])
        assert broken
        theirs, file = b"", gzip.GzipFile(fileobj=io.BytesIO(packed[:size]))
        with contextlib.suppress(EOFError):
            while step := file.read1(1 << 14):
                theirs += step
        assert data.startswith(ours)
        assert len(ours) >= len(theirs)


def test_what_storage_refuses_is_raised():
    class Gone(io.BytesIO):
        def read(self, n=-1, /):
            raise StorageError("gone")

    for layout in SUFFIXES:
        with pytest.raises(StorageError, match="gone"):
            list(lines_of(Gone(), layout))


def test_a_line_too_long_is_set_aside_and_the_next_is_read():
    data = b"[1]\n" + b"x" * 11 + b"\n" + b"y" * 10 + b"\n" + b"z" * 500
    one, long, ten, last = cut(data, limit=10)
    assert (one.raw, ten.raw) == (b"[1]", b"y" * 10)
    assert (long.offset, long.line, long.reason, long.head) == (4, 2, Reason.LINE_TOO_LONG, "x" * 11)
    assert (last.offset, last.reason, last.head) == (27, Reason.LINE_TOO_LONG, "z" * 200)
    assert [line.offset for line in cut(data, 5, 17, limit=10)] == [16]


class Long(io.BufferedIOBase):
    """A 200 MB line and a good one, made while they are read."""

    def __init__(self, size: int):
        self.left, self.tail = size, b'\n{"b": 2}\n'

    def readable(self):
        return True

    def read(self, n=-1, /):
        if self.left:
            step = min(self.left, n or 0)
            self.left -= step
            return b"x" * step
        data, self.tail = self.tail, b""
        return data


@pytest.mark.parametrize("layout", [".jsonl", ".jsonl.zst", ".jsonl.gz"])
def test_a_line_of_200_mb_costs_no_memory(layout):
    size = 200_000_000
    if layout == ".jsonl":
        stream = Long(size)
    elif layout == ".jsonl.zst":
        stream = io.BytesIO(zst(b"x" * size + Long(0).tail))
    else:
        packed = io.BytesIO()
        with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1) as file:
            file.write(b"x" * size + Long(0).tail)
        stream = io.BytesIO(packed.getvalue())
    tracemalloc.start()
    try:
        long, good = lines_of(stream, layout)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert long == Broken(0, 1, Reason.LINE_TOO_LONG, f"{size} bytes, at most {16 << 20} are read", "x" * 200)
    assert good == RawLine(size + 1, 2, b'{"b": 2}')
    assert peak < 50_000_000  # the 16 MB that could have been a line, doubled by growth


# ---- .json


@pytest.mark.parametrize("text", ['[{"a": 1}, 2, "x", [3]]', '{"k.item": [{"a": 1}, 2, "x", [3]]}', '\ufeff [{"a":1},2,"x",[3]] \n'])
def test_items_of_a_list(text):
    assert cut(text.encode(), layout=".json") == [RawItem(0, {"a": 1}), RawItem(1, 2), RawItem(2, "x"), RawItem(3, [3])]


@pytest.mark.parametrize(
    ("text", "num_before", "reason"),
    [
        (b'[{"a": 1}, {"a": x}, {"a": 3}]', 1, Reason.NOT_JSON),
        (b'[{"a": 1}, {"a": 2}', 2, Reason.NOT_JSON),
        (b'[{"a": 1}, {"a": "\xff"}]', 1, Reason.NOT_JSON),
        (b'[{"a": 1}] more', 1, Reason.NOT_JSON),
        (b'{"k": [1], "l": [2]}', 1, Reason.NOT_AN_OBJECT),
        (b'{"data_time": "x", "sensor_id": "y"}', 0, Reason.NOT_AN_OBJECT),
        (b"{}", 0, Reason.NOT_AN_OBJECT),
        (b'"text"', 0, Reason.NOT_AN_OBJECT),
        (b'{"a": 1}\n{"a": 2}\n', 0, Reason.NOT_AN_OBJECT),
        (b"[1, " + b"9" * 5000 + b"]", 0, Reason.NOT_JSON),
        (b"[1, " + b"[" * 100_000, 1, Reason.NOT_JSON),
        (b"\x00", 0, Reason.NOT_JSON),
    ],
)
def test_a_list_that_breaks_gives_what_came_before_and_one_row(text, num_before, reason):
    *before, broken = cut(text, layout=".json")
    assert [item.offset for item in before] == list(range(num_before))
    assert (broken.offset, broken.line, broken.reason) == (num_before, None, reason)
    assert len(broken.head) <= 200


def test_a_packed_list_cut_short():
    items = [{"n": i, "text": str(i) * 50} for i in range(200)]
    packed = gzip.compress(json.dumps(items).encode())
    *before, broken = cut(packed[:-300], layout=".json.gz")
    assert [item.value for item in before] == items[: len(before)]
    assert (broken.offset, broken.reason) == (len(before), Reason.TRUNCATED_STREAM)
    assert 0 < len(before) < 200


def test_an_item_too_long_ends_the_list():
    text = json.dumps([{"a": 1}, {"a": "x" * 400_000}, {"a": 2}]).encode()
    one, broken = cut(text, layout=".json", limit=100_000)
    assert one == RawItem(0, {"a": 1})
    assert (broken.offset, broken.reason) == (1, Reason.LINE_TOO_LONG)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=40) | st.text('[]{}",:1ex \n', max_size=30).map(str.encode), st.sampled_from(SUFFIXES))
def test_any_bytes_are_lines_items_and_at_most_one_break(data, layout):
    found = cut(data, layout=layout)
    assert sum(isinstance(line, Broken) for line in found[:-1]) == 0
    offsets = [line.offset for line in found]
    assert offsets == sorted(set(offsets))
