"""The same records in every layout, and cut in every way, are the same records."""

import gzip
import json

import numpy as np
import pytest
import zstandard

from tests.reference import records as twin
from vibray.storage.parts import make_plan, read_shard
from vibray.storage.records import content_hash

RECORDS = [
    {
        "sensor_id": f"s{number % 3}",
        "signal_value": ",".join(f"{x:.5f}" for x in np.random.default_rng(number).normal(size=32)),
        "data_time": f"2023-12-04T00:{number:02d}:00",
    }
    for number in range(12)
]
LINES = b"".join(json.dumps(record).encode() + b"\n" for record in RECORDS)
LISTED = json.dumps(RECORDS).encode()
AS_LISTS = json.dumps([{**r, "signal_value": [float(x) for x in r["signal_value"].split(",")]} for r in RECORDS]).encode()
ZST = zstandard.ZstdCompressor().compress


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", LINES),
        ("a.jsonl", LINES.replace(b"\n", b"\r\n")),
        ("a.jsonl", b"\xef\xbb\xbf" + LINES.rstrip()),
        ("a.jsonl.gz", gzip.compress(LINES)),
        ("a.jsonl.zst", ZST(LINES)),
        ("a.json", LISTED),
        ("a.json", AS_LISTS),
        ("a.json.gz", gzip.compress(b'{"data": ' + LISTED + b"}")),
        ("a.json.zst", ZST(LISTED)),
    ],
)
def test_every_layout_gives_the_same_waveforms(tmp_path, facts, name, data):
    (tmp_path / name).write_bytes(data)
    plan = make_plan(str(tmp_path), "c", {}, lines_per_part=5, bytes_per_part=1000)
    reads = [read for part in plan.parts for read in read_shard(part, facts, plan.corpus, plan.base_uri)]
    rows = [row for read in reads for row in read.records.to_pylist()]
    assert len(reads) > 1
    assert [row["content_hash"] for row in rows] == [content_hash(twin.waveform(line)) for line in LINES.splitlines()]
    assert sum(read.num_naive for read in reads) == len(RECORDS)
    assert [row["sensor_id"] for row in rows] == [record["sensor_id"] for record in RECORDS]
    assert {row["record_id"].partition("#" if ".json" in name and ".jsonl" not in name else "@")[0] for row in rows} == {name}


def test_any_number_of_parts_gives_the_same_rows(tmp_path, facts):
    (tmp_path / "a.jsonl").write_bytes(LINES)
    rows = {}
    for bytes_per_part in (10**6, 1000, 333, 100):
        plan = make_plan(str(tmp_path), "c", {}, bytes_per_part=bytes_per_part)
        tables = [read.records for part in plan.parts for read in read_shard(part, facts, plan.corpus, plan.base_uri)]
        rows[len(plan.parts)] = [(row["record_id"], row["content_hash"]) for table in tables for row in table.to_pylist()]
    assert len(rows) == 4
    assert all(found == rows[1] for found in rows.values())
