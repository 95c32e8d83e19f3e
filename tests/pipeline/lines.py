"""Small shards of made-up machines: a hum at 100 Hz with harmonics, noise, and on request a fault."""

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from vibray.features.cwt_image import CwtImageConfig
from vibray.models.backbone import TrunkConfig
from vibray.models.deep_svdd import DeepSvddConfig
from vibray.pipeline.ending import Terminated
from vibray.recipes import plain_svdd
from vibray.recipes.kinds import DeepRecipe
from vibray.storage.corpus import CorpusFacts

NUM_SAMPLES = 2048
RATE_HZ = 8192.0
FACTS = CorpusFacts(RATE_HZ, NUM_SAMPLES, unit_pattern=r"^(t\d+)-", signal_unit="g")

START = datetime(2024, 3, 1, tzinfo=UTC)


def corpus_fields(facts: CorpusFacts) -> dict[str, Any]:
    """The facts of a corpus as the fields of a job."""
    return {field.name: getattr(facts, field.name) for field in fields(facts)}


BAD_LINES = (b'{"data_time": "2024-03-01T00:00:00Z"}', b"not json", b"[]")


def waveform(rng: np.random.Generator, sensor: int, fault: bool = False, gain: float = 1.0) -> np.ndarray:
    """One record, in g."""
    t = np.arange(NUM_SAMPLES) / RATE_HZ
    gain *= 1 + 0.3 * sensor
    x = sum(gain / k * np.cos(2 * np.pi * 100 * k * t + rng.uniform(0, 2 * np.pi)) * rng.normal(1, 0.05) for k in range(1, 7))
    x = x + 0.1 * gain * rng.standard_normal(NUM_SAMPLES)
    if fault:
        x = x + 0.6 * gain * np.cos(2 * np.pi * 1730 * t) * (1 + np.cos(2 * np.pi * 20 * t))
    return x


def rows(count: int, seed: int = 0, num_sensors: int = 2, fault_share: float = 0.0, unit: str = "t1", gain: float = 1.0):
    """(line as dict, label row) one a record."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        sensor = i % num_sensors
        fault = rng.random() < fault_share
        values = ",".join(f"{v:.5g}" for v in waveform(rng, sensor, fault, gain))
        time = (START + timedelta(minutes=10 * i, days=seed)).isoformat().replace("+00:00", "Z")
        key = {"sensor_id": f"{unit}-s{sensor}", "data_time": time}
        yield {**key, "signal_value": values}, {**key, "unit": unit, "label": "tone" if fault else "normal"}


def write_shard(path: Path, count: int, bad: int = 0, **options) -> list[dict]:
    """Writes a shard (.jsonl or .jsonl.gz), `bad` broken lines among its records; returns the label rows."""
    made = list(rows(count, **options))
    lines = [json.dumps(line).encode() for line, _ in made]
    for i in range(bad):
        lines.insert(3 * i, BAD_LINES[i % len(BAD_LINES)])
    data = b"\n".join(lines) + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return [label for _, label in made]


def write_labels(path: Path, labels: list[dict]) -> Path:
    """Writes a labels file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in labels))
    return path


NUM_UNITS, UNIT_RECORDS = 4, 88


def write_units(raw: Path) -> list[dict]:
    """Four machines of two sensors, a shard each, a third of their records faulty; their labels, in their order."""
    labels = []
    for u in range(NUM_UNITS):
        labels += write_shard(raw / f"{u}.jsonl", UNIT_RECORDS, seed=u, unit=f"t{u}", gain=1.0 + u, fault_share=0.35)
    return labels


def tiny_svdd(epochs: int) -> DeepRecipe:
    """A Deep SVDD that trains in seconds."""
    recipe = plain_svdd()
    image = CwtImageConfig(rows=32, columns=32, min_hz=60.0)
    optim = replace(recipe.optim, epochs=epochs, batch_size=16)
    detector = DeepSvddConfig(trunk=TrunkConfig(width=4), hidden=16, latent_dim=8)
    return replace(recipe, feature=image, detector=detector, pretrain=replace(recipe.pretrain, epochs=1, batch_size=16), optim=optim)


@contextmanager
def killed(monkeypatch: pytest.MonkeyPatch, module: ModuleType | type, name: str, most: int) -> Iterator[None]:
    """Within it a job ends as by a signal where it calls a function of a module once more than `most` times; it must come to that."""
    whole, calls = getattr(module, name), 0

    def part(*args: Any, **options: Any) -> Any:
        nonlocal calls
        if calls == most:
            raise Terminated
        calls += 1
        return whole(*args, **options)

    with monkeypatch.context() as patch, pytest.raises(Terminated):
        patch.setattr(module, name, part)
        yield
    assert calls == most
