from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from larkline.chats.feishu.fragments import (
    MAX_AGE,
    MAX_EVENT_BYTES,
    MAX_EVENTS,
    MAX_HELD_BYTES,
    MAX_PIECES,
    FragmentError,
    Fragments,
)


@given(st.lists(st.binary(max_size=9), min_size=1, max_size=9), st.randoms(use_true_random=False))
def test_pieces_in_any_order_and_twice_join_to_the_event(
    pieces: list[bytes], order: object
) -> None:
    """Order and repetition of the pieces don't matter; empty pieces count."""
    numbers = [*range(len(pieces)), *range(len(pieces))]
    order.shuffle(numbers)  # type: ignore[attr-defined]
    fragments = Fragments()
    seen: set[int] = set()
    for number in numbers:
        seen.add(number)
        joined = fragments.add("e", len(pieces), number, pieces[number], 0.0)
        if len(seen) == len(pieces):
            assert joined == b"".join(pieces)
            return
        assert joined is None


@pytest.mark.parametrize(("total", "number"), [(0, 0), (2, 2), (2, -1), (MAX_PIECES + 1, 0)])
def test_wrong_numbers_are_refused(total: int, number: int) -> None:
    """A piece outside of its event, or of too many, is a typed error."""
    with pytest.raises(FragmentError):
        Fragments().add("e", total, number, b"", 0.0)


def test_contradicting_pieces_give_the_event_up() -> None:
    """Pieces that disagree about their number refuse the event and forget it."""
    fragments = Fragments()
    fragments.add("e", 2, 0, b"a", 0.0)
    with pytest.raises(FragmentError):
        fragments.add("e", 3, 1, b"b", 0.0)
    assert fragments.add("e", 2, 1, b"b", 0.0) is None


def test_old_pieces_are_forgotten() -> None:
    """An event that stays unfinished is given up after MAX_AGE."""
    fragments = Fragments()
    fragments.add("e", 2, 0, b"old", 0.0)
    assert fragments.add("e", 2, 1, b"new", MAX_AGE + 1) is None
    assert fragments.add("e", 2, 0, b"a", MAX_AGE + 1) == b"anew"


def test_too_many_bytes_are_refused() -> None:
    """One event's pieces never hold more than its bound."""
    fragments = Fragments()
    fragments.add("e", 3, 0, bytes(MAX_EVENT_BYTES), 0.0)
    with pytest.raises(FragmentError):
        fragments.add("e", 3, 1, b"x", 0.0)


def test_a_repeated_piece_counts_once_against_the_bound() -> None:
    """Redeliveries of the same piece don't fill the bound."""
    fragments = Fragments()
    for _ in range(5):
        assert fragments.add("e", 2, 0, bytes(MAX_EVENT_BYTES // 2), 0.0) is None
    assert fragments.add("e", 2, 1, b"x", 0.0) is not None


def test_many_unfinished_events_stay_bounded() -> None:
    """Over the bound on events or bytes the oldest go first; the newest can be finished."""
    fragments = Fragments()
    for at in range(MAX_EVENTS + 5):
        fragments.add(f"e{at}", 2, 0, b"a", 0.0)
    assert fragments.add("e4", 2, 1, b"b", 0.0) is None
    assert fragments.add(f"e{MAX_EVENTS + 4}", 2, 1, b"b", 0.0) == b"ab"
    big = Fragments()
    for at in range(3):
        big.add(f"e{at}", 2, 0, bytes(MAX_HELD_BYTES // 2 - 1), 0.0)
    assert big.add("e0", 2, 1, b"", 0.0) is None
    assert big.add("e2", 2, 1, b"", 0.0) is not None
