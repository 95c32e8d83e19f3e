"""What parts tell on their way to the driver: progress, an event in the log, and metrics through Ray's own exporter.

A part tells of itself once it is committed, so that a figure is right whatever was done twice. All metrics come from the driver, which on
a cluster is one process of one node: what a worker counted and did not live to tell is not in them.
"""

import json
import logging
from typing import Any

import pyarrow as pa

from vibray.pipeline import logs
from vibray.pipeline.local import running_ray
from vibray.pipeline.logs import Progress
from vibray.storage import tally
from vibray.storage.plan import Plan, Todo

log = logging.getLogger(__name__)

STAGES = ("read", "work", "write")
"""reading and parsing; features and model; writing a part"""


def told(part_id: str, marker: dict[str, Any]) -> pa.Table:
    """On a worker: what a committed part tells the driver, and what this process did since it last told."""
    spent = tally.take()
    if "work_seconds" in spent:  # a part is written within its stage
        spent["work_seconds"] = max(0.0, spent["work_seconds"] - spent.get("write_seconds", 0.0))
    names = ("key", "num_read", "num_kept", "num_bad", "reasons", "last")
    ray = running_ray()
    node = "" if ray is None else ray.get_runtime_context().get_node_id()
    return pa.table({"told": [json.dumps({"part": part_id, "node": node, **{name: marker[name] for name in names}, **spent})]})


class Metrics:
    """Counters of one verb. Prometheus finds them as ray_vibray_records_total{verb="score"} and so on.

    Seconds are counters and no histogram: Ray's exporter takes each observation for the middle of its bucket, so that sums are wrong.
    """

    def __init__(self, verb: str):
        from ray.util.metrics import Counter, Gauge

        self.tags = {"verb": verb}
        self.counters = {
            told: Counter(f"vibray_{name}", description=text, tag_keys=("verb",))
            for told, name, text in (
                ("num_kept", "records", "Records of committed parts"),
                ("num_bad", "bad_lines", "Lines set aside"),
                ("parts", "parts", "Parts committed"),
                ("retries", "storage_retries", "Requests to storage that were tried again"),
                ("bytes_read", "read_bytes", "Bytes of shards read, as they are stored"),
            )
        }
        self.seconds = Counter("vibray_stage_seconds", description="Seconds that workers spent", tag_keys=("verb", "stage"))
        self.share = Gauge("vibray_share_done", description="Share of the plan's bytes that is done", tag_keys=("verb",))

    def add(self, told: dict[str, Any], share_done: float | None = None) -> None:
        """Adds what a part, or the driver, told."""
        for name, counter in self.counters.items():
            if told.get(name):
                counter.inc(told[name], self.tags)
        for stage in STAGES:
            if told.get(f"{stage}_seconds"):
                self.seconds.inc(told[f"{stage}_seconds"], {**self.tags, "stage": stage})
        self.share.set(share_done, self.tags)


class Watch:
    """The parts of a job as they are done. The share done is of the bytes of the plan, as they are stored."""

    def __init__(self, verb: str, plan: Plan, todo: Todo):
        self.left = {part.id: part.num_bytes for part, _ in todo}
        self.chains = {part.id for part, _ in todo if part.chain}
        total = sum(part.num_bytes for part in plan.parts)
        self.metrics = None if running_ray() is None else Metrics(verb)
        self.num_bad = self.num_retries = 0
        self.progress = Progress(verb, total, "records", total - sum(self.left.values()))
        facts = {"num_parts": len(plan.parts), "todo": len(todo), "num_bytes": total, "num_ignored": len(plan.ignored)}
        log.debug("%s: %d of %d parts or chains to do", verb, len(todo), len(plan.parts), extra=logs.event("plan", **facts))
        self._count(tally.take())  # what making the plan took

    def part(self, told: dict[str, Any]) -> None:
        """A part that is committed, by what it told."""
        told = dict(told)
        for name, amount in tally.take().items():  # the driver's own
            told[name] = told.get(name, 0) + amount
        self.num_bad += told["num_bad"]
        self.num_retries += told.get("retries", 0)
        log.debug("part %s of %s", told["part"], told["key"], extra=logs.event("part", **told))
        weight = self._weight(told)
        facts = {"bad_lines": self.num_bad, **({"retries": self.num_retries} if self.num_retries else {})}
        self.progress.add(told["num_kept"], weight, **facts)
        self._count({**told, "parts": 1}, self.progress.values()["share_done"])

    def _count(self, told: dict[str, Any], share_done: float | None = None) -> None:
        if self.metrics is not None:  # without Ray there is no exporter
            self.metrics.add(told, share_done)

    def _weight(self, told: dict[str, Any]) -> int:
        """Bytes of the plan that are done with this part: of a chain what was read of it, and with its last part the rest."""
        plan_id = told["part"].split("-")[0]
        left = self.left.get(plan_id, 0)
        weight = min(left, told.get("bytes_read", 0)) if plan_id in self.chains and not told["last"] else left
        self.left[plan_id] = left - weight
        return weight

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.close()
