"""Sensors that training did not see: their robust statistics, from their earliest records, so that scoring stays one pass.

One record calibrates a sensor: its scale is then the one that is usual (features/scaling.py). Which records are the earliest, how they are
read and what that takes of memory stands in earliest.py. A folder of a calibration:

    calibration.parquet  [context.parquet]  _done.json  parts/

`parts/` is what a killed job goes on from: where each record of the input comes from, part by part, and groups of sensors that are done.
"""

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool

from vibray import schema
from vibray.config import UserError, short_hash
from vibray.decide.findings import counts_of, print_findings
from vibray.features.scaling import Sensor
from vibray.fitting.calibration import NUM_FOLDS, calibration_table
from vibray.fitting.earliest import GROUP_BYTES, HELD_BYTES, Group, Groups, keep_origins, pick
from vibray.pipeline.jobs import CalibrateJob
from vibray.pipeline.local import map_here, works_alone
from vibray.pipeline.parts import PartsJob
from vibray.report.expectations import whole
from vibray.runs.folder import load, run_identity
from vibray.runs.run import Run
from vibray.storage import objects
from vibray.storage.columns import sensors_of
from vibray.storage.parts import check_finished, finish_folder
from vibray.storage.plan import LINES_PER_PART, make_plan, read_plan
from vibray.storage.since import held


class CalibrationMismatch(UserError):
    """The calibration was made with another run."""


def calibrate(job: CalibrateJob) -> None:
    """Runs the stage; see jobs/calibrate.py."""
    run_uri, input_uri, calibration_uri = (objects.absolute(uri) for uri in (job.run, job.input, job.calibration))
    if job.records_per_sensor < 1:
        raise UserError(f"--records-per-sensor must be at least 1, not {job.records_per_sensor}")
    run = load(run_uri)
    run.check(job.sample_rate_hz, run.facts.num_samples)
    corpus = job.corpus or objects.last_segment(input_uri)
    calibration = Calibration(calibration_uri, run_uri, run, input_uri, corpus, job.records_per_sensor, NUM_FOLDS, local=job.local)
    if job.dry_run:
        calibration.preview()
        return
    finished = calibration.finished()
    calibration.print_newer()
    if finished:
        print(f"{calibration_uri} is finished already: nothing to do")
    else:
        calibration.make(may_be_empty=False)


def expected() -> str:
    """By records a sensor, how the default ranks faults of generated transformers that training did not see."""
    areas = {row["records"]: row["auroc"][0] for row in whole()["rows"] if row["mains"] and row["records"] is not None}
    return ", ".join(f"{k} {area:.3f}" for k, area in areas.items()) + "; more change little"


@dataclass(frozen=True)
class Calibration:
    """A calibration to be made, by jobs/calibrate.py or within jobs/score.py."""

    uri: str
    run_uri: str
    run: Run
    input_uri: str
    corpus: str
    records_per_sensor: int
    num_folds: int | None
    """of a sensor's records, for their scores out of sample; None: one a record, and context.parquet holds all that the run says of it"""
    lines_per_part: int = LINES_PER_PART
    local: bool = False

    @property
    def identity(self) -> dict[str, Any]:
        """What the same command must find again."""
        how = {"records_per_sensor": self.records_per_sensor, "num_folds": self.num_folds}
        return {"input": self.input_uri, "corpus": self.corpus, "run": run_identity(self.run_uri, self.run), **how}

    @property
    def parts_job(self) -> PartsJob:
        """The first step: a pass over the input."""
        where = self.input_uri, objects.join(self.uri, "parts"), self.corpus
        return PartsJob(*where, self.run.facts, self.identity, self.lines_per_part, "calibrate", self.local)

    def preview(self) -> None:
        """A dry run."""
        self.print_cost()
        self.parts_job.preview(lambda records: records.select(schema.ORIGIN.names))

    def print_cost(self) -> None:
        """What the two steps do, and what they take of memory."""
        k, num_samples = self.records_per_sensor, self.run.facts.num_samples
        print(f"the sensors that {self.run_uri} does not know are calibrated by the earliest {k} records of each, or as many as there are:")
        print("  a first step reads all records and keeps where they come from; those that are picked are then read again")
        print(f"  memory: {1e-3 * k * HELD_BYTES:,.0f} kB a sensor where they are picked, twice as much where its times jump by years")
        print(f"  a worker holds {GROUP_BYTES >> 19} MiB of waveforms, or twice those of one sensor ({4e-6 * k * num_samples:.1f} MB)")

    def finished(self) -> bool:
        """True where the folder holds it. Raises UserError where it holds another."""
        try:
            there = objects.read_json(objects.join(self.uri, "_done.json"))
        except FileNotFoundError:
            return False
        differing = [name for name, value in json.loads(json.dumps(self.identity)).items() if there.get(name) != value]
        if differing:
            raise UserError(f"{self.uri} is another calibration ({', '.join(differing)} differ): use another folder, or remove this one")
        return True

    def make(self, may_be_empty: bool) -> None:
        """Goes on where a killed job stopped. Raises UserError where the run knows every sensor, unless that may be."""
        begun, k, job = time.monotonic(), self.records_per_sensor, self.parts_job
        parts = job.run(keep_origins, lambda _: {"parts_uri": job.folder_uri}, [objects.join(self.run_uri, "_done.json")])
        picked, findings = pick(parts, known_sensors(self.run), k)
        tables = self._tables(Groups(picked, parts.plan, self.run.facts))
        if not may_be_empty and not tables["calibration.parquet"].num_rows:
            raise UserError(f"{self.input_uri} holds no sensor to calibrate: every one is known to the run")
        names = ["calibration.parquet", *(["context.parquet"] if self.num_folds is None else [])]
        for name in names:
            objects.write_table(objects.join(self.uri, name), tables[name])
        finish_folder(self.uri, names, {**self.identity, "findings": counts_of(findings)})
        table, num_picked = tables["calibration.parquet"], len(picked)
        of_sensor = dict(zip(sensors_of(table), table["num_records"].to_pylist(), strict=True))
        num = sorted(of_sensor.values())
        if num:
            print(f"calibrated {len(num):,} sensors; records a sensor: {num[0]} to {num[-1]}, median {np.median(num):g}")
            print("  to be expected of the default (AUROC on generated machines that it had not seen), by records a sensor: " + expected())
        if sum(num) < num_picked:
            print(f"  {num_picked - sum(num):,} records calibrate nothing: a feature value of theirs is NaN or infinite")
        seconds = time.monotonic() - begun
        print(f"  it took {seconds:,.1f} s: {parts.total('num_read'):,} lines were read, and the {num_picked:,} earliest records again")
        print_findings(findings)

    def _tables(self, todo: Sequence[Group]) -> dict[str, pa.Table]:
        """The second step: the tables of the groups of sensors, each made once."""
        parts_uri, content = self.parts_job.folder_uri, self.identity["run"]["content"]
        work = partial(calibrate_group, parts_uri=parts_uri, run_uri=self.run_uri, content=content, num_folds=self.num_folds)
        if works_alone(self.local, len(todo)):
            ids = list(map_here("sensors")(work, todo))
        else:
            from vibray.pipeline import session
            from vibray.pipeline.workers import map_on_ray

            with session.started():
                ids = list(map_on_ray("sensors")(work, todo))
        found = {}
        for name, empty in (("calibration", schema.CALIBRATION), ("context", schema.CONTEXT)):
            tables = [objects.read_table(objects.join(parts_uri, f"{name}-{group_id}.parquet")) for group_id in ids]
            found[f"{name}.parquet"] = pa.concat_tables(tables) if tables else empty.empty_table()
        by_name = [(column, "ascending") for column in ("unit", "sensor_id", "member")]
        return found | {"calibration.parquet": found["calibration.parquet"].sort_by(by_name)}

    def print_newer(self) -> None:
        """A line where the input has grown or changed since the calibration was begun, which is of the shards that were there then."""
        with suppress(UserError):  # it was not begun; or the input is gone, and the calibration stands
            plans = {self.uri: read_plan(self.parts_job.folder_uri)}
            newer = make_plan(self.input_uri, self.corpus, {}, held=held(plans))
            if newer.sizes:
                came, changed = len(newer.sizes) - len(newer.changed), len(newer.changed)
                print(f"{came:,} shards came and {changed:,} changed since {self.uri} was begun: they are not in it")
                print("  to calibrate by all records give another --calibration folder")


def known_sensors(run: Run) -> frozenset[Sensor]:
    """Sensors that have a baseline in every scaling of the run."""
    return frozenset.intersection(*(frozenset(scaling.sensors) for _, scaling in run.model.scalings().values()))


def load_calibrated(run_uri: str, calibration_uri: str | None) -> Run:
    """The run, with the sensors of a calibration where one is given. Raises CalibrationMismatch for another run's calibration."""
    run = load(run_uri)
    if calibration_uri is None:
        return run
    made_with = check_finished(calibration_uri).get("run")
    if made_with is None:
        raise CalibrationMismatch(f"{calibration_uri} is no calibration: give a folder that jobs/calibrate.py made")
    if made_with["content"] != run_identity(run_uri, run)["content"]:
        raise CalibrationMismatch(
            f"{calibration_uri} was made with the run {made_with['uri']}, not with {run_uri}: calibrate with this run"
        )
    return run.calibrated(objects.read_table(objects.join(calibration_uri, "calibration.parquet")))


@dataclass(frozen=True)
class Context:
    """What the run says of the records that calibrated their sensors, each against all the others of its sensor.

    Their outputs are kept, not the feature values or the statistics without each, from which a worker would have to make them again: a
    few numbers a record, 200 bytes with its id, against 2 kB to 200 kB.
    """

    row: dict[str, int]
    """by record_id"""
    calibrated: Bool[np.ndarray, " records"]
    outputs: dict[str, torch.Tensor]

    @classmethod
    def load(cls, calibration_uri: str) -> "Context":
        """That of a calibration that check_finished has seen."""
        table = objects.read_table(objects.join(calibration_uri, "context.parquet"))
        row = {record_id: i for i, record_id in enumerate(table["record_id"].to_pylist())}
        outputs = {name: torch.tensor(table[name].to_numpy()) for name in table.column_names if name not in schema.CONTEXT.names}
        return cls(row, table["calibrated"].to_numpy().astype(bool), outputs)

    def of(self, record_ids: Sequence[str]) -> tuple[list[int], list[int]]:
        """Which of these records are in the context, and their rows in it."""
        rows = [self.row.get(record_id, -1) for record_id in record_ids]
        return [i for i, row in enumerate(rows) if row >= 0], [row for row in rows if row >= 0]

    def put(self, outputs: dict[str, torch.Tensor], record_ids: Sequence[str]) -> dict[str, torch.Tensor]:
        """A run's outputs of these records, those in the context replaced."""
        at, rows = self.of(record_ids)
        if not at:
            return outputs
        where = torch.tensor(at)
        return {name: values.index_copy(0, where, self.outputs[name][rows].to(values)) for name, values in outputs.items()}


@lru_cache(maxsize=1)
def _run(run_uri: str, content: str) -> Run:
    """One a process. A worker loads it: unpickling a ResNet imports torchvision, which fails beside a CPU build of torch."""
    return load(run_uri).hastened()


def calibrate_group(group: Group, parts_uri: str, run_uri: str, content: str, num_folds: int | None) -> str:
    """On a worker: writes the tables of a group's sensors, unless they stand there. Returns the group's id, by which they are named."""
    group_id = short_hash([[part.id, ids] for part, ids in group.picked])
    calibration_uri, context_uri = (objects.join(parts_uri, f"{name}-{group_id}.parquet") for name in ("calibration", "context"))
    if not objects.exists(calibration_uri):
        table, context = calibration_table(_run(run_uri, content), group.records(), num_folds)
        objects.write_table(context_uri, context)
        objects.write_table(calibration_uri, table)  # last: where it is, both are
    return group_id
