"""Sensors that training did not see: their robust statistics, from their earliest records, so that scoring stays one pass."""

import dataclasses
import json
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import torch

from vibray import schema
from vibray.config import UserError
from vibray.decide.audit import COLUMNS, audit
from vibray.decide.clocks import GAP_YEARS, YEAR_MS
from vibray.decide.findings import Finding, counts_of, print_findings
from vibray.decide.pseudo_labels import UNDECIDED_STATES
from vibray.decide.state import history_of, state_statistics
from vibray.features.scaling import Scaling, Sensor
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

NUM_FOLDS = 10
"""Of the records that calibrate a sensor, for their scores out of sample: each is scored against a baseline of nine tenths of them, of
fewer than ten records against one of all the others."""


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
    records, findings = plausible(records, k)
    table = calibration_table(run, records)
    if not table.num_rows:
        raise UserError(f"{input_uri} holds no sensor to calibrate: every one is known to the run")
    objects.write_table(objects.join(calibration_uri, "calibration.parquet"), table)
    finish_folder(calibration_uri, ["calibration.parquet"], {**identity, "findings": counts_of(findings)})
    print(f"calibrated {len(set(sensors_of(table)))} sensors")
    print_findings(findings)


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


def plausible(records: dict[Sensor, pa.Table], k: int) -> tuple[dict[Sensor, pa.Table], tuple[Finding, ...]]:
    """The k earliest records of each sensor whose time can be, and what the records say against one another.

    The audit sees the records that were kept, which are the earliest of each sensor: it counts those alone.
    """
    if not records:
        return records, ()
    found = audit(pa.concat_tables([table.select(COLUMNS) for table in records.values()]))
    first, trusted = 0, {}
    for sensor, table in records.items():
        own = found.time_trusted[first : first + table.num_rows]
        first += table.num_rows
        if own.any():
            trusted[sensor] = table.filter(pa.array(own)).slice(0, k).combine_chunks()
    return trusted, found.findings


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
    """The k earliest by (measured_at, record_id), a waveform that comes again counting once; where the sensor's times then jump by more
    than two years, the k earliest after the jump too: the first may turn out to be of a clock that was never set."""
    table = pa.concat_tables(tables)
    order = table.select(["measured_at", "record_id"]).append_column("row", pa.array(np.arange(table.num_rows)))
    rows = order.sort_by([("measured_at", "ascending"), ("record_id", "ascending")])["row"].to_numpy()
    content = np.array(table["content_hash"].to_pylist(), np.str_)[rows]
    rows = rows[np.sort(np.unique(content, return_index=True)[1])]
    time_ms = table["measured_at"].to_numpy().astype("datetime64[ms]").astype(np.int64)[rows]
    jumps = np.flatnonzero(np.diff(time_ms) > GAP_YEARS * YEAR_MS) + 1
    kept = np.concatenate([island[:k] for island in np.split(rows, jumps)[:2]])
    return table.take(pa.array(kept, pa.int64())).combine_chunks()


def calibration_table(run: Run, records: dict[Sensor, pa.Table]) -> pa.Table:
    """One row a sensor and baseline: its robust statistics, its history, and the scores of its own records out of sample. A member that
    knows a sensor already keeps the baseline of its training: it has no row."""
    rows = []
    for sensor, table in sorted(records.items()):
        w = waveforms_of(table)
        new = {
            name: (_feature(run, config, w), scaling)
            for name, (config, scaling) in run.model.scalings().items()
            if not scaling.known([sensor]).all()
        }
        statistics = {name: scaling.statistics_of(x) for name, (x, scaling) in new.items()}
        history = history_of(state_statistics(w, run.facts.sample_rate_hz)["rms"], mains_snr_db(w, run.facts))
        times = table["measured_at"].to_pylist()
        own = []
        for name, (location, scale) in statistics.items():
            own.append(
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
                    "record_ids": [],
                }
            )
        scored = _out_of_sample(run, sensor, w, new, pa.Table.from_pylist(own, schema=schema.CALIBRATION))
        for row in own:
            row["scores"] = [score for score in scored if score is not None]
            row["record_ids"] = [r for r, score in zip(table["record_id"].to_pylist(), scored, strict=True) if score is not None]
        rows += own
    return pa.Table.from_pylist(rows, schema=schema.CALIBRATION)


def _out_of_sample(
    run: Run, sensor: Sensor, waveforms: np.ndarray, new: dict[str, tuple[torch.Tensor, Scaling]], whole: pa.Table
) -> list[float | None]:
    """The score of each record against baselines of the others, in folds of consecutive records; None for one that says nothing of the
    machine (off, in transition, of a faulty sensor), and for a record that is alone.

    A record that helped to make its baseline lies closer to it than any later one: against such scores a healthy sensor's windows exceed
    at 2.8 % (50 records), 1.6 % (100) and 1.2 % (200) for a nominal 1 %.
    """
    num = len(waveforms)
    states, _ = run.calibrated(whole).states(waveforms, [sensor] * num)
    scores: list[float | None] = [None] * num
    for held in np.array_split(np.arange(num), min(NUM_FOLDS, num)) if num > 1 else ():
        others = np.setdiff1d(np.arange(num), held)
        rows = whole.to_pylist()
        for row in rows:
            x, scaling = new[row["member"]]
            location, scale = scaling.statistics_of(x[torch.from_numpy(others)])
            row |= {"location": location.flatten().tolist(), "scale": scale.flatten().tolist()}
        part = run.calibrated(pa.Table.from_pylist(rows, schema=schema.CALIBRATION))
        found = part.score(torch.from_numpy(waveforms[held]), run.facts.sample_rate_hz, [sensor] * len(held)).tolist()
        for i, score in zip(held.tolist(), found, strict=True):
            if states[i] not in UNDECIDED_STATES:
                scores[i] = score
    return scores


def _feature(run: Run, config, waveforms: np.ndarray) -> torch.Tensor:
    return torch.cat([Inputs(chunk, run.facts)[config] for chunk in torch.from_numpy(waveforms).split(CHUNK)])
