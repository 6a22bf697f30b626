"""Events that arrive in pieces: joined again within bounds of count, bytes and age. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

MAX_PIECES = 256
MAX_EVENT_BYTES = 8 * 1024 * 1024
MAX_HELD_BYTES = 16 * 1024 * 1024
MAX_EVENTS = 64
MAX_AGE = 30.0
"""Seconds an unfinished event is held; the platform delivers it again later anyway."""


class FragmentError(ValueError):
    """A piece that fits no event: its numbers are wrong, contradict others, or are too many."""


@dataclass(slots=True)
class _Held:
    total: int
    since: float
    pieces: dict[int, bytes] = field(default_factory=dict)
    size: int = 0


class Fragments:
    """The unfinished events of one connection."""

    def __init__(self) -> None:
        self._held: dict[str, _Held] = {}
        self._size = 0

    def add(self, event: str, total: int, number: int, piece: bytes, now: float) -> bytes | None:
        """Take piece `number` (from 0) of `total`; the joined event once all are there, else None.

        A piece that comes twice counts once. Over the bounds, the oldest events are given up.

        Raises: FragmentError; what was held of that event is given up.
        """
        self._expire(now)
        if not 1 <= total <= MAX_PIECES or not 0 <= number < total:
            self._drop(event)
            raise FragmentError(f"piece {number} of {total}")
        if total == 1:
            return piece
        held = self._held.setdefault(event, _Held(total, now))
        if held.total != total:
            self._drop(event)
            raise FragmentError(f"piece of {total} after pieces of {held.total}")
        if number not in held.pieces:
            held.pieces[number] = piece
            held.size += len(piece)
            self._size += len(piece)
        if held.size > MAX_EVENT_BYTES:
            self._drop(event)
            raise FragmentError(f"an event of more than {MAX_EVENT_BYTES} bytes")
        if len(held.pieces) == total:
            self._drop(event)
            return b"".join(held.pieces[at] for at in range(total))
        while self._size > MAX_HELD_BYTES or len(self._held) > MAX_EVENTS:
            self._drop(next(iter(self._held)))
        return None

    def _expire(self, now: float) -> None:
        while self._held:
            oldest = next(iter(self._held))
            if now - self._held[oldest].since <= MAX_AGE:
                return
            self._drop(oldest)

    def _drop(self, event: str) -> None:
        held = self._held.pop(event, None)
        if held is not None:
            self._size -= held.size
