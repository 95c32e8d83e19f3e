"""The highest records: which ones are shown, and what is said of each."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int64
from markupsafe import Markup

from vibray.decide.groups import sensor_groups
from vibray.decide.pseudo_labels import undecided_rows
from vibray.features.cwt_image import CwtImage, CwtImageConfig
from vibray.report.anchors import record_anchor
from vibray.report.data import Bars, Explanation, Map, Nearest, ReportConfig, ReportData, Sentences, Spectrum
from vibray.report.record_figure import map_svg, record_svg, spectrum_svg
from vibray.report.words import ENGLISH, Words
from vibray.schema import FAULT_PREFIX, MEMBER_PREFIX
from vibray.storage.columns import codes, keys_of, one_chunk, plain, rows_of


@dataclass(frozen=True)
class Member:
    """A member's score and the share of all records whose score by that member is lower (None: it has no score)."""

    name: str
    score: float | None
    share_below: float | None


@dataclass(frozen=True)
class Shown:
    """An explanation ready for the page: a picture, sentences, labelled records (record_id, label, distance), or bars of (name, value,
    width in percent)."""

    title: str
    picture: Markup | None = None
    lines: tuple[str, ...] = ()
    records: tuple[tuple[str, str, float], ...] = ()
    bars: tuple[tuple[str, float, float], ...] = ()


@dataclass(frozen=True)
class Card:
    """A record as the page shows it."""

    rank: int
    anchor: str
    corpus: str
    record_id: str
    line: int | None
    unit: str
    sensor_id: str
    measured_at: datetime
    time_trusted: bool
    sample_rate_hz: float
    num_samples: int
    state: str
    calibrated: bool
    score: float
    rarity: str
    """one in so many healthy records of its sensor"""
    cut: float | int | None
    alarm: bool
    members: tuple[Member, ...]
    fault: str | None
    fault_probability: float | None
    faults: tuple[tuple[str, float], ...]
    picture: Markup
    picture_kind: str
    explanations: tuple[Shown, ...]


@dataclass(frozen=True)
class Highest:
    """The records shown, and how many of the evidence were passed over: higher ones of a sensor that was shown often enough already."""

    cards: tuple[Card, ...]
    num_passed_over: int


def chosen(data: ReportData, config: ReportConfig) -> tuple[Int64[np.ndarray, " shown"], int]:
    """The rows of the evidence that are shown, in order of score, and how many were passed over. Waveforms are not looked at.

    The highest of each unit that needs a look, then the highest of all, at most so many a sensor; none whose state keeps it from being an
    alarm.
    """
    if data.evidence is None or data.evidence.num_rows == 0:
        return np.empty(0, np.int64), 0
    evidence = data.evidence.select([name for name in data.evidence.column_names if name != "waveform"])
    at = rows_of(data.scores, evidence)
    undecided = np.where(at < 0, undecided_rows(evidence), data.undecided[at])
    (units, unit), groups = codes(evidence["unit"]), sensor_groups(evidence)
    sensor, score = groups.numbers(), evidence["score"].to_numpy()
    corpus, shard, offset = keys_of(evidence)
    order = np.lexsort((offset, shard, corpus, -score))
    order = order[~undecided[order]]
    needs = np.array([name in data.needing_a_look for name in units], bool)[unit[order]]
    first = np.sort(
        np.unique(np.where(needs, unit[order], -1), return_index=True)[1]
    )  # of each unit that needs a look, and one of the others
    first = order[first[needs[first]]]
    taken = first[: config.num_records].tolist()
    of_sensor, passed_over, is_first = Counter(sensor[first[: len(taken)]].tolist()), 0, np.isin(order, first)
    for row in order[~is_first].tolist():
        if len(taken) == config.num_records:
            break
        if of_sensor[sensor[row]] == config.records_per_sensor:
            passed_over += 1
            continue
        of_sensor[sensor[row]] += 1
        taken.append(row)
    rank = np.empty(len(score), np.int64)
    rank[order] = np.arange(len(order))
    return np.array(sorted(taken, key=rank.__getitem__), np.int64), passed_over


def highest(data: ReportData, config: ReportConfig, t: Words = ENGLISH) -> Highest:
    """The records that are shown, drawn."""
    rows, passed_over = chosen(data, config)
    if data.evidence is None or not len(rows):
        return Highest((), passed_over)
    shown = _as_scored(data, data.evidence.take(pa.array(rows)))
    ordered = {name: np.sort(one_chunk(data.scores[MEMBER_PREFIX + name]).drop_null().to_numpy()) for name in data.members}
    image = CwtImage(CwtImageConfig())  # one for all: its filters are made once
    cards = [_card(data, image, shown.slice(i, 1), i + 1, ordered, t) for i in range(shown.num_rows)]
    return Highest(tuple(cards), passed_over)


def _as_scored(data: ReportData, evidence: pa.Table) -> pa.Table:
    """Some of the evidence with state and `time_trusted` as in the scores, and each record's row there (null: it has none): a record that
    was scored alone did not know of the others."""
    at = rows_of(data.scores, evidence)
    here = pa.array(at >= 0)
    own = data.scores.take(pa.array(np.maximum(at, 0)))
    added = {
        "state": pc.if_else(here, plain(own.select(["state"]))["state"], evidence["state"]),  # type: ignore[attr-defined]
        "time_trusted": pa.array(np.where(at >= 0, data.time_trusted[at], True)),
        "row": pa.array(at, mask=at < 0),
    }
    evidence = evidence.drop_columns([name for name in added if name in evidence.column_names])
    for name, values in added.items():
        evidence = evidence.append_column(name, values)
    return evidence


def _card(data: ReportData, image: CwtImage, row: pa.Table, rank: int, ordered: dict[str, np.ndarray], t: Words) -> Card:
    waveform = row["waveform"][0].values.to_numpy(zero_copy_only=False).astype(np.float32)
    values = row.drop_columns(["waveform"]).to_pylist()[0]
    unit, sensor_id, calibrated, score = (values[name] for name in ("unit", "sensor_id", "calibrated", "score"))
    cut = data.cut_of(unit, sensor_id).get("anomaly_above")
    alt = t.plain("Waveform and time-frequency image of record {record}, sensor {sensor}", record=values["record_id"], sensor=sensor_id)
    picture, kind = record_svg(image, waveform, values["sample_rate_hz"], data.signal_unit, alt)
    faults = [(name, values.get(FAULT_PREFIX + name)) for name in data.faults or ()]
    return Card(
        rank=rank,
        anchor=record_anchor(values["corpus"], values["record_id"]),
        **{name: values[name] for name in ("corpus", "record_id", "line", "unit", "sensor_id", "sample_rate_hz", "state")},
        **{name: values[name] for name in ("measured_at", "time_trusted")},
        num_samples=waveform.size,
        calibrated=calibrated,
        score=score,
        rarity=data.rarity.words(values["row"], t),
        cut=cut,
        alarm=bool(calibrated and cut is not None and score >= cut),
        members=tuple(_member(name, values.get(MEMBER_PREFIX + name), ordered[name]) for name in data.members),
        fault=values.get("fault"),
        fault_probability=values.get("fault_probability"),
        faults=tuple(sorted(((name, p) for name, p in faults if p is not None), key=lambda pair: -pair[1])),
        picture=_translated(picture, t),
        picture_kind=kind,
        explanations=tuple(_shown(data.explanations.get((values["corpus"], values["record_id"]), ()), t)),
    )


def _member(name: str, score: float | None, ordered: np.ndarray) -> Member:
    if score is None or not ordered.size:
        return Member(name, score, None)
    return Member(name, score, float(np.searchsorted(ordered, np.float32(score), side="left")) / ordered.size)


LABELS = ("time, s", "amplitude", "dB re maximum")
"""Axis labels of a record's figure, which matplotlib lays out in English."""


def _translated(picture: Markup, t: Words) -> Markup:
    text = str(picture)  # a Markup's own replace would escape the tags
    for label in LABELS if t.language != "en" else ():
        text = text.replace(f">{label}<", f">{t(label)}<")
    return Markup(text)


def _shown(explanations: Iterable[Explanation], t: Words) -> Iterable[Shown]:
    """Each kind of explanation, ready for the page; titles are translated where the catalogue has them."""
    for explanation in explanations:
        title = t.plain(explanation.title)
        match explanation:
            case Map(_, values, rows_hz, duration_s):
                yield Shown(title, _translated(map_svg(np.asarray(values, np.float64), rows_hz, duration_s, title), t))
            case Spectrum():
                yield Shown(title, _translated(spectrum_svg(explanation, title), t))
            case Sentences(_, lines):
                yield Shown(title, lines=lines)
            case Nearest(_, records):
                yield Shown(title, records=records)
            case Bars(_, names, values):
                largest = max((abs(v) for v in values), default=0) or 1
                yield Shown(title, bars=tuple((n, v, 100 * abs(v) / largest) for n, v in zip(names, values, strict=True)))
