"""Local files written whole: under a temporary name, synced, and then given their own name in one step."""

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO

NUM_ATTEMPTS = 5

TEMPORARY = re.compile(r"^\..+\.\d+-[0-9a-f]{8}$")
"""What a killed process may leave behind; hidden, so that no listing takes it for an object."""

NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


def write(path: Path, data: bytes | memoryview | Callable[[IO[bytes]], None], exclusive: bool) -> None:
    """Writes a file: these bytes, or what a function puts into it, which may be asked again. Nobody sees half of it, whatever kills this
    process; `exclusive` raises FileExistsError where there is one already.

    A file system without hard links cannot refuse the later of two exclusive writes of the same millisecond: there the later one stands.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:  # it speaks of the folder, and would be taken for the file
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path.parent)) from None
    for attempt in range(NUM_ATTEMPTS):
        temporary = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}")
        try:
            with temporary.open("wb") as file:
                if callable(data):
                    data(file)
                else:
                    file.write(data)
                file.flush()
                os.fsync(file.fileno())
            _name(temporary, path, exclusive)
            break
        except FileNotFoundError:  # another driver, just starting, took the temporary for a leftover
            if attempt == NUM_ATTEMPTS - 1:
                raise
        finally:
            temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _name(temporary: Path, path: Path, exclusive: bool) -> None:
    if not exclusive:
        temporary.replace(path)
        return
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if path.exists():
            raise FileExistsError(errno.EEXIST, "exists already", str(path)) from None
        temporary.replace(path)


def remove_temporaries(folder: Path) -> int:
    """Removes what killed processes left below a folder; returns how many."""
    count = 0
    for place, _, names in os.walk(folder):
        for name in names:
            if TEMPORARY.match(name):
                Path(place, name).unlink(missing_ok=True)
                count += 1
    return count
