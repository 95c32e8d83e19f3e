"""The records of a .json shard: the items of its list, one after another, in bounded memory."""

import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

import ijson

from vibray.config import UserError
from vibray.schema import Reason
from vibray.storage.decoding import FIELDS, Fields, is_object
from vibray.storage.gunzip import BrokenStream
from vibray.storage.lines import BOM, HEAD, Broken, RawItem, RawLine, head_of, head_of_value, split

MAX_DEPTH = 500


class _Fault(Exception):
    def __init__(self, reason: Reason, detail: str):
        self.reason, self.detail = reason, detail


class _NoList(_Fault):
    """The shard is neither a list of records nor a dict of one."""


class _Feed:
    """What ijson reads from: chunks, with a bound on the bytes of one item."""

    # ijson 3.6 hands out a null pointer for an integer longer than Python's int() takes
    LONG_NUMBER = re.compile(rb"[0-9]{4000}")

    def __init__(self, chunks: Iterator[bytes], limit: int):
        self.chunks, self.limit = chunks, limit
        self.pending, self.taken, self.first = b"", 0, b""
        self.before: list[bytes] | None = []  # what was handed out before the list began
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
        if self.before is not None:
            self.before.append(data)
        self.taken += len(data)
        if self.taken > self.limit + (1 << 16):
            raise _Fault(Reason.LINE_TOO_LONG, f"an item of more than {self.limit} bytes; what follows it in the list is not read")
        if self.LONG_NUMBER.search(data):
            raise _Fault(Reason.NOT_JSON, "a number of thousands of digits; what follows it in the list is not read")
        return data


def list_items(chunks: Iterator[bytes], limit: int) -> Iterator[RawItem | Broken]:
    """The items of a shard's list, none longer than about `limit` bytes; a Broken is the last."""
    feed = _Feed(chunks, limit)
    index, num_objects = 0, 1
    try:
        for value in _values(feed):
            yield RawItem(index, value)
            index += 1
            feed.taken = 0
        return
    except UserError:
        raise
    except _NoList as fault:
        reason, detail = fault.reason, fault.detail
        count = _json_lines(feed, limit)
        if count:
            detail, num_objects = f"JSON lines ({count} of them): name it .jsonl", count
    except _Fault as fault:
        reason, detail = fault.reason, fault.detail
    except BrokenStream as error:
        reason, detail = Reason.TRUNCATED_STREAM, str(error)
    except (ijson.JSONError, ValueError) as error:
        if not feed.first:  # nothing but blanks: an empty shard
            return
        reason, detail = Reason.NOT_JSON, " ".join(str(error).split())[:HEAD]
    head = head_of_value(getattr(feed.item, "value", None)) or (head_of(feed.first) if index == 0 else "")
    yield Broken(index, None, reason, detail, head, num_objects=num_objects)


def _json_lines(feed: _Feed, limit: int) -> int:
    """Lines that look like an object each, of a shard whose first line is one; 0 of any other. Reads the shard to its end."""
    count = 0
    for line in split(chain(feed.before or (), [feed.pending], feed.chunks), 0, None, limit):
        if isinstance(line, RawLine):
            if not count and not is_object(line.raw):
                return 0
            text = line.raw.strip()
            count += text.startswith(b"{") and text.endswith(b"}")
    return count


def _values(feed: _Feed) -> Iterator[Any]:
    """The items of the list, or of the list that is the only value of a dict."""
    events = ijson.basic_parse(feed)
    event, key = next(events)
    keyed = event == "start_map"
    if keyed:
        _, key = next(events)
        event, _ = next(events, ("", None))
    if event != "start_array" or (keyed and key in FIELDS):
        raise _NoList(Reason.NOT_AN_OBJECT, "neither a list of records nor a dict with one key whose value is one")
    feed.before = None
    item, depth = ijson.ObjectBuilder(), 0
    for event, value in events:
        if depth == 0:
            if event == "end_array":
                break
            feed.item = item = ijson.ObjectBuilder(map_type=Fields)
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
