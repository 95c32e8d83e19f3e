"""A job over an archive that grew reads what came since."""

import gzip
from pathlib import Path

import pytest

from tests.storage.test_parts import good_record, jsonl
from vibray.storage import objects, parts
from vibray.storage.objects import join
from vibray.storage.parts import commit_part, done_parts, missing, read_shard
from vibray.storage.plan import PlanMismatch, read_plan
from vibray.storage.since import continued, held, lineage, superseded


def write(folder, key, first, count, rest=b""):
    data = jsonl(good_record(i) for i in range(first, first + count)) + rest
    objects.write_bytes(join(folder, key), gzip.compress(data, mtime=0) if key.endswith(".gz") else data)


def run(archive, scores, facts, since=None, corpus="c", stop_after=None):
    """A job without Ray; returns the ids of the records that it kept."""
    identity, shards = {"input": archive}, None
    if since:
        shards, identity["since"] = continued(since, archive)
    plan = parts.start_plan(scores, lambda: parts.make_plan(archive, corpus, identity, bytes_per_part=4000, held=shards), identity)
    for number, (part, numbers) in enumerate(missing(plan, done_parts(scores))):
        if number == stop_after:
            return set()
        for read in read_shard(part, facts, corpus, plan.base_uri, numbers):
            commit_part(scores, read.part_id, {"": read.records, "bad": read.bad}, read.marker)
    return set(parts.Parts(scores).read(["record_id"], schema=read.records.schema if plan.parts else None).to_pydict().get("record_id", []))


def test_only_what_came_since_is_read_and_what_changed_is_named(folder, facts):
    archive, first, second, third = (join(folder, name) for name in ("archive", "first", "second", "third"))
    write(archive, "a.jsonl", 0, 30)
    write(archive, "b.jsonl.gz", 30, 5)
    ids = run(archive, first, facts)
    assert len(ids) == 35

    write(archive, "c.jsonl", 35, 7)
    write(archive, "a-new.jsonl.gz", 42, 3)
    found = run(archive, second, facts, since=first)
    assert {name.split("@")[0] for name in found} == {"c.jsonl", "a-new.jsonl.gz"}
    assert len(found) == 10
    assert not found & ids

    write(archive, "b.jsonl.gz", 30, 6)  # one record longer: all of it is read again
    objects.remove([join(archive, "a.jsonl")])  # gone: nothing to read
    found = run(archive, third, facts, since=second)
    assert read_plan(third).changed == ("b.jsonl.gz",)
    assert {name.split("@")[0] for name in found} == {"b.jsonl.gz"}
    assert len(found) == 6

    assert run(archive, join(folder, "fourth"), facts, since=third) == set()
    assert list(lineage(join(folder, "fourth"))) == [join(folder, name) for name in ("fourth", "third", "second", "first")]
    plans = lineage(third)
    assert superseded(plans) == {first: {"b.jsonl.gz"}, second: {"b.jsonl.gz"}}  # whoever of them had it
    assert superseded({uri: plans[uri] for uri in (first, third)}) == {}  # the line between them is broken
    etag, _ = held(plans)["b.jsonl.gz"]
    assert "b.jsonl.gz" not in held(lineage(second), {first: frozenset({"b.jsonl.gz"})})  # it was not read there
    assert etag == read_plan(third).parts[0].etag != read_plan(first).parts[-1].etag


def test_an_input_that_was_emptied_since_holds_nothing_new(folder, facts):
    """A folder that is not there at all is a slip of the pen or of a mount, but on S3, where an empty one is not there either."""
    archive, first = join(folder, "archive"), join(folder, "first")
    with pytest.raises(FileNotFoundError, match="check its spelling"):
        run(archive, first, facts)
    write(archive, "a.jsonl", 0, 3)
    run(archive, first, facts)
    objects.remove([join(archive, "a.jsonl")])
    assert run(archive, join(folder, "second"), facts, since=first) == set()
    if not objects.is_s3(folder):
        Path(archive).rmdir()
        with pytest.raises(FileNotFoundError, match="check its spelling"):
            run(archive, join(folder, "third"), facts, since=first)


def test_the_same_command_goes_on_and_another_is_refused(tmp_path, facts, capsys):
    archive, first, second = (str(tmp_path / name) for name in ("archive", "first", "second"))
    write(archive, "a.jsonl", 0, 30)
    run(archive, first, facts, stop_after=1)
    write(archive, "b.jsonl", 30, 30)
    run(archive, second, facts, since=first, stop_after=1)
    assert "2 of 3 parts" in capsys.readouterr().out  # what the first job left undone is its own
    assert len(run(archive, second, facts, since=first)) == 30
    with pytest.raises(PlanMismatch, match=r"since: .* in the folder, null now") as refused:
        run(archive, second, facts)
    assert first[:60] in str(refused.value)  # the message cuts what is long
    with pytest.raises(PlanMismatch, match="only a job over the same input"):
        run(str(tmp_path / "other"), str(tmp_path / "third"), facts, since=first)
    assert run(archive, str(tmp_path / "named"), facts, since=second, corpus="d") == set()
    with pytest.raises(FileNotFoundError, match=r"plan\.json"):
        run(archive, str(tmp_path / "third"), facts, since=str(tmp_path / "no such"))


def test_small_shards_share_a_chain_where_they_are_many(tmp_path, facts, monkeypatch):
    """The rows are those of a plan in which each stands alone; a large shard between them is cut by itself."""
    archive = tmp_path / "archive"
    archive.mkdir()
    monkeypatch.setattr("vibray.storage.plan.MIN_PARTS", 40)
    sizes = {}
    for number in range(70):
        name = f"{number:05d}.jsonl"
        (archive / name).write_bytes(jsonl([good_record(number)]) if number % 7 else b"")
    (archive / "00050.jsonl").write_bytes(jsonl(good_record(i) for i in range(5000, 5040)))
    (archive / "00060.jsonl").write_bytes(b"not json\n" + jsonl([good_record(60)]))
    plan = parts.make_plan(str(archive), "c", {}, lines_per_part=2, bytes_per_part=3000)
    assert len(plan.parts) < len(plan.sizes) + 11  # 40 records alone are 12 parts
    assert any(len(part.objects) > 1 for part in plan.parts)
    assert list(plan.sizes) == sorted(path.name for path in archive.iterdir())
    assert plan.num_bytes == sum(path.stat().st_size for path in archive.iterdir())
    large = [part for part in plan.parts if part.key == "00050.jsonl"]
    assert len(large) > 1
    assert not any(part.chain for part in large)
    for part in plan.parts:
        assert sum(size for *_, size in part.objects) <= max(3000, part.size)
        for read in read_shard(part, facts, plan.corpus, plan.base_uri):
            assert read.num_read <= 2 or not part.chain
            for name in read.records["record_id"].to_pylist():
                sizes[name] = sizes.get(name, 0) + 1
            for bad in read.bad.to_pylist():
                assert (bad["shard"], bad["offset"]) == ("00060.jsonl", 0)
    expected = 0
    for part in parts.make_plan(str(archive), "c", {}, bytes_per_part=10**6).parts:
        for key, etag, size in part.objects:
            alone = parts.PartPlan("x", key, etag, size, 0, None, 10**6, 10**9)
            for read in read_shard(alone, facts, "c", plan.base_uri):
                expected += read.records.num_rows
                assert all(sizes[name] == 1 for name in read.records["record_id"].to_pylist())
    assert expected == len(sizes)


def test_a_chain_of_several_shards_is_resumed_and_its_changed_shard_named(tmp_path, facts):
    archive = tmp_path / "archive"
    archive.mkdir()
    for number in range(6):
        (archive / f"{number}.jsonl").write_bytes(jsonl(good_record(i) for i in range(3 * number, 3 * number + 3)))
    found = objects.list_objects(str(archive))
    chain = parts.make_plan(str(archive), "c", {}).parts[0]
    chain = parts.PartPlan("x", chain.key, chain.etag, chain.size, 0, None, 4, 10**6, tuple((i.key, i.etag, i.size) for i in found[1:]))
    whole = list(read_shard(chain, facts, "c", str(archive)))
    assert [read.num_read for read in whole] == [4, 4, 4, 4, 2]
    assert [read.last for read in whole] == [False] * 4 + [True]
    again = list(read_shard(chain, facts, "c", str(archive), frozenset({0, 2, 3})))
    assert [read.number for read in again] == [1, 4]
    assert again[0].records.equals(whole[1].records)
    (archive / "3.jsonl").write_bytes(b"")
    with pytest.raises(objects.ObjectChanged, match=r"3\.jsonl"):
        list(read_shard(chain, facts, "c", str(archive)))
