"""Live agent processes: never more than the capacity, warm where they can be.

Every process is in one of four states, and all four count against the capacity:

    (room) -> starting -> working <-> idle -> closing -> (room)

One whose processes survive stays in closing, and is tried again, until they are gone.

Who needs room waits in order of arrival. While somebody waits, the least recently used idle
processes are closed to make room.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from larkline.agents.ending import TreeSurvivesError
from larkline.domain.errors import AgentStartError, StartFault
from larkline.domain.model import ConversationId
from larkline.lifecycle import to_the_end
from larkline.ports import Agent, AgentMaker, AgentSpec

_log = logging.getLogger(__name__)

RETRY_SECONDS = (1.0, 60.0)
"""Between two tries to end what survives: the first pause, doubled up to the longest."""


@dataclass(frozen=True, slots=True)
class PoolCounts:
    """Processes by state, now."""

    starting: int
    working: int
    idle: int
    closing: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.starting + self.working + self.idle + self.closing


@dataclass(frozen=True, slots=True)
class _Closing:
    conversation: ConversationId
    tried: asyncio.Future[None]


class AgentPool:
    """Leases agents of one maker; `close` ends them all.

    `capacity` bounds the processes; `idle_seconds` is how long an unused one stays warm.
    """

    def __init__(self, maker: AgentMaker, capacity: int, *, idle_seconds: float) -> None:
        self._maker = maker
        self._capacity = capacity
        self._idle_seconds = idle_seconds
        self._starting = 0
        self._working: dict[ConversationId, Agent] = {}
        self._idle: dict[ConversationId, Agent] = {}  # least recently used first
        self._timers: dict[ConversationId, asyncio.TimerHandle] = {}
        self._closing: dict[asyncio.Task[None], _Closing] = {}
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._turns: dict[ConversationId, deque[asyncio.Future[None]]] = {}
        self._forgotten: set[ConversationId] = set()
        self._closed = asyncio.Event()

    def counts(self) -> PoolCounts:
        """Processes by state, now."""
        return PoolCounts(self._starting, len(self._working), len(self._idle), len(self._closing))

    @property
    def capacity(self) -> int:
        """How many processes there may be. Set lower than there are, it ends idle ones only."""
        return self._capacity

    @capacity.setter
    def capacity(self, capacity: int) -> None:
        self._capacity = capacity
        self._arrange()

    @asynccontextmanager
    async def lease(self, spec: AgentSpec) -> AsyncIterator[Agent]:
        """An agent of this conversation for one turn: see `larkline.ports.Lease`.

        Waits for room, and for an earlier lease of the same conversation; both in order of arrival.
        On return from a lease that ended with an exception the process is gone (or keeps its
        place, see above).
        Raises: AgentStartError.
        """
        conversation = spec.conversation
        await self._enter(conversation)
        try:
            agent = await self._take(spec)
            try:
                yield agent
            except BaseException:
                self._working.pop(conversation)
                await to_the_end(asyncio.wait({self._end(conversation, agent)}))
                raise
            self._working.pop(conversation)
            self._keep(conversation, agent)
        finally:
            self._forgotten.discard(conversation)
            self._leave(conversation)

    async def forget(self, conversation: ConversationId) -> None:
        """End a conversation's idle agent; a working one ends when its lease does.

        Returns when the idle one is gone, or has survived a first try.
        """
        if conversation in self._turns:
            self._forgotten.add(conversation)
        self._evict(conversation)
        await self._gone(conversation)

    async def close(self, seconds: float = 10.0) -> None:
        """End all agents at once, working ones too; returns when they are gone or time is up.

        No lease is given any more. Finishes also when the caller is cancelled.
        """
        self._closed.set()
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_exception(_shut())
        for conversation in list(self._idle):
            self._evict(conversation)
        ending = set(self._closing)
        for agent in self._working.values():  # counted as working until their leases end
            ending.add(asyncio.create_task(agent.close(), name="close agent"))
        if ending:
            ended, left = await to_the_end(asyncio.wait(ending, timeout=seconds))
            failed = [task for task in ended if not task.cancelled() and task.exception()]
            if left or failed:
                _log.error("at the end %d agents were left, %d failed", len(left), len(failed))

    # One lease of a conversation at a time

    async def _enter(self, conversation: ConversationId) -> None:
        queue = self._turns.get(conversation)
        if queue is None:
            self._turns[conversation] = deque()
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                with suppress(ValueError):
                    queue.remove(turn)
            else:
                self._leave(conversation)
            raise

    def _leave(self, conversation: ConversationId) -> None:
        queue = self._turns[conversation]
        while queue:
            turn = queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        del self._turns[conversation]

    # From room to a working agent

    async def _take(self, spec: AgentSpec) -> Agent:
        conversation = spec.conversation
        if self._closed.is_set():
            raise _shut()
        idle = self._idle.get(conversation)
        if idle is not None:
            if idle.alive and spec.resume == idle.session:
                self._unkeep(conversation)
                self._working[conversation] = idle
                return idle
            self._evict(conversation)
        # Two processes on one session would lose each other's turns.
        if not await self._gone(conversation):
            raise AgentStartError(
                StartFault.EXITED, f"an earlier agent of conversation {conversation} still runs"
            )
        await self._room()
        try:
            agent = await self._maker.start(spec)
        except BaseException:
            self._starting -= 1
            self._arrange()
            raise
        self._starting -= 1
        self._working[conversation] = agent
        return agent

    async def _room(self) -> None:
        """Returns when a place was taken: it is counted as starting."""
        room: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(room)
        self._arrange()
        try:
            await room
        except asyncio.CancelledError:
            if room.cancelled():
                with suppress(ValueError):
                    self._waiting.remove(room)
            elif room.exception() is None:
                self._starting -= 1
            self._arrange()
            raise

    def _arrange(self) -> None:
        """Give free places to who waits; close idle agents for the rest of them."""
        while self._waiting and self.counts().total < self._capacity:
            room = self._waiting.popleft()
            if not room.done():
                self._starting += 1
                room.set_result(None)
        counts = self.counts()
        free_soon = sum(not closing.tried.done() for closing in self._closing.values())
        wanted = len(self._waiting) + counts.total - free_soon - self._capacity
        for conversation in list(self._idle)[: max(0, wanted)]:
            self._evict(conversation)

    # From working to gone

    def _keep(self, conversation: ConversationId, agent: Agent) -> None:
        if conversation in self._forgotten or self._closed.is_set() or not agent.alive:
            self._end(conversation, agent)
            return
        self._idle[conversation] = agent
        loop = asyncio.get_running_loop()
        self._timers[conversation] = loop.call_later(self._idle_seconds, self._evict, conversation)
        self._arrange()

    def _unkeep(self, conversation: ConversationId) -> Agent:
        self._timers.pop(conversation).cancel()
        return self._idle.pop(conversation)

    def _evict(self, conversation: ConversationId) -> None:
        if conversation in self._idle:
            self._end(conversation, self._unkeep(conversation))

    def _end(self, conversation: ConversationId, agent: Agent) -> asyncio.Future[None]:
        """Start to close it; returns what is done when the first try is.

        One that survives keeps its place until it is gone, and its conversation without a process.
        """
        tried: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(
            self._end_for_good(conversation, agent, tried), name=f"close agent {conversation}"
        )
        self._closing[task] = _Closing(conversation, tried)
        task.add_done_callback(self._ended)
        return tried

    async def _end_for_good(
        self, conversation: ConversationId, agent: Agent, tried: asyncio.Future[None]
    ) -> None:
        pause, longest = RETRY_SECONDS
        while True:
            try:
                return await agent.close()
            except TreeSurvivesError as exc:
                if self._closed.is_set():
                    raise
                _log.error("conversation %s: %s; next try in %g s", conversation, exc, pause)
            if not tried.done():
                tried.set_result(None)
                self._arrange()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._closed.wait()
            pause = min(2 * pause, longest)

    def _ended(self, task: asyncio.Task[None]) -> None:
        closing = self._closing.pop(task)
        if not closing.tried.done():
            closing.tried.set_result(None)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error(
                "closing the agent of conversation %s failed: %s", closing.conversation, error
            )
        self._arrange()

    async def _gone(self, conversation: ConversationId) -> bool:
        """Wait for the first try to end each; False if one has survived it."""
        tries = [c.tried for c in self._closing.values() if c.conversation == conversation]
        if tries:
            await asyncio.wait(tries)
        return all(c.conversation != conversation for c in self._closing.values())


def _shut() -> AgentStartError:
    return AgentStartError(StartFault.EXITED, "larkline is shutting down")
