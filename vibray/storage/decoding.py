"""A line's JSON, and what it is where it is not one object."""

import json
from typing import Any

from vibray.schema import Reason
from vibray.storage.samples import Refused

FIELDS = ("data_time", "signal_value", "sensor_id")
"""The keys of a record."""


class Fields(dict[str, Any]):
    """A JSON object that knows which of its keys occurred again; of their values the last counts."""

    def __init__(self) -> None:
        super().__init__()
        self.doubled: list[str] = []

    def __setitem__(self, key: str, value: Any) -> None:
        if key in self:
            self.doubled.append(key)
        super().__setitem__(key, value)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    plain = dict(pairs)
    if len(plain) == len(pairs):
        return plain
    fields = Fields()
    for key, value in pairs:
        fields[key] = value
    return fields


_decoder = json.JSONDecoder(object_pairs_hook=_object)
_lenient = json.JSONDecoder(object_pairs_hook=_object, parse_int=float)
# an integer of thousands of digits is JSON, but not Python's


def decode(raw: bytes) -> Any:
    """The value of a line. Raises Refused for what is not one JSON value."""
    try:
        text = raw.decode("utf-8")
        try:
            return _decoder.decode(text)
        except json.JSONDecodeError:
            raise
        except ValueError:
            return _lenient.decode(text)
    except UnicodeDecodeError as error:
        raise Refused(Reason.NOT_JSON, f"byte {error.start} is not UTF-8{_not_text(raw)}") from None
    except json.JSONDecodeError as error:
        raise _refused(text, error) from None
    except RecursionError:
        raise Refused(Reason.NOT_JSON, "nested too deeply") from None


MAGIC = ((b"\x1f\x8b", "gzip data: name it .jsonl.gz"), (b"\x28\xb5\x2f\xfd", "zstd data: name it .jsonl.zst"), (b"PK", "a zip archive"))


def _not_text(raw: bytes) -> str:
    """What bytes that are no UTF-8 look like."""
    for magic, what in MAGIC:
        if raw.startswith(magic):
            return f": {what}"
    return ": UTF-16? write UTF-8" if raw.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in raw[:64] else ""


def is_object(raw: bytes) -> bool:
    """Whether a line is one JSON object."""
    try:
        return isinstance(decode(raw), dict)
    except Refused:
        return False


def _refused(text: str, error: json.JSONDecodeError) -> Refused:
    """Not JSON, with what it looks like; several objects where they are whole."""
    bare, advice = text.strip(), ""
    if error.msg == "Extra data":
        count, rest = _objects(text)
        if count > 1:
            more = ", and more that is no object" if rest else ""
            return Refused(Reason.SEVERAL_OBJECTS, f"{count} objects on one line{more}: put each on a line of its own", count)
        if rest == ",":
            advice = ": a comma after an object, as in a JSON list? name that .json"
    elif bare.startswith("["):
        advice = ": a JSON list over several lines? name it .json"
    elif bare == "{":
        advice = ": an object over several lines? write each record on one"
    return Refused(Reason.NOT_JSON, f"{error.msg} at character {error.pos}{advice}")


def _objects(text: str) -> tuple[int, str]:
    """How many objects the text begins with, commas between them allowed, and what follows them (its beginning)."""
    count, at = 0, 0
    while True:
        start = _skip(text, at)
        if count and text[start : start + 1] == ",":
            start = _skip(text, start + 1)
        if text[start : start + 1] != "{":
            break
        try:
            _, at = _lenient.raw_decode(text, start)
        except (ValueError, RecursionError):
            break
        count += 1
    return count, text[at : at + 100].strip()


def _skip(text: str, at: int) -> int:
    while text[at : at + 1] in (" ", "\t", "\r", "\n"):
        at += 1
    return at


def check_one(value: Any) -> None:
    """Raises Refused, with its remedy, for a line that holds a list of objects, or an object of one list of them."""
    listed, reason, lacks = value, Reason.NOT_AN_OBJECT, ""
    if isinstance(value, dict) and len(value) == 1 and not value.keys() & set(FIELDS):
        [listed] = value.values()
        reason, lacks = Reason.MISSING_FIELD, f"{', '.join(FIELDS)}: "
    if isinstance(listed, list) and listed and all(isinstance(item, dict) for item in listed):
        raise Refused(reason, f"{lacks}a JSON list of {len(listed)} objects: name it .json, or put each on a line", len(listed))
