"""Tables to one self-contained HTML file: no request leaves it, and every text of the data is shown as text."""

import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from vibray.report import tables, units
from vibray.report.data import GLOBAL, ReportConfig, ReportData
from vibray.report.distribution import score_distribution_svg
from vibray.report.records import highest
from vibray.report.scale import Scale
from vibray.report.timeline import corpus_svg, sensor_svg

WIDE, NARROW = (760, 300), (360, 250)
"""Sizes of the two drawings of a broad figure, in CSS pixels: text that is scaled down to a telephone cannot be read."""
NUM_OVERVIEW = 500
"""From so many records on, the counts of the whole corpus over time are drawn."""


def render(data: ReportData, config: ReportConfig = ReportConfig()) -> str:
    """The report as one HTML page, a function of its arguments only."""
    # select_autoescape() looks at the name's ending and would leave .j2 unescaped
    loader = jinja2.PackageLoader("vibray", "report")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"n": _count, "g": _number, "plain": _plain, "pct": _percent, "utc": _utc}
    return environment.get_template("page.html.j2").render(_context(data, config))


def _context(data: ReportData, config: ReportConfig) -> dict[str, Any]:
    inputs, sensors, shown = tables.inputs(data), tables.sensors(data), highest(data, config)
    finite, times = data.score[np.isfinite(data.score)], tables.times_ms(data)[data.time_trusted]
    scale = Scale.of(finite)
    cut = (data.cuts or {}).get(GLOBAL) or {}
    limits = cut.get("normal_below"), cut.get("anomaly_above")
    return {
        "data": data,
        "config": config,
        "facts": [(name, value) for name, value in data.run.items() if value is not None],
        "inputs": inputs,
        "total": inputs[-1] if inputs else None,
        "reasons": tables.reasons(data),
        "states": tables.states(data),
        "sensors": sensors,
        "num_alarms": int(data.alarm.sum()),
        "num_no_alarm": int(data.no_alarm.sum()),
        "no_alarm_counts": tables.no_alarm_counts(data),
        "no_alarm_highest": tables.no_alarm_highest(data, config.num_no_alarm),
        "num_sensors_with_alarm": sum(s.num_alarms > 0 for s in sensors),
        "distribution": _both(lambda *size: score_distribution_svg(finite, *limits, *size)) if finite.size else None,
        "scale": scale,
        "cuts": _cuts(data),
        "overview": _overview(data, scale, limits[1]),
        "num_untimed": int((~data.time_trusted).sum()),
        "first_and_last": [int(t) for t in (times.min(), times.max())] if times.size else None,
        "multiples": list(_multiples(data, sensors[: config.num_sensors], scale, finite)),
        "highest": shown,
        "diagnoses": tables.diagnoses(data),
        "metrics": list(tables.metric_tables(data.metrics or {})),
        "unit_facts": data.unit_facts,
        "num_unit_alarms": sum(unit.alarm for unit in data.units),
        "units_shown": [u for u in data.units if u.alarm or u.discovery or u.last_alarm is not None],
        "drifting": [row for row in units.drifting(data) if row.num_months],
        "drift_words": units.drift_words(data),
        "rate_words": units.RATE_WORDS,
        "notes": list(_notes(data, inputs, sensors, len(shown.cards))),
    }


def _both(draw: Any) -> tuple[Markup, Markup]:
    return draw(*WIDE), draw(*NARROW)


def _cuts(data: ReportData) -> list[tuple[str, Mapping[str, Any]]]:
    cuts = data.cuts or {}
    rows = [("all records", cuts[GLOBAL])] if cuts.get(GLOBAL) else []
    return rows + sorted((cuts.get("groups") or {}).items())


def _overview(data: ReportData, scale: Scale, cut: float | int | None) -> tuple[Markup, Markup] | None:
    drawn = np.isfinite(data.score) & data.time_trusted
    if drawn.sum() < NUM_OVERVIEW:
        return None
    times, scores = tables.times_ms(data)[drawn], data.score[drawn]
    return _both(lambda width, height: corpus_svg(times, scores, cut, scale, width, height))


def _multiples(
    data: ReportData, sensors: tuple[tables.Sensor, ...], scale: Scale, finite: np.ndarray
) -> Iterator[tuple[tables.Sensor, Markup]]:
    place, times = data.sensors[1], tables.times_ms(data)
    drawn = np.isfinite(data.score) & data.time_trusted
    if not drawn.any():
        return
    span = (np.array([times[drawn].min(), times[drawn].max()]), np.array([finite.min(), finite.max()]))
    for sensor in sensors:
        mask = (place == sensor.place) & drawn
        alt = f"Scores over time of {sensor.unit} / {sensor.sensor_id}: {sensor.num_records:,} records, {sensor.num_alarms:,} alarms"
        yield sensor, sensor_svg(times[mask], data.score[mask], data.alarm[mask], sensor.cut, scale, span, alt)


def _notes(data: ReportData, inputs: tuple[tables.Input, ...], sensors: tuple[tables.Sensor, ...], num_shown: int) -> Iterator[str]:
    """What the reader must know before believing a number."""
    yield from data.notes
    for row in inputs:
        if not row.adds_up:
            yield f"{row.corpus}: the counts do not add up: {row.read:,} read, {row.kept:,} kept, {row.set_aside:,} set aside."
    kept = sum(counts["kept"] for counts in data.counts.values())
    if data.counts and kept != data.scores.num_rows:
        yield f"{kept:,} records were kept, but {data.scores.num_rows:,} have a score."
    if not np.isfinite(data.score).all():
        yield f"Scores that are not finite, and in no figure: {int((~np.isfinite(data.score)).sum()):,}."
    if not data.cuts:
        yield "No cuts were given: nothing is an alarm. Cuts are made by jobs/label.py and passed on with --decisions."
    unknown = [s for s in sensors if not s.calibrated]
    if unknown:
        records = int((~data.calibrated).sum())
        yield (
            f"Sensors known to neither the run nor a calibration: {len(unknown):,} (records: {records:,}). They are scored against the "
            "fleet's baseline and raise no alarm; jobs/calibrate.py makes a calibration."
        )
    if num_shown < len(data.explanations):
        yield f"{len(data.explanations):,} records have explanations, {num_shown:,} records are shown."


def _plain(value: Any) -> str:
    """A fact of the run: a number with the digits it was given."""
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _count(value: int) -> str:
    return f"{value:,}"


def _number(value: Any) -> str:
    """Any value of a table: four significant digits, a dash for what is missing or not defined."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{int(value):,}"
    if isinstance(value, float | np.floating):
        digits = f"{value:#.4g}".removesuffix(".")
        return f"{value:,.0f}" if "e+" in digits and abs(value) < 1e9 else digits
    if isinstance(value, list | tuple):
        return ", ".join(_number(v) for v in value)
    return str(value)


def _percent(share: float | None) -> str:
    """A share in percent, with enough digits that a rare thing is not 0 % and 99.97 % is not 100 %."""
    if share is None or math.isnan(share):
        return "–"
    percent, text = 100 * share, ""
    for digits in range(5):
        text = f"{percent:.{digits}f}"
        if abs(float(text) - percent) <= 0.02 * min(percent, 100 - percent):
            break
    return f"{text} %"


def _utc(time: datetime | int) -> str:
    moment = datetime.fromtimestamp(time / 1000, UTC) if isinstance(time, int) else time.astimezone(UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S}"
