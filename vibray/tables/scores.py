"""Scores tables as decisions and reports read them: in 40 bytes a record, duplicates left out, states and times judged over the whole."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vibray import schema
from vibray.config import UserError, from_json, short_hash
from vibray.decide.audit import audit
from vibray.decide.duplicates import lowest_keys
from vibray.decide.findings import Finding
from vibray.decide.groups import sensor_groups
from vibray.decide.pooling import TOLERANCE_S, over_sensors
from vibray.storage import objects
from vibray.storage.columns import Stacked, codes, named, one_chunk, plain, rows_of, sensors_of
from vibray.storage.corpus import CorpusFacts, InputsDiffer, one_corpus_each, the_same, the_same_facts
from vibray.storage.parts import Parts, check_finished
from vibray.storage.since import superseded


@dataclass(frozen=True)
class ScoresTable:
    """One or several scores tables of one run."""

    scores: pa.Table
    """schema.scores(...), `state` and `state_cause` being the effective ones, and bool `time_trusted`: False where the time cannot be.

    Held small (storage/columns.py): names are dictionaries, PLACE stands for `record_id`; without `line`, `sample_rate_hz` and
    `content_hash`. Rows are in the order of (unit, sensor_id, measured_at, corpus, shard, offset)."""
    identities: list[dict[str, Any]]
    folders: list[Parts]
    num_duplicates: int
    findings: tuple[Finding, ...] = ()
    """what the records say against one another"""

    @property
    def run(self) -> dict[str, Any]:
        """What the scores say of their run."""
        return self.identities[0]["run"]

    @property
    def facts(self) -> CorpusFacts:
        return from_json(CorpusFacts, self.identities[0]["facts"])

    @property
    def faults(self) -> tuple[str, ...] | None:
        return None if self.run["faults"] is None else tuple(self.run["faults"])

    def bad_records(self) -> pa.Table:
        """The lines set aside, of all inputs."""
        return pa.concat_tables([parts.read(name="bad", schema=schema.BAD_RECORDS) for parts in self.folders])

    def over_sensors(self, tolerance_s: float = TOLERANCE_S) -> tuple["ScoresTable", int]:
        """The same records with the mean scores of their unit's sensors at their time (decide/pooling.py); how many found a partner."""
        scores, num_partners = over_sensors(self.scores, tolerance_s)
        return replace(self, scores=scores), num_partners

    def evidence(self) -> pa.Table | None:
        """The highest records of all parts, those alone whose scores are kept, without their waveforms; None where scoring kept none.

        Scores (which may be means over sensors), states and trust in times are those of this table; `row` is a record's row in it, `part`
        and `in_part` say where its waveform lies.
        """
        wanted = [
            name for name in schema.evidence(1, tuple(self.run["members"]), self.faults).names if name not in ("waveform", "content_hash")
        ]
        tables = []
        for folder, parts in enumerate(self.folders):
            for i, part_id in enumerate(parts.markers):
                uri = parts.uri(part_id, "evidence")
                if uri is None:
                    continue
                table = objects.read_table(uri, wanted, names=("corpus", *schema.SENSOR), if_there=optional_columns(self.run))
                number = pa.array(np.full(table.num_rows, i, np.int32)), pa.array(np.full(table.num_rows, folder, np.int32))
                table = table.append_column("part", number[0]).append_column("folder", number[1])
                tables.append(table.append_column("in_part", pa.array(np.arange(table.num_rows, dtype=np.int32))))
        if not tables:
            return None
        evidence = pa.concat_tables(tables, promote_options="default").unify_dictionaries().combine_chunks()
        tables.clear()
        pa.default_memory_pool().release_unused()  # as in open_scores
        rows = rows_of(self.scores, evidence)
        evidence = evidence.filter(pa.array(rows >= 0)).append_column("row", pa.array(rows[rows >= 0]))
        own = plain(self.scores.select([name for name in EFFECTIVE if name in self.scores.column_names]).take(evidence["row"]))
        for name in own.column_names:
            evidence = evidence.drop_columns([name]) if name in evidence.column_names else evidence
            evidence = evidence.append_column(own.schema.field(name), own[name])
        return evidence

    def waveforms(self, evidence: pa.Table, rows: np.ndarray) -> pa.Array:
        """The waveforms of these rows of `evidence`, null in the others; a part is read once."""
        found: list[Any] = [None] * evidence.num_rows
        folder, part, in_part = (one_chunk(evidence[name]).to_numpy() for name in ("folder", "part", "in_part"))
        where: dict[tuple[int, int], list[int]] = {}
        for row in rows.tolist():
            where.setdefault((int(folder[row]), int(part[row])), []).append(row)
        for (f, p), own in where.items():
            parts = self.folders[f]
            uri = parts.uri(list(parts.markers)[p], "evidence")
            assert uri is not None
            stored = one_chunk(objects.read_table(uri, ["waveform"])["waveform"])
            for row in own:
                found[row] = stored[int(in_part[row])].values.to_numpy()
        return pa.array(found, pa.list_(pa.float32()))


EFFECTIVE = ("state", "state_cause", schema.TIME_TRUSTED.name, "score")
"""Columns of a record of the evidence that are those of the whole table: a record that was scored alone did not know of the others."""


def optional_columns(run: dict[str, Any]) -> tuple[str, ...]:
    """Columns that scores of an earlier version, or of most runs have not."""
    return ("state_cause", schema.FLEET_P_VALUE.name, *(schema.MEMBER_PREFIX + name for name in run["members"]))


def open_scores(uris: Sequence[str]) -> ScoresTable:
    """The scores tables as one, duplicates left out and counted. Raises InputsDiffer for one corpus twice, or for another run or rate.

    Where one of them continued another and names a shard as changed since, that shard's records are the later ones alone.
    """
    folders = [Parts(uri) for uri in uris]
    identities = [parts.plan.identity for parts in folders]
    for uri, identity in zip(uris, identities, strict=True):
        if "run" not in identity:
            raise InputsDiffer(f"{uri} is no scores table, but one of features: give a folder that jobs/score.py made")
    one_corpus_each(uris, [identity["corpus"] for identity in identities])
    the_same("the run", uris, [identity["run"] for identity in identities])
    the_same_facts(uris, [identity["facts"] for identity in identities])
    for parts in folders:
        parts.check_accounts()
    later = superseded({parts.folder_uri: parts.plan for parts in folders})
    members, faults = identities[0]["run"]["members"], identities[0]["run"]["faults"]
    wanted = schema.scores(tuple(members), None if faults is None else tuple(faults)).names
    wanted = [name for name in wanted if name not in ("line", "sample_rate_hz")]
    stacked = Stacked(sum(parts.total("num_kept") for parts in folders))
    for parts in folders:
        for table in parts.tables(wanted, if_there=optional_columns(identities[0]["run"])):
            stacked.append(without_shards(table, later.get(parts.folder_uri.rstrip("/"))))
    if not stacked.at:
        raise UserError(f"{', '.join(uris)}: no record was scored; look at bad/ for the reasons")
    columns = stacked.columns()
    order = sensor_groups(pa.table(columns)).order
    if order is not None:
        for name in columns:
            columns[name] = columns[name].take(pa.array(order))
    del order
    scores, num_duplicates, findings = audited(pa.table(columns))
    del columns
    pa.default_memory_pool().release_unused()  # what reading thousands of small files leaves there: 8 bytes a record
    return ScoresTable(scores, identities, folders, num_duplicates, findings)


def without_shards(table: pa.Table, shards: frozenset[str] | None) -> pa.Table:
    """The records of no such shard: a record's id is its shard's key and a place in it."""
    if not shards:
        return table
    keys = pc.replace_substring_regex(table["record_id"], r"[@#]\d+$", "")  # type: ignore[attr-defined]
    return table.filter(pc.invert(pc.is_in(keys, pa.array(sorted(shards)))))  # type: ignore[attr-defined]


def audited(scores: pa.Table) -> tuple[pa.Table, int, tuple[Finding, ...]]:
    """A table of scores as Stacked holds it, with effective states and `time_trusted`, records that stand twice left out; how many these
    are, and what the others say against one another."""
    groups = sensor_groups(scores)
    keep = lowest_keys(scores, groups)
    num_duplicates = int((~keep).sum())
    if num_duplicates:
        scores = scores.filter(pa.array(keep))
        groups = sensor_groups(scores)
    found = audit(scores, num_duplicates, groups)
    scores = scores.drop_columns(["content"])
    for name in ("state_cause", schema.FLEET_P_VALUE.name):
        if name not in scores.column_names:
            nothing = pa.nulls(scores.num_rows, pa.string() if name == "state_cause" else pa.float32())
            scores = scores.append_column(name, pc.dictionary_encode(nothing) if name == "state_cause" else nothing)  # type: ignore[attr-defined]
    if found.repeats.any():
        for name, value in (("state", schema.State.SENSOR_FAULT.value), ("state_cause", schema.Cause.REPEATS.value)):
            names, number = codes(scores[name])
            whole = sorted({*names, value})
            number = np.array([*map(whole.index, names), -1], np.int8)[number]
            number[found.repeats] = whole.index(value)
            scores = scores.set_column(scores.column_names.index(name), name, named(whole, number))
    return scores.append_column(schema.TIME_TRUSTED, pa.array(found.time_trusted)), num_duplicates, found.findings


def out_of_sample(table: ScoresTable) -> pa.Table:
    """Scores of the records that calibrated their sensors, against baselines that had not seen them: schema.OUT_OF_SAMPLE.

    Empty, with a word, where the calibration is gone or was made again since.
    """
    found = [schema.OUT_OF_SAMPLE.empty_table()]
    for calibration in {short_hash(each["calibration"]): each["calibration"] for each in table.identities if each["calibration"]}.values():
        uri = calibration["uri"]
        try:
            if calibration != {"uri": uri, **check_finished(uri)}:
                raise UserError(f"{uri} was made again since")
            found += _held_out(objects.read_table(objects.join(uri, "calibration.parquet")), calibration["corpus"])
        except UserError as error:
            print(f"the records that calibrated their sensors have no scores out of sample, so windows exceed too often: {error}")
    return pa.concat_tables(found)


def _held_out(calibration: pa.Table, corpus: str) -> Iterator[pa.Table]:
    """OUT_OF_SAMPLE of each sensor of a schema.CALIBRATION, whose rows for several members say the same; one that an earlier version wrote
    may say no fleet p-values, or no records."""
    seen = set()
    for row, sensor in enumerate(sensors_of(calibration)):
        own = {name: calibration[name][row] for name in ("record_ids", "scores", "fleet_p_values") if name in calibration.column_names}
        own = {name: value.values for name, value in own.items() if value.is_valid}
        if sensor not in seen and "record_ids" in own:
            ids, scores = own["record_ids"], own["scores"]
            p_values = own.get("fleet_p_values", pa.nulls(len(ids), pa.float32()))
            yield pa.table([pa.array([corpus] * len(ids), pa.string()), ids, scores, p_values], schema=schema.OUT_OF_SAMPLE)
        seen.add(sensor)
