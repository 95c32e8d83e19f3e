"""What a user would pick instead, side by side: raw jsonl to scores, CPU and memory, lines of code, AUROC on the development suite.

    python -m tests.bench.peers                          both tables; needs the extra [bench] and VIBRAY_CORPORA
    python -m tests.bench.peers --times --records 500    times and memory alone, on fewer records
    python -m tests.bench.peers --areas --only ECOD      AUROC alone, of the peers whose name holds one of the words

Each peer (`alternatives.py`) is fitted on a folder of shards and scores another. Times are of scoring, interleaved, each peer in a process
of its own: CPU time of it and of all that it started. A peer whose package is not there is named and left out. tsfresh's efficient settings
cost half a second a record: they are timed on --slow-records, and judged on --most records of each pool and of each test's labelled ones,
evenly taken; what was made is kept, and a run that was stopped goes on.
"""

import argparse
import contextlib
import gzip
import hashlib
import importlib.util
import inspect
import io
import json
import multiprocessing
import os
import statistics
import tempfile
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tests.bench.alternatives import EFFICIENT, KEY, PEERS, Features, Machine, Ours, Peer, by_shard, num_lines
from tests.bench.processes import cpu_s, family, peak_mb
from tests.reference.corpora import FLEET, KS, NEW_UNITS, POOL_RECORDS, POOL_UNITS, REAL, TEST_RECORDS, cached
from vibray.decide.areas import auroc
from vibray.schema import NORMAL
from vibray.signal.synthetic import FleetConfig, fleet_lines

SHARD_RECORDS, POOL = 125, 200
UNITS = r"^(u\d+)-"
CORPORA = ("fleet", *REAL)

Labels = dict[tuple[str, pd.Timestamp], bool]
"""abnormal or not, by sensor and time"""


def write_fleet(folder: Path, config: FleetConfig, start: int, stop: int, prefix: str = "") -> list[dict[str, Any]]:
    """Shards of a fleet's records; their labels."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for first in range(start, stop, SHARD_RECORDS):
        made = list(fleet_lines(config, first, min(first + SHARD_RECORDS, stop)))
        (folder / f"{prefix}{first:06d}.jsonl").write_bytes(b"".join(line for line, _ in made))
        rows += [row for _, row in made if row is not None]
    return rows


# ---------------------------------------------------------------- times and memory


def serve(pipe: Connection, peer: Peer | Ours, pool: Path, folder: Path) -> None:
    """Fits, then scores the folder each time it is told to."""
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        made = peer.make(Machine(FLEET.sample_rate_hz, "50", UNITS), 0)
        made.fit(pool)
        pipe.send(None)
        while pipe.recv():
            made.score(folder)
            pipe.send(None)


def times(peers: Sequence[Peer | Ours], num_records: int, num_slow: int, rounds: int) -> None:
    """Prints ms a record and MB of each peer; fitting has loaded what it needs."""
    config, spawned = FleetConfig(num_records=POOL + num_records), multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="vibray-bench-") as temporary, contextlib.ExitStack() as stack:
        root, running = Path(temporary), []
        for name, start, stop in (("pool", 0, POOL), ("records", POOL, POOL + num_records)):
            write_fleet(root / name, config, start, stop)
            write_fleet(root / f"slow {name}", config, start, start + num_slow)
        for peer in peers:
            slow = "slow " if peer.settings == EFFICIENT else ""
            ours, theirs = spawned.Pipe()
            process = spawned.Process(target=serve, args=(theirs, peer, root / f"{slow}pool", root / f"{slow}records"))
            process.start()
            stack.callback(process.join)
            stack.callback(ours.send, False)
            theirs.close()
            ours.recv()
            assert process.pid is not None
            for pid in family(process.pid):
                Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak is that of scoring, not of fitting
            running.append((peer, ours, process.pid, num_slow if slow else num_records))
        found: dict[str, list[float]] = {peer.name: [] for peer in peers}
        for _ in range(rounds):
            for peer, pipe, pid, num in running:
                before = cpu_s(pid)
                pipe.send(True)
                pipe.recv()
                found[peer.name].append(1e3 * (cpu_s(pid) - before) / num)
                print(f"{peer.name:40} {found[peer.name][-1]:.3f} ms", flush=True)
        print(f"\n| peer | lines | records | CPU ms a record | of {peers[0].name} | peak MB |\n|---|---|---|---|---|---|")
        first = found[peers[0].name]
        for peer, _, pid, num in running:
            own = found[peer.name]
            ratio = statistics.median(a / b for a, b in zip(own, first, strict=True))
            spread = f"{statistics.median(own):.2f} [{min(own):.2f} .. {max(own):.2f}]"
            print(f"| {peer.name} | {num_lines(peer)} | {num:,} | {spread} | {ratio:.1f}x | {peak_mb(pid):,.0f} |")


# ---------------------------------------------------------------- AUROC


def moment(sensor: object, time: object) -> tuple[str, pd.Timestamp]:
    at = pd.Timestamp(time)  # type: ignore[arg-type]
    return str(sensor), (at.tz_localize("UTC") if at.tz is None else at.tz_convert("UTC")).as_unit("ms")  # type: ignore[return-value]


def corpus(name: str, root: Path) -> tuple[Path, Path, Labels, Machine]:
    """Pool, test with the past of new sensors, labels of what is judged, and what a user knows. The fleet is the suite's of seed 0."""
    if name == "fleet":
        pool = FleetConfig(num_units=POOL_UNITS, num_records=POOL_RECORDS)
        num_past = max(KS) * NEW_UNITS * pool.sensors_per_unit
        past = FleetConfig(first_unit=POOL_UNITS, num_units=NEW_UNITS, num_records=num_past)
        later = FleetConfig(first_unit=POOL_UNITS, num_units=NEW_UNITS, num_records=TEST_RECORDS, first_step=max(KS), contamination=0.5)
        write_fleet(root / "pool", pool, 0, POOL_RECORDS)
        write_fleet(root / "test", past, 0, num_past, "past-")
        rows = write_fleet(root / "test", later, 0, TEST_RECORDS, "test-")
        folders, at = (root / "pool", root / "test"), Machine(FLEET.sample_rate_hz, "50", UNITS, max(KS))
    else:
        own, facts = Path(os.environ["VIBRAY_CORPORA"], name), REAL[name]
        rows = [json.loads(line) for line in (own / "test_labels.jsonl").read_text().splitlines()]
        folders = own / "unlabelled", own / "test"
        at = Machine(facts.sample_rate_hz, "none", facts.unit_pattern, 50 if name == "femto" else None)
    return *folders, {moment(row["sensor_id"], row["data_time"]): row["label"] != NORMAL for row in rows}, at


def thinned(folder: Path, most: int, labels: Labels | None, target: Path) -> Path:
    """The shards of a folder with at most so many records in all, evenly taken; of those with a label where labels are given."""
    lines: list[tuple[str, bytes]] = []
    for path in sorted(folder.iterdir()):
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            lines += [(path.name.removesuffix(".gz"), line) for line in file if line.strip()]
    if labels is not None:
        lines = [(name, line) for name, line in lines if moment(*(json.loads(line)[key] for key in KEY)) in labels]
    target.mkdir(parents=True)
    for i in np.linspace(0, len(lines) - 1, min(most, len(lines))).round().astype(int):
        name, line = lines[i]
        with (target / name).open("ab") as file:
            file.write(line)
    return target


def kept(peer: Peer | Ours, rate_hz: float) -> Any:
    """Features are made once for all detectors and seeds, and kept as the suite keeps its own: by their code and their input, a shard at a
    time for a peer that reads so (Ray gives rows in an order of its own)."""

    def keep(features: Features) -> Features:
        def of_some(paths: Sequence[Path]) -> dict[str, np.ndarray]:
            digest = hashlib.sha256(f"{peer.settings} {rate_hz} {[inspect.getsource(one) for one in peer.code[:2]]}".encode())
            for path in paths:
                digest.update(path.read_bytes())

            def make() -> dict[str, np.ndarray]:
                with tempfile.TemporaryDirectory(prefix="vibray-bench-") as alone:
                    for path in paths:
                        Path(alone, path.name).symlink_to(path)
                    keys, x = features(Path(alone))
                return {"x": x, **{name: keys[name].astype(str).to_numpy(str) for name in KEY}}

            return cached(f"peers-{digest.hexdigest()[:24]}", make)

        def of(folder: Path) -> tuple[pd.DataFrame, np.ndarray]:
            paths = sorted(folder.iterdir())
            parts = [of_some(some) for some in ([[path] for path in paths] if peer.code[0] is by_shard else [paths])]
            keys = {name: np.concatenate([part[name] for part in parts]) for name in KEY}
            return pd.DataFrame(keys), np.concatenate([part["x"] for part in parts])

        return of

    return keep


def by_seed(
    peer: Peer | Ours, name: str, most: int, seeds: Sequence[int], given: tuple[Path, Path, Labels, Machine], root: Path
) -> list[float]:
    """The AUROC on a corpus' labelled test records, a seed at a time."""
    pool, test, labels, at = given
    thin = peer.settings == EFFICIENT
    if thin:
        folder = root / f"thin {name}"
        if not folder.exists():
            thinned(pool, most, None, folder / "pool")
            thinned(test, most, labels, folder / "test")
        pool, test = folder / "pool", folder / "test"
    areas = []
    for seed in seeds:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            made = peer.make(at, seed, kept(peer, at.rate_hz))
            made.fit(pool)
            keys, scores = made.score(test)
        moments = [moment(*key) for key in zip(*(keys[column] for column in KEY), strict=True)]
        judged = np.array([one in labels for one in moments])
        assert judged.sum() == len(labels) or thin, f"{peer.name} scored {judged.sum()} of {len(labels)} of {name}"
        found = auroc(scores[judged].astype(np.float64), np.array([labels[one] for one in moments if one in labels]))
        assert found is not None
        areas.append(found)
    return areas


def areas(peers: Sequence[Peer | Ours], corpora: Sequence[str], most: int, seeds: Sequence[int]) -> None:
    """Prints AUROC by corpus, mean over the seeds and its span, a line as soon as it is known, then the table of means."""
    found: dict[str, dict[str, float]] = {peer.name: {} for peer in peers}
    with tempfile.TemporaryDirectory(prefix="vibray-bench-") as temporary:
        for name in corpora:
            given = corpus(name, Path(temporary, name))
            for peer in peers:
                own = by_seed(peer, name, most, seeds, given, Path(temporary))
                found[peer.name][name] = float(np.mean(own))
                print(f"{name:6} {peer.name:40} {np.mean(own):.3f} [{min(own):.3f} .. {max(own):.3f}]", flush=True)
    print("\n| AUROC | " + " | ".join((*corpora, "mean")) + " |\n|---" + "|---" * (len(corpora) + 1) + "|")
    for peer in peers:
        own = [found[peer.name][name] for name in corpora]
        print(f"| {peer.name} | " + " | ".join(f"{one:.3f}" for one in (*own, float(np.mean(own)))) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", action="store_true", help="times and memory alone")
    parser.add_argument("--areas", action="store_true", help="AUROC alone")
    parser.add_argument("--only", nargs="+", default=[""], help="peers whose name holds one of these; the first is `ours`")
    parser.add_argument("--records", type=int, default=2000)
    parser.add_argument("--slow-records", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--corpora", nargs="+", default=CORPORA, choices=CORPORA)
    parser.add_argument("--most", type=int, default=100)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parsed = parser.parse_args()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    peers = [peer for peer in PEERS if any(word in peer.name for word in parsed.only)]
    for peer in peers[:]:
        missing = [name for name in peer.needs if importlib.util.find_spec(name) is None]
        if missing:
            print(f"{peer.name}: left out, not installed: {', '.join(missing)} (pip install -e '.[bench]')")
            peers.remove(peer)
    if peers and not parsed.areas:
        times(peers, parsed.records, parsed.slow_records, parsed.rounds)
    if peers and not parsed.times:
        areas(peers, parsed.corpora, parsed.most, parsed.seeds)


if __name__ == "__main__":
    main()
