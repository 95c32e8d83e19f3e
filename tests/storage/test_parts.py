import gzip
import json
import re

import numpy as np
import pyarrow as pa
import pytest

from tests.reference import records as twin
from vibray import schema
from vibray.storage import objects, parts
from vibray.storage.errors import ObjectChanged, ObjectMissing, StorageError
from vibray.storage.objects import join
from vibray.storage.parts import AccountingError, Parts, PlanMismatch, commit_part, done_parts, missing, numbers_done, read_shard
from vibray.storage.records import content_hash


def good_record(number, num_samples=32):
    samples = np.random.default_rng(number).normal(size=num_samples)
    time = f"2023-12-04T{number // 60 % 24:02d}:{number % 60:02d}:00.125Z"
    return {"data_time": time, "signal_value": ",".join(f"{x:.5f}" for x in samples), "sensor_id": f"s{number % 3}"}


def jsonl(records) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def plan_of(input_uri, identity=None, **options):
    return parts.make_plan(input_uri, "c", identity or {"input": input_uri}, **options)


def run(input_uri, folder, facts, stop_after=None, **options):
    """A whole job without Ray; `stop_after` parts it dies."""
    identity = {"input": input_uri, "options": options}
    plan = parts.start_plan(folder, lambda: plan_of(input_uri, identity, **options), identity)
    num_written = 0
    for part, numbers in missing(plan, done_parts(folder)):
        for read in read_shard(part, facts, plan.corpus, plan.base_uri, numbers):
            if num_written == stop_after:
                return num_written
            commit_part(folder, read.part_id, {"": read.records, "bad": read.bad}, read.marker)
            num_written += 1
    return num_written


def content(folder):
    found = Parts(folder)
    found.check_accounts()
    rows = found.read(["record_id", "line", "content_hash"]).to_pylist()
    bad = found.read(["shard", "offset", "reason"], "bad", schema.BAD_RECORDS).to_pylist()
    return rows, bad


def files(folder):
    return {info.key: objects.read_bytes(join(folder, info.key)) for info in objects.list_objects(folder, hidden=True)}


@pytest.fixture
def corpus(tmp_path):
    """40 records in plain, chained and listed shards, among bad lines; an empty shard; a labels table that is no shard."""
    folder = tmp_path / "corpus"
    (folder / "day").mkdir(parents=True)
    broken = b'{"sensor_id": 5}\n\nnot json\n'
    (folder / "day" / "a.jsonl").write_bytes(jsonl(good_record(i) for i in range(10)) + broken + jsonl([good_record(10)]))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(jsonl(good_record(i) for i in range(11, 23)) + broken)[:-20])
    (folder / "c.json").write_text(json.dumps({"data": [good_record(i) for i in range(23, 30)] + [7]}))
    (folder / "empty.jsonl.gz").write_bytes(b"")
    (folder / "readme.md").write_text("not a shard")
    return str(folder)


def test_a_job_from_lines_to_parts(corpus, folder, facts):
    run(corpus, folder, facts, lines_per_part=5, bytes_per_part=2000)
    rows, bad = content(folder)
    data = objects.read_bytes(join(corpus, "day/a.jsonl"))
    expected = [(f"day/a.jsonl@{offset}", line) for offset, _, line in twin.lines(data) if b"signal" in line]
    found = {row["record_id"]: row for row in rows}
    for name, line in expected:
        assert found[name]["content_hash"] == content_hash(twin.waveform(line))
    assert [row["record_id"] for row in rows if row["record_id"].startswith("day")] == [name for name, _ in expected]
    assert sum(row["record_id"].startswith("c.json#") for row in rows) == 7
    assert [(row["shard"], row["reason"]) for row in bad if row["shard"] != "b.jsonl.gz"] == [
        ("c.json", "not an object"),
        ("day/a.jsonl", "missing field"),
        ("day/a.jsonl", "not JSON"),
    ]
    assert [row["offset"] for row in bad if row["shard"] == "c.json"] == [7]
    assert [row["reason"] for row in bad if row["shard"] == "b.jsonl.gz"][-1] == "truncated stream"
    whole = Parts(folder)
    assert whole.plan.ignored == ("readme.md",)
    assert whole.total("num_read") == len(rows) + len(bad) == whole.total("num_kept") + sum(whole.reasons.values())
    assert whole.read().schema == schema.records(facts.num_samples)


def test_a_resumed_job_equals_an_uninterrupted_one(corpus, tmp_path, facts):
    options = {"lines_per_part": 5, "bytes_per_part": 2000}
    whole = str(tmp_path / "whole")
    num_parts = run(corpus, whole, facts, **options)
    assert num_parts >= 8
    for stop_after in range(num_parts):
        broken = str(tmp_path / f"stopped-{stop_after}")
        run(corpus, broken, facts, stop_after, **options)
        with pytest.raises(ValueError, match="not finished"):
            Parts(broken)
        assert len(Parts(broken, partial=True).markers) == stop_after
        assert run(corpus, broken, facts, **options) == num_parts - stop_after
        assert run(corpus, broken, facts, **options) == 0
        assert files(broken) == files(whole)


def test_a_chain_may_be_resumed_with_a_hole(corpus, tmp_path, facts):
    options = {"lines_per_part": 2, "bytes_per_part": 100_000}
    folder = str(tmp_path / "out")
    run(corpus, folder, facts, **options)
    before = files(folder)
    chain = next(part for part in parts.read_plan(folder).parts if part.key == "b.jsonl.gz")
    objects.remove([join(folder, "_done", f"{chain.part_id(number)}.json") for number in (1, 3)])
    [(part, numbers)] = missing(parts.read_plan(folder), done_parts(folder))
    assert part == chain
    assert {0, 2, 4} <= numbers
    assert not numbers & {1, 3}
    assert run(corpus, folder, facts, **options) == 2
    assert files(folder) == before


@pytest.mark.parametrize(("num_records", "last"), [(0, 0), (1, 0), (5, 0), (6, 1), (10, 1), (11, 2)])
def test_the_last_part_of_a_chain_says_so(tmp_path, facts, num_records, last):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(jsonl(good_record(i) for i in range(num_records))))
    plan = plan_of(str(tmp_path / "a.jsonl.gz"), lines_per_part=5)  # an input of one object
    [part] = plan.parts
    found = list(read_shard(part, facts, plan.corpus, plan.base_uri))
    assert [(read.number, read.last) for read in found] == [(number, number == last) for number in range(last + 1)]
    assert [row["record_id"].split("@")[0] for row in found[0].records.to_pylist()] == ["a.jsonl.gz"] * min(num_records, 5)
    assert sum(read.num_read for read in found) == num_records


def test_a_part_of_long_lines_ends_early(tmp_path, facts):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"".join(b"x" * 1000 + b"\n" for _ in range(10))))
    plan = plan_of(str(tmp_path), lines_per_part=100, bytes_per_part=1000)
    found = list(read_shard(plan.parts[0], facts, plan.corpus, plan.base_uri))
    assert [read.bad.num_rows for read in found] == [2, 2, 2, 2, 2]


def test_a_part_is_about_the_lines_asked_for(tmp_path):
    data = jsonl(good_record(i, 8192) for i in range(60))
    (tmp_path / "a.jsonl").write_bytes(data)
    plan = plan_of(str(tmp_path), lines_per_part=20)
    assert len(plan.parts) == 4  # 60 lines of ordinary spread, not cut below 20
    assert [(part.end or 0) - part.start for part in plan.parts] == pytest.approx([len(data) / 4] * 4, abs=1)


def test_ids_are_of_the_content_and_the_plan_stays(tmp_path, folder, facts):
    source = tmp_path / "in"
    source.mkdir()
    (source / "a.jsonl").write_bytes(jsonl([good_record(1)]))
    first = plan_of(str(source))
    assert plan_of(str(source)).parts == first.parts
    run(str(source), folder, facts)
    (source / "b.jsonl").write_bytes(jsonl([good_record(2)]))
    assert run(str(source), folder, facts) == 0
    assert parts.read_plan(folder).parts == first.parts
    assert plan_of(str(source)).parts[0] == first.parts[0]
    (source / "a.jsonl").write_bytes(jsonl([good_record(3)]))
    assert plan_of(str(source)).parts[0].id != first.parts[0].id


def test_an_object_that_changed_is_refused_by_name(tmp_path, facts):
    (tmp_path / "a.jsonl").write_bytes(jsonl([good_record(1)]))
    plan = plan_of(str(tmp_path))
    (tmp_path / "a.jsonl").write_bytes(jsonl([good_record(2)]))
    with pytest.raises(ObjectChanged, match=r"a\.jsonl"):
        list(read_shard(plan.parts[0], facts, plan.corpus, plan.base_uri))


def test_another_job_on_a_folder_is_refused_with_both_sides(corpus, folder):
    here = {"corpus": "c", "facts": {"sample_rate_hz": 8192.0, "mains": "50"}}
    there = {"corpus": "c", "facts": {"sample_rate_hz": 10000.0, "mains": "50"}}
    parts.start_plan(folder, lambda: plan_of(corpus, there), there)
    with pytest.raises(PlanMismatch, match=r"facts\.sample_rate_hz: 10000\.0 in the folder, 8192\.0 now") as error:
        parts.start_plan(folder, lambda: plan_of(corpus, here), here)
    assert "mains" not in str(error.value)


def test_an_input_without_shards(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"")
    with pytest.raises(ValueError, match="holds no shard"):
        plan_of(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="spelling"):
        plan_of(str(tmp_path / "not"))


TABLE = pa.table({"record_id": ["a@0", "a@9"]})
BAD = pa.Table.from_pylist(
    [{"corpus": "c", "shard": "a", "offset": 5, "line": None, "reason": "constant", "detail": "", "head": ""}], schema.BAD_RECORDS
)
MARKER = {"key": "a", "start": 0, "number": 0, "last": True, "num_read": 3}


def test_the_marker_comes_last_and_a_part_without_one_is_not_there(folder, monkeypatch):
    order, write = [], objects.write_bytes

    def recorded(uri, data, exclusive=False):
        order.append(re.sub(r"\.[0-9a-f]{8}\.", ".", uri.removeprefix(folder + "/")))
        if len(order) > limit:
            raise StorageError("killed")
        write(uri, data, exclusive)

    monkeypatch.setattr(objects, "write_bytes", recorded)
    whole = ["part-x.parquet", "bad/part-x.parquet", "evidence/part-x.parquet", "_done/x.json"]
    for limit in range(5):
        order.clear()
        if limit < 4:
            with pytest.raises(StorageError, match="killed"):
                commit_part(folder, "x", {"": TABLE, "bad": BAD, "evidence": TABLE}, MARKER)
            assert done_parts(folder) == {}
        else:
            commit_part(folder, "x", {"": TABLE, "bad": BAD, "evidence": TABLE, "none": TABLE[:0]}, MARKER)
            assert done_parts(folder)["x"]["reasons"] == {"constant": 1}
        assert order == whole[: limit + 1]


def test_vectors_and_images_come_back_as_they_were_however_they_were_written(folder):
    rng = np.random.default_rng(0)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rng.normal(size=2 * 4096).astype(np.float32)), 4096)
    images = pa.table({"image": pa.array([rng.bytes(5000)] * 2, pa.large_binary()), "shape": [[2, 1250], [1250, 2]]})
    table = TABLE.append_column("waveform", vectors)
    whole = commit_part(folder, "x", {"": table, "images": images}, {**MARKER, "num_read": 2})
    own, side = whole["files"]
    assert whole["files"][own]["size"] < 0.95 * table.nbytes  # noise in float32 loses nothing otherwise
    for name, expected in ((own, table), (side, images), ("earlier", table)):
        if name == "earlier":  # before vectors were encoded in their own way
            objects.write_table(join(folder, name), expected)
        assert objects.read_table(join(folder, name)).equals(expected)


def test_accounts_that_do_not_add_up_are_refused(folder):
    with pytest.raises(AccountingError, match="4 lines read, 2 kept \\+ 1 set aside"):
        commit_part(folder, "x", {"": TABLE, "bad": BAD}, {**MARKER, "num_read": 4})
    assert done_parts(folder) == {}


def test_a_damaged_part_is_found(corpus, folder, facts):
    run(corpus, folder, facts)
    part_id = next(iter(Parts(folder).markers))
    uri = Parts(folder).uri(part_id)
    assert uri
    objects.write_bytes(uri, objects.read_bytes(uri)[::-1])
    with pytest.raises(ValueError, match=part_id):
        list(Parts(folder).tables(["record_id"], verify=True))


def test_a_finished_folder_is_checked(folder):
    with pytest.raises(ObjectMissing, match="not finished"):
        parts.check_finished(folder)
    objects.write_bytes(join(folder, "model/x"), b"1")
    parts.finish_folder(folder, ["model/x"], {"rows": 3})
    assert parts.check_finished(folder)["rows"] == 3
    objects.write_bytes(join(folder, "model/x"), b"2")
    with pytest.raises(ValueError, match="model/x is not the file"):
        parts.check_finished(folder)
    objects.remove([join(folder, "model/x")])
    with pytest.raises(ValueError, match="model/x is not the file"):
        parts.check_finished(folder)


def test_numbers_of_other_chains_do_not_count(tmp_path):
    (tmp_path / "a.json").write_bytes(b"[]")
    [part] = plan_of(str(tmp_path)).parts
    assert numbers_done(part, [f"{part.id}-0", f"{part.id}-12", "0123456789ab-3", "0123456789ab"]) == {0, 12}
