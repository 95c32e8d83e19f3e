"""What a driver does with a large archive before and after its workers: list, plan, go on, account. A million tiny records.

    python -m tests.bench.archive [--s3] [--objects 20000] [--records 50]

makes the archive, plans it, commits every part (read, parsed, written, marked, in two processes), and prints the seconds of each step and
the driver's memory: as a first start, as one that goes on with nothing done and with half done, and as one that finds all done. `--s3` does
it on a local S3 server, which costs it much more time per request than a real one does, and takes no more than a tenth of the objects.
"""

import argparse
import json
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.bench.processes import status_mb
from tests.chaos.plain import rms_table
from vibray.storage import objects
from vibray.storage.corpus import CorpusFacts
from vibray.storage.parts import Parts, commit_part, done_parts, missing, read_shard, remove_orphans
from vibray.storage.plan import PartPlan, make_plan, read_plan, start_plan
from vibray.storage.since import held, lineage

FACTS = CorpusFacts(sample_rate_hz=1000.0, num_samples=32)
LINE = '{"data_time":"2024-01-%02dT%02d:%02d:00Z","sensor_id":"s%d","signal_value":"%s"}\n'
VALUES = ",".join(str(i * i % 17) for i in range(31))


def line(number: int) -> bytes:
    """A record of 32 samples, 150 bytes, unlike the others."""
    return (LINE % (1 + number % 28, number // 60 % 24, number % 60, number % 100, f"{VALUES},{number}")).encode()


def write_archive(folder: str, num_objects: int, num_records: int, large: int) -> int:
    """Small shards in folders of a thousand, and one large one of `large` records; returns the bytes."""
    size = 0
    write = objects.write_bytes if objects.is_s3(folder) else _write_unsynced
    for number in range(num_objects):
        data = b"".join(line(number * num_records + i) for i in range(num_records))
        write(objects.join(folder, f"day-{number // 1000:03d}", f"{number:06d}.jsonl"), data)
        size += len(data)
    if large:
        # block by block, or the memory of making it would hide that of reading it
        for first in range(0, large, 10_000):
            data = b"".join(line(i) for i in range(first, min(large, first + 10_000)))
            with Path(folder, "large.jsonl").open("ab") as file:
                size += file.write(data)
    return size


def _write_unsynced(uri: str, data: bytes) -> None:
    Path(uri).parent.mkdir(parents=True, exist_ok=True)
    Path(uri).write_bytes(data)


def timed(what: str, step: Callable[[], Any]) -> Any:
    before, started = status_mb("VmHWM"), time.perf_counter()
    made = step()
    taken, peak = time.perf_counter() - started, status_mb("VmHWM")
    print(f"  {what:<46}{taken:8.2f} s   memory's peak {before:6.0f} -> {peak:6.0f} MB", flush=True)
    return made


def commit(arguments: tuple[str, str, str, list[tuple[PartPlan, frozenset[int]]]]) -> int:
    """A worker: reads and commits parts; returns its records."""
    scores_uri, base_uri, corpus, todo = arguments
    count = 0
    for part, numbers in todo:
        for read in read_shard(part, FACTS, corpus, base_uri, numbers):
            count += commit_part(scores_uri, read.part_id, {"": rms_table(read.records), "bad": read.bad}, read.marker)["num_kept"]
    return count


def measure(folder: str, num_objects: int, num_records: int, large: int) -> None:
    """All steps, once."""
    archive, scores = objects.join(folder, "archive"), objects.join(folder, "scores")
    identity = {"input": archive}
    size = write_archive(archive, num_objects, num_records, large)
    total = num_objects * num_records + large
    print(f"{total:,} records of {size / total:.0f} bytes in {num_objects + bool(large):,} objects")
    found = timed("list the archive", lambda: objects.list_objects(archive))
    assert len(found) == num_objects + bool(large)
    plan = timed(
        "list, plan, write the plan, read it back", lambda: start_plan(scores, lambda: make_plan(archive, "c", identity), identity)
    )
    print(f"    {len(plan.parts):,} parts or chains")

    def go_on() -> list[Any]:
        return missing(start_plan(scores, lambda: plan, identity), done_parts(scores))

    todo = timed("go on, nothing done", go_on)
    half = len(todo) // 2
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:

        def work(some: list[Any]) -> int:
            return sum(pool.map(commit, [(scores, plan.base_uri, "c", some[i : i + 20]) for i in range(0, len(some), 20)]))

        timed("(two workers: read, parse, commit one half)", lambda: work(todo[:half]))
        rest = timed("go on, half done", go_on)
        assert len(rest) == len(todo) - half
        timed("(two workers: the other half)", lambda: work(rest))
    assert not timed("go on, all done", go_on)
    parts = timed("read the markers, check the account", lambda: Parts(scores))
    parts.check_accounts()
    assert parts.total("num_kept") == total, parts.reasons
    timed("look for orphans", lambda: remove_orphans(scores, parts))
    objects.write_bytes(objects.join(archive, "day-000", "zzz.jsonl"), line(1))
    new = timed("plan only what came since", lambda: make_plan(archive, "c", identity, held=held(lineage(scores))))
    assert [part.key for part in new.parts] == ["day-000/zzz.jsonl"]
    print(f"    plan.json {len(objects.read_bytes(objects.join(scores, 'plan.json'))) / 1e6:.1f} MB, {len(parts.markers):,} markers")
    assert read_plan(scores) == plan
    print(json.dumps({"peak_mb": round(status_mb("VmHWM"))}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--s3", action="store_true")
    parser.add_argument("--objects", type=int, default=None)
    parser.add_argument("--records", type=int, default=50)
    parser.add_argument("--large", type=int, default=0, help="records of one large shard beside them (not with --s3)")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        if arguments.s3:
            from vibray.pipeline.demo import local_s3

            folder = stack.enter_context(local_s3("archive"))
        else:
            folder = tempfile.mkdtemp(prefix="vibray-archive-")
            stack.callback(shutil.rmtree, Path(folder))
        measure(folder, arguments.objects or (2000 if arguments.s3 else 20_000), arguments.records, arguments.large)


if __name__ == "__main__":
    main()
