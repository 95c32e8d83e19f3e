"""Private memory of featurize's workers on one plain shard of 2 GB, and on one gzip of 2 GB: it must not grow with the shard.

    python -m tests.bench.memory            vectors
    python -m tests.bench.memory --images   and stored images

needs 4 GB of disk in the temporary folder (7 GB with images) and three minutes (ten with images); all is removed afterwards.
"""

import argparse
import contextlib
import gzip
import io
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from tests.bench.line import RATE_HZ
from tests.bench.processes import private_mb, watching, worker_seconds
from tests.pipeline.lines import corpus_fields
from vibray.pipeline import session
from vibray.pipeline.featurize import featurize
from vibray.pipeline.jobs import FeaturizeJob
from vibray.signal.synthetic import FleetConfig, fleet_lines
from vibray.storage.corpus import CorpusFacts
from vibray.storage.parts import Parts

NUM_BYTES = 2 << 30
NUM_DISTINCT = 300


def write_shard(path: Path) -> None:
    """2 GB of lines, uncompressed size: a few hundred of them over and over; one gzip member where the name ends in .gz."""
    lines = b"".join(line for line, _ in fleet_lines(FleetConfig(num_records=NUM_DISTINCT), 0, NUM_DISTINCT))
    path.parent.mkdir()
    with gzip.open(path, "wb", 1) if path.suffix == ".gz" else path.open("wb") as file:
        for _ in range(-(-NUM_BYTES // len(lines))):
            file.write(lines)


def measure(shard: str) -> None:
    """Prints the highest private memory of each worker that worked, in each third of the run."""
    with tempfile.TemporaryDirectory(prefix="vibray-bench-") as folder, contextlib.redirect_stderr(io.StringIO()):
        write_shard(Path(folder, "raw", shard))
        seen: dict[int, list[tuple[float, float]]] = defaultdict(list)

        def look() -> None:
            for pid in worker_seconds():
                with contextlib.suppress(OSError):
                    seen[pid].append((time.monotonic(), private_mb(pid)))

        started = time.monotonic()
        with contextlib.redirect_stdout(io.StringIO()), watching(look):
            features = str(Path(folder, "features"))
            featurize(
                FeaturizeJob(str(Path(folder, "raw")), features, vectors=("zerone",), **corpus_fields(CorpusFacts(RATE_HZ, mains="none")))
            )
        taken = time.monotonic() - started
        parts = Parts(features)
        print(f"{shard}: {parts.total('num_kept'):,} records in {len(parts.markers)} parts, {taken:.0f} s")
        for pid, own in seen.items():
            thirds = [max((mb for at, mb in own if i <= 3 * (at - started) / taken < i + 1), default=0.0) for i in range(3)]
            if max(thirds) > 300:  # it has done more than import
                print(f"  worker {pid}: at most {', '.join(f'{mb:.0f}' for mb in thirds)} MB in the thirds of the run")


def print_memory() -> None:
    """Both shards, two workers."""
    with session.started(num_cpus=2):
        for shard in ("a.jsonl", "a.jsonl.gz"):
            measure(shard)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    print_memory()
