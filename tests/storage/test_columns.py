"""Tables held small: names as numbers, record ids as shard and offset."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vibray.storage.columns import PLACE, Stacked, codes, content_codes, joined, keys_of, named, plain, record_ids, rows_of, with_record_ids

ODD = [
    "a.jsonl@0", "a.jsonl@70000", "a#b@c.jsonl@12", "list.json#3", "x@1#2", "2024/绕组 é.jsonl.gz@999999999999999999", "@5", "#0",
    "a@007", "a@", "no offset", "", "7", "a@-1", "a@9999999999999999999", "a@١", "line\nbreak@4", "x @1 ", "a@00",
]  # fmt: skip
"""Keys with separators in names, other alphabets, offsets at the ends of int64, and ids that no vibray writes."""


def stacked(ids: list[str], **more: list) -> pa.Table:
    table = pa.table({"corpus": pa.array(["c"] * len(ids), pa.string()), "record_id": pa.array(ids, pa.string()), **more})
    held = Stacked(len(ids))
    for at in range(0, len(ids), 4):
        held.append(table.slice(at, 4))
    return pa.table(held.columns())


def test_an_id_comes_back_as_it_was() -> None:
    table = stacked(ODD)
    assert set(PLACE) <= set(table.column_names) and record_ids(table).to_pylist() == ODD
    assert with_record_ids(table).to_pylist() == [{"corpus": "c", "record_id": name} for name in ODD]
    assert dict(zip(ODD, table["offset"].to_pylist(), strict=True))["a#b@c.jsonl@12"] == 12


@given(st.lists(st.text("ab@#0178é\n", max_size=9), max_size=30))
def test_any_text_comes_back(ids: list[str]) -> None:
    assert record_ids(stacked(ids)).to_pylist() == ids if ids else True


def test_keys_are_in_the_order_of_corpus_shard_and_number() -> None:
    ids = ["b@9", "b@10", "a@100", "b@2", "a#5"]
    order = np.lexsort(keys_of(stacked(ids))[::-1])
    assert [ids[i] for i in order] == ["a#5", "a@100", "b@2", "b@9", "b@10"]
    assert np.array_equal(np.lexsort(keys_of(pa.table({"corpus": ["c"] * 5, "record_id": ids}))[::-1]), order)


@pytest.mark.parametrize("form", [stacked, lambda ids: pa.table({"corpus": ["c"] * len(ids), "record_id": ids})])
def test_rows_are_found_by_their_keys(form) -> None:
    ids = [f"{shard}@{offset}" for shard in ("x", "y#1", "é") for offset in (0, 7, 70)] + ["list#7", "odd"]
    asked = ["é@7", "x@8", "odd", "x@70", "z@0", "é@7", "list#7", "list@7"]
    keys = pa.table({"corpus": [*["c"] * 7, "c"], "record_id": asked})
    assert rows_of(form(ids), keys).tolist() == [ids.index(name) if name in ids else -1 for name in asked]
    other = pa.table({"corpus": ["d"], "record_id": ["x@0"]})
    assert rows_of(form(ids), other).tolist() == [-1]


def test_parts_that_lack_a_column_have_nulls_there() -> None:
    held = Stacked(5)
    held.append(pa.table({"state": ["off", "energised"], "p": pa.array([0.5, None], pa.float32())}))
    held.append(pa.table({"state": ["off"], "cause": ["hangs"]}))
    held.append(pa.table({"state": ["energised", "off"], "cause": pa.array([None, "cut"]), "p": pa.array([0.25, 1.0], pa.float32())}))
    table = plain(pa.table(held.columns()))
    assert table["cause"].to_pylist() == [None, None, "hangs", None, "cut"]
    assert table["p"].to_pylist() == [0.5, None, None, 0.25, 1.0]
    assert table["state"].to_pylist() == ["off", "energised", "off", "energised", "off"]


def test_numbers_are_those_of_the_names_in_order() -> None:
    names, number = codes(pa.chunked_array([["b", None], ["a", "b"]]))
    assert (names, number.tolist()) == (["a", "b"], [1, -1, 0, 1])
    column = pa.DictionaryArray.from_arrays(pa.array([0, 1, None], pa.int8()), ["z", "y"])
    names, number = codes(column)
    assert (names, number.tolist()) == (["y", "z"], [1, 0, -1])
    assert named(names, number).to_pylist() == ["z", "y", None]


def test_two_tables_become_one_with_their_names_in_order() -> None:
    both = joined(stacked(["b@1"], unit=["u2"]), stacked(["a@1", "c@2"], unit=["u1", "u2"]))
    assert both["unit"].to_pylist() == ["u2", "u1", "u2"] and record_ids(both).to_pylist() == ["b@1", "a@1", "c@2"]
    assert codes(both["shard"])[0] == ["a@", "b@", "c@"]


def test_contents_are_equal_where_their_hashes_are() -> None:
    hashes = [f"{i:032x}" for i in (0, 1, 2**63, 2**64 - 1, 1)]
    assert content_codes(pa.array(["x", *hashes])[1:]).tolist() == [0, 1, 2**63, 2**64 - 1, 1]
    assert len(set(content_codes(pa.array(["h", "g", "h"])).tolist())) == 2
