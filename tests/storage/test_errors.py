"""What storage refuses is one line for the person who runs the job, of a class that says whether waiting may mend it."""

import errno
import io
import os
import random

import pyarrow as pa
import pyarrow.fs
import pytest
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    NoCredentialsError,
    ProfileNotFound,
    ProxyConnectionError,
    ReadTimeoutError,
    SSLError,
    SSOTokenLoadError,
)
from botocore.parsers import ResponseParserError

from vibray.config import UserError
from vibray.storage import errors, labels, objects, plan, s3, streams
from vibray.storage.corpus import CorpusFacts, UnitError, read_units
from vibray.storage.errors import ObjectMissing, StorageBusy, StorageError, storage_errors
from vibray.storage.objects import join
from vibray.storage.parts import AccountingError

SECRET = "a-secret-that-nobody-may-print"


def refusal(action, kind: type[Exception], says: str) -> None:
    """The action is refused with this very class, in one line without the secret."""
    with pytest.raises(UserError) as error:
        action()
    assert type(error.value) is kind, repr(error.value)
    line = str(error.value)
    assert says in line
    assert "\n" not in line
    assert SECRET not in line


def test_what_a_person_can_mend_has_one_class_and_a_defect_has_not():
    mended = [UnitError, labels.LabelError, plan.PlanMismatch, errors.ObjectExists, errors.ObjectChanged, ObjectMissing, StorageBusy]
    assert all(issubclass(kind, UserError) for kind in mended)
    assert issubclass(ObjectMissing, FileNotFoundError)
    assert issubclass(errors.ObjectExists, FileExistsError)
    assert not issubclass(AccountingError, UserError)


NUMBERS = [
    (errno.ENOSPC, StorageError, "no room left"),
    (errno.EDQUOT, StorageError, "no room left"),
    (errno.EROFS, StorageError, "read-only"),
    (errno.EACCES, StorageError, "access denied"),
    (errno.EPERM, StorageError, "access denied"),
    (errno.EFBIG, StorageError, "larger"),
    (errno.EIO, StorageError, "look at the disk"),
    (errno.EMFILE, StorageError, "ulimit"),
    (errno.ESTALE, StorageBusy, "network disk"),
    (errno.ETIMEDOUT, StorageBusy, "in time"),
]


@pytest.mark.parametrize(("number", "kind", "says"), NUMBERS, ids=[errno.errorcode[number] for number, _, _ in NUMBERS])
def test_a_disk_that_refuses(tmp_path, monkeypatch, number, kind, says):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number), SECRET)

    uri = str(tmp_path / "x")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        refusal(lambda: objects.write_bytes(uri, b"1"), kind, says)
    assert list(tmp_path.iterdir()) == []  # the temporary is gone
    objects.write_bytes(uri, b"1")
    for name, action in (
        ("read_bytes", lambda: objects.read_bytes(uri)),
        ("unlink", lambda: objects.remove([uri])),
        ("is_file", lambda: objects.stat(uri)),
        ("is_file", lambda: objects.list_objects(str(tmp_path))),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(objects.Path, name, refuse)
            refusal(action, kind, says)


@pytest.mark.parametrize(("number", "kind"), [(errno.EIO, StorageError), (errno.ESTALE, StorageBusy)])
def test_a_disk_that_refuses_while_a_stream_is_read(tmp_path, monkeypatch, number, kind):
    uri = str(tmp_path / "x.parquet")
    objects.write_table(uri, pa.table({"a": [1]}))
    stream, calls = objects.open_read(uri), []

    def refuse(_: os.stat_result) -> str:
        calls.append(None)
        if len(calls) > 1:  # the first is that of opening
            raise OSError(number, os.strerror(number))
        return "etag"

    with monkeypatch.context() as patch:
        patch.setattr(streams, "local_etag", refuse)
        calls.append(None)
        refusal(stream.read, kind, uri)
        calls.clear()
        refusal(lambda: objects.read_table(uri, ["a"]), kind, uri)
    stream.close()


def test_paths_that_are_none(tmp_path):
    (tmp_path / "file").write_bytes(b"1")
    (tmp_path / "ring").symlink_to(tmp_path / "ring")
    file, folder, ring = str(tmp_path / "file"), str(tmp_path), str(tmp_path / "ring")
    refusal(lambda: objects.read_bytes(folder), StorageError, "a folder stands")
    refusal(lambda: objects.open_read(folder), StorageError, "a folder stands")
    refusal(lambda: objects.write_bytes(folder, b""), StorageError, "a folder stands")
    refusal(lambda: objects.read_bytes(join(file, "x")), StorageError, "a file stands")
    refusal(lambda: objects.list_objects(join(file, "x")), StorageError, "a file stands")
    for exclusive in (False, True):  # not "exists already", which would be taken for another driver's file
        refusal(lambda exclusive=exclusive: objects.write_bytes(join(file, "x"), b"", exclusive), StorageError, "a file stands")
        refusal(lambda exclusive=exclusive: objects.write_bytes(join(file, "x", "y"), b"", exclusive), StorageError, "a file stands")
    refusal(lambda: objects.read_bytes(join(folder, "n" * 300)), StorageError, "longer than")
    refusal(lambda: objects.list_objects(join(folder, "n" * 300)), StorageError, "longer than")
    refusal(lambda: objects.read_bytes(ring), StorageError, "symbolic links")
    refusal(lambda: objects.read_bytes(join(folder, "\udcff")), UserError, "UTF-8")
    refusal(lambda: objects.read_bytes("s3://b/\udcff"), UserError, "UTF-8")
    refusal(lambda: objects.read_bytes(join(folder, "\0")), UserError, "zero byte")
    filesystem, path = objects.to_pyarrow_filesystem(folder)
    with pytest.raises(StorageError, match="a folder stands"), storage_errors(folder):
        filesystem.open_output_stream(path)


def test_a_working_directory_that_is_gone(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for action in (objects.absolute, objects.last_segment, objects.to_pyarrow_filesystem):
        refusal(lambda action=action: action("x/."), UserError, "change to one that exists")


def test_a_folder_that_may_not_be_read_is_not_left_out_in_silence(tmp_path, monkeypatch):
    for name in ("a", ".trash"):
        objects.write_bytes(str(tmp_path / name / "x.jsonl"), b"1")
    scandir, closed = os.scandir, {str(tmp_path / ".trash")}

    def refuse(path):
        if os.fspath(path) in closed:
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert [info.key for info in objects.list_objects(str(tmp_path))] == ["a/x.jsonl"]
    closed.add(str(tmp_path / "a"))
    refusal(lambda: objects.list_objects(str(tmp_path)), StorageError, f"{tmp_path / 'a'}: access denied")


def answer(code: str, status: int = 400) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": SECRET}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")


REFUSALS = [
    (answer("NoSuchKey"), ObjectMissing, "does not exist"),
    (answer("404"), ObjectMissing, "does not exist"),
    (answer("NoSuchBucket"), StorageError, "no such bucket"),
    (answer("AccessDenied"), StorageError, "access denied"),
    (answer("403"), StorageError, "access denied"),
    (answer("InvalidAccessKeyId"), StorageError, "does not accept"),
    (answer("SignatureDoesNotMatch"), StorageError, "does not accept"),
    (answer("ExpiredToken"), StorageError, "expired"),
    (answer("PermanentRedirect"), StorageError, "AWS_DEFAULT_REGION"),
    (answer("InvalidObjectState"), StorageError, "cold storage"),
    (answer("QuotaExceeded"), StorageError, "no room left"),
    (answer("XMinioStorageFull"), StorageError, "no room left"),
    (answer("SlowDown"), StorageBusy, "fewer workers"),
    (answer("503"), StorageBusy, "fewer workers"),
    (answer("429"), StorageBusy, "fewer workers"),
    (answer("RequestTimeout"), StorageBusy, "in time"),
    (NoCredentialsError(), StorageError, "no credentials"),
    (ProfileNotFound(profile=SECRET), StorageError, "AWS_PROFILE"),
    (SSOTokenLoadError(error_msg=SECRET), StorageError, "aws sso login"),
    (SSLError(endpoint_url=SECRET, error=SECRET), StorageError, "certificate"),
    (ReadTimeoutError(endpoint_url=SECRET), StorageBusy, "in time"),
    (ConnectionClosedError(endpoint_url=SECRET), StorageBusy, "cannot be reached"),
    (ProxyConnectionError(proxy_url=SECRET), StorageBusy, "HTTPS_PROXY"),
    (ResponseParserError("Unable to parse\nthe response"), StorageBusy, "Unable to parse the response"),
    (BotoCoreError(), StorageError, "unspecified error"),
    # of a file on this machine: taken for an object that is not there, it would be the start of a new job
    (FileNotFoundError(errno.ENOENT, "No such file", "/var/token"), StorageError, "/var/token"),
]


@pytest.mark.parametrize(("error", "kind", "says"), REFUSALS, ids=[f"{type(error).__name__}-{says}" for error, _, says in REFUSALS])
def test_a_store_that_refuses(monkeypatch, error, kind, says):
    class Store:
        def __getattr__(self, name):
            def refuse(**_):
                raise error

            return refuse

    monkeypatch.setattr(s3, "client", Store)
    monkeypatch.setattr(s3, "NUM_ATTEMPTS", 1)
    uri = "s3://bucket/x"
    refusal(lambda: objects.read_bytes(uri), kind, says)
    refusal(lambda: objects.write_bytes(uri, b"1"), kind, says)
    refusal(lambda: io.BufferedReader(streams.S3Stream("bucket", "x", uri, 10, "etag")).read(1), kind, says)
    if kind is ObjectMissing:
        assert objects.stat(uri) is None
    else:
        refusal(lambda: objects.stat(uri), kind, says)
        refusal(lambda: objects.list_objects(uri), kind, says)
        refusal(lambda: objects.remove([uri]), kind, says)


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"AWS_ENDPOINT_URL": "http://[::1"}, "no address: write"),
        *(({"AWS_ENDPOINT_URL": text}, "no address") for text in ("http://h:x", "ftp://h")),
        *(
            ({name: text}, rf"^{name} is no address: http:// \(or https://\) is missing")
            for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
            for text in ("127.0.0.1:9000", "localhost:9000", "minio", f"{SECRET}", f"user:{SECRET}@127.0.0.1:9000")
        ),
        ({"AWS_ENDPOINT_URL_S3": f"http://user:{SECRET}@h"}, "holds a user"),
        ({"AWS_DEFAULT_REGION": "no region"}, "no region"),
        ({"AWS_DEFAULTS_MODE": "x"}, "defaults mode"),
        ({"AWS_CONFIG_FILE": __file__}, "config file"),
    ],
)
def test_aws_variables_that_are_wrong(bucket, monkeypatch, variables, says):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=says) as error:
        objects.read_bytes(join(bucket, "x"))
    assert not isinstance(error.value, StorageBusy)
    assert "\n" not in str(error.value)
    assert SECRET not in str(error.value)


def test_a_profile_whose_endpoint_holds_a_password(bucket, monkeypatch, tmp_path):
    (tmp_path / "config").write_text(f"[default]\nendpoint_url = http://user:{SECRET}@127.0.0.1:9\n")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    for action in (objects.read_bytes, objects.to_pyarrow_filesystem):
        refusal(lambda action=action: action(join(bucket, "x")), UserError, "endpoint_url of the AWS profile holds a user")


@pytest.mark.parametrize("services", [False, True])
def test_a_profile_whose_endpoint_lacks_its_scheme(bucket, monkeypatch, tmp_path, services):
    line = f"endpoint_url = user:{SECRET}@127.0.0.1:9\n"
    text = f"[default]\nservices = here\n[services here]\ns3 =\n  {line}" if services else f"[default]\n{line}"
    (tmp_path / "config").write_text(text)
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    says = "endpoint_url of the AWS profile is no address: http:// (or https://) is missing"
    refusal(lambda: objects.read_bytes(join(bucket, "x")), UserError, says)


def test_damaged_tables_are_refused_in_one_line(tmp_path):
    table = pa.table({"name": ["x", "y"] * 50, "value": pa.array(range(100), pa.float32())})
    whole, uri = bytes(objects.parquet_bytes(table)), str(tmp_path / "t.parquet")
    rng, refused = random.Random(0), 0
    for number in range(300):
        data = bytearray(whole)
        if number % 3 == 0:
            del data[rng.randrange(len(data)) :]
        else:
            for _ in range(2):
                data[rng.randrange(len(data))] = rng.randrange(256)
        objects.write_bytes(uri, bytes(data))
        for columns in (None, ["value", "name"]):
            try:
                objects.read_table(uri, columns)  # parquet has no checksums: a wrong value may pass here, a marker's checksum finds it
            except UserError as error:
                refused += 1
                assert "\n" not in str(error)
                assert f"{uri} is damaged" in str(error)
    assert refused > 200
    objects.write_bytes(uri, whole)
    refusal(lambda: objects.read_table(uri, ["other"]), UserError, "other")
    refusal(lambda: objects.read_table(uri + "not", ["value"]), ObjectMissing, "does not exist")


def test_json_facts_units_and_labels_that_are_wrong(tmp_path):
    uri = str(tmp_path / "x")
    for data in (b"\xff", b"[" * 100_000, b'{"a": 1', b'{"format_version": 0}'):
        objects.write_bytes(uri, data)
        refusal(lambda: objects.read_json(uri), UserError if b"version" in data else errors.HalfWritten, uri)
        refusal(lambda: read_units(uri), UserError, uri)
    for facts in ({"sample_rate_hz": 0.0}, {"num_samples": 0}, {"unit_pattern": "("}, {"unit_pattern": "x"}, {"timezone": "Mars"}):
        with pytest.raises(UserError):
            CorpusFacts(**{"sample_rate_hz": 1.0, **facts})
    objects.write_bytes(uri, b'{"label": "normal", "record_id": "\\ud800"}')
    refusal(lambda: labels.read_labels(uri), labels.LabelError, "record_id must be")
