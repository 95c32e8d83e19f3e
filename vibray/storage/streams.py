"""Raw streams over one object as it was planned: what it is not any more is refused, not read."""

import io
import os
from pathlib import Path
from typing import Any

from vibray.storage import s3
from vibray.storage.errors import ObjectChanged, storage_errors

READ_AHEAD = 4 << 20
"""Bytes fetched at once from an object that is read as a stream."""


def local_etag(facts: os.stat_result) -> str:
    """What stands for the etag of a local file."""
    return f"{facts.st_size}-{facts.st_mtime_ns}"


def written_again(uri: str, found: str, planned: str) -> str:
    """The message of an ObjectChanged."""
    return f"{uri} was written again since it was planned (etag {found}, planned {planned}): start in a new folder"


class LocalStream(io.FileIO):
    """A file that must stay the one it was when it was opened, or planned. Raises ObjectChanged."""

    def __init__(self, path: Path, uri: str, etag: str | None):
        super().__init__(path)
        self.uri = uri
        found = local_etag(os.fstat(self.fileno()))
        if etag is not None and found != etag:
            self.close()
            raise ObjectChanged(written_again(uri, found, etag))
        self.etag = found

    def readinto(self, buffer: Any) -> int | None:
        with storage_errors(self.uri):
            count = super().readinto(buffer)
            if local_etag(os.fstat(self.fileno())) != self.etag:
                raise ObjectChanged(f"{self.uri} changed while it was read: start again once it is at rest")
        return count

    def readall(self) -> bytes:
        with storage_errors(self.uri):
            data = super().readall()
        self.readinto(bytearray(1))  # for its check
        return data


class S3Stream(io.RawIOBase):
    """An object of known size and etag, fetched READ_AHEAD bytes at a time."""

    def __init__(self, bucket: str, key: str, uri: str, size: int, etag: str):
        self.bucket, self.key, self.uri, self.size, self.etag = bucket, key, uri, size, etag
        self.at, self.begin, self.held = 0, 0, b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.size}[whence]
        self.at = max(0, origin + offset)
        return self.at

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self.size - self.at)
        if wanted <= 0:
            return 0
        if not self.begin <= self.at < self.begin + len(self.held):
            stop = min(self.size, self.at + max(wanted, READ_AHEAD))
            with storage_errors(self.uri):
                self.held = s3.get_range(self.bucket, self.key, self.at, stop, self.etag)
            self.begin = self.at
        data = memoryview(self.held)[self.at - self.begin :][:wanted]
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)
