"""Ids that were counted."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from realtime.seen import Seen


@given(st.lists(st.lists(st.integers(0, 60), max_size=12), max_size=12))
def test_an_id_is_new_once(batches: list[list[int]]) -> None:
    seen, known = Seen(), set[int]()
    for batch in batches:
        wanted = []
        for number in batch:
            wanted.append(number not in known)
            known.add(number)
        assert seen.unseen(np.array(batch, np.int64)).tolist() == wanted


def test_sequential_ids_are_one_run() -> None:
    seen = Seen()
    for start in range(0, 100_000, 1_000):
        seen.unseen(np.arange(start, start + 1_000))
    assert len(seen) == 1


def test_a_hole_that_is_filled_joins_its_neighbours() -> None:
    seen = Seen()
    seen.unseen(np.array([1, 2, 5, 6]))
    assert len(seen) == 2
    assert seen.unseen(np.array([3, 4])).all()
    assert len(seen) == 1


def test_ids_with_holes_are_kept_up_to_a_limit() -> None:
    seen = Seen(keep=10)
    seen.unseen(np.arange(0, 100, 2))
    assert len(seen) == 10
    assert not seen.unseen(np.array([98])).any()
