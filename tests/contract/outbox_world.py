"""A world for the outbox whose time passes at once: the loop's clock jumps to the next timer."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TypeVar

from larkline.chats.scripted import Method, ScriptedChat, Shown
from larkline.domain.errors import LarklineError, Transient
from larkline.domain.model import (
    CardId,
    CardView,
    Claim,
    Ending,
    Final,
    Inbound,
    MessageId,
    NewTurn,
    Outcome,
    Place,
    QueueLimits,
    SentMessage,
    Standing,
    Target,
    TurnKind,
    UserId,
    Verdict,
)
from larkline.ports import CardField
from larkline.stages.outbox import Outbox, OutboxSettings
from larkline.stores.memory import MemoryStore
from larkline.stores.memory_disk import Disk

T = TypeVar("T")
EPOCH = 1_700_000_000.0
NOBODY_WAITS = 50_000


class _Jumping(selectors.SelectSelector):
    """Never sleeps: waiting for a timer moves the clock instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready; the time until the next timer is skipped."""
        if timeout is None:
            raise RuntimeError("everything waits for something that will never come")
        self.now += max(0.0, timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop with a clock of its own."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Seconds since the loop was made, as far as timers say."""
        return self._jumping.now


def play(story: Coroutine[object, object, T]) -> T:
    """Run a story in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(story)


def wall() -> float:
    """Unix seconds of the running virtual loop."""
    return EPOCH + asyncio.get_running_loop().time()


class SlowChat(ScriptedChat):
    """The scripted chat behind a network: each call takes a while."""

    def __init__(self, latency: float = 0.05) -> None:
        super().__init__(now=wall)
        self.latency = latency
        self.refused: list[LarklineError] = []
        self.together: dict[CardId, int] = {}
        self.most_together = 0

    async def _slowly(self, call: Callable[[], Awaitable[T]], card: CardId | None = None) -> T:
        if card is not None:
            self.together[card] = self.together.get(card, 0) + 1
            self.most_together = max(self.most_together, self.together[card])
        try:
            await asyncio.sleep(self.latency / 2)
            result = await call()
            await asyncio.sleep(self.latency / 2)
            return result
        except LarklineError as exc:
            self.refused.append(exc)
            raise
        finally:
            if card is not None:
                self.together[card] -= 1

    async def create_card(self, view: CardView) -> CardId:
        """See `Chat.create_card`."""
        return await self._slowly(lambda: ScriptedChat.create_card(self, view))

    async def send_card(self, target: Target, card: CardId, key: str) -> MessageId:
        """See `Chat.send_card`."""
        return await self._slowly(lambda: ScriptedChat.send_card(self, target, card, key), card)

    async def stream(self, card: CardId, field: CardField, text: str, sequence: int) -> None:
        """See `Chat.stream`."""
        await self._slowly(lambda: ScriptedChat.stream(self, card, field, text, sequence), card)

    async def replace_card(self, card: CardId, view: CardView, sequence: int) -> None:
        """See `Chat.replace_card`."""
        await self._slowly(lambda: ScriptedChat.replace_card(self, card, view, sequence), card)

    async def send_text(self, target: Target, text: str, key: str) -> MessageId:
        """See `Chat.send_text`."""
        return await self._slowly(lambda: ScriptedChat.send_text(self, target, text, key))

    async def sent_since(self, target: Target, since: float) -> tuple[SentMessage, ...]:
        """See `Chat.sent_since`."""
        return await self._slowly(lambda: ScriptedChat.sent_since(self, target, since))


@dataclass(slots=True)
class Answer:
    """What a running turn has to show; a test changes it and calls `revised`."""

    text: str = ""
    status: str = "Thinking · 0 s"

    def look(self) -> CardView:
        """The live view of the whole answer."""
        return CardView(self.text, self.status, live=True, summary=self.text[:50])


@dataclass(slots=True)
class World:
    """A store that survives, a chat, and an outbox over them."""

    disk: Disk = field(default_factory=Disk)
    chat: SlowChat = field(default_factory=SlowChat)
    settings: OutboxSettings = field(default_factory=lambda: OutboxSettings(language="en"))
    seen: list[str] = field(default_factory=list)
    store: MemoryStore = field(init=False)
    outbox: Outbox = field(init=False)
    messages: int = 0
    task: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self.restart_objects()

    def restart_objects(self) -> None:
        """A new store and outbox, as after a restart."""
        self.store = MemoryStore(self.disk, clock=wall)
        self.outbox = Outbox(
            self.store, self.chat, self.settings, now=wall, observe=self.seen.append
        )

    async def __aenter__(self) -> World:
        self.start()
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def start(self) -> None:
        """Let the outbox run."""
        self.task = asyncio.create_task(self.outbox.run())

    async def stop(self) -> None:
        """End the outbox as a shutdown does."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])
            if not self.task.cancelled() and self.task.exception() is not None:
                raise AssertionError("the outbox ended by itself") from self.task.exception()

    async def restart(self) -> None:
        """Stop, forget everything that was only in memory, start again."""
        await self.stop()
        self.restart_objects()
        self.start()
        await asyncio.sleep(0)

    async def claim(self, chat: str = "oc_1", kind: TurnKind = TurnKind.PROMPT) -> Claim:
        """A message arrived and its turn was taken."""
        self.messages += 1
        place = Place("app", chat)
        message = Inbound(
            MessageId(f"om_in_{self.messages}"), f"ev{self.messages}", place, True,
            UserId("ou_1"), "text", "hi", wall(),
        )  # fmt: skip
        limits = QueueLimits(NOBODY_WAITS, NOBODY_WAITS)
        turn = Verdict(Standing.TURN, NewTurn(kind, "hi"), limits)
        await self.store.accept(message, turn)
        claim = await self.store.take()
        assert claim is not None
        return claim

    async def settle(self, claim: Claim, final: Final) -> None:
        """The turn ended: its reply is due."""
        await self.store.settle(claim, Outcome(Ending.ANSWERED, final))
        self.outbox.wake()

    def open(self, claim: Claim, answer: Answer) -> AbstractAsyncContextManager[Callable[[], None]]:
        """The live side of a claimed turn's reply."""
        return self.outbox.open_reply(claim, answer.look)

    def sent_to(self, claim: Claim) -> list[Shown]:
        """Our messages that answer the turn's message, in order."""
        return [each for each in self.chat.shown if each.target.reply_to == claim.turn.message_id]

    def texts(self, claim: Claim) -> list[str]:
        """What a reader sees of the answer now, message by message."""
        return [self.chat.reader_sees(each.id) for each in self.sent_to(claim)]

    def count(self, method: Method) -> int:
        """How many calls of that kind there were, refused ones included."""
        return sum(name == method for name, _ in self.chat.calls)

    async def settled(self, seconds: float = 60.0) -> None:
        """Wait until everything is delivered."""
        async with asyncio.timeout(seconds):
            while any(each.state == "due" for each in self.disk.replies.values()):
                await asyncio.sleep(max(0.05, seconds / 2000))


def unsure() -> Transient:
    """A call that may have taken effect."""
    return Transient("no answer", unsure=True)
