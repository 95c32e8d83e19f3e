"""Memory and CPU time a record of label (with --review 50, --budget 5/week, and alone), evaluate and report on made-up scores.

    python -m tests.bench.decisions                       100,000 and 1,000,000 records
    python -m tests.bench.decisions 100000 10000000       needs 1.5 GB of disk in the temporary folder, and a quarter of an hour

Sensors have 2,500 records each, hourly, four sensors a unit, in parts of 2,000 as scoring writes them; 5 % of the records score high,
some are off, switching or of a faulty sensor, 200 are labelled. Each stage is a fresh process, its memory the peak above what the imports
take. The folder is removed afterwards.
"""

import argparse
import contextlib
import importlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tests.bench.processes import status_mb
from vibray import schema
from vibray.config import to_json
from vibray.pipeline.jobs import EvaluateJob, LabelJob, ReportJob
from vibray.storage.corpus import CorpusFacts
from vibray.storage.parts import commit_part, make_plan, start_plan

OPTIONS: dict[str, dict[str, Any]] = {"label": {}, "--review": {"review": 50}, "--budget": {"budget": "5/week"}}
STAGES = ("--review", "--budget", "label", "evaluate", "report")
"""Of the job label with each option, and alone; the decisions of the last are evaluated and reported."""

RECORDS_PER_SENSOR, SENSORS_PER_UNIT, RECORDS_PER_PART, NUM_SHARDS, NUM_LABELS = 2500, 4, 2000, 20, 200
NUM_SAMPLES, EVIDENCE_PER_PART, LINE_BYTES = 64, 24, 70_000
START_MS, HOUR_MS = 1_709_251_200_000, 3_600_000
RUN = {"uri": "/nowhere/run", "recipe": "r", "kind": "detector", "content": "c", "members": [], "faults": None}


def write_scores(folder: Path, num_records: int, num_shards: int = NUM_SHARDS) -> tuple[str, str]:
    """A finished scores folder of so many records, and a labels file; their paths."""
    raw, rng = folder / "raw", np.random.default_rng(0)
    raw.mkdir(parents=True)
    for i in range(num_shards):
        (raw / f"{2024 + i // 12}-{i % 12 + 1:02d}.jsonl.gz").write_bytes(b"\0")  # an empty object is no shard
    identity = {"input": str(raw), "corpus": "made-up", "facts": to_json(CorpusFacts(8192.0, NUM_SAMPLES)), "run": RUN, "calibration": None}
    scores, labels = str(folder / "scores"), folder / "labels.jsonl"
    plan = start_plan(scores, lambda: make_plan(str(raw), "made-up", identity), identity)
    num_sensors = max(SENSORS_PER_UNIT, num_records // RECORDS_PER_SENSOR)
    spread = rng.normal(0, 0.3, num_sensors)
    of_shard = np.array_split(np.arange(num_records), len(plan.parts))
    with labels.open("w") as file:
        for part, rows in zip(plan.parts, of_shard, strict=True):
            pieces = np.split(rows, range(RECORDS_PER_PART, len(rows), RECORDS_PER_PART))
            for number, own in enumerate(pieces):
                table = _part(part.key, own, int(rows[0]), spread, rng)
                order = np.argsort(-table["score"].to_numpy())[:EVIDENCE_PER_PART]
                waves = pa.array(list(rng.normal(size=(len(order), NUM_SAMPLES)).astype(np.float32)), schema.vector(NUM_SAMPLES))
                top = table.take(pa.array(order)).append_column(schema.evidence(NUM_SAMPLES).field("waveform"), waves)
                marker = {"key": part.key, "num_read": len(own), "number": number, "last": number == len(pieces) - 1}
                commit_part(scores, part.part_id(number), {"": table, "evidence": top}, marker)
            for row in rng.choice(table.num_rows, NUM_LABELS // num_shards, replace=False).tolist():
                label = "tone" if table["score"][row].as_py() > 8 else "normal"
                file.write(json.dumps({"corpus": "made-up", "record_id": table["record_id"][row].as_py(), "label": label}) + "\n")
    return scores, str(labels)


def _part(key: str, rows: np.ndarray, first: int, spread: np.ndarray, rng: np.random.Generator) -> pa.Table:
    """Rows of the scores table: every sensor in turn, hour by hour."""
    num, sensor, hour = len(rows), rows % len(spread), rows // len(spread)
    z = rng.normal(size=num) + spread[sensor] + 3 * (rng.random(num) < 0.05)
    state = rng.choice(["energised", "off", "transient", "sensor_fault"], num, p=(0.97, 0.02, 0.005, 0.005))
    content = rng.bytes(16 * num).hex()
    columns = {
        "corpus": np.full(num, "made-up"),
        "record_id": [f"{key}@{offset}" for offset in ((rows - first) * LINE_BYTES).tolist()],
        "line": pa.nulls(num, pa.int64()),
        "unit": [f"T{s // SENSORS_PER_UNIT:04d}" for s in sensor.tolist()],
        "sensor_id": [f"T{s // SENSORS_PER_UNIT:04d}-s{s % SENSORS_PER_UNIT}" for s in sensor.tolist()],
        "measured_at": pa.array(START_MS + hour * HOUR_MS + sensor % SENSORS_PER_UNIT, pa.int64()).cast(schema.TIME),
        "sample_rate_hz": np.full(num, 8192.0),
        "content_hash": [content[32 * i : 32 * i + 32] for i in range(num)],
        "state": state,
        "state_cause": pa.array(np.where(state == "sensor_fault", "hangs", ""), mask=state != "sensor_fault"),
        "calibrated": sensor % 100 != 99,
        "score": np.exp(z).astype(np.float32),
        "fleet_p_value": pa.nulls(num, pa.float32()),
    }
    return pa.table(columns, schema=schema.scores())


def run_stage(stage: str, folder: Path) -> dict[str, float]:
    """One stage in this process: MB of memory above the imports', seconds of CPU and of the clock."""
    import vibray.pipeline.evaluate
    import vibray.pipeline.label
    import vibray.pipeline.report

    for room in ("ndimage", "optimize", "stats"):  # imported on first use
        importlib.import_module(f"scipy.{room}")
    scores, labels, decisions = ((str(folder / "scores"),), str(folder / "labels.jsonl"), str(folder / "decisions"))
    before_mb, cpu, wall = status_mb("VmRSS"), time.process_time(), time.perf_counter()
    with contextlib.redirect_stdout((folder / f"{stage}.txt").open("w")):
        if stage in OPTIONS:
            vibray.pipeline.label.label(LabelJob(scores, decisions, labels=labels, **OPTIONS[stage]))
        elif stage == "evaluate":
            vibray.pipeline.evaluate.evaluate(EvaluateJob(scores, labels, decisions=decisions))
        else:
            job = ReportJob(scores, str(folder / "report.html"), decisions=decisions, labels=labels, explain=False)
            vibray.pipeline.report.report(job)
    return {"mb": status_mb("VmHWM") - before_mb, "cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}


def measure(num_records: int, rounds: int) -> None:
    """Prints a line a stage."""
    with tempfile.TemporaryDirectory(prefix="vibray-bench-") as name:
        folder = Path(name)
        write_scores(folder, num_records)
        for stage in STAGES:
            found: list[dict[str, Any]] = []
            for number in range(rounds):
                if stage in OPTIONS:
                    subprocess.run(["rm", "-rf", str(folder / "decisions")], check=True)
                command = [sys.executable, "-m", "tests.bench.decisions", f"--stage={stage}", "--folder", name]
                found.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
                if number < rounds - 1 and stage == "evaluate":
                    (folder / "scores" / "evaluation.json").unlink()
            cpu_us = sorted(1e6 * f["cpu_s"] / num_records for f in found)
            mb = max(f["mb"] for f in found)
            print(
                f"{num_records:>12,}  {stage:<9} {mb:>8,.0f} MB {1e6 * mb * 1.048576 / num_records:>8,.0f} bytes a record  "
                f"{cpu_us[len(cpu_us) // 2]:>7.2f} us CPU a record [{cpu_us[0]:.2f} .. {cpu_us[-1]:.2f}]  "
                f"{max(f['wall_s'] for f in found):>6.0f} s",
                flush=True,
            )
        sizes = {path: (folder / path).stat().st_size for path in ("report.html", "report.alarms.csv")}
        files = {path.name: path.stat().st_size for path in (folder / "decisions").iterdir()}
        print("              " + ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in {**sizes, **files}.items()), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("num_records", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--stage", choices=STAGES)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.stage:
        print(json.dumps(run_stage(arguments.stage, arguments.folder)))
    else:
        for num in arguments.num_records:
            measure(num, arguments.rounds)
