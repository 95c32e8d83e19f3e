"""Sensors that training did not see: their robust statistics, from their earliest records, so that scoring stays one pass."""

import dataclasses
import json
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import torch

from vibray import schema
from vibray.config import UserError
from vibray.decide.state import history_of, state_statistics
from vibray.features.scaling import Sensor
from vibray.pipeline.jobs import CalibrateJob
from vibray.pipeline.local import num_parts, read_here, works_alone
from vibray.pipeline.score import run_identity
from vibray.pipeline.telemetry import Watch
from vibray.runs import CHUNK, Inputs, Run, load, mains_snr_db
from vibray.storage import objects
from vibray.storage.corpus import CorpusFacts
from vibray.storage.parts import finish_folder
from vibray.storage.plan import Plan, make_plan
from vibray.storage.reading import ReadPart
from vibray.tables import sensors_of, waveforms_of


def calibrate(job: CalibrateJob) -> None:
    """Runs the stage; see jobs/calibrate.py."""
    run_uri, input_uri, calibration_uri = (objects.absolute(uri) for uri in (job.run, job.input, job.calibration))
    run, k = load(run_uri), job.records_per_sensor
    run.check(job.sample_rate_hz, run.facts.num_samples)
    corpus = job.corpus or objects.last_segment(input_uri)
    identity = {"input": input_uri, "corpus": corpus, "run": run_identity(run_uri, run), "records_per_sensor": k}
    plan = make_plan(input_uri, corpus, identity)
    if job.dry_run:
        shards = len(plan.sizes)
        print(
            f"calibrate the sensors of {input_uri} that {run_uri} does not know: {shards} shards, {plan.num_bytes / 2**20:,.1f} MiB to read"
        )
        print(f"  the earliest {k} records of each are kept in memory: {4e-6 * k * run.facts.num_samples:.1f} MB a sensor")
        print("dry run: nothing was written")
        return
    if _finished(calibration_uri, identity):
        print(f"{calibration_uri} is finished already: nothing to do")
        return
    known = known_sensors(run)
    todo = [(part, frozenset[int]()) for part in plan.parts]
    if works_alone(job.local, num_parts(todo)):
        records = earliest(plan, (first_of_unknown(read, known, k) for read in read_here(plan, run.facts, todo)), k)
    else:
        from vibray.pipeline import session

        with session.started():
            session.check_nodes([objects.join(run_uri, "_done.json")])
            records = earliest(plan, _on_ray(plan, run.facts, known, k), k)
    table, too_few = calibration_table(run, records)
    for (unit, sensor_id), count in sorted(too_few.items()):
        print(f"warning: sensor {sensor_id} of unit {unit} has {count} records, too few for a baseline: it stays uncalibrated")
    if not table.num_rows:
        raise UserError(f"{input_uri} holds no sensor to calibrate: every one is known to the run, or has too few records")
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
        raise UserError(f"{calibration_uri} is another calibration ({', '.join(differing)} differ): use another folder, or remove this one")
    return True


def earliest(plan: Plan, parts: Iterator[ReadPart], k: int) -> dict[Sensor, pa.Table]:
    """The k earliest records of each sensor by (measured_at, record_id), of parts as they come."""
    kept: dict[Sensor, pa.Table] = {}
    with Watch("calibrate", plan, [(part, frozenset()) for part in plan.parts]) as watch:
        for read in parts:
            num_bad = read.bad.num_rows
            watch.part({"part": read.part_id, "key": read.key, "last": read.last, "num_kept": read.num_read - num_bad, "num_bad": num_bad})
            for sensor, table in by_sensor(read.records):
                kept[sensor] = first_records([kept[sensor], table] if sensor in kept else [table], k)
    return kept


def known_sensors(run: Run) -> frozenset[Sensor]:
    """Sensors that have a baseline in every scaling of the run: what a worker must know of it. The run itself stays here: unpickling a
    ResNet imports torchvision, which fails beside a CPU build of torch."""
    return frozenset.intersection(*(frozenset(scaling.sensors) for _, scaling in run.model.scalings().values()))


def first_of_unknown(read: ReadPart, known: frozenset[Sensor], k: int) -> ReadPart:
    """Leaves of a part only the earliest records of sensors the run does not know, so that little travels to the driver."""
    unknown = read.records.filter(pa.array([sensor not in known for sensor in sensors_of(read.records)], pa.bool_()))
    tables = [first_records([table], k) for _, table in by_sensor(unknown)]
    return dataclasses.replace(read, records=pa.concat_tables([unknown.slice(0, 0), *tables]).combine_chunks())


def _on_ray(plan: Plan, facts: CorpusFacts, known: frozenset[Sensor], k: int) -> Iterator[ReadPart]:
    """The same of all parts, by Ray's workers: one streamed pass over the input."""
    from vibray.pipeline.reading import WORK_CPUS, read_parts, unpack

    dataset = read_parts(plan, facts, [(part, frozenset()) for part in plan.parts]).map_batches(
        _batch_of_unknown,  # type: ignore[arg-type] (Ray's type knows no generators of tables)
        fn_kwargs={"known": known, "k": k},
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=WORK_CPUS,
    )
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield from unpack(batch)


def _batch_of_unknown(batch: pa.Table, known: frozenset[Sensor], k: int) -> Iterator[pa.Table]:
    from vibray.pipeline.reading import pack, unpack

    for read in unpack(batch):
        yield pack(first_of_unknown(read, known, k))


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
        except UserError:
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
