"""A run in memory: waveforms in, scores and states out."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vibray.config import UserError
from vibray.decide.fleet_scores import FleetScores
from vibray.decide.state import SensorHistory, causes, state_statistics, states
from vibray.features.scaling import Sensor
from vibray.models.classifier import NO_FAULT, UNKNOWN_FAULT
from vibray.recipes.kinds import Recipe
from vibray.runs.inputs import Inputs
from vibray.runs.models import DETECTOR, Diagnosing, Fusing, Model, Naming, detectors
from vibray.schema import MEMBER_PREFIX, NORMAL, UNKNOWN, Cause, State
from vibray.signal.precision import exact_float32
from vibray.storage.corpus import CorpusFacts

CHUNK = 64
"""Records whose images stand in memory at once."""

Waveforms = Float[Tensor, "batch samples"] | Float[np.ndarray, "batch samples"]


class RunMismatch(UserError):
    """A run and an input do not belong together; the message shows both."""


@dataclass
class Run:
    """A finished training: its recipe, the corpus' facts it holds for, and the fitted model."""

    recipe: Recipe
    facts: CorpusFacts
    model: Model
    histories: dict[Sensor, SensorHistory] = field(default_factory=dict)
    """what is known of each sensor's own past: the state of its later records depends on it"""
    fleet_scores: FleetScores = field(default_factory=lambda: FleetScores({}))
    """how rare a score is among healthy records of the machines of training"""
    device: str = "cpu"
    """where features are made and nets run"""

    @property
    def members(self) -> tuple[str, ...]:
        if isinstance(self.model, Naming):
            return (DETECTOR,)
        return tuple(self.model.members) if isinstance(self.model, Fusing) else ()

    @property
    def faults(self) -> tuple[str, ...] | None:
        return self.model.faults if isinstance(self.model, Diagnosing | Naming) else None

    def score(self, waveforms: Waveforms, sample_rate_hz: float, sensors: Sequence[Sensor] | None = None) -> Float[Tensor, " batch"]:
        """Anomaly scores, higher = more abnormal. `sensors` are (unit, sensor_id); None or unknown: against the fleet's baseline.

        No record gives no score. Raises RunMismatch where rate or length are not those of the training corpus.
        """
        return self.outputs(waveforms, sample_rate_hz, sensors)["score"]

    def outputs(self, waveforms: Waveforms, sample_rate_hz: float, sensors: Sequence[Sensor] | None = None) -> dict[str, Tensor]:
        """`score`, a column a member of an ensemble, a classifier's probabilities and fault number, by their names in the scores table."""
        return self._passed(waveforms, sample_rate_hz, sensors, with_mains=False)[0]

    def outputs_and_snr_db(
        self, waveforms: Waveforms, sample_rate_hz: float, sensors: Sequence[Sensor] | None = None
    ) -> tuple[dict[str, Tensor], np.ndarray | None]:
        """`outputs`, and what `states` wants to know of the mains' lines: one search for them serves both. None for a machine without."""
        outputs, snr_db = self._passed(waveforms, sample_rate_hz, sensors, with_mains=self.facts.mains_hz is not None)
        return outputs, None if self.facts.mains_hz is None else snr_db.numpy()

    @torch.inference_mode()
    def _passed(
        self, waveforms: Waveforms, sample_rate_hz: float, sensors: Sequence[Sensor] | None, with_mains: bool
    ) -> tuple[dict[str, Tensor], Float[Tensor, " mains"]]:
        self.check(sample_rate_hz, waveforms.shape[1])
        w = torch.tensor(np.ascontiguousarray(waveforms)) if isinstance(waveforms, np.ndarray) else waveforms
        if not len(w):  # nets know no batch of none; the columns are those of any other
            outputs, snr_db = self._passed(w.new_zeros(1, w.shape[1]), sample_rate_hz, None, with_mains)
            return {name: column[:0] for name, column in outputs.items()}, snr_db[:0]
        chunks, snrs, blocks = [], [torch.empty(0)], self.model.blocks(self.facts)
        for start in range(0, len(w), CHUNK):
            part = slice(start, start + CHUNK)
            inputs = Inputs(w[part].to(self.device), self.facts, blocks=blocks)
            chunks.append(self.model.outputs(inputs, None if sensors is None else sensors[part]))
            if with_mains and inputs.mains is not None:
                snrs.append(inputs.mains.snr_db.cpu())
        return {name: torch.cat([chunk[name] for chunk in chunks]).cpu() for name in chunks[0]}, torch.cat(snrs)

    def detector_scores(self, outputs: Mapping[str, Tensor]) -> Float[Tensor, " batch"]:
        """Of the outputs, the score that `fleet_scores` speaks of: a diagnosis keeps its detector's beside its own."""
        return outputs[MEMBER_PREFIX + DETECTOR if isinstance(self.model, Naming) else "score"]

    def check(self, sample_rate_hz: float, num_samples: int) -> None:
        """Raises RunMismatch where a record of this rate and length is none this run was trained for."""
        if (sample_rate_hz, num_samples) != (self.facts.sample_rate_hz, self.facts.num_samples):
            raise RunMismatch(
                f"the run was trained on records of {self.facts.num_samples} samples at {self.facts.sample_rate_hz:g} Hz, "
                f"the input has {num_samples} at {sample_rate_hz:g} Hz: train a run for it, or correct --sample-rate-hz"
            )

    def known(self, sensors: Sequence[Sensor]) -> np.ndarray:
        """bool a record: its sensor has a baseline in the run, or in the calibration that it was given."""
        return np.logical_and.reduce([scaling.known(sensors) for _, scaling in self.model.scalings().values()])

    def num_records(self, sensors: Sequence[Sensor]) -> np.ndarray:
        """int64 a record: how many records made its sensor's baseline, in the run or its calibration; 0 where it has none."""
        counts = [scaling.counts for _, scaling in self.model.scalings().values()]
        return np.array([min(own.get(sensor, 0) for own in counts) for sensor in sensors], np.int64)

    def states(
        self, waveforms: Float[np.ndarray, "batch samples"], sensors: Sequence[Sensor], snr_db: np.ndarray | None, num_threads: int = 1
    ) -> tuple[list[State], list[Cause | None]]:
        """What the machine was doing in each record, and why its sensor is called faulty where it is; `snr_db`: of `mains_snr_db`."""

        def of_chunk(start: int) -> tuple[list[State], list[Cause | None]]:
            part = slice(start, start + CHUNK)
            history = [self.histories.get(sensor) for sensor in sensors[part]]
            statistics = state_statistics(waveforms[part], self.facts.sample_rate_hz)
            found = states(statistics, None if snr_db is None else snr_db[part], history)
            return found, causes(statistics, found)

        with ThreadPoolExecutor(num_threads) as pool:
            chunks = list(pool.map(of_chunk, range(0, len(waveforms), CHUNK)))
        return [state for found, _ in chunks for state in found], [cause for _, why in chunks for cause in why]

    def fault_names(self, number: Tensor) -> list[str]:
        """The `fault` column of a classifier's outputs, in words."""
        names = {NO_FAULT: NORMAL, UNKNOWN_FAULT: UNKNOWN, **dict(enumerate(self.faults or ()))}
        return [names[i] for i in number.tolist()]

    def calibrated(self, calibration: pa.Table) -> "Run":
        """The same run with the sensors of a calibration table added to its baselines."""
        rows = calibration.to_pylist()
        extended = {}
        for name, (_, scaling) in self.model.scalings().items():
            own = [row for row in rows if row["member"] == name]
            table = [torch.tensor([row[column] for row in own]) for column in ("location", "scale")]
            names, counts = [(row["unit"], row["sensor_id"]) for row in own], [row["num_records"] for row in own]
            extended[name] = scaling.extend(names, counts, *table) if own else scaling
        histories = {(row["unit"], row["sensor_id"]): SensorHistory(row["median_rms"], row["mains_share"]) for row in rows}
        return replace(self, model=self.model.rescaled(extended), histories=self.histories | histories)

    def hastened(self) -> "Run":
        """The same run with its nets in the form that is fastest on a CPU, for scoring alone; scores differ by float32's rounding."""
        return replace(self, model=self.model.hastened())

    def to(self, device: str) -> "Run":
        """Moves the nets to a device, such as cuda, where the features are then made too."""
        exact_float32()
        nets = [self.model.net] if isinstance(self.model, Diagnosing) else [m.detector for m in detectors(self.model)]
        for net in nets:
            if isinstance(net, nn.Module):
                net.to(device)
        self.device = device
        return self
