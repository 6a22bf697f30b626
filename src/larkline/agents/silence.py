"""A watch over something that should keep making itself heard."""

import asyncio
from types import TracebackType
from typing import Self

_GRACE_SECONDS = 0.25


class Silence:
    """Expires a timeout once nothing was heard for `seconds`; a context manager.

    `heard` is cheap enough for every chunk. After a silence that was our own (a stalled loop, a
    stopped process) what has arrived meanwhile is read first: a moment of grace precedes the end.
    """

    def __init__(self, timeout: asyncio.Timeout, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeout = timeout
        self._seconds = seconds
        self._last = self._loop.time()
        self._warned = False
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self.limit(self._seconds)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def limit(self, seconds: float) -> None:
        """Begin anew with this limit."""
        if self._timer is not None:
            self._timer.cancel()
        self._seconds = seconds
        self.heard()
        self._timer = self._loop.call_at(self._last + seconds, self._look)

    def heard(self) -> None:
        """Something came."""
        self._last = self._loop.time()
        self._warned = False

    def _look(self) -> None:
        now = self._loop.time()
        due = self._last + self._seconds
        if now < due:
            self._timer = self._loop.call_at(due, self._look)
        elif not self._warned:
            self._warned = True
            self._timer = self._loop.call_at(now + _GRACE_SECONDS, self._look)
        else:
            self._timeout.reschedule(now)
