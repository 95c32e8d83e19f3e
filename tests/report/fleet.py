"""A made-up fleet for the report's tests: scores, evidence and lines set aside that look like a utility's."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from vibray import schema
from vibray.decide.pseudo_labels import UNDECIDED_STATES
from vibray.report.data import Bars, Map, ReportData

RATE_HZ, NUM_SAMPLES = 8192.0, 8192
MEMBERS, FAULTS = ("svdd", "vae"), ("winding_looseness", "core_looseness", "dc_bias")
START_MS = int(datetime(2024, 3, 1, tzinfo=UTC).timestamp() * 1000)


def waveform(rng: np.random.Generator, faulty: bool) -> np.ndarray:
    """One second of hum at 100 Hz and its harmonics; a faulty one rings now and then."""
    t = np.arange(NUM_SAMPLES) / RATE_HZ
    x = sum(a * np.sin(2 * np.pi * f * t + rng.uniform(0, 6.3)) for f, a in ((100, 1.0), (200, 0.4), (300, 0.2), (600, 0.3))) * 0.05
    x = x + 0.004 * rng.standard_normal(NUM_SAMPLES)
    for at in rng.uniform(0.05, 0.9, 5 if faulty else 0):
        late = np.clip(t - at, 0, None)
        x = x + 0.15 * (late > 0) * np.exp(-late * 120) * np.sin(2 * np.pi * 1900 * late)
    return x.astype(np.float32)


def scores(num_records: int = 3000, num_units: int = 5, seed: int = 0, faults: tuple[str, ...] | None = None) -> pa.Table:
    """A scores table, 3 sensors a unit, over months; the second unit has a fault that grows, the last was never calibrated. Machines
    that are off or switching and faulty sensors score high."""
    rng = np.random.default_rng(seed)
    unit, sensor = rng.integers(0, num_units, num_records), rng.integers(0, 3, num_records)
    when = np.sort(rng.uniform(0, 1, num_records))
    z = rng.lognormal(0, 0.35, num_records) * (1 + 0.15 * np.sin(when * 60))
    z = np.where(unit == num_units - 1, 1.6 * z, z)
    sick = (unit == 1) & (sensor != 2) & (when > 0.7)
    z = np.where(sick, z * (1 + 12 * (when - 0.7)) + rng.exponential(2, num_records) * (when - 0.7) * 8, z).astype(np.float32)
    state = rng.choice([s.value for s in schema.State], num_records, p=(0.93, 0.03, 0.02, 0.01, 0.01))
    z = np.where(np.isin(state, UNDECIDED_STATES), 2 * z, z).astype(np.float32)
    columns: dict[str, Any] = {
        "corpus": np.full(num_records, "substations-2024"),
        "record_id": [f"2024/{3 + i * 6 // num_records:02d}/part-{i // 400:04d}.jsonl.gz@{i % 400 * 78231}" for i in range(num_records)],
        "line": [i % 400 + 1 if i % 3 else None for i in range(num_records)],
        "unit": [f"T{u + 11}" for u in unit],
        "sensor_id": [f"T{u + 11}-{('tank', 'cover', 'OLTC')[s]}" for u, s in zip(unit, sensor, strict=True)],
        "measured_at": pa.array(START_MS + (when * 150 * 86_400_000).astype(np.int64), pa.int64()).cast(schema.TIME),
        "sample_rate_hz": np.full(num_records, RATE_HZ),
        "content_hash": [f"{i:032x}" for i in range(num_records)],
        "state": state,
        "state_cause": pa.nulls(num_records, pa.string()),
        "calibrated": unit != num_units - 1,
        "score": z,
        "fleet_p_value": pa.nulls(num_records, pa.float32()),
        "score_svdd": z * rng.lognormal(0, 0.1, num_records).astype(np.float32),
        "score_vae": z * rng.lognormal(0, 0.2, num_records).astype(np.float32),
    }
    if faults is not None:
        p = rng.dirichlet(np.ones(len(faults)), num_records).astype(np.float32)
        named = np.where(z > 4, np.array(faults)[p.argmax(1)], np.where(z > 3, "unknown", "normal"))
        columns |= {"abnormal_probability": z, "fault": named}
        columns["fault_probability"] = [float(q) if f in faults else None for q, f in zip(p.max(1), named, strict=True)]
        columns |= {f"fault_p_{name}": p[:, i] for i, name in enumerate(faults)}
    return pa.table(columns, schema=schema.scores(MEMBERS, faults))


def evidence(table: pa.Table, num_records: int = 60, seed: int = 1) -> pa.Table:
    """The highest records of a scores table with waveforms."""
    rng = np.random.default_rng(seed)
    top = np.argsort(-table["score"].to_numpy(), kind="stable")[:num_records]
    rows = table.take(pa.array(top))
    return rows.append_column("waveform", pa.array([waveform(rng, True) for _ in top], schema.vector(NUM_SAMPLES)))


def bad_records(reasons: dict[str, int]) -> pa.Table:
    head = '{"data_time": "2024-03-04T15:09:34.000Z", "signal_value": "0.12662,0.10868,-0.0312,' + "0.1," * 20
    fixed = {"corpus": "substations-2024", "shard": "2024/03/part-0001.jsonl.gz", "detail": "what exactly was wrong with it", "head": head}
    rows = [
        fixed | {"offset": 78231 * i, "line": i + 1 if i % 2 else None, "reason": reason}
        for reason, count in reasons.items()
        for i in range(min(count, 3))
    ]
    return pa.Table.from_pylist(rows, schema=schema.BAD_RECORDS)


REASONS = {schema.Reason.NOT_JSON.value: 12, schema.Reason.CLIPPED.value: 31, schema.Reason.WRONG_LENGTH.value: 4}
MAD = {"method": "mad (log scores)", "rate_kind": "rate", "nominal_rate": None}
CUTS = {
    "global": {"normal_below": 1.1, "anomaly_above": 3.2, "realised_rate": 0.0123, **MAD},
    "groups": {"T12": {"normal_below": 1.3, "anomaly_above": 3.9, "realised_rate": 0.031, **MAD}},
}
METRICS = {
    "auroc": 0.9312, "auprc": 0.61, "prevalence": 0.05, "num_matched": 2950, "macro_f1": None,
    "auroc_by_fault": {"winding_looseness": 0.95, "dc_bias": 0.88},
    "baselines": {"rms": {"auroc": 0.55, "auprc": 0.11}, "mahalanobis": {"auroc": 0.94, "auprc": 0.66}},
}  # fmt: skip


def report_data(num_records: int = 3000, faults: tuple[str, ...] | None = FAULTS, **changes: Any) -> ReportData:
    """A whole report's data."""
    table = scores(num_records, faults=faults)
    top = evidence(table)
    first = next(row for row in top.select(["corpus", "record_id", "state"]).to_pylist() if row["state"] not in UNDECIDED_STATES)
    gradient = np.outer(np.hanning(16), np.hanning(28))
    values: dict[str, Any] = {
        "title": "Transformer vibration, spring and summer 2024",
        "generated_at": datetime(2024, 8, 1, 9, 30, tzinfo=UTC),
        "scores": table,
        "evidence": top,
        "bad_records": bad_records(REASONS),
        "counts": {"substations-2024": {"read": num_records + sum(REASONS.values()), "kept": num_records, "set_aside": REASONS}},
        "run": {
            "recipe": "ensemble",
            "recipe hash": "3fa9c01d22be",
            "mains": 50.0,
            "scores": "s3://fleet/scores/ensemble-a",
            "labels": None,
        },
        "cuts": CUTS,
        "metrics": METRICS,
        "signal_unit": "g",
        "explanations": {
            (first["corpus"], first["record_id"]): (
                Map("Where the classifier looked (integrated gradients)", gradient, tuple(np.geomspace(40, 3700, 16)), 1.0),
                Bars("Harmonics that moved, z against the sensor's own baseline", ("300 Hz", "50 Hz", "1-2 kHz"), (7.2, 4.1, -2.0)),
            )
        },
    }
    return ReportData(**(values | changes))
