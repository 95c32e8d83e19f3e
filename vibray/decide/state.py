"""What the machine was doing while a record was taken: simple rules on the waveform's level, its repetitions and its mains line.

The state never changes a score; pseudo-labels leave off, transient and sensor_fault undecided. The rules, the first that applies:

  sensor_fault  a run of equal samples over a tenth of the record, or a quarter of the record in runs of 16 and more: the sensor hangs;
                up to eight samples, alone or in pairs, ten times as far from the median as all others: values for "missing", bits that
                flipped. A shock that passed an anti-aliasing filter moves its neighbours by a tenth at least (sinc(.9) = .11);
  off           the sensor's own history has a mains line (in half of its records or more), this record has none, and its level is below
                half of the sensor's median: nothing hums, and no noise drowns it;
  sensor_fault  fewer than 8 distinct values; two frames or more at a thousandth (-60 dB) of the loud ones: the line was cut; an offset of
                10,000 times the vibration and more: an amplifier at its rail (unless samples lie on both sides of a power of two from
                2^15 on: counts of a converter without a sign rest at its mid-scale);
  transient     the level before and after some moment, as medians over frames, differs by a factor of 3 or more: switched on or off, or
                inrush. The medians are over at least 10 of 32 frames: a burst of up to an eighth of the record, a tap change, is none;
  energised     the sensor's history has a mains line;
  unknown       it has none, or there is no history.

`off` stands between the two faults because a quiet sensor on a machine that is off may show few distinct values, or little beside gravity.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from vibray.config import UserError
from vibray.schema import Cause, State

NUM_FRAMES = 32
FEWEST_SAMPLES = 2 * NUM_FRAMES
BLOCK = 16
"""Records whose samples are worked on at a time: in float64 they stay in the cache. 64 take half as much time again."""

MAINS_SNR_DB = 10.0
"""A record has a mains line where that line stands this far above the noise floor."""
MAINS_SHARE = 0.5
"""A sensor's history has a mains line where this share of its records has one."""

OFF_LEVEL = 0.5
"""On a simulated fleet records of energised machines lie above .55 of the median, those that are off below .41, rain included."""
LONGEST_RUN_SHARE = 0.1
HELD_RUN = 16
"""As many equal samples in a row as make a clipped record (schema.Reason.CLIPPED); vibration passes a value, it does not rest on it."""
HELD_SHARE = 0.25
MOST_ISOLATED = 8
ISOLATED_RATIO = 10.0
ISOLATED_RUN = 2
FEWEST_VALUES = 8
FLAT_LEVEL = 1e-3
FLAT_FRAMES = 2
OFFSET_RATIO = 1e4
LEVEL_CHANGE = 3.0
LOWEST_MID_SCALE = 15
SIDE_FRAMES = 10
"""Frames at least on either side of a change of level."""


@dataclass(frozen=True)
class SensorHistory:
    """What is known of a sensor from its earlier records; columns of schema.CALIBRATION."""

    median_rms: float
    """Median over its records of `state_statistics`'s rms."""
    mains_share: float | None
    """Share of its records with a mains line; None where the machine has no mains frequency."""


def has_mains_line(mains_snr_db: np.ndarray) -> np.ndarray:
    """bool per record: the mains line stands clear of the noise floor; False where the SNR is NaN."""
    return np.asarray(mains_snr_db) >= MAINS_SNR_DB


def history_of(rms: np.ndarray, snr_db: np.ndarray | None) -> SensorHistory:
    """A sensor's history from the levels (and the mains line's SNRs) of its records."""
    share = None if snr_db is None else float(np.mean(has_mains_line(snr_db)))
    return SensorHistory(float(np.median(rms)), share)


def centred_rms(waveforms: Float[np.ndarray, "batch samples"]) -> Float[np.ndarray, " batch"]:
    """Root of the mean square of each record less its mean, in its own unit: the level that a sensor's history is made of."""
    return _centred_rms(waveforms)[2]


def _centred_rms(waveforms: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The means, the records less them, and the root of their mean square, in float64."""
    x = waveforms.astype(np.float64)
    mean = x.mean(axis=1)
    x -= mean[:, None]
    return mean, x, np.sqrt(np.einsum("bs,bs->b", x, x) / x.shape[1])


def state_statistics(waveforms: Float[np.ndarray, "batch samples"], sample_rate_hz: float) -> dict[str, np.ndarray]:
    """One value a record, by name, each from that record alone:

    rms (of the record less its mean, in its own unit), offset (|mean|), mid_scale (a power of two lies among the samples),
    longest_run_share and held_share (of the samples: in the longest run of equal ones; in runs of 16 and more), num_isolated (samples that
    stand alone, far from all others), num_values (distinct samples, 8 where there are more), flat_frames (of 32 frames, those whose
    standard deviation is at most a thousandth of their ninth decile), level_change (>= 1: largest ratio of the medians of the frames'
    standard deviations before and after a moment).

    Raises UserError for records of fewer than 64 samples.
    """
    num_records, num_samples = waveforms.shape
    if num_samples < FEWEST_SAMPLES:
        seconds = num_samples / sample_rate_hz
        raise UserError(f"a state needs records of at least {FEWEST_SAMPLES} samples, not {num_samples} ({seconds:.3g} s)")
    blocks = [_statistics(waveforms[start : start + BLOCK]) for start in range(0, max(1, num_records), BLOCK)]
    found = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    frame_std = found.pop("frame_std")
    loud = np.quantile(frame_std, 0.9, axis=1, keepdims=True)
    found["flat_frames"] = np.count_nonzero(frame_std <= FLAT_LEVEL * loud, axis=1)
    found["level_change"] = _level_change(frame_std)
    return found


def _statistics(waveforms: np.ndarray) -> dict[str, np.ndarray]:
    """What is read from the samples: most of the statistics, and `frame_std` (batch, frames)."""
    num_records, num_samples = waveforms.shape
    mean, xc, rms = _centred_rms(waveforms)
    frames = xc[:, : num_samples // NUM_FRAMES * NUM_FRAMES].reshape(num_records, NUM_FRAMES, num_samples // NUM_FRAMES)
    longest, held = _runs(waveforms)
    low, high = waveforms.min(axis=1), waveforms.max(axis=1)
    return {
        "rms": rms,
        "offset": np.abs(mean),
        "longest_run_share": longest / num_samples,
        "held_share": held / num_samples,
        "mid_scale": _at_mid_scale(low, high),
        "num_isolated": _num_isolated(waveforms, np.maximum(high - mean, mean - low), rms),
        "num_values": _num_values(waveforms),
        "frame_std": frames.std(axis=2),
    }


def _runs(waveforms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(batch,) length of the longest run of equal samples; number of samples in runs of HELD_RUN and more."""
    num_records, num_samples = waveforms.shape
    # by the pairs of equal neighbours, which are few: where they begin and end, in one row of all records with a gap between
    equal = np.zeros((num_records, num_samples + 1), bool)
    np.equal(waveforms[:, 1:], waveforms[:, :-1], out=equal[:, 1:-1])
    edges = np.flatnonzero(equal.ravel()[1:] != equal.ravel()[:-1])
    record, length = edges[::2] // (num_samples + 1), edges[1::2] - edges[::2] + 1
    longest = np.ones(num_records, np.int64)
    np.maximum.at(longest, record, length)
    held = np.bincount(record, np.where(length >= HELD_RUN, length, 0), num_records).astype(np.int64)
    return longest, held


def _at_mid_scale(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """bool a record: a power of two of counts, 2^15 or above, lies among its samples."""
    bits = np.frexp(np.maximum(high, 1.0).astype(np.float64))[1] - 1
    power = np.ldexp(1.0, bits)  # the largest that is not above the highest sample
    return (bits >= LOWEST_MID_SCALE) & (power <= high) & (power > low)


def _num_isolated(waveforms: np.ndarray, peak: np.ndarray, rms: np.ndarray) -> np.ndarray:
    """(batch,) samples that stand far from all others, alone or in pairs; 0 where there are more than MOST_ISOLATED.

    `peak` and `rms` are about the mean. Only a record with a high peak is sorted: where at most eight samples stand d from the median and
    all others within d / 10 of it, rms <= d sqrt(8 / N + .01), and the median is within one rms of the mean.
    """
    found = np.zeros(len(waveforms), np.int64)
    crest = (MOST_ISOLATED / waveforms.shape[1] + ISOLATED_RATIO**-2) ** -0.5 - 1
    for row in np.flatnonzero(peak >= 0.999 * crest * rms):
        x = waveforms[row].astype(np.float64)
        distance = np.abs(x - np.partition(x, len(x) // 2)[len(x) // 2])
        furthest = -np.sort(-distance)[: MOST_ISOLATED + 1]
        apart = np.flatnonzero((furthest[:-1] >= ISOLATED_RATIO * furthest[1:]) & (furthest[:-1] > 0))
        if len(apart):
            at = np.flatnonzero(distance >= furthest[apart[-1]])
            runs = np.split(at, np.flatnonzero(np.diff(at) > 1) + 1)
            found[row] = len(at) * (max(map(len, runs)) <= ISOLATED_RUN)
    return found


def _num_values(waveforms: np.ndarray) -> np.ndarray:
    """(batch,) distinct samples, FEWEST_VALUES where there are so many or more; most records show them within a few samples."""
    few = np.sort(waveforms[:, :: max(1, waveforms.shape[1] // FEWEST_SAMPLES)], axis=1)
    found = 1 + np.count_nonzero(few[:, 1:] != few[:, :-1], axis=1)
    for row in np.flatnonzero(found < FEWEST_VALUES):
        found[row] = len(np.unique(waveforms[row]))
    return np.minimum(found, FEWEST_VALUES)


def _level_change(level: np.ndarray) -> np.ndarray:
    """(batch,) largest ratio, either way, of the medians of `level` (batch, frames) before and after a frame."""
    largest = np.ones(len(level))
    for k in range(SIDE_FRAMES, level.shape[1] - SIDE_FRAMES + 1):
        before, after = _median(level[:, :k]), _median(level[:, k:])
        low, high = np.minimum(before, after), np.maximum(before, after)
        # a side that is exactly still counts as 1e9, so that the value stays finite; two still sides have not changed
        ratio = np.where(high > 0, high / np.maximum(low, 1e-9 * np.where(high > 0, high, 1.0)), 1.0)
        largest = np.maximum(largest, ratio)
    return largest


def _median(values: np.ndarray) -> np.ndarray:
    """numpy.median of each row, a third of its time for rows so short."""
    num, in_order = values.shape[1], np.sort(values, axis=1)
    return (in_order[:, (num - 1) // 2] + in_order[:, num // 2]) / 2


def is_off(rms: np.ndarray, mains_snr_db: np.ndarray | None, history: Sequence[SensorHistory | None]) -> np.ndarray:
    """bool per record: state `off`, which its level and the SNR of its mains line decide; arguments as those of `states`."""
    snr = np.full(len(rms), np.nan) if mains_snr_db is None else np.asarray(mains_snr_db, np.float64)
    usual = np.array([np.nan if h is None else h.median_rms for h in history], np.float64)
    return _hummed(history) & (snr < MAINS_SNR_DB) & (rms < OFF_LEVEL * usual)  # a NaN is neither


def _hummed(history: Sequence[SensorHistory | None]) -> np.ndarray:
    return np.array([h is not None and h.mains_share is not None and h.mains_share >= MAINS_SHARE for h in history], bool)


def states(statistics: Mapping[str, np.ndarray], mains_snr_db: np.ndarray | None, history: Sequence[SensorHistory | None]) -> list[State]:
    """The state of each record by the rules above.

    `statistics` are `state_statistics`'s; `mains_snr_db` (batch,) is the SNR of the mains line, NaN or the whole of it None where it is not
    known; `history` holds one entry a record, None for a sensor that neither the run nor the calibration knows.
    """
    num_records = len(statistics["rms"])
    if len(history) != num_records:
        raise ValueError(f"{len(history)} histories for {num_records} records")
    first, later = _faults(statistics)
    transient = statistics["level_change"] >= LEVEL_CHANGE
    rules = [
        *((holds, State.SENSOR_FAULT) for _, holds in first),
        (is_off(statistics["rms"], mains_snr_db, history), State.OFF),
        *((holds, State.SENSOR_FAULT) for _, holds in later),
        (transient, State.TRANSIENT),
        (_hummed(history), State.ENERGISED),
    ]
    return [next((state for holds, state in rules if holds[row]), State.UNKNOWN) for row in range(num_records)]


def causes(statistics: Mapping[str, np.ndarray], found: Sequence[State]) -> list[Cause | None]:
    """Why each record is of a faulty sensor; None for one that is not. `found` are its `states`."""
    first, later = _faults(statistics)
    return [
        next(cause for cause, holds in (*first, *later) if holds[row]) if state == State.SENSOR_FAULT else None
        for row, state in enumerate(found)
    ]


def _faults(statistics: Mapping[str, np.ndarray]) -> tuple[list[tuple[Cause, np.ndarray]], list[tuple[Cause, np.ndarray]]]:
    """The rules of sensor_fault with their causes: those before `off`, and those after it."""
    s = statistics
    first = [
        (Cause.HANGS, (s["longest_run_share"] >= LONGEST_RUN_SHARE) | (s["held_share"] >= HELD_SHARE)),
        (Cause.ISOLATED, s["num_isolated"] > 0),
    ]
    later = [
        (Cause.FEW_VALUES, s["num_values"] < FEWEST_VALUES),
        (Cause.CUT, s["flat_frames"] >= FLAT_FRAMES),
        (Cause.OFFSET, (s["offset"] >= OFFSET_RATIO * s["rms"]) & ~s["mid_scale"]),
    ]
    return first, later
