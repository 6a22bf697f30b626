"""Messages and stages for tests, over the memory store and scripted agents."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from larkline.agents.pool import AgentPool
from larkline.agents.scripted import Reading, ScriptedMaker
from larkline.domain.model import (
    Claim,
    Ending,
    Inbound,
    Mention,
    MessageId,
    Outcome,
    Place,
    Reply,
    UserId,
)
from larkline.lifecycle import running
from larkline.stages.runner import Look, Revised, Runner, RunnerSettings
from larkline.stages.scheduler import RunTurn, Scheduler
from larkline.stores.memory import MemoryStore

BOT = UserId("ou_bot")
ANN = UserId("ou_ann")
NUMBERS = itertools.count(1)


def message(
    text: str | None = "hello",
    *,
    chat: str = "oc_1",
    sender: UserId = ANN,
    private: bool = True,
    mentions: tuple[UserId, ...] = (),
    created_at: float | None = None,
    kind: str = "text",
) -> Inbound:
    """A message as a codec would give it."""
    number = next(NUMBERS)
    named = tuple(Mention(f"@_user_{i}", user, user) for i, user in enumerate(mentions, 1))
    return Inbound(
        id=MessageId(f"om_{number:06}"),
        event_id=f"ev_{number}",
        place=Place("cli_x", chat),
        private=private,
        sender=sender,
        kind=kind,
        text=text,
        created_at=float(number) if created_at is None else created_at,
        mentions=named,
    )


@asynccontextmanager
async def scheduling(
    store: MemoryStore,
    run_turn: RunTurn,
    *,
    limit: Callable[[], int] = lambda: 5,
    clock: Callable[[], float] | None = None,
    drain_seconds: float = 5.0,
) -> AsyncIterator[Scheduler]:
    """A scheduler at work."""
    more = {} if clock is None else {"clock": clock}
    scheduler = Scheduler(
        store,
        run_turn,
        limit=limit,
        language="en",
        settled=lambda claim, outcome, seconds: None,
        announced=lambda: None,
        **more,
    )
    async with running("scheduler", scheduler.run(), drain=lambda: scheduler.drain(drain_seconds)):
        yield scheduler


@asynccontextmanager
async def no_reply(claim: Claim, look: Look) -> AsyncIterator[Revised]:
    """A live reply that nobody sees."""
    yield lambda: None


def runner(pool: AgentPool, **bounds: float) -> Runner:
    """A runner over a pool."""
    return Runner(
        RunnerSettings(language="en", **bounds),
        lease=pool.lease,
        forget=pool.forget,
        open_reply=no_reply,
        first_text=lambda seconds: None,
    )


def pool(maker: ScriptedMaker | None = None, capacity: int = 5) -> AgentPool:
    """A pool of scripted agents."""
    return AgentPool(maker or ScriptedMaker(Reading()), capacity, idle_seconds=60.0)


async def answers(store: MemoryStore) -> list[Reply]:
    """Everything that is due now."""
    return list(await store.due(1e12, 1000))


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 5.0) -> None:
    """Wait for a state, looking once every loop turn or so."""
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.001)


__all__ = [
    "ANN", "BOT", "Ending", "Outcome", "answers", "message", "no_reply", "pool", "runner",
    "scheduling", "until",
]  # fmt: skip
