"""Does an alarm budget hold? New units of generated fleets, healthy and with 5 % faults, each sensor calibrated by its first 200 records.

`python -m tests.reference.budget [--seeds 0 1 2 3 4] [--budgets 1/week 5/week 20/week]` prints, for each fleet and budget, what its
reference (those 200 records, scored out of sample) promises and what the later healthy records did: alarms of records and of units, a
week, with the exact Poisson interval over all seeds, and in how many fleets the number was above the budget; where there are faults, how
many of the later faulty records were above the cut (none of them takes part in the alarms). The faults lie in the reference too, unless it
is of records labelled normal alone, or a person has labelled one record a moment of those in it above the default cut (mad, 4). Machines
that are off are left out, as scoring would. Two minutes a seed whose fleet was never made.
"""

import argparse
from dataclasses import replace
from typing import Literal

import numpy as np
import pyarrow as pa
import scipy.stats
import torch

from tests.reference.corpora import CHUNK, FEATURE, FLEET, POOL_RECORDS, POOL_UNITS, cached, key_of, of_fleet
from vibray import recipes, schema
from vibray.config import to_json
from vibray.decide.alarm_rates import onsets
from vibray.decide.budget import WEEK_MS, budget_per_week
from vibray.decide.cuts import Cuts
from vibray.decide.unit_alarms import UnitConfig, unit_runs
from vibray.decide.units import compare, decide_units, keep_budget
from vibray.fitting.calibration import NUM_FOLDS
from vibray.fitting.classical import fit_parts
from vibray.recipes.building import build_vector
from vibray.schema import NORMAL
from vibray.signal.robust import median_mad
from vibray.signal.synthetic import FleetConfig, condition, measured_at, place, waveform

UNITS, SENSORS, STEPS, K = 10, 3, 600, 200
SOURCES = ("signal", "features", "models", "fitting")


def fleets(seed: int) -> tuple[FleetConfig, FleetConfig]:
    """New units, healthy, and the same with faults at 5 % of their moments."""
    healthy = FleetConfig(seed=seed, first_unit=POOL_UNITS, num_units=UNITS, sensors_per_unit=SENSORS, contamination=0.0)
    healthy = replace(healthy, num_records=UNITS * SENSORS * STEPS)
    return healthy, replace(healthy, contamination=0.05)


def vectors(config: FleetConfig) -> torch.Tensor:
    """Of all records; those of the faulty fleet are the healthy one's but where there is a fault."""
    if not config.contamination:
        return of_fleet(config).vectors
    places = [place(config, i) for i in range(config.num_records)]
    rows = np.flatnonzero([condition(config, at).fault is not None for at in places])

    def make() -> dict[str, np.ndarray]:
        feature, made = build_vector(FEATURE, FLEET.mains_hz), []
        for i in range(0, len(rows), CHUNK):
            x = np.stack([waveform(config, places[row]) for row in rows[i : i + CHUNK]])
            made.append(feature(torch.from_numpy(x), FLEET.sample_rate_hz).numpy())
        return {"vectors": np.concatenate(made)}

    whole = vectors(replace(config, contamination=0.0)).clone()
    whole[rows] = torch.from_numpy(cached(key_of("faulty", to_json(config)), make)["vectors"])
    return whole


def scores_of(seed: int, config: FleetConfig) -> np.ndarray:
    """By the default, fitted on other units; the first 200 records of a sensor against baselines that had not seen them."""

    def make() -> dict[str, np.ndarray]:
        pool, recipe = of_fleet(FleetConfig(seed=seed, num_units=POOL_UNITS, num_records=POOL_RECORDS)), recipes.fused()
        scaling, detector, columns = fit_parts(recipe, FLEET.mains_hz, [pool.rows(0)], lambda part: part)
        x, score = vectors(config), np.empty(config.num_records, np.float32)
        number = np.arange(config.num_records) % (UNITS * SENSORS)
        for sensor in range(UNITS * SENSORS):
            rows, name = np.flatnonzero(number == sensor), ("u", str(sensor))
            first = rows[:K]
            for fold, of in [(rows[K:], first), *((held, np.setdiff1d(first, held)) for held in np.array_split(first, NUM_FOLDS))]:
                known = scaling.with_sensors([(name, x[of])])
                score[fold] = detector.score(known(x[fold], [name] * len(fold))[:, columns]).numpy()
        return {"score": score}

    return cached(key_of("budget", seed, to_json(config), sources=SOURCES), make)["score"]


def table_of(seed: int, config: FleetConfig) -> tuple[pa.Table, list[str | None]]:
    """A scores table, and the labels of all records."""
    places = [place(config, i) for i in range(config.num_records)]
    what = [condition(config, at) for at in places]
    columns = {
        "corpus": ["c"] * len(places),
        "record_id": [f"s@{i}" for i in range(len(places))],
        "line": pa.nulls(len(places), pa.int64()),
        "unit": [f"u{at.unit}" for at in places],
        "sensor_id": [f"u{at.unit}-s{at.sensor}" for at in places],
        "measured_at": [measured_at(config, at.unit, at.step) for at in places],
        "sample_rate_hz": [config.sample_rate_hz] * len(places),
        "content_hash": [f"{i:032x}" for i in range(len(places))],
        "state": ["energised" if of.energised else "off" for of in what],
        "state_cause": pa.nulls(len(places), pa.string()),
        "calibrated": np.ones(len(places), bool),
        "score": scores_of(seed, config),
        schema.FLEET_P_VALUE.name: pa.nulls(len(places), pa.float32()),
    }
    table = pa.table(columns, schema=schema.scores()).append_column(schema.TIME_TRUSTED, pa.array(np.ones(len(places), bool)))
    return table, [of.fault or NORMAL for of in what]


Known = Literal["nothing", "normals", "doubtful"]
"""What a person has labelled of the reference: nothing, all records, or one a moment of those above the default cut (mad, 4)."""


def realised(seed: int, config: FleetConfig, budget: str, known: Known) -> dict[str, float]:
    """What the budget promises on the first 200 records of each sensor, and what the later ones did."""
    table, said = table_of(seed, config)
    first = np.array([place(config, i).step < K for i in range(config.num_records)])
    healthy, score = np.array(said) == NORMAL, table["score"].to_numpy()
    faulty = score[~healthy & ~first]
    kept = np.flatnonzero(healthy | (first & (known != "normals")))  # what faults raise is no false alarm
    table, first, healthy = table.take(pa.array(kept)), first[kept], healthy[kept]
    asked = first.copy()
    if known == "doubtful":
        middle, spread = median_mad(table["score"].to_numpy()[first])
        asked &= table["score"].to_numpy() >= middle + 4 * spread
        moment = kept // SENSORS
        asked &= np.isin(np.arange(len(kept)), np.flatnonzero(asked)[np.unique(moment[asked], return_index=True)[1]])
    human: list[str | None] = [said[i] if of else None for i, of in zip(kept, asked, strict=True)]
    compared = compare(table, K, None if known == "nothing" else human, known == "normals")
    cuts, rule, facts = keep_budget(budget, compared, Cuts(-1e9, 1e9), UnitConfig(), None)
    time_ms = table["measured_at"].to_numpy().astype("datetime64[ms]").astype(np.int64)
    # none by windows of the reference's time: it ends later where faults were left out
    counted = time_ms > time_ms[compared.in_reference].max() + 1000 * config.interval_s * UnitConfig.persist[1]
    weeks = (time_ms[counted].max() - time_ms[counted].min()) / WEEK_MS
    above = (table["score"].to_numpy() >= cuts.anomaly_above) & counted & compared.usable
    windows = decide_units(compared, cuts, rule).scores
    later = windows["window"].to_numpy().astype("datetime64[ms]").astype(np.int64) >= time_ms[counted].min()
    alarm = windows["alarm"].to_numpy(zero_copy_only=False) & later
    return {
        "weeks": float(weeks),
        "records": float(above.sum()),
        "units": float(sum(int(onsets(alarm[rows])) for rows in unit_runs(windows))),
        "expected records": facts["records"]["expected_per_week"],
        "expected units": facts["units"]["expected_per_week"],
        "limit records": facts["records"]["upper_per_week"],
        "limit units": facts["units"]["upper_per_week"],
        "labels": float(asked.sum()) if known == "doubtful" else 0.0,
        "recall": float((faulty >= cuts.anomaly_above).mean()) if len(faulty) else float("nan"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--budgets", nargs="+", default=["1/week", "5/week", "20/week"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{UNITS} units of {SENSORS} sensors, {STEPS - K} records a sensor after {K} of reference")
    contests: tuple[tuple[str, int, Known], ...] = (
        ("healthy", 0, "nothing"),
        ("5 % faults, reference of labelled normals", 1, "normals"),
        ("5 % faults, in the reference too", 1, "nothing"),
        ("5 % faults, in the reference too but for labelled ones", 1, "doubtful"),
    )
    for name, which, known in contests:
        for budget in args.budgets:
            found = [realised(seed, fleets(seed)[which], budget, known) for seed in args.seeds]
            of = {key: np.array([run[key] for run in found]) for key in found[0]}
            told = []
            for what in ("records", "units"):
                count, weeks = of[what].sum(), of["weeks"].sum()
                low, high = scipy.stats.chi2.ppf(0.025, 2 * count) / 2 if count else 0.0, scipy.stats.chi2.ppf(0.975, 2 * count + 2) / 2
                over = int((of[what] > budget_per_week(budget) * of["weeks"]).sum())
                told.append(
                    f"{what} expected {of[f'expected {what}'].mean():.2g}, limit {of[f'limit {what}'].mean():.2g}, realised "
                    f"{count / weeks:.2g} [{low / weeks:.2g}, {high / weeks:.2g}] a week, {over} of {len(found)} fleets above the budget"
                )
            recall = "" if np.isnan(of["recall"]).any() else f"; recall {of['recall'].mean():.2f}"
            recall += f" by {of['labels'].mean():.0f} labels" if known == "doubtful" else ""
            print(f"{name}, {budget}: {'; '.join(told)}{recall}", flush=True)


if __name__ == "__main__":
    main()
