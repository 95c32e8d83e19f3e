"""Whatever kills a job, and whatever storage answers: the scores are those of a job that nothing disturbed, each once."""

import gzip
import json
import random
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.chaos import plain
from tests.chaos.proxy import FAULTS, spoiled
from vibray.storage import objects, s3
from vibray.storage.objects import join

NUM_GOOD, NUM_BAD = 60, 4


def lines(first: int, count: int) -> bytes:
    made = []
    for number in range(first, first + count):
        samples = np.random.default_rng(number).normal(size=plain.FACTS.num_samples)
        time = f"2023-12-04T{number // 60:02d}:{number % 60:02d}:00Z"
        record = {"data_time": time, "signal_value": ",".join(f"{x:.5f}" for x in samples), "sensor_id": f"s{number % 3}"}
        made.append(json.dumps(record).encode() + b"\n")
    return b"".join(made)


@pytest.fixture
def corpus(tmp_path) -> str:
    """Plain shards that are cut, chains and a list, bad lines among them."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(lines(0, 20) + b"not json\n" + lines(20, 4))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines(24, 13) + b"[]\n", mtime=0))
    (folder / "c.json").write_bytes(b"[" + lines(37, 11).strip().replace(b"\n", b",") + b", 7]")
    (folder / "d.jsonl.gz").write_bytes(gzip.compress(b"{}\n" + lines(48, 12), mtime=0))
    return str(folder)


@pytest.fixture(params=["local", "s3"])
def place(request, tmp_path) -> str:
    return str(tmp_path) if request.param == "local" else request.getfixturevalue("bucket")


@pytest.fixture
def whole(corpus, tmp_path) -> dict[str, bytes]:
    """What a job leaves that nothing disturbed, its scores checked against their twin."""
    folder = str(tmp_path / "whole")
    plain.score(corpus, folder)
    found = plain.scores(folder)
    assert len(found) == NUM_GOOD
    assert plain.Parts(folder).total("num_bad") == NUM_BAD
    offset = 0
    for line in lines(0, 20).splitlines(keepends=True):
        samples = np.array(json.loads(line)["signal_value"].split(","), np.float32)
        expected = np.sqrt((samples.astype(np.float64) ** 2).mean()).astype(np.float32)
        assert abs(np.frombuffer(found[f"a.jsonl@{offset}"], np.float32)[0] - expected) < 1e-6
        offset += len(line)
    return plain.files(folder)


def killed_everywhere(corpus: str, place: str, whole: dict[str, bytes], most: int | None) -> int:
    """Kills the job before, or after, each of its operations, goes on, maybe is killed again, and looks; returns how often it killed."""
    rng = random.Random(0)
    killed, num_operations = plain.in_process(lambda: plain.score(corpus, join(place, "counted")))
    assert not killed
    assert plain.files(join(place, "counted")) == whole
    moments = [(operation, after) for operation in range(1, num_operations + 1) for after in (False, True)]
    kills = 0
    for number, (operation, after) in enumerate(moments if most is None else sorted(rng.sample(moments, most))):
        folder = join(place, f"killed-{number}")
        died, _ = plain.in_process(lambda folder=folder: plain.score(corpus, folder), operation, after)
        assert died, (operation, after)
        kills += died
        died, _ = plain.in_process(lambda folder=folder: plain.score(corpus, folder), rng.randrange(1, num_operations), rng.random() < 0.5)
        kills += died
        plain.score(corpus, folder)
        assert plain.files(folder) == whole, (operation, after)
    return kills


def test_killed_at_any_of_its_operations_it_goes_on_as_if_nothing_had_been(corpus, place, whole):
    assert killed_everywhere(corpus, place, whole, 3 if objects.is_s3(place) else 20) >= 3


@pytest.mark.slow
def test_killed_at_each_of_its_operations_it_goes_on_as_if_nothing_had_been(corpus, place, whole):
    assert killed_everywhere(corpus, place, whole, None) >= 100


@pytest.fixture
def impatient(monkeypatch):
    """Waits and time-outs as short as a test is: what is tried again, and how often, stays as it is."""
    from botocore.retries.standard import ExponentialBackoff

    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda self, context: 0.01)
    monkeypatch.setattr(s3, "LONGEST_WAIT_S", 0.05)
    monkeypatch.setattr(s3, "READ_TIMEOUT_S", 0.5)


def test_one_request_in_eight_going_wrong_changes_nothing(corpus, bucket, whole, monkeypatch, impatient, endpoint):
    counts = under_faults(corpus, bucket, whole, monkeypatch, endpoint, share=0.125, rounds=1)
    assert sum(counts[fault] for fault in FAULTS) >= 3  # how many requests there are, and so how many go wrong, is the threads' affair


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_one_request_in_five_going_wrong_changes_nothing(corpus, bucket, whole, monkeypatch, impatient, endpoint, seed):
    counts = under_faults(corpus, bucket, whole, monkeypatch, endpoint, share=0.2, rounds=5, seed=seed)
    assert all(counts[fault] >= 5 for fault in FAULTS), counts


def under_faults(corpus, bucket, whole, monkeypatch, endpoint, share, rounds, seed=1):
    """Reads the archive and writes the scores through a proxy that spoils requests; returns what it did."""
    for key, data in ((path.name, path.read_bytes()) for path in Path(corpus).iterdir()):
        objects.write_bytes(join(bucket, "corpus", key), data)
    plain.score(join(bucket, "corpus"), join(bucket, "calm"))
    expected = plain.files(join(bucket, "calm"))
    assert plain.scores(join(bucket, "calm")) == plain.scores(str(Path(corpus).parent / "whole"))
    monkeypatch.setattr("vibray.storage.streams.READ_AHEAD", 1000)  # shards of several requests each
    with spoiled(endpoint, share, seed=seed, timeout_s=1.0) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        for number in range(rounds):
            plain.score(join(bucket, "corpus"), join(bucket, f"spoiled-{number}"))
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    for number in range(rounds):
        assert plain.files(join(bucket, f"spoiled-{number}")) == expected
    return proxy.counts


def test_a_large_object_is_uploaded_in_pieces_and_again_where_it_went_wrong(bucket, monkeypatch, impatient, endpoint):
    monkeypatch.setattr(s3, "CHUNK", 5 << 20)  # no server takes smaller pieces
    data = np.random.default_rng(0).bytes(11 << 20)
    with spoiled(endpoint, 0.2, seed=3, timeout_s=1.0) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        for name in "abc":
            objects.write_bytes(join(bucket, "run", name), data)
            assert objects.read_bytes(join(bucket, "run", name)) == data
        assert sum(proxy.counts[fault] for fault in FAULTS) >= 5
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    objects.abort_uploads(join(bucket, "run"))
    assert [objects.read_bytes(join(bucket, "run", name)) for name in "abc"] == [data] * 3


def test_a_store_that_never_answers_rightly_is_one_error_and_no_hang(bucket, monkeypatch, impatient, endpoint):
    objects.write_bytes(join(bucket, "x"), b"1" * 1000)
    monkeypatch.setattr(s3, "NUM_ATTEMPTS", 3)
    for fault, said in (("503", "slow down"), ("broken off", "arrived|broke off"), ("timeout", "in time"), ("shortened", "bytes")):
        with spoiled(endpoint, 1.0, faults=[fault], timeout_s=0.7) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            with pytest.raises(objects.StorageError, match=said) as error:
                objects.read_bytes(join(bucket, "x"))
            assert "\n" not in str(error.value)
            assert join(bucket, "x") in str(error.value)


def rivals(corpus: str, folder: str, scales: tuple[float, ...]) -> list[dict[str, bytes]]:
    """Several drivers on one folder at once; returns what each saw at its end."""
    seen: list[dict[str, bytes]] = []
    barrier = threading.Barrier(len(scales))

    def drive(number: int, scale: float) -> None:
        barrier.wait()
        plain.score(corpus, folder, shuffled=number, scale=scale)
        seen.append(plain.scores(folder))

    threads = [threading.Thread(target=drive, args=item) for item in enumerate(scales)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen


def test_rival_drivers_leave_what_one_would_have_left(corpus, place, whole):
    folder = join(place, "rivals")
    seen = rivals(corpus, folder, (1.0, 1.0, 1.0))
    assert len(seen) == 3
    assert plain.files(folder) == whole


@pytest.mark.parametrize("conditional", [True, False])
def test_rivals_whose_last_bits_differ_never_mix_within_a_part(corpus, bucket, whole, monkeypatch, endpoint, conditional):
    """As on two kinds of CPU. Also on a store that has no conditional writes: a part is then the later one's as a whole."""
    nudged = float(np.nextafter(np.float32(1), np.float32(2)))
    with spoiled(endpoint, 0.0, drop=() if conditional else ("If-None-Match", "If-Match")) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        folder = join(bucket, "rivals")
        assert len(rivals(corpus, folder, (1.0, nudged, 1.0))) == 3
        finished = plain.Parts(folder)
        assert finished.total("num_kept") == NUM_GOOD
        assert len(plain.scores(folder)) == NUM_GOOD  # checksums included
        named = {path for marker in finished.markers.values() for path in marker["files"]}
        assert named <= set(plain.files(folder))
        if conditional:
            assert {key for key in plain.files(folder) if "part-" in key} == named


def test_a_worker_given_up_for_dead_changes_no_byte_that_a_marker_vouches_for(corpus, place):
    folder = join(place, "zombie")
    plain.score(corpus, folder)
    before = plain.files(folder)
    plan = plain.parts.read_plan(folder)
    for part in plan.parts:
        for read in plain.read_shard(part, plain.FACTS, plan.corpus, plan.base_uri):
            table = plain.rms_table(read.records)
            late = table.set_column(1, "score", plain.pa.array(table["score"].to_numpy() * np.float32(1.0000001)))
            marker = plain.commit_part(folder, read.part_id, {"": late, "bad": read.bad}, read.marker)
            assert marker == objects.read_json(join(folder, "_done", f"{read.part_id}.json"))
    assert plain.files(folder) == before


def test_what_no_marker_names_is_removed_and_nothing_else(corpus, place, whole):
    """A worker was killed between data and marker, and the part came out with other bits the next time."""
    folder = join(place, "orphans")
    plain.score(corpus, folder)
    part_id = next(iter(plain.Parts(folder).markers))
    kept = [f"part-{part_id}.parquet", "part-0123456789ab.01234567.parquet", "notes.txt", "own/part-x.parquet"]
    for name in [*kept, f"part-{part_id}.01234567.parquet", f"bad/part-{part_id}.01234567.parquet"]:
        objects.write_bytes(join(folder, name), b"x")
    assert plain.remove_orphans(folder, plain.Parts(folder)) == 2
    assert set(plain.files(folder)) == {*whole, *kept}
