"""What featurize and score have in common: a plan, parts in, parts out, progress, the account at the end; or a dry run of it."""

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import pyarrow as pa
import torch

from vibray import schema
from vibray.decide.findings import Finding
from vibray.pipeline.local import device_here, num_parts, read_here, works_alone
from vibray.pipeline.telemetry import Watch, told
from vibray.storage import objects, tally
from vibray.storage.corpus import CorpusFacts
from vibray.storage.parts import Parts, done_parts, missing, remove_orphans
from vibray.storage.plan import Plan, Todo, make_plan, read_plan, start_plan
from vibray.storage.reading import ReadPart, read_shard
from vibray.storage.records import RATE_FIELDS

PREVIEW_LINES = 64
PREVIEW_BAD = 5
NAMED = 20
KINDS = {
    "num_glued": "objects_on_one_line",
    "num_ambiguous": "ambiguous_times",
    "num_nonexistent": "nonexistent_times",
    "num_other_rate": "contradicted_rate",
}
"""Names of findings by what markers count."""

Stage = Callable[..., dict[str, Any]]
"""What happens to a part: (read, **arguments) -> the marker of the part it committed; a function of a module."""


class Place(NamedTuple):
    """Where a stage computes: a torch device, and the threads it may use beside it."""

    device: str
    num_threads: int


@dataclass(frozen=True)
class PartsJob:
    """Input, output folder and what decides whether two commands are the same job."""

    input_uri: str
    folder_uri: str
    corpus: str
    facts: CorpusFacts
    identity: dict[str, Any]
    lines_per_part: int
    verb: str
    """"featurize" or "score", for the messages"""
    local: bool = False
    """work in this process, without Ray"""
    nets: bool = False
    """a GPU is of use to the stage"""
    held: Mapping[str, tuple[str, int]] | None = None
    """shards of the job that this one continues (storage/since.py): left out where they are unchanged"""
    planned: str | None = None
    """a folder of parts of the same input, whose plan is this job's too: what came since is in neither"""

    def plan(self) -> Plan:
        """What a first start would fix."""
        if self.planned is not None:
            return dataclasses.replace(read_plan(self.planned), identity=json.loads(json.dumps(self.identity)))
        return make_plan(self.input_uri, self.corpus, self.identity, self.lines_per_part, held=self.held)

    def run(self, stage: Stage, arguments: Callable[[Place], dict[str, Any]], needed: Sequence[str] = ()) -> Parts:
        """Reads what is not done, hands each part to `stage`, shows progress. What a stage needs for all parts it keeps in its process.

        `needed` are objects that every node must reach. Returns the finished parts, their accounts checked. Raises PlanMismatch where the
        folder is another job's.
        """
        plan = start_plan(self.folder_uri, self.plan, self.identity)
        self._print_since(plan)
        todo = missing(plan, done_parts(self.folder_uri))
        if not todo:
            print(f"{self.folder_uri} is finished already: nothing to do")
        elif works_alone(self.local, num_parts(todo)):
            work = partial(work_on, stage=stage, arguments=arguments(Place(device_here(self.nets), 1)))
            self._watch(plan, todo, (work(read) for read in tally.timed("read_seconds", read_here(plan, self.facts, todo))))
        else:
            from vibray.pipeline import reading, session

            with session.started():
                session.check_nodes([*needed, objects.join(self.folder_uri, "plan.json"), objects.below(plan.base_uri, todo[0][0].key)])
                use_gpu = self.nets and session.num_gpus() > 0
                if use_gpu:
                    session.await_room("GPU", 1)
                place = Place("cuda", max(1, session.cores_beside_a_gpu())) if use_gpu else Place("cpu", 1)
                work = partial(work_on, stage=stage, arguments=arguments(place))
                self._watch(plan, todo, reading.stream(plan, self.facts, todo, work, use_gpu))
        parts = Parts(self.folder_uri)
        parts.check_accounts()
        remove_orphans(self.folder_uri, parts)
        print_account(parts, plan.ignored)
        return parts

    def _watch(self, plan: Plan, todo: Todo, worked: Iterator[pa.Table]) -> None:
        with Watch(self.verb, plan, todo) as watch:
            for table in worked:
                for text in table["told"].to_pylist():
                    watch.part(json.loads(text))

    def _print_since(self, plan: Plan) -> None:
        if self.held is None:
            return
        new, since = len(plan.sizes) - len(plan.changed), self.identity["since"]["uri"]
        print(f"{len(self.held):,} shards are held by {since}; since then {new:,} came and {len(plan.changed):,} changed")
        for key in plan.changed[:NAMED]:
            print(f"  changed, so {self.verb}d again as a whole: {key}")
        if len(plan.changed) > NAMED:
            print(f"  and {len(plan.changed) - NAMED:,} more: plan.json names them all")

    def preview(self, work: Callable[[pa.Table], object]) -> None:
        """A dry run: the plan, the first bad lines, and what one core takes, from a timed `work` on the first records. Writes nothing."""
        try:
            plan, state = read_plan(self.folder_uri), "begun"
        except FileNotFoundError:
            plan, state = self.plan(), "new"
        todo = missing(plan, done_parts(self.folder_uri))
        print(f"{self.verb} {self.input_uri} -> {self.folder_uri} ({state})")
        self._print_since(plan)
        print(f"  {len(plan.sizes)} shards, {plan.num_bytes / 2**20:,.1f} MiB, {len(plan.parts)} parts or chains, {len(todo)} to do")
        if plan.ignored:
            print(f"  {len(plan.ignored)} objects are no shards and are left alone, as {plan.ignored[0]}")
        if todo:
            self._preview_records(plan, todo, work)
        print("dry run: nothing was written")

    def _preview_records(self, plan: Plan, todo: Todo, work: Callable[[pa.Table], object]) -> None:
        torch.set_num_threads(1)  # as a worker does
        started = time.perf_counter()
        first = dataclasses.replace(todo[0][0], max_lines=PREVIEW_LINES, max_bytes=1 << 40)
        read = next(read_shard(first, self.facts, plan.corpus, plan.base_uri))
        parsed = time.perf_counter()
        work(read.records)
        worked = time.perf_counter()
        print(f"  first {read.num_read} lines of {read.key}: {read.records.num_rows} records, {read.bad.num_rows} set aside")
        for row in read.bad.slice(0, PREVIEW_BAD).to_pylist():
            print(f"    {row['shard']}@{row['offset']}: {row['reason']} ({row['detail']}): {row['head'][:60]!r}")
        if read.num_read:
            line = (parsed - started) / read.num_read
            record = (worked - parsed) / max(1, read.records.num_rows)
            print(f"  on one core: {1e3 * line:.1f} ms to read and parse a line, {1e3 * record:.1f} ms for the rest of a record")
            print(f"  that is {3600 / (line + record):,.0f} records an hour and core")


def work_on(read: ReadPart, stage: Stage, arguments: dict[str, Any]) -> pa.Table:
    """The stage on a part; returns what a finished part tells the driver."""
    torch.set_num_threads(1)  # a worker a core: more threads only spin against one another
    with tally.seconds("work_seconds"):
        marker = stage(read, **arguments)
    return told(read.part_id, marker)


def print_account(parts: Parts, ignored: Sequence[str] = ()) -> None:
    """read = kept + set aside, by reason."""
    print(f"read {parts.total('num_read'):,} = kept {parts.total('num_kept'):,} + set aside {parts.total('num_bad'):,}")
    example = {row["reason"]: row for row in reversed(next(parts.tables(name="bad"), schema.BAD_RECORDS.empty_table()).to_pylist())}
    for reason, count in sorted(parts.reasons.items(), key=lambda item: (-item[1], item[0])):
        one = example.get(reason)
        print(f"  {count:6,} {reason}" + ("" if one is None else f", as {one['shard']}@{one['offset']}: {one['detail'][:120]}"))
    if parts.total("num_bad") and not parts.total("num_kept"):
        print("  no record was kept: nothing can be made of this input as it is described")
    if parts.total("num_naive"):
        print(f"  {parts.total('num_naive'):,} times name no zone and were read in {parts.plan.identity['facts']['timezone']} (--timezone)")
    if parts.total("num_fitted"):
        print(f"  {parts.total('num_fitted'):,} records of another length were cut or padded (--wrong-length fit)")
    if ignored:
        print(f"  {len(ignored)} objects are no shards and were left alone, as {ignored[0]}")


def reading_findings(parts: Parts) -> list[Finding]:
    """What lines of the input say against themselves, as their markers count it."""
    facts, found = parts.plan.identity["facts"], []
    zone, rate_hz = facts["timezone"], facts.get("sample_rate_hz", math.nan)
    glued, ambiguous, nonexistent, other_rate = (parts.total(count) for count in KINDS)
    advice = "write an offset into data_time, as +01:00, or log in UTC"
    texts = {
        "num_glued": f"{parts.total('num_glued_lines'):,} lines set aside hold {glued:,} objects: put each on a line of its own; a JSON "
        "list is named .json, JSON lines .jsonl",
        "num_ambiguous": f"{ambiguous:,} times are ambiguous, for the clock of {zone} was set back and showed them twice: each was read as "
        f"the first; {advice}",
        "num_nonexistent": f"{nonexistent:,} times never were, for the clock of {zone} was set forward over them: read as if it had not "
        f"been; {advice}",
        "num_other_rate": f"{other_rate:,} records say another sample rate of themselves than {rate_hz:g} Hz (a field named "
        f"{', '.join(RATE_FIELDS[:3])} or so); they are read at {rate_hz:g} Hz",
    }
    for count, text in texts.items():
        if parts.total(count):
            found.append(Finding(KINDS[count], parts.total(count), text))
    return found
