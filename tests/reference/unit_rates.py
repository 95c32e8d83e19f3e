"""How often windows of healthy units exceed where the units are new to the run and calibrated with their own earliest records.

`python -m tests.reference.unit_rates [--seeds 0 1 2 3 4] [--k 5 10 20 50 100 200] [--recipe fused]` prints, for nominal rates of 1 % and
5 %, by k and by what the reference is: the realised rate with a 95 % interval by units drawn with replacement, the spread over units (5th,
50th and 95th percentile), and the same where the records that calibrated a sensor count with the scores they have against a baseline that
saw them. A seed draws the machines, too. It takes two to three minutes a seed.

`--real` prints instead how often healthy test records of the real corpora have p <= 1 and 5 %, and how often faulty ones, the pool's
records (or those that calibrate a new sensor, out of sample) being the reference. None has machines enough for a `fleet_p_value`.
"""

import argparse
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import torch

from tests.decide.fleet import record_p_values
from tests.reference.corpora import FLEET as FACTS
from tests.reference.corpora import POOL_RECORDS, POOL_UNITS, REAL, Records, of_fleet, real
from tests.reference.suite import fitted
from tests.tables.sensors import numbered
from vibray import recipes, schema
from vibray.decide.cuts import Cuts
from vibray.decide.unit_alarms import UnitConfig
from vibray.decide.units import compare, decide_units
from vibray.features.scaling import Scaling
from vibray.fitting.calibration import NUM_FOLDS, calibration_table
from vibray.fitting.classical import fit_parts
from vibray.fitting.fleet_scores import fleet_scores
from vibray.models.fitted import Fitted
from vibray.recipes.kinds import ClassicalRecipe
from vibray.runs.inputs import Inputs, mains_snr_db
from vibray.runs.models import Detecting
from vibray.runs.run import Run
from vibray.schema import NORMAL
from vibray.signal.synthetic import FleetConfig, measured_at, place
from vibray.storage.vectors import vector_column

NEW_UNITS, STEPS = 40, 500
RATES = (0.01, 0.05)


@dataclass(frozen=True)
class Fleet:
    """New units' records: all healthy, some of machines that are off."""

    waveforms: np.ndarray
    vectors: torch.Tensor
    origin: pa.Table

    def rows(self, step: int) -> np.ndarray:
        """Those before a step."""
        return np.flatnonzero(self.origin["line"].to_numpy() < step)


def new_units(config: FleetConfig) -> Fleet:
    """All records of a fleet, `line` being the step."""
    places = [place(config, i) for i in range(config.num_records)]
    columns = {
        "corpus": ["c"] * len(places),
        "record_id": [f"s@{i}" for i in range(len(places))],
        "line": [at.step for at in places],
        "unit": [f"u{at.unit}" for at in places],
        "sensor_id": [f"u{at.unit}-s{at.sensor}" for at in places],
        "measured_at": [measured_at(config, at.unit, at.step) for at in places],
        "sample_rate_hz": [config.sample_rate_hz] * len(places),
        "content_hash": [f"{i:032x}" for i in range(len(places))],
    }
    records = of_fleet(config)
    return Fleet(records.waveforms(), records.vectors, pa.table(columns, schema=schema.ORIGIN))


def trained(recipe: ClassicalRecipe, seed: int) -> Run:
    """The recipe fitted on other units of the same fleet, 5 % of their records faulty."""
    pool = of_fleet(FleetConfig(seed=seed, num_units=POOL_UNITS, num_records=POOL_RECORDS))
    scaling, detector = fitted(recipe, pool, FACTS.mains_hz)
    run = Run(recipe, FACTS, Detecting(recipe, scaling, detector, torch.zeros(2, dtype=torch.float64)))
    scores = fleet_scores(recipe, FACTS.mains_hz, np.arange(len(pool.sensors)), numbered(pool.sensors), lambda rows: pool.vectors[rows])
    return replace(run, fleet_scores=scores)


def scored(run: Run, fleet: Fleet, k: int) -> tuple[pa.Table, pa.Table]:
    """The scores table with each sensor calibrated by its first k records, and their scores out of sample."""
    sensors = list(zip(fleet.origin["unit"].to_pylist(), fleet.origin["sensor_id"].to_pylist(), strict=True))
    of_sensor: dict[tuple[str, str], list[int]] = {}
    for row in fleet.rows(k).tolist():
        of_sensor.setdefault(sensors[row], []).append(row)
    waveform = schema.records(FACTS.num_samples).field("waveform")
    known = {
        sensor: fleet.origin.take(pa.array(rows)).append_column(waveform, vector_column(fleet.waveforms[rows]))
        for sensor, rows in of_sensor.items()
    }
    calibration, _ = calibration_table(run, known)
    calibrated = run.calibrated(calibration)
    states, causes = calibrated.states(fleet.waveforms, sensors, mains_snr_db(fleet.waveforms, FACTS))
    assert isinstance(run.recipe, ClassicalRecipe)
    inputs = Inputs(torch.from_numpy(fleet.waveforms), FACTS, {run.recipe.feature: fleet.vectors})
    score = calibrated.model.outputs(inputs, sensors)["score"].numpy()
    p_values = run.fleet_scores.p_values(score, calibrated.num_records(sensors))
    columns = {name: fleet.origin[name] for name in schema.ORIGIN.names} | {
        "state": [str(state) for state in states],
        "state_cause": causes,
        "calibrated": calibrated.known(sensors),
        "score": score,
        schema.FLEET_P_VALUE.name: pa.array(p_values, from_pandas=True),
    }
    table = pa.table(columns, schema=schema.scores()).append_column(schema.TIME_TRUSTED, pa.array(np.ones(len(sensors), bool)))
    names = ("record_ids", "scores", "fleet_p_values")
    held = [pa.array([value for row in calibration.to_pylist() for value in row[name]]) for name in names]
    return table, pa.table([pa.array(["c"] * len(held[0])), *held], schema=schema.OUT_OF_SAMPLE)


def exceeding(scores: pa.Table, reference_records: int, out_of_sample: pa.Table | None, rate: float) -> list[np.ndarray]:
    """By unit, which of its judged windows exceed."""
    config = UnitConfig(reference_records=reference_records, rate=rate)
    windows = decide_units(compare(scores, reference_records, out_of_sample=out_of_sample), Cuts(0.0, 1e9), config).scores
    judged = windows.filter(pa.array(~windows["reference"].to_numpy(zero_copy_only=False)))
    unit, exceeds = np.array(judged["unit"].to_pylist()), judged["exceeds"].to_numpy(zero_copy_only=False)
    return [exceeds[unit == name] for name in np.unique(unit)]


def on_real_machines(recipe: ClassicalRecipe) -> Iterator[str]:
    """A line a real corpus and number of records that calibrate a sensor."""
    for name in REAL:
        corpus = real(name)
        scaling, detector, columns = fit_parts(recipe, corpus.facts.mains_hz, [corpus.pool.rows(0)], lambda part: part)

        def score(by: Scaling, records: Records, columns: list[int] = columns, detector: Fitted = detector) -> np.ndarray:
            return detector.score(by(records.vectors, records.sensors)[:, columns]).numpy()

        for k in corpus.ks or (None,):
            sensors, scores, by = list(corpus.pool.sensors), [score(scaling, corpus.pool)], scaling
            if k is not None and corpus.context is not None:
                sensors, scores, context = [], [], corpus.context
                by = scaling.with_sensors((sensor, context.vectors[at]) for sensor, at in context.first(k))
                for sensor, at in context.first(k):
                    for held_out in np.array_split(at, min(NUM_FOLDS, len(at))):
                        others = scaling.with_sensors([(sensor, context.vectors[np.setdiff1d(at, held_out)])])
                        scores.append(score(others, context.take(held_out)))
                        sensors += [sensor] * len(held_out)
            num_reference, test = len(sensors), score(by, corpus.test)
            sensors += corpus.test.sensors
            columns_of_table = {
                "corpus": [name] * len(sensors),
                "record_id": [f"{i:06}" for i in range(len(sensors))],
                "unit": [unit for unit, _ in sensors],
                "sensor_id": [sensor_id for _, sensor_id in sensors],
                "measured_at": np.arange(len(sensors)),
                "score": np.concatenate([*scores, test]),
                schema.FLEET_P_VALUE.name: pa.nulls(len(sensors), pa.float32()),
            }
            in_reference = np.arange(len(sensors)) < num_reference
            p = record_p_values(pa.table(columns_of_table), np.ones(len(sensors), bool), in_reference)[num_reference:]
            cells = []
            for what, of in (("healthy", corpus.test.labels == NORMAL), ("faulty", corpus.test.labels != NORMAL)):
                shares = ", ".join(f"{np.mean(p[of] <= rate):.2%}" for rate in RATES)
                cells.append(f"{of.sum()} {what}: {shares if np.isfinite(p[of]).all() else 'no p-value'}")
            yield f"{name} {'' if k is None else f'k = {k} '}({num_reference} reference records): {'; '.join(cells)}"


def told(found: list[np.ndarray]) -> str:
    """Rate, interval by units, spread over units."""
    sums, sizes = np.array([own.sum() for own in found]), np.array([len(own) for own in found])
    drawn = np.random.default_rng(0).integers(0, len(found), (2000, len(found)))
    low, high = np.percentile(sums[drawn].sum(1) / sizes[drawn].sum(1), [2.5, 97.5])
    spread = np.percentile(sums / sizes, [5, 50, 95])
    rate = f"{sums.sum() / sizes.sum():.3%} [{low:.3%}, {high:.3%}]"
    return f"{rate} of {sizes.sum():,} windows of {len(found)} units; units {', '.join(f'{share:.2%}' for share in spread)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--k", type=int, nargs="+", default=[5, 10, 20, 50, 100, 200])
    parser.add_argument("--sensors", type=int, default=1)
    parser.add_argument("--recipe", default="fused")
    parser.add_argument("--real", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.real:
        print(*on_real_machines(getattr(recipes, args.recipe)()), sep="\n")
        return
    found: dict[tuple[int, int, bool, float], list[np.ndarray]] = {}
    for seed in args.seeds:
        run = trained(getattr(recipes, args.recipe)(), seed)
        size = {"num_units": NEW_UNITS, "sensors_per_unit": args.sensors, "num_records": NEW_UNITS * args.sensors * STEPS}
        fleet = new_units(FleetConfig(seed=seed, first_unit=POOL_UNITS, contamination=0.0, **size))
        for k in args.k:
            scores, held = scored(run, fleet, k)
            for reference_records in sorted({k, 200}):
                for out_of_sample, rate in itertools.product((True, False), RATES):
                    own = exceeding(scores, reference_records, held if out_of_sample else None, rate)
                    found.setdefault((k, reference_records, out_of_sample, rate), []).extend(own)
        print(f"seed {seed}", flush=True)
    for (k, reference_records, out_of_sample, rate), own in found.items():
        how = "out of sample" if out_of_sample else "as scored"
        print(f"nominal {rate:.0%}, k = {k}, reference of {reference_records} records, {how}: {told(own)}")


if __name__ == "__main__":
    main()
