"""A FeishuChat against the simulated platform, with bounds that make seconds of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from larkline.chats.feishu.chat import FeishuChat
from larkline.chats.feishu.settings import Bounds, FeishuSettings
from larkline.domain.model import ChatEvent, Click, Toast
from larkline.lifecycle import running
from larkline.sim.platform import APP_ID, APP_SECRET, Platform

QUICK = Bounds(
    ping=(0.1, 0.1),
    interval=(0.05, 0.1),
    nonce=(0.0, 0.05),
    first_retry=0.02,
    slack=0.3,
    connect=0.5,
    send=1.0,
    event=3.0,
    click=1.0,
    call=0.5,
)


@dataclass
class Inbox:
    """Remembers what `receive` got; `answer` decides what it does with it."""

    events: list[ChatEvent] = field(default_factory=list)
    answer: Callable[[ChatEvent], Awaitable[Toast | None]] | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def receive(self, event: ChatEvent) -> Toast | None:
        self.events.append(event)
        self.changed.set()
        if self.answer is not None:
            return await self.answer(event)
        return Toast("done", "success") if isinstance(event, Click) else None

    async def until(self, count: int, seconds: float = 10.0) -> None:
        """Wait until so many events came."""
        async with asyncio.timeout(seconds):
            while len(self.events) < count:
                self.changed.clear()
                await self.changed.wait()


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for a state that nobody announces."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


def settings(domain: str, **bounds: object) -> FeishuSettings:
    """The simulator's own app at `domain`."""
    return FeishuSettings(APP_ID, APP_SECRET, domain, replace(QUICK, **bounds))  # type: ignore[arg-type]


@asynccontextmanager
async def running_chat(
    domain: str, inbox: Inbox | None = None, **bounds: object
) -> AsyncIterator[FeishuChat]:
    """A chat whose `run` lives as long as the block."""
    inbox = inbox or Inbox()
    async with (
        FeishuChat(settings(domain, **bounds)) as chat,
        running("chat", chat.run(inbox.receive)),
    ):
        yield chat


async def works(platform: Platform, inbox: Inbox) -> None:
    """A message of now arrives and is acknowledged."""
    before = len(inbox.events)
    await platform.connected()
    sent = platform.people.send(platform.users[0], "still there?")
    await inbox.until(before + 1)
    assert sent.delivery is not None
    delivery = sent.delivery
    await until(lambda: delivery.state == "acked")
