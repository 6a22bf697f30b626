"""Decides what starts now: in order, one turn of a conversation at a time, within the limit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from larkline.domain.errors import StoreError
from larkline.domain.model import (
    Claim,
    ConversationId,
    Ending,
    Language,
    NewNotice,
    Outcome,
    Target,
    Waiting,
)
from larkline.ports import TurnQueue
from larkline.texts import text

log = structlog.get_logger()

Stop = asyncio.Future[Ending]
"""Resolved to ask a running turn to end: STOPPED by a user, INTERRUPTED by a shutdown."""

RunTurn = Callable[[Claim, Stop], Awaitable[Outcome]]
"""Runs a claimed turn to its outcome. Only cancellation escapes."""

Settled = Callable[[Claim, Outcome, float], None]
"""Told about each settled turn, with the seconds it ran."""

_BEFORE_POSITION = 1.0
"""A turn that starts within this many seconds is not told its position."""
_NOTICE_GAP = 60.0
"""At most one position notice a conversation in this many seconds."""
_SETTLING = 0.3
"""After a late message nothing starts for so long: what was sent before it may come behind it."""
_SETTLING_AT_MOST = 2.0
"""However many late messages come, starts wait no longer than this."""
_ANNOUNCED_AT_ONCE = 50
_LOOK_GAP = 0.5
"""Seconds between two looks for turns to announce: each costs the queue's length."""
_AFTER_INTERRUPT = 20.0
"""How long interrupted turns may take to end: 5 s by themselves, then the guard ends them."""
_IDLE_LOOK = 30.0
"""Seconds until the queue is looked at although nobody woke us: a net under the wake-ups."""
_STORE_RETRY = (0.2, 0.5, 1.0, 2.0, 5.0)


@dataclass(slots=True)
class _Running:
    """A turn that runs now."""

    claim: Claim
    stop: Stop
    began: float


class Scheduler:
    """Starts turns and settles them; `wake()` says that something may have changed."""

    def __init__(
        self,
        queue: TurnQueue,
        run_turn: RunTurn,
        *,
        limit: Callable[[], int],
        language: Language,
        settled: Settled,
        announced: Callable[[], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._queue = queue
        self._run_turn = run_turn
        self._limit = limit
        self._language = language
        self._settled = settled
        self._announced = announced
        self._clock = clock
        self._running: dict[ConversationId, _Running] = {}
        self._changed = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._taking = asyncio.Lock()
        self._closing = False
        self._noticed: dict[ConversationId, float] = {}
        self._next_look = 0.0
        self._settling_since = 0.0
        self._not_before = 0.0

    def wake(self) -> None:
        """Something may be there to start."""
        self._changed.set()

    def settle_in(self) -> None:
        """A message came late: give those that belong before it a moment to come too."""
        now = time.monotonic()
        if now >= self._not_before:
            self._settling_since = now
        self._not_before = min(now + _SETTLING, self._settling_since + _SETTLING_AT_MOST)

    def running_since(self, conversation: ConversationId) -> float | None:
        """When the conversation's running turn began (monotonic); None if none runs."""
        turn = self._running.get(conversation)
        return None if turn is None else turn.began

    @property
    def running(self) -> int:
        """How many turns run now."""
        return len(self._running)

    def stop(self, conversation: ConversationId, reason: Ending = Ending.STOPPED) -> bool:
        """Ask the conversation's running turn to end; False if none runs."""
        turn = self._running.get(conversation)
        if turn is None:
            return False
        if not turn.stop.done():
            turn.stop.set_result(reason)
        return True

    async def run(self) -> None:
        """Start turns as they come, until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._changed.clear()
                try:
                    patience = await self._fill(group)
                    if patience is None:
                        patience = await self._announce()
                except StoreError as exc:
                    log.warning("scheduler can't read the store", error=str(exc))
                    patience = _STORE_RETRY[-1]
                try:
                    async with asyncio.timeout(_IDLE_LOOK if patience is None else patience):
                        await self._changed.wait()
                except TimeoutError:
                    pass  # time to look again

    async def drain(self, seconds: float) -> None:
        """Start nothing more, give running turns `seconds`, then ask them to end."""
        async with self._taking:  # a turn being taken belongs to those that are waited for
            self._closing = True
        if await self._all_ended(seconds):
            return
        log.info("interrupting turns at shutdown", turns=len(self._running))
        for conversation in list(self._running):
            self.stop(conversation, Ending.INTERRUPTED)
        if not await self._all_ended(_AFTER_INTERRUPT):
            log.error("turns did not end; the next start will settle them")

    async def _all_ended(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def _fill(self, group: asyncio.TaskGroup) -> float | None:
        """Start what may start; the seconds to wait if something else has to come first."""
        while True:
            async with self._taking:
                if self._closing or len(self._running) >= self._limit():
                    return None
                settling = self._not_before - time.monotonic()
                if settling > 0:
                    return settling
                claim = await self._queue.take()
                if claim is None:
                    return None
                stop: Stop = asyncio.get_running_loop().create_future()
                turn = _Running(claim, stop, time.monotonic())
                self._running[claim.turn.conversation] = turn
                self._idle.clear()
            group.create_task(self._turn(turn), name=f"turn-{claim.turn.id}")

    async def _turn(self, turn: _Running) -> None:
        claim = turn.claim
        try:
            outcome = await self._run_turn(claim, turn.stop)
            await self._settle(claim, outcome)
            self._settled(claim, outcome, time.monotonic() - turn.began)
        finally:
            del self._running[claim.turn.conversation]
            if not self._running:
                self._idle.set()
            self.wake()

    async def _settle(self, claim: Claim, outcome: Outcome) -> None:
        """Store the outcome: again and again, until it is stored or somebody else owns the turn."""
        attempt = 0
        while True:
            try:
                mine = await self._queue.settle(claim, outcome)
            except StoreError as exc:
                wait = _STORE_RETRY[min(attempt, len(_STORE_RETRY) - 1)]
                attempt += 1
                log.warning("can't settle a turn yet", turn=claim.turn.id, error=str(exc))
                await asyncio.sleep(wait)
                continue
            if not mine:
                log.warning("turn was taken over", turn=claim.turn.id, epoch=claim.epoch)
            return

    async def _announce(self) -> float | None:
        """Tell waiting turns their position; returns the seconds until the next look."""
        if self._closing:
            return None
        early = self._next_look - time.monotonic()
        if early > 0:
            return early
        self._next_look = time.monotonic() + _LOOK_GAP
        waiting = await self._queue.waiting(_ANNOUNCED_AT_ONCE)
        now = self._clock()
        self._noticed = {
            conversation: at for conversation, at in self._noticed.items() if now - at < _NOTICE_GAP
        }
        for each in waiting:
            early = each.turn.accepted_at + _BEFORE_POSITION - now
            if early > 0:
                return min(early, _BEFORE_POSITION)
            await self._tell_position(each, now)
        return _LOOK_GAP if waiting else None

    async def _tell_position(self, waiting: Waiting, now: float) -> None:
        turn = waiting.turn
        notice = None
        if turn.conversation not in self._noticed:
            self._noticed[turn.conversation] = now
            words = text(self._language, "position", ahead=waiting.ahead)
            notice = NewNotice(Target(turn.place, turn.message_id), words)
        await self._queue.announce(turn.id, notice)
        if notice is not None:
            self._announced()
