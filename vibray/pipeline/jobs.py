"""What each job is asked: the frozen dataclasses whose fields are the help of jobs/X.py, but for those that are given a recipe.

Nothing here imports Ray, torch, scikit-learn or matplotlib, so that `--help` answers at once.
"""

import shutil
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from inspect import getdoc
from typing import Annotated, Any, Literal, Union

from vibray.decide.pooling import TOLERANCE_S
from vibray.decide.splits import RECORDS_PER_SENSOR
from vibray.decide.thresholds import CutsConfig, MadConfig
from vibray.decide.unit_alarms import Combine, UnitConfig
from vibray.signal.synthetic import FleetConfig
from vibray.storage.plan import LINES_PER_PART
from vibray.storage.times import TimeFormat

By = Literal["none", "unit", "sensor"]

Compression = Literal["none", "gz", "zst"]

VectorName = Literal["spectral", "zerone", "harmonic"]


RECIPE_WIDTH = 58
"""Characters in a line of a recipe's description: they stand beside the recipe's name on a terminal of 80."""


class AsItIs(str):
    """Text whose lines stay as they are: tyro would join those that begin with a letter, and wrap none."""

    def split(self, sep: str | None = None, maxsplit: int = -1) -> list[str]:
        return [str(self)]


def help_text(doc: str | None, width: int | None = None) -> str:
    """A docstring for --help: paragraphs wrapped to the terminal or to `width`, at most 100; indented lines (examples) stay as they are."""
    columns = width or min(100, shutil.get_terminal_size().columns)
    lines: list[str] = []
    paragraph: list[str] = []
    for line in (*(doc or "").splitlines(), ""):
        if line and not line.startswith(" "):
            paragraph.append(line)
            continue
        lines += textwrap.wrap(" ".join(paragraph), columns, break_long_words=False, break_on_hyphens=False)
        lines.append(line)
        paragraph = []
    return AsItIs("\n".join(lines).rstrip())


def one_of(named: Mapping[str, Callable[[], Any]]) -> Any:
    """The type of a field that takes one of the recipes: its name comes last on the line, what it lets one change after it."""
    import tyro

    def of(name: str, make: Callable[[], Any]) -> Any:
        default, told = make(), help_text(getdoc(make), RECIPE_WIDTH)
        known = tyro.conf.subcommand(name, default=default, description=told, prefix_name=False)
        return Annotated[type(default), known, tyro.conf.AvoidSubcommands]

    return Union[tuple(of(name, make) for name, make in named.items())]  # noqa: UP007 (built, not written)


@dataclass(frozen=True)
class DemoJob:
    """What jobs/demo.py is asked."""

    folder: str = "demo"
    """where everything is written; with --s3, a folder of the bucket"""
    s3: bool = False
    """store everything through an S3 endpoint over HTTP, started here; its content ends with the job, the report is copied to --folder"""
    num_units: int = 8
    """transformers in the fleet"""
    sensors_per_unit: int = 2
    """sensors on each"""
    epochs: int = 12
    """epochs of each network"""


@dataclass(frozen=True)
class SynthesizeJob:
    """What jobs/synthesize.py is asked."""

    output: str
    """folder for the shards: s3://bucket/folder or a path"""
    labels: str
    """the labels file (.jsonl), outside --output"""
    fleet: FleetConfig = field(default_factory=FleetConfig)
    """the fleet"""
    shard_records: int = 200
    """records in a shard; a worker holds about 80 kB for each"""
    compression: Compression = "none"
    """of the shards: .jsonl, .jsonl.gz or .jsonl.zst"""
    truncated_shard: bool = False
    """one shard more, a gzip that breaks off within its only line"""
    local: bool = False
    """work in this process, without Ray; one shard is worked on so unasked"""
    dry_run: bool = False
    """print the plan and the cost; write nothing"""


@dataclass(frozen=True)
class FeaturizeJob:
    """What jobs/featurize.py is asked."""

    input: str
    """folder of shards (or one shard): s3://bucket/folder or a path"""
    features: str
    """folder for the features table; it holds this one table"""
    sample_rate_hz: float
    """samples a second; no record says it"""
    corpus: str | None = None
    """name of the corpus in every key; default: the last segment of --input"""
    num_samples: int = 8192
    """samples of a record"""
    unit_pattern: str | None = None
    """regular expression searched in sensor_id, then in the shard's key; its group 1 is the unit"""
    units: str | None = None
    """CSV file with the columns sensor_id and unit, instead of a pattern"""
    timezone: str = "UTC"
    """zone of times that name none, as Europe/Berlin"""
    time_format: TimeFormat = "iso"
    """how data_time is written: ISO 8601, or a number of s, ms, us or ns since 1970"""
    mains: Literal["50", "60", "none"] = "50"
    """mains frequency in Hz; none for machines without a mains line"""
    signal_unit: Literal["unknown", "g", "m/s2"] = "unknown"
    """physical unit of the samples"""
    wrong_length: Literal["quarantine", "fit"] = "quarantine"
    """records of another length are set aside, or fitted (cut or padded with zeros, and counted)"""
    vectors: tuple[VectorName, ...] = ("spectral", "zerone", "harmonic")
    """vector features to store; one that this rate, length or mains does not allow is left out and named"""
    lines_per_part: int = LINES_PER_PART
    """records in a part, the unit of restart"""
    local: bool = False
    """work in this process, without Ray; an input of one part is worked on so unasked"""
    dry_run: bool = False
    """print the plan, the cost and the first bad lines; write nothing"""


@dataclass(frozen=True)
class CalibrateJob:
    """What jobs/calibrate.py is asked."""

    run: str
    """finished run"""
    input: str
    """folder of shards with the new sensors' records"""
    calibration: str
    """folder for the calibration"""
    sample_rate_hz: float
    """samples a second of the input; must be the run's"""
    records_per_sensor: int = RECORDS_PER_SENSOR
    """earliest records of each new sensor, by time, that make its baseline; a sensor that has fewer is calibrated by those"""
    corpus: str | None = None
    """name of the corpus in every key; default: the last segment of --input"""
    local: bool = False
    """work in this process, without Ray; an input of one part is worked on so unasked"""
    dry_run: bool = False
    """print the plan and the cost; write nothing"""


@dataclass(frozen=True)
class ScoreJob:
    """What jobs/score.py is asked."""

    run: str
    """finished run"""
    input: str
    """folder of shards, or one shard"""
    scores: str
    """folder for the scores table; it holds this one table"""
    sample_rate_hz: float
    """samples a second of the input; must be the run's"""
    corpus: str | None = None
    """name of the corpus in every key; default: the last segment of --input"""
    calibration: str | None = None
    """calibration of sensors that the run does not know (jobs/calibrate.py)"""
    calibrate: str | None = None
    """first:K, as first:16: a first pass calibrates the sensors that the run does not know by their K earliest records; each of these is
    scored against the others of them"""
    since_plan: str | None = None
    """an earlier job's --scores over the same input: what it (or one it continued) scored unchanged is left out, what changed is named"""
    lines_per_part: int = LINES_PER_PART
    """records in a part, the unit of restart"""
    evidence_per_part: int = 24
    """highest records of a part kept with their waveforms, for the report"""
    report: str | None = None
    """page to write of these scores at once (.html), as jobs/report.py without cuts"""
    local: bool = False
    """work in this process, without Ray; an input of one part is worked on so unasked"""
    dry_run: bool = False
    """print the plan, the cost and the first bad lines; write nothing"""


@dataclass(frozen=True)
class LabelJob:
    """What jobs/label.py is asked."""

    scores: tuple[str, ...]
    """finished scores tables of one run"""
    decisions: str
    """folder for cuts and pseudo-labels"""
    by: By = "none"
    """cuts of their own for each unit or sensor with enough records, so that one loud unit does not fill the anomaly class"""
    pool_sensors: bool = False
    """judge each record by the mean score of its unit's sensors at the same time: what shakes a machine is heard by all of them"""
    pool_tolerance_s: float = TOLERANCE_S
    """seconds: with --pool-sensors or --review, records of a unit's sensors that begin within so much are of one moment"""
    standing: str | None = None
    """finished decisions on other scores of the same run: their cuts and their rule for units are taken as they stand, none is fitted"""
    labels: str | None = None
    """labels file (JSON Lines, or a review queue as CSV): human labels win over any cut"""
    normals_only: bool = False
    """fit the cuts on the records labelled normal alone"""
    min_group_records: int = 200
    """fewer records than these: a group has the cuts of all"""
    round: int = 0
    """number of this round of pseudo-labels"""
    review: int | None = None
    """write review.csv: so many records for a person to label, who hands it back as --labels"""
    report: str | None = None
    """URI of the report's page, for the links of review.csv into it"""
    budget: str | None = None
    """alarms that a healthy fleet may raise, as 5/week (or day, month): sets the abnormal cut of records and the rate of units' windows,
    counted on the reference"""
    unit_window: float = UnitConfig.window_minutes
    """minutes: records of a unit's sensors within such a window are judged together"""
    persist: tuple[int, int] = UnitConfig.persist
    """k n: a unit is in alarm where at least k of its last n windows exceed"""
    unit_rate: float = UnitConfig.rate
    """a window exceeds where its p-value is at most this"""
    fdr: float = UnitConfig.fdr
    """false-discovery rate over the fleet, for the newest window of each unit (Benjamini-Hochberg)"""
    unit_combine: Combine = UnitConfig.combine
    """how p-values of a window become one: tippett holds its rate where a unit's sensors rise and fall together, the others do not"""
    unit_reference: tuple[str, ...] = ()
    """finished scores tables of the same run, of other corpora, taken as healthy: what each sensor is compared with"""
    reference_records: int = UnitConfig.reference_records
    """without --unit-reference: so many of the earliest usable records of each sensor, at most half of them, are its reference"""
    dry_run: bool = False
    """print cuts and counts; write nothing"""
    method: CutsConfig = MadConfig(log=False)
    """how cuts are made"""

    @property
    def units(self) -> UnitConfig:
        """The rule for alarms of units."""
        return UnitConfig(self.unit_window, self.persist, self.unit_rate, self.fdr, self.unit_combine, self.reference_records)

    def with_units(self, rule: UnitConfig) -> "LabelJob":
        """The same job by another rule for alarms of units."""
        window, rate, combine = rule.window_minutes, rule.rate, rule.combine
        own = replace(self, unit_window=window, persist=rule.persist, unit_rate=rate, fdr=rule.fdr, unit_combine=combine)
        return replace(own, reference_records=rule.reference_records)


@dataclass(frozen=True)
class NightlyJob:
    """What jobs/nightly.py is asked."""

    run: str
    """finished run"""
    input: str
    """folder where shards arrive; they may stay there"""
    nights: str
    """folder of the nights; each gets a folder of its own in it, named by its date"""
    sample_rate_hz: float
    """samples a second of the input; must be the run's"""
    standing: str
    """finished decisions on scores of this run: their cuts and their rule for units apply, none is fitted on a night's own records"""
    reference: tuple[str, ...]
    """finished scores tables of this run, taken as healthy: what each sensor is compared with. Where the last of them that is of --input
    ends, the first night begins"""
    labels: str | None = None
    """labels file (JSON Lines, or a review queue as CSV): human labels win over any cut"""
    calibration: str | None = None
    """calibration of sensors that the run does not know (jobs/calibrate.py)"""
    history: int = 30
    """so many nights, this one included, are judged and shown together: an alarm is of a unit's last windows, whatever night they are of"""
    language: Literal["en", "zh"] = "en"
    """what the page is written in: English or Chinese"""
    night: str | None = None
    """date of the night, as 2026-11-30; default: today's, in UTC"""
    local: bool = False
    """work in this process, without Ray; an input of one part is worked on so unasked"""
    dry_run: bool = False
    """say what would be done; write nothing"""


@dataclass(frozen=True)
class RoundsJob:
    """What jobs/rounds.py is asked."""

    features: tuple[str, ...]
    """finished features tables, one corpus each; their raw records are scored again in each round"""
    rounds: str
    """folder for the rounds; it holds these alone"""
    labels: str
    """labels file: what a person said"""
    held_out: str | None = None
    """labels file that judges and never teaches; by default whole units of --labels are held out, or the latest of each kind"""
    held_out_share: float = 0.34
    """share of --labels that is held out where no file is given"""
    num_rounds: int = 3
    """rounds at most; they end where the figure on the labels held out stops rising"""
    normal_percent: float = 5.0
    """a score up to this percentile is a pseudo-label normal"""
    abnormal_percent: float = 99.0
    """a score from this percentile on is a pseudo-label abnormal"""
    deep_sad: bool = True
    """train Deep SAD on the same labels beside them (the slowest part)"""
    num_workers: int = 1
    """Ray Train workers for the nets"""
    local: bool = False
    """work in this process, without Ray"""
    dry_run: bool = False
    """say what would be done; write nothing"""


@dataclass(frozen=True)
class EvaluateJob:
    """What jobs/evaluate.py is asked."""

    scores: tuple[str, ...]
    """finished scores tables of one run; a label row is looked for in all of them"""
    labels: str
    """labels file (JSON Lines, or a review queue as CSV)"""
    decisions: str | None = None
    """decisions folder whose cuts are judged"""
    output: str | None = None
    """JSON file for what is printed and more; default: evaluation.json in the first scores folder. No other evaluation is overwritten"""
    dry_run: bool = False
    """print the figures; write nothing"""


@dataclass(frozen=True)
class ReportJob:
    """What jobs/report.py is asked."""

    scores: tuple[str, ...]
    """finished scores tables of one run"""
    report: str
    """the page to write (.html), its tables beside it as NAME.alarms.csv and so on; any other name is a folder for all of them"""
    decisions: str | None = None
    """decisions folder: its cuts make the alarms"""
    labels: str | None = None
    """labels file (JSON Lines, or a review queue as CSV): the report then shows metrics"""
    title: str = "vibray report"
    """heading of the page"""
    language: Literal["en", "zh"] = "en"
    """what the page is written in: English or Chinese; what the data says stays as it is"""
    explain: bool = True
    """draw why the highest records are high (needs the run)"""
    search: str | None = None
    """finished search that chose the run's recipe: a section shows it"""
    dry_run: bool = False
    """print what the report would show; write nothing"""
