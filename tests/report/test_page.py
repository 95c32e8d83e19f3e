"""The page: self-contained, escaped, complete, the same every time."""

import hashlib
import re
import xml.etree.ElementTree as ET
from base64 import b64encode
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.report import fleet
from vibray import schema
from vibray.decide.findings import Finding
from vibray.report import tables
from vibray.report.data import ReportConfig, ReportData, Sentences
from vibray.report.page import render

SMALL = ReportConfig(num_records=2, num_sensors=2, num_rows=8)
NUM_RECORDS = 800
ONE = ReportConfig(num_records=1, num_sensors=1)
VOID = {"meta", "img", "br", "link", "input", "hr"}
SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
EVIL = "<script>alert(1)</script>"


class Page(HTMLParser):
    """Tags with attributes, ids, text by section; complains about tags that do not close."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.text += " "
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def data() -> ReportData:
    return fleet.report_data(NUM_RECORDS)


@pytest.fixture(scope="module")
def html(data: ReportData) -> str:
    return render(data, SMALL)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def words(page: Page) -> str:
    return " ".join(page.text.split())


def test_nothing_is_requested_from_outside(html: str, page: Page) -> None:
    assert "://" not in html.replace("s3://fleet/", "")  # the run's own URI, as text
    assert not {"link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,"))
        assert not any(name.startswith("on") for name in attributes)
    assert "@import" not in html
    assert re.findall(r"url\((?!#)", html) == []
    policies = [m.get("content") for m in page.named("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    (script,) = SCRIPT.findall(html)
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policies == [
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    ]


def test_ids_are_there_and_the_contents_lead_to_them(page: Page) -> None:
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    links = [attributes["href"] for attributes in page.named("a")]
    assert len(links) >= 9
    assert {str(link)[1:] for link in links} <= ids
    used = {str(attributes[name]) for _, attributes in page.tags for name in ("href", "clip-path") if attributes.get(name)}
    assert {re.sub(r"url\(#(.*)\)|#(.*)", r"\1\2", u) for u in used if not u.startswith("data:")} <= ids
    assert {str(a[name]) for _, a in page.tags for name in ("aria-labelledby", "for") if a.get(name)} <= ids
    # in drawings ids are hashes of what they name: the same twice is the same thing
    own = [a["id"] for tag, a in page.tags if "id" in a and tag not in ("path", "clippath", "image", "g", "lineargradient")]
    assert len(own) == len(set(own))


def test_every_figure_says_what_it_shows_and_every_table_has_headers(page: Page) -> None:
    drawings = page.named("svg")
    assert len(drawings) >= 7
    assert all((d.get("role") == "img" and d.get("aria-label")) or d.get("aria-hidden") == "true" for d in drawings)
    assert all(i.get("alt") for i in page.named("img"))
    assert all(t.get("scope") in ("row", "col") for t in page.named("th"))
    assert page.named("html")[0].get("lang") == "en"


def test_drawings_are_well_formed(html: str) -> None:
    for drawing in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
        ET.fromstring(drawing)
        own = 'class="' in drawing[:20]  # written by hand, else by matplotlib
        assert not re.search(r"fill|stroke|style=", drawing.replace("non-scaling-stroke", "")) if own else "var(--" in drawing
        assert not re.search(r"font-family|<style|<metadata", drawing)


def test_counts_add_up_on_the_page(page: Page, data: ReportData) -> None:
    text = words(page)
    assert "substations-2024 847 800 47" in text
    for reason, count in fleet.REASONS.items():
        assert re.search(rf"{reason} {count} ", text)
    assert "2024/03/part-0001.jsonl.gz" in text
    assert f"{int(data.alarm.sum())} of 800 records raise an alarm" in text
    assert "do not add up" not in text


def few(data: ReportData, num_records: int, **changes: Any) -> ReportData:
    """The first records alone, cheap to draw."""
    plain = {"scores": data.scores.slice(0, num_records), "evidence": None, "metrics": None, "explanations": {}, "counts": {}}
    return replace(data, **(plain | changes))


def test_counts_that_do_not_add_up_are_said(data: ReportData) -> None:
    wrong = few(data, 20, counts={"c": {"read": 1300, "kept": 1199, "set_aside": {"not JSON": 2}}})
    text = words(Page(render(wrong, ONE)))
    assert "1,300 read, 1,199 kept, 2 set aside" in text
    assert "1,199 records were kept, but 20 have a score" in text


def test_every_section_is_there(page: Page, html: str) -> None:
    text = words(page)
    contents = {a.get("href") for a in page.named("a")}
    for name in ("fleet", "ranking", "look", "others", "off", "faulty", "quality", "scores", "diagnoses", "model", "metrics", "words"):
        assert f"#{name}" in contents and f'<section id="{name}"' in html
    for what in ("ensemble", "3fa9c01d22be", "macro F1", "AUROC", "mahalanobis", "dc_bias", "integrated gradients", "300 Hz", "+7.2"):
        assert what in text
    assert "<dt>scores</dt>" in html
    assert "<dt>labels</dt>" not in html  # a fact that is None is left out


def test_what_is_left_out_is_counted(page: Page) -> None:
    text = words(page)
    assert "2 sensors are drawn over time, 13 are left out." in text
    assert "1 more rows are left out." not in text


def test_uncalibrated_sensors_are_said_and_raise_no_alarm(page: Page, data: ReportData) -> None:
    above = data.score >= data.cut_at(np.arange(len(data.score)))
    assert (above & ~data.calibrated).any()  # or the test says nothing
    assert not (data.alarm & ~data.calibrated).any()
    assert "known to neither the run nor a calibration: 3 (records: " in words(page)


def test_everything_that_says_alarms_says_as_many(page: Page, data: ReportData) -> None:
    """The lead, the tile, the states' and the sensors' table, the list of what is none."""
    text, num_alarms, others = words(page), int(data.alarm.sum()), int(data.no_alarm.sum())
    assert num_alarms > 10 and others > 3
    assert not (data.alarm & data.no_alarm).any()
    assert not set(data.scores["state"].filter(pa.array(data.alarm)).to_pylist()) & {"off", "transient", "sensor_fault"}
    assert f"{num_alarms} of 800 records raise an alarm" in text
    assert f"{others} are above the cut, but no alarm: the machine was off or switching, or the sensor is faulty" in text
    assert sum(sensor.num_alarms for sensor in tables.sensors(data)) == num_alarms
    columns = list(zip(*tables.states(data), strict=True))
    assert (sum(columns[1]), sum(columns[2]), sum(columns[3])) == (800, num_alarms, others)
    assert all(alarms == 0 or state in ("energised", "unknown") for state, _, alarms, _ in tables.states(data))


def test_what_says_nothing_of_a_fault_is_in_lists_of_its_own(data: ReportData) -> None:
    hangs = [EVIL if state == "sensor_fault" else None for state in data.scores["state"].to_pylist()]
    at = data.scores.column_names.index("state_cause")
    told = replace(data, scores=data.scores.set_column(at, "state_cause", pa.array(hangs, pa.string())))
    html = render(replace(told, evidence=None, explanations={}), ONE)
    assert EVIL not in html
    sections = [html[html.index(f'<section id="{name}"') :].split("</section>")[0] for name in ("off", "faulty")]
    assert "&lt;script&gt;" in sections[1] and "above the cut, no alarm" in sections[0]
    assert 'id="off"' not in render(few(data, 0, cuts=None), ONE)


def doubted(data: ReportData, year: int = 1970) -> tuple[ReportData, np.ndarray]:
    """The highest alarm of each sensor, all of the last one's and the newest record, taken in another year, which is not trusted."""
    rows, doubtful = data.order(data.alarm), np.zeros(data.scores.num_rows, bool)
    places = data.sensors[1]
    doubtful[[next(row for row in rows if places[row] == place) for place in np.unique(places[rows])]] = True
    doubtful[(places == places[rows[-1]]) & data.alarm] = True
    doubtful[int(tables.times_ms(data).argmax())] = True
    times = np.where(doubtful, int(datetime(year, 1, 1, tzinfo=UTC).timestamp() * 1000), tables.times_ms(data))
    at = data.scores.column_names.index("measured_at")
    scores = data.scores.set_column(at, "measured_at", pa.array(times, pa.int64()).cast(schema.TIME))
    return replace(data, scores=scores.append_column("time_trusted", pa.array(~doubtful))), doubtful


@pytest.mark.parametrize("year", [1970, 2099])
def test_a_time_that_is_not_trusted_is_on_no_axis_and_takes_no_alarm_away(data: ReportData, year: int) -> None:
    told, doubtful = doubted(few(data, 800), year)
    text = words(Page(html := render(told, SMALL)))
    times = tables.times_ms(data)[~doubtful]
    first, last = (f"{datetime.fromtimestamp(t / 1000, UTC):%Y-%m-%d %H:%M}" for t in (times.min(), times.max()))
    assert f"Records from {first} to {last} UTC" in text
    assert f"{doubtful.sum()} records have an implausible time and are left out of the drawings over time" in text
    drawings = "".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL))
    assert str(year) not in drawings
    np.testing.assert_array_equal(told.alarm, data.alarm)
    before, after = ({s.place: s for s in tables.sensors(d)} for d in (data, told))
    places, at = data.sensors[1], tables.times_ms(data)
    for place, sensor in after.items():
        own = (places == place) & data.alarm
        dated = at[own & ~doubtful]
        assert (sensor.num_alarms, sensor.num_records) == (before[place].num_alarms, before[place].num_records)
        assert sensor.last_alarm_ms == (dated.max() if dated.size else None)
    assert any(s.num_alarms and s.last_alarm_ms is None for s in after.values())  # shown as implausible
    assert text.count("implausible") > 1


@pytest.mark.filterwarnings("error")
def test_no_time_at_all_is_trusted(data: ReportData) -> None:
    none = few(data, 600, scores=data.scores.slice(0, 600).append_column("time_trusted", pa.array([False] * 600)))
    html = render(none, ONE)
    text = words(Page(html))
    assert "600 records have an implausible time" in text
    assert '<section id="fleet"' not in html and 'class="plot"' not in html


def test_cards_say_that_a_time_is_implausible(data: ReportData) -> None:
    told = replace(data, scores=data.scores.append_column("time_trusted", pa.array([False] * 800)), explanations={})
    card = render(told, ONE).split("<article")[1].split("</article>")[0]
    assert card.count('<span class="badge warn">implausible</span>') == 1


def test_what_contradicts_itself_is_said_early_and_as_text(page: Page, data: ReportData) -> None:
    assert "What contradicts itself Nothing was found that contradicts itself." in words(page)
    findings = (Finding("times", 1234, f"1,234 records are of {EVIL} 1970"), Finding("rates", 2, "2 sensors & their rate: look at $x_1$"))
    html = render(few(data, 20, findings=findings, counts=data.counts), ONE)
    section = html.split('<h3 id="findings">')[1].split("<h3")[0]
    text = words(found := Page(f'<h3 id="findings">{section}'))
    assert EVIL not in html and found.named("script") == []
    for finding in findings:
        assert f"{finding.count:,} {finding.text}" in text
    assert "Nothing was found" not in html
    order = [html.index(f'id="{name}"') for name in ("quality", "findings", "states", "scores")]
    assert order == sorted(order)


def evil_data(data: ReportData) -> ReportData:
    """The text columns, facts, metrics and reasons all hold markup and mathematics."""
    formula = "$\\frac{$ & 'a' \"b\" " + EVIL

    def spoil(table: pa.Table, names: tuple[str, ...]) -> pa.Table:
        for name in names:
            table = table.set_column(table.column_names.index(name), table.schema.field(name), pa.array([formula] * table.num_rows))
        return table

    columns = ("corpus", "record_id", "unit", "sensor_id", "fault", "state")
    bad = spoil(fleet.bad_records(fleet.REASONS), ("corpus", "shard", "reason", "detail", "head"))
    return replace(
        data,
        title=formula,
        scores=spoil(data.scores.slice(0, 40), columns[:-1]),
        evidence=spoil(data.evidence.slice(0, 2), columns) if data.evidence is not None else None,
        bad_records=bad,
        counts={formula: {"read": 41, "kept": 40, "set_aside": {formula: 1}}},
        run={formula: formula},
        cuts={
            "global": {"normal_below": 1.0, "anomaly_above": 2.0, "method": formula, "rate_kind": formula},
            "groups": {formula: {"anomaly_above": 2.0}},
        },
        metrics={formula: formula, "x": {formula: {formula: 0.5}}},
        signal_unit=formula,
        notes=(formula,),
        explanations={(formula, formula): (Sentences(formula, (formula,)),)},
    )


def test_text_of_the_data_is_text(data: ReportData) -> None:
    page = Page(html := render(evil_data(data), SMALL))
    assert len(page.named("script")) == 1 and EVIL not in SCRIPT.findall(html)[0]
    assert EVIL not in html
    assert page.text.count(EVIL) > 20
    assert page.named("img") == []


def test_same_data_same_page(data: ReportData, html: str) -> None:
    assert render(data, SMALL) == html


def test_time_is_the_callers(data: ReportData) -> None:
    html = render(few(data, 1, generated_at=datetime(2031, 2, 3, 4, 5, 6, tzinfo=UTC)), ONE)
    assert "2031-02-03 04:05:06 UTC" in html


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("num_records", [0, 1, 2])
def test_hardly_any_records(num_records: int, data: ReportData) -> None:
    counts = {"c": {"read": num_records, "kept": num_records, "set_aside": {}}}
    text = words(Page(render(few(data, num_records, cuts=None, counts=counts), ONE)))
    assert "No cuts were given" in text
    assert "No line was set aside." in text
    assert ("Ranking" in text) is (num_records > 0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("values", [np.full(501, 3.0), -np.arange(501.0), np.r_[np.zeros(500), np.nan], np.r_[np.zeros(500), 1e9]])
def test_strange_scores_are_drawn(values: np.ndarray, data: ReportData) -> None:
    table = data.scores.slice(0, 501)
    table = table.set_column(table.column_names.index("score"), table.schema.field("score"), pa.array(values, pa.float32()))
    text = words(Page(render(few(data, 501, scores=table), ONE)))
    assert ("not finite, and in no figure: 1." in text) is bool(np.isnan(values).any())


def test_other_rates_and_lengths_get_a_spectrogram(data: ReportData) -> None:
    rows = fleet.scores(50, faults=None)
    two = rows.filter(pc.field("state") == "energised").slice(0, 2)
    table = two.set_column(6, rows.schema.field("sample_rate_hz"), pa.array([2000.0, 8192.0]))
    waveforms = [np.random.default_rng(0).standard_normal(n).astype(np.float32) for n in (3000, 100)]
    evidence = table.append_column("waveform", pa.array(waveforms, pa.list_(pa.float32())))
    text = words(Page(render(few(data, 0, scores=rows, evidence=evidence), SMALL)))
    assert text.count("STFT spectrogram") == 2
    assert "3,000 samples at 2000 Hz" in text


def test_many_records_stay_a_small_page() -> None:
    once = fleet.scores(10_000, faults=None)
    many = pa.concat_tables([once] * 40)
    table = ReportData(title="many", generated_at=datetime(2024, 1, 1, tzinfo=UTC), scores=many, counts={}, cuts=fleet.CUTS)
    html = render(table, ONE)
    assert len(html) < 600_000
    assert html.count("<path") < 3000
    assert re.search(r"[\d,]+ of 400,000 records raise an alarm", words(Page(html)))


def test_ten_thousand_records_of_200_units_are_less_than_5_megabytes() -> None:
    scores = fleet.scores(10_000, 200, faults=fleet.FAULTS)
    data = fleet.report_data(100, scores=scores, evidence=fleet.evidence(scores, 250), counts={}, explanations={})
    html = render(data)
    assert html.count("<article") == ReportConfig().num_records and html.count('class="plot"') == 600
    assert len(html.encode()) < 5_000_000


def test_schema_columns_are_all_used() -> None:
    """A member or a fault that is added to the schema's table reaches the page's data."""
    table = schema.scores(("a", "b"), ("x",)).empty_table()
    data = ReportData(title="", generated_at=datetime(2024, 1, 1, tzinfo=UTC), scores=table, counts={})
    assert data.members == ("a", "b")
    assert data.faults == ("x",)
