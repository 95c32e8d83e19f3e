import json
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from vibray import schema
from vibray.storage.labels import LabelError, match_labels, read_labels

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
