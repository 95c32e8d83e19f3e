"""Does a review queue help? A simulated person labels 20 records of a generated fleet, then 20 more.

`python -m tests.reference.review [--seeds 0 1 2 3 4] [--records 20]` prints, mean and standard deviation over seeds: how many faulty
records the person saw, how many of the five kinds, and the macro-F1 over the faults of unseen units' faulty records, by multinomial
logistic regression (C = .1) on the spectral vector scaled by sensor through sign(x) log(1 + |x|), taught with the faults that the person
named. First by a detector's scores (the default, fitted on the pool); then, after the queue's first round, 20 more. Beside the queue: the
highest scores, random records, and in the second round the records above the cut whose two likeliest faults lie closest together for the
regression. Each with its mean difference to the queue, and the standard error of that over seeds. Half a minute; two minutes more a seed
whose fleet was never made.
"""

import argparse
from dataclasses import replace

import numpy as np
import pyarrow as pa
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from tests.reference.corpora import FLEET, Corpus, cached, fleet, key_of
from vibray import recipes, schema
from vibray.decide.review import review_rows
from vibray.features.scaling import ScalingConfig
from vibray.fitting.classical import fit_parts
from vibray.schema import NORMAL
from vibray.signal.robust import median_mad

CONTEXT = 200


def told(corpus: Corpus, seed: int) -> dict[str, np.ndarray]:
    """The default's scores of the pool, and what the regression reads of the pool and of the test."""

    def make() -> dict[str, np.ndarray]:
        assert corpus.context is not None
        recipe, pool, test, mains = recipes.fused(), corpus.pool, corpus.test, FLEET.mains_hz
        scaling, detector, columns = fit_parts(recipe, mains, [pool.rows(0)], lambda part: part)
        score = detector.score(scaling(pool.vectors, pool.sensors)[:, columns]).numpy()
        by_sensor, _, _ = fit_parts(replace(recipes.banded(), scaling=ScalingConfig(by="sensor")), mains, [pool.rows(0)], lambda part: part)
        known = by_sensor.with_sensors((sensor, corpus.context.vectors[at]) for sensor, at in corpus.context.first(CONTEXT))
        x, x_test = by_sensor(pool.vectors, pool.sensors), known(test.vectors, test.sensors)
        return {"score": score} | {name: (v.sign() * v.abs().log1p()).numpy() for name, v in (("pool", x), ("test", x_test))}

    return cached(key_of("review", seed, sources=("signal", "features", "models", "fitting")), make)


def taught(x: np.ndarray, labels: np.ndarray) -> LogisticRegression | None:
    """The regression on the records called faulty; None where they are of one kind."""
    faulty = labels != NORMAL
    return LogisticRegression(C=0.1, max_iter=2000).fit(x[faulty], labels[faulty]) if len(set(labels[faulty])) > 1 else None


def macro_f1(x: np.ndarray, labels: np.ndarray, x_test: np.ndarray, test: np.ndarray) -> float:
    model = taught(x, labels)
    said = np.full(len(test), next(iter(labels[labels != NORMAL]), NORMAL)) if model is None else model.predict(x_test)
    return float(f1_score(test, said, labels=sorted(set(test)), average="macro", zero_division=0))  # type: ignore[arg-type]


def table_of(corpus: Corpus, score: np.ndarray) -> pa.Table:
    """The columns of a scores table that the queue reads; a moment's number stands for its minute."""
    num = len(score)
    columns = {
        "corpus": ["c"] * num,
        "record_id": [f"s@{i:06}" for i in range(num)],
        "unit": [unit for unit, _ in corpus.pool.sensors],
        "sensor_id": [sensor for _, sensor in corpus.pool.sensors],
        "measured_at": pa.array(corpus.pool.moment * 60_000, pa.int64()).cast(schema.TIME),
        "state": ["energised"] * num,
        "calibrated": np.ones(num, bool),
        "score": score,
    }
    return pa.table(columns)


def rounds(seed: int, num: int) -> dict[str, tuple[float, float, float]]:
    """Faulty records seen, kinds known, macro-F1, by round and rule."""
    corpus = fleet(seed)
    of, labels, rng = told(corpus, seed), corpus.pool.labels, np.random.default_rng(seed)
    score, faulty = of["score"], corpus.test.labels != NORMAL
    middle, spread = median_mad(score)
    above = score >= middle + 4 * spread
    found: dict[str, tuple[float, float, float]] = {}
    known, margin = np.empty(0, np.int64), np.where(above, score, 0.0)
    for name in ("first round", "second round"):
        human = [str(labels[i]) if i in known else None for i in range(len(labels))]
        left = np.setdiff1d(np.arange(len(labels)), known)
        choices = {
            "queue": review_rows(table_of(corpus, score), human, num),
            "smallest margin": review_rows(table_of(corpus, margin), human, num),
            "highest": left[np.argsort(-score[left], kind="stable")][:num],
            "random": rng.permutation(left)[:num],
        }
        if name == "first round":
            del choices["smallest margin"]
        for rule, rows in choices.items():
            seen = np.concatenate([known, rows])
            f1 = macro_f1(of["pool"][seen], labels[seen], of["test"][faulty], corpus.test.labels[faulty])
            found[f"{name}: {rule}"] = float((labels[rows] != NORMAL).sum()), float(len(set(labels[seen]) - {NORMAL})), f1
        known = choices["queue"]
        model = taught(of["pool"][known], labels[known])
        if model is not None:
            *_, second, first = np.sort(model.predict_proba(of["pool"])).T
            margin = np.where(above, 2 - (first - second), score / score.max())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--records", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)
    runs = [rounds(seed, args.records) for seed in args.seeds]
    for name in runs[0]:
        faults, kinds, f1 = np.array([run[name] for run in runs]).T
        own = f1 - [run[f"{name.split(':')[0]}: queue"][2] for run in runs]
        spread = own.std(ddof=1) / len(runs) ** 0.5 if len(runs) > 1 else float("nan")
        print(f"{name}: {faults.mean():.1f} of {args.records} faulty, {kinds.mean():.1f} kinds known,", end=" ")
        print(f"macro-F1 {f1.mean():.3f} +- {f1.std(ddof=1) if len(runs) > 1 else float('nan'):.3f}, {own.mean():+.3f} +- {spread:.3f}")


if __name__ == "__main__":
    main()
