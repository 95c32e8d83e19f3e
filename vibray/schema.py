"""The tables that flow from stage to stage: column names, types, units. Two stages share what stands here and nothing else.

A record's key everywhere is (corpus, record_id). A sensor's identity is (unit, sensor_id).
"""

from enum import StrEnum

import pyarrow as pa

FORMAT_VERSION = 1
"""Version of every JSON file and table that vibray writes; a reader refuses another one by name."""

NEWER = {"recipe.json": 2, "feature.json": 2}
"""Versions of single files, by their names. recipe.json, which opens a run: 1 knew no sensor of few records, no prior of its scale and no
limits. feature.json, which opens a features table: in 1 the spectral vector had no level."""


def version_of(uri: str) -> int:
    """The version that a file of this name has."""
    return NEWER.get(uri.rsplit("/", 1)[-1], FORMAT_VERSION)


class Reason(StrEnum):
    """Why a line was set aside: a closed list. Nothing that failed ever becomes zeros."""

    NOT_JSON = "not JSON"
    SEVERAL_OBJECTS = "several objects on one line"
    NOT_AN_OBJECT = "not an object"
    DOUBLED_FIELD = "doubled field"
    MISSING_FIELD = "missing field"
    BAD_TIME = "bad time"
    BAD_SENSOR_ID = "bad sensor_id"
    NOT_A_NUMBER = "not a number"
    NAN_OR_INFINITE = "NaN or infinite"
    WRONG_LENGTH = "wrong length"
    CONSTANT = "constant"
    OUT_OF_RANGE = "out of range"
    PRECISION_LOST = "precision lost"
    CLIPPED = "clipped"
    LINE_TOO_LONG = "line too long"
    TRUNCATED_STREAM = "truncated stream"
    NOT_FINITE = "feature or score not finite"


class State(StrEnum):
    """What the machine was doing while a record was taken, by the rules of decide/state.py. It never changes a score."""

    ENERGISED = "energised"
    OFF = "off"
    TRANSIENT = "transient"
    SENSOR_FAULT = "sensor_fault"
    UNKNOWN = "unknown"


class Cause(StrEnum):
    """Why a record is of a faulty sensor: a closed list."""

    HANGS = "hangs"
    ISOLATED = "isolated samples"
    FEW_VALUES = "few values"
    CUT = "line cut"
    OFFSET = "offset at the rail"
    REPEATS = "repeats an earlier waveform"


NORMAL = "normal"
"""The label of a healthy record; any other label is the name of a fault."""

UNKNOWN = "unknown"
"""A classifier's word for an abnormal record that is like none of the faults it learned; no label."""

KEY = ("corpus", "record_id")
SENSOR = ("unit", "sensor_id")


def place(record_id: str) -> tuple[str, int]:
    """Key of the shard, and byte offset or index in it, of a record_id."""
    at = max(record_id.rfind("@"), record_id.rfind("#"))
    return record_id[:at], int(record_id[at + 1 :])


TIME = pa.timestamp("ms", tz="UTC")


def vector(size: int) -> pa.DataType:
    """Column type of a vector of `size` float32 values."""
    return pa.list_(pa.float32(), size)


ORIGIN = pa.schema(
    [
        pa.field("corpus", pa.string(), nullable=False),
        pa.field("record_id", pa.string(), nullable=False),  # <key of the shard>@<byte offset>, or <key>#<index> in a .json list
        pa.field("line", pa.int64()),  # 1-based; null where it cannot be known (parts that begin after byte 0, .json lists)
        pa.field("unit", pa.string(), nullable=False),
        pa.field("sensor_id", pa.string(), nullable=False),
        pa.field("measured_at", TIME, nullable=False),
        pa.field("sample_rate_hz", pa.float64(), nullable=False),
        pa.field("content_hash", pa.string(), nullable=False),  # blake2b, 128 bits, hexadecimal, of the little-endian float32 waveform
    ]
)
"""A record's columns without its waveform: where it comes from."""

BAD_RECORDS = pa.schema(
    [
        pa.field("corpus", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),  # key of the shard relative to --input
        pa.field("offset", pa.int64(), nullable=False),  # byte offset in the decompressed stream; the index in a .json list
        pa.field("line", pa.int64()),
        pa.field("reason", pa.string(), nullable=False),  # a Reason
        pa.field("detail", pa.string(), nullable=False),
        pa.field("head", pa.string(), nullable=False),  # the first 200 characters
    ]
)


def records(num_samples: int) -> pa.Schema:
    """Records in flight: origin and waveform (float32, in the sensor's own physical unit)."""
    return ORIGIN.append(pa.field("waveform", vector(num_samples), nullable=False))


def features(num_samples: int, vectors: dict[str, int]) -> pa.Schema:
    """The features table: a record, its level, and one fixed-size column a vector feature, `vectors` mapping its name to its size."""
    level = [
        pa.field("rms", pa.float32(), nullable=False),  # of the waveform minus its mean; with mains_snr_db, the sensor's history
        pa.field("mains_snr_db", pa.float32()),  # the mains line above the noise; null for a machine without one
    ]
    return pa.schema([*records(num_samples), *level, *(pa.field(name, vector(size), nullable=False) for name, size in vectors.items())])


MEMBER_PREFIX = "score_"
"""Column of an ensemble's member: score_<member>."""

FAULT_PREFIX = "fault_p_"
"""Column of a fault's probability in the diagnoses: fault_p_<fault>."""


FLEET_P_VALUE = pa.field("fleet_p_value", pa.float32())
"""The share of healthy records of the run's own machines, with a baseline of as few records, that score as high or higher: an estimate
(decide/fleet_scores.py). Null where the sensor has no baseline, or the run or an earlier version says nothing of it."""

SCORE_QUANTILES = (0.01, 0.05, 0.5, 0.95, 0.99, 0.999)
"""By which summary.json and the page say how scores spread."""


def scores(members: tuple[str, ...] = (), faults: tuple[str, ...] | None = None) -> pa.Schema:
    """The scores table. `faults` is None for a detector; a classifier's run adds the diagnoses (`faults` may be empty)."""
    fields = [
        *ORIGIN,
        pa.field("state", pa.string(), nullable=False),  # a State
        pa.field("state_cause", pa.string()),  # a Cause; null but for a sensor_fault
        pa.field("calibrated", pa.bool_(), nullable=False),  # the sensor is known to the run or to the calibration
        pa.field("score", pa.float32(), nullable=False),  # the higher, the more abnormal
        FLEET_P_VALUE,
        *(pa.field(MEMBER_PREFIX + name, pa.float32(), nullable=False) for name in members),
    ]
    if faults is not None:
        fields += [
            pa.field("abnormal_probability", pa.float32(), nullable=False),  # equals `score`
            pa.field("fault", pa.string(), nullable=False),  # NORMAL, UNKNOWN or the fault's name
            pa.field("fault_probability", pa.float32()),  # null where `fault` names none
            *(pa.field(FAULT_PREFIX + name, pa.float32(), nullable=False) for name in faults),
        ]
    return pa.schema(fields)


TIME_TRUSTED = pa.field("time_trusted", pa.bool_(), nullable=False)
"""Derived by whoever opens a finished table, never stored: False where the record's time cannot be (decide/clocks.py)."""


def evidence(num_samples: int, members: tuple[str, ...] = (), faults: tuple[str, ...] | None = None) -> pa.Schema:
    """The highest records of a part: their row of the scores table and the waveform, so that a report never reads an archive again."""
    return scores(members, faults).append(pa.field("waveform", vector(num_samples), nullable=False))


CALIBRATION = pa.schema(
    [
        pa.field("member", pa.string(), nullable=False),  # a member of an ensemble; "" for a run that is none
        pa.field("unit", pa.string(), nullable=False),
        pa.field("sensor_id", pa.string(), nullable=False),
        pa.field("num_records", pa.int64(), nullable=False),
        pa.field("first_at", TIME, nullable=False),
        pa.field("last_at", TIME, nullable=False),
        pa.field("location", pa.list_(pa.float32()), nullable=False),  # robust statistics, flattened
        pa.field("scale", pa.list_(pa.float32()), nullable=False),
        pa.field("median_rms", pa.float64(), nullable=False),  # the sensor's own history, for the state of its later records
        pa.field("mains_share", pa.float64()),  # share of its records with a mains line; null without a mains frequency
        pa.field("scores", pa.list_(pa.float32()), nullable=False),  # out of sample: each against statistics of the others
        pa.field("record_ids", pa.list_(pa.string())),  # of the scores; those of machines off and the like have none
        pa.field("fleet_p_values", pa.list_(pa.float32())),  # of the scores, as in the scores table
    ]
)

CONTEXT = pa.schema([pa.field("record_id", pa.string(), nullable=False), pa.field("calibrated", pa.bool_(), nullable=False)])
"""What a run says of each record that calibrated its sensor, against the others of them: a column each of its outputs beside these.
`calibrated` is false for a record that was alone."""

OUT_OF_SAMPLE = pa.schema(
    [ORIGIN.field("corpus"), ORIGIN.field("record_id"), pa.field("score", pa.float32(), nullable=False), FLEET_P_VALUE]
)
"""Scores and fleet p-values of the records that calibrated their sensors, against baselines that had not seen them."""

UNDECIDED, LABEL_NORMAL, LABEL_ABNORMAL = -1, 0, 1

PSEUDO_LABELS = pa.schema(
    [
        pa.field("corpus", pa.string(), nullable=False),
        pa.field("record_id", pa.string(), nullable=False),
        pa.field("label", pa.int8(), nullable=False),  # 0 normal, 1 abnormal, -1 undecided
        pa.field("weight", pa.float32(), nullable=False),
        pa.field("origin", pa.string(), nullable=False),  # human, threshold, classifier
        pa.field("round", pa.int32(), nullable=False),
    ]
)

UNIT_SCORES = pa.schema(
    [
        pa.field("corpus", pa.string(), nullable=False),  # of the window's latest record
        pa.field("unit", pa.string(), nullable=False),
        pa.field("window", TIME, nullable=False),  # its start
        pa.field("measured_at", TIME, nullable=False),  # of its latest record
        pa.field("num_records", pa.int32(), nullable=False),  # those that took part
        pa.field("num_sensors", pa.int32(), nullable=False),
        pa.field("sensor_id", pa.string(), nullable=False),  # of the record with the smallest p-value
        pa.field("p_value", pa.float64(), nullable=False),  # of all its records together
        pa.field("score", pa.float32(), nullable=False),  # -log10 of the p-value: the higher, the more abnormal
        pa.field("exceeds", pa.bool_(), nullable=False),  # the p-value is at most the rate asked for
        pa.field("alarm", pa.bool_(), nullable=False),  # k of the unit's last n windows exceed
        pa.field("reference", pa.bool_(), nullable=False),  # of reference records alone: it raises no alarm
        pa.field("dated", pa.bool_(), nullable=False),  # false: of one record whose time cannot be; it is in no order with the others
        pa.field("q_value", pa.float64()),  # over the fleet; only for the newest window of a unit that is not silent
    ]
)
"""How each unit stood, window by window."""

UNIT_DIAGNOSES = pa.schema(
    [
        pa.field("corpus", pa.string(), nullable=False),
        pa.field("unit", pa.string(), nullable=False),
        pa.field("measured_at", TIME, nullable=False),  # of the moment's earliest record
        pa.field("abnormal_probability", pa.float64(), nullable=False),
        pa.field("fault", pa.string(), nullable=False),  # NORMAL, UNKNOWN or the fault's name
        pa.field("fault_probability", pa.float64()),  # null where `fault` names none
        pa.field("sensors", pa.list_(pa.string()), nullable=False),  # those that took part
    ]
)
"""What a classifier makes of each unit's moments, from all its sensors together."""

DRIFT = pa.schema(
    [
        pa.field("unit", pa.string(), nullable=False),
        pa.field("sensor_id", pa.string(), nullable=False),
        pa.field("month", TIME, nullable=False),  # its start, UTC
        pa.field("num_records", pa.int32(), nullable=False),  # healthy ones, by the cuts
        pa.field("median", pa.float64()),  # of their scores; with the interval null where they are too few
        pa.field("low", pa.float64()),  # bootstrap interval of the median
        pa.field("high", pa.float64()),
        pa.field("reference_low", pa.float64(), nullable=False),  # quartiles of the sensor's reference scores
        pa.field("reference_median", pa.float64(), nullable=False),
        pa.field("reference_high", pa.float64(), nullable=False),
        pa.field("verdict", pa.string(), nullable=False),  # a Verdict
    ]
)
"""The healthy level of each sensor's scores, month by month."""


class TrendVerdict(StrEnum):
    """How a unit's score came to where it is, by the rule of decide/trend.py."""

    STEADY = "steady"
    STEP = "step"
    GROWING = "growing"


UNIT_TRENDS = pa.schema(
    [
        pa.field("unit", pa.string(), nullable=False),
        pa.field("verdict", pa.string(), nullable=False),  # a TrendVerdict
        pa.field("since", TIME),  # start of the first window after the step, or from which it grows; null when steady
        pa.field("change", pa.float64(), nullable=False),  # of the score by now, in robust spreads of its reference; 0 when steady
        pa.field("per_month", pa.float64()),  # spreads in 30.4 days; null unless growing
    ]
)
"""Whether a unit's score stays, came up in a step, or grows."""


class Verdict(StrEnum):
    """What a month says of a sensor's calibration, by the rule of decide/drift.py."""

    STEADY = "steady"
    WATCH = "watch"
    RECALIBRATE = "recalibrate"
    TOO_FEW = "too few records"
