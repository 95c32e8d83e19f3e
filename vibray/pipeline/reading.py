"""Objects to records to what becomes of them, streaming: one plan row a task, and a part is always handed on whole.

Two ways. `work_parts`: a task reads a part and works on it where it lies. `read_parts`: readers hand parts to another stage, as a
single row that holds a part's tables as Arrow IPC bytes, so that Ray can neither glue two parts nor slice one, whatever the length of a
record (blocks of records stay whole only between one and one and a half times target_max_block_size).
"""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import ray.data

from vibray.config import from_json, to_json
from vibray.pipeline import session
from vibray.storage import tally
from vibray.storage.corpus import CorpusFacts
from vibray.storage.plan import PartPlan, Plan, Todo
from vibray.storage.reading import ReadPart, read_shard

READ_CPUS = 0.25
"""A reader waits for storage much of the time; with WORK_CPUS it fills one core."""

WORK_CPUS = 0.75
"""What a stage behind the readers asks for: another number than READ_CPUS, so that Ray does not fuse the two."""

MAX_TASKS = 4000
"""Beyond so many, a task reads several parts or chains, one after another: the driver keeps books of each task."""

TASK_BYTES = 256 << 20
"""Stored bytes that a task of several small parts takes at most, some 4,000 to 9,000 records. Ray Data's executor looks for ended tasks
every .1 s, twice for each: a core waits .2 s for its next task."""


Work = Callable[[ReadPart], pa.Table]


def stream(plan: Plan, facts: CorpusFacts, todo: Todo, work: Work, use_gpu: bool) -> Iterator[pa.Table]:
    """The small tables that `work` makes of the parts, as they come."""
    cores = session.num_cpus()
    if not use_gpu and (len(todo) >= cores or not any(part.chain for part, _ in todo)):
        dataset = work_parts(plan, facts, todo, work, min(len(todo), cores))
    else:
        # work on GPUs; or chains that are fewer than the cores: a chain is read by one task, and all cores are to work
        read: Any = partial(read_parts(plan, facts, todo).map_batches, batch_size=1, batch_format="pyarrow")
        if use_gpu:  # a process that has used a GPU for a task ends with it: actors stay
            actors = ray.data.ActorPoolStrategy(min_size=1, max_size=session.num_gpus())
            own_cpus = session.cores_beside_a_gpu() or WORK_CPUS
            dataset = read(_Actor, fn_constructor_kwargs={"work": work}, num_cpus=own_cpus, num_gpus=1, compute=actors)
        else:  # on CPUs processes stay, and with them what they imported and loaded
            dataset = read(_work_batch, fn_kwargs={"work": work}, num_cpus=WORK_CPUS, compute=ray.data.TaskPoolStrategy(cores))
    yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow")


def _work_batch(batch: pa.Table, work: Work) -> pa.Table:
    return pa.concat_tables([work(read) for read in unpack(batch)])


class _Actor:
    """The same in a process that holds a GPU; Ray Data's actors are made of classes."""

    def __init__(self, work: Work):
        self.work = work

    def __call__(self, batch: pa.Table) -> pa.Table:
        return _work_batch(batch, self.work)


def read_parts(plan: Plan, facts: CorpusFacts, todo: Todo) -> ray.data.Dataset:
    """One row a part: see `unpack`. Reading is streamed; a task holds one part at a time."""
    return _map_plan(plan, facts, [[entry] for entry in todo], pack, num_cpus=READ_CPUS)


def work_parts(plan: Plan, facts: CorpusFacts, todo: Todo, work: Work, num_workers: int) -> ray.data.Dataset:
    """The small tables that `work` makes of the parts; a task takes a core, reads and works part after part, and holds one at a time."""
    options = {"num_cpus": 1, "compute": ray.data.TaskPoolStrategy(num_workers)}
    return _map_plan(plan, facts, grouped(todo, num_workers), work, **options)


def grouped(todo: Todo, num_workers: int) -> Sequence[Todo]:
    """What each task does, in order: small parts together, and ever fewer towards the end, so that all workers end at about one time.

    A task takes half of what a worker's share of the rest is, up to TASK_BYTES, and one part at least (guided self-scheduling:
    Polychronopoulos and Kuck 1987).
    """
    sizes = [part.num_bytes for part, _ in todo]
    rest, taken = sum(sizes), 0
    groups: list[list[tuple[PartPlan, frozenset[int]]]] = [[]]
    for entry, size in zip(todo, sizes, strict=True):
        if groups[-1] and taken + size > min(TASK_BYTES, (rest + taken) / (2 * num_workers)):
            groups.append([])
            taken = 0
        groups[-1].append(entry)
        taken, rest = taken + size, rest - size
    return groups if todo else []


def _map_plan(plan: Plan, facts: CorpusFacts, tasks: Sequence[Todo], work: Work, **options: Any) -> ray.data.Dataset:
    rows = [{"parts": [json.dumps(to_json(part)) for part, _ in task], "done": [sorted(done) for _, done in task]} for task in tasks]
    dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), MAX_TASKS))
    dataset.context.target_max_block_size = 1  # no row waits for another: each is a block of its own. The dataset's setting, no other's
    return dataset.map_batches(
        _read,  # type: ignore[arg-type] (Ray's type knows no generators of tables)
        fn_kwargs={"base_uri": plan.base_uri, "corpus": plan.corpus, "facts": facts, "work": work},
        batch_size=1,
        batch_format="pyarrow",
        **options,
    )


def _read(batch: pa.Table, base_uri: str, corpus: str, facts: CorpusFacts, work: Work) -> Iterator[pa.Table]:
    for row in batch.to_pylist():
        for text, done in zip(row["parts"], row["done"], strict=True):
            part = from_json(PartPlan, json.loads(text))
            for read in tally.timed("read_seconds", read_shard(part, facts, corpus, base_uri, frozenset(done or ()))):
                made = work(read)
                del read  # the next part is not read while this one is still held
                yield made


def pack(read: ReadPart) -> pa.Table:
    """A part as a table of one row."""
    facts: dict[str, Any] = {"part_id": read.part_id, **read.marker}
    return pa.table(
        {
            "facts": [json.dumps(facts)],
            "spent": [json.dumps(tally.take())],
            "records": _to_ipc(read.records),
            "bad": _to_ipc(read.bad),
        }
    )


def unpack(batch: pa.Table) -> Iterator[ReadPart]:
    """The parts of a block, their waveforms not copied."""
    for row in range(batch.num_rows):
        tally.put(json.loads(batch["spent"][row].as_py()))  # what the reading process counted is told with the part
        tables = {name: _from_ipc(batch[name][row]) for name in ("records", "bad")}
        yield ReadPart(**json.loads(batch["facts"][row].as_py()), **tables)


def _to_ipc(table: pa.Table) -> pa.Array:
    """A table as a binary array of one value, whose bytes are not copied again."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    data = sink.getvalue()
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, pa.array([0, data.size], pa.int64()).buffers()[1], data])


def _from_ipc(scalar: Any) -> pa.Table:
    return pa.ipc.open_stream(scalar.as_buffer()).read_all()
