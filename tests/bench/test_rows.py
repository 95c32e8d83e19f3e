"""The tables of times still run: each route once, nothing timed."""

import pytest

from tests.bench import gpu, images, parsing, vectors
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
