"""Tables to one self-contained HTML file: no request leaves it, and every text of the data is shown as text."""

import hashlib
from base64 import b64encode
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any

import numpy as np
from markupsafe import Markup

from vibray.report import drift, model_card, out_of_service, quality, rates, tables
from vibray.report.data import GLOBAL, ReportConfig, ReportData
from vibray.report.expectations import recipes
from vibray.report.flagged import flagged
from vibray.report.fleet_map import fleet_map
from vibray.report.histogram import histogram_svg
from vibray.report.records import highest
from vibray.report.scale import Scale
from vibray.report.sensor_views import one_in, sensor_views
from vibray.report.standing import Standing, Unit, standing
from vibray.report.templating import environment
from vibray.report.words import Language, Words

WIDE, NARROW = (760, 280), (360, 250)
"""Sizes of the two drawings of a broad figure, in CSS pixels: text that is scaled down to a telephone cannot be read."""
OF_THE_CARD = ("run", "recipe", "corpora")
"""What an evaluation says of the run, which its card says already."""


def render(data: ReportData, config: ReportConfig = ReportConfig(), language: Language = "en") -> str:
    """The report as one HTML page, a function of its arguments only."""
    t = Words(language)
    return environment().get_template("page.html.j2").render(_context(data, config, t), t=t, language=language, **_script())


def _script() -> dict[str, Markup]:
    """The page's script, which sorts and filters, and the hash by which its policy lets it run and no other."""
    text = files("vibray.report").joinpath("page.js").read_text(encoding="utf-8")
    return {"script": Markup(text), "script_hash": Markup(b64encode(hashlib.sha256(text.encode()).digest()).decode())}


def _context(data: ReportData, config: ReportConfig, t: Words) -> dict[str, Any]:
    inputs, sensors, shown = tables.inputs(data), tables.sensors(data), highest(data, config, t)
    ends, times = np.iinfo(np.int64), tables.times_ms(data)
    first_and_last = [int(times.min(where=data.time_trusted, initial=ends.max)), int(times.max(where=data.time_trusted, initial=ends.min))]
    scale, units = Scale.of(data.ordered), standing(data, sensors)
    cut = (data.cuts or {}).get(GLOBAL) or {}
    limits = cut.get("normal_below"), cut.get("anomaly_above")
    cards: dict[str, list[Any]] = {}
    for card in shown.cards:
        cards.setdefault(card.unit, []).append(card)
    views = sensor_views(data, units, scale, config, t)
    faulty, still = out_of_service.faulty_sensors(data), out_of_service.resting(data)
    return {
        "data": data,
        "config": config,
        "standings": {one: [u for u in units if u.standing == one] for one in Standing},
        "Standing": Standing,
        "units": units,
        "map": fleet_map(data, units, scale, config, t),
        "views": views,
        "num_drawn": sum(view.picture is not None for view in views.values()),
        "one_in": one_in(views),
        "cards": cards,
        "num_passed_over": shown.num_passed_over,
        "flagged": flagged(data, config, frozenset(card.anchor for card in shown.cards), t),
        "rarity": lambda row: data.rarity.words(row, t),
        "rank_of": data.rarity.rank,
        "resting": still,
        "faulty": faulty,
        "facts": model_card.facts(data),
        "figures": list(model_card.figures(data, t)),
        "suite": model_card.suite_rows(data),
        "suite_recipes": recipes(),
        "inputs": inputs,
        "total": inputs[-1] if inputs else None,
        "reasons": tables.reasons(data),
        "states": tables.states(data),
        "causes": quality.causes(data),
        "counts": list(quality.counts(data, t)),
        "quantiles": quality.quantiles(data),
        "sensors": sensors,
        "num_alarms": int(data.alarm.sum()),
        "num_no_alarm": int(data.no_alarm.sum()),
        "distribution": [histogram_svg(data.ordered, *limits, *size, t) for size in (WIDE, NARROW)] if data.ordered.size else None,
        "scale_words": _scale_words(scale, t),
        "cuts": _cuts(data),
        "rates": list(rates.rate_words(data, t)),
        "rate_kinds": rates.KINDS,
        "num_untimed": int((~data.time_trusted).sum()),
        "first_and_last": first_and_last if data.time_trusted.any() else None,
        "diagnoses": tables.diagnoses(data),
        "metrics": list(tables.metric_tables({k: v for k, v in (data.metrics or {}).items() if k not in OF_THE_CARD})),
        "drifting": [row for row in drift.drifting(data) if row.num_months],
        "drift_words": drift.drift_words(data, t),
        "notes": list(_notes(data, inputs, sensors, units, t)),
    }


def _scale_words(scale: Scale, t: Words) -> Markup:
    match scale.kind:
        case "linear":
            return t("linear axis")
        case "log":
            return t("logarithmic axis")
        case "asinh":
            return t("axis linear within ±{width} and logarithmic beyond", width=f"{scale.width:.2g}")


def _cuts(data: ReportData) -> list[tuple[str, Mapping[str, Any]]]:
    """Those of all records first, under an empty name."""
    cuts = data.cuts or {}
    rows = [("", cuts[GLOBAL])] if cuts.get(GLOBAL) else []
    return rows + sorted((cuts.get("groups") or {}).items())


def _notes(
    data: ReportData, inputs: tuple[tables.Input, ...], sensors: tuple[tables.Sensor, ...], units: tuple[Unit, ...], t: Words
) -> Iterator[Markup | str]:
    """What the reader must know before believing a number."""
    yield from (t(note) for note in data.notes)
    for row in inputs:
        if not row.adds_up:
            said = "{corpus}: the counts do not add up: {read} read, {kept} kept, {aside} set aside."
            yield t(said, corpus=row.corpus, read=f"{row.read:,}", kept=f"{row.kept:,}", aside=f"{row.set_aside:,}")
    kept = sum(counts["kept"] for counts in data.counts.values())
    if data.counts and kept != data.scores.num_rows:
        yield t("{n} records were kept, but {m} have a score.", n=f"{kept:,}", m=f"{data.scores.num_rows:,}")
    if unknown := len(data.score) - len(data.ordered):
        yield t("Scores that are not finite, and in no figure: {n}.", n=f"{unknown:,}")
    if not data.cuts:
        yield t("No cuts were given: nothing is an alarm. Cuts are made by jobs/label.py and passed on with --decisions.")
    unknown = sum(not sensor.calibrated for sensor in sensors)
    if unknown:
        said = (
            "Sensors known to neither the run nor a calibration: {n} (records: {m}). They are scored against the fleet's baseline and "
            "raise no alarm; jobs/calibrate.py makes a calibration."
        )
        yield t(said, n=f"{unknown:,}", m=f"{int((~data.calibrated).sum()):,}")
    if data.cuts and units and not data.with_unit_alarms:
        yield t("Alarms of machines were not made on these scores, so one record above its cut is enough for a machine to need a look.")
