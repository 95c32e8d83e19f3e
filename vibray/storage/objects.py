"""Objects by URI: the one file that knows s3:// and file://. A plain path is a local URI.

Credentials and endpoint come from the standard AWS variables and profiles alone (AWS_ENDPOINT_URL, AWS_PROFILE, ...). Importing makes no
client: each process makes its own on first use, because s3fs does not survive a fork.
"""

import hashlib
import io
import json
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from vibray.schema import FORMAT_VERSION
from vibray.storage import tally
from vibray.storage.errors import CheckedStream, ObjectChanged, ObjectExists, ObjectMissing, StorageError, codes_of, storage_errors

log = logging.getLogger(__name__)

READ_AHEAD = 4 << 20
"""Bytes fetched at once from an object that is read as a stream."""

NUM_ATTEMPTS = 5
CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 60


@dataclass(frozen=True)
class ObjectInfo:
    """`key` is relative to the folder that was asked about; `etag` of a local file is its size and mtime in ns."""

    key: str
    size: int
    etag: str


def join(uri: str, *names: str) -> str:
    """The URI of `names` below a folder."""
    return "/".join([uri.rstrip("/"), *(name.strip("/") for name in names if name)])


def last_segment(uri: str) -> str:
    """The last name of a URI; of `.` and other relative paths, that of the absolute path."""
    path = uri.split("://", 1)[1] if is_s3(uri) else str(_local(uri).absolute())
    name = os.path.normpath(path).rstrip("/").rsplit("/", 1)[-1]
    if not name or name == ".":
        raise ValueError(f"{uri!r} has no last name: name a folder or an object below it")
    return name


def is_s3(uri: str) -> bool:
    """True for s3://, False for a local URI. Raises ValueError for any other scheme."""
    if uri.startswith("s3://"):
        bucket = uri[5:].split("/", 1)[0]
        if "@" in bucket:
            raise ValueError("a URI of the form s3://key:secret@bucket is refused: credentials come from the AWS environment variables")
        if not bucket:
            raise ValueError(f"{uri!r} names no bucket: write s3://bucket/folder")
        return True
    if "://" in uri and not uri.startswith("file://"):
        raise ValueError(f"{uri.split('://')[0]}:// is not a storage vibray knows: use s3://bucket/folder, file:///folder or a plain path")
    if not uri:
        raise ValueError("an empty URI: name a folder, as s3://bucket/folder or a plain path")
    return False


def parent(uri: str) -> str:
    """The folder an object lies in."""
    return uri.rstrip("/").rsplit("/", 1)[0] if "/" in uri.rstrip("/") else "."


def absolute(uri: str) -> str:
    """The same place for a process with another working directory: a plain relative path becomes absolute."""
    return uri if "://" in uri else str(Path(uri).absolute())


def _local(uri: str) -> Path:
    return Path(uri.removeprefix("file://"))


def _bucket_key(uri: str) -> tuple[str, str]:
    bucket, _, key = uri[5:].partition("/")
    return bucket, key.strip("/")


def _s3() -> Any:
    """This process's s3fs file system, for the AWS variables as they stand now."""
    settings = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
    return _s3_client(os.getpid(), settings)


@lru_cache(maxsize=4)
def _s3_client(pid: int, settings: tuple[tuple[str, str], ...]) -> Any:
    import s3fs
    from aiobotocore.session import AioSession

    session = AioSession()
    session.register("before-send.s3", tally.on_attempt)
    return s3fs.S3FileSystem(
        session=session,
        skip_instance_cache=True,
        use_listings_cache=False,
        config_kwargs={
            "retries": {"mode": "adaptive", "max_attempts": NUM_ATTEMPTS},
            "connect_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": READ_TIMEOUT_S,
            # the newer default checksums break ranges on several S3 servers that are not AWS
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        },
    )


def list_objects(uri: str, hidden: bool = False) -> list[ObjectInfo]:
    """All objects below a folder, at any depth, by key; a URI of one object lists that object, its key being its name.

    Names and folders that begin with '_' or '.' are left out unless `hidden`. Raises ObjectMissing (a FileNotFoundError) where nothing is.
    """
    with storage_errors(uri):
        found = sorted(_list_s3(uri) if is_s3(uri) else _list_local(uri), key=lambda info: info.key)
    if not found and not _is_folder(uri):
        raise ObjectMissing(f"{uri} does not exist: check its spelling (a folder of shards, or one shard, is meant)")
    return [info for info in found if hidden or not any(name[0] in "_." for name in info.key.split("/"))]


def _is_folder(uri: str) -> bool:
    return not is_s3(uri) and _local(uri).is_dir()


def _list_s3(uri: str) -> list[ObjectInfo]:
    bucket, key = _bucket_key(uri)
    folder = f"{bucket}/{key}".rstrip("/")
    infos = []
    for path, facts in _s3().find(folder, detail=True).items():
        if facts["type"] == "directory" or path.endswith("/"):
            continue
        relative = path[len(folder) + 1 :] if path != folder else folder.rsplit("/", 1)[-1]
        infos.append(ObjectInfo(relative, int(facts["size"]), facts["ETag"].strip('"')))
    return infos


def _list_local(uri: str) -> list[ObjectInfo]:
    root = _local(uri)
    if root.is_file():
        return [_local_info(root, root.name)]
    infos, seen = [], {os.path.realpath(root)}
    for folder, folders, names in os.walk(root, followlinks=True):
        # a link to a folder above would be walked for ever
        real = {name: os.path.realpath(Path(folder, name)) for name in folders}
        folders[:] = [name for name in folders if real[name] not in seen]
        seen.update(real.values())
        for name in names:
            path = Path(folder, name)
            infos.append(_local_info(path, path.relative_to(root).as_posix()))
    return infos


def _local_info(path: Path, key: str) -> ObjectInfo:
    try:
        key.encode()
    except UnicodeEncodeError:
        raise StorageError(f"the name of {os.fsencode(path)!r} is not UTF-8: rename the file") from None
    facts = path.stat()
    return ObjectInfo(key, facts.st_size, f"{facts.st_size}-{facts.st_mtime_ns}")


def stat(uri: str) -> ObjectInfo | None:
    """Size and etag of one object, its key being its name; None where there is no such object."""
    try:
        with storage_errors(uri):
            if not is_s3(uri):
                return _local_info(_local(uri), _local(uri).name) if _local(uri).is_file() else None
            bucket, key = _bucket_key(uri)
            if not key:
                return None
            facts = _s3().call_s3("head_object", Bucket=bucket, Key=key)
            return ObjectInfo(key.rsplit("/", 1)[-1], int(facts["ContentLength"]), facts["ETag"].strip('"'))
    except ObjectMissing:
        return None


def exists(uri: str) -> bool:
    """True where there is one object at the URI; a folder is no object."""
    return stat(uri) is not None


def open_read(uri: str, start: int = 0, etag: str | None = None) -> io.BufferedReader:
    """A seekable stream of an object from byte `start`; it holds at most READ_AHEAD bytes or so at a time.

    `etag` is the one that was planned. Raises ObjectMissing, and ObjectChanged where another etag is found, now or while reading.
    """
    with storage_errors(uri):
        if is_s3(uri):
            file = _s3().open("/".join(_bucket_key(uri)), "rb", block_size=READ_AHEAD, cache_type="readahead")
            found = file.details["ETag"].strip('"')
            stream: Any = io.BufferedReader(CheckedStream(file, uri), 1 << 16)
        else:
            stream = io.BufferedReader(io.FileIO(_local(uri)), 1 << 18)
            found = _local_info(_local(uri), "").etag
        if etag is not None and found != etag:
            stream.close()
            raise ObjectChanged(f"{uri} was written again since it was planned (etag {found}, planned {etag}): start in a new folder")
        stream.seek(start)
    return stream


def read_bytes(uri: str) -> bytes:
    """The whole object. Raises ObjectMissing."""
    with storage_errors(uri):
        return _s3().cat_file("/".join(_bucket_key(uri))) if is_s3(uri) else _local(uri).read_bytes()


def open_parquet(uri: str) -> pq.ParquetFile:
    """A parquet file of which only the columns and row groups asked for are fetched."""
    return pq.ParquetFile(open_read(uri))


def read_table(uri: str, columns: list[str] | None = None) -> pa.Table:
    """A parquet table, or some of its columns in the order asked for. Raises ObjectMissing."""
    if columns is None:
        return pq.ParquetFile(pa.BufferReader(read_bytes(uri))).read()
    with open_parquet(uri) as file:
        return file.read(columns=columns, use_threads=False).select(columns)


def read_json(uri: str) -> dict[str, Any]:
    """The values of a file written by `write_json`. Raises ObjectMissing, and ValueError for a file of another format version."""
    data = read_bytes(uri)
    try:
        values = json.loads(data)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise ValueError(f"{uri} is not a whole JSON object, so not one that vibray wrote to its end: remove it and start again")
    version = values.pop("format_version", None)
    if version != FORMAT_VERSION:
        made = "without a format version" if version is None else f"by version {version} of the format"
        raise ValueError(f"{uri} was made {made}; this vibray reads version {FORMAT_VERSION}")
    return values


def write_bytes(uri: str, data: bytes | memoryview, exclusive: bool = False) -> None:
    """Writes one object, on S3 whole or not at all; `exclusive` raises ObjectExists (a FileExistsError) where there is one already.

    A local file is written under its final name and synced; an exclusive one appears whole.
    """
    with storage_errors(uri):
        if is_s3(uri):
            _write_s3(uri, bytes(data), exclusive)
        else:
            _write_local(_local(uri), data, exclusive)


def _write_s3(uri: str, data: bytes, exclusive: bool) -> None:
    # some servers ignore If-None-Match, so that it decides the races only
    if exclusive and exists(uri):
        raise ObjectExists(f"{uri} exists already")
    try:
        _s3().pipe_file("/".join(_bucket_key(uri)), data, mode="create" if exclusive else "overwrite")
    except OSError as error:
        if exclusive and codes_of(error) & {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}:
            raise ObjectExists(f"{uri} exists already") from error
        raise


def _write_local(path: Path, data: bytes | memoryview, exclusive: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # a link is made at once or not at all and never replaces: nobody reads half of a file that no marker covers, such as plan.json
    target = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}") if exclusive else path
    try:
        with target.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if exclusive:
            os.link(target, path)
    finally:
        if exclusive:
            target.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def sha256(data: bytes | memoryview) -> str:
    """Hexadecimal sha256."""
    return hashlib.sha256(data).hexdigest()


def write_table(uri: str, table: pa.Table, **options: Any) -> tuple[int, str]:
    """Writes a parquet object (zstd); returns its size in bytes and its sha256. `options` are those of `pyarrow.parquet.write_table`."""
    flat = [field.name for field in table.schema if not pa.types.is_nested(field.type)]
    strings = [name for name in flat if pa.types.is_string(table.schema.field(name).type)]
    sink = pa.BufferOutputStream()
    # a dictionary or statistics of long vectors cost time and say nothing
    pq.write_table(table, sink, **{"compression": "zstd", "use_dictionary": strings, "write_statistics": flat, **options})
    data = memoryview(sink.getvalue())
    write_bytes(uri, data)
    return len(data), sha256(data)


def write_json(uri: str, values: dict[str, Any], exclusive: bool = False) -> None:
    """Writes values as JSON with the format version in front. Raises ObjectExists where `exclusive` and there is one already."""
    text = json.dumps({"format_version": FORMAT_VERSION, **values}, indent=1, allow_nan=False, ensure_ascii=False)
    write_bytes(uri, (text + "\n").encode(), exclusive)


def remove(uris: Iterable[str]) -> None:
    """Removes objects, those that are not there included."""
    for uri in uris:
        try:
            with storage_errors(uri):
                if is_s3(uri):
                    _s3().rm_file("/".join(_bucket_key(uri)))
                else:
                    _local(uri).unlink()
        except ObjectMissing:
            pass


def abort_uploads(uri: str) -> int:
    """Aborts the multipart uploads that a killed job left open below a folder; returns how many. Local folders have none."""
    if not is_s3(uri):
        return 0
    bucket, key = _bucket_key(uri)
    try:
        with storage_errors(uri):
            uploads = _s3().call_s3("list_multipart_uploads", Bucket=bucket, Prefix=key + "/").get("Uploads", [])
            for upload in uploads:
                _s3().call_s3("abort_multipart_upload", Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
    except StorageError as error:
        log.warning("unfinished uploads are left as they are: %s", error)
        return 0
    return len(uploads)


def to_pyarrow_filesystem(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """A pyarrow file system and the path in it, for libraries that want one."""
    if is_s3(uri):
        return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(_s3())), "/".join(_bucket_key(uri))
    return pyarrow.fs.LocalFileSystem(), str(_local(uri).absolute())
