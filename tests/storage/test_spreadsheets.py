"""A review queue as it comes back: written by us, filled in, and saved by whatever spreadsheet a person has."""

import csv
import io
import json
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.storage.test_labels import KEYS, keys, row
from vibray.storage.labels import REVIEW_COLUMNS, LabelError, match_labels, read_labels, review_csv
from vibray.storage.spreadsheets import guarded, unguarded


def queue_row(record_id="a@0", corpus="c", **more):
    return dict.fromkeys(REVIEW_COLUMNS, "") | {"record_id": record_id, "corpus": corpus, **more}


def filled(data: bytes, labels: list[str]) -> list[list[str]]:
    """What a spreadsheet shows of our bytes, as Python's reader takes them, with labels filled in."""
    table = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline="")))
    at = table[0].index("label")
    for cells, label in zip(table[1:], labels, strict=True):
        cells[at] = label
    return table


def saved(table, separator=",", encoding="utf-8-sig", end="\r\n", quoting: int = csv.QUOTE_MINIMAL, blanks="") -> bytes:
    out = io.StringIO(newline="")
    if end != "\r\n":
        quoting = csv.QUOTE_ALL  # Python's writer quotes no line end but its own
    writer = csv.writer(out, delimiter=separator, lineterminator=end, quoting=quoting)  # type: ignore[arg-type]
    writer.writerows([[f"{blanks}{cell}{blanks}" if cell else cell for cell in cells] for cells in table])
    return out.getvalue().encode(encoding)


@pytest.fixture
def read(tmp_path):
    def write_and_read(data: bytes):
        path = tmp_path / "labels.jsonl"  # whatever its name
        path.write_bytes(data)
        return read_labels(str(path))

    return write_and_read


def found(labels):
    return [(label.corpus, label.record_id, label.label) for label in labels]


SEPARATORS, ENCODINGS, ENDS = (",", ";", "\t"), ("utf-8", "utf-8-sig", "utf-16"), ("\r\n", "\n", "\r")


@pytest.mark.parametrize("separator", SEPARATORS)
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("end", ENDS)
def test_every_dialect_reads_as_json_lines_do(read, separator, encoding, end):
    rows = [queue_row("a@0", why='high, 5; "loud"\tor not'), queue_row("a@9"), queue_row("b@0", unit="主变,1号")]
    table = filled(review_csv(rows), ["normal", "绕组松动", ""])
    labels = read(saved(table, separator, encoding, end, blanks=" "))
    assert found(labels) == [("c", "a@0", "normal"), ("c", "a@9", "绕组松动"), (None, None, None)]
    matched = match_labels(labels, KEYS)
    as_lines = [{"corpus": "c", "record_id": r, "label": name} for r, name in (("a@0", "normal"), ("a@9", "绕组松动"))]
    other = match_labels(read("\n".join(json.dumps(line) for line in as_lines).encode()), KEYS)
    assert matched.table.equals(other.table)
    assert (matched.num_rows, matched.num_empty) == (2, 1)
    assert matched.told("records") == "2 labels: 2 records, 0 of lines set aside; 1 rows without a label yet were passed over"


def test_what_excel_gets(read):
    rows = [queue_row("=cmd|' /C calc'!A0@0", "2024-05", unit="007", sensor_id="-1", why="+3", data_time="2023-12-04T00:00:00.000Z")]
    data = review_csv(rows)
    assert data.startswith(b"\xef\xbb\xbfrecord_id,corpus,unit,") and data.endswith(b"\r\n") and data.count(b"\r\n") == 2
    (cells,) = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""))
    assert (cells["record_id"], cells["corpus"]) == ("'=cmd|' /C calc'!A0@0", "'2024-05")
    assert (cells["unit"], cells["sensor_id"], cells["why"]) == ("'007", "'-1", "'+3")
    assert cells["data_time"] == rows[0]["data_time"]
    assert found(read(saved(filled(data, ["normal"]), ";"))) == [("2024-05", rows[0]["record_id"], "normal")]


@pytest.mark.parametrize("name", ["1", "12", "0", "u03", "T1", "主变1", "fleet-2024", "a-1", "north"])
def test_names_that_no_spreadsheet_changes_stay_as_they_are(name):
    assert guarded(name, name=True) == name


@pytest.mark.parametrize(
    "name", ["01", "1e5", "1-2", "2024-05", "May24", "sept2", "jan-1", "TRUE", "=1", "+a", "@a", "'x", "$5", "12345678901234567"]
)
def test_names_that_one_would_change_come_back(name):
    assert guarded(name, name=True) == f"'{name}"
    assert unguarded(guarded(name, name=True)) == name


@given(st.text(), st.booleans())
def test_the_guard_is_undone(text, name):
    assert unguarded(guarded(text, name)) == text
    assert not guarded(text, name).startswith(("=", "+", "-", "@", "\t", "\r"))


texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
ids = st.builds(lambda text, number: f"{text}@{number}", texts, st.integers(0, 10**9))
corpora = texts.map(str.rstrip).filter(bool)
labels_given = st.sampled_from(["", "normal", "轴承磨损", "dc_bias", "core; loose", 'a "b"', "x,y", "=odd", "-odd", "铁芯,多点\t接地"])
rows_given = st.lists(st.tuples(ids, corpora, texts, texts, labels_given), min_size=1, max_size=6, unique_by=lambda r: r[:2])


@settings(max_examples=300, deadline=None)
@given(
    rows_given.filter(lambda rows: any(r[-1] for r in rows)),
    st.sampled_from(SEPARATORS),
    st.sampled_from(ENCODINGS),
    st.sampled_from(ENDS),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.sampled_from(["", " ", "  \u3000"]),
)
@example([("\r\n@0", "\t007", "=1", "\n", "normal")], ";", "utf-16", "\r", csv.QUOTE_ALL, " ")
def test_any_queue_reads_back_from_any_dialect(tmp_path_factory, rows, separator, encoding, end, quoting, blanks):
    path = tmp_path_factory.getbasetemp() / "queue.csv"
    data = review_csv(queue_row(r, c, unit=u, why=w, note="") for r, c, u, w, _ in rows)
    path.write_bytes(saved(filled(data, [r[-1] for r in rows]), separator, encoding, end, quoting, blanks))
    read = read_labels(str(path))
    wanted = [(c, r, label) if label else (None, None, None) for r, c, _, _, label in rows]
    assert [(label.corpus, label.record_id, label.label) for label in read] == wanted
    assert [int(label.cell[1:]) for label in read] == list(range(2, len(rows) + 2))  # what a person sees on the left


def test_any_bytes_are_read_or_refused(tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "bytes.csv"

    @settings(max_examples=300, deadline=None)
    @given(st.one_of(st.binary(max_size=60), st.text("record_id,label;\t\r\n\"='@0", max_size=60).map(str.encode)))
    def refused_or_read(data):
        path.write_bytes(data)
        try:
            assert read_labels(str(path))
        except LabelError as error:
            assert str(path) in str(error)

    refused_or_read()


HEAD = "record_id,corpus,label\n"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"record_id,unit\na@0,u\n", "as CSV its first line must name the columns label and record_id"),
        (b"sensor_id,label\ns,normal\n", "it names label, sensor_id"),
        (b"no labels at all", "is no JSON Lines, and as CSV its first line must name"),
        (b"record_id,label,Label\na@0,x,y\n", "line 1 names the column label more than once"),
        (f"{HEAD}a@0,c,normal,more\n".encode(), "line 2 (cell D2): more cells than columns: put a cell that holds ',' into quotes"),
        (f"{HEAD}a@0,c,normal\n,c,normal\n".encode(), "line 3 (cell C3) names no record: give record_id"),
        (f'{HEAD}a@0,c,"nor"mal\n'.encode(), "line 2 is no CSV"),
        (f'{HEAD}a@0,c,"normal\n'.encode(), "is no CSV"),
        (f"{HEAD}a@0,c,\na@9,c, \n".encode(), "has no label in any of its 2 rows: fill in the column label"),
        (HEAD.encode(), "holds no row"),
        (
            f"{HEAD}a@0,c,正常\n".encode("gb18030"),
            'is not in UTF-8 (byte 29), nor in UTF-16 with its mark: in Excel choose File, Save As, "CSV UTF-8',
        ),
        (b"PK\x03\x04\x14\x00", 'is a workbook: in Excel choose File, Save As, "CSV UTF-8'),
        (f"{HEAD}a@0,c,{'x' * 200_000}\n".encode(), "field larger than field limit"),
        (f"{HEAD}a@0,c,Normal\n".encode(), "'Normal' (1 rows): for a healthy record write normal"),
    ],
)
def test_a_csv_that_is_no_list_of_labels_says_where_and_what_to_do(read, data, says):
    with pytest.raises(LabelError, match=re.escape(says)):
        read(data)


def test_rows_that_meet_no_record_or_contradict_name_their_cells(read):
    text = f'{HEAD}a@0,c,normal\n\n"z@\n1",c,bearing\na@0,c,bearing\na@9,,bearing\n'
    with pytest.raises(LabelError) as error:
        match_labels(read(text.encode()), KEYS)
    said = str(error.value)
    assert "1 of 4 label rows meet no record" in said and "line 4 (cell C4): label bearing" in said
    assert "line 6 (cell C5): label bearing, corpus c, record_id a@0, but line 2 (cell C2) says normal" in said
    assert "line 7 (cell C6): label bearing, record_id a@9 (2 records)" in said


def test_other_cells_than_the_records_name_do_not_count(read):
    """Excel makes 7 of 007, and a date of 1-2."""
    table = keys(row(unit="007", sensor_id="1-2"))
    labels = read(b"record_id;corpus;unit;sensor_id;data_time;label\na@0;c;7;2-Jan;04/12/2023;normal\n")
    assert match_labels(labels, table).table.num_rows == 1


def test_sensor_and_time_name_a_record_where_no_id_does(read):
    labels = read("Sensor_ID,data_time,LABEL\nt,2023-12-04T08:00:00+08:00,轴承\n".encode())
    assert match_labels(labels, KEYS).table["record_id"].to_pylist() == ["a@9"]


def test_json_lines_may_be_utf_16(read):
    assert found(read('{"label": "正常运行", "record_id": "a@0"}'.encode("utf-16"))) == [(None, "a@0", "正常运行")]
