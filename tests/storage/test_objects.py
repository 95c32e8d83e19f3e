import io
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vibray.storage import local, objects, s3, streams
from vibray.storage.errors import ObjectChanged, ObjectExists, ObjectMissing, StorageError, explain
from vibray.storage.objects import join


def found(uri: str) -> objects.ObjectInfo:
    info = objects.stat(uri)
    assert info is not None
    return info


def test_importing_makes_no_client():
    code = "import sys, vibray.storage.parts, vibray.storage.labels; assert not {'s3fs', 'aiobotocore', 'ray'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("uri", "last"), [("s3://b/x/y/", "y"), ("s3://b", "b"), ("/data/gfd/", "gfd"), ("file:///data/gfd", "gfd"), ("a/../b/.", "b")]
)
def test_last_segment(uri, last):
    assert objects.last_segment(uri) == last


@pytest.mark.parametrize("uri", ["gs://b/x", "s3://key:secret@bucket/x", "s3:///x", ""])
def test_other_uris_are_refused_without_showing_a_secret(uri):
    with pytest.raises(ValueError, match="s3://") as error:
        objects.exists(uri)
    assert "secret@" not in str(error.value).replace("s3://key:secret@bucket is refused", "")


def test_listing(folder):
    for name in ("b/é 1.jsonl", "a.jsonl", "_done/x.json", "b/.hidden/y", "b/_z"):
        objects.write_bytes(join(folder, name), name.encode())
    assert [info.key for info in objects.list_objects(folder)] == ["a.jsonl", "b/é 1.jsonl"]
    assert [info.key for info in objects.list_objects(folder, hidden=True)] == [
        "_done/x.json",
        "a.jsonl",
        "b/.hidden/y",
        "b/_z",
        "b/é 1.jsonl",
    ]
    assert [info.key for info in objects.list_objects(join(folder, "_done"))] == ["x.json"]
    assert objects.list_folders(folder) == ["_done", "b"]
    assert objects.list_folders(folder + "-not") == []
    one = join(folder, "b", "é 1.jsonl")
    assert objects.list_objects(one) == [objects.stat(one)]
    assert found(one).size == len("b/é 1.jsonl".encode())
    assert objects.stat(join(folder, "b")) is None
    with pytest.raises(FileNotFoundError, match="check its spelling"):
        objects.list_objects(folder + "-not")


def test_a_link_to_a_folder_above_is_not_walked_for_ever(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "up").symlink_to(tmp_path)
    (tmp_path / "sub" / "a.jsonl").write_bytes(b"")
    assert [info.key for info in objects.list_objects(str(tmp_path))] == ["sub/a.jsonl"]


def test_a_listing_outlives_files_that_go_while_it_is_made(tmp_path, monkeypatch):
    """A writer's temporary is renamed between the look into the folder and the look at the file."""
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(b"x")
    monkeypatch.setattr(local.os, "walk", lambda *_, **__: [(str(tmp_path), [], ["a", ".b.tmp-1", "b", "c"])])
    assert [info.key for info in objects.list_objects(str(tmp_path))] == ["a", "b", "c"]


def test_bytes_and_exclusive_writes(folder):
    uri = join(folder, "x")
    objects.write_bytes(uri, b"1", exclusive=True)
    with pytest.raises(FileExistsError):
        objects.write_bytes(uri, b"2", exclusive=True)
    assert objects.read_bytes(uri) == b"1"
    objects.write_bytes(uri, b"3")
    assert objects.read_bytes(uri) == b"3"
    assert [info.key for info in objects.list_objects(folder, hidden=True)] == ["x"]
    objects.remove([uri, uri])
    assert not objects.exists(uri)
    with pytest.raises(ObjectMissing):
        objects.read_bytes(uri)


def test_an_exclusive_write_that_loses_the_race_fails_on_the_server(bucket, monkeypatch):
    uri = join(bucket, "plan.json")
    objects.write_bytes(uri, b"first")
    monkeypatch.setattr(objects, "exists", lambda uri: False)
    with pytest.raises(ObjectExists):
        objects.write_bytes(uri, b"second", exclusive=True)
    assert objects.read_bytes(uri) == b"first"


@pytest.mark.parametrize("size", [1000, 11 << 20])
def test_what_is_written_as_a_stream_is_whole_or_not_there(folder, size, monkeypatch):
    """Both below and above what goes to S3 in one piece."""
    monkeypatch.setattr(s3, "CHUNK", 5 << 20)
    uri, data = join(folder, "x"), np.random.default_rng(0).bytes(size)
    objects.write_stream(uri, lambda file: [file.write(data[at : at + 4096]) for at in range(0, size, 4096)])  # type: ignore[arg-type]
    assert objects.read_bytes(uri) == data
    with pytest.raises(FileExistsError):
        objects.write_stream(uri, lambda file: file.write(b"2"), exclusive=True)  # type: ignore[arg-type]

    def fails(file):
        file.write(b"half")
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="middle"):
        objects.write_stream(join(folder, "y"), fails)
    assert objects.read_bytes(uri) == data
    assert [info.key for info in objects.list_objects(folder, hidden=True)] == ["x"]


def test_tables_one_after_another_are_one(folder):
    table = pa.table({"name": ["a", "b", "c"], "value": pa.array([1.0, None, 3.0])})
    objects.write_tables(join(folder, "t.parquet"), table.schema, lambda: (table.slice(at, 2) for at in (0, 2)))
    assert objects.read_table(join(folder, "t.parquet")).equals(table)


def test_a_stream_is_the_object_and_refuses_another(folder, monkeypatch):
    monkeypatch.setattr(streams, "READ_AHEAD", 1000)
    data = bytes(range(256)) * 40
    uri = join(folder, "x")
    objects.write_bytes(uri, data)
    etag = found(uri).etag
    with objects.open_read(uri, 100, etag) as stream:
        assert stream.read() == data[100:]
        stream.seek(-3, io.SEEK_END)
        assert stream.read(10) == data[-3:]
    objects.write_bytes(uri, data + b"!")
    with pytest.raises(ObjectChanged, match="written again"):
        objects.open_read(uri, 0, etag)
    with pytest.raises(ObjectMissing):
        objects.open_read(uri + "not")


def test_an_object_that_changes_while_it_is_read_is_refused(bucket, monkeypatch):
    monkeypatch.setattr(streams, "READ_AHEAD", 1000)
    uri = join(bucket, "x")
    objects.write_bytes(uri, b"a" * 1_000_000)
    with objects.open_read(uri) as stream:
        stream.read(10)
        objects.write_bytes(uri, b"b" * 1_000_000)
        with pytest.raises(ObjectChanged, match="changed while"):
            stream.read()


def test_tables(folder):
    waveforms = pa.FixedSizeListArray.from_arrays(pa.array([float(i) for i in range(12)], pa.float32()), 4)
    table = pa.table({"name": ["x", "y", "x"], "waveform": waveforms})
    uri = join(folder, "t.parquet")
    size, digest = objects.write_table(uri, table)
    assert (size, digest) == (found(uri).size, objects.sha256(objects.read_bytes(uri)))
    assert objects.read_table(uri).equals(table)
    assert objects.read_table(uri, ["waveform", "name"]).equals(table.select(["waveform", "name"]))
    filesystem, path = objects.to_pyarrow_filesystem(uri)
    assert pq.read_table(path, filesystem=filesystem).equals(table)


def test_json_is_of_this_format(folder):
    uri = join(folder, "x.json")
    objects.write_json(uri, {"a": [1, "é"]})
    assert objects.read_json(uri) == {"a": [1, "é"]}
    for text, message in [
        (b'{"format_version": 99}', "made by version 99"),
        (b"{}", "without a format version"),
        (b'{"a', "not a whole JSON"),
        (b"[]", "not a whole"),
    ]:
        objects.write_bytes(uri, text)
        with pytest.raises(ValueError, match=message):
            objects.read_json(uri)


def test_uploads_left_open_are_aborted_below_the_folder_only(bucket):
    name = bucket.removeprefix("s3://")
    for key in ("run/part", "run2/part"):
        s3.client().create_multipart_upload(Bucket=name, Key=key)
    assert objects.abort_uploads(join(bucket, "run")) == 1
    assert [u["Key"] for u in s3.client().list_multipart_uploads(Bucket=name)["Uploads"]] == ["run2/part"]


def test_refusals_are_one_line_and_hold_no_credentials(bucket, monkeypatch):
    monkeypatch.setattr(s3, "NUM_ATTEMPTS", 1)
    cases = {
        "no such bucket": {},
        "cannot be reached": {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
        "AWS_PROFILE does not": {"AWS_PROFILE": "none"},
    }
    for message, variables in cases.items():
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            with pytest.raises(StorageError, match=message) as error:
                objects.read_bytes("s3://no-such-bucket-here/x")
            assert "\n" not in str(error.value)
            assert "nobody-may-print" not in str(error.value)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    with pytest.raises(StorageError, match="no credentials"):
        objects.list_objects(bucket)


def test_an_endpoint_with_a_password_is_refused_without_showing_it(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:hush@127.0.0.1:9")
    with pytest.raises(ValueError, match="holds a user") as error:
        objects.list_objects("s3://bucket/x")
    assert "hush" not in str(error.value)


@pytest.mark.parametrize("uri", ["s3://b/x?X-Amz-Signature=hush", "https://h/x?versionId=1&X-Amz-Security-Token=hush", "/x?Signature=hush"])
def test_a_signed_uri_is_refused_without_showing_it(uri):
    with pytest.raises(ValueError, match="signed URI") as error:
        objects.list_objects(uri)
    assert "hush" not in str(error.value)


def test_access_denied_is_said_so():
    assert "access denied" in explain(PermissionError("Forbidden"), "s3://b/x")
