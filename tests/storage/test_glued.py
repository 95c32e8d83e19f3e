"""Records under the wrong name or several on a line: what they are is said, and how many were lost; and fields that occur twice."""

import gzip
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

from vibray.decide.findings import print_findings
from vibray.pipeline.parts import print_account, reading_findings
from vibray.schema import Reason
from vibray.storage.corpus import CorpusFacts
from vibray.storage.lines import Broken, RawItem
from vibray.storage.parts import Parts, commit_part, make_plan, read_shard, start_plan
from vibray.storage.records import BadRecord, Record, parse_line, parse_object
from vibray.storage.shards import lines_of, suffix

FACTS = CorpusFacts(1000.0, 4)
PACK = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}


def record(number: int, listed: bool = False) -> dict:
    value = [1, 2, 3, number] if listed else f"1,2,3,{number}"
    return {"data_time": "2023-12-04T15:09:34Z", "sensor_id": "s", "signal_value": value}


TWELVE = [json.dumps(record(number)) for number in range(5, 17)]


def parse(text: str) -> Record | BadRecord:
    return parse_line(text.encode(), "a.jsonl", 0, 1, "c", FACTS)


def refused(text: str) -> tuple[str, str, int]:
    found = parse(text)
    assert isinstance(found, BadRecord), found
    return str(found.reason), found.detail, found.num_objects


def account(tmp_path: Path, data: bytes, name: str, capsys) -> tuple[Parts, str]:
    """The finished parts of one shard, and what is said of them."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / name).write_bytes(data)
    identity = {"facts": {"timezone": "UTC"}}
    out = str(tmp_path / "out")
    plan = start_plan(out, lambda: make_plan(str(tmp_path / "raw"), "c", identity), identity)
    for part in plan.parts:
        for read in read_shard(part, FACTS, "c", plan.base_uri):
            commit_part(out, read.part_id, {"": read.records, "bad": read.bad}, read.marker)
    parts = Parts(out)
    print_account(parts)
    print_findings(reading_findings(parts))
    return parts, capsys.readouterr().out


# ---- several on a line


@pytest.mark.parametrize("between", ["", " ", ",", " , ", ",\t", " \r "])
@pytest.mark.parametrize("end", ["", " ", "\r"])
def test_objects_on_one_line_are_counted(between, end):
    detail = "12 objects on one line: put each on a line of its own"
    assert refused(between.join(TWELVE) + end) == ("several objects on one line", detail, 12)


@pytest.mark.parametrize("rest", ["{", TWELVE[0][:-9], "x", ",", "[1]", ",,{}"])
def test_whole_objects_with_something_behind_them(rest):
    reason, detail, count = refused(TWELVE[0] + TWELVE[1] + rest)
    assert (reason, count) == ("several objects on one line", 2)
    assert detail == "2 objects on one line, and more that is no object: put each on a line of its own"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (TWELVE[0] + ",", "a comma after an object, as in a JSON list? name that .json"),
        ("  " + TWELVE[0] + " ,", "a comma after an object"),
        ("[", "a JSON list over several lines? name it .json"),
        ("[" + TWELVE[0] + ",", "a JSON list over several lines? name it .json"),
        ("{", "an object over several lines? write each record on one"),
        (TWELVE[0] + "x", "Extra data"),
        (TWELVE[0] + TWELVE[1][:-3], "Extra data"),
        ("1 2", "Extra data"),
        ("[1] [2]", "Extra data"),
        (TWELVE[0][:30], "Unterminated string"),
    ],
)
def test_what_is_not_json_says_what_it_looks_like(text, says):
    reason, detail, count = refused(text)
    assert (reason, count) == ("not JSON", 1)
    assert says in detail
    assert ("?" in detail) == ("?" in says or "comma" in says)


def test_very_many_and_very_deep():
    assert refused("{}" * 100_000)[1].startswith("100000 objects on one line: ")
    assert refused("{}{}" + '{"a":' * 100_000)[2] == 2
    assert refused('{}{"a": ' + "9" * 5000 + "}")[2] == 2


def test_the_loss_is_said(tmp_path, capsys):
    data = "".join(TWELVE) + "\n" + ",".join(TWELVE) + "\n" + json.dumps(record(99)) + "\n"
    parts, text = account(tmp_path, data.encode(), "a.jsonl", capsys)
    assert "read 3 = kept 1 + set aside 2" in text
    assert "2 lines set aside hold 24 objects: put each on a line of its own" in text
    assert parts.total("num_glued") == 24
    assert parts.reasons == {"several objects on one line": 2}


def test_nothing_is_said_of_lines_that_are_bad_otherwise(tmp_path, capsys):
    _, text = account(tmp_path, b"{}\nx\n[1, 2]\n" + TWELVE[0].encode(), "a.jsonl", capsys)
    assert "objects" not in text


# ---- the wrong name


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("first", ["data_time", "signal_value"])
def test_json_lines_that_are_named_json(packing, listed, first):
    rows = [record(number, listed) for number in range(5, 17)]
    rows = [{first: row[first], **row} for row in rows]
    text = "\ufeff" + "\n\n".join(json.dumps(row) for row in rows) + "\r\n"
    [found] = lines_of(io.BytesIO(PACK[packing](text.encode())), ".json" + packing)
    assert isinstance(found, Broken)
    assert (found.reason, found.detail) == (Reason.NOT_AN_OBJECT, "JSON lines (12 of them): name it .jsonl")
    assert (found.offset, found.num_objects) == (0, 12)
    assert found.head.startswith("{")


def test_long_lines_too():
    """The first of them is longer than what the parser of lists reads at a time."""
    lines = [json.dumps({"signal_value": [i] * 100_000, "sensor_id": "s"}).encode() for i in range(5)]
    [found] = lines_of(io.BytesIO(b"\n".join(lines)), ".json")
    assert isinstance(found, Broken) and found.detail == "JSON lines (5 of them): name it .jsonl"


def test_a_stream_of_them_that_breaks_off_is_counted_so_far():
    rng = __import__("random").Random(0)
    lines = b"".join(b'{"a": "%s"}\n' % rng.randbytes(3000).hex().encode() for _ in range(400))
    packed = gzip.compress(lines)
    [found] = lines_of(io.BytesIO(packed[: len(packed) // 2]), ".json.gz")
    assert isinstance(found, Broken)
    count = int(found.detail.split("(")[1].split()[0])
    assert 150 < count < 250


@pytest.mark.parametrize("text", ['"text"', "5", '{\n"data_time": "x",\n"sensor_id": "y"}\n', "{x}\n{y}", '{"a": 1}{"a": 2}'])
def test_what_is_neither_a_list_nor_lines(text):
    [found] = lines_of(io.BytesIO(text.encode()), ".json")
    assert isinstance(found, Broken)
    assert "JSON lines" not in found.detail


def test_a_list_under_any_key_but_a_fields_is_read():
    for key in ("data", "records", "a.item"):
        found = list(lines_of(io.BytesIO(json.dumps({key: [{"a": 1}, {"a": 2}]}).encode()), ".json"))
        assert [item.value for item in found if isinstance(item, RawItem)] == [{"a": 1}, {"a": 2}]


READ = """
import sys, json
from pathlib import Path
from vibray.storage.shards import read_lines
def peak_mb():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
from vibray.storage import lists, objects
before = peak_mb()
[found] = read_lines(sys.argv[1])
print(json.dumps([found.detail, peak_mb() - before]))
"""


def test_lines_in_a_json_cost_no_memory(tmp_path):
    line = json.dumps({"signal_value": "7," * 50_000, "sensor_id": "s"}).encode() + b"\n"
    with (tmp_path / "a.json.zst").open("wb") as file, zstandard.ZstdCompressor(1).stream_writer(file) as out:
        for _ in range(2000):
            out.write(line)
    done = subprocess.run([sys.executable, "-c", READ, str(tmp_path / "a.json.zst")], capture_output=True, text=True, check=True)
    detail, grown_mb = json.loads(done.stdout)
    assert detail == "JSON lines (2000 of them): name it .jsonl"
    assert grown_mb < 60  # of 200 MB


def test_they_are_counted_as_lost(tmp_path, capsys):
    parts, text = account(tmp_path, "\n".join(TWELVE).encode(), "a.json", capsys)
    assert "read 1 = kept 0 + set aside 1" in text
    assert "1 lines set aside hold 12 objects" in text and "JSON lines .jsonl" in text
    assert parts.total("num_glued") == 12


@pytest.mark.parametrize(("form", "reason"), [("[#]", "not an object"), ('{"data": [#]}', "missing field")])
def test_a_list_on_one_line(form, reason):
    found = refused(form.replace("#", ", ".join(TWELVE)))
    assert (found[0], found[2]) == (reason, 12)
    assert found[1].endswith("a JSON list of 12 objects: name it .json, or put each on a line")


@pytest.mark.parametrize("text", ["[1, 2]", "[]", "[{}, 1]"])
def test_another_list(text):
    assert refused(text) == ("not an object", "a JSON list", 1)


def test_a_list_over_several_lines(tmp_path, capsys):
    text = json.dumps([json.loads(line) for line in TWELVE], indent=1)
    parts, _ = account(tmp_path, text.encode(), "a.jsonl", capsys)
    first = parts.read(name="bad")["detail"][0].as_py()
    assert first.endswith("a JSON list over several lines? name it .json")


@pytest.mark.parametrize("packing", PACK)
def test_ndjson_is_jsonl(tmp_path, capsys, packing):
    assert suffix(f"day/A.NDJSON{packing}") == f".jsonl{packing}"
    data = PACK[packing]("\n".join(TWELVE).encode())
    parts, text = account(tmp_path, data, f"a.ndjson{packing}", capsys)
    assert "read 12 = kept 12 + set aside 0" in text
    assert parts.read(["record_id"])["record_id"][0].as_py() == f"a.ndjson{packing}@0"


@pytest.mark.parametrize("name", ["a.ndjson.txt", "ndjson", "a.ndjsonl", "a.ndjson.gz.part"])
def test_other_names_are_no_shards(name):
    assert suffix(name) is None


# ---- fields that occur twice


@pytest.mark.parametrize("name", ["data_time", "signal_value", "sensor_id"])
@pytest.mark.parametrize("where", ["first", "last"])
@pytest.mark.parametrize("same", [False, True])
def test_a_field_that_occurs_twice(name, where, same):
    good = record(5)
    again = json.dumps({name: good[name] if same else good[name] + "0"})[1:-1]
    text = f"{{{again}, {TWELVE[0][1:]}" if where == "first" else f"{TWELVE[0][:-1]}, {again}}}"
    assert refused(text) == ("doubled field", f"{name} more than once: which one is meant?", 1)
    found = next(iter(lines_of(io.BytesIO(f"[{text}]".encode()), ".json")))
    assert isinstance(found, RawItem)
    item = parse_object(found.value, "a.json", 0, "c", FACTS)
    assert isinstance(item, BadRecord) and item.reason == Reason.DOUBLED_FIELD


@pytest.mark.parametrize(
    "more", ['"note": 1, "note": 2', '"more": {"sensor_id": 1, "sensor_id": 2}', '"more": [{"data_time": 1, "data_time": 1}]']
)
def test_what_else_occurs_twice_is_let_pass(more):
    text = f"{TWELVE[0][:-1]}, {more}}}"
    assert isinstance(parse(text), Record)
    found = next(iter(lines_of(io.BytesIO(f"[{text}]".encode()), ".json")))
    assert isinstance(found, RawItem)
    assert isinstance(parse_object(found.value, "a.json", 0, "c", FACTS), Record)


def test_a_value_that_is_an_object_with_doubled_keys_is_called_an_object():
    text = '{"data_time": "2023-12-04T15:09:34Z", "sensor_id": "s", "signal_value": {"a": 1, "a": 2}}'
    assert refused(text)[:2] == ("not a number", "signal_value is a JSON object, a string or a list is wanted")
