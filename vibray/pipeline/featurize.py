"""Shards to the features table: records, their level, and the vector features that the corpus allows."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from vibray import schema
from vibray.config import UserError, to_json
from vibray.decide.audit import Audit, audit
from vibray.decide.duplicates import lowest_keys
from vibray.decide.findings import Finding, counts_of, print_findings
from vibray.decide.state import centred_rms
from vibray.features.harmonic import Harmonic, HarmonicConfig
from vibray.features.spectral import SpectralConfig
from vibray.features.zerone import ZeroneConfig
from vibray.pipeline.jobs import FeaturizeJob
from vibray.pipeline.parts import PartsJob, reading_findings
from vibray.recipes.building import build_vector
from vibray.recipes.kinds import VectorConfig
from vibray.runs.inputs import mains_snr_db
from vibray.runs.run import CHUNK
from vibray.signal.mains_family import mains_family_hz
from vibray.signal.sample_rates import against_rate, voice
from vibray.storage import objects
from vibray.storage.columns import Stacked, sensors_of
from vibray.storage.corpus import CorpusFacts, read_units
from vibray.storage.parts import Parts, commit_part
from vibray.storage.reading import ReadPart
from vibray.storage.records import set_aside
from vibray.storage.vectors import vector_column, waveforms_of

CONFIGS: dict[str, VectorConfig] = {"spectral": SpectralConfig(), "zerone": ZeroneConfig(), "harmonic": HarmonicConfig()}
"""Vector features that are stored where the corpus allows them: they are small beside the waveform."""

MAINS_RECORDS = 8
"""Records of a sensor that are looked at in a part: the rate is a sensor's, not a record's, and the search takes as long as a vector."""


def featurize(job: FeaturizeJob) -> None:
    """Runs the stage; see jobs/featurize.py."""
    facts = facts_of(job)
    stored, left_out = allowed_vectors(job.vectors, facts)
    for name, why in left_out.items():
        print(f"left out: {why}" if name in why else f"left out: {name}: {why}")
    configs = {name: CONFIGS[name] for name in stored}
    input_uri, features_uri = objects.absolute(job.input), objects.absolute(job.features)
    corpus = job.corpus or objects.last_segment(input_uri)
    identity = {
        "input": input_uri,
        "corpus": corpus,
        "facts": to_json(facts),
        "vectors": {name: to_json(config) for name, config in configs.items()},
    }
    parts_job = PartsJob(input_uri, features_uri, corpus, facts, identity, job.lines_per_part, "featurize", job.local)
    if job.dry_run:
        parts_job.preview(MakeFeatures(facts, configs).table)
        return
    parts = parts_job.run(make_features, lambda place: {"features_uri": features_uri, "facts": facts, "configs": configs})
    print_without_effect(parts, facts)
    findings = [*input_findings(parts, facts), *audit_of(parts).findings]
    write_feature_json(features_uri, parts, facts, configs, findings)
    print_findings(findings)


def print_without_effect(parts: Parts, facts: CorpusFacts) -> None:
    """A line for each option that changed nothing: it may have been meant for another input."""
    if not parts.total("num_kept"):
        return
    if facts.timezone != "UTC" and not parts.total("num_naive"):
        print(f"--timezone {facts.timezone} affected nothing: every time names its zone or offset")
    if facts.wrong_length == "fit" and not parts.total("num_fitted"):
        print(f"--wrong-length fit affected nothing: every record has {facts.num_samples} samples")
    if facts.units is not None:
        seen = {name for table in parts.tables(["sensor_id"]) for name in table["sensor_id"].unique().to_pylist()}
        unused = [sensor_id for sensor_id, _ in facts.units if sensor_id not in seen]
        if unused:
            print(f"--units names {len(unused):,} of {len(facts.units):,} sensors that no record is of, as {unused[0]!r}")


def audit_of(parts: Parts) -> Audit:
    """What the records of finished parts say against one another, those that stand twice counted once."""
    stacked = Stacked(parts.total("num_kept"))
    for table in parts.tables([name for name in schema.ORIGIN.names if name not in ("line", "sample_rate_hz")]):
        stacked.append(table)
    records = pa.table(stacked.columns()) if stacked.at else schema.ORIGIN.empty_table()
    keep = lowest_keys(records)
    return audit(records if keep.all() else records.filter(pa.array(keep)), int((~keep).sum()))


def facts_of(job: FeaturizeJob) -> CorpusFacts:
    """What the job says of the corpus. Raises UserError where that cannot be."""
    units = None if job.units is None else read_units(job.units)
    if job.mains != "none" and job.sample_rate_hz <= 4 * float(job.mains):
        raise UserError(
            f"--sample-rate-hz {job.sample_rate_hz:g} cannot show twice the mains frequency of {job.mains} Hz: is it in kHz? For a machine "
            "without a mains line give --mains none"
        )
    measured = (job.sample_rate_hz, job.num_samples, job.unit_pattern, units, job.timezone)
    return CorpusFacts(*measured, job.mains, job.signal_unit, job.wrong_length, job.time_format)


def allowed_vectors(vectors: tuple[str, ...], facts: CorpusFacts) -> tuple[list[str], dict[str, str]]:
    """The vectors that this rate, length and mains allow, and why the others are left out."""
    stored, left_out = [], {}
    for name in vectors:
        try:
            build_vector(CONFIGS[name], facts.mains_hz).check(facts.sample_rate_hz, facts.num_samples)
            stored.append(name)
        except UserError as error:
            left_out[name] = str(error)
    return stored, left_out


def write_feature_json(
    features_uri: str, parts: Parts, facts: CorpusFacts, configs: dict[str, VectorConfig], findings: list[Finding]
) -> None:
    """feature.json: the corpus' facts, name and frequency of every column of every vector, and how much contradicts itself."""
    vectors = {}
    for name, config in configs.items():
        feature = build_vector(config, facts.mains_hz)
        vectors[name] = {
            "config": to_json(config),
            "columns": list(feature.columns()),
            "frequencies_hz": list(feature.frequencies_hz(facts.sample_rate_hz)),
        }
    values = {
        "corpus": parts.plan.corpus,
        "input": parts.plan.identity["input"],
        "facts": to_json(facts),
        "num_records": parts.total("num_kept"),
        "vectors": vectors,
        "findings": counts_of(findings),
    }
    objects.write_json(objects.join(features_uri, "feature.json"), values)


def make_features(read: ReadPart, features_uri: str, facts: CorpusFacts, configs: dict[str, VectorConfig]) -> dict[str, Any]:
    """The stage: a part of records in, a part of the features table out."""
    make = MakeFeatures(facts, configs)
    table = make.table(read.records)
    kept, bad = finite_rows(table, read.bad, ("rms", *configs))
    return commit_part(features_uri, read.part_id, {"": kept, "bad": bad}, {**read.marker, "mains": mains_of(read.records, facts)})


@dataclass(frozen=True)
class MakeFeatures:
    """Tables made of records."""

    facts: CorpusFacts
    configs: dict[str, VectorConfig]

    def table(self, records: pa.Table) -> pa.Table:
        """The features table of some records."""
        features = {name: build_vector(config, self.facts.mains_hz) for name, config in self.configs.items()}
        shape = schema.features(self.facts.num_samples, {name: feature.shape[0] for name, feature in features.items()})
        if not records.num_rows:
            return shape.empty_table()
        made: dict[str, list[np.ndarray]] = {name: [] for name in ("rms", "mains_snr_db", *features)}
        for chunk in _chunks(records):
            own = {name: feature(torch.from_numpy(chunk), self.facts.sample_rate_hz).numpy() for name, feature in features.items()}
            own["rms"] = centred_rms(chunk)
            own["mains_snr_db"] = self._mains_snr_db(chunk, own)
            for name, values in own.items():
                made[name].append(values)
        whole = {name: np.concatenate(parts).astype(np.float32, copy=False) for name, parts in made.items()}
        columns = {name: records[name] for name in records.column_names}
        columns |= {"rms": pa.array(whole["rms"]), "mains_snr_db": pa.array(whole["mains_snr_db"], from_pandas=True)}
        columns |= {name: vector_column(whole[name]) for name in features}
        return pa.table(columns, schema=shape)

    def _mains_snr_db(self, waveforms: np.ndarray, vectors: dict[str, np.ndarray]) -> np.ndarray:
        """NaN for a machine without a mains line."""
        if "harmonic" in vectors:  # found already: the search for the line is most of that vector's cost
            return vectors["harmonic"][:, Harmonic.mains_snr_db]
        snr_db = mains_snr_db(waveforms, self.facts)
        return np.full(len(waveforms), np.nan) if snr_db is None else snr_db


def finite_rows(table: pa.Table, bad: pa.Table, columns: Sequence[str]) -> tuple[pa.Table, pa.Table]:
    """The rows whose values in these columns are finite; the others join the lines set aside, by their id."""
    details: dict[int, str] = {}
    for name in columns if table.num_rows else ():
        values = table[name].combine_chunks()
        flat = values.flatten() if pa.types.is_fixed_size_list(values.type) else values
        wrong = ~np.isfinite(flat.to_numpy(zero_copy_only=False).reshape(table.num_rows, -1)).all(axis=1)
        details |= dict.fromkeys(np.flatnonzero(wrong).tolist(), f"{name} is NaN or infinite")
    if not details:
        return table, bad
    kept, aside = set_aside(table, details)
    return kept, pa.concat_tables([bad, aside])


def _chunks(records: pa.Table) -> Iterator[np.ndarray]:
    """The waveforms, few enough at a time that what is made of them stays in the cache."""
    for start in range(0, records.num_rows, CHUNK):
        yield waveforms_of(records.slice(start, CHUNK))


def mains_of(records: pa.Table, facts: CorpusFacts, per_sensor: int = MAINS_RECORDS, most: int | None = None) -> dict[str, Any]:
    """For a part's marker, by sensor: unit, records looked at, fundamentals of the families of lines found in them, in Hz.

    At most `per_sensor` records of each sensor are looked at, `most` in all, spread over the part. Empty for machines without a mains line.
    """
    if facts.mains_hz is None or not records.num_rows:
        return {}
    of_sensor: dict[tuple[str, str], list[int]] = {}
    for row, sensor in enumerate(sensors_of(records)):
        of_sensor.setdefault(sensor, []).append(row)
    rows = [row for own in of_sensor.values() for row in own[:: -(-len(own) // per_sensor)]]
    few = records.take(pa.array(rows[:: -(-len(rows) // most)] if most else rows))
    looked: dict[str, dict[str, Any]] = {}
    family_hz = mains_family_hz(torch.from_numpy(waveforms_of(few)), facts.sample_rate_hz)
    for (unit, sensor_id), hz in zip(sensors_of(few), family_hz.tolist(), strict=True):
        of = looked.setdefault(f"{unit}/{sensor_id}", {"unit": unit, "num_looked_at": 0, "family_hz": []})
        of["num_looked_at"] += 1
        of["family_hz"] += [round(hz, 3)] if math.isfinite(hz) else []
    return looked


def input_findings(parts: Parts, facts: CorpusFacts) -> list[Finding]:
    """What the markers of parts say against the lines that were read and what was told of them."""
    return [*reading_findings(parts), *rate_findings(parts, facts)]


def rate_findings(parts: Parts, facts: CorpusFacts) -> list[Finding]:
    """What the families of lines in the parts' records say against the stated sample rate: one finding or none."""
    if facts.mains_hz is None:
        return []
    looked: dict[str, list[dict[str, Any]]] = {}
    for marker in parts.markers.values():
        for sensor, of in marker.get("mains", {}).items():
            if isinstance(of, dict):  # a list, in a folder begun before, holds combs between 90 and 135 Hz only
                looked.setdefault(sensor, []).append(of)
    voices = {}
    for sensor, of_parts in looked.items():
        found = [hz for of in of_parts for hz in of["family_hz"]]
        voices[sensor] = voice(of_parts[0]["unit"], found, sum(of["num_looked_at"] for of in of_parts))
    text = against_rate({s: v for s, v in voices.items() if v is not None}, facts.sample_rate_hz, facts.mains_hz)
    return [] if text is None else [Finding("wrong_rate", *text)]
