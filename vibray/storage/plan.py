"""The plan of a job: which objects, and which byte ranges of them, form which part. Fixed at the first start, read afterwards."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from statistics import median
from typing import Any

from pydantic import with_config

from vibray.config import STRICT, UserError, from_json, short_hash
from vibray.storage import objects
from vibray.storage.corpus import with_defaults
from vibray.storage.objects import ObjectInfo, below, join
from vibray.storage.shards import read_lines, suffix

LINES_PER_PART = 2000
"""Their waveforms (8192 float32) are 65 MB: one block of Ray Data."""

BYTES_PER_PART = 150_000_000
"""2,000 lines of 75 kB: the cut where no line could be measured."""

LINES_MEASURED = 32

MIN_PARTS = 1000
"""Small objects share a part where there would be more parts than this: each costs a task, three requests and a marker to resume by."""


class PlanMismatch(UserError):
    """The folder was begun by another job: another input, corpus, recipe or set of facts."""


@with_config(STRICT)
@dataclass(frozen=True)
class PartPlan:
    """A byte range of a plain shard, which is one part; or whole shards, read one after another, which are a chain of parts.

    A part of a chain ends after `max_lines` lines, or earlier where its lines reach `max_bytes`; both are None for a byte range.
    `more` are the (key, etag, size) of the small shards that follow the first in a chain.
    """

    id: str
    key: str
    etag: str
    size: int
    start: int
    end: int | None
    max_lines: int | None
    max_bytes: int | None
    more: tuple[tuple[str, str, int], ...] = ()

    @property
    def objects(self) -> tuple[tuple[str, str, int], ...]:
        """(key, etag, size) of the shards, in the order in which they are read."""
        return ((self.key, self.etag, self.size), *self.more)

    @property
    def chain(self) -> bool:
        """True for a chain of parts."""
        return self.max_lines is not None

    @property
    def num_bytes(self) -> int:
        """What is read of it, as it is stored."""
        return sum(size for _, _, size in self.objects) if self.chain else (self.end or self.size) - self.start

    def part_id(self, number: int) -> str:
        """The id of the part; of a chain, of its part `number` (from 0)."""
        return f"{self.id}-{number}" if self.chain else self.id


Todo = Sequence[tuple[PartPlan, frozenset[int]]]
"""Unfinished parts or chains, and the numbers of each chain that are done."""


@with_config(STRICT)
@dataclass(frozen=True)
class Plan:
    """Which bytes form which part. `base_uri` is the folder that keys are relative to; `ignored` are objects that are no shards.

    `changed` are shards that an earlier plan, the one this plan leaves out, holds with other content: they are in this plan, whole.
    """

    base_uri: str
    corpus: str
    identity: dict[str, Any]
    parts: tuple[PartPlan, ...]
    ignored: tuple[str, ...]
    changed: tuple[str, ...] = ()

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each shard, as they are stored."""
        return {key: size for part in self.parts for key, _, size in part.objects}

    @property
    def num_bytes(self) -> int:
        """Bytes of all shards, as they are stored."""
        return sum(self.sizes.values())


def make_plan(
    input_uri: str,
    corpus: str,
    identity: dict[str, Any],
    lines_per_part: int = LINES_PER_PART,
    bytes_per_part: int | None = None,
    held: Mapping[str, tuple[str, int]] | None = None,
) -> Plan:
    """Lists the input and cuts it: plain shards by bytes, compressed ones and .json lists as one chain each, very many small ones together.

    `bytes_per_part` None measures the first lines of the largest plain shard, so that a part is about `lines_per_part` lines.
    `held` are the (etag, size) of the shards of an earlier plan, by key: those that are unchanged are left out.
    Raises FileNotFoundError where there is no input, and UserError where no object is a shard; where an earlier plan holds some, they were
    taken away since, and nothing came.
    """
    try:
        found = objects.list_objects(input_uri)
    except FileNotFoundError:
        if not (held and objects.is_s3(input_uri)):  # on S3 a folder is there as long as something lies in it
            raise
        found = []
    shards = [info for info in found if suffix(info.key)]
    if not shards and not held:
        raise UserError(f"{input_uri} holds no shard: none of its {len(found)} objects ends in .jsonl, .ndjson or .json (.gz, .zst)")
    single = len(found) == 1 and objects.exists(input_uri)
    base_uri = objects.absolute(objects.parent(input_uri) if single else input_uri)
    ignored = tuple(info.key for info in found if not suffix(info.key))
    held = held or {}
    shards = [info for info in shards if held.get(info.key) != (info.etag, info.size)]
    if bytes_per_part is None:
        bytes_per_part = _measure(base_uri, shards, lines_per_part)
    return Plan(
        base_uri=base_uri,
        corpus=corpus,
        identity=json.loads(json.dumps(identity)),
        parts=tuple(part for group in _groups(shards, bytes_per_part) for part in _parts_of(group, lines_per_part, bytes_per_part)),
        ignored=ignored,
        changed=tuple(info.key for info in shards if info.key in held),
    )


def _measure(base_uri: str, shards: list[ObjectInfo], lines_per_part: int) -> int:
    plain = [info for info in shards if suffix(info.key) == ".jsonl" and info.size > 0]
    if not plain:
        return BYTES_PER_PART
    largest = max(plain, key=lambda info: (info.size, info.key))
    lines = read_lines(below(base_uri, largest.key), etag=largest.etag)
    sizes = [line.size + 1 for line, _ in zip(lines, range(LINES_MEASURED), strict=False)]
    return max(int(median(sizes)) * lines_per_part, 1 << 20) if sizes else BYTES_PER_PART


def _groups(shards: list[ObjectInfo], bytes_per_part: int) -> Iterator[list[ObjectInfo]]:
    """Neighbours in key order that share a chain: as many as leave MIN_PARTS parts, and no more bytes than a part has."""
    most = min(bytes_per_part, sum(info.size for info in shards) // MIN_PARTS) if len(shards) > MIN_PARTS else 0
    group: list[ObjectInfo] = []
    size = 0
    for info in shards:
        if group and size + info.size > most:
            yield group
            group, size = [], 0
        group.append(info)
        size += info.size
    if group:
        yield group


def _parts_of(group: list[ObjectInfo], lines_per_part: int, bytes_per_part: int) -> list[PartPlan]:
    info, *more = group
    if more or suffix(info.key) != ".jsonl":
        # lines of a chain may be of any length: twice the usual bytes bound its parts without cutting ordinary ones
        return [_part(info, 0, None, lines_per_part, 2 * bytes_per_part, tuple((i.key, i.etag, i.size) for i in more))]
    num_parts = max(1, -(-info.size // bytes_per_part))
    cuts = [i * info.size // num_parts for i in range(num_parts + 1)]
    return [_part(info, start, end, None, None) for start, end in pairwise(cuts)]


def _part(info: ObjectInfo, *cut: Any) -> PartPlan:
    part = PartPlan("", info.key, info.etag, info.size, *cut)
    return replace(part, id=_id_of(part))


def _id_of(part: PartPlan) -> str:
    values = [part.key, part.etag, part.size, part.start, part.end, part.max_lines, part.max_bytes]
    return short_hash([*values, part.more] if part.more else values)


def start_plan(folder_uri: str, plan: Callable[[], Plan], identity: dict[str, Any]) -> Plan:
    """The plan of a folder: the one that stands there, or at the first start what `plan` makes, written once.

    Objects that arrived after the first start are in no part. Uploads that a killed job left open are aborted.
    Raises PlanMismatch where the folder was begun with another `identity`.
    """
    try:
        standing = read_plan(folder_uri)
    except FileNotFoundError:
        with suppress(FileExistsError):  # another process was first
            objects.write_json(join(folder_uri, "plan.json"), asdict(plan()), exclusive=True)
        standing = read_plan(folder_uri)
    else:
        objects.abort_uploads(folder_uri)
    check_same(folder_uri, standing.identity, identity, "by another job", PlanMismatch)
    return standing


def read_plan(folder_uri: str) -> Plan:
    """The plan of a folder of parts.

    Raises ObjectMissing (a FileNotFoundError) where there is none, and UserError for one that is not as it was written: ids become names
    of files, so each must be the hash that it was.
    """
    uri = join(folder_uri, "plan.json")
    values = objects.read_json(uri)
    try:
        plan = from_json(Plan, values, uri)
    except UserError as error:
        raise UserError("\n".join(str(error).splitlines()[:4])[:1000]) from None
    wrong = next((part for part in plan.parts if part.id != _id_of(part)), None)
    if wrong:
        told = f"part {ascii(wrong.id)[:80]} of {ascii(wrong.key)[:200]}"
        raise UserError(f"{uri} was changed since it was written: {told} has another id: use another folder")
    return plan


def begin_folder(uri: str, name: str, values: dict[str, Any], other: str, error: type[Exception]) -> None:
    """Writes what decides whether two commands are one to the file `name` of a folder, once. Raises as `check_begun` does."""
    try:
        objects.write_json(join(uri, name), values, exclusive=True)
    except FileExistsError:
        check_begun(uri, name, values, other, error)


def check_begun(uri: str, name: str, values: dict[str, Any], other: str, error: type[Exception]) -> None:
    """Raises `error`, showing both, where the file `name` of a folder holds other values: "was begun `other`"."""
    try:
        there = objects.read_json(join(uri, name))
    except FileNotFoundError:
        return
    check_same(uri, there, values, other, error)


def check_same(uri: str, there: dict[str, Any], values: dict[str, Any], other: str, error: type[Exception]) -> None:
    """Raises `error`, showing both, where the values that a folder was begun with are not these."""
    differing = differences(with_defaults(there), with_defaults(json.loads(json.dumps(values))))
    if differing:
        lines = "\n".join(differing)
        raise error(f"{uri} was begun {other}; use another folder, or remove this one:\n{lines}") from None


def differences(there: Any, here: Any, name: str = "") -> list[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        keys = sorted(there.keys() | here.keys())
        return [line for key in keys for line in differences(there.get(key), here.get(key), f"{name}.{key}" if name else key)]
    return [] if there == here else [f"  {name}: {_brief(there)} in the folder, {_brief(here)} now"]


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else f"{text[:80]}... ({short_hash(value)})"
