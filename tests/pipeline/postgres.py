"""A PostgreSQL of its own for a test: a new data folder, a socket in the same folder, no port."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


def programs() -> Path | None:
    """Folder of initdb and pg_ctl; Debian keeps them off the PATH."""
    found = shutil.which("initdb")
    if found:
        return Path(found).parent
    return max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), default=None)


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """The URL of an empty database, without a password. Skips where there is no PostgreSQL."""
    pytest.importorskip("psycopg", reason="psycopg is not installed (pip install -e '.[postgresql]')")
    folder = programs()
    if folder is None:
        pytest.skip("no PostgreSQL here (apt install postgresql)")
    # the server refuses to run as root
    before = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory(prefix="vibray-pg-") as data:
        if before:
            shutil.chown(data, "postgres")
        where = f"{data}/data"

        def call(program: str, *arguments: str) -> None:
            command = [*before, str(folder / program), "-D", where, *arguments]
            subprocess.run(command, check=True, cwd=data, stdout=subprocess.DEVNULL)

        call("initdb", "--username=vibray", "--auth=trust", "--no-sync")
        call("pg_ctl", "start", "--wait", "-l", f"{data}/log", "-o", f"-c listen_addresses= -c fsync=off -k {data}")
        try:
            yield f"postgresql://vibray@/postgres?host={data}"
        finally:
            call("pg_ctl", "stop", "--wait", "-m", "immediate")
