from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch
from torch import nn

from vibray.config import UserError
from vibray.train.batches import Batches, TrainingSet
from vibray.train.reduce import World


def batches(count: int = 23, batch_size: int = 4, size: int = 1, rank: int = 0, **more) -> Batches:
    rows = TrainingSet(lambda index: torch.from_numpy(index).float()[:, None], np.arange(100, 100 + count), **more)
    return Batches(rows, batch_size, seed=7, world=World(rank, size))


def seen(batch) -> list[int]:
    return batch.x[:, 0].long().tolist()


@pytest.mark.parametrize("count", [1, 3, 22, 23, 24, 25])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_each_record_exactly_once_and_the_same_global_batches(count, size):
    alone = [seen(batch) for batch in batches(count).epoch(3)]
    together = list(zip(*(batches(count, size=size, rank=rank).epoch(3) for rank in range(size)), strict=True))
    assert [list(chain(*map(seen, parts))) for parts in together] == alone
    assert sorted(chain(*alone)) == list(range(100, 100 + count))
    for parts in together:
        assert [part.start for part in parts] == np.cumsum([0, *(len(seen(part)) for part in parts)])[:-1].tolist()
        assert {part.size for part in parts} == {sum(len(seen(part)) for part in parts)}
        assert max(len(seen(part)) for part in parts) - min(len(seen(part)) for part in parts) <= 1


@pytest.mark.parametrize("count", [23, 24, 25, 32, 33])
def test_no_batch_is_longer_than_asked_nor_left_with_a_rest(count):
    lengths = [len(seen(batch)) for batch in batches(count, batch_size=8).epoch(0)]
    assert max(lengths) <= 8
    assert max(lengths) - min(lengths) <= 1
    assert len(lengths) == -(-count // 8)


def test_the_order_is_that_of_the_seed_and_the_epoch():
    first = batches().order(0)
    assert np.array_equal(first, batches().order(0))
    assert not np.array_equal(first, batches().order(1))
    other = Batches(batches().rows, 4, seed=8, world=World())
    assert not np.array_equal(first, other.order(0))


def test_inside_a_window_rows_stay_near_one_another():
    order = batches(count=1000, window=80).order(0)
    assert sorted(order) == list(range(100, 1100))
    for start in range(0, 1000, 80):
        blocks = {(row - 100) // 10 for row in order[start : start + 80]}
        assert len(blocks) <= 8  # a window reads no more than its eight blocks
    assert not np.array_equal(order, np.arange(100, 1100))


@pytest.mark.parametrize("size", [1, 2, 4, 30])
def test_shares_are_all_records_once_and_in_order(size):
    shares = [seen(batch) for rank in range(size) for batch in batches(size=size, rank=rank).shares()]
    assert list(chain(*shares)) == list(range(100, 123))


def test_an_empty_slice_has_the_shape_of_a_row():
    last = list(batches(5, batch_size=2, size=2, rank=1).epoch(0))[-1]
    assert isinstance(last.x, torch.Tensor)
    assert last.x.shape == (0, 1)
    assert last.weight.shape == (0,)
    assert last.total_weight == 1
    assert last.size == 1


def test_targets_and_weights_are_by_row_number():
    weights, targets = np.arange(10.0), np.arange(10) * 2
    rows = TrainingSet(lambda index: torch.from_numpy(index).float()[:, None], np.array([9, 2, 5]), targets, weights)
    (batch,) = Batches(rows, 8, seed=0, world=World(0, 1)).epoch(0)
    assert batch.target is not None
    assert batch.target.tolist() == [2 * row for row in seen(batch)]
    assert batch.weight.tolist() == [float(row) for row in seen(batch)]
    assert batch.total_weight == 16
    (half,) = Batches(rows, 8, seed=0, world=World(1, 2)).epoch(0)
    assert half.total_weight == 16


JOINS = np.array([0, 2, 1, 0, 3, 2, 0])


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("window", [None, 8])
def test_a_record_takes_part_from_the_epoch_in_which_it_joins(size, window):
    """Row 1 is not in the training set. By row number, as the weights are."""
    indices = np.array([6, 5, 4, 3, 2, 0])
    rows = TrainingSet(lambda index: torch.from_numpy(index).float()[:, None], indices, joins=JOINS, window=window)
    workers = [Batches(rows, 2, 7, World(rank, size)) for rank in range(size)]
    for epoch, expected in enumerate([[0, 3, 6], [0, 2, 3, 6], [0, 2, 3, 5, 6], [0, 2, 3, 4, 5, 6], [0, 2, 3, 4, 5, 6]]):
        own = [list(batches.epoch(epoch)) for batches in workers]
        assert sorted(chain(*(seen(batch) for batches in own for batch in batches))) == expected
        assert {len(batches) for batches in own} == {workers[0].num_steps(epoch)} == {-(-len(expected) // 2)}
    assert [row for batches in workers for batch in batches.shares() for row in seen(batch)] == indices.tolist()


def test_joining_at_once_changes_no_order():
    all_at_once = replace(batches().rows, joins=np.zeros(123, dtype=np.int64))
    assert np.array_equal(Batches(all_at_once, 4, 7, World()).order(2), batches().order(2))


def test_an_epoch_that_no_record_has_joined_is_an_error():
    rows = TrainingSet(lambda index: torch.from_numpy(index).float()[:, None], np.arange(1, 3), joins=JOINS)
    with pytest.raises(UserError, match="no record takes part in epoch 0"):
        Batches(rows, 4, 7, World()).order(0)


def test_collect_keeps_the_order_and_puts_the_mode_back():
    net = nn.Dropout()
    net.train()

    def figure(batch):
        assert not net.training
        return batch.x[:, 0]

    assert batches().collect(net, figure).tolist() == list(range(100, 123))
    assert net.training


def test_nothing_to_train_on_is_an_error():
    with pytest.raises(UserError, match="no record to train on"):
        TrainingSet(lambda index: torch.zeros(0), np.array([], dtype=np.int64))
