"""A scoring job without Ray, and processes that are killed in the middle of it."""

import os
import random
import signal
import stat
import sys
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from vibray.storage import local, objects, parts, s3
from vibray.storage.corpus import CorpusFacts
from vibray.storage.objects import join
from vibray.storage.parts import Parts, commit_part, done_parts, missing, read_shard, remove_orphans

FACTS = CorpusFacts(sample_rate_hz=1000.0, num_samples=32)
OPTIONS: dict[str, Any] = {"lines_per_part": 5, "bytes_per_part": 1500}


def rms_table(records: pa.Table) -> pa.Table:
    """What this job scores: the RMS of each record."""
    waveforms = records["waveform"].combine_chunks().flatten().to_numpy().reshape(-1, FACTS.num_samples)
    return pa.table({"record_id": records["record_id"], "score": np.sqrt((waveforms**2).mean(1, dtype=np.float64)).astype(np.float32)})


def score(input_uri: str, scores_uri: str, shuffled: int | None = None, scale: float = 1.0) -> int:
    """The whole job, as a driver and its workers do it; returns how many parts it committed. `scale` stands for another CPU's last bits."""
    identity = {"input": input_uri}
    plan = parts.start_plan(scores_uri, lambda: parts.make_plan(input_uri, "c", identity, **OPTIONS), identity)
    todo = missing(plan, done_parts(scores_uri))
    if shuffled is not None:
        random.Random(shuffled).shuffle(todo)
    count = 0
    for part, numbers in todo:
        for read in read_shard(part, FACTS, plan.corpus, plan.base_uri, numbers):
            table = rms_table(read.records)
            table = table.set_column(1, "score", pa.array(table["score"].to_numpy() * np.float32(scale)))
            commit_part(scores_uri, read.part_id, {"": table, "bad": read.bad}, read.marker)
            count += 1
    finished = Parts(scores_uri)
    finished.check_accounts()
    remove_orphans(scores_uri, finished)
    return count


def scores(scores_uri: str) -> dict[str, bytes]:
    """The bytes of each score by record_id, checksums verified; fails where a record stands twice or the account does not add up."""
    finished = Parts(scores_uri)
    finished.check_accounts()
    table = pa.concat_tables(finished.tables(verify=True))
    ids, values = table["record_id"].to_pylist(), table["score"].to_numpy()
    assert len(set(ids)) == len(ids) == finished.total("num_kept")
    return {record_id: value.tobytes() for record_id, value in zip(ids, values, strict=True)}


def files(scores_uri: str) -> dict[str, bytes]:
    """Every file of a folder, hidden ones included."""
    return {info.key: objects.read_bytes(join(scores_uri, info.key)) for info in objects.list_objects(scores_uri, hidden=True)}


class Operations:
    """Counts what a process asks of storage, and kills it before the `fatal`-th, or right after where `after`."""

    def __init__(self, fatal: int | None, after: bool):
        self.fatal, self.after, self.count = fatal, after, 0

    def wrap(self, operation: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            fatal = self.count == self.fatal
            if fatal and not self.after:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return operation(*args, **kwargs)
            finally:
                if fatal:
                    os.kill(os.getpid(), signal.SIGKILL)

        return counted

    def sync(self, number: int) -> None:
        """In the place of fsync, before which a power cut may leave half of a file."""
        self.count += 1
        if self.count == self.fatal:
            if not self.after and stat.S_ISREG(os.fstat(number).st_mode):
                os.ftruncate(number, os.fstat(number).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)


def in_process(job: Callable[[], Any], fatal: int | None = None, after: bool = False) -> tuple[bool, int]:
    """Runs the job in a process of its own that dies at its `fatal`-th operation: whether it did, and how many it made if it did not."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            operations = Operations(fatal, after)
            _patch(operations)
            job()
            os.write(writer, str(operations.count).encode())
            code = 0
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as file:
        told = file.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True, 0
    assert os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0, "the job failed: see its traceback"
    return False, int(told)


def _patch(operations: Operations) -> None:
    """In the child: every request to S3, and every step by which a local file comes to be."""

    class Calls:
        def __init__(self, module: Any, names: set[str]):
            self.module, self.names = module, names

        def __getattr__(self, name: str) -> Any:
            found = getattr(self.module, name)
            return operations.wrap(found) if name in self.names else found

    fake: Any = Calls(os, {"link", "open", "close"})
    fake.fsync = operations.sync
    local.os = fake
    replace, unlink = local.Path.replace, local.Path.unlink
    local.Path.replace, local.Path.unlink = operations.wrap(replace), operations.wrap(unlink)
    make = s3._client

    class Client:
        def __init__(self, client: Any):
            self.client = client

        def __getattr__(self, name: str) -> Any:
            found = getattr(self.client, name)
            return found if name == "meta" else operations.wrap(found)

    s3._client = lambda *args: Client(make(*args))
