"""Sensors that training did not see: their robust statistics, from their earliest records, so that scoring stays one pass."""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from vibray import schema
from vibray.decide.state import history_of, state_statistics
from vibray.features.scaling import Sensor
from vibray.pipeline import session
from vibray.pipeline.parts_job import sensors_of, waveforms_of
from vibray.pipeline.reading import WORK_CPUS, pack, read_parts, unpack
from vibray.pipeline.scoring import run_identity
from vibray.pipeline.telemetry import Watch
from vibray.runs import CHUNK, Inputs, Run, load, mains_snr_db
from vibray.storage import objects
from vibray.storage.parts import finish_folder
from vibray.storage.plan import Plan, make_plan

RECORDS_PER_SENSOR = 200
"""P(realised rate within [.6, 1.5] of 1 %) is .97 with so many; with 20 or 50 no conformal cut exists."""


def calibrate(
    run_uri: str,
    input_uri: str,
    calibration_uri: str,
    sample_rate_hz: float,
    records_per_sensor: int = RECORDS_PER_SENSOR,
    corpus: str | None = None,
    dry_run: bool = False,
) -> None:
    """Runs the stage; see jobs/calibrate.py."""
    run_uri, input_uri, calibration_uri = (objects.absolute(uri) for uri in (run_uri, input_uri, calibration_uri))
    run = load(run_uri)
    run.check(sample_rate_hz, run.facts.num_samples)
    corpus = corpus or objects.last_segment(input_uri)
    identity = {"input": input_uri, "corpus": corpus, "run": run_identity(run_uri, run), "records_per_sensor": records_per_sensor}
    plan = make_plan(input_uri, corpus, identity)
    if dry_run:
        shards = len(plan.sizes)
        print(
            f"calibrate the sensors of {input_uri} that {run_uri} does not know: {shards} shards, {plan.num_bytes / 2**20:,.1f} MiB to read"
        )
        megabytes = 4e-6 * records_per_sensor * run.facts.num_samples
        print(f"  the earliest {records_per_sensor} records of each are kept in memory: {megabytes:.1f} MB a sensor")
        print("dry run: nothing was written")
        return
    if _finished(calibration_uri, identity):
        print(f"{calibration_uri} is finished already: nothing to do")
        return
    session.check_nodes([objects.join(run_uri, "_done.json")])
    table, too_few = calibration_table(run, earliest(run, plan, records_per_sensor))
    for (unit, sensor_id), count in sorted(too_few.items()):
        print(f"warning: sensor {sensor_id} of unit {unit} has {count} records, too few for a baseline: it stays uncalibrated")
    if not table.num_rows:
        raise ValueError(f"{input_uri} holds no sensor to calibrate: every one is known to the run, or has too few records")
    objects.write_table(objects.join(calibration_uri, "calibration.parquet"), table)
    finish_folder(calibration_uri, ["calibration.parquet"], identity)
    print(f"calibrated {len(set(sensors_of(table)))} sensors")


def _finished(calibration_uri: str, identity: dict) -> bool:
    try:
        there = objects.read_json(objects.join(calibration_uri, "_done.json"))
    except FileNotFoundError:
        return False
    differing = [name for name, value in json.loads(json.dumps(identity)).items() if there.get(name) != value]
    if differing:
        raise ValueError(
            f"{calibration_uri} is another calibration ({', '.join(differing)} differ): use another folder, or remove this one"
        )
    return True


def earliest(run: Run, plan: Plan, records_per_sensor: int) -> dict[Sensor, pa.Table]:
    """The earliest records of each sensor that the run does not know, by (measured_at, record_id): one streamed pass over the input."""
    todo = [(part, frozenset()) for part in plan.parts]
    kept: dict[Sensor, pa.Table] = {}
    with Watch("calibrate", plan, todo) as watch:
        dataset = read_parts(plan, run.facts, todo)
        dataset = dataset.map_batches(
            _first_of_unknown,  # type: ignore[arg-type] (Ray's type knows no generators of tables)
            fn_kwargs={"run": ray.put(run), "k": records_per_sensor},
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=WORK_CPUS,
        )
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            for read in unpack(batch):
                num_bad = read.bad.num_rows
                watch.part(
                    {"part": read.part_id, "key": read.key, "last": read.last, "num_kept": read.num_read - num_bad, "num_bad": num_bad}
                )
                for sensor, table in by_sensor(read.records):
                    kept[sensor] = first_records([kept[sensor], table] if sensor in kept else [table], records_per_sensor)
    return kept


def _first_of_unknown(batch: pa.Table, run: Any, k: int) -> Iterator[pa.Table]:
    """Leaves of each part only the earliest records of sensors the run does not know, so that little travels to the driver."""
    held: Any = ray.get(run)
    for read in unpack(batch):
        unknown = read.records.filter(pa.array(~held.known(sensors_of(read.records)))) if read.records.num_rows else read.records
        tables = [first_records([table], k) for _, table in by_sensor(unknown)]
        yield pack(dataclasses.replace(read, records=pa.concat_tables([unknown.slice(0, 0), *tables]).combine_chunks()))


def by_sensor(records: pa.Table) -> Iterator[tuple[Sensor, pa.Table]]:
    """The rows of each sensor."""
    rows: dict[Sensor, list[int]] = {}
    for i, sensor in enumerate(sensors_of(records)):
        rows.setdefault(sensor, []).append(i)
    for sensor, index in rows.items():
        yield sensor, records.take(pa.array(index))


def first_records(tables: list[pa.Table], k: int) -> pa.Table:
    """The k earliest by (measured_at, record_id), records that stand twice counting once."""
    table = pa.concat_tables(tables)
    order = sorted(
        zip(
            table["measured_at"].to_pylist(),
            table["record_id"].to_pylist(),
            table["content_hash"].to_pylist(),
            range(table.num_rows),
            strict=True,
        )
    )
    seen, rows = set(), []
    for at, _, content, row in order:
        if (at, content) not in seen:
            seen.add((at, content))
            rows.append(row)
    return table.take(pa.array(rows[:k], pa.int64())).combine_chunks()


def calibration_table(run: Run, records: dict[Sensor, pa.Table]) -> tuple[pa.Table, dict[Sensor, int]]:
    """One row a sensor and baseline: its robust statistics, its history, and the scores of its own records against them. And the sensors
    with too few records, with their number. A member that knows a sensor already keeps the baseline of its training: it has no row."""
    rows, too_few = [], {}
    for sensor, table in sorted(records.items()):
        w = waveforms_of(table)
        try:
            statistics = {
                name: scaling.statistics_of(_feature(run, config, w))
                for name, (config, scaling) in run.model.scalings().items()
                if not scaling.known([sensor]).all()
            }
        except ValueError:
            too_few[sensor] = table.num_rows
            continue
        history = history_of(state_statistics(w, run.facts.sample_rate_hz)["rms"], mains_snr_db(w, run.facts))
        times = table["measured_at"].to_pylist()
        for name, (location, scale) in statistics.items():
            rows.append(
                {
                    "member": name,
                    "unit": sensor[0],
                    "sensor_id": sensor[1],
                    "num_records": table.num_rows,
                    "first_at": min(times),
                    "last_at": max(times),
                    "location": location.flatten().tolist(),
                    "scale": scale.flatten().tolist(),
                    "median_rms": history.median_rms,
                    "mains_share": history.mains_share,
                    "scores": [],
                }
            )
    found = pa.Table.from_pylist(rows, schema=schema.CALIBRATION)
    if not rows:
        return found, too_few
    calibrated = run.calibrated(found)
    scores = {
        sensor: calibrated.score(torch.from_numpy(waveforms_of(table)), run.facts.sample_rate_hz, [sensor] * table.num_rows).tolist()
        for sensor, table in records.items()
        if sensor not in too_few
    }
    column = pa.array([scores[row["unit"], row["sensor_id"]] for row in rows], pa.list_(pa.float32()))
    return found.set_column(found.schema.get_field_index("scores"), found.schema.field("scores"), column), too_few


def _feature(run: Run, config, waveforms: np.ndarray) -> torch.Tensor:
    return torch.cat([Inputs(chunk, run.facts)[config] for chunk in torch.from_numpy(waveforms).split(CHUNK)])
