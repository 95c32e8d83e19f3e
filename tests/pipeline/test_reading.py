"""A part that travels as one row arrives as it was."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from tests.pipeline.lines import FACTS, write_shard
from vibray.pipeline.local import num_parts
from vibray.pipeline.reading import TASK_BYTES, grouped, pack, read_parts, unpack, work_parts
from vibray.storage.parts import missing
from vibray.storage.plan import PartPlan, make_plan
from vibray.storage.reading import read_shard

MB = 1 << 20


def test_a_part_survives_its_packing(tmp_path):
    write_shard(tmp_path / "raw" / "a.jsonl", 7, bad=2)
    plan = make_plan(str(tmp_path / "raw"), "raw", {})
    (read,) = read_shard(plan.parts[0], FACTS, "raw", plan.base_uri)
    row = pack(read)
    assert row.num_rows == 1
    (back,) = unpack(row)
    assert back.marker == read.marker
    assert back.records.equals(read.records)
    assert back.bad.equals(read.bad)
    assert back.bad.num_rows == 2


def test_ray_neither_glues_nor_slices_parts(local_ray, tmp_path):
    for number, lines in enumerate((1, 23, 5, 40)):
        write_shard(tmp_path / "raw" / f"{number}.jsonl.gz", lines, seed=number)
    plan = make_plan(str(tmp_path / "raw"), "raw", {}, lines_per_part=10)
    sizes = {}
    for batch in read_parts(plan, FACTS, missing(plan, {})).iter_batches(batch_size=None, batch_format="pyarrow"):
        for read in unpack(batch):
            sizes.setdefault(read.key, []).append((read.number, read.records.num_rows, read.last))
    found = {key: [rows for _, rows, _ in sorted(parts)] for key, parts in sizes.items()}
    assert found == {"0.jsonl.gz": [1], "1.jsonl.gz": [10, 10, 3], "2.jsonl.gz": [5], "3.jsonl.gz": [10, 10, 10, 10]}
    assert all([last for *_, last in sorted(parts)] == [False] * (len(parts) - 1) + [True] for parts in sizes.values())


def test_a_worker_tells_of_each_part_as_soon_as_it_is_done(local_ray, tmp_path):
    write_shard(tmp_path / "raw" / "a.jsonl.gz", 23, bad=1)
    plan = make_plan(str(tmp_path / "raw"), "raw", {}, lines_per_part=10)
    dataset = work_parts(plan, FACTS, missing(plan, {}), counted, 1)
    blocks = map(pa.Table.to_pylist, dataset.iter_batches(batch_size=None, batch_format="pyarrow"))
    assert list(blocks) == [[{"records": 9}], [{"records": 10}], [{"records": 4}]]


def entries(*sizes: int):
    return [(PartPlan(str(i), f"{i}.jsonl", "", size, 0, size, None, None), frozenset()) for i, size in enumerate(sizes)]


@pytest.mark.parametrize("num_workers", [1, 2, 16])
def test_tasks_take_small_parts_together_and_ever_fewer_of_them(num_workers):
    todo = entries(*[MB] * 1000)
    tasks = grouped(todo, num_workers)
    assert [entry for task in tasks for entry in task] == todo
    num = [len(task) for task in tasks]
    assert num == sorted(num, reverse=True)
    assert num[0] == min(TASK_BYTES // MB, 1000 // (2 * num_workers))
    assert num[-2 * num_workers :] == [1] * (2 * num_workers)  # no worker waits long for the last one
    assert len(num) < 1000 / 4


def test_a_large_part_is_a_task_and_ranges_count_by_their_bytes():
    todo = entries(3 * TASK_BYTES, MB, 2 * TASK_BYTES, *[MB] * 40)
    assert [len(task) for task in grouped(todo, 1)][:3] == [1, 1, 1]
    ranges = [(replace(part, start=part.size - 1), done) for part, done in todo]
    assert len(grouped(ranges, 1)[0]) == 43 // 2
    assert grouped([], 4) == []


def test_a_chain_of_many_small_objects_is_no_work_for_one_process():
    (chain,) = make_chain(1, MB)
    assert num_parts([chain]) == 1
    (chain,) = make_chain(200, MB)
    assert num_parts([chain]) == 4
    assert chain[0].num_bytes == 200 * MB


def make_chain(num_objects: int, size: int):
    more = tuple((f"{i}.jsonl.gz", "e", size) for i in range(1, num_objects))
    return [(PartPlan("p", "0.jsonl.gz", "e", size, 0, None, 2000, 1 << 40, more), frozenset[int]())]


def counted(read):
    return pa.table({"records": [read.records.num_rows]})


def test_parts_that_are_done_are_not_read_again(local_ray, tmp_path):
    write_shard(tmp_path / "raw" / "a.jsonl.gz", 25)
    plan = make_plan(str(tmp_path / "raw"), "raw", {}, lines_per_part=10)
    todo = [(plan.parts[0], frozenset({0, 2}))]
    reads = [
        read for batch in read_parts(plan, FACTS, todo).iter_batches(batch_size=None, batch_format="pyarrow") for read in unpack(batch)
    ]
    assert [read.number for read in reads] == [1]
    every = list(read_shard(plan.parts[0], FACTS, "raw", plan.base_uri))
    assert reads[0].records.equals(every[1].records)
    assert np.unique([read.part_id for read in every]).size == 3
