"""What the driver of a calibration does with very many records: pick the earliest of each sensor from the tables of origins.

    python -m tests.bench.calibrating [--records 100000 1000000] [--sensors 3000] [--before] [--folder F]

makes the origins of that many records of that many sensors, an hour apart, as a first step leaves them (no waveform: the shard that they
name is a hole), and picks 200 a sensor in a process of its own for each size, all sizes in turn, `--rounds` times. Prints the CPU time a
record, and what the process's memory grew by. `--before` picks by tests/reference/earliest.py, a table of Arrow a sensor. A folder that is
given is kept: 10,000,000 records take 900 MB and some minutes to make.
"""

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from tests.bench.processes import status_mb
from tests.reference import earliest as before
from vibray import schema
from vibray.fitting.earliest import Groups, pick
from vibray.storage.corpus import CorpusFacts
from vibray.storage.parts import Parts, commit_part
from vibray.storage.plan import make_plan, start_plan
from vibray.storage.reading import COUNTED

K, PART, LINE_BYTES = 200, 2000, 26_000
HOUR_MS = 3_600_000
START_MS = 1_700_000_000_000
FACTS = CorpusFacts(8192.0)


def write_origins(folder: Path, num_records: int, num_sensors: int) -> None:
    """One plain shard of lines of 26 kB, all sensors in turn."""
    shard = folder / "raw" / "site" / "2024.jsonl"
    shard.parent.mkdir(parents=True)
    with shard.open("wb") as file:
        file.truncate(num_records * LINE_BYTES)
    uri = str(folder / "parts")
    plan = start_plan(uri, lambda: make_plan(str(folder / "raw"), "site", {}, bytes_per_part=PART * LINE_BYTES), {})
    for i, part in enumerate(plan.parts):
        rows = np.arange(i * num_records // len(plan.parts), (i + 1) * num_records // len(plan.parts))
        marker = {"key": part.key, "start": part.start, "number": 0, "last": True, "num_read": len(rows), **dict.fromkeys(COUNTED, 0)}
        commit_part(uri, part.id, {"": table_of(rows, num_sensors), "bad": schema.BAD_RECORDS.empty_table()}, marker)


def table_of(rows: np.ndarray, num_sensors: int) -> pa.Table:
    """Where these records come from."""
    sensor = rows % num_sensors
    columns = {
        "corpus": ["site"] * len(rows),
        "record_id": [f"site/2024.jsonl@{row * LINE_BYTES}" for row in rows.tolist()],
        "line": pa.nulls(len(rows), pa.int64()),
        "unit": [f"transformer-{i // 3:05d}" for i in sensor.tolist()],
        "sensor_id": [f"transformer-{i // 3:05d}-s{i % 3 + 1}" for i in sensor.tolist()],
        "measured_at": pa.array(START_MS + rows // num_sensors * HOUR_MS + sensor).cast(schema.TIME),
        "sample_rate_hz": np.full(len(rows), FACTS.sample_rate_hz),
        "content_hash": [hashlib.blake2b(row.to_bytes(8, "little"), digest_size=16).hexdigest() for row in rows.tolist()],
    }
    return pa.table(columns, schema=schema.ORIGIN)


def pick_now(uri: str) -> int:
    """As `jobs/calibrate.py` does, groups of sensors written out for the workers one after another; returns the records."""
    parts = Parts(uri)
    picked, _ = pick(parts, frozenset(), K)
    return sum(len(ids) for group in Groups(picked, parts.plan, FACTS) for _, ids in group.picked)


def pick_before(uri: str) -> int:
    """As it was done, as far as the groups."""
    parts = Parts(uri)
    return sum(table.num_rows for table in before.plausible(before.earliest(_tables(parts), frozenset(), K), K)[0].values())


def _tables(parts: Parts) -> Iterator[pa.Table]:
    """Whole origins, with the plan's entry."""
    for part_id, table in zip(parts.markers, parts.tables(), strict=True):
        yield table.append_column("part", pa.array([part_id] * table.num_rows, pa.string()))


def measure(uri: str, call: Callable[[str], int]) -> dict[str, float]:
    """In this process, which has done nothing else: CPU seconds, memory's growth in MB and the records that were picked."""
    start_mb, started = status_mb("VmHWM"), time.process_time()
    num_picked = call(uri)
    return {"cpu_s": time.process_time() - started, "mb": status_mb("VmHWM") - start_mb, "picked": num_picked}


def print_sizes(folder: Path, sizes: list[int], num_sensors: int, route: str, rounds: int) -> None:
    """A line a size: medians, smallest and largest of the rounds, which are of all sizes in turn."""
    found: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
    for size in sizes:
        if not (folder / f"{size}-{num_sensors}").exists():
            write_origins(folder / f"{size}-{num_sensors}", size, num_sensors)
    for _ in range(rounds):
        for size in sizes:
            command = [sys.executable, "-m", "tests.bench.calibrating", "--measure", str(folder / f"{size}-{num_sensors}" / "parts"), route]
            found[size].append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    for size, those in found.items():
        us, grown = sorted(1e6 * one["cpu_s"] / size for one in those), [1e6 * one["mb"] / size for one in those]
        print(
            f"{size:>12,} records, {those[0]['picked']:>9,} picked: {statistics.median(us):8.2f} us [{us[0]:.2f} .. {us[-1]:.2f}] and "
            f"{statistics.median(grown):6.0f} bytes a record ({statistics.median(one['mb'] for one in those):.0f} MB)",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--sensors", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--before", action="store_true")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        uri, route = arguments.measure
        print(json.dumps(measure(uri, pick_before if route == "before" else pick_now)))
        return
    with tempfile.TemporaryDirectory(prefix="vibray-calibrating-") as made:
        route = "before" if arguments.before else "now"
        print_sizes(arguments.folder or Path(made), arguments.records, arguments.sensors, route, arguments.rounds)


if __name__ == "__main__":
    main()
