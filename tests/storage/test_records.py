import gzip
import json
import math
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from unittest.mock import patch

import numpy as np
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.reference import records as twin
from vibray import schema
from vibray.config import from_json, to_json
from vibray.schema import Reason
from vibray.storage import records
from vibray.storage.corpus import CorpusFacts, UnitError, read_units
from vibray.storage.records import BadRecord, Record, content_hash, count_reasons, parse_line, parse_object, to_tables
from vibray.storage.samples import longest_run
from vibray.storage.shortcut import MAX_BYTES, cut_numbers, parse_floats

N = 4
FACTS = CorpusFacts(sample_rate_hz=1000.0, num_samples=N)
FITTING = CorpusFacts(sample_rate_hz=1000.0, num_samples=N, wrong_length="fit")
GOOD = {"data_time": "2023-12-04T15:09:34.000Z", "signal_value": "0.1,0.2,-3e1,4", "sensor_id": "s1"}


def parse(record, facts=FACTS):
    raw = record if isinstance(record, bytes) else json.dumps(record).encode()
    return parse_line(raw, "a/b.jsonl", 7, 3, "c", facts)


def good(record, facts=FACTS) -> Record:
    found = parse(record, facts)
    assert isinstance(found, Record), found
    return found


def refused(record, facts=FACTS) -> BadRecord:
    found = parse(record, facts)
    assert isinstance(found, BadRecord), found
    return found


def test_a_good_line():
    record = good(GOOD)
    assert (record.corpus, record.record_id, record.line, record.unit, record.sensor_id) == ("c", "a/b.jsonl@7", 3, "s1", "s1")
    assert record.measured_at == datetime(2023, 12, 4, 15, 9, 34, tzinfo=UTC)
    assert record.waveform.tolist() == np.array([0.1, 0.2, -30, 4], np.float32).tolist()
    assert record.content_hash == content_hash(record.waveform)
    assert not (record.naive_time or record.fitted)


def test_content_hash_is_blake2b_of_little_endian_float32():
    # b2sum -l 128 of the bytes 00 00 80 3f 00 00 00 c0
    assert content_hash(np.array([1.0, -2.0], ">f4")) == "f76600d11c87295e0d0a3f146dfdff06"


@pytest.mark.parametrize(
    "signal", ["0.1,0.2,-3e1,4", " [0.1, 0.2 ,-30.0,4] ", [0.1, 0.2, -30, 4], "1e-1,.2,-30,+4"], ids=["text", "brackets", "list", "forms"]
)
def test_every_form_of_a_signal_gives_the_same_waveform(signal):
    assert good({**GOOD, "signal_value": signal}).content_hash == good(GOOD).content_hash


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (b"{", Reason.NOT_JSON),
        (b'{"a": "\xff"}', Reason.NOT_JSON),
        (b"[" * 100_000, Reason.NOT_JSON),
        (b"\x00", Reason.NOT_JSON),
        (b"[1, 2]", Reason.NOT_AN_OBJECT),
        (b"9" * 5000, Reason.NOT_AN_OBJECT),
        (b"null", Reason.NOT_AN_OBJECT),
        ({"data_time": ..., "signal_value": ...}, Reason.MISSING_FIELD),
        ({"sensor_id": 5}, Reason.BAD_SENSOR_ID),
        ({"sensor_id": ""}, Reason.BAD_SENSOR_ID),
        ({"sensor_id": " "}, Reason.BAD_SENSOR_ID),
        ({"sensor_id": None}, Reason.BAD_SENSOR_ID),
        ({"sensor_id": "\ud800"}, Reason.BAD_SENSOR_ID),
        ({"data_time": 1701702574}, Reason.BAD_TIME),
        ({"data_time": "2023-12-04"}, Reason.BAD_TIME),
        ({"data_time": "2023-13-04T00:00:00Z"}, Reason.BAD_TIME),
        ({"data_time": "0001-01-01T00:00:00+10:00"}, Reason.BAD_TIME),
        ({"data_time": "\ud800"}, Reason.BAD_TIME),
        ({"signal_value": "1,,3,4"}, Reason.NOT_A_NUMBER),
        ({"signal_value": "1,2,3,4,"}, Reason.NOT_A_NUMBER),
        ({"signal_value": "1,2,x,4"}, Reason.NOT_A_NUMBER),
        ({"signal_value": [1, True, 3, 4]}, Reason.NOT_A_NUMBER),
        ({"signal_value": [1, None, 3, 4]}, Reason.NOT_A_NUMBER),
        ({"signal_value": ["1", "2", "3", "4"]}, Reason.NOT_A_NUMBER),
        ({"signal_value": 5}, Reason.NOT_A_NUMBER),
        ({"signal_value": "1,nan,3,4"}, Reason.NAN_OR_INFINITE),
        ({"signal_value": [1, math.inf, 3, 4]}, Reason.NAN_OR_INFINITE),
        ({"signal_value": "1,1e400,3,4"}, Reason.NAN_OR_INFINITE),
        ({"signal_value": "1,1e39,3,4"}, Reason.OUT_OF_RANGE),
        ({"signal_value": "1e-25,2e-25,3e-25,4e-25"}, Reason.OUT_OF_RANGE),
        ({"signal_value": "1e9,1000000001,1000000002,1000000003"}, Reason.PRECISION_LOST),
        ({"signal_value": [1, 10**400, 3, 4]}, Reason.NAN_OR_INFINITE),
        ({"signal_value": "1,2,3"}, Reason.WRONG_LENGTH),
        ({"signal_value": ""}, Reason.WRONG_LENGTH),
        ({"signal_value": []}, Reason.WRONG_LENGTH),
        ({"signal_value": "2,2,2,2"}, Reason.CONSTANT),
        ({"signal_value": "0,-0,0,0"}, Reason.CONSTANT),
    ],
)
def test_each_reason(change, reason):
    line = change if isinstance(change, bytes) else {k: v for k, v in {**GOOD, **change}.items() if v is not ...}
    row = refused(line)
    assert row.reason == reason
    assert (row.corpus, row.shard, row.offset, row.line) == ("c", "a/b.jsonl", 7, 3)
    assert len(row.head) <= 200
    to_tables([], [row], N)  # text that arrow refuses would raise


def test_the_order_of_checks_and_their_detail():
    row = refused({"sensor_id": 5, "data_time": 5})
    assert (row.reason, row.detail) == (Reason.MISSING_FIELD, "signal_value")
    assert refused({**GOOD, "sensor_id": 5, "data_time": 5}).reason == Reason.BAD_SENSOR_ID
    assert refused({**GOOD, "signal_value": "nan,x"}).detail == "sample 1 is 'x'"
    assert refused({**GOOD, "signal_value": "nan,1"}).reason == Reason.NAN_OR_INFINITE
    assert refused({**GOOD, "signal_value": "1,2,3"}).detail == "3 samples, 4 expected"


@pytest.mark.parametrize("where", [0, 10, 384])
@pytest.mark.parametrize("sign", [1, -1])
def test_sixteen_samples_at_an_extreme_are_clipped_and_fifteen_are_not(where, sign):
    facts = CorpusFacts(sample_rate_hz=1000.0, num_samples=400)
    signal = np.random.default_rng(0).uniform(-1, 1, 400)
    for run, is_clipped in ((15, False), (16, True)):
        signal[where : where + 16] = np.linspace(0.1, 0.2, 16)
        signal[where : where + run] = 2.0 * sign
        found = parse({**GOOD, "signal_value": signal.tolist()}, facts)
        assert (isinstance(found, BadRecord) and found.reason == Reason.CLIPPED) == is_clipped == twin.is_clipped(signal)


def test_a_run_that_is_not_at_an_extreme_is_no_clipping():
    facts = CorpusFacts(sample_rate_hz=1000.0, num_samples=100)
    signal = np.where(np.arange(100) // 20 == 2, 0.0, np.random.default_rng(0).uniform(-1, 1, 100))
    good({**GOOD, "signal_value": signal.tolist()}, facts)


@given(st.lists(st.booleans(), max_size=40))
def test_longest_run(mask):
    expected = max((len(run) for run in "".join("#" if x else " " for x in mask).split()), default=0)
    assert longest_run(np.array(mask, bool)) == expected


def test_fit_cuts_or_pads_and_says_so():
    facts = CorpusFacts(sample_rate_hz=1000.0, num_samples=20, wrong_length="fit")
    short = good({**GOOD, "signal_value": "1,2"}, facts)  # 18 zeros of padding are no clipping
    assert short.fitted
    assert short.waveform.tolist() == [1, 2] + [0] * 18
    long = good({**GOOD, "signal_value": ",".join(str(i) for i in range(30))}, facts)
    assert long.fitted
    assert long.waveform.tolist() == list(range(20))
    assert refused({**GOOD, "signal_value": "5,5"}, facts).reason == Reason.CONSTANT
    assert refused({**GOOD, "signal_value": ""}, facts).reason == Reason.WRONG_LENGTH


@pytest.mark.parametrize(
    ("text", "zone", "utc", "naive"),
    [
        ("2023-12-04T15:09:34.0019Z", "UTC", "2023-12-04T15:09:34.001+00:00", False),
        ("2023-12-04 15:09:34", "UTC", "2023-12-04T15:09:34+00:00", True),
        ("2023-12-04T15:09:34", "Asia/Shanghai", "2023-12-04T07:09:34+00:00", True),
        ("2023-07-04T15:09:34", "Europe/Berlin", "2023-07-04T13:09:34+00:00", True),
        ("2023-12-04T15:09:34+05:30", "Asia/Shanghai", "2023-12-04T09:39:34+00:00", False),
        ("20231204T150934Z", "UTC", "2023-12-04T15:09:34+00:00", False),
        ("1969-12-31T23:59:59.9995Z", "UTC", "1969-12-31T23:59:59.999+00:00", False),
    ],
)
def test_times(text, zone, utc, naive):
    record = good({**GOOD, "data_time": text}, CorpusFacts(sample_rate_hz=1000.0, num_samples=N, timezone=zone))
    assert (record.measured_at, record.naive_time) == (datetime.fromisoformat(utc), naive)
    table, _ = to_tables([record], [], N)
    assert table["measured_at"][0].as_py() == datetime.fromisoformat(utc)


def test_units():
    facts = CorpusFacts(sample_rate_hz=1.0, num_samples=N, unit_pattern=r"(gbx\d+)")
    assert good({**GOOD, "sensor_id": "gbx01-a1"}, facts).unit == "gbx01"
    assert good(GOOD, CorpusFacts(sample_rate_hz=1.0, num_samples=N, unit_pattern="^(a)/")).unit == "a"  # from the shard's key
    with pytest.raises(UnitError, match=r"'s1'.*a/b\.jsonl.*change the pattern"):
        parse(GOOD, facts)
    refused({**GOOD, "signal_value": "1"}, facts)  # a bad record asks for no unit
    table = CorpusFacts(sample_rate_hz=1.0, num_samples=N, units=(("s1", "t7"),))
    assert good(GOOD, table).unit == "t7"
    with pytest.raises(UnitError, match="add a line"):
        parse({**GOOD, "sensor_id": "s2"}, table)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sensor,unit\na,b", "sensor_id missing"),
        ("sensor_id,unit\na,", "line 2"),
        ("sensor_id,unit\na,b\na,c", "line 3.*'b'"),
        ("sensor_id,unit\n", "no sensor"),
        ("sensor_id,unit,unit\na,b,c", "names the column unit more than once"),
        ("sensor_id,unit,sensor_id, unit\na,b,a,b", "names the column sensor_id and unit more than once"),
        ("sensor_id,note,unit,note\na,1,b,2", "names the column note more than once"),
        ("sensor_id,unit\na,b\nc,d,e", "line 3: more fields than columns"),
        ("sensor_id,unit\na,Halle 2, Nord", "line 2: more fields than columns"),
    ],
)
def test_a_bad_table_of_units(tmp_path, text, message):
    (tmp_path / "units.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_units(str(tmp_path / "units.csv"))


def test_a_table_of_units(tmp_path):
    (tmp_path / "units.csv").write_text("\ufeffunit,sensor_id,note\nu2,b,x\nu1,a,\n", encoding="utf-8")
    assert read_units(str(tmp_path / "units.csv")) == (("a", "u1"), ("b", "u2"))
    (tmp_path / "units.csv").write_text('sensor_id,unit\na,"Halle 2, Nord"\n')
    assert read_units(str(tmp_path / "units.csv")) == (("a", "Halle 2, Nord"),)
    (tmp_path / "units.csv").write_text("sensor_id,unit,,\na,u1,,,\na,u1,,\n")  # a spreadsheet's empty columns; a sensor twice
    assert read_units(str(tmp_path / "units.csv")) == (("a", "u1"),)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sample_rate_hz": 0.0}, "above 0"),
        ({"num_samples": 0}, "1 or more"),
        ({"unit_pattern": "("}, "no regular expression"),
        ({"unit_pattern": "gbx"}, "no group"),
        ({"unit_pattern": "(a)", "units": (("a", "b"),)}, "not from both"),
        ({"timezone": "Mars/Olympus"}, "no time zone"),
    ],
)
def test_facts_that_cannot_be(wrong, message):
    with pytest.raises(ValueError, match=message):
        CorpusFacts(**{"sample_rate_hz": 1.0, **wrong})


def test_facts_to_json_and_back():
    facts = CorpusFacts(sample_rate_hz=8192.0, units=(("a", "b"),), mains="none", timezone="Asia/Shanghai")
    facts.unit("a", "")  # what it keeps for itself is no field
    assert from_json(CorpusFacts, to_json(facts)) == facts
    assert facts.mains_hz is None
    assert CorpusFacts(sample_rate_hz=1.0).mains_hz == 50.0
    with pytest.raises(ValueError, match="colour"):
        from_json(CorpusFacts, {**to_json(facts), "colour": 1})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
SIGNALS = st.lists(st.sampled_from(["1", "-2.5", "nan", "", "x", "1e39", "１", "1_0", " 3"]), max_size=6).map(",".join)
NEAR = st.fixed_dictionaries(
    {},
    optional={
        "data_time": st.sampled_from(["2023-12-04T15:09:34Z", "2023-12-04"]) | JSON,
        "signal_value": SIGNALS | st.lists(st.floats() | st.integers(), min_size=3, max_size=5) | JSON,
        "sensor_id": st.text(st.characters(), max_size=3) | JSON,
        "more": JSON,
    },
)
LINES = st.binary(max_size=60) | st.text(max_size=60).map(str.encode) | NEAR.map(lambda v: json.dumps(v).encode())


@settings(max_examples=150, deadline=None)
@given(LINES, st.sampled_from(["quarantine", "fit"]))
@example(b'{"data_time": ' + b"[" * 900 + b"]" * 900 + b', "signal_value": [], "sensor_id": "a"}', "fit")
@example(b'{"data_time": "2023-12-04T15:09:34Z", "signal_value": [' + b"9" * 5000 + b'], "sensor_id": "a"}', "fit")
def test_any_line_ends_in_exactly_one_table(raw, wrong_length):
    facts = FITTING if wrong_length == "fit" else FACTS
    found = parse_line(raw, "k", 0, 1, "c", facts)
    is_record = isinstance(found, Record)
    assert is_record != isinstance(found, BadRecord)
    kept, bad = to_tables([found] if isinstance(found, Record) else [], [found] if isinstance(found, BadRecord) else [], N)
    assert (kept.num_rows, bad.num_rows) == (int(is_record), int(not is_record))
    if isinstance(found, Record):
        assert twin.is_finite(found.waveform)
        if not found.fitted:
            assert found.waveform.tolist() == twin.waveform(raw).tolist()


@settings(max_examples=100, deadline=None)
@given(NEAR | JSON)
def test_an_item_of_a_list_is_judged_as_its_line_is(value):
    line, item = parse(value), parse_object(value, "a/b.jsonl", 7, "c", FACTS)
    assert type(line) is type(item)
    if isinstance(line, BadRecord) and isinstance(item, BadRecord):
        assert line.reason == item.reason
        assert line.detail.startswith(item.detail)  # of a line more is said, where it holds a whole list
    elif isinstance(line, Record) and isinstance(item, Record):
        assert (line.content_hash, item.record_id, item.line) == (item.content_hash, "a/b.jsonl#7", None)


def test_decimals_are_rounded_as_floats_are():
    found = parse_object({**GOOD, "signal_value": [Decimal("0.1"), Decimal("0.2"), -30, Decimal(4)]}, "a", 0, "c", FACTS)
    assert isinstance(found, Record)
    assert found.content_hash == good(GOOD).content_hash


def test_tables_follow_the_schema():
    kept, bad = to_tables([good(GOOD)], [refused(b"{"), refused(b"[]"), refused(b"{ ")], N)
    assert kept.schema == schema.records(N)
    assert bad.schema == schema.BAD_RECORDS
    assert kept["waveform"].to_pylist() == [good(GOOD).waveform.tolist()]
    assert count_reasons(bad) == {"not JSON": 2, "not an object": 1}
    empty, none = to_tables([], [], N)
    assert (empty.schema, none.schema, empty.num_rows) == (schema.records(N), schema.BAD_RECORDS, 0)


# ---- the shortcut


def verdict(raw: bytes, facts: CorpusFacts):
    """What is made of a line, its waveform as bytes."""
    found = parse_line(raw, "k", 0, 1, "c", facts)
    if isinstance(found, BadRecord):
        return found
    return [getattr(found, name) if name != "waveform" else found.waveform.tobytes() for name in Record.__dataclass_fields__]


def exactly(raw: bytes, facts: CorpusFacts):
    """The same without the shortcut."""
    with patch.object(records, "cut_numbers", lambda raw, most: None):
        return verdict(raw, facts)


NUMBERS = (
    *(
        "0",
        "-0",
        "-0.0",
        "0.5",
        "-3.25",
        "7",
        "12.5e-3",
        "1E5",
        "1e+2",
        "-0e0",
        "0.1",
        "16777217",
        "123456789012345678901",
        "1e39",
        "1e-50",
    ),
    *(
        "",
        " 1",
        "1 ",
        "+1",
        ".5",
        "5.",
        "-.5",
        "00",
        "01.5",
        "1e",
        "1e+",
        "--1",
        "-",
        "1_0",
        "nan",
        "Infinity",
        "x",
        "\\u0031",
        "[1",
        "1]",
        "\t1",
    ),
)
FIELDS = st.lists(st.sampled_from(NUMBERS[:12]) | st.sampled_from(NUMBERS), min_size=3, max_size=5)
VALUES = st.builds(
    lambda form, comma, fields: form.replace("#", comma.join(fields)),
    st.sampled_from(['"#"', '"#"', "[#]", "[#]", '"[#]"', '" [#] "', '"#,"', '"#', '{"signal_value": "#"}', '["#"]', '"[#"', "[[#]]", "#"]),
    st.sampled_from([",", ", ", ",  ", ";"]),
    FIELDS,
)
SIGNAL = st.builds("".join, st.tuples(st.just('"signal_value"'), st.sampled_from([":", ": ", " :\t", "", "::"]), VALUES))
MEMBERS = st.sampled_from(
    [
        '"data_time": "2023-12-04T15:09:34Z"',
        '"sensor_id": "s1"',
        '"sensor_id": "signal_value"',
        '"sensor_id": "\u00e9 \\u00e9"',
        '"signal_\\u0076alue": "1,2,3,5"',
        '"more": {"signal_value": "1,2,3,4"}',
        '"more": "\\"signal_value\\": \\"1,2,3,4\\""',
        '"more": [[], {"a": [1]}]',
        '"more": NaN',
        '"more": ' + "[" * 60 + "]" * 60,
        "more",
    ]
)
GOOD_MEMBERS = ['"data_time": "2023-12-04T15:09:34Z"', '"sensor_id": "s1"']


@st.composite
def near_lines(draw):
    members = draw(st.just(GOOD_MEMBERS) | st.lists(MEMBERS, max_size=4)) + draw(
        st.lists(SIGNAL, min_size=1, max_size=1 + draw(st.booleans()))
    )
    begin, end = draw(st.sampled_from([("{", "}"), ("{", "}"), (" {", "} "), ("[{", "}]"), ("{", "} {}"), ("", "")]))
    raw = (begin + ", ".join(draw(st.permutations(members))) + end).encode()
    if draw(st.integers(0, 5)):
        return raw
    at = draw(st.integers(0, len(raw)))
    return raw[:at] + draw(st.sampled_from([b"", b"\xff", b'"', b"\\", b"\x00", b"]"])) + raw[at + draw(st.integers(0, 2)) :]


@settings(max_examples=400, deadline=None)
@given(near_lines() | LINES, st.sampled_from(["quarantine", "fit"]))
@example(b'{"data_time": "2023-12-04T15:09:34Z", "sensor_id": "a", "signal_value": [-0, 1, 2, 3]}', "quarantine")
@example(b'{"data_time": "2023-12-04T15:09:34Z", "sensor_id": "a", "signal_value": "-0,1,2,3"}', "quarantine")
@example(b'{"data_time": "2023-12-04T15:09:34Z", "sensor_id": "a", "signal_value": "1,2,3,4", "signal_value": "1,2,3,5"}', "fit")
@example(b'{"x": {"data_time": "2023-12-04T15:09:34Z", "sensor_id": "a", "signal_value": "1,2,3,4"}}', "fit")
@example(b'{"data_time": "2023-12-04T15:09:34Z", "sensor_id": "a", "signal_value": "1,2,3,4"', "fit")
@example(
    b'{"x": ' + b"[" * 990 + b"]" * 990 + b', "data_time": "2023-12-04T15:09:34Z", "signal_value": "1,2,3,4", "sensor_id": "a"}', "fit"
)
def test_the_shortcut_changes_no_verdict(raw, wrong_length):
    facts = FITTING if wrong_length == "fit" else FACTS
    assert verdict(raw, facts) == exactly(raw, facts)


@pytest.mark.parametrize("value", ['"1.5,-0,2e-3,4"', '"1.5, 2, 3, 4"', "[1.5, 2, 3, 4]", "[1.5,2,3,4]", '"[1.5, 2, 3, 4]"'])
@pytest.mark.parametrize("order", ["{%s, %s}", '{"more": [1, {"a": "\u00e9"}], %s, %s}'])
def test_usual_lines_are_taken_by_the_shortcut(value, order):
    signal, others = f'"signal_value": {value}', ", ".join(GOOD_MEMBERS)
    for members in ((signal, others), (others, signal)):
        raw = (order % members).encode()
        assert cut_numbers(raw) is not None
        assert isinstance(parse_line(raw, "k", 0, 1, "c", FACTS), Record)
        assert verdict(raw, FACTS) == exactly(raw, FACTS)


def read(text: str, in_string: bool = True) -> np.ndarray | None:
    found = parse_floats(f"[{text}]".encode(), in_string)
    with np.errstate(over="ignore"):
        return None if found is None else found.astype(np.float32)


def bits(numbers) -> list[int]:
    with np.errstate(over="ignore"):
        return np.array(numbers, np.float64).astype(np.float32).view(np.int32).tolist()


@settings(max_examples=300, deadline=None)
@given(st.text("0019.-+eE, ", max_size=14) | FIELDS.map(",".join))
def test_what_is_read_is_what_float_and_json_read(text):
    found = read(text)
    if found is not None:
        assert found.view(np.int32).tolist() == bits([float(field) for field in text.split(",")])
    found = read(text, in_string=False)
    if found is not None:
        assert found.view(np.int32).tolist() == bits([float(number) for number in json.loads(f"[{text}]")])


def near_midpoints(value: float, digits: int, nudge: int) -> str:
    """A decimal of so many digits near the middle between a float32 and the next."""
    low = np.float32(value)
    middle = (Decimal(float(low)) + Decimal(float(np.nextafter(low, np.float32(np.inf))))) / 2
    mantissa, exponent = f"{middle:.{digits - 1}e}".split("e")
    return f"{mantissa[:-1]}{(int(mantissa[-1]) + nudge) % 10}e{exponent}"


@settings(max_examples=300, deadline=None)
@given(
    st.builds(
        lambda x, form: form % x, st.floats(-1e9, 1e9) | st.floats(width=32), st.sampled_from(["%.5g", "%.9g", "%r", "%.17g", "%.18e"])
    )
    | st.builds(near_midpoints, st.floats(2.0**-126, 2.0**100, width=32), st.integers(8, 19), st.integers(-1, 1))
    | st.builds("{}{}.{}e{}".format, st.sampled_from(["", "-"]), st.integers(0, 10**12), st.integers(0, 10**8), st.integers(-90, 50))
)
@example("9007199254740993")
@example("1.00000005960464477539")
@example("3.4028235677973366e38")
@example("3.4028235677973365e38")
@example("1e-46")
@example("7.006492321624085e-46")
def test_a_number_that_is_read_is_the_float32_of_its_float(text):
    found = read(text)
    assert found is None or found.view(np.int32).tolist() == bits([float(text)])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(-1e9, 1e9), min_size=1), st.sampled_from(["%.5g", "%.9g", "%.4f", "%.16g"]))
def test_usual_numbers_are_read(values, form):
    texts = [form % x for x in values]
    found = read(",".join(texts))
    assert found is not None
    assert found.view(np.int32).tolist() == bits([float(text) for text in texts])


@pytest.mark.parametrize("text", ["-0,0,1", "0,-0", "-0.0,-0 ,1e-0", "-0e5,-0,-0.5", "-0.0,0.0", "0e-0,-0"])
def test_a_zero_keeps_its_sign_in_a_string_and_an_integer_loses_it_in_a_list(text):
    in_string, in_list = read(text), read(text, in_string=False)
    assert in_string is not None
    assert in_list is not None
    assert in_string.view(np.int32).tolist() == bits([float(field) for field in text.split(",")])
    assert in_list.view(np.int32).tolist() == bits([float(number) for number in json.loads(f"[{text}]")])


@pytest.mark.parametrize(
    "text",
    ["", " ", "1,[2]", "[1]", "1],[2", '"1"', "true", "null", "{}", "NaN", "1e400", "18446744073709551616", "1 2", "1\x00", "é"],
)
def test_what_is_no_list_of_numbers_is_refused(text):
    assert read(text) is None
    assert read(text, in_string=False) is None


@pytest.mark.parametrize("blank", "\t\r\n")
def test_blanks_that_json_forbids_in_a_string_are_refused_there_alone(blank):
    assert read(f"1,{blank}2") is None
    assert read(f"1,{blank}2", in_string=False) is not None


def test_more_numbers_than_wanted_or_than_the_parser_holds_are_refused():
    assert parse_floats(b"[1,2,3]", True, 3) is not None
    assert parse_floats(b"[1,2,3]", True, 2) is None
    assert read("1," * (MAX_BYTES // 2) + "1") is None
    assert read("1,2") is not None


def test_threads_that_share_the_parser_read_every_line_right():
    lines = [json.dumps({**GOOD, "signal_value": [i, 0.5, -3, 4]}).encode() for i in range(2000)]
    expected = [exactly(raw, FACTS) for raw in lines]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(lambda raw: verdict(raw, FACTS), lines)) == expected
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize(
    ("fields", "other"),
    [
        ({}, False),
        ({"sample_rate": 1000}, False),
        ({"fs": 1.0}, False),  # kHz
        ({"sampling_frequency": 1000.4}, False),
        ({"sample_rate": 512}, True),
        ({"sample_rate_hz": 2000.0}, True),
        ({"sample_rate": "fast"}, False),
        ({"sample_rate": True, "fs": 512}, True),
    ],
)
def test_a_record_that_says_another_rate_of_itself_is_counted_and_read_at_the_stated_one(fields, other):
    record = good({**GOOD, **fields})
    assert record.other_rate is other and record.sample_rate_hz == 1000.0


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (gzip.compress(b"{}", mtime=0), "gzip data: name it .jsonl.gz"),
        (zstandard.compress(b"{}"), "zstd data: name it .jsonl.zst"),
        (json.dumps(GOOD).encode("utf-16"), "UTF-16? write UTF-8"),
        (json.dumps(GOOD).encode("utf-16-le")[:-1] + b"\xff", "UTF-16? write UTF-8"),
        (b'{"sensor_id": "\xe4"}', "byte 15 is not UTF-8"),
    ],
    ids=["gzip", "zstd", "utf-16", "utf-16 cut", "latin-1"],
)
def test_bytes_that_are_no_text_say_what_they_look_like(raw, says):
    found = parse_line(raw, "a.jsonl", 0, 1, "c", FACTS)
    assert isinstance(found, BadRecord) and found.reason == Reason.NOT_JSON and says in found.detail


def test_fields_in_another_spelling_are_missing_and_named():
    found = refused({"Data_Time": GOOD["data_time"], " signal_value": "1,2,3,4", "sensor_id": "s"})
    assert found.reason == Reason.MISSING_FIELD
    assert found.detail == "data_time, signal_value: it has 'Data_Time', ' signal_value', written otherwise"
