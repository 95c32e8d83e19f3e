"""Waveforms of a training: on the node's disk, or read window by window where they do not fit there."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from vibray.fitting.waveforms import PartWaveforms, fits, waveforms_on
from vibray.storage import objects
from vibray.storage.corpus import CorpusFacts
from vibray.storage.vectors import vector_column
from vibray.tables.training import TrainingTable
from vibray.train.batches import Batches, TrainingSet
from vibray.train.reduce import World

SAMPLES, PART, NUM_PARTS = 16, 50, 30


@pytest.fixture
def table(tmp_path: Path) -> TrainingTable:
    """Thirty parts; a part's rows stand in its file the other way round."""
    row = np.arange(PART * NUM_PARTS)
    for part in range(NUM_PARTS):
        values = np.repeat(row[row // PART == part][::-1, None], SAMPLES, axis=1)
        objects.write_table(str(tmp_path / f"{part}.parquet"), pa.table({"waveform": vector_column(values)}))
    names = tuple(str(tmp_path / f"{part}.parquet") for part in range(NUM_PARTS))
    index = pa.table({"corpus": ["c"] * len(row), "record_id": [f"a@{i}" for i in row]})
    where = (row // PART, PART - 1 - row % PART)
    return TrainingTable(CorpusFacts(8192.0, SAMPLES), {}, {"c": "c"}, index, names, *where, row < 0, row >= 0, 0)


def test_either_way_a_row_number_names_the_same_waveform(table, tmp_path):
    index = np.array([3, 749, 0, 1499, 3])
    for whole in (True, False):
        held = waveforms_on(tmp_path / "scratch", table, whole, 0, 1, lambda done, total: None)
        assert held.shape == (len(table), SAMPLES) and len(held) == len(table)
        np.testing.assert_array_equal(held[index][:, 0], index)
    assert isinstance(held, PartWaveforms) and held.num_read == 3


@pytest.mark.parametrize("size", [1, 2])
def test_in_windows_a_part_is_read_about_once_an_epoch(table, size):
    held = PartWaveforms(table, held_bytes=4 * SAMPLES * 400)
    assert held.window == 400 < len(table)
    rows = TrainingSet(lambda index: torch.from_numpy(held[index]), np.arange(len(table)), window=held.window)
    for epoch in range(2):
        before, seen = held.num_read, []
        for rank in range(size):
            for batch in Batches(rows, 20, 0, World(rank, size)).epoch(epoch):
                assert isinstance(batch.x, torch.Tensor)
                seen += batch.x[:, 0].long().tolist()
        assert sorted(seen) == list(range(len(table)))
        assert len(held.parts) <= held.num_held < NUM_PARTS
        assert held.num_read - before <= 2 * size * NUM_PARTS  # in any order it would be about one read a record
    assert seen != list(range(len(table)))


def test_what_is_there_of_an_earlier_start_needs_no_room_again(tmp_path):
    scratch = tmp_path / "scratch"
    assert fits(scratch, 1 << 20) and not fits(scratch, 1 << 60)
    assert fits(scratch, 1 << 20, disk_gb=0.001) and not fits(scratch, 1 << 21, disk_gb=0.001) and not fits(scratch, 1, disk_gb=0.0)
