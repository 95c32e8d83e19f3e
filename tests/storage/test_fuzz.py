"""A fuzzer over what strangers wrote: shards, lines, plans. No crash, no hang, every line accounted.

    pytest -m slow tests/storage/test_fuzz.py -s

makes more than a million cases, a line of a shard each, or a plan.
"""

import gzip
import io
import json
import multiprocessing
import random
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vibray.storage import objects
from vibray.storage.corpus import CorpusFacts
from vibray.storage.plan import Plan, make_plan, read_plan, start_plan
from vibray.storage.records import BadRecord, Record, parse_line, parse_object, to_tables
from vibray.storage.shards import SUFFIXES, Broken, RawItem, RawLine, lines_of

NUM_SAMPLES = 4
LINES_PER_EXAMPLE = 1000
TIME = '"data_time": "2023-12-04T15:09:34Z"'

VALUES = (
    b'"1,2,3.5,-4e-3"',
    b'" 1, 2 ,[3],4"',
    b"[1, 2.5, -3e0, 4]",
    b'"1,2,3"',
    b'"1,1,1,1"',
    b'"1,2,nan,4"',
    b"[1, 2, 1e39, 4]",
    b'"0.1,0.2,0.3,x"',
)
NAMES = (b'"s1"', b'"s1"', b'"s1"', b"5", b'" "', b'"../../x"')
LINES = [b'{%s, "sensor_id": %s, "signal_value": %s}' % (TIME.encode(), name, values) for name in NAMES for values in VALUES]
PIECES = [
    *(b'"signal_value"', b'"signal_value": "', b'"data_time"', b'"sensor_id"', b"{", b"}", b"[", b"]", b'"', b",", b":", b"\\", b"\\u0000"),
    *(
        b"\\ud800",
        b"\\n",
        b"nan",
        b"NaN",
        b"Infinity",
        b"-",
        b"-0",
        b"0",
        b"1e999",
        b"1e-999",
        b".5",
        b"9" * 25,
        b"1" * 400,
        b"null",
        b"true",
    ),
    *(b" ", b"\t", b"\r", b"\n", b"\0", b"\xff", b"\xef\xbb\xbf", b"\xc3\x28", b"\xed\xa0\x80", b"\xe2\x80\xa8", b"[" * 60, b"]" * 60),
    *(b"0000-00-00T99:99:99Z", b"+99:99", b"9999-12-31T23:59:59-14:00", b"0001-01-01T00:00:00+14:00", b"../../x", b"<script>"),
]


def mutant(rng: random.Random) -> bytes:
    """A line: good, cut, spliced, repeated, or noise."""
    line = bytearray(rng.choice(LINES))
    for _ in range(rng.choice((0, 1, 1, 2, 3, 8))):
        at, kind = rng.randrange(len(line) + 1), rng.randrange(7)
        if kind == 0:
            line[at:at] = rng.choice(PIECES)
        elif kind == 1:
            del line[at : at + rng.randrange(1, 20)]
        elif kind == 2:
            line[at : at + 1] = rng.randbytes(rng.randrange(1, 4))
        elif kind == 3:
            line = line[:at]
        elif kind == 4:
            line[at:at] = line[rng.randrange(len(line) + 1) :][:40]
        elif kind == 5 and at < len(line):
            line[at] ^= 1 << rng.randrange(8)
        else:
            line = bytearray(rng.choice(PIECES) * rng.randrange(1, 4)) + line
    return bytes(line)


def facts(wrong_length: str) -> CorpusFacts:
    return CorpusFacts(1000.0, NUM_SAMPLES, wrong_length="fit" if wrong_length == "fit" else "quarantine")


def accounted(data: bytes, wrong_length: str, counts: Counter[str]) -> int:
    """Reads a shard of mutants; returns its lines, each of which must be a record or a bad record, at its own offset."""
    expected = []
    offset = 0
    for raw in data.split(b"\n"):
        bare = raw.removeprefix(b"\xef\xbb\xbf") if offset == 0 else raw
        if bare.rstrip(b"\r").strip():  # as bytes.isspace: a line of blanks is none
            expected.append(offset)
        offset += len(raw) + 1
    found = [line for line in lines_of(io.BytesIO(data), ".jsonl") if isinstance(line, RawLine)]
    assert [line.offset for line in found] == expected
    rows = [parse_line(line.raw, "k.jsonl", line.offset, line.line, "c", facts(wrong_length)) for line in found]
    records, bad = [row for row in rows if isinstance(row, Record)], [row for row in rows if isinstance(row, BadRecord)]
    assert len(records) + len(bad) == len(expected)
    kept, aside = to_tables(records, bad, NUM_SAMPLES)  # what could not be stored would raise here
    assert (kept.num_rows, aside.num_rows) == (len(records), len(bad))
    counts["record"] += len(records)
    counts.update(str(row.reason) for row in bad)
    return len(expected)


def packed(data: bytes, layout: str, rng: random.Random) -> bytes:
    """The shard compressed, and now and then damaged."""
    made = gzip.compress(data, 1, mtime=0) if layout.endswith(".gz") else zstandard.ZstdCompressor(1).compress(data)
    if rng.random() < 0.7:
        damaged = bytearray(made)
        for _ in range(rng.randrange(1, 4)):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        made = bytes(damaged[: rng.randrange(1, len(damaged) + 1)] if rng.random() < 0.5 else damaged)
    return made


def ends_once(data: bytes, layout: str) -> None:
    """Any bytes are lines or items, at growing offsets, and at most one break, which comes last."""
    found = list(lines_of(io.BytesIO(data), layout))
    assert not any(isinstance(line, Broken) for line in found[:-1])
    offsets = [line.offset for line in found]
    assert offsets == sorted(set(offsets))
    for item in found:
        if isinstance(item, RawItem):
            row = parse_object(item.value, "k.json", item.offset, "c", facts("fit"))
            to_tables([row] if isinstance(row, Record) else [], [row] if isinstance(row, BadRecord) else [], NUM_SAMPLES)


def fuzz_lines(examples: int, lines: int, salt: int = 0) -> tuple[int, Counter[str]]:
    """Lines made, and what became of them."""
    total, counts = [0], Counter[str]()

    @settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )
    @given(st.integers(0, 2**63), st.sampled_from(["quarantine", "fit"]), st.sampled_from([b"\n", b"\n", b"\r\n", b"\n\n"]))
    def run(seed: int, wrong_length: str, end: bytes) -> None:
        rng = random.Random(f"{salt} {seed}")
        data = end.join(mutant(rng) for _ in range(lines))
        total[0] += accounted(data, wrong_length, counts)
        ends_once(packed(data[:20_000], ".jsonl.gz", rng), ".jsonl.gz")
        ends_once(packed(data[:20_000], ".jsonl.zst", rng), ".jsonl.zst")
        listed = b"[" + b",".join(data[:3000].split(b"\n")) + b"]"
        ends_once(listed, ".json")
        ends_once(packed(listed, ".json.gz", rng), ".json.gz")
        ends_once(rng.randbytes(300), rng.choice(SUFFIXES))

    run()
    return total[0], counts


def test_lines_of_any_kind_are_accounted():
    total, counts = fuzz_lines(5, 300)
    assert total > 1000
    assert counts["record"] > 50
    assert len(counts) > 7, counts


@pytest.mark.slow
def test_a_million_lines_of_any_kind_are_accounted():
    """In processes of their own, without the type checks of a test run, which cost ten times what they check."""
    started, total, counts = time.monotonic(), 0, Counter[str]()
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        for some, more in pool.map(fuzz_lines, [100] * 12, [LINES_PER_EXAMPLE] * 12, range(12)):
            total += some
            counts += more
    print(f"{total:,} lines in {time.monotonic() - started:.0f} s: {dict(counts.most_common())}")
    assert total > 1_000_000
    assert total == sum(counts.values())
    assert counts["record"] > 20_000
    assert len(counts) > 9


# ---- plans


def damaged(text: bytes, rng: random.Random) -> bytes:
    """A plan's file: bytes changed, or a value of its JSON."""
    if rng.random() < 0.5:
        data = bytearray(text)
        for _ in range(rng.randrange(1, 5)):
            at = rng.randrange(len(data))
            data[at : at + rng.randrange(2)] = rng.choice([*PIECES, rng.randbytes(1)])
        return bytes(data)
    values = json.loads(text)
    wrong = rng.choice([None, -1, 1.5, 10**400, True, "", "../../x", "x" * 5000, [], {}, [[]], {"id": 1}, [None], float("1e308")])
    place: object = values
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place))) if isinstance(place, list) else []
        if not keys:
            break
        key = rng.choice(keys)
        inner = place[key]  # type: ignore[index]
        if rng.random() < 0.4 or not isinstance(inner, dict | list) or not inner:
            if rng.random() < 0.2:
                del place[key]  # type: ignore[attr-defined]
            else:
                place[key] = wrong  # type: ignore[index]
            break
        place = inner
    return json.dumps(values).encode()


def fuzz_plans(tmp_path, count: int) -> Counter[str]:
    archive, out = tmp_path / "raw", tmp_path / "out"
    archive.mkdir()
    for name in ("a.jsonl", "b.jsonl.gz", "c.json"):
        (archive / name).write_bytes(b"{}\n" * 20)
    plan = start_plan(str(out), lambda: make_plan(str(archive), "c", {"input": "x"}, bytes_per_part=25), {"input": "x"})
    text = (out / "plan.json").read_bytes()
    rng, counts = random.Random(0), Counter[str]()
    reader = objects.read_bytes
    for _ in range(count):
        changed = damaged(text, rng)
        objects.read_bytes = lambda uri, changed=changed: changed
        try:
            found = read_plan(str(out))
            assert isinstance(found, Plan)
            # what is read is sound: every part is named by what it holds
            assert all(part.id in {p.id for p in plan.parts} for part in found.parts)
            counts["read"] += 1
        except ValueError as error:
            assert len(str(error)) <= 1500, str(error)[:200]
            counts["refused"] += 1
        finally:
            objects.read_bytes = reader
    return counts


def test_plans_of_any_kind_are_read_or_refused(tmp_path):
    counts = fuzz_plans(tmp_path, 300)
    assert counts["refused"] > 200
    assert sum(counts.values()) == 300


@pytest.mark.slow
def test_many_plans_of_any_kind_are_read_or_refused(tmp_path):
    counts = fuzz_plans(tmp_path, 50_000)
    print(dict(counts))
    assert sum(counts.values()) == 50_000
