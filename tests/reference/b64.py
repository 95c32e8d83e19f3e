"""B64, the yardstick of difficulty: log powers of 64 equal bands, scaled by sensor, Mahalanobis. By scipy and scikit-learn only.

`python -m tests.reference.b64 [SEEDS]` prints how hard the default synthetic fleet is for it.
"""

import sys
from dataclasses import replace

import numpy as np
from scipy.signal import welch
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score

from vibray.schema import NORMAL
from vibray.signal.synthetic import FleetConfig, condition, place, waveform


def bands(waveforms: np.ndarray, sample_rate_hz: float) -> np.ndarray:
    """ln of the mean power of 64 bands of 8 bins, DC dropped, of a 1024-point Welch: (records, 64)."""
    x = waveforms.astype(np.float64)
    x -= x.mean(axis=1, keepdims=True)
    power = welch(x, sample_rate_hz, window="hann", nperseg=1024, noverlap=512, detrend=False)[1]  # pyright: ignore[reportArgumentType]
    return np.log(power[:, 1:].reshape(len(x), 64, 8).mean(axis=2) + 1e-30)


def statistics(x: np.ndarray, sensors: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Median and 1.4826 MAD of each sensor."""
    found = {}
    for name in np.unique(sensors):
        own = x[sensors == name]
        middle = np.median(own, axis=0)
        found[name] = middle, 1.4826 * np.median(np.abs(own - middle), axis=0)
    return found


def scaled(x: np.ndarray, sensors: np.ndarray, by: dict[str, tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Each record against the statistics of its sensor."""
    return np.stack([(row - by[name][0]) / by[name][1] for row, name in zip(x, sensors, strict=True)])


def corpus(config: FleetConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bands, sensors and labels of all records of a fleet."""
    x, sensors, labels = [], [], []
    for index in range(config.num_records):
        at = place(config, index)
        x.append(bands(waveform(config, at)[None], config.sample_rate_hz)[0])
        sensors.append(f"{at.unit}-{at.sensor}")
        labels.append(condition(config, at).fault or NORMAL)
    return np.array(x), np.array(sensors), np.array(labels)


def auroc(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Of all faults, and of each against the normal records."""
    normal = labels == NORMAL
    figures = {"all": float(roc_auc_score(~normal, scores))}
    for fault in sorted(set(labels.tolist()) - {NORMAL}):
        those = normal | (labels == fault)
        figures[fault] = float(roc_auc_score(labels[those] == fault, scores[those]))
    return figures


def difficulty(config: FleetConfig, num_pool: int = 2000, num_test: int = 1000, calibrated_on: int = 0) -> dict[str, float]:
    """AUROC of B64: pool with the config's contamination, then test records, half of them faults.

    The test records are later ones of the same units; with `calibrated_on` = k they are of 4 units that the pool does not have, after the
    first k records of each of their sensors, by which they are centred and scaled.
    """
    pool = replace(config, num_records=num_pool)
    x, sensors, _ = corpus(pool)
    by = statistics(x, sensors)
    fitted = LedoitWolf().fit(scaled(x, sensors, by))
    if calibrated_on:
        new = replace(config, first_unit=config.first_unit + config.num_units, num_units=4)
        x, sensors, _ = corpus(replace(new, num_records=calibrated_on * new.num_units * new.sensors_per_unit))
        by, first_step = statistics(x, sensors), calibrated_on
    else:
        new, first_step = config, -(-num_pool // (config.num_units * config.sensors_per_unit))
    test = replace(new, num_records=num_test, first_step=config.first_step + first_step, contamination=0.5)
    x, sensors, labels = corpus(test)
    return auroc(fitted.mahalanobis(scaled(x, sensors, by)), labels)


def table(seeds: int = 5, calibrated_on: int = 0) -> dict[str, list[float]]:
    """Each figure over the seeds."""
    rows = [difficulty(FleetConfig(seed=seed), calibrated_on=calibrated_on) for seed in range(seeds)]
    return {name: [row[name] for row in rows] for name in rows[0]}


if __name__ == "__main__":
    num_seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    for title, k in (("same units", 0), ("unseen units, k = 200", 200)):
        print(f"B64 AUROC, {title}, {num_seeds} seeds: mean, spread")
        for name, values in table(num_seeds, k).items():
            print(f"  {name:20} {np.mean(values):.3f} {np.std(values):.3f}  {' '.join(f'{v:.3f}' for v in values)}")
