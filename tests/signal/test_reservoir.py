import pickle

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vibray.signal.reservoir import Reservoir, Reservoirs


def offered(keys: np.ndarray, size: int) -> Reservoir:
    reservoir = Reservoir(size, (2,))
    reservoir.offer(keys, np.stack([keys, keys + np.uint64(1)], axis=1).astype(np.float32))
    return reservoir


@given(st.lists(st.integers(0, 2**20), unique=True, max_size=60), st.integers(1, 20), st.lists(st.integers(0, 60), max_size=4))
def test_any_split_and_order_keeps_the_smallest(values: list[int], size: int, cuts: list[int]) -> None:
    keys = np.array(values, np.uint64)
    whole = Reservoir(size, (2,))
    for part in np.split(keys, sorted(min(cut, len(keys)) for cut in cuts))[::-1]:
        whole.merge(pickle.loads(pickle.dumps(offered(part, size))))
    expected = np.sort(keys)[:size]
    assert np.array_equal(whole.keys, expected)
    assert np.array_equal(whole.rows[:, 1], expected.astype(np.float32) + 1)
    assert whole.num_offered == len(keys)


def test_holds_no_view_of_the_batch() -> None:
    rows = np.ones((3, 2), np.float32)
    reservoir = Reservoir(3, (2,))
    reservoir.offer(np.arange(3, dtype=np.uint64), rows)
    rows[:] = 7
    assert (reservoir.rows == 1).all()


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2**20)), unique_by=lambda pair: pair[1], max_size=60), st.integers(1, 9))
def test_many_together_are_each_as_one_alone(pairs: list[tuple[str, int]], size: int) -> None:
    together = Reservoirs(size, (2,))
    for some in (pairs[1::2], pairs[::2], []):
        keys, own = np.array([key for _, key in some], np.uint64), Reservoirs(size, (2,))
        own.offer([name for name, _ in some], keys, np.stack([keys, keys + np.uint64(1)], axis=1).astype(np.float32))
        together.merge(pickle.loads(pickle.dumps(own)))
    code, keys, rows = together.table()
    assert set(together.code) == {name for name, _ in pairs}
    for name, number in together.code.items():
        alone = offered(np.array([key for other, key in pairs if other == name], np.uint64), size)
        assert np.array_equal(keys[code == number], alone.keys) and np.array_equal(rows[code == number], alone.rows)
        assert together.num_offered[number] == alone.num_offered


def test_a_large_table_is_sorted_seldom() -> None:
    reservoirs, settled = Reservoirs(4, (1,)), []
    for start in range(0, 100_000, 1000):
        keys = np.arange(start, start + 1000, dtype=np.uint64)
        reservoirs.offer([str(key % 10_000) for key in keys.tolist()], keys, np.zeros((1000, 1), np.float32))
        settled += [start] if reservoirs.num_rows == reservoirs.num_settled else []
        assert reservoirs.num_rows <= 80_000
    assert 1 <= len(settled) < 10
    assert len(reservoirs.table()[0]) == 40_000 and (reservoirs.num_offered == 10).all()
