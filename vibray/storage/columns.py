"""Columns of many records held small: names as numbers, a record_id as its shard and the offset in it.

Ten million strings take 600 MB, their numbers 40 MB. A table that is opened for decisions has PLACE in place of `record_id`: `shard`, a
dictionary of what stands before the offset, its separator included ("2024/a.jsonl@", "list.json#"), and `offset`. Keys are then in the
order of (corpus, shard, offset), offsets as numbers. A record_id in any other form is a shard of its own with the offset NO_OFFSET.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int, Int64

from vibray.schema import FLEET_P_VALUE, KEY, TIME

PLACE = ("shard", "offset")
NO_OFFSET = -1

DIGITS, LONGEST = "0123456789", 18
"""An offset of up to 18 digits is an int64."""

CODES = {"state": pa.int8(), "state_cause": pa.int8(), "corpus": pa.int16(), "fault": pa.int16()}
"""Columns with few names; those of others are numbered by int32."""


BLOCK = 1 << 16


def blocks(num_rows: int) -> Iterator[slice]:
    """The rows in pieces: what a pass in float64 or over strings holds at a time."""
    return (slice(at, min(at + BLOCK, num_rows)) for at in range(0, num_rows, BLOCK))


def one_chunk(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """The column in one piece; a column of one is not copied."""
    if isinstance(column, pa.Array):
        return column
    if column.num_chunks == 1:
        return column.chunk(0)
    return column.unify_dictionaries().combine_chunks() if pa.types.is_dictionary(column.type) else column.combine_chunks()


def codes(column: pa.ChunkedArray | pa.Array) -> tuple[list[str], Int[np.ndarray, " records"]]:
    """The names in order, and the place of each row's among them, -1 for null. Of a column that is a dictionary nothing is copied where
    its names are in order, and names may be among them that no row has."""
    array = one_chunk(column)
    array = array if pa.types.is_dictionary(array.type) else pc.dictionary_encode(array)  # type: ignore[attr-defined]
    names, number = array.dictionary.to_pylist(), array.indices
    found = (number.fill_null(-1) if number.null_count else number).to_numpy()
    if all(a < b for a, b in pairwise(names)):
        return names, found
    order = sorted(range(len(names)), key=names.__getitem__)
    rank = np.full(len(names) + 1, -1, found.dtype)  # the last is null's
    rank[order] = np.arange(len(names))
    return [names[i] for i in order], rank[found]


def named(names: list[str], numbers: Int[np.ndarray, " records"]) -> pa.DictionaryArray:
    """The dictionary column of what `codes` gives."""
    index = pa.array(numbers, mask=numbers < 0) if len(numbers) and numbers.min() < 0 else pa.array(numbers)
    return pa.DictionaryArray.from_arrays(index, pa.array(names, pa.string()))


def flags(column: pa.ChunkedArray) -> np.ndarray:
    """bool a row."""
    return one_chunk(column).to_numpy(zero_copy_only=False).astype(bool, copy=False)


def times_ms(table: pa.Table) -> Int64[np.ndarray, " records"]:
    """`measured_at` in ms since 1970 UTC, not copied."""
    return one_chunk(table["measured_at"]).view(pa.int64()).to_numpy()


def places(record_ids: pa.ChunkedArray | pa.Array) -> tuple[pa.Array, Int64[np.ndarray, " records"]]:
    """What PLACE holds of these ids: strings, and numbers."""
    ids = one_chunk(record_ids)
    if not len(ids):
        return ids, np.empty(0, np.int64)
    shard = pc.utf8_rtrim(ids, DIGITS)  # type: ignore[attr-defined]
    distinct = shard.unique()
    if len(distinct) == 1:
        text = pc.utf8_slice_codeunits(ids, len(distinct[0].as_py()))  # type: ignore[attr-defined]
    else:
        text = pc.extract_regex(ids, "(?P<digits>[0-9]*)$").field(0)  # type: ignore[attr-defined]
    length = pc.binary_length(text).to_numpy()  # type: ignore[attr-defined]
    ends = pc.or_(pc.ends_with(shard, "@"), pc.ends_with(shard, "#")).to_numpy(zero_copy_only=False)  # type: ignore[attr-defined]
    padded = pc.starts_with(text, "0").to_numpy(zero_copy_only=False)  # type: ignore[attr-defined]
    good = ends & (length > 0) & (length <= LONGEST) & ~(padded & (length > 1))
    if not good.all():
        mask = pa.array(good)
        shard, text = pc.if_else(mask, shard, ids), pc.if_else(mask, text, str(NO_OFFSET))  # type: ignore[attr-defined]
    return shard, text.cast(pa.int64()).to_numpy()


def record_ids(table: pa.Table) -> pa.Array:
    """The ids of a table that has them or PLACE: a string a row, so for few rows or a piece of a table at a time."""
    if "record_id" in table.column_names:
        return one_chunk(table["record_id"])
    shard, offset = one_chunk(table["shard"]), one_chunk(table["offset"])
    text = pc.if_else(pc.equal(offset, NO_OFFSET), "", offset.cast(pa.string()))  # type: ignore[attr-defined]
    return pc.binary_join_element_wise(shard.cast(pa.string()), text, "")  # type: ignore[attr-defined]


def with_record_ids(table: pa.Table) -> pa.Table:
    """A few rows for people or a file: names as strings, `record_id` beside the corpus."""
    if "record_id" not in table.column_names:
        ids = record_ids(table)
        table = table.drop_columns(list(PLACE)).add_column(table.column_names.index("corpus") + 1, "record_id", ids)
    return plain(table)


def plain(table: pa.Table) -> pa.Table:
    """The table with its dictionaries as strings."""
    return table.cast(pa.schema([f.with_type(f.type.value_type) if pa.types.is_dictionary(f.type) else f for f in table.schema]))


def keys_of(table: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers a row that sort as (corpus, shard, offset)."""
    shard, offset = _placed(table)
    return codes(table["corpus"])[1], codes(shard)[1], offset


def key_columns(table: pa.Table) -> list[str]:
    """The columns that hold a record's key."""
    return list(KEY) if "record_id" in table.column_names else ["corpus", *PLACE]


def rows_of(table: pa.Table, keys: pa.Table) -> Int64[np.ndarray, " keys"]:
    """The row of each of some keys (corpus, record_id) in a table of records without duplicates, -1 where it has none."""
    if not keys.num_rows or not table.num_rows:
        return np.full(keys.num_rows, -1, np.int64)
    (shards, offset), (wanted, wanted_at) = (_placed(each) for each in (table, keys))
    (corpora, corpus), (names, shard) = codes(table["corpus"]), codes(shards)
    offsets = np.unique(wanted_at)
    c, s = _among(corpora, keys["corpus"]), _among(names, wanted)
    code = np.where((c < 0) | (s < 0), -1, (c * len(names) + s) * len(offsets) + np.searchsorted(offsets, wanted_at))
    distinct, which = np.unique(code, return_inverse=True)
    found = np.full(len(distinct), -1, np.int64)
    for piece in blocks(table.num_rows):
        at = np.minimum(np.searchsorted(offsets, offset[piece]), len(offsets) - 1)
        near = np.flatnonzero(offsets[at] == offset[piece])
        own = (corpus[piece][near].astype(np.int64) * len(names) + shard[piece][near]) * len(offsets) + at[near]
        place = np.minimum(np.searchsorted(distinct, own), len(distinct) - 1)
        hit = distinct[place] == own
        found[place[hit]] = near[hit] + piece.start
    return found[which.reshape(-1)]


def _placed(table: pa.Table) -> tuple[Any, np.ndarray]:
    if "record_id" in table.column_names:
        return places(table["record_id"])
    return table["shard"], one_chunk(table["offset"]).to_numpy()


def _among(names: list[str], column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """The place of each row's name among `names`, -1 where it is none."""
    of = {name: i for i, name in enumerate(names)}
    own, number = codes(column)
    return np.array([*(of.get(name, -1) for name in own), -1], np.int64)[number]


def joined(first: pa.Table, second: pa.Table) -> pa.Table:
    """The rows of one table, then those of another with the same columns, each column in one piece and its names in order."""
    columns: dict[str, Any] = {}
    for name in first.column_names:
        both = pa.chunked_array([*first[name].chunks, *second[name].chunks], first.schema.field(name).type)
        columns[name] = named(*codes(both)) if pa.types.is_dictionary(both.type) else one_chunk(both)
    return pa.table(columns)


def content_codes(hashes: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """uint64 a row, equal where the content is: 64 of the 128 bits of a hash. Two of ten million different waveforms are taken for one
    with a probability of 3e-6. Other texts are hashed."""
    array = one_chunk(hashes)
    if len(array) and set(pc.binary_length(array).unique().to_pylist()) == {32}:  # type: ignore[attr-defined]
        data = np.frombuffer(array.buffers()[2], np.uint8)
        start = int(np.frombuffer(array.buffers()[1], np.int32, len(array) + 1)[array.offset])
        text = data[start : start + 32 * len(array)].reshape(-1, 32)[:, 16:]
        nibble = (text & 15) + 9 * (text >> 6)
        return np.ascontiguousarray(nibble[:, ::2] << 4 | nibble[:, 1::2]).view(">u8").reshape(-1).astype(np.uint64)
    return np.array([hash(text) & (2**64 - 1) for text in array.to_pylist()], np.uint64)


class Stacked:
    """Columns of at most so many rows, filled part by part, each as small as it can be: strings as dictionaries, `record_id` as PLACE,
    `content_hash` as uint64 `content`. A column that a part lacks is null there; a fleet p-value is NaN, which numpy has without a copy."""

    def __init__(self, num_rows: int) -> None:
        self.num_rows, self.at = num_rows, 0
        self._values: dict[str, np.ndarray] = {}
        self._names: dict[str, dict[str, int]] = {}
        self._nullable: set[str] = set()

    def append(self, part: pa.Table) -> None:
        """The next rows."""
        own = slice(self.at, self.at + part.num_rows)
        self.at = own.stop
        if not part.num_rows:
            return
        columns = {name: one_chunk(part[name]) for name in part.column_names}
        if "record_id" in columns:
            shard, offset = places(columns.pop("record_id"))
            columns |= {"shard": shard, "offset": pa.array(offset)}
        if "content_hash" in columns:
            columns["content"] = pa.array(content_codes(columns.pop("content_hash")))
        for name, column in columns.items():
            values = self._numbers(name, column) if pa.types.is_string(column.type) else _values(column)
            if name not in self._values:
                self._values[name] = np.full(self.num_rows, -1 if name in self._names else _nothing(values.dtype), values.dtype)
                self._nullable |= {name} if own.start else set()
            self._nullable |= {name} if column.null_count else set()
            self._values[name][own] = values
        self._nullable |= self._values.keys() - columns.keys()

    def _numbers(self, name: str, column: pa.Array) -> np.ndarray:
        local, of = pc.dictionary_encode(column), self._names.setdefault(name, {})  # type: ignore[attr-defined]
        number = [of.setdefault(text, len(of)) for text in local.dictionary.to_pylist()]
        dtype = CODES.get(name, pa.int32()).to_pandas_dtype()
        index = (local.indices.fill_null(-1) if local.null_count else local.indices).to_numpy()
        return np.array([*number, -1], dtype)[index]  # a number that is too large for its type raises

    def columns(self) -> dict[str, pa.Array]:
        """What was filled in, names in order; what is handed over is not copied where it need not be."""
        made = {}
        for name in list(self._values):
            values = self._values.pop(name)[: self.at]
            if name in self._names:
                names = list(self._names.pop(name))
                order = sorted(range(len(names)), key=names.__getitem__)
                rank = np.full(len(names) + 1, -1, values.dtype)  # the last is null's
                rank[order] = np.arange(len(names))
                made[name] = named([names[i] for i in order], rank[values])
            elif name == "measured_at":
                made[name] = pa.array(values).view(TIME)
            else:
                made[name] = pa.array(values, from_pandas=name in self._nullable and name != FLEET_P_VALUE.name)
        return made


def _values(column: pa.Array) -> np.ndarray:
    column = column.view(pa.int64()) if pa.types.is_timestamp(column.type) else column
    return column.to_numpy(zero_copy_only=False)


def _nothing(dtype: np.dtype) -> float | int | bool:
    return float("nan") if dtype.kind == "f" else dtype.type(0).item()


def order_of_time(table: pa.Table) -> np.ndarray:
    """The rows of a table of records by (measured_at, record_id). (`sort_by` of the table itself knows no vectors.)"""
    keys = table.select(["measured_at", "record_id"]).append_column("row", pa.array(np.arange(table.num_rows)))
    return keys.sort_by([("measured_at", "ascending"), ("record_id", "ascending")])["row"].to_numpy()


def sensors_of(table: pa.Table) -> list[tuple[str, str]]:
    """(unit, sensor_id) a row."""
    return list(zip(table["unit"].to_pylist(), table["sensor_id"].to_pylist(), strict=True))
