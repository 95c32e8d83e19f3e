"""How well the classical recipes do on the synthetic fleet: units unseen in training, calibrated with their own earliest records.

`python -m tests.reference.fleet_table [--seeds 0 1 2 3 4] [--ablations]` prints, as mean and standard deviation over the
seeds: AUROC over all and by fault, AUPRC, partial AUROC and the paired difference to the default for each recipe, of records and of means
over a unit's sensors at one time; the default with 20 calibration records a sensor and with none; and the realised false-alarm rates. A
seed draws the fleet's machines, too. It takes two minutes a seed.
"""

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from vibray import recipes
from vibray.decide.metrics import auprc, auroc, partial_auroc
from vibray.decide.pooling import mean_by, moments
from vibray.features.scaling import Scaling, ScalingConfig, ScalingFit, Sensor
from vibray.models.classical import MahalanobisConfig
from vibray.models.fitted import Fitted
from vibray.models.fused import FusedMahalanobisConfig
from vibray.models.trimming import TrimConfig
from vibray.recipes import ClassicalRecipe, build_classical, build_vector, columns_of, level_of
from vibray.schema import NORMAL
from vibray.signal.synthetic import FleetConfig, condition, place, waveform
from vibray.train.classical import Rows, fit_detector, fit_scaling

TRAINING_UNITS, NEW_UNITS = 40, 8
POOL, TEST, HEALTHY, CALIBRATION = 4000, 1000, 1104, 200
CHUNK = 64
MAINS_HZ = 50.0


@dataclass(frozen=True)
class Records:
    """The vectors of some records of a fleet, by kind of feature, and what is known of them."""

    vectors: dict[str, torch.Tensor]
    sensors: list[Sensor]
    labels: np.ndarray
    energised: np.ndarray
    moment: np.ndarray
    """number of the unit and step"""

    def rows(self, kind: str) -> Rows:
        keys = np.random.default_rng(0).permutation(len(self.sensors)).astype(np.uint64)
        return Rows(self.vectors[kind], self.sensors, keys)

    def first(self, k: int) -> Iterator[tuple[Sensor, np.ndarray]]:
        """The first k records of each sensor."""
        for sensor in sorted(set(self.sensors)):
            yield sensor, np.flatnonzero([other == sensor for other in self.sensors])[:k]


def records(config: FleetConfig, features: Mapping[str, recipes.Vector]) -> Records:
    """All records of a fleet."""
    places = [place(config, i) for i in range(config.num_records)]
    found = [condition(config, at) for at in places]
    vectors = {kind: [] for kind in features}
    for start in range(0, len(places), CHUNK):
        x = torch.from_numpy(np.stack([waveform(config, at) for at in places[start : start + CHUNK]]))
        for kind, feature in features.items():
            vectors[kind].append(feature(x, config.sample_rate_hz))
    return Records(
        {kind: torch.cat(chunks) for kind, chunks in vectors.items()},
        [(f"u{at.unit}", f"u{at.unit}-s{at.sensor}") for at in places],
        np.array([what.fault or NORMAL for what in found]),
        np.array([what.energised for what in found]),
        moments(*(np.array([getattr(at, name) for at in places]) for name in ("unit", "sensor", "step")), tolerance_s=0.0),
    )


def fleet(seed: int, features: Mapping[str, recipes.Vector]) -> dict[str, Records]:
    """pool: of the training units, 5 % faults; calibration: the first of new units, unlabelled too; test: later, half faults; healthy:
    later still, no faults."""
    pool = FleetConfig(seed=seed, num_units=TRAINING_UNITS, num_records=POOL)
    new = replace(pool, first_unit=TRAINING_UNITS, num_units=NEW_UNITS)
    sensors = NEW_UNITS * pool.sensors_per_unit
    configs = {
        "pool": pool,
        "calibration": replace(new, num_records=CALIBRATION * sensors),
        "test": replace(new, num_records=TEST, first_step=CALIBRATION, contamination=0.5),
        "healthy": replace(new, num_records=HEALTHY, first_step=CALIBRATION + 100, contamination=0.0),
    }
    return {name: records(config, features) for name, config in configs.items()}


@dataclass(frozen=True)
class Judged:
    """A recipe fitted on the pool of a fleet."""

    recipe: ClassicalRecipe
    scaling: Scaling
    detector: Fitted
    columns: list[int]

    def score(self, which: Records, scaling: Scaling | None = None) -> np.ndarray:
        rows = which.rows(self.recipe.feature.kind)
        return self.detector.score((scaling or self.scaling)(rows.x, rows.sensors)[:, self.columns]).numpy()

    def calibrated(self, calibration: Records, k: int) -> Scaling:
        """The scaling that knows the new sensors by their first k records; k = 0: it does not."""
        if not k or self.recipe.scaling.by != "sensor":
            return self.scaling
        x = calibration.vectors[self.recipe.feature.kind]
        rows = dict(calibration.first(k))
        found = [self.scaling.statistics_of(x[at]) for at in rows.values()]
        tables = (torch.stack([own[i] for own in found]) for i in (0, 1))
        return self.scaling.extend(list(rows), [len(at) for at in rows.values()], *tables)


def fitted(recipe: ClassicalRecipe, pool: Records, mains_hz: float) -> Judged:
    """The recipe fitted on a pool, as training does it."""
    feature = build_vector(recipe.feature, mains_hz)
    columns = columns_of(feature, recipe.detector.blocks)
    load = partial(Records.rows, pool)
    parts = [recipe.feature.kind]
    scaling = fit_scaling(ScalingFit(recipe.scaling, feature.shape, level_of(feature)), parts, load)
    return Judged(recipe, scaling, fit_detector(build_classical(recipe.detector, feature), scaling, columns, parts, load), columns)


def figures(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """AUROC of all faults and of each, AUPRC, and partial AUROC at false-positive rates up to .1."""
    abnormal = labels != NORMAL
    found = {"all": auroc(scores, abnormal)}
    for fault in sorted(set(labels[abnormal].tolist())):
        those = ~abnormal | (labels == fault)
        found[fault] = auroc(scores[those], abnormal[those])
    found |= {"AUPRC": auprc(scores, abnormal), "pAUROC": partial_auroc(scores, abnormal)}
    return {name: float("nan") if value is None else value for name, value in found.items()}


def conformal_cut(scores: np.ndarray, rate: float) -> float:
    """The ceil((1 - rate)(n + 1))-th smallest score of n trusted normals."""
    rank = int(np.ceil((1 - rate) * (len(scores) + 1)))
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else float("inf")


def false_alarms(judged: Judged, data: Mapping[str, Records], over_sensors: bool) -> dict[str, np.ndarray]:
    """Alarms on the healthy, energised records by each way to cut, at nominal 1 % and 5 %: (2, records)."""
    scaling = judged.calibrated(data["calibration"], CALIBRATION)
    found = {name: judged.score(data[name], None if name == "pool" else scaling) for name in ("pool", "calibration", "healthy")}
    if over_sensors:
        found = {name: mean_by(data[name].moment, scores) for name, scores in found.items()}
    pool, calibration = found["pool"], found["calibration"]
    on = data["healthy"].energised
    healthy = found["healthy"][on]
    cuts = {
        "percentile of the pool's scores (a rate)": [np.quantile(pool, 1 - rate) for rate in (0.01, 0.05)],
        "percentile of the calibration's scores (a rate)": [np.quantile(calibration, 1 - rate) for rate in (0.01, 0.05)],
    }
    for name, scores, which in (("pool", pool, data["pool"]), ("calibration", calibration, data["calibration"])):
        trusted = (which.labels == NORMAL) & which.energised
        cuts[f"conformal, the {name}'s normals"] = [conformal_cut(scores[trusted], rate) for rate in (0.01, 0.05)]
    alarms = {name: np.stack([healthy >= cut for cut in own]) for name, own in cuts.items()}

    # a cut for each unit, from its own 99 and more trusted normals
    trusted = (data["calibration"].labels == NORMAL) & data["calibration"].energised
    unit_of = np.array([unit for unit, _ in data["calibration"].sensors])
    units = np.array([unit for unit, _ in data["healthy"].sensors])[on]
    by_unit = np.stack([np.zeros(on.sum(), bool)] * 2)
    for unit in np.unique(units):
        for i, rate in enumerate((0.01, 0.05)):
            by_unit[i, units == unit] = healthy[units == unit] >= conformal_cut(calibration[trusted & (unit_of == unit)], rate)
    return alarms | {"conformal by unit, its calibration's normals": by_unit}


def compared() -> dict[str, ClassicalRecipe]:
    """The default first, then every simple baseline."""
    moved = ("bands", "time", "movement")
    return {
        "fused (default)": recipes.fused(),
        "mahalanobis": recipes.mahalanobis(),
        "banded (B64)": recipes.banded(),
        "rms": recipes.rms(),
        "iforest": recipes.iforest(),
        "knn": recipes.knn(),
        "movement": recipes.movement(),
        "bands+time+movement": replace(recipes.banded(), detector=MahalanobisConfig(blocks=moved)),
        "bands+time+movement, trimmed": replace(recipes.banded(), detector=MahalanobisConfig(blocks=moved, trim=TrimConfig())),
    }


def ablations() -> dict[str, ClassicalRecipe]:
    """The default with each of its parts left out, and with parts that did not earn their place."""
    whole = FusedMahalanobisConfig()
    parts = whole.blocks

    def of(*names: str, **changes) -> ClassicalRecipe:
        return ClassicalRecipe(detector=replace(whole, blocks=names, **changes))

    found = {"fused (default)": recipes.fused()}
    found |= {f"without {name}": of(*(other for other in parts if other != name)) for name in parts}
    found |= {f"{name} alone": of(name) for name in parts}
    found |= {"with movement": of(*parts, "movement"), "with log_mean": of(*parts, "log_mean")}
    found["no trimming"] = of(*parts, trim=None)
    found["trimmed by 5 %"] = of(*parts, trim=TrimConfig(share=0.05))
    by_sensor = ScalingConfig(by="sensor")
    for name, recipe in {"fused": recipes.fused(), "kNN": recipes.knn(), "iforest by sensor": recipes.iforest()}.items():
        found[name] = replace(recipe, scaling=by_sensor)
    found |= {f"clip {clip}": of(*parts, clip=clip) for clip in ((-1e9, 1e9), (-10.0, 10.0), (-6.0, 6.0), (-3.0, 6.0), (-2.0, 10.0))}
    return found


def of_seed(seed: int) -> dict[str, Records]:
    """The fleet of a seed, with the vectors that the recipes here need."""
    return fleet(seed, {"spectral": build_vector(recipes.fused().feature, MAINS_HZ)})


def show(title: str, table: Mapping[str, list[dict[str, float]]]) -> None:
    """Mean (standard deviation) over the seeds, and of the paired difference in AUROC to the first row."""
    names = list(next(iter(table.values()))[0])
    print(f"\n{title}\n{'':30} " + " ".join(f"{name[:12]:>13}" for name in names) + "  less than the first")
    first = np.array([row["all"] for row in next(iter(table.values()))])
    for name, rows in table.items():
        values = np.array([[row[column] for column in names] for row in rows])
        cells = " ".join(f"{m:.4f} ({s:.3f})" for m, s in zip(values.mean(axis=0), values.std(axis=0), strict=True))
        less = first - values[:, 0]
        print(f"{name:30} {cells}  {less.mean():+.4f} ({less.std():.4f}), worst {less.min():+.4f}")


def main(seeds: list[int], with_ablations: bool) -> None:
    torch.set_num_threads(1)
    rows: dict[str, dict[str, list[dict[str, float]]]] = {"main": {}, "over sensors": {}, "ablations": {}, "calibration": {}}
    alarms: dict[str, list[np.ndarray]] = {}
    alarms_over_sensors: dict[str, list[np.ndarray]] = {}
    for seed in seeds:
        data = of_seed(seed)
        test = data["test"]
        for title, those in (("main", compared()), ("ablations", ablations() if with_ablations else {})):
            for name, recipe in those.items():
                judged = fitted(recipe, data["pool"], MAINS_HZ)
                scores = judged.score(test, judged.calibrated(data["calibration"], CALIBRATION))
                rows[title].setdefault(name, []).append(figures(scores, test.labels))
                if title == "main":
                    rows["over sensors"].setdefault(name, []).append(figures(mean_by(test.moment, scores), test.labels))
        judged = fitted(recipes.fused(), data["pool"], MAINS_HZ)
        for k in (CALIBRATION, 20, 0):
            scores = judged.score(test, judged.calibrated(data["calibration"], k))
            rows["calibration"].setdefault(f"k = {k}" if k else "uncalibrated", []).append(figures(scores, test.labels))
        scores = judged.score(test, judged.calibrated(data["calibration"], CALIBRATION))[test.energised]
        rows["calibration"].setdefault("k = 200, energised only", []).append(figures(scores, test.labels[test.energised]))
        for over_sensors, kept in ((False, alarms), (True, alarms_over_sensors)):
            for name, own in false_alarms(judged, data, over_sensors).items():
                kept.setdefault(name, []).append(own)
    units = f"pool {POOL} records of {TRAINING_UNITS} units, test {TEST} of {NEW_UNITS} other units, half of them faults"
    show(f"{units}, k = {CALIBRATION}, seeds {seeds}: mean (std)", rows["main"])
    show("the same by the mean over a unit's sensors at one time", rows["over sensors"])
    if with_ablations:
        show("ablations", rows["ablations"])
    show("the default by calibration", rows["calibration"])
    num = sum(own.shape[1] for own in next(iter(alarms.values())))
    print(f"\nfalse alarms of the default on {num} healthy energised records of {NEW_UNITS * len(seeds)} unseen units")
    show_alarms(alarms)
    print("the same by the mean over a unit's sensors")
    show_alarms(alarms_over_sensors)


def show_alarms(alarms: Mapping[str, list[np.ndarray]]) -> None:
    """Realised rates of each way to cut, and their standard deviation over the seeds."""
    for name, own in alarms.items():
        together, apart = np.concatenate(own, axis=1).mean(axis=1), np.array([o.mean(axis=1) for o in own])
        cells = " | ".join(
            f"nominal {r:g} %: {100 * t:.2f} % (std of seeds {100 * s:.2f})"
            for r, t, s in zip((1, 5), together, apart.std(axis=0), strict=True)
        )
        print(f"  {name:50} {cells}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--ablations", action="store_true")
    arguments = parser.parse_args()
    main(arguments.seeds, arguments.ablations)
