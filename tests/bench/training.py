"""CPU time a record of training the default, from 10,000 to 1,000,000 made vectors on Ray's workers: it must not grow with the corpus.

    python -m tests.bench.training [--records 10000 100000 1000000] [--sensor-records 100] [--rounds 1]

Every record of a part is of another sensor where there are enough of them, as in shards by day, the hardest case. It counts
the CPU time of this process and all of its Ray's; `marginal` is that of a record more than in the line above.
"""

import argparse
import contextlib
import io
import os
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from tests.bench.processes import cpu_s, status_mb, watching
from vibray import schema
from vibray.fitting.jobs import TrainJob
from vibray.pipeline import session
from vibray.pipeline.featurize import write_feature_json
from vibray.pipeline.train import train
from vibray.recipes import fused
from vibray.recipes.building import build_vector
from vibray.storage.corpus import CorpusFacts
from vibray.storage.parts import Parts, commit_part
from vibray.storage.plan import LINES_PER_PART, make_plan, start_plan
from vibray.storage.vectors import vector_column

FACTS = CorpusFacts(8192.0)
INTERVAL_MS = 3_600_000
SHARD_BYTES = 32 << 20


def write_features(folder: Path, num_records: int, sensor_records: int) -> str:
    """A features table of made vectors, time by time all sensors, without waveforms; its URI."""
    shards, uri = folder / "shards", str(folder / "features")
    shards.mkdir(parents=True)
    num_parts = -(-num_records // LINES_PER_PART)
    for number in range(num_parts):  # a plan wants shards: large enough not to be joined
        with (shards / f"{number:06d}.jsonl").open("wb") as file:
            file.truncate(SHARD_BYTES)
    identity = {"input": str(shards)}
    plan = start_plan(uri, lambda: make_plan(str(shards), "made", identity, bytes_per_part=SHARD_BYTES), identity)
    assert len(plan.parts) == num_parts
    num_sensors, rng = max(1, num_records // sensor_records), np.random.default_rng(0)
    feature = build_vector(fused().feature, FACTS.mains_hz)
    level = rng.normal(0, 1, (num_sensors, feature.shape[0])).astype(np.float32)
    for number, part in enumerate(plan.parts):
        at = np.arange(number * LINES_PER_PART, min(num_records, (number + 1) * LINES_PER_PART))
        sensor, step = at % num_sensors, at // num_sensors
        names = [f"s{i:06d}" for i in sensor.tolist()]
        x = np.exp(level[sensor] + rng.normal(0, 0.3, (len(at), feature.shape[0])))
        columns = {
            "corpus": ["made"] * len(at),
            "record_id": [f"{part.key}@{i * 70_000}" for i in range(len(at))],
            "unit": [f"u{i // 3:06d}" for i in sensor.tolist()],
            "sensor_id": names,
            "measured_at": pa.array(1_700_000_000_000 + INTERVAL_MS * step, pa.int64()).cast(schema.TIME),
            "content_hash": [f"{i:032x}" for i in at.tolist()],
            "rms": pa.array(x[:, 0].astype(np.float32)),
            "mains_snr_db": pa.array(np.full(len(at), 40, np.float32)),
            "spectral": vector_column(x),
        }
        marker = {"key": part.key, "start": part.start, "number": 0, "last": True, "num_read": len(at)}
        table = pa.table(columns | {"line": pa.nulls(len(at), pa.int64()), "sample_rate_hz": pa.array(np.full(len(at), 8192.0))})
        commit_part(uri, part.part_id(0), {"": table}, marker)
    parts = Parts(uri)
    write_feature_json(uri, parts, FACTS, {"spectral": fused().feature}, [])
    return uri


def note_anonymous(seen: list[float]) -> None:
    """The memory of this process, MB, without what it shares with Ray's store."""
    seen.append(status_mb("RssAnon"))


def measure(counts: list[int], sensor_records: int, rounds: int) -> None:
    """Prints the table."""
    with tempfile.TemporaryDirectory(prefix="vibray-bench-") as folder, session.started(num_cpus=2):
        uris = {num: write_features(Path(folder, str(num)), num, sensor_records) for num in [2 * LINES_PER_PART, *counts]}
        print(f"{'records':>10}{'CPU s':>10}{'driver s':>10}{'ms a record':>13}{'marginal':>10}{'peak MB':>9}")
        for number in range(rounds + 1):
            last = (0, 0.0)
            for num, uri in uris.items() if number else [next(iter(uris.items()))]:  # once for the workers' imports
                before, driver, private = cpu_s(os.getpid()), time.process_time(), [0.0]
                look = partial(note_anonymous, private)
                with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), watching(look, 0.1):
                    train(TrainJob((uri,), str(Path(folder, f"run-{num}-{number}")), fused()))
                taken, own = cpu_s(os.getpid()) - before, time.process_time() - driver
                marginal, last = (taken - last[1]) / (num - last[0]), (num, taken)
                if not number:
                    continue
                print(f"{num:10,}{taken:10.1f}{own:10.1f}{1e3 * taken / num:13.3f}{1e3 * marginal:10.3f}{max(private):9.0f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--sensor-records", type=int, default=100, help="records of each sensor")
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    measure(arguments.records, arguments.sensor_records, arguments.rounds)
