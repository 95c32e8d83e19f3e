import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard

from vibray.config import UserError, to_json
from vibray.pipeline.jobs import SynthesizeJob
from vibray.pipeline.synthesize import SynthesisPlan, shard_bytes, synthesize, write_shard
from vibray.signal.synthetic import FleetConfig, fleet_lines, label_row
from vibray.storage import objects

FLEET = FleetConfig(num_records=14, num_units=2, sensors_per_unit=2, contamination=0.5, broken_share=0.5)
PLAN = SynthesisPlan(FLEET, 5, "none", True)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the shards that were made, in this process instead of in Ray's."""
    names = []

    def here(plan: SynthesisPlan, output_uri: str, todo: list[str], local: bool) -> Iterator[tuple[str, int]]:
        for shard in todo:
            names.append(shard)
            yield write_shard(to_json(plan), output_uri, shard)

    monkeypatch.setattr("vibray.pipeline.synthesize._written", here)
    return names


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(tmp_path: Path, **changes: Any) -> None:
    arguments = {"fleet": FLEET, "shard_records": 5, "truncated_shard": True} | changes
    synthesize(SynthesizeJob(str(tmp_path / "raw"), str(tmp_path / "labels" / "fleet.jsonl"), **arguments))


def test_shards_hold_all_lines_in_order_and_labels_all_rows(tmp_path: Path, written: list[str]) -> None:
    run(tmp_path)
    assert written == ["part-00000.jsonl", "part-00001.jsonl", "part-00002.jsonl", "part-00003.jsonl.gz"]
    data = b"".join((tmp_path / "raw" / name).read_bytes() for name in written[:3])
    assert data == b"".join(line for line, _ in fleet_lines(FLEET, 0, 14)) and data.count(b"\n") == 21
    rows = [json.loads(row) for row in (tmp_path / "labels" / "fleet.jsonl").read_text().splitlines()]
    assert rows == [label_row(FLEET, i) for i in range(14)]
    with pytest.raises(EOFError):
        gzip.decompress((tmp_path / "raw" / written[3]).read_bytes())


def test_a_run_that_was_killed_goes_on_to_the_same_bytes(tmp_path: Path, written: list[str]) -> None:
    run(tmp_path)
    whole = files(tmp_path)
    for name in ("_done.json", "_done/part-00001.jsonl.json"):
        (tmp_path / "raw" / name).unlink()
    (tmp_path / "raw" / "part-00002.jsonl").write_bytes(b"half")
    written.clear()
    run(tmp_path)
    assert written == ["part-00001.jsonl", "part-00002.jsonl"] and files(tmp_path) == whole


def test_a_finished_fleet_is_left_alone(tmp_path: Path, written: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    written.clear()
    run(tmp_path)
    assert not written and times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert "is finished" in capsys.readouterr().out


def test_readers_list_shards_and_nothing_else(tmp_path: Path, written: list[str]) -> None:
    run(tmp_path)
    assert [info.key for info in objects.list_objects(str(tmp_path / "raw"))] == written


def test_another_fleet_in_the_folder_is_refused(tmp_path: Path, written: list[str]) -> None:
    run(tmp_path)
    before = files(tmp_path)
    with pytest.raises(UserError, match="holds another fleet"):
        run(tmp_path, fleet=replace(FLEET, seed=1))
    assert files(tmp_path) == before


def test_a_folder_with_something_else_is_refused(tmp_path: Path, written: list[str]) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "mine.jsonl").write_text("{}")
    with pytest.raises(UserError, match=r"mine\.jsonl"):
        run(tmp_path)


@pytest.mark.parametrize("name", ["raw/labels.jsonl", "raw", "raw/../raw/labels.jsonl"])
def test_labels_below_the_shards_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="lies under --output"):
        synthesize(SynthesizeJob(str(tmp_path / "raw"), str(tmp_path / name), FLEET))


def test_another_fleets_labels_are_not_overwritten(tmp_path: Path, written: list[str]) -> None:
    """Nor is anything else; and the folder is not taken for it, so that the command with another file is a new start."""
    run(tmp_path)
    before = files(tmp_path)
    other = replace(FLEET, seed=1)
    for labels in ("fleet.jsonl", "notes.txt"):
        (tmp_path / "labels" / "notes.txt").write_text("mine")
        with pytest.raises(UserError, match=rf"{labels} holds something else than this fleet's labels: choose another file"):
            synthesize(SynthesizeJob(str(tmp_path / "other"), str(tmp_path / "labels" / labels), other, shard_records=5))
    (tmp_path / "labels" / "notes.txt").unlink()
    assert files(tmp_path) == before
    synthesize(SynthesizeJob(str(tmp_path / "other"), str(tmp_path / "labels" / "other.jsonl"), other, shard_records=5))
    assert len((tmp_path / "labels" / "other.jsonl").read_text().splitlines()) == 14


@pytest.mark.parametrize("kept", [0, 1, 100, 10**9])
def test_labels_that_a_killed_job_left_are_made_whole(tmp_path: Path, written: list[str], kept: int) -> None:
    run(tmp_path)
    whole = files(tmp_path)
    labels = tmp_path / "labels" / "fleet.jsonl"
    labels.write_bytes(labels.read_bytes()[:kept])
    (tmp_path / "raw" / "_done.json").unlink()
    run(tmp_path)
    assert files(tmp_path) == whole
    with labels.open("a") as file:
        file.write("more")
    (tmp_path / "raw" / "_done.json").unlink()
    with pytest.raises(UserError, match="something else"):
        run(tmp_path)


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, dry_run=True)
    assert not files(tmp_path) and "14 records and 8 broken lines in 4 shards" in capsys.readouterr().out


def test_compression_changes_the_bytes_and_not_the_lines() -> None:
    plain = shard_bytes(PLAN, "part-00001.jsonl")
    assert gzip.decompress(shard_bytes(replace(PLAN, compression="gz"), "part-00001.jsonl.gz")) == plain
    assert zstandard.decompress(shard_bytes(replace(PLAN, compression="zst"), "part-00001.jsonl.zst")) == plain
    assert shard_bytes(replace(PLAN, compression="gz"), "part-00001.jsonl.gz") == shard_bytes(
        replace(PLAN, compression="gz"), "part-00001.jsonl.gz"
    )
