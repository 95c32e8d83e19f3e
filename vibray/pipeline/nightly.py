"""Every night: what came since the last table is scored, labelled by standing decisions and reported, in a folder of the night's own.

A night is a line of finished folders as any other job leaves them (scores, decisions, report), so it is resumed as these are. Which shards
are its own its plan says: all that no earlier night's plan holds, whatever date they bear; one that changed since comes again as a whole.
"""

import csv
import io
import logging
import re
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa

from vibray import schema
from vibray.config import UserError
from vibray.decide.units import read_units
from vibray.pipeline import logs
from vibray.pipeline.calibrate import load_calibrated
from vibray.pipeline.ending import causes
from vibray.pipeline.jobs import LabelJob, NightlyJob, ReportJob, ScoreJob
from vibray.pipeline.label import label
from vibray.pipeline.report import report
from vibray.pipeline.score import score
from vibray.report.files import report_files
from vibray.runs.folder import run_identity
from vibray.storage import objects
from vibray.storage.errors import ObjectChanged, ObjectMissing
from vibray.storage.parts import Parts, check_finished, commit_part, done_parts, finish_folder, missing, read_plan
from vibray.storage.plan import PartPlan, Plan, check_same
from vibray.storage.reading import COUNTED

NIGHT = re.compile(r"\d{4}-\d{2}-\d{2}")
"""The name of a night's folder: its date."""

NOT_ASKED = ("nights", "night", "local", "dry_run")
"""Fields that say where and how, not what."""

log = logging.getLogger(__name__)


class NightMismatch(UserError):
    """A night that cannot be: begun with other settings, of another run or input, or before one that stands."""


@dataclass(frozen=True)
class Night:
    """A night's folder, and what was fixed when it was begun."""

    uri: str
    name: str
    asked: dict[str, Any]
    """the job's fields but for NOT_ASKED"""
    since: str | None
    """the scores that are continued; None where all shards there are are new"""
    history: tuple[str, ...]
    """scores of the nights before it that are judged with it, the oldest first"""

    def at(self, *names: str) -> str:
        return objects.join(self.uri, *names)

    @property
    def corpus(self) -> str:
        return f"{objects.last_segment(self.asked['input'])}-{self.name}"

    @property
    def tables(self) -> tuple[str, ...]:
        """Scores that are judged and shown together."""
        return *self.history, self.at("scores")

    def score_job(self, local: bool, dry_run: bool = False) -> ScoreJob:
        asked = self.asked
        own = {"corpus": self.corpus, "calibration": asked["calibration"], "since_plan": self.since, "local": local, "dry_run": dry_run}
        return ScoreJob(asked["run"], asked["input"], self.at("scores"), asked["sample_rate_hz"], **own)


def nightly(job: NightlyJob) -> None:
    """Runs the stage; see jobs/nightly.py."""
    name = name_of(job.night)
    if job.history < 1:
        raise UserError(f"--history {job.history}: a night is judged with itself at least")
    nights_uri, asked = _uri(job.nights), asked_of(job)
    if f"{nights_uri}/".startswith(f"{asked['input']}/"):
        raise UserError(f"--nights {nights_uri} lies within --input: what a night writes would be taken for shards; give another folder")
    names = [folder for folder in objects.list_folders(nights_uri) if NIGHT.fullmatch(folder)]
    if name not in names and names and name < names[-1]:
        raise NightMismatch(f"the night {name} would be begun after {names[-1]}, which stands: give --night a later date, or leave it out")
    check_inputs(asked, nights_uri, names)
    for former in unfinished(nights_uri, [each for each in names if each < name]):
        print(f"the night {former} was begun and not finished: it comes first")
        if not job.dry_run:
            work(read_night(nights_uri, former), job.local)
            print()
    if job.dry_run:
        preview(read_night(nights_uri, name) if name in names else first_seen(nights_uri, name, names, asked), job.local)
        return
    night = begin(nights_uri, name, names, asked)
    if objects.exists(night.at("_done.json")):
        print(f"{night.uri} is finished already: nothing to do")
        return
    work(night, job.local)


def name_of(night: str | None) -> str:
    """A night's date. Raises UserError for what is none."""
    if night is None:
        return datetime.now(UTC).date().isoformat()
    with suppress(ValueError):
        if NIGHT.fullmatch(night):
            return date.fromisoformat(night).isoformat()
    raise UserError(f"--night is a date, as 2026-11-30, not {night!r}")


def asked_of(job: NightlyJob) -> dict[str, Any]:
    """What decides whether two commands ask for one night, ready for JSON."""
    values = {name: value for name, value in asdict(job).items() if name not in NOT_ASKED}
    whole = {name: _uri(values[name]) for name in ("run", "input", "standing", "labels", "calibration") if values[name]}
    return {**values, **whole, "reference": [_uri(uri) for uri in job.reference]}


def _uri(uri: str) -> str:
    """One name for one folder, however it is written."""
    return objects.absolute(uri).rstrip("/")


def check_inputs(asked: dict[str, Any], nights_uri: str, names: list[str]) -> None:
    """Raises UserError before a night is begun that could not be finished."""
    run_uri = asked["run"]
    run = load_calibrated(run_uri, asked["calibration"])
    run.check(asked["sample_rate_hz"], run.facts.num_samples)
    content = run_identity(run_uri, run)["content"]
    check_finished(asked["standing"])
    made = {asked["standing"]: objects.read_json(objects.join(asked["standing"], "cuts.json"))["run"]}
    made |= {uri: Parts(uri).plan.identity.get("run") or {} for uri in asked["reference"]}
    for uri, of in made.items():
        if of.get("content") != content:
            raise NightMismatch(
                f"{uri} is of the run {of.get('uri')}, not of {run_uri}: scores differ in scale; make it again with this run"
            )
    if asked["labels"] is not None and not objects.exists(asked["labels"]):
        raise ObjectMissing(f"{asked['labels']} does not exist: --labels names a file")
    if names:
        there, here = ({name: each[name] for name in ("input", "run")} for each in (read_night(nights_uri, names[-1]).asked, asked))
        check_same(nights_uri, there, here, "with nights of another run or input", NightMismatch)


def unfinished(nights_uri: str, names: list[str]) -> list[str]:
    """The nights that were begun and not finished, the oldest first: each was finished before a later one was begun."""
    left: list[str] = []
    for name in reversed(names):
        if objects.exists(objects.join(nights_uri, name, "_done.json")):
            break
        left.insert(0, name)
    return left


def begin(nights_uri: str, name: str, names: list[str], asked: dict[str, Any]) -> Night:
    """The night as it was begun, now or before. Raises NightMismatch where that was with other settings."""
    if name not in names:
        night = first_seen(nights_uri, name, names, asked)
        values = {"night": name, "asked": asked, "since": night.since, "history": list(night.history)}
        with suppress(FileExistsError):  # another process was first
            objects.write_json(night.at("night.json"), values, exclusive=True)
    night = read_night(nights_uri, name)
    check_same(night.uri, night.asked, asked, "with other settings", NightMismatch)
    return night


def first_seen(nights_uri: str, name: str, names: list[str], asked: dict[str, Any]) -> Night:
    """The night that a first start fixes."""
    scores = [objects.join(nights_uri, each, "scores") for each in names]
    same = [uri for uri in asked["reference"] if str(read_plan(uri).identity["input"]).rstrip("/") == asked["input"]]
    since = (scores or same or [None])[-1]
    latest = scores[max(0, len(scores) + 1 - asked["history"]) :]
    return Night(objects.join(nights_uri, name), name, asked, since, tuple(uri for uri in latest if uri not in asked["reference"]))


def read_night(nights_uri: str, name: str) -> Night:
    """The night as it was begun. Raises UserError where a folder of that name is none."""
    uri = objects.join(nights_uri, name)
    try:
        values = objects.read_json(objects.join(uri, "night.json"))
    except FileNotFoundError:
        raise NightMismatch(f"{uri} holds no night (no night.json): remove it, or give another --nights") from None
    return Night(uri, name, values["asked"], values["since"], tuple(values["history"]))


def preview(night: Night, local: bool) -> None:
    """A dry run."""
    print(f"night {night.name} -> {night.uri}; it continues {night.since or 'nothing: all shards are new'}")
    print(f"judged with {len(night.history)} earlier nights, by {night.asked['standing']}, against {', '.join(night.asked['reference'])}")
    score(night.score_job(local, dry_run=True))


# ---------------------------------------------------------------- a night's work


def work(night: Night, local: bool) -> None:
    """Does what is not done of a night and finishes it."""
    asked, parts = night.asked, scored(night.score_job(local))
    plan, before = parts.plan, standing_before(night)
    account: dict[str, Any] = {
        "night": night.name,
        "shards": len(plan.sizes),
        "changed": list(plan.changed),
        **{name: parts.total(f"num_{name}") for name in ("read", "kept", "bad")},
        "last_with_data": night.name if parts.total("num_kept") else before.get("last_with_data"),
        "record_alarms": 0,
        "units_in_alarm": before.get("units_in_alarm", []),
        "new_units_in_alarm": [],
    }
    if parts.total("num_kept"):
        decisions, labels = night.at("decisions"), asked["labels"]
        if not objects.exists(objects.join(decisions, "_done.json")):
            label(LabelJob(night.tables, decisions, standing=asked["standing"], labels=labels, unit_reference=tuple(asked["reference"])))
        files = report_files(night.at("report"))
        if not objects.exists(files.unit_alarms):  # the last that is written
            title = f"vibray: {night.corpus}"
            report(ReportJob(night.tables, night.at("report"), decisions, labels, title, asked["language"]))
        units = read_units(decisions)
        assert units is not None
        loud = sorted(unit.unit for unit in units.alarms if unit.alarm)
        account["record_alarms"] = own_alarms(files.alarms, night.corpus)
        account["new_units_in_alarm"] = [unit for unit in loud if unit not in account["units_in_alarm"]]
        account["units_in_alarm"] = loud
    finish_folder(night.uri, ["night.json"], account)
    log.debug("night %s", night.name, extra=logs.event("night", **account))
    print_account(account, night)


def standing_before(night: Night) -> dict[str, Any]:
    """The account of the night that this one continues; empty for the first."""
    if night.since is None:
        return {}
    with suppress(FileNotFoundError):  # the reference is no night
        return objects.read_json(objects.join(objects.parent(night.since), "_done.json"))
    return {}


def own_alarms(alarms_uri: str, corpus: str) -> int:
    """Rows of a report's alarms.csv that are of one corpus."""
    rows = csv.DictReader(io.StringIO(objects.read_bytes(alarms_uri).decode("utf-8-sig"), newline=""))
    return sum(row["corpus"].removeprefix("'") == corpus for row in rows)


def print_account(account: dict[str, Any], night: Night) -> None:
    """What a person wants to know in the morning."""
    changed = f" ({len(account['changed']):,} changed since)" if account["changed"] else ""
    print(f"\nnight {night.name}: shards {account['shards']:,}{changed}, records {account['kept']:,}, lines set aside {account['bad']:,}")
    new = account["new_units_in_alarm"]
    names = ", ".join(f"{unit} (new)" if unit in new else unit for unit in account["units_in_alarm"]) or "none"
    if not account["kept"]:
        why = "no shard came" if not account["shards"] else "no record was kept" if account["read"] else "the shards hold no line"
        last = account["last_with_data"]
        told = f"the last night with records was {last}" if last else "no night had records so far"
        print(f"  a night without data: {why}; {told}; units in alarm since then: {names}")
        return
    print(f"  records that raise an alarm: {account['record_alarms']:,}; units in alarm: {names}")
    print(f"  report: {report_files(night.at('report')).page}")


# ---------------------------------------------------------------- shards that change while they are read


def scored(job: ScoreJob) -> Parts:
    """The night's scores. What was written anew or taken away since it was planned is set aside: the next night finds it."""
    while True:
        try:
            score(job)
            return Parts(job.scores)
        except Exception as error:
            stale = any(isinstance(cause, ObjectChanged | ObjectMissing) for cause in causes(error))
            if not stale or not objects.exists(objects.join(job.scores, "plan.json")) or not set_aside_stale(job.scores):
                raise


def set_aside_stale(scores_uri: str) -> int:
    """Commits parts whose objects are not the planned ones any more as parts without a record; how many objects that are.

    Objects of the same part that are as they were planned stand in its marker as `unread`: a later job reads them (storage/since.py).
    """
    plan, done, count = read_plan(scores_uri), done_parts(scores_uri), 0
    for part, numbers in missing(plan, done):
        stale = [key for key, etag, size in part.objects if not is_planned(plan, key, etag, size)]
        if stale:
            ended = bool(numbers) and done[part.part_id(max(numbers))]["last"]
            commit_unread(scores_uri, plan, part, numbers, bool(ended), stale)
        count += len(stale)
    return count


def is_planned(plan: Plan, key: str, etag: str, size: int) -> bool:
    now = objects.stat(objects.below(plan.base_uri, key))
    return now is not None and (now.etag, now.size) == (etag, size)


def commit_unread(scores_uri: str, plan: Plan, part: PartPlan, numbers: frozenset[int], ended: bool, stale: list[str]) -> None:
    """The numbers that a chain (or a byte range) lacks, the last of them with a line for each stale object."""
    top, run = max(numbers, default=-1), plan.identity["run"]
    faults = None if run["faults"] is None else tuple(run["faults"])
    empty = schema.scores(tuple(run["members"]), faults).empty_table()
    todo = [n for n in range(top + 1) if n not in numbers] + ([] if ended else [top + 1])
    for number in todo:
        own = stale if number == todo[-1] else []
        rows = [
            {
                "corpus": plan.corpus,
                "shard": key,
                "offset": part.start,
                "reason": schema.Reason.TRUNCATED_STREAM.value,
                "detail": "written anew or taken away since it was planned: what is there now is the next night's",
                "head": "",
            }
            for key in own
        ]
        print("".join(f"set aside, as {row['detail']}: {row['shard']}\n" for row in rows), end="")
        marker = {"key": part.key, "start": part.start, "number": number, "last": number > top, "num_read": len(rows)}
        unread = [key for key, _, _ in part.objects if key not in stale] if own else []
        tables = {"": empty, "bad": pa.Table.from_pylist(rows, schema=schema.BAD_RECORDS)}
        commit_part(scores_uri, part.part_id(number), tables, {**marker, **dict.fromkeys(COUNTED, 0), "unread": unread})
