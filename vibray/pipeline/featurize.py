"""Shards to the features table: records, their level, and the vector features that the corpus allows."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from vibray import schema
from vibray.config import UserError, to_json
from vibray.decide.state import centred_rms
from vibray.features.harmonic import Harmonic, HarmonicConfig
from vibray.features.spectral import SpectralConfig
from vibray.features.zerone import ZeroneConfig
from vibray.pipeline.jobs import FeaturizeJob
from vibray.pipeline.parts import PartsJob
from vibray.recipes import VectorConfig, build_vector
from vibray.runs import CHUNK, mains_snr_db
from vibray.signal.harmonics import mains_line_hz
from vibray.storage import objects
from vibray.storage.corpus import CorpusFacts, read_units
from vibray.storage.parts import Parts, commit_part
from vibray.storage.reading import ReadPart
from vibray.tables import sensors_of, vector_column, waveforms_of

CONFIGS: dict[str, VectorConfig] = {"spectral": SpectralConfig(), "zerone": ZeroneConfig(), "harmonic": HarmonicConfig()}
"""Vector features that are stored where the corpus allows them: they are small beside the waveform."""

MAINS_TOLERANCE = 0.01
"""A mains line further than this from where it should stand, relatively, means another sample rate: 8192 Hz read as 10,000 is .22 off."""

MAINS_SNR_DB = 10.0
MAINS_MIN_RECORDS = 5
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
    write_feature_json(features_uri, parts, facts, configs)
    warn_mains(parts, facts)


def facts_of(job: FeaturizeJob) -> CorpusFacts:
    """What the job says of the corpus. Raises UserError where that cannot be."""
    units = None if job.units is None else read_units(job.units)
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


def write_feature_json(features_uri: str, parts: Parts, facts: CorpusFacts, configs: dict[str, VectorConfig]) -> None:
    """feature.json: the corpus' facts, and name and frequency of every column of every vector."""
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
    }
    objects.write_json(objects.join(features_uri, "feature.json"), values)


def make_features(read: ReadPart, features_uri: str, facts: CorpusFacts, configs: dict[str, VectorConfig]) -> dict[str, Any]:
    """The stage: a part of records in, a part of the features table out."""
    make = MakeFeatures(facts, configs)
    tables = {"": make.table(read.records), "bad": read.bad}
    return commit_part(features_uri, read.part_id, tables, {**read.marker, "mains": make.mains(read.records)})


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

    def mains(self, records: pa.Table) -> dict[str, list[float]]:
        """By sensor: frequencies at which its clear mains lines stand, for the check of the rate."""
        if self.facts.mains_hz is None or not records.num_rows:
            return {}
        of_sensor: dict[tuple[str, str], list[int]] = {}
        for row, sensor in enumerate(sensors_of(records)):
            of_sensor.setdefault(sensor, []).append(row)
        few = records.take(pa.array([row for rows in of_sensor.values() for row in rows[:: -(-len(rows) // MAINS_RECORDS)]]))
        line = mains_line_hz(torch.from_numpy(waveforms_of(few)), self.facts.sample_rate_hz)
        found: dict[str, list[float]] = {}
        for (unit, sensor_id), hz, snr in zip(sensors_of(few), line.frequency_hz.tolist(), line.snr_db.tolist(), strict=True):
            if snr >= MAINS_SNR_DB:
                found.setdefault(f"{unit}/{sensor_id}", []).append(round(hz, 3))
        return found

    def _mains_snr_db(self, waveforms: np.ndarray, vectors: dict[str, np.ndarray]) -> np.ndarray:
        """NaN for a machine without a mains line."""
        if "harmonic" in vectors:  # found already: the search for the line is most of that vector's cost
            return vectors["harmonic"][:, Harmonic.mains_snr_db]
        snr_db = mains_snr_db(waveforms, self.facts)
        return np.full(len(waveforms), np.nan) if snr_db is None else snr_db


def _chunks(records: pa.Table) -> Iterator[np.ndarray]:
    """The waveforms, few enough at a time that what is made of them stays in the cache."""
    for start in range(0, records.num_rows, CHUNK):
        yield waveforms_of(records.slice(start, CHUNK))


def warn_mains(parts: Parts, facts: CorpusFacts) -> None:
    """Warns of each sensor whose mains line does not stand at twice the mains frequency: the sample rate may be wrong."""
    if facts.mains_hz is None:
        return
    found: dict[str, list[float]] = {}
    for marker in parts.markers.values():
        for sensor, frequencies in marker.get("mains", {}).items():
            found.setdefault(sensor, []).extend(frequencies)
    expected = 2 * facts.mains_hz
    off = {}
    for sensor, frequencies in sorted(found.items()):
        median = float(torch.tensor(frequencies).median())
        if len(frequencies) >= MAINS_MIN_RECORDS and abs(median / expected - 1) > MAINS_TOLERANCE:
            off[sensor] = median
    for sensor, median in list(off.items())[:10]:
        rate = facts.sample_rate_hz * expected / median
        print(
            f"warning: the mains line of sensor {sensor} stands at {median:.2f} Hz instead of {expected:g} Hz: "
            f"is its sample rate {rate:,.0f} Hz rather than {facts.sample_rate_hz:,.0f} Hz, or the mains frequency another one?"
        )
    if len(off) > 10:
        print(f"warning: so do {len(off) - 10} more sensors")
