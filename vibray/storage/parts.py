"""The unit of restart: a part is whole once its marker stands, and readers take only parts with one.

A folder of parts: plan.json, part-<id>.<digest>.parquet, <side table>/part-<id>.<digest>.parquet, _done/<id>.json. The marker is written
last, once, and names the files of its part with their checksums: any other file of that part is not there for a reader.
"""

import re
from collections.abc import Container, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from vibray.config import UserError, short_hash
from vibray.storage import objects, tally
from vibray.storage.objects import join
from vibray.storage.plan import PartPlan, Plan, PlanMismatch, make_plan, read_plan, start_plan
from vibray.storage.reading import ReadPart, read_shard
from vibray.storage.records import count_reasons

__all__ = [
    "AccountingError", "PartPlan", "Parts", "Plan", "PlanMismatch", "ReadPart", "check_finished", "commit_part", "done_parts",
    "finish_folder", "finished", "make_plan", "missing", "numbers_done", "read_plan", "read_shard", "start_plan",
]  # fmt: skip

NUM_READERS = 16

DATA = re.compile(r"(?:\w+/)?part-([0-9a-f]+(?:-\d+)?)\.[0-9a-f]{8}\.parquet")
"""The name of a data file; its group 1 is the id of its part."""


class AccountingError(ValueError):
    """Lines read are not lines kept plus lines set aside: a defect of vibray, nothing that a person can mend."""


@tally.seconds("write_seconds")
def commit_part(folder_uri: str, part_id: str, tables: dict[str, pa.Table], marker: dict[str, Any]) -> dict[str, Any]:
    """Writes a part: `tables[""]` as a parquet file, the others (those with rows) in folders of their names, then the marker.

    Returns the marker.
    `marker` holds what `ReadPart.marker` gives, and may hold more; counts, reasons and checksums are added.
    Where another worker committed the part first, its marker is returned and counts; what was written here is removed.
    Raises AccountingError where num_read is not kept + set aside.
    """
    bad = tables.get("bad")
    num_kept, num_bad = tables[""].num_rows, bad.num_rows if bad is not None else 0
    if marker["num_read"] != num_kept + num_bad:
        raise AccountingError(f"part {part_id} of {marker['key']}: {marker['num_read']} lines read, {num_kept} kept + {num_bad} set aside")
    files = {}
    for name, table in tables.items():
        if name and not table.num_rows:
            continue
        data = objects.parquet_bytes(table, **_encoding(table.schema))
        digest = objects.sha256(data)
        # Named by its content: a worker that was given up for dead may still write, on another kind of CPU maybe other last bits, and
        # must not change the bytes that a marker vouches for.
        path = join(name, f"part-{part_id}.{digest[:8]}.parquet") if name else f"part-{part_id}.{digest[:8]}.parquet"
        objects.write_bytes(join(folder_uri, path), data)
        files[path] = {"size": len(data), "sha256": digest, "rows": table.num_rows}
    whole = {**marker, "num_kept": num_kept, "num_bad": num_bad, "reasons": count_reasons(bad) if bad is not None else {}, "files": files}
    marker_uri = join(folder_uri, "_done", f"{part_id}.json")
    try:
        objects.write_json(marker_uri, whole, exclusive=True)
    except FileExistsError:
        standing = objects.read_json(marker_uri)
        objects.remove(join(folder_uri, path) for path in files if path not in standing["files"])
        return standing
    return whole


def remove_orphans(folder_uri: str, parts: "Parts") -> int:
    """Removes the data files of finished parts that no marker names, as a worker leaves them that was killed before its marker.

    Returns how many. Files of other names are nobody's business here.
    """
    named = {path for marker in parts.markers.values() for path in marker["files"]}
    found = [info.key for info in objects.list_objects(folder_uri)]
    orphans = [(key, name[1]) for key in found if key not in named and (name := DATA.fullmatch(key)) and name[1] in parts.markers]
    count = 0
    for key, part_id in orphans:
        # where a store lets a later marker replace one, it may have done so since
        if key not in objects.read_json(join(folder_uri, "_done", f"{part_id}.json"))["files"]:
            objects.remove([join(folder_uri, key)])
            count += 1
    return count


def _encoding(schema: pa.Schema) -> dict[str, Any]:
    """Options of `objects.write_table`.

    The bytes of float vectors are sorted by their place before zstd: 30.3 kB instead of 34.7 a record with its Zerone vector, written in
    the same .17 ms and read in 3/4 of the time. Images stay as they are: zstd takes .8 ms an image for an eighth of its bytes.
    """
    vectors = [field for field in schema if pa.types.is_fixed_size_list(field.type) and pa.types.is_floating(field.type.value_type)]
    compression = {_leaf(field): "none" if pa.types.is_large_binary(field.type) else "zstd" for field in schema}
    return {"use_byte_stream_split": [_leaf(field) for field in vectors], "compression": compression}


def _leaf(field: pa.Field) -> str:
    """The name by which parquet knows a column's values."""
    return f"{field.name}.list.element" if pa.types.is_nested(field.type) else field.name


def done_parts(folder_uri: str) -> dict[str, dict[str, Any]]:
    """Markers of the parts that are whole, by part id."""
    try:
        found = objects.list_objects(join(folder_uri, "_done"))
    except FileNotFoundError:
        return {}
    names = [info.key for info in found if info.key.endswith(".json")]
    with ThreadPoolExecutor(NUM_READERS) as pool:
        markers = pool.map(lambda name: objects.read_json(join(folder_uri, "_done", name)), names)
        return {name.removesuffix(".json"): marker for name, marker in zip(names, markers, strict=True)}


def numbers_done(part: PartPlan, done: Iterable[str]) -> frozenset[int]:
    """Which numbers of a chain are done; {0} or nothing for a part that is none."""
    if not part.chain:
        return frozenset({0}) if part.id in done else frozenset()
    prefix = f"{part.id}-"
    return frozenset(int(name.removeprefix(prefix)) for name in done if name.startswith(prefix))


def missing(plan: Plan, done: dict[str, dict[str, Any]]) -> list[tuple[PartPlan, frozenset[int]]]:
    """What is still to be read: each unfinished part or chain, with the numbers of it that are done."""
    by_id: dict[str, list[str]] = {}
    for name in done:
        by_id.setdefault(name.split("-")[0], []).append(name)
    todo = []
    for part in plan.parts:
        numbers = numbers_done(part, by_id.get(part.id, ()))
        last = max(numbers, default=-1)
        whole = last >= 0 and done[part.part_id(last)]["last"] and len(numbers) == last + 1
        if not whole:
            todo.append((part, numbers))
    return todo


def finished(plan: Plan, done: dict[str, dict[str, Any]]) -> bool:
    """True where every part of the plan is whole."""
    return not missing(plan, done)


def finish_folder(uri: str, files: Iterable[str], extra: dict[str, Any] | None = None) -> None:
    """Writes _done.json, last, with the size and sha256 of each file of a folder."""
    facts = {name: objects.facts(join(uri, name)) for name in sorted(files)}
    objects.write_json(join(uri, "_done.json"), {**(extra or {}), "files": facts})


def check_finished(uri: str) -> dict[str, Any]:
    """The values of _done.json, every file it names compared with it.

    Raises ObjectMissing where the folder was never finished, UserError where a file is missing or another than was written.
    """
    try:
        values = objects.read_json(join(uri, "_done.json"))
    except FileNotFoundError:
        raise objects.ObjectMissing(f"{uri} is not finished (it has no _done.json): run the job that makes it again") from None
    for name, facts in values["files"].items():
        if not objects.exists(join(uri, name)) or objects.facts(join(uri, name)) != facts:
            raise UserError(f"{join(uri, name)} is not the file that was written there: make {uri} again")
    return values


class Parts:
    """The finished parts of a folder, in key order and then by place in the shard: what a later job reads.

    Raises ObjectMissing where the folder has no plan, UserError where parts are missing (unless `partial`).
    """

    def __init__(self, folder_uri: str, partial: bool = False):
        self.folder_uri = folder_uri
        self.plan = read_plan(folder_uri)
        done = done_parts(folder_uri)
        todo = missing(self.plan, done)
        if todo and not partial:
            raise UserError(f"{folder_uri} is not finished ({len(todo)} of {len(self.plan.parts)} to do): run the job that makes it again")
        ids = [part.part_id(number) for part in self.plan.parts for number in sorted(numbers_done(part, done))]
        self.markers = {part_id: done[part_id] for part_id in ids}

    def total(self, count: str) -> int:
        """Sum of a count over the markers: num_read, num_kept, num_bad and those of storage/reading.py."""
        return sum(marker.get(count, 0) for marker in self.markers.values())

    @property
    def reasons(self) -> dict[str, int]:
        """Lines set aside, by reason."""
        counts: dict[str, int] = {}
        for marker in self.markers.values():
            for reason, count in marker["reasons"].items():
                counts[reason] = counts.get(reason, 0) + count
        return counts

    def check_accounts(self) -> None:
        """Raises AccountingError where read is not kept + set aside."""
        read, kept, bad = self.total("num_read"), self.total("num_kept"), self.total("num_bad")
        if read != kept + bad or bad != sum(self.reasons.values()):
            raise AccountingError(f"{self.folder_uri}: {read} lines read, {kept} kept + {bad} set aside ({self.reasons})")

    def uri(self, part_id: str, name: str = "") -> str | None:
        """The file of a part, or of its side table `name`; None where it has none."""
        paths = self.markers[part_id]["files"]
        return next((join(self.folder_uri, path) for path in paths if path.rpartition("/")[0] == name), None)

    def tables(
        self, columns: list[str] | None = None, name: str = "", verify: bool = False, if_there: Container[str] = ()
    ) -> Iterator[pa.Table]:
        """One table a part, or one a part that has the side table `name`; `verify` compares each file with its checksum. A column of
        `if_there` may be missing.

        Raises UserError for a file that is not the one that was written.
        """
        for part_id, marker in self.markers.items():
            uri = self.uri(part_id, name)
            if uri is None:
                continue
            path = uri.removeprefix(self.folder_uri.rstrip("/") + "/")
            if verify and objects.sha256(objects.read_bytes(uri)) != marker["files"][path]["sha256"]:
                raise UserError(f"{uri} is not the file that was written there: remove it and its marker, and run the job again")
            yield objects.read_table(uri, columns, if_there=if_there)

    def read(self, columns: list[str] | None = None, name: str = "", schema: pa.Schema | None = None) -> pa.Table:
        """All parts as one table; `schema` is that of the result where no part has the table."""
        tables = list(self.tables(columns, name))
        if not tables:
            empty = schema.empty_table() if schema is not None else pa.table({})
            return empty.select(columns) if columns and schema is not None else empty
        return pa.concat_tables(tables)


def identity_hash(parts: Iterable[Parts]) -> str:
    """Names the content of finished folders: the checksums of their parts."""
    return short_hash([[marker["files"] for marker in p.markers.values()] for p in parts])
