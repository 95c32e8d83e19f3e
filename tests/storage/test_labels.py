import json
import re
import unicodedata
from datetime import UTC, datetime

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vibray import schema
from vibray.storage.labels import LabelError, match_labels, read_labels, same_name

TIME = "2023-12-04T00:00:00.000Z"


def row(corpus="c", record_id="a@0", unit="u", sensor_id="s", time=TIME, content_hash="h"):
    return {
        "corpus": corpus,
        "record_id": record_id,
        "line": 1,
        "unit": unit,
        "sensor_id": sensor_id,
        "measured_at": datetime.fromisoformat(time),
        "sample_rate_hz": 1.0,
        "content_hash": content_hash,
    }


def keys(*rows):
    return pa.Table.from_pylist(list(rows), schema.ORIGIN)


@pytest.fixture
def read(tmp_path):
    def write_and_read(*rows, **options):
        path = tmp_path / "labels.jsonl"
        path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows))
        return read_labels(str(path), **options)

    return write_and_read


KEYS = keys(row(), row(record_id="a@9", sensor_id="t"), row(record_id="b@0", sensor_id="s", unit="v"), row("d", "a@9", "w", "x"))


def test_rows_by_id_and_by_sensor_and_time(read):
    labels = read(
        {"record_id": "a@0", "label": "normal", "severity": 0.5},
        "",
        {"sensor_id": "t", "data_time": "2023-12-04T08:00:00+08:00", "label": "bearing"},
        {"sensor_id": "s", "unit": "v", "data_time": TIME, "label": "normal"},
        {"record_id": "a@9", "corpus": "d", "label": "normal"},
        {"record_id": "a@9", "corpus": "c", "label": "bearing"},  # the same record as line 3, and the same label
    )
    matched = match_labels(labels, KEYS)
    assert [tuple(r.values()) for r in matched.table.to_pylist()] == [
        ("c", "a@0", "normal"),
        ("c", "a@9", "bearing"),
        ("c", "b@0", "normal"),
        ("d", "a@9", "normal"),
    ]
    assert (matched.num_rows, matched.num_quarantined) == (5, 0)
    assert [label.line for label in labels] == [1, 3, 4, 5, 6]


def test_rows_that_meet_no_record_or_several_or_contradict_are_counted_and_shown(read):
    labels = read(
        {"record_id": "z@0", "label": "normal"},
        {"sensor_id": "s", "data_time": TIME, "label": "normal"},
        {"record_id": "a@9", "label": "normal"},
        {"record_id": "a@0", "label": "normal"},
        {"sensor_id": "s", "unit": "u", "data_time": TIME, "label": "bearing"},
    )
    with pytest.raises(LabelError) as error:
        match_labels(labels, KEYS)
    text = str(error.value)
    assert "1 of 5 label rows meet no record" in text
    assert "line 1: label normal, record_id z@0" in text
    assert "2 of 5 label rows meet more than one record" in text
    assert "line 5: label bearing, unit u, sensor_id s" in text
    assert "but line 4 says normal" in text


def test_many_examples_are_cut(read):
    with pytest.raises(LabelError, match="20 of 20") as error:
        match_labels(read(*({"record_id": f"z@{i}", "label": "x"} for i in range(20))), KEYS)
    assert len(str(error.value).splitlines()) == 7


def test_rows_that_meet_a_quarantined_record_are_counted(read):
    bad = pa.Table.from_pylist(
        [
            {"corpus": "c", "shard": "q.jsonl", "offset": 7, "line": 1, "reason": "constant", "detail": "", "head": "{"},
            {"corpus": "c", "shard": "q.json", "offset": 3, "line": None, "reason": "constant", "detail": "", "head": ""},
            {
                "corpus": "c",
                "shard": "r.jsonl",
                "offset": 0,
                "line": 1,
                "reason": "clipped",
                "detail": "",
                "head": '{"sensor_id": "\\u00e9", "data_time": "2023-12-04T00:00:00", "signal_value": "1,1',
            },
        ],
        schema.BAD_RECORDS,
    )
    labels = read(
        {"record_id": "q.jsonl@7", "label": "normal"},
        {"record_id": "q.json#3", "corpus": "c", "label": "normal"},
        {"sensor_id": "é", "data_time": TIME, "label": "normal"},
        {"record_id": "a@0", "label": "normal"},
    )
    matched = match_labels(labels, KEYS, bad)
    assert (matched.table.num_rows, matched.num_quarantined) == (1, 3)
    with pytest.raises(LabelError, match="meet no record"):
        match_labels(read({"record_id": "q.jsonl@7", "corpus": "d", "label": "normal"}), KEYS, bad)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "line 2 is not JSON"),
        ("[]", "line 2 is not a JSON object"),
        ('{"record_id": "a"}', "line 2 has no label"),
        ('{"record_id": "a", "label": 1}', "label must be a text"),
        ('{"label": "normal", "sensor_id": "a"}', "names no record"),
        ('{"label": "normal", "sensor_id": "a", "data_time": "yesterday"}', "is no time"),
    ],
)
def test_a_bad_labels_file_names_the_line(read, text, message):
    with pytest.raises(LabelError, match=message):
        read({"record_id": "a", "label": "normal"}, text)


def test_times_without_a_zone(read):
    [label] = read({"label": "normal", "sensor_id": "t", "data_time": "2023-12-04T08:00:00"}, timezone="Asia/Shanghai")
    assert label.measured_at == datetime(2023, 12, 4, tzinfo=UTC)
    assert match_labels([label], KEYS).table["record_id"].to_pylist() == ["a@9"]


# ---- names


def named(read, *labels: str) -> list[str]:
    return [row.label for row in read(*({"record_id": f"a@{i}", "label": label} for i, label in enumerate(labels)))]


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (["normal", "Normal", "Normal"], "'Normal' (2 rows) and 'normal' (1 rows): for a healthy record write normal"),
        (["NORMAL"], "'NORMAL' (1 rows): for a healthy record write normal"),
        (["normal ", "bearing"], "'normal ' (1 rows): for a healthy record write normal"),
        (["nor\u200bmal"], r"'nor\u200bmal' (1 rows)"),
        (["ｎｏｒｍａｌ", "normal"], r"'normal' (1 rows) and '\uff4e\uff4f\uff52\uff4d\uff41\uff4c' (1 rows)"),
        (
            ["Bearing", "bearing", "bearing"],
            "'Bearing' (1 rows) and 'bearing' (2 rows) differ only in case, blanks or Unicode form: write them alike",
        ),
        (["bearing  wear", "bearing wear"], "'bearing  wear' (1 rows) and 'bearing wear' (1 rows) differ only"),
        (["bearing\u00a0wear", "bearing wear"], r"'bearing wear' (1 rows) and 'bearing\xa0wear' (1 rows) differ only"),
        (["bearing\u3000wear", "bearing\twear"], "differ only"),
        (
            ["Lagerschädigung", unicodedata.normalize("NFD", "Lagerschädigung")],
            r"'Lagerscha\u0308digung' (1 rows) and 'Lagersch\xe4digung'",
        ),
        (["STRASSE", "Straße"], "differ only"),
        (["轴承 磨损", "轴承磨损"], "'轴承 磨损' (1 rows) and '轴承磨损' (1 rows) differ only"),
        (["unknown"], "'unknown' (1 rows) is the classifier's word for what is like none of the faults: leave such rows out"),
        (["Unknown", "unknown"], "'Unknown' (1 rows) and 'unknown' (1 rows) is the classifier's word"),
        (
            ["unknown", "Normal", "a", "A"],
            "write normal, for a fault a name that is more than another spelling of it; 'A' (1 rows) and 'a'",
        ),
    ],
)
def test_spellings_of_one_name_are_shown_with_their_counts(read, labels, says):
    with pytest.raises(LabelError) as error:
        named(read, *labels)
    assert says in str(error.value)
    assert "labels.jsonl: labels " in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "labels",
    [
        ["normal", "轴承磨损", "绕组松动", "铁芯多点接地", "轴承磨损"],
        ["normal", "bearing", "bearing_wear", "bearing-wear", "bearing wear 2", "abnormal", "not normal", "unknown noise"],
        ["café", "cafe"],
    ],
)
def test_names_work_as_they_are(read, labels):
    assert named(read, *labels) == labels


@pytest.mark.parametrize("label", [" ", "\u3000", "\u200b"])
def test_a_name_of_blanks_is_none(read, label):
    with pytest.raises(LabelError, match="line 1 has no label"):
        named(read, label)


def test_very_many_names_are_cut(read):
    with pytest.raises(LabelError, match="15 more such names") as error:
        named(read, *(f"{form}{i}" for i in range(20) for form in "aA"))
    assert len(str(error.value)) < 1200


@given(st.text(), st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]), st.sampled_from([" ", "\u3000", "\u200b", "\t"]), st.integers(0, 9))
def test_a_name_is_its_own_in_every_form(text, form, blank, at):
    name = same_name(text)
    assert same_name(name) == name
    assert same_name(unicodedata.normalize(form, text)) == name
    assert same_name(text[:at] + blank + text[at:]) == name or unicodedata.normalize("NFC", text) != text or not text.isascii()
    assert not any(c.isspace() for c in name)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"label": "normal", "label": "crack", "record_id": "a@0"}', "line 1 says label more than once"),
        (b'{"label": "normal", "record_id": "a@0"}' * 3, "3 objects on one line"),
        (b'[{"label": "normal", "record_id": "a@0"}]', "line 1 is not a JSON object: one row a line is wanted"),
        (b"\n \n", "holds no row: one a line is wanted"),
    ],
    ids=["doubled", "glued", "list", "empty"],
)
def test_a_file_that_is_no_list_of_rows_says_what_is_wanted(tmp_path, data, says):
    (tmp_path / "l.jsonl").write_bytes(data)
    with pytest.raises(LabelError, match=re.escape(says)):
        read_labels(str(tmp_path / "l.jsonl"))
