"""Shards that are made to hurt: memory and time stay bounded, as a process of its own measures them."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

ROOT = Path(__file__).parents[2]

READ = """
import json, sys, time
from collections import Counter
from pathlib import Path
from vibray.storage.corpus import CorpusFacts
from vibray.storage.plan import make_plan
from vibray.storage.reading import read_shard


def peak_mb():  # of this process: what getrusage tells begins at its parent's
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024

facts = CorpusFacts(1000.0, 4)
plan = make_plan(sys.argv[1], "c", {})
from vibray.storage import shards, shortcut  # what any reader loads
before, started = peak_mb(), time.process_time()
num_read = num_kept = 0
reasons = Counter()
for part in plan.parts:
    for read in read_shard(part, facts, "c", plan.base_uri):
        num_read += read.num_read
        num_kept += read.records.num_rows
        reasons.update(read.bad["reason"].to_pylist())
seconds = time.process_time() - started
print(json.dumps({"read": num_read, "kept": num_kept, "reasons": reasons, "seconds": seconds, "grown_mb": peak_mb() - before}))
"""

GOOD = b'{"sensor_id":"s","data_time":"2024-01-01T00:00:00Z","signal_value":"1,2,3,4"}\n'
GIGABYTE = 1_000_000_000


def read(path: Path) -> dict:
    done = subprocess.run([sys.executable, "-c", READ, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    print(path.name, done.stdout.strip())
    return json.loads(done.stdout)


def write_long_line(path: Path, size: int) -> None:
    block = b"7," * (1 << 19)
    pieces = [GOOD, b'{"signal_value": "', *[block] * (size // len(block)), b'1"}\n', GOOD]
    if path.name.endswith(".zst"):
        with path.open("wb") as file, zstandard.ZstdCompressor(1).stream_writer(file) as out:
            for piece in pieces:
                out.write(piece)
    else:
        with gzip.open(path, "wb", 1) if path.name.endswith(".gz") else path.open("wb") as out:
            for piece in pieces:
                out.write(piece)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("a.jsonl", 100_000_000),
        ("a.jsonl.gz", 100_000_000),
        *(pytest.param(name, GIGABYTE, marks=pytest.mark.slow) for name in ("a.jsonl", "a.jsonl.gz", "a.jsonl.zst")),
    ],
)
def test_a_line_of_a_gigabyte_costs_no_memory_and_little_time(tmp_path, name, size):
    write_long_line(tmp_path / name, size)
    found = read(tmp_path / name)
    assert (found["read"], found["kept"], found["reasons"]) == (3, 2, {"line too long": 1})
    assert found["grown_mb"] < 100
    assert found["seconds"] < 5 + 20 * size / GIGABYTE


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("a.jsonl.zst", 100_000_000),
        *(pytest.param(n, 4 * GIGABYTE, marks=pytest.mark.slow) for n in ("a.jsonl.gz", "a.jsonl.zst", "a.json.zst")),
    ],
)
def test_a_bomb_is_read_in_small_steps(tmp_path, name, size):
    """A few kilobytes to megabytes that unpack to gigabytes of one byte."""
    block = b"7" * (1 << 20)
    if name.endswith(".zst"):
        with (tmp_path / name).open("wb") as file, zstandard.ZstdCompressor(19).stream_writer(file) as out:
            for _ in range(size // len(block)):
                out.write(block)
    else:
        with gzip.GzipFile(tmp_path / name, "wb", 6) as out:
            for _ in range(size // len(block)):
                out.write(block)
    assert (tmp_path / name).stat().st_size < size / 900
    found = read(tmp_path / name)
    assert (found["read"], found["kept"]) == (1, 0)
    assert set(found["reasons"]) <= {"line too long", "not an object", "not JSON"}
    assert found["grown_mb"] < 100
    assert found["seconds"] < 5 + 20 * size / GIGABYTE


@pytest.mark.parametrize("size", [10_000_000, pytest.param(500_000_000, marks=pytest.mark.slow)])
def test_very_many_bad_lines_are_held_a_part_at_a_time(tmp_path, size):
    """A bomb of short lines: each is a bad line with its place and its reason."""
    line = b"[]" * 60 + b"\n"
    with (tmp_path / "a.jsonl.zst").open("wb") as file, zstandard.ZstdCompressor(3).stream_writer(file) as out:
        for _ in range(size // len(line) // 1000):
            out.write(line * 1000)
    assert (tmp_path / "a.jsonl.zst").stat().st_size < size / 1000
    found = read(tmp_path / "a.jsonl.zst")
    assert found["reasons"] == {"not JSON": size // len(line) // 1000 * 1000}
    assert found["grown_mb"] < 100
