"""Objects by URI: the one file that knows s3:// and file://. A plain path is a local URI.

Credentials and endpoint come from the standard AWS variables and profiles alone (AWS_ENDPOINT_URL, AWS_PROFILE, ...). Importing makes no
client: each process makes its own on first use.
"""

import hashlib
import io
import json
import logging
import mmap
import os
import re
import tempfile
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from vibray.config import UserError
from vibray.schema import version_of
from vibray.storage import local, s3
from vibray.storage.errors import HalfWritten, ObjectChanged, ObjectExists, ObjectMissing, StorageError, storage_errors
from vibray.storage.streams import LocalStream, S3Stream, written_again

log = logging.getLogger(__name__)

SIGNED = re.compile(r"[?&](X-Amz-[\w-]+|AWSAccessKeyId|Signature|token)=", re.IGNORECASE)
"""A URI that carries credentials: it would stand in plans, logs and reports."""


@dataclass(frozen=True)
class ObjectInfo:
    """`key` is relative to the folder that was asked about; `etag` of a local file is its size and mtime in ns."""

    key: str
    size: int
    etag: str


def join(uri: str, *names: str) -> str:
    """The URI of `names` below a folder."""
    return "/".join([uri.rstrip("/"), *(name.strip("/") for name in names if name)])


def below(uri: str, key: str) -> str:
    """The URI of the object that was listed as `key` below a folder; on S3 a key may begin with a slash, which is a part of it."""
    return f"{uri.rstrip('/')}/{key}"


def last_segment(uri: str) -> str:
    """The last name of a URI; of `.` and other relative paths, that of the absolute path."""
    path = uri.split("://", 1)[1] if is_s3(uri) else str(_absolute(_local(uri)))
    name = os.path.normpath(path).rstrip("/").rsplit("/", 1)[-1]
    if not name or name == ".":
        raise UserError(f"{uri!r} has no last name: name a folder or an object below it")
    return name


def is_s3(uri: str) -> bool:
    """True for s3://, False for a local URI. Raises UserError for any other scheme."""
    if "\0" in uri or not local.is_unicode(uri):
        raise UserError(f"{uri!a} is not UTF-8, or holds a zero byte: rename it")
    if SIGNED.search(uri):
        raise UserError("a signed URI is refused: credentials come from the AWS environment variables")
    if uri.startswith("s3://"):
        bucket = uri[5:].split("/", 1)[0]
        if "@" in bucket:
            raise UserError("a URI of the form s3://key:secret@bucket is refused: credentials come from the AWS environment variables")
        if not bucket:
            raise UserError(f"{uri!r} names no bucket: write s3://bucket/folder")
        return True
    if "://" in uri and not uri.startswith("file://"):
        raise UserError(f"{uri.split('://')[0]}:// is not a storage vibray knows: use s3://bucket/folder, file:///folder or a plain path")
    if not uri:
        raise UserError("an empty URI: name a folder, as s3://bucket/folder or a plain path")
    return False


def parent(uri: str) -> str:
    """The folder an object lies in."""
    return uri.rstrip("/").rsplit("/", 1)[0] if "/" in uri.rstrip("/") else "."


def absolute(uri: str) -> str:
    """The same place for a process with another working directory: a plain relative path becomes absolute."""
    return uri if "://" in uri else str(_absolute(Path(uri)))


def _absolute(path: Path) -> Path:
    try:
        return path.absolute()
    except FileNotFoundError:
        raise UserError(f"{path} is below the working directory, which was removed: change to one that exists") from None


def _local(uri: str) -> Path:
    return Path(uri.removeprefix("file://"))


def _bucket_key(uri: str) -> tuple[str, str]:
    bucket, _, key = uri[5:].partition("/")
    return bucket, key.strip("/")


def list_objects(uri: str, hidden: bool = False) -> list[ObjectInfo]:
    """All objects below a folder, at any depth, by key; a URI of one object lists that object, its key being its name.

    Names and folders that begin with '_' or '.' are left out unless `hidden`. Raises ObjectMissing (a FileNotFoundError) where nothing is.
    """
    with storage_errors(uri):
        found = sorted(
            _list_s3(uri) if is_s3(uri) else [ObjectInfo(*facts) for facts in local.walk(_local(uri))], key=lambda info: info.key
        )
        if not found and not _is_folder(uri):
            raise ObjectMissing(f"{uri} does not exist: check its spelling (a folder of shards, or one shard, is meant)")
    return [info for info in found if hidden or not local.is_hidden(info.key)]


def list_folders(uri: str) -> list[str]:
    """Names of the folders right below a folder, sorted; none where it is not there. What lies in them is not listed."""
    with storage_errors(uri):
        if not is_s3(uri):
            return sorted(path.name for path in _local(uri).iterdir() if path.is_dir()) if _is_folder(uri) else []
        bucket, key = _bucket_key(uri)
        return s3.folders(bucket, f"{key}/" if key else "")


def _is_folder(uri: str) -> bool:
    return not is_s3(uri) and _local(uri).is_dir()


def _list_s3(uri: str) -> list[ObjectInfo]:
    bucket, key = _bucket_key(uri)
    folder = f"{key}/" if key else ""
    found = [
        ObjectInfo(facts["Key"][len(folder) :], int(facts["Size"]), facts["ETag"].strip('"'))
        for page in s3.pages((bucket, folder))
        for facts in page
        if not facts["Key"].endswith("/")
    ]
    if found or not key:
        return found
    one = stat(uri)
    return [one] if one else []


def stat(uri: str) -> ObjectInfo | None:
    """Size and etag of one object, its key being its name; None where there is no such object."""
    try:
        with storage_errors(uri):
            if not is_s3(uri):
                return ObjectInfo(*local.facts(_local(uri), _local(uri).name)) if _local(uri).is_file() else None
            bucket, key = _bucket_key(uri)
            if not key:
                return None
            return ObjectInfo(key.rsplit("/", 1)[-1], *s3.head(bucket, key))
    except ObjectMissing:
        return None


def exists(uri: str) -> bool:
    """True where there is one object at the URI; a folder is no object."""
    return stat(uri) is not None


def open_read(uri: str, start: int = 0, etag: str | None = None, size: int | None = None) -> io.BufferedReader:
    """A seekable stream of an object from byte `start`; it holds at most READ_AHEAD bytes or so at a time.

    `etag` and `size` are those that were planned; with both, S3 is first asked when the stream is read.
    Raises ObjectMissing, and ObjectChanged where another etag is found, now or while reading.
    """
    with storage_errors(uri):
        if is_s3(uri):
            stream: Any = _open_s3(uri, etag, size)
        else:
            stream = io.BufferedReader(LocalStream(_local(uri), uri, etag), 1 << 18)
        stream.seek(start)
    return stream


def _open_s3(uri: str, etag: str | None, size: int | None) -> io.BufferedReader:
    bucket, key = _bucket_key(uri)
    if etag is None or size is None:
        size, found = s3.head(bucket, key)
        if etag is not None and found != etag:
            raise ObjectChanged(written_again(uri, found, etag))
        etag = found
    return io.BufferedReader(S3Stream(bucket, key, uri, size, etag), 1 << 16)


def read_bytes(uri: str) -> bytes:
    """The whole object. Raises ObjectMissing."""
    with storage_errors(uri):
        return s3.get(*_bucket_key(uri)) if is_s3(uri) else _local(uri).read_bytes()


def read_table(uri: str, columns: list[str] | None = None, names: Iterable[str] = (), if_there: Container[str] = ()) -> pa.Table:
    """A parquet table, or some of its columns in the order asked for, and then only those are fetched.

    Columns of `names` are read as dictionaries; one of `if_there` may be missing. Raises ObjectMissing, and UserError for a file that is
    damaged or lacks a column.
    """
    try:
        if columns is None:
            return pq.ParquetFile(pa.BufferReader(read_bytes(uri)), read_dictionary=list(names)).read()
        with open_read(uri) as stream, pq.ParquetFile(stream, read_dictionary=list(names)) as file:
            has = file.schema_arrow.names if if_there else columns
            columns = [name for name in columns if name in has or name not in if_there]
            return file.read(columns=columns, use_threads=False).select(columns)
    except UserError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:  # of damaged pages, of names in no UTF-8, of a column
        why = " ".join(str(error).split())[:200]
        raise UserError(f"{uri} is damaged, or another job's table: remove it and run the job that makes it again ({why})") from error


def read_json(uri: str) -> dict[str, Any]:
    """The values of a file written by `write_json`. Raises ObjectMissing, HalfWritten, and UserError for another format version."""
    data = read_bytes(uri)
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise HalfWritten(f"{uri} is not a whole JSON object, so not one that vibray wrote to its end: remove it and start again")
    version = values.pop("format_version", None)
    if version != version_of(uri):
        made = "without a format version" if version is None else f"by version {ascii(version)[:40]} of the format"
        raise UserError(f"{uri} was made {made}; this vibray reads version {version_of(uri)}: make its folder again")
    return values


def write_bytes(uri: str, data: bytes | memoryview, exclusive: bool = False) -> None:
    """Writes one object, whole or not at all; `exclusive` raises ObjectExists (a FileExistsError) where there is one already."""
    with storage_errors(uri):
        if is_s3(uri):
            _put(uri, bytes(data), exclusive)
        else:
            local.write(_local(uri), data, exclusive)


def write_stream(uri: str, write: Callable[[IO[bytes]], None], exclusive: bool = False) -> None:
    """Writes one object, whole or not at all: what `write` puts into a file, who may be asked again. Little of it is in memory at a time;
    what goes to S3 lies in the temporary folder until then."""
    with storage_errors(uri):
        if not is_s3(uri):
            local.write(_local(uri), write, exclusive)
            return
        with tempfile.TemporaryFile() as file:
            write(file)
            file.flush()
            if file.tell() <= 2 * s3.CHUNK:
                file.seek(0)
                _put(uri, file.read(), exclusive)
                return
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                _put(uri, data, exclusive)


def _put(uri: str, data: bytes | mmap.mmap, exclusive: bool) -> None:
    # some servers ignore If-None-Match, so that it decides the races only
    if exclusive and exists(uri):
        raise ObjectExists(f"{uri} exists already")
    s3.put(*_bucket_key(uri), data, exclusive)


def write_tables(uri: str, schema: pa.Schema, tables: Callable[[], Iterable[pa.Table]]) -> None:
    """Writes tables one after another as one parquet object, encoded as `write_table` does; `tables` may be asked again."""

    def write(file: IO[bytes]) -> None:
        with pq.ParquetWriter(file, schema, **_encoding(schema)) as writer:
            for table in tables():
                writer.write_table(table)

    write_stream(uri, write)


def facts(uri: str) -> dict[str, Any]:
    """Size and sha256 of an object, read in pieces. Raises ObjectMissing."""
    digest, size = hashlib.sha256(), 0
    with open_read(uri) as stream:
        while data := stream.read(1 << 20):
            digest.update(data)
            size += len(data)
    return {"size": size, "sha256": digest.hexdigest()}


def sha256(data: bytes | memoryview) -> str:
    """Hexadecimal sha256."""
    return hashlib.sha256(data).hexdigest()


def parquet_bytes(table: pa.Table, **options: Any) -> memoryview:
    """A table as a parquet file (zstd). `options` are those of `pyarrow.parquet.write_table`."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **{**_encoding(table.schema), **options})
    return memoryview(sink.getvalue())


def _encoding(schema: pa.Schema) -> dict[str, Any]:
    flat = [field.name for field in schema if not pa.types.is_nested(field.type)]
    strings = [name for name in flat if pa.types.is_string(schema.field(name).type)]
    # a dictionary or statistics of long vectors cost time and say nothing
    return {"compression": "zstd", "use_dictionary": strings, "write_statistics": flat}


def write_table(uri: str, table: pa.Table, **options: Any) -> tuple[int, str]:
    """Writes a parquet object; returns its size in bytes and its sha256."""
    data = parquet_bytes(table, **options)
    write_bytes(uri, data)
    return len(data), sha256(data)


def write_json(uri: str, values: dict[str, Any], exclusive: bool = False) -> None:
    """Writes values as JSON with the format version in front. Raises ObjectExists where `exclusive` and there is one already."""
    text = json.dumps({"format_version": version_of(uri), **values}, indent=1, allow_nan=False, ensure_ascii=False)
    write_bytes(uri, (text + "\n").encode(), exclusive)


def remove(uris: Iterable[str]) -> None:
    """Removes objects, those that are not there included."""
    for uri in uris:
        try:
            with storage_errors(uri):
                if is_s3(uri):
                    s3.delete(*_bucket_key(uri))
                else:
                    _local(uri).unlink()
        except ObjectMissing:
            pass


def abort_uploads(uri: str) -> int:
    """Ends what a killed job left half written below a folder, uploads in pieces and local temporaries; returns how many.

    Another driver that is writing one of them just now finds it gone and writes it again.
    """
    try:
        with storage_errors(uri):
            if not is_s3(uri):
                return local.remove_temporaries(_local(uri))
            bucket, key = _bucket_key(uri)
            return s3.abort_all(bucket, f"{key}/" if key else "")
    except StorageError as error:
        log.warning("unfinished uploads are left as they are: %s", error)
        return 0


def to_pyarrow_filesystem(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """A pyarrow file system and the path in it, for libraries that want one."""
    if not is_s3(uri):
        return pyarrow.fs.LocalFileSystem(), str(_absolute(_local(uri)))
    import s3fs

    with storage_errors(uri):
        s3.client()  # for its checks of the endpoint
    # no instance of another process or thread: s3fs does not survive a fork
    filesystem = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False, config_kwargs=s3.CONFIG)
    return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem)), "/".join(_bucket_key(uri))
