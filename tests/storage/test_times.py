"""What data_time may say, and what is made of the hours in which clocks are changed."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vibray.config import from_json, to_json
from vibray.decide.findings import print_findings
from vibray.pipeline.featurize import facts_of
from vibray.pipeline.jobs import FeaturizeJob
from vibray.pipeline.parts import print_account, reading_findings
from vibray.storage import objects
from vibray.storage.corpus import CorpusFacts
from vibray.storage.labels import match_labels, read_labels
from vibray.storage.parts import Parts, PlanMismatch, commit_part, make_plan, read_shard, start_plan
from vibray.storage.times import DIGITS, Time, TimeFormat, parse_time

UTC_ZONE, BERLIN = ZoneInfo("UTC"), ZoneInfo("Europe/Berlin")
AT = datetime(2023, 1, 1, 11, 21, 50, 789000, UTC)


@pytest.mark.parametrize(
    "text",
    [
        "2023-01-01T12:21:50.789+01:00",
        "2023-01-01 12:21:50.789+01:00",
        "2023-01-01T12:21:50,789+01",
        "2023-01-01T11:21:50.7899999999999999999999Z",
        "2023-01-01T06:21:50.789-05:00",
        "2023-01-01T16:51:50.789+05:30",
        "20230101T122150.789+0100",
        "2023-01-01T12:21:50.789+0100",
        "20230101T122150,7891+01",
        "20230101T112150.789Z",
        "20230101 112150.789Z",
    ],
)
def test_both_forms_of_a_time(text):
    assert parse_time(text, BERLIN) == Time(AT)


@pytest.mark.parametrize("text", ["2023-01-01T12:21", "2023-01-01 12:21:00", "20230101T1221", "20230101T122100.0"])
def test_a_time_without_zone_or_seconds(text):
    assert parse_time(text, BERLIN) == Time(datetime(2023, 1, 1, 11, 21, tzinfo=UTC), True)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("20230101122150789", "looks like YYYYMMDDhhmmssfff without T: write 20230101T122150.789"),
        ("20230101122150", "looks like YYYYMMDDhhmmss without T: write 20230101T122150"),
        ("202301011221", "looks like YYYYMMDDhhmm without T: write 20230101T1221"),
        ("2023-01-01T122150", "half in extended form"),
        ("20230101T12:21:50", "half in extended form"),
        ("20230101T122150+01:00", "half in extended form"),
        ("2023-01-01", "no time of day"),
        ("20230101", "no time of day"),
        ("2023-W01-7T12:21", "no time of ISO 8601"),
        ("2023-001T12:21", "no time of ISO 8601"),
        ("2023-01-01T24:00", "00:00 of the next day"),
        ("20230101T240000Z", "00:00 of the next day"),
        ("2016-12-31T23:59:60Z", "leap second"),
        ("20161231T235960.5Z", "leap second"),
        ("2016-12-24T25:00", "hour must be"),
        ("2023-02-29T12:21", "day is out of range"),
        ("2023-01-01T12:21+01:60", "no time of ISO 8601"),
        ("2023-01-01T12:21+24:00", "an offset is less than 24 hours"),
        ("2023-01-01  12:21", "no time of ISO 8601"),
        ("2023-01-01_12:21", "no time of ISO 8601"),
        ("2023-01-01T12", "no time of ISO 8601"),
        ("2023-01-01T12:21:50.", "no time of ISO 8601"),
        ("2023-01-01T12:21:50z", "no time of ISO 8601"),
        ("2023-01-01T12:21:50 Z", "no time of ISO 8601"),
        ("2023-01-01T12:21Z\n", "no time of ISO 8601"),
        ("２０２３-01-01T12:21", "no time of ISO 8601"),
        ("٢٠٢٣-01-01T12:21", "no time of ISO 8601"),
        ("2023-01-01T12:21:50−01:00", "no time of ISO 8601"),
        ("1672572110", "--time-format epoch-s"),
        ("1672572110789", "--time-format epoch-ms"),
        (1672572110789000, "not a string; a count since 1970? then give --time-format epoch-us"),
        (1672572110.5, "--time-format epoch-s"),
        (Decimal("1672572110789000000"), "--time-format epoch-ns"),
        (5, "not a string"),
        (True, "not a string"),
        (None, "not a string"),
    ],
)
def test_what_is_no_time_says_why(text, says):
    with pytest.raises(ValueError) as error:
        parse_time(text, UTC_ZONE)
    assert says in str(error.value)
    assert ("--time-format" in str(error.value)) == ("--time-format" in says)


@given(st.datetimes(), st.integers(-1439, 1439), st.sampled_from(["extended", "basic"]), st.sampled_from("T "))
def test_a_written_time_is_read_back_to_the_ms(at, minutes, form, between):
    at = at.replace(tzinfo=UTC) if at.year in (1, 9999) else at.replace(tzinfo=UTC).astimezone(_offset(minutes))
    text = at.isoformat(between, "microseconds")
    if form == "basic":
        date, _, time = text.partition(between)
        text = f"{date.replace('-', '')}{between}{time.replace(':', '')}"
    assert parse_time(text, BERLIN) == Time(at.astimezone(UTC).replace(microsecond=at.microsecond // 1000 * 1000))


def _offset(minutes: int):
    sign, size = "+-"[minutes < 0], abs(minutes)
    return datetime.fromisoformat(f"2000-01-01T00:00{sign}{size // 60:02d}:{size % 60:02d}").tzinfo


# ---- epochs


@given(st.integers(-62135596800000, 253402300799999), st.integers(0, 999999), st.sampled_from(sorted(DIGITS)))
@example(1701702574001, 0, "epoch-s")
@example(1701702574789, 999999, "epoch-ns")
@example(-1, 999999, "epoch-us")
def test_a_count_since_1970_is_exact_to_the_ms(ms, rest_ns, time_format):
    whole = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
    exact = Decimal(ms * 10**6 + rest_ns).scaleb(DIGITS[time_format] - 9)
    for value in (exact, str(exact), f"{exact:f}", int(exact) if exact == int(exact) else exact):
        assert parse_time(value, BERLIN, time_format) == Time(whole)
    in_ms = Decimal(ms).scaleb(DIGITS[time_format] - 3)
    if abs(ms) < 10**13:  # a float has 15 digits
        assert parse_time(float(in_ms), BERLIN, time_format) == Time(whole)


@pytest.mark.parametrize(
    "value",
    [
        "2023-01-01T12:21Z",
        "",
        "1_000",
        " 5",
        "１",
        "nan",
        "inf",
        float("nan"),
        float("inf"),
        1e300,
        10**400,
        "1e999999999",
        "1e99999999999999999999",
        "9" * 5000,
        True,
        None,
        [5],
        {},
    ],
)
@pytest.mark.parametrize("time_format", sorted(DIGITS))
def test_with_an_epoch_nothing_else_is_a_time(value, time_format):
    with pytest.raises(ValueError):
        parse_time(value, UTC_ZONE, time_format)


def test_a_count_in_another_unit_says_so():
    with pytest.raises(ValueError, match="is its unit another one"):
        parse_time(1701702574789, UTC_ZONE, "epoch-s")
    assert parse_time("1e-999999999", UTC_ZONE, "epoch-s").at == datetime(1970, 1, 1, tzinfo=UTC)


def lines(times) -> bytes:
    values = ({"data_time": time, "sensor_id": "s", "signal_value": [1, 2, 3, i]} for i, time in enumerate(times, 5))
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def done(tmp_path, data: bytes, facts: CorpusFacts, name: str = "a.jsonl") -> Parts:
    """The finished parts of one shard."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / name).write_bytes(data)
    out = str(tmp_path / "out")
    plan = start_plan(out, lambda: make_plan(str(tmp_path / "raw"), "c", {"facts": to_json(facts)}), {"facts": to_json(facts)})
    for part in plan.parts:
        for read in read_shard(part, facts, "c", plan.base_uri):
            commit_part(out, read.part_id, {"": read.records, "bad": read.bad}, read.marker)
    return Parts(out)


@pytest.mark.parametrize("form", [int, str, float])
def test_records_and_labels_by_the_same_epoch(tmp_path, form):
    facts = CorpusFacts(1000.0, 4, time_format="epoch-ms")
    parts = done(
        tmp_path, lines([form(1672572110789), form(1672572110790)]) + lines(["x"]) + lines([form(5)]).replace(b", 5]", b", x]"), facts
    )
    assert parts.read(["measured_at"])["measured_at"].to_pylist() == [AT, AT + timedelta(milliseconds=1)]
    labels = tmp_path / "labels.jsonl"
    rows = [{"sensor_id": "s", "label": "normal", "data_time": form(ms)} for ms in (1672572110789, 5)]
    labels.write_text("\n".join(json.dumps(row) for row in rows))
    found = read_labels(str(labels), "UTC", "epoch-ms")
    assert [label.measured_at for label in found] == [AT, datetime(1970, 1, 1, 0, 0, 0, 5000, tzinfo=UTC)]
    matched = match_labels(found, parts.read(), parts.read(name="bad"), "UTC", "epoch-ms")
    assert (matched.table.num_rows, matched.num_quarantined) == (1, 1)


def test_the_option_of_the_job_is_a_fact_of_the_corpus():
    assert facts_of(FeaturizeJob("raw", "features", 1000.0)).time_format == "iso"
    time_format: TimeFormat
    for time_format in sorted(DIGITS):  # type: ignore[assignment]
        assert facts_of(FeaturizeJob("raw", "features", 1000.0, time_format=time_format)).time_format == time_format


def test_a_folder_from_before_the_option_goes_on_and_another_format_does_not(tmp_path):
    facts, raw, out = CorpusFacts(1000.0, 4), tmp_path / "raw", str(tmp_path / "out")
    raw.mkdir()
    (raw / "a.jsonl").write_bytes(lines(["2023-01-01T12:21Z"]))
    before = {"facts": {name: value for name, value in to_json(facts).items() if name != "time_format"}}
    assert from_json(CorpusFacts, before["facts"]) == facts
    start_plan(out, lambda: make_plan(str(raw), "c", before), before)
    assert "time_format" not in objects.read_json(objects.join(out, "plan.json"))["identity"]["facts"]
    assert start_plan(out, lambda: pytest.fail("it is begun"), {"facts": to_json(facts)}).parts
    with pytest.raises(PlanMismatch, match=r'facts\.time_format: "iso" in the folder, "epoch-s" now'):
        start_plan(out, lambda: pytest.fail("it is begun"), {"facts": to_json(CorpusFacts(1000.0, 4, time_format="epoch-s"))})


# ---- clocks that are changed


def twin(local: datetime, zone: ZoneInfo) -> tuple[bool, bool]:
    """Ambiguous, nonexistent: which moments of two days, a minute apart, does the zone's clock show as this time?"""
    start = local.replace(tzinfo=UTC) - timedelta(days=1)
    shown = [(start + timedelta(minutes=m)).astimezone(zone).replace(tzinfo=None) for m in range(2 * 24 * 60)]
    return shown.count(local) > 1, local not in shown


@pytest.mark.parametrize("name", ["Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Europe/Dublin", "Asia/Shanghai", "UTC"])
def test_times_that_a_clock_shows_twice_or_never(name):
    zone = ZoneInfo(name)
    days = [datetime(2023, month, day) for month, day in ((3, 12), (3, 26), (4, 2), (10, 1), (10, 29), (11, 5), (6, 1))]
    for local in (day + timedelta(minutes=m) for day in days for m in range(0, 240, 15)):
        found = parse_time(local.isoformat(), zone)
        assert found.naive
        assert (found.ambiguous, found.nonexistent) == twin(local, zone)
        with_offset = parse_time(local.replace(tzinfo=zone).isoformat(), zone)
        assert (with_offset.naive, with_offset.ambiguous, with_offset.nonexistent) == (False, False, False)


def test_the_first_of_two_and_as_if_the_clock_had_not_been_changed():
    assert parse_time("2023-10-29T02:30", BERLIN) == Time(datetime(2023, 10, 29, 0, 30, tzinfo=UTC), True, True, False)
    assert parse_time("2023-03-26T02:30", BERLIN) == Time(datetime(2023, 3, 26, 1, 30, tzinfo=UTC), True, False, True)


def test_they_are_counted_and_said_with_the_remedy(tmp_path, capsys):
    times = ["2023-10-29T02:30:00", "2023-10-29T02:45:00", "2023-10-29T03:00:00", "2023-03-26T02:30:00", "2023-10-29T02:30:00+01:00"]
    parts = done(tmp_path, lines(times), CorpusFacts(1000.0, 4, timezone="Europe/Berlin"))
    assert [parts.total(f"num_{kind}") for kind in ("naive", "ambiguous", "nonexistent")] == [4, 2, 1]
    print_account(parts)
    print_findings(reading_findings(parts))
    text = capsys.readouterr().out
    assert "2 times are ambiguous, for the clock of Europe/Berlin was set back" in text
    assert "1 times never were, for the clock of Europe/Berlin was set forward" in text
    assert "write an offset into data_time, as +01:00, or log in UTC" in text


def test_nothing_is_said_where_no_clock_is_changed(tmp_path, capsys):
    parts = done(tmp_path, lines(["2023-10-29T02:30:00"]), CorpusFacts(1000.0, 4))
    print_account(parts)
    print_findings(reading_findings(parts))
    text = capsys.readouterr().out
    assert "1 times name no zone" in text
    assert "ambiguous" not in text and "offset" not in text
