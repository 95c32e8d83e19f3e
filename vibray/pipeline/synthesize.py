"""The synthetic fleet as shards in storage, written in parallel: any number of records, and the labels in a file of their own.

Shards are pure functions of the plan, so that a run that was killed goes on where it stopped: each has a marker, `_done/<shard>.json`,
written after it; `_done.json` comes last of all.
"""

import gzip
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import zstandard

from vibray.config import UserError, from_json, to_json
from vibray.pipeline.jobs import Compression, SynthesizeJob
from vibray.pipeline.local import works_alone
from vibray.pipeline.logs import Progress
from vibray.schema import NORMAL
from vibray.signal.synthetic import FleetConfig, fleet_lines, label_row, num_lines, truncated_shard
from vibray.storage import objects
from vibray.storage.errors import storage_errors

LABELS_CHUNK = 1 << 20


@dataclass(frozen=True)
class SynthesisPlan:
    """What decides the bytes of every shard."""

    fleet: FleetConfig
    shard_records: int
    compression: Compression
    truncated: bool

    def shards(self) -> list[str]:
        """Names of the shards; a truncated one comes last."""
        suffix = "" if self.compression == "none" else f".{self.compression}"
        whole = -(-self.fleet.num_records // self.shard_records)
        return [f"part-{i:05d}.jsonl{suffix}" for i in range(whole)] + [f"part-{whole:05d}.jsonl.gz"] * self.truncated


def synthesize(job: SynthesizeJob) -> None:
    """Runs the stage; see jobs/synthesize.py. Raises UserError for labels below the shards and for a folder that holds anything else."""
    if job.shard_records < 1:
        raise UserError(f"--shard-records {job.shard_records}: a shard holds at least one record")
    output_uri, labels_uri, fleet = objects.absolute(job.output), objects.absolute(job.labels), job.fleet
    if f"{labels_uri}/".startswith(f"{output_uri}/"):
        raise UserError(f"--labels {labels_uri} lies under --output: labels are no shards; choose another folder")
    plan = SynthesisPlan(fleet, job.shard_records, job.compression, job.truncated_shard)
    if job.dry_run:
        preview(plan, output_uri, labels_uri)
        return
    _claim(plan, output_uri, labels_uri)
    done = _finished_shards(output_uri)
    if set(done) >= set(plan.shards()) and _is_finished(output_uri, labels_uri):
        print(f"{output_uri} is finished: {_text(plan, sum(done.values()))}")
        return
    todo = [shard for shard in plan.shards() if shard not in done]
    with Progress("synthesize", len(todo), "shards") as progress:
        for shard, size in _written(plan, output_uri, todo, job.local):
            done[shard] = size
            progress.add(1)
    num_faults, size = write_labels(fleet, labels_uri)
    objects.write_json(objects.join(output_uri, "_done.json"), {"num_lines": num_lines(fleet), "labels_size": size})
    print(f"{output_uri}: {_text(plan, sum(done.values()))}")
    print(f"{labels_uri}: {fleet.num_records} labels, {num_faults} of them faults")


def _text(plan: SynthesisPlan, size: int) -> str:
    broken = num_lines(plan.fleet) - plan.fleet.num_records + plan.truncated
    return f"{plan.fleet.num_records} records and {broken} broken lines in {len(plan.shards())} shards, {size / 1e6:.1f} MB"


def preview(plan: SynthesisPlan, output_uri: str, labels_uri: str) -> None:
    """Prints what would be written, and what it would cost by the first records."""
    start = time.perf_counter()
    sample = list(fleet_lines(plan.fleet, 0, min(8, plan.fleet.num_records - 1) or 1))
    seconds = (time.perf_counter() - start) / len(sample)
    size = sum(len(line) for line, _ in sample) / len(sample) * num_lines(plan.fleet)
    print(f"would write to {output_uri}: {_text(plan, int(size))} before compression")
    print(f"  {plan.shards()[0]} to {plan.shards()[-1]}, about {seconds * num_lines(plan.fleet):.0f} s of one core and the compression")
    print(f"would write to {labels_uri}: {plan.fleet.num_records} rows, such as {json.dumps(sample[0][1])}")


def _claim(plan: SynthesisPlan, output_uri: str, labels_uri: str) -> None:
    """Writes _plan.json, or compares it with the one that is there."""
    identity = {"labels": labels_uri, "plan": to_json(plan)}
    plan_uri = objects.join(output_uri, "_plan.json")  # the folder is an input: without the underscore it would be read as a shard
    if objects.exists(plan_uri):
        if (found := objects.read_json(plan_uri)) != identity:
            raise UserError(
                f"{output_uri} holds another fleet, {json.dumps(found)}, and not {json.dumps(identity)}: "
                "choose another --output, or remove what is there"
            )
        return
    try:
        others = objects.list_objects(output_uri, hidden=True)
    except FileNotFoundError:
        others = []
    if others:
        raise UserError(f"{output_uri} is not empty ({others[0].key}) and holds no _plan.json: choose another --output")
    _check_labels(plan.fleet, labels_uri)
    objects.write_json(plan_uri, identity, exclusive=True)


def _check_labels(fleet: FleetConfig, labels_uri: str) -> None:
    """Raises UserError where a file stands that is not how this fleet's labels begin: a job that was killed leaves some of them."""
    if not objects.exists(labels_uri):
        return
    with objects.open_read(labels_uri) as there:
        for line in _label_lines(fleet):
            found = there.read(len(line))
            if not line.startswith(found):
                break
            if len(found) < len(line):
                return
        else:
            if not there.read(1):
                return
    raise UserError(f"--labels {labels_uri} holds something else than this fleet's labels: choose another file, or remove this one")


def _label_lines(fleet: FleetConfig) -> Iterator[bytes]:
    for index in range(fleet.num_records):
        yield json.dumps(label_row(fleet, index)).encode() + b"\n"


def _finished_shards(output_uri: str) -> dict[str, int]:
    """Sizes of the shards that are there as their marker says."""
    sizes = {info.key: info.size for info in objects.list_objects(output_uri, hidden=True)}
    markers = [key for key in sizes if key.startswith("_done/")]
    done = {}
    for key in markers:
        marker = objects.read_json(objects.join(output_uri, key))
        if sizes.get(marker["shard"]) == marker["size"]:
            done[marker["shard"]] = marker["size"]
    return done


def _is_finished(output_uri: str, labels_uri: str) -> bool:
    done_uri = objects.join(output_uri, "_done.json")
    labels = objects.stat(labels_uri)
    return labels is not None and objects.exists(done_uri) and objects.read_json(done_uri)["labels_size"] == labels.size


def _written(plan: SynthesisPlan, output_uri: str, todo: list[str], local: bool) -> Iterator[tuple[str, int]]:
    """Name and size of each shard as it is done."""
    if works_alone(local, len(todo)):
        yield from (write_shard(to_json(plan), output_uri, shard) for shard in todo)
        return
    from vibray.pipeline import session

    with session.started():
        yield from session.unordered(write_shard, [(to_json(plan), output_uri, shard) for shard in todo])


def write_shard(plan_values: dict[str, Any], output_uri: str, shard: str) -> tuple[str, int]:
    """One shard and its marker; returns its name and size."""
    data = shard_bytes(from_json(SynthesisPlan, plan_values), shard)
    objects.write_bytes(objects.join(output_uri, shard), data)
    marker = {"shard": shard, "size": len(data), "sha256": objects.sha256(data)}
    objects.write_json(objects.join(output_uri, "_done", f"{shard}.json"), marker)
    return shard, len(data)


def shard_bytes(plan: SynthesisPlan, shard: str) -> bytes:
    """The bytes of a shard, the same whoever makes it."""
    number = plan.shards().index(shard)
    if plan.truncated and number == len(plan.shards()) - 1:
        return truncated_shard(plan.fleet)
    start = number * plan.shard_records
    data = b"".join(line for line, _ in fleet_lines(plan.fleet, start, start + plan.shard_records))
    match plan.compression:
        case "gz":
            return gzip.compress(data, compresslevel=6, mtime=0)
        case "zst":
            return zstandard.compress(data)
    return data


def write_labels(fleet: FleetConfig, labels_uri: str) -> tuple[int, int]:
    """Streams the labels file; returns the number of faults and its size in bytes. Raises UserError where another file stands."""
    _check_labels(fleet, labels_uri)
    filesystem, path = objects.to_pyarrow_filesystem(labels_uri)
    num_faults, size, chunk = 0, 0, bytearray()
    with storage_errors(labels_uri):
        if not objects.is_s3(labels_uri):
            filesystem.create_dir(path.rpartition("/")[0])
        with filesystem.open_output_stream(path) as file:
            for index in range(fleet.num_records):
                row = label_row(fleet, index)
                num_faults += row["label"] != NORMAL
                chunk += json.dumps(row).encode() + b"\n"
                if len(chunk) > LABELS_CHUNK or index == fleet.num_records - 1:
                    file.write(bytes(chunk))
                    size += len(chunk)
                    chunk.clear()
    return num_faults, size
