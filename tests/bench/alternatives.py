"""What a user would write instead, each a few lines with the libraries' defaults: from a folder of jsonl shards to scores."""

import inspect
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.signal import welch
from scipy.stats import kurtosis, skew
from sklearn.ensemble import IsolationForest

from vibray.fitting.jobs import TrainJob
from vibray.pipeline.jobs import FeaturizeJob, ScoreJob
from vibray.recipes import NAMED
from vibray.storage.parts import Parts

KEY = ["sensor_id", "data_time"]

Features = Callable[[Path], tuple[pd.DataFrame, np.ndarray]]
"""From a folder of shards, keys (sensor_id, data_time) and features (records, columns)."""

# ---------------------------------------------------------------- what a user would write


def by_shard(describe: Callable[[np.ndarray], np.ndarray], folder: Path) -> tuple[pd.DataFrame, np.ndarray]:
    keys, features = [], []
    for path in sorted(folder.iterdir()):
        table = pd.read_json(path, lines=True, dtype=False)  # type: ignore[arg-type]
        keys.append(table[KEY])
        features.append(describe(np.stack([np.fromstring(value, sep=",") for value in table["signal_value"]])))
    return pd.concat(keys, ignore_index=True), np.concatenate(features)


def by_ray(describe: Callable[[np.ndarray], np.ndarray], folder: Path) -> tuple[pd.DataFrame, np.ndarray]:
    import ray.data

    def described(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        x = describe(np.stack([np.fromstring(value, sep=",") for value in batch["signal_value"]]))
        return {"sensor_id": batch["sensor_id"], "data_time": batch["data_time"], "x": x}

    table = ray.data.read_json(str(folder)).map_batches(described, batch_size=64).to_pandas()  # type: ignore[arg-type]
    return pd.DataFrame(table[KEY]), np.stack(list(table["x"]))


def tsfresh_features(settings: str, x: np.ndarray) -> np.ndarray:
    tsfresh, extraction = import_module("tsfresh"), import_module("tsfresh.feature_extraction")
    long = pd.DataFrame({"id": np.repeat(np.arange(len(x)), x.shape[1]), "x": x.ravel()})
    parameters = getattr(extraction, settings)()
    table = tsfresh.extract_features(long, parameters, column_id="id", column_value="x", n_jobs=0, disable_progressbar=True)
    return import_module("tsfresh.utilities.dataframe_functions").impute(table).to_numpy()


def scipy_features(rate_hz: float, x: np.ndarray) -> np.ndarray:
    x = x - x.mean(axis=1, keepdims=True)
    _, power = welch(x, rate_hz, nperseg=2048)
    bands = np.stack([np.log(band.sum(axis=1) + 1e-12) for band in np.array_split(power, 32, axis=1)], axis=1)
    rms, peak = x.std(axis=1), np.abs(x).max(axis=1)
    return np.column_stack([bands, np.log(rms), peak / rms, kurtosis(x, axis=1), skew(x, axis=1), np.ptp(x, axis=1)])


def librosa_features(rate_hz: float, x: np.ndarray) -> np.ndarray:
    feature = import_module("librosa").feature
    cepstrum = feature.mfcc(y=x, sr=rate_hz)
    shapes = [getattr(feature, f"spectral_{name}")(y=x, sr=rate_hz) for name in ("centroid", "bandwidth", "rolloff")]
    all_of = np.concatenate([cepstrum, *shapes, feature.spectral_flatness(y=x), feature.zero_crossing_rate(x), feature.rms(y=x)], axis=1)
    return np.concatenate([all_of.mean(axis=2), all_of.std(axis=2)], axis=1)


def pyod(name: str, num_features: int, seed: int) -> Any:
    if name == "DeepSVDD":
        return import_module("pyod.models.deep_svdd").DeepSVDD(n_features=num_features, random_state=seed)
    if name == "ECOD":
        return import_module("pyod.models.ecod").ECOD()
    return import_module("pyod.models.iforest").IForest(random_state=seed)


class Forest:
    """scikit-learn's, whose own scores fall with the anomaly."""

    def __init__(self, _: int, seed: int):
        self.forest = IsolationForest(random_state=seed)

    def fit(self, x: np.ndarray) -> None:
        self.forest.fit(x)

    def decision_function(self, x: np.ndarray) -> np.ndarray:
        return -self.forest.score_samples(x)


class Described:
    """Features, and a detector of them."""

    def __init__(self, features: Features, detector: Callable[[int], Any]):
        self.features, self.detector = features, detector

    def fit(self, pool: Path) -> None:
        _, x = self.features(pool)
        self.fitted = self.detector(x.shape[1])
        self.fitted.fit(x)

    def score(self, folder: Path) -> tuple[pd.DataFrame, np.ndarray]:
        keys, x = self.features(folder)
        return keys, self.fitted.decision_function(x)


class BySensor(Described):
    """Each column by median and quartiles of its sensor's records in the pool, or else of the sensor's earliest `first` records."""

    first = 50

    def fit(self, pool: Path) -> None:
        keys, x = self.features(pool)
        self.past = self.past_of(keys, x, len(x))
        self.fitted = self.detector(x.shape[1])
        self.fitted.fit(self.scaled(keys, x, self.past))

    def score(self, folder: Path) -> tuple[pd.DataFrame, np.ndarray]:
        keys, x = self.features(folder)
        past = self.past.combine_first(self.past_of(keys, x, self.first))
        return keys, self.fitted.decision_function(self.scaled(keys, x, past))

    def past_of(self, keys: pd.DataFrame, x: np.ndarray, first: int) -> pd.DataFrame:
        table = pd.DataFrame(x).assign(sensor_id=keys["sensor_id"], data_time=keys["data_time"]).sort_values("data_time")
        sensors = table.groupby("sensor_id").head(first).drop(columns="data_time").groupby("sensor_id")
        return pd.concat([sensors.median(), sensors.quantile(0.75) - sensors.quantile(0.25) + 1e-9], axis=1, keys=["middle", "width"])

    def scaled(self, keys: pd.DataFrame, x: np.ndarray, past: pd.DataFrame) -> np.ndarray:
        own = past.loc[keys["sensor_id"]]
        return (x - own["middle"].to_numpy()) / own["width"].to_numpy()


class Vibray:
    """The default by its own jobs in this process; --calibrate where sensors are new."""

    def __init__(self, rate_hz: float, mains: Any, unit_pattern: str | None, first: int | None, corpus: str):
        self.rate_hz, self.mains, self.pattern, self.corpus = rate_hz, mains, unit_pattern, corpus
        self.calibrate = None if first is None else f"first:{first}"
        self.folder = tempfile.TemporaryDirectory(prefix="vibray-bench-")
        self.count = 0

    def fit(self, pool: Path) -> None:
        features, self.run = f"{self.folder.name}/features", f"{self.folder.name}/run"
        job = FeaturizeJob(str(pool), features, self.rate_hz, corpus=self.corpus, unit_pattern=self.pattern, mains=self.mains, local=True)
        import_module("vibray.pipeline.featurize").featurize(job)
        import_module("vibray.pipeline.train").train(TrainJob((features,), self.run, NAMED["fused"](), local=True))

    def score(self, folder: Path) -> tuple[pd.DataFrame, np.ndarray]:
        self.count += 1
        scores = f"{self.folder.name}/scores{self.count}"
        job = ScoreJob(self.run, str(folder), scores, self.rate_hz, calibrate=self.calibrate, local=True)
        import_module("vibray.pipeline.score").score(job)
        table = Parts(scores).read(["sensor_id", "measured_at", "score"]).to_pandas()
        return table.rename(columns={"measured_at": "data_time"})[KEY], table["score"].to_numpy()


# ---------------------------------------------------------------- the peers


@dataclass(frozen=True)
class Machine:
    """What a user knows of a corpus."""

    rate_hz: float
    mains: str
    unit_pattern: str | None
    first: int | None = None
    """where the sensors to score are new: so many of a sensor's earliest records are its past"""


@dataclass(frozen=True)
class Peer:
    """One way to scores: who reads, features of waveforms, and a detector by number of columns and seed."""

    name: str
    read: Callable[..., Any]
    describe: Callable[..., np.ndarray]
    detector: Callable[[int, int], Any]
    detecting: type[Described] = Described
    settings: str | None = None
    """of tsfresh, whose features know no sample rate"""
    needs: tuple[str, ...] = ()

    def make(self, at: Machine, seed: int, keep: Callable[[Features], Features] = lambda features: features) -> Described:
        features = partial(self.read, partial(self.describe, self.settings or at.rate_hz))
        made = self.detecting(keep(features), lambda num_features: self.detector(num_features, seed))
        if isinstance(made, BySensor) and at.first is not None:
            made.first = at.first
        return made

    @property
    def code(self) -> tuple[Any, ...]:
        detector = self.detector.func if isinstance(self.detector, partial) else self.detector
        return (self.read, self.describe, self.detecting, detector)


@dataclass(frozen=True)
class Ours:
    """The default. It draws 256 records of a longer past by the hash of corpus and record: a seed is another name of the corpus."""

    name: str = "vibray, the default"
    needs: tuple[str, ...] = ()
    settings: str | None = None
    code: tuple[Any, ...] = (Vibray,)

    def make(self, at: Machine, seed: int, keep: object = None) -> Vibray:
        return Vibray(at.rate_hz, at.mains, at.unit_pattern, at.first, f"draw{seed}")


def num_lines(peer: Peer | Ours) -> int:
    """Of its own code; blank lines, comments and one-line docstrings do not count."""
    text = [line.strip() for one in peer.code for line in inspect.getsource(one).splitlines()]
    return sum(bool(line) and not line.startswith(('"""', "#")) for line in text)


EFFICIENT, MINIMAL = "EfficientFCParameters", "MinimalFCParameters"
PYOD = {name: partial(pyod, name) for name in ("IForest", "ECOD", "DeepSVDD")}
PEERS: tuple[Peer | Ours, ...] = (
    Ours(),
    *(
        Peer(f"tsfresh {kind} + PyOD {name}", by_shard, tsfresh_features, detector, settings=settings, needs=("tsfresh", "pyod"))
        for kind, settings in (("efficient", EFFICIENT), ("minimal", MINIMAL))
        for name, detector in PYOD.items()
    ),
    Peer("Ray Data + scipy + PyOD IForest", by_ray, scipy_features, PYOD["IForest"], needs=("pyod",)),
    Peer("scipy + scikit-learn forest", by_shard, scipy_features, Forest),
    Peer("scipy by sensor + scikit-learn forest", by_shard, scipy_features, Forest, BySensor),
    Peer("librosa + scikit-learn forest", by_shard, librosa_features, Forest, needs=("librosa",)),
)
