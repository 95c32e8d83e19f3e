"""The development suite: a synthetic fleet on unseen units, the same without disturbances, and four real corpora.

Each as vectors in memory, kept in a cache folder by the content of what they are made from: the input, and the code that reads, makes and
describes records.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

import vibray
from vibray import recipes
from vibray.config import to_json
from vibray.decide.pooling import moments
from vibray.decide.splits import UNLABELLED
from vibray.features.scaling import Sensor
from vibray.pipeline.local import read_here
from vibray.recipes.building import build_vector
from vibray.schema import NORMAL
from vibray.signal.synthetic import FleetConfig, condition, place, waveform
from vibray.storage.corpus import CorpusFacts
from vibray.storage.plan import make_plan
from vibray.storage.vectors import waveforms_of
from vibray.train.classical import Rows

CHUNK = 64
FEATURE = recipes.fused().feature
KS = (1, 4, 16, 64, 200)
POOL_UNITS, NEW_UNITS = 40, 8
POOL_RECORDS, TEST_RECORDS = 4000, 1000
TIME_BLOCKS = 10
"""Of a sensor's test records in a row: what is drawn together in the bootstrap where there are few units."""
SOURCES = ("signal", "features", "storage")

FLEET = CorpusFacts(8192.0)

REAL = {
    "gfd": CorpusFacts(10_000.0, unit_pattern=r"^(gbx\d+)-", mains="none"),
    "uestc": CorpusFacts(20_000.0, mains="none"),
    "hit": CorpusFacts(25_600.0, mains="none"),
    "femto": CorpusFacts(25_600.0, mains="none"),
}


@dataclass(frozen=True)
class Records:
    """Vectors of some records, in the order of their time within a sensor, and what is known of them."""

    vectors: torch.Tensor
    sensors: list[Sensor]
    labels: np.ndarray
    moment: np.ndarray
    """number of the unit and moment"""
    waveforms: Callable[[], np.ndarray]
    """(records, samples), made or read again: nets alone want them"""

    def rows(self, draw: int = 0) -> Rows:
        """With hashes of their keys, drawn by this seed: they decide which records of a long past are kept."""
        keys = np.random.default_rng(draw).permutation(len(self.sensors)).astype(np.uint64)
        return Rows(self.vectors, self.sensors, keys)

    def take(self, index: np.ndarray) -> "Records":
        sensors = [self.sensors[i] for i in index]
        return Records(self.vectors[index], sensors, self.labels[index], self.moment[index], lambda: self.waveforms()[index])

    def first(self, k: int) -> Iterator[tuple[Sensor, np.ndarray]]:
        """The earliest k records of each sensor."""
        for sensor in sorted(set(self.sensors)):
            yield sensor, np.flatnonzero([other == sensor for other in self.sensors])[:k]


@dataclass(frozen=True)
class Corpus:
    """A pool to fit on, and labelled records to judge: of the pool's own sensors, or of others, calibrated with their earliest records."""

    name: str
    facts: CorpusFacts
    pool: Records
    test: Records
    cluster: np.ndarray
    """of each test record: what is drawn together in the bootstrap"""
    context: Records | None = None
    ks: tuple[int, ...] = ()


def cache_folder() -> Path:
    return Path(tempfile.gettempdir()) / f"vibray-suite-{os.getuid()}"


def cached(key: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays by what they are made from. A file that is there is whole: it was renamed into place."""
    path = cache_folder() / f"{key}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays, half = make(), path.with_suffix(f".{os.getpid()}.npz")
        np.savez(half, allow_pickle=False, **arrays)
        half.rename(path)
    with np.load(path) as arrays:
        return dict(arrays)


def key_of(*content: object, sources: tuple[str, ...] = SOURCES) -> str:
    """Of an input and of the code that makes records and vectors, or whatever comes of them."""
    digest = hashlib.sha256(json.dumps([to_json(FEATURE), *content], sort_keys=True).encode())
    root = Path(vibray.__file__).parent
    for path in sorted(path for folder in sources for path in (root / folder).glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:24]


def _vectors(batches: Iterator[np.ndarray], facts: CorpusFacts) -> np.ndarray:
    feature = build_vector(FEATURE, facts.mains_hz)
    return np.concatenate([feature(torch.from_numpy(x), facts.sample_rate_hz).numpy() for x in batches])


# ---------------------------------------------------------------- the fleet


def of_fleet(config: FleetConfig) -> Records:
    places = [place(config, i) for i in range(config.num_records)]

    def batches() -> Iterator[np.ndarray]:
        return (np.stack([waveform(config, at) for at in places[i : i + CHUNK]]) for i in range(0, len(places), CHUNK))

    def make() -> dict[str, np.ndarray]:
        return {"vectors": _vectors(batches(), FLEET)}

    return Records(
        torch.from_numpy(cached(key_of("fleet", to_json(config)), make)["vectors"]),
        [(f"u{at.unit}", f"u{at.unit}-s{at.sensor}") for at in places],
        np.array([condition(config, at).fault or NORMAL for at in places]),
        moments(*(np.array([getattr(at, name) for at in places]) for name in ("unit", "sensor", "step")), tolerance_s=0.0),
        lambda: np.concatenate(list(batches())),
    )


def fleet(seed: int, disturbed: bool = True) -> Corpus:
    """Pool of 40 units, 5 % faults; 8 new units, calibrated with their earliest records, faults among them; test later, half faults."""
    pool = FleetConfig(seed=seed, num_units=POOL_UNITS, num_records=POOL_RECORDS)
    pool = pool if disturbed else replace(pool, disturbance_share=0.0)
    new = replace(pool, first_unit=POOL_UNITS, num_units=NEW_UNITS)
    later = replace(new, num_records=TEST_RECORDS, first_step=max(KS), contamination=0.5)
    test = of_fleet(later)
    context = of_fleet(replace(new, num_records=max(KS) * NEW_UNITS * pool.sensors_per_unit))
    units = np.unique([unit for unit, _ in test.sensors], return_inverse=True)[1]
    name = f"fleet {seed}" if disturbed else f"quiet {seed}"
    return Corpus(name, FLEET, of_fleet(pool), test, units, context, KS if disturbed else (max(KS),))


# ---------------------------------------------------------------- real machines


def _of_folder(name: str, uri: Path, labels: Path | None) -> Records:
    facts = REAL[name]
    plan = make_plan(str(uri), name, {})
    shards = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(uri.iterdir())]

    def read() -> tuple[np.ndarray, dict[str, np.ndarray]]:
        tables = [read.records for read in read_here(plan, facts, [(part, frozenset()) for part in plan.parts])]
        waveforms = np.concatenate([waveforms_of(table) for table in tables if table.num_rows])
        of = {column: np.concatenate([table[column].to_numpy(zero_copy_only=False) for table in tables]) for column in ORIGIN}
        order = np.lexsort((of["record_id"].astype(str), of["measured_at"]))
        return waveforms[order], {column: values[order].astype(TYPES[column]) for column, values in of.items()}

    def make() -> dict[str, np.ndarray]:
        waveforms, of = read()
        return {"vectors": _vectors((waveforms[i : i + CHUNK] for i in range(0, len(waveforms), CHUNK)), facts), **of}

    of = cached(key_of(name, to_json(facts), shards), make)
    rows = [] if labels is None else [json.loads(line) for line in labels.read_text().splitlines()]
    given = {(row["sensor_id"], np.datetime64(row["data_time"].removesuffix("Z"), "ms")): row["label"] for row in rows}
    label = [given.get(key, UNLABELLED) for key in zip(of["sensor_id"], of["measured_at"], strict=True)]
    assert sum(one != UNLABELLED for one in label) == len(given), f"labels of {name} that meet no record"
    sensors = [(str(unit), str(sensor)) for unit, sensor in zip(of["unit"], of["sensor_id"], strict=True)]
    moment = moments(of["unit"], of["sensor_id"], of["measured_at"].astype(np.int64), tolerance_s=0.5)
    return Records(torch.from_numpy(of["vectors"]), sensors, np.array(label), moment, lambda: read()[0])


ORIGIN = ("unit", "sensor_id", "record_id", "measured_at")
TYPES = dict.fromkeys(ORIGIN, str) | {"measured_at": "datetime64[ms]"}


def real_records(name: str, folder: Path, labelled: bool) -> Records:
    """The records of a folder of a real corpus; its labels stand beside it."""
    return _of_folder(name, folder, folder.with_name(folder.name + "_labels.jsonl") if labelled else None)


def real(name: str) -> Corpus:
    """One of the real corpora in the folder VIBRAY_CORPORA. femto's sensors are new: its test's earliest records calibrate them."""
    folder = Path(os.environ["VIBRAY_CORPORA"]) / name
    pool, whole = real_records(name, folder / "unlabelled", labelled=False), real_records(name, folder / "test", labelled=True)
    test = whole.take(np.flatnonzero(whole.labels != UNLABELLED))
    number = np.unique([f"{unit}/{sensor}" for unit, sensor in test.sensors], return_inverse=True)[1]
    cluster = np.zeros(len(number), np.int64)
    for one in np.unique(number):
        own = np.flatnonzero(number == one)
        cluster[own] = one * TIME_BLOCKS + np.arange(len(own)) * TIME_BLOCKS // len(own)
    if name == "femto":
        return Corpus(name, REAL[name], pool, test, cluster, whole, (10, 50))
    return Corpus(name, REAL[name], pool, test, cluster)
