"""Baselines of sensors that training did not see, from their earliest records: statistics, history, and scores out of sample."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pyarrow as pa
import torch

from vibray import schema
from vibray.decide.pseudo_labels import UNDECIDED_STATES
from vibray.decide.state import centred_rms, history_of
from vibray.features.scaling import Scaling, Sensor
from vibray.recipes.kinds import FeatureConfig
from vibray.runs.inputs import Inputs, mains_snr_db
from vibray.runs.run import CHUNK, Run
from vibray.storage.vectors import waveforms_of

NUM_FOLDS = 10
"""Of the records that calibrate a sensor, for their scores out of sample: each is scored against a baseline of nine tenths of them, of
fewer than ten records against one of all the others."""

Features = dict[FeatureConfig, torch.Tensor]
"""Raw values of a sensor's records."""

New = dict[str, tuple[FeatureConfig, Scaling]]
"""By member, its feature and the scaling that does not know the sensor."""


def calibration_table(run: Run, records: Mapping[Sensor, pa.Table], num_folds: int | None = NUM_FOLDS) -> tuple[pa.Table, pa.Table]:
    """One row a sensor and baseline: its robust statistics, its history, and the scores of its own records out of sample. A member that
    knows a sensor already keeps the baseline of its training: it has no row. With `num_folds` None also one row a record, the context:
    what the run says of it against all the others of its sensor."""
    rows, context = [], []
    for sensor, table in sorted(records.items()):
        w, scalings = waveforms_of(table), run.model.scalings()
        new: New = {name: (config, scaling) for name, (config, scaling) in scalings.items() if not scaling.known([sensor]).all()}
        features = raw_features(run, w)
        finite = torch.stack([x.flatten(1).isfinite().all(dim=1) for x in features.values()]).all(dim=0)
        table, w = table.filter(pa.array(finite.numpy())), w[finite.numpy()]
        features = {config: x[finite] for config, x in features.items()}
        if not len(w):
            continue
        snr_db = mains_snr_db(w, run.facts)
        history = history_of(centred_rms(w), snr_db)
        states, _ = replace(run, histories=run.histories | {sensor: history}).states(w, [sensor] * len(w), snr_db)
        outputs = _out_of_sample(run, sensor, w, features, new, num_folds)
        ids, alone = table["record_id"].to_pylist(), len(w) == 1
        usable = [i for i, state in enumerate(states) if state not in UNDECIDED_STATES and not alone]
        times, scores = table["measured_at"].to_pylist(), outputs["score"].tolist()
        num_others = np.concatenate([np.full(len(fold), len(w) - len(fold)) for fold in _folds(len(w), num_folds)])
        p_values = pa.array(run.fleet_scores.p_values(run.detector_scores(outputs).numpy(), num_others), from_pandas=True).to_pylist()
        for name, (config, scaling) in new.items():
            location, scale = scaling.statistics_of(features[config])
            rows.append(
                {
                    "member": name,
                    "unit": sensor[0],
                    "sensor_id": sensor[1],
                    "num_records": len(w),
                    "first_at": min(times),
                    "last_at": max(times),
                    "location": location.flatten().tolist(),
                    "scale": scale.flatten().tolist(),
                    "median_rms": history.median_rms,
                    "mains_share": history.mains_share,
                    "scores": [scores[i] for i in usable],
                    "record_ids": [ids[i] for i in usable],
                    "fleet_p_values": [p_values[i] for i in usable],
                }
            )
        if num_folds is None:
            said = {name: values.numpy() for name, values in outputs.items()}
            context.append(pa.table({"record_id": ids, "calibrated": np.full(len(w), not alone), **said}))
    return pa.Table.from_pylist(rows, schema=schema.CALIBRATION), pa.concat_tables(context or [schema.CONTEXT.empty_table()])


@torch.inference_mode()
def _out_of_sample(
    run: Run, sensor: Sensor, waveforms: np.ndarray, features: Features, new: New, num_folds: int | None
) -> dict[str, torch.Tensor]:
    """What the run says of each record against baselines of the others, in folds of consecutive records; of a record that is alone, against
    the baseline of a sensor that is not known.

    A record that helped to make its baseline lies closer to it than any later one: against such scores a healthy sensor's windows exceed
    at 2.8 % (50 records), 1.6 % (100) and 1.2 % (200) for a nominal 1 %.
    """
    num, scalings = len(waveforms), {name: scaling for name, (_, scaling) in run.model.scalings().items()}
    found = []
    for held_out in _folds(num, num_folds):
        others = torch.from_numpy(np.setdiff1d(np.arange(num), held_out))
        own = {}
        if len(others):
            own = {name: scaling.with_sensors([(sensor, features[config][others])]) for name, (config, scaling) in new.items()}
        inputs = Inputs(torch.from_numpy(waveforms[held_out]), run.facts, {config: x[held_out] for config, x in features.items()})
        found.append(run.model.rescaled(scalings | own).outputs(inputs, [sensor] * len(held_out)))
    return {name: torch.cat([each[name] for each in found]) for name in found[0]}


def _folds(num: int, num_folds: int | None) -> list[np.ndarray]:
    """Which of `num` records are held out together."""
    return np.array_split(np.arange(num), min(num_folds or num, num))


def raw_features(run: Run, waveforms: np.ndarray) -> Features:
    """Of records, what each scaling of the run is applied to."""
    chunks = [Inputs(chunk, run.facts) for chunk in torch.from_numpy(waveforms).split(CHUNK)]
    return {config: torch.cat([chunk[config] for chunk in chunks]) for config, _ in run.model.scalings().values()}
