"""The tables of times still run: each route once, nothing timed."""

from pathlib import Path

import pytest

from tests.bench import calibrating, gpu, images, parsing, vectors
from tests.bench.timing import Row, print_rows


@pytest.mark.parametrize("module", [images, parsing, vectors], ids=lambda module: module.__name__.rsplit(".", 1)[1])
def test_every_route_runs(module, capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[Row] = module.rows()
    print_rows(rows, rounds=1)
    table = capsys.readouterr().out
    assert all(row.work in table and row.goal in table for row in rows)


def test_the_benchmark_of_a_gpu_runs_without_one(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "ROUNDS", 1)
    monkeypatch.setitem(gpu.BATCHES, "cpu", (2,))
    gpu.main("cpu")
    assert capsys.readouterr().out.count("records/s") == 2


def test_both_routes_of_a_calibration_pick_as_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrating, "K", 20)
    monkeypatch.setattr(calibrating, "PART", 100)
    calibrating.write_origins(tmp_path, 300, 6)
    uri = str(tmp_path / "parts")
    assert calibrating.pick_now(uri) == calibrating.pick_before(uri) == 120
