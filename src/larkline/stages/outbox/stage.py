"""The outbox: every reply reaches the chat, once, in the order of its conversation.

A known limit: the order is that of finals. While a final is postponed, the live card of the
conversation's next turn may appear before it.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog

from larkline.domain.errors import ChatGone, ContentRefused, Permanent, StoreError, Transient
from larkline.domain.model import Claim, Reply, ReplyId
from larkline.ports import Chat, Deliveries
from larkline.stages.outbox.delivery import deliver
from larkline.stages.outbox.gate import Gate
from larkline.stages.outbox.live import LiveReply, Look, backoff
from larkline.stages.outbox.settings import Desk, Observe, OutboxSettings

log = structlog.get_logger()

_STORE_PAUSE = 2.0
# Whoever makes a reply due also calls `wake`. Should one ever forget, an answer comes late, not
# at the next restart.
_LONGEST_IDLE = 30.0


class Outbox:
    """Delivers what the store has due, and follows running turns with live cards.

    `now` gives Unix seconds; intervals are measured with the running loop's clock.
    """

    def __init__(
        self,
        store: Deliveries,
        chat: Chat,
        settings: OutboxSettings,
        *,
        now: Callable[[], float] = time.time,
        observe: Observe = lambda _what: None,
        new_key: Callable[[], str] = lambda: str(uuid.uuid4()),
    ) -> None:
        gate = Gate(settings.limits)
        self._desk = Desk(store, chat, settings, gate, now, observe, new_key)
        self._woken = asyncio.Event()
        self._idle = asyncio.Event()
        self._busy: set[ReplyId] = set()
        self._live: dict[ReplyId, LiveReply] = {}
        self._group: asyncio.TaskGroup | None = None

    def wake(self) -> None:
        """Something may have become due. Never blocks; cheap."""
        self._woken.set()

    async def run(self) -> None:
        """Deliver for ever; ends only when cancelled. Calls under way are finished then."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                while True:
                    self._woken.clear()
                    wait = await self._start_due(group)
                    try:
                        async with asyncio.timeout(wait):
                            await self._woken.wait()
                    except TimeoutError:
                        continue
            finally:
                self._group = None

    async def drain(self, seconds: float) -> None:
        """Wait until nothing is due or under way, at most so long. `run` must be running."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    self._idle.clear()
                    self.wake()
                    await self._idle.wait()
                    if not self._busy and not await self._desk.store.due(self._desk.now(), 1):
                        return
        except TimeoutError:
            log.warning("not everything was delivered in time", under_way=len(self._busy))
        except StoreError as exc:
            log.warning("store refuses; what is due is delivered at the next start", error=str(exc))

    @asynccontextmanager
    async def open_reply(self, claim: Claim, look: Look) -> AsyncIterator[Callable[[], None]]:
        """Show a claimed turn's reply at once and keep it fresh; gives `revised`.

        `look` is called when there is room to show what it gives. Neither entering nor `revised`
        waits for the platform. The final, delivered once the turn is settled, takes the parts over.
        """
        live = LiveReply(self._desk, claim.reply, look, self._live.get(claim.reply))
        if self._group is None:
            log.info("no live view: the outbox does not run", reply=claim.reply)
            yield live.revised
            return
        self._live[claim.reply] = live
        live.start(self._group)
        try:
            yield live.revised
        finally:
            live.close()

    async def _start_due(self, group: asyncio.TaskGroup) -> float:
        """Start what is due; how long to wait for the next."""
        desk, now = self._desk, self._desk.now()
        # What ends while the store is read was still due when we asked; its end wakes us.
        under_way = frozenset(self._busy)
        try:
            found = await desk.store.due(now, desk.settings.at_once)
            next_due = await desk.store.next_due(now)
        except StoreError as exc:
            log.warning("store can't say what is due", error=str(exc))
            return _STORE_PAUSE
        for reply in found:
            if reply.id not in under_way and len(self._busy) < desk.settings.at_once:
                self._busy.add(reply.id)
                group.create_task(self._deliver(reply), name=f"deliver reply {reply.id}")
        if not self._busy:
            self._idle.set()
        # What is due already is under way, or follows when something ends, which wakes us.
        if next_due is None:
            return _LONGEST_IDLE
        return min(_LONGEST_IDLE, max(0.0, next_due - desk.now()) + 0.001)

    async def _deliver(self, reply: Reply) -> None:
        """One try, whatever comes of it."""
        try:
            await self._try(reply)
        except StoreError as exc:
            # Nothing was recorded: the next look at the store offers the reply again.
            self._desk.observe("failed")
            log.warning("store failed in a delivery", reply=reply.id, error=str(exc))
            await asyncio.sleep(_STORE_PAUSE)
        finally:
            self._busy.discard(reply.id)
            self.wake()

    async def _try(self, reply: Reply) -> None:
        desk = self._desk
        parts = reply.parts
        live = self._live.get(reply.id)
        if live is not None:
            live.close()
            await live.finished()
            if live.post is not None:
                parts = tuple(live.post.parts.values())
        try:
            await deliver(desk, reply, parts)
        except Transient as exc:
            await self._postpone(reply, exc, exc.retry_after)
            return
        except (ChatGone, ContentRefused) as exc:
            await self._give_up(reply, exc)
        except Permanent as exc:
            # A missing scope, an app that is switched off: what operators can cure is waited for.
            if desk.now() - reply.due_at <= desk.settings.give_up_refused_after:
                await self._postpone(reply, exc, None, longest=desk.settings.longest_refused)
                return
            await self._give_up(reply, exc)
        except StoreError:
            raise
        except Exception as exc:
            # A boundary: a fault of ours is recorded and tried again like a failed call.
            desk.observe("failed")
            log.exception("delivery failed inside larkline", reply=reply.id)
            await self._postpone(reply, exc, None)
            return
        else:
            await desk.store.delivered(reply.id)
            desk.observe("delivered")
        self._live.pop(reply.id, None)

    async def _postpone(
        self, reply: Reply, exc: Exception, retry_after: float | None, longest: float | None = None
    ) -> None:
        desk = self._desk
        if desk.now() - reply.due_at > desk.settings.give_up_after:
            await self._give_up(reply, exc)
            self._live.pop(reply.id, None)
            return
        longest = desk.settings.longest_backoff if longest is None else longest
        wait = backoff(reply.attempts + 1, retry_after, longest)
        desk.observe("postponed")
        log.warning("delivery postponed", reply=reply.id, seconds=wait, error=str(exc))
        await desk.store.postpone(reply.id, desk.now() + wait, str(exc))
        # The store knows the parts by now: what is tried again starts from there.
        self._live.pop(reply.id, None)

    async def _give_up(self, reply: Reply, exc: Exception) -> None:
        self._desk.observe("gave_up")
        log.error("reply can't be delivered and is given up", reply=reply.id, error=str(exc))
        await self._desk.store.give_up(reply.id, str(exc))
