"""Events of one turn between the task that reads the agent and the one that shows them."""

from __future__ import annotations

import asyncio
from collections import deque

from larkline.domain.events import AgentEvent, Alive, TextDelta, Thinking

LONGEST_EVENTS = 10_000


class EventBuffer:
    """What a slow reader has not taken yet: draft text is joined, signs of life are not repeated.

    So it hardly grows; with `LONGEST_EVENTS` in it, `put` waits. One reader, one writer.
    """

    def __init__(self) -> None:
        self._events: deque[AgentEvent] = deque()
        self._ended = False
        self._error: Exception | None = None
        self._changed = asyncio.Event()
        self._room = asyncio.Event()

    async def put(self, event: AgentEvent) -> None:
        """Add an event; after the end it is dropped."""
        while len(self._events) >= LONGEST_EVENTS and not self._ended:
            self._room.clear()
            await self._room.wait()
        self.put_now(event)

    def put_now(self, event: AgentEvent) -> None:
        """Add an event whatever there is already."""
        if self._ended:
            return
        last = self._events[-1] if self._events else None
        if isinstance(event, TextDelta) and isinstance(last, TextDelta):
            self._events[-1] = TextDelta(last.text + event.text)
        elif not (isinstance(event, Alive | Thinking) and event == last):
            self._events.append(event)
        self._changed.set()

    def end(self, error: Exception | None = None) -> None:
        """No event follows; the first call counts. The reader gets what is here, then the error."""
        if not self._ended:
            self._ended, self._error = True, error
        self._changed.set()
        self._room.set()

    async def get(self) -> AgentEvent | None:
        """The next event; None at the end. Raises: the error that ended it."""
        while not self._events:
            if self._error is not None:
                raise self._error
            if self._ended:
                return None
            self._changed.clear()
            await self._changed.wait()
        self._room.set()
        return self._events.popleft()
