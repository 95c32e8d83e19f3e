import pickle

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vibray.signal.reservoir import Reservoir


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
