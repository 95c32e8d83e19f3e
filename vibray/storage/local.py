"""Local files: written whole, under a temporary name, synced, and then given their own name in one step; listed."""

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO

from vibray.storage.errors import StorageError, explain
from vibray.storage.streams import local_etag

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


def walk(root: Path) -> list[tuple[str, int, str]]:
    """The `facts` of every file below a folder, at any depth, by its path from there; of one file, its own by its name."""

    def refused(error: OSError) -> None:
        # left out in silence, the shards of a folder would be missing from the job
        if not isinstance(error, FileNotFoundError) and not is_hidden(Path(error.filename).relative_to(root).as_posix()):
            raise StorageError(explain(error, error.filename)) from error

    if root.is_file():
        return [facts(root, root.name)]
    found, seen = [], {os.path.realpath(root)}
    for folder, folders, names in os.walk(root, followlinks=True, onerror=refused):
        # a link to a folder above would be walked for ever
        real = {name: os.path.realpath(Path(folder, name)) for name in folders}
        folders[:] = [name for name in folders if real[name] not in seen]
        seen.update(real.values())
        for name in names:
            path = Path(folder, name)
            try:
                found.append(facts(path, path.relative_to(root).as_posix()))
            except FileNotFoundError:  # gone since the folder was read: what another driver was writing, or the loser's file of two
                if path.is_symlink():
                    raise
    return found


def facts(path: Path, key: str) -> tuple[str, int, str]:
    """Key, size and etag of a file. Raises StorageError for a name that is not UTF-8."""
    if not is_unicode(key):
        raise StorageError(f"the name of {os.fsencode(path)!r} is not UTF-8: rename the file")
    found = path.stat()
    return key, found.st_size, local_etag(found)


def is_hidden(key: str) -> bool:
    """A name of it begins with '_' or '.'."""
    return key != "." and any(name.startswith(("_", ".")) for name in key.split("/"))


def is_unicode(text: str) -> bool:
    """False for half a surrogate pair: what JSON escapes may hold, or stands for bytes of a file name that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
