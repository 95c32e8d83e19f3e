"""What a classical recipe says of machines that it was not fitted on, from a baseline of few records on: FleetScores of a run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64

from vibray.decide.fleet_scores import FEWEST_SCORES, LEVELS, FleetScores
from vibray.features.scaling import Scaling, Sensor
from vibray.fitting.classical import fit_parts
from vibray.models.fitted import Fitted, TooFewRecords
from vibray.recipes.kinds import ClassicalRecipe
from vibray.signal.robust import median_mad
from vibray.tables.sensors import Sensors
from vibray.train.classical import Rows

NUM_WINDOWS = 128
"""Of all sensors together: each a run of records that make a baseline, and later ones."""
NUM_FIRST = 60
"""Consecutive records of a window, of which the earliest healthy ones make a baseline: more than the largest level, since some are not."""
NUM_LATER = 32
"""Records of a window that are scored, evenly spaced over all that are later than its first."""
SENSOR_RECORDS = 16
"""A sensor has one window for so many records: more would hold the same ones."""
FEWEST_UNITS = 8
"""With fewer units nothing is said. Of two or three others a detector learns too little of how machines move: on rigs of 2 and 3 bearings
no healthy record and no faulty one had p <= 5 %, which would have muted every alarm."""
NUM_FOLDS = 4
"""Of units: each is scored by a detector that was fitted on the others."""
FAULTY = 4.0
"""Robust standard deviations above the median score from which on a record counts as faulty, and says nothing of healthy ones. With
faults at 5 % in the pool, counted as healthy, no healthy record would ever have p <= 1 %."""


@dataclass(frozen=True)
class Window:
    """Records of a sensor from some time on, in order of time: consecutive ones, some of which make a baseline, and later ones."""

    sensor: Sensor
    rows: Int64[np.ndarray, " rows"]
    """row numbers"""
    num_first: int
    """the first so many are consecutive"""
    spaced: Bool[np.ndarray, " rows"]
    """those that may be scored"""


def fleet_scores(
    recipe: ClassicalRecipe,
    mains_hz: float | None,
    rows: Int64[np.ndarray, " rows"],
    sensors: Sensors,
    read: Callable[[np.ndarray], Float[torch.Tensor, "rows size"]],
) -> FleetScores:
    """Healthy records' scores against baselines of few earlier records of their sensor, a level of LEVELS each.

    `rows` are row numbers in order of time, `sensors` the sensor of each row number; `read` gives the vectors of ascending row numbers, and
    is asked once, for at most NUM_WINDOWS (NUM_FIRST + NUM_LATER) of them. On these rows the recipe is fitted anew, without the units of
    a fold, which are then scored: what was fitted on a machine has seen how it moves, and says too little of it.

    Nothing is said where the rows are of few units, or of too few records for a fit.
    """
    windows = windows_of(rows, sensors)
    units = sorted({window.sensor[0] for window in windows}, key=lambda unit: blake2b(unit.encode(), digest_size=8).digest())
    if len(units) < FEWEST_UNITS:
        return FleetScores({})
    index = np.unique(np.concatenate([window.rows for window in windows]))
    x, of = read(index), sensors.of(index)
    key = np.random.default_rng(0).permutation(len(index)).astype(np.uint64)
    found: dict[int, list[np.ndarray]] = {level: [] for level in LEVELS}
    try:
        for fold in range(NUM_FOLDS):
            away = set(units[fold::NUM_FOLDS])
            kept = np.flatnonzero([sensor[0] not in away for sensor in of])
            others = Rows(x[kept], [of[i] for i in kept], key[kept])
            scored = _Other(*fit_parts(recipe, mains_hz, [others], lambda rows: rows)).scores(
                [window for window in windows if window.sensor[0] in away], index, x
            )
            for level, scores in scored.items():
                found[level].append(scores)
    except TooFewRecords:
        return FleetScores({})
    levels = {level: np.concatenate(scores) for level, scores in found.items() if scores}
    return FleetScores({level: torch.from_numpy(np.sort(s).astype(np.float32)) for level, s in levels.items() if len(s) >= FEWEST_SCORES})


def windows_of(rows: Int64[np.ndarray, " rows"], sensors: Sensors) -> list[Window]:
    """About NUM_WINDOWS windows: of sensors drawn by their names' hash where there are more, several of each where there are fewer."""
    of_sensor = dict(sensors.rows(rows))
    several = (sensor for sensor in of_sensor if len(of_sensor[sensor]) > 1)
    drawn = sorted(several, key=lambda sensor: blake2b("/".join(sensor).encode(), digest_size=8).digest())[:NUM_WINDOWS]
    found = []
    for sensor in drawn:
        own = of_sensor[sensor]
        num = min(-(-NUM_WINDOWS // len(drawn)), max(1, len(own) // SENSOR_RECORDS))
        for start in np.arange(num) * (len(own) // 2) // num:
            after = own[start:]
            spaced = np.zeros(len(after), bool)
            spaced[np.linspace(1, len(after) - 1, NUM_LATER).astype(np.int64)] = True
            taken = spaced | (np.arange(len(after)) < NUM_FIRST)
            found.append(Window(sensor, after[taken], min(NUM_FIRST, len(after)), spaced[taken]))
    return found


@dataclass(frozen=True)
class _Other:
    """The recipe fitted on other units."""

    scaling: Scaling
    detector: Fitted
    columns: list[int]

    def scores(self, windows: Sequence[Window], index: np.ndarray, x: torch.Tensor) -> dict[int, np.ndarray]:
        """By level, the scores of these windows' healthy records against the earliest of them: healthy by all records of their window."""
        own = [window.rows for window in windows]
        usual = self._scores(own, own, index, x)
        median, spread = median_mad(np.concatenate(usual))
        healthy = [score <= median + FAULTY * spread for score in usual]
        found = {}
        for level in LEVELS:
            first, later = [], []
            for window, well in zip(windows, healthy, strict=True):
                earliest = np.flatnonzero(well[: window.num_first])[:level]
                judged = np.flatnonzero(well & window.spaced)
                judged = judged[judged > earliest.max(initial=-1)]
                if len(earliest) == level and len(judged):
                    first.append(window.rows[earliest])
                    later.append(window.rows[judged])
            if first:
                found[level] = np.concatenate(self._scores(first, later, index, x))
        return found

    def _scores(self, first: Sequence[np.ndarray], later: Sequence[np.ndarray], index: np.ndarray, x: torch.Tensor) -> list[np.ndarray]:
        """Of each window the scores of its rows `later` against the baseline of its rows `first`."""
        names = [("", str(i)) for i in range(len(first))]  # a sensor has several windows
        scaling = self.scaling.with_sensors((name, x[np.searchsorted(index, own)]) for name, own in zip(names, first, strict=True))
        of = [name for name, own in zip(names, later, strict=True) for _ in own]
        score = self.detector.score(scaling(x[np.searchsorted(index, np.concatenate(later))], of)[:, self.columns])
        return np.split(score.double().numpy(), np.cumsum([len(own) for own in later])[:-1])
