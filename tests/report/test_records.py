"""Which records are shown and what their image says."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.report import fleet
from vibray import schema
from vibray.features.cwt_image import CwtImage, CwtImageConfig
from vibray.report.data import Nearest, ReportConfig, ReportData, Sentences, Spectrum
from vibray.report.page import render
from vibray.report.record_figure import record_svg, time_frequency
from vibray.report.records import highest


@pytest.fixture(scope="module")
def data() -> ReportData:
    return fleet.report_data(1500)


def test_highest_first_and_not_all_of_one_sensor(data: ReportData) -> None:
    assert data.evidence is not None
    shown = highest(data, ReportConfig(num_records=4, records_per_sensor=2))
    assert [c.rank for c in shown.cards] == [1, 2, 3, 4]
    scores = [c.score for c in shown.cards]
    assert scores == sorted(scores, reverse=True)
    rows = sorted(data.evidence.drop_columns(["waveform"]).to_pylist(), key=lambda r: -r["score"])
    rows = [row for row in rows if row["state"] in ("energised", "unknown")]
    wanted, seen = [], []
    for row in rows:
        if seen.count(row["sensor_id"]) < 2:
            wanted.append(row["record_id"])
        seen.append(row["sensor_id"])
    assert [c.record_id for c in shown.cards] == wanted[:4]
    assert shown.num_passed_over > 0


def test_card_says_what_the_tables_say(data: ReportData) -> None:
    (card,) = highest(data, ReportConfig(num_records=1)).cards
    row = next(r for r in data.scores.to_pylist() if r["record_id"] == card.record_id)
    assert (card.score, card.state, card.calibrated, card.fault) == (row["score"], row["state"], row["calibrated"], row["fault"])
    assert card.alarm == bool(data.alarm[data.scores["record_id"].to_pylist().index(card.record_id)])
    for member in card.members:
        column = data.scores["score_" + member.name].to_numpy()
        assert member.score == row["score_" + member.name]
        assert member.share_below == pytest.approx((column < np.float32(member.score)).mean())
    assert [p for _, p in card.faults] == sorted((row["fault_p_" + f] for f in fleet.FAULTS), reverse=True)
    assert [e.title.split()[0] for e in card.explanations] == ["Where", "Harmonics"]


def test_every_kind_of_explanation_is_on_the_page(data: ReportData) -> None:
    (card,) = highest(data, ReportConfig(num_records=1)).cards
    hz, level = (50.0, 100.0, 200.0), np.array([1.0, 2.0, 3.0])
    made = (
        Spectrum("Its spectrum", hz, level, level - 1, level, level + 1, "dB re 1 g"),
        Sentences("What moved", ("150 Hz +21 dB: <DC bias>", "直流偏磁")),
        Nearest("Like it", (("part-1.jsonl@7", "dc_bias", 0.25), ("part-2.jsonl@9", "normal", 3.5))),
    )
    told = replace(data, explanations={(card.corpus, card.record_id): made})
    spectrum, words, nearest = highest(told, ReportConfig(num_records=1)).cards[0].explanations
    assert "dB re 1 g" in str(spectrum.picture) and words.lines == made[1].lines and nearest.records == made[2].records
    html = render(told, ReportConfig(num_records=1))
    for text in ("Its spectrum", "&lt;DC bias&gt;", "直流偏磁", "part-1.jsonl@7", "dc_bias", "3.5"):
        assert text in html


@pytest.mark.parametrize("state", ["off", "transient", "sensor_fault"])
def test_a_record_whose_state_keeps_it_from_being_an_alarm_has_no_card(data: ReportData, state: str) -> None:
    """By the state in the scores: the one that the evidence was kept with did not know the other records."""
    config = ReportConfig(num_records=3, records_per_sensor=99)
    first, *others = (card.record_id for card in highest(data, config).cards)
    columns = (data.scores[name].to_pylist() for name in ("record_id", "state"))
    states = [state if name == first else own for name, own in zip(*columns, strict=True)]
    scores = data.scores.set_column(data.scores.column_names.index("state"), data.scores.schema.field("state"), pa.array(states))
    found = [card.record_id for card in highest(replace(data, scores=scores), config).cards]
    assert found[:2] == others
    everyone = pa.array([state] * len(states))
    nobody = data.scores.set_column(data.scores.column_names.index("state"), data.scores.schema.field("state"), everyone)
    assert highest(replace(data, scores=nobody), config).cards == ()


def test_order_of_equal_scores_is_by_key(data: ReportData) -> None:
    assert data.evidence is not None
    column = data.evidence.column_names.index("score")
    equal = data.evidence.set_column(column, data.evidence.schema.field("score"), pa.array(np.full(60, 9.0, np.float32)))
    equal = equal.filter(pc.field("state") == "energised")
    config = ReportConfig(num_records=2, records_per_sensor=99)
    plain, back = replace(data, cuts=None), equal.take(pa.array(np.arange(len(equal))[::-1]))  # without cuts no unit goes before others
    forwards, backwards = ([c.record_id for c in highest(replace(plain, evidence=rows), config).cards] for rows in (equal, back))
    assert forwards == backwards == sorted(equal["record_id"].to_pylist(), key=schema.place)[:2]


@pytest.mark.filterwarnings("error")
def test_a_unit_in_chinese_is_drawn_as_text() -> None:
    """matplotlib's own font lacks the characters: the browser's draws them."""
    picture, _ = record_svg(CwtImage(CwtImageConfig()), tone(500, 8192.0, 8192), 8192.0, "米/秒²", "振动")
    assert ">米/秒²<" in picture and 'aria-label="振动"' in picture


def tone(hz: float, rate_hz: float, num_samples: int) -> np.ndarray:
    return np.sin(2 * np.pi * hz * np.arange(num_samples) / rate_hz).astype(np.float32)


@pytest.mark.parametrize(("rate_hz", "num_samples", "kind"), [(8192.0, 8192, "CWT"), (2000.0, 4000, "STFT"), (8192.0, 400, "STFT")])
def test_a_tone_lies_on_its_row(rate_hz: float, num_samples: int, kind: str) -> None:
    values, rows_hz, what = time_frequency(CwtImage(CwtImageConfig()), tone(500, rate_hz, num_samples), rate_hz)
    assert what.startswith(kind)
    assert values.shape[0] == len(rows_hz)
    middle = values[:, values.shape[1] // 4 : -values.shape[1] // 4].mean(axis=1)
    found = rows_hz[int(middle.argmax())]
    spacing = np.abs(np.array(rows_hz) - 500).min()
    assert abs(found - 500) <= spacing + 1e-9
