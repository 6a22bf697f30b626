"""A chat in memory that keeps the contract of `Chat`: for tests and for trying things out.

It remembers every revision of every card and every message, and refuses what a test tells it to.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from larkline.chats.feishu.cards import pages as feishu_pages
from larkline.domain.errors import (
    ContentRefused,
    LarklineError,
    Permanent,
    SequenceStale,
    StreamClosed,
)
from larkline.domain.model import (
    CardId,
    CardView,
    ChatEvent,
    Connection,
    MessageId,
    SentMessage,
    Target,
    Toast,
    UserId,
)
from larkline.ports import CardField, Receive

Method = Literal["create_card", "send_card", "stream", "replace_card", "send_text", "sent_since"]
BOT = UserId("ou_bot")
STREAMING_SECONDS = 600.0
KEY_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Revision:
    """One change of a card. `field` None: the whole card, then `view` is set."""

    sequence: int
    field: CardField | None
    text: str
    view: CardView | None
    at: float


@dataclass(slots=True)
class ScriptedCard:
    """A card as it stands: what a reader would see."""

    id: CardId
    text: str
    status: str
    live: bool
    view: CardView
    opened_at: float
    sequence: int = 0
    message: MessageId | None = None
    revisions: list[Revision] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Shown:
    """A message of ours in a chat: a card (`card` set) or a text."""

    id: MessageId
    target: Target
    key: str
    card: CardId | None
    text: str
    at: float


@dataclass(slots=True)
class _Refusal:
    method: Method
    error: LarklineError
    times: int
    applied: bool


class ScriptedChat:
    """See `Chat`. `cut` is the paging; `now` gives Unix seconds."""

    def __init__(
        self,
        *,
        bot: UserId | None = BOT,
        now: Callable[[], float] = time.time,
        cut: Callable[[str], tuple[str, ...]] = feishu_pages,
    ) -> None:
        self.bot = bot
        self.reason = ""
        self.cards: dict[CardId, ScriptedCard] = {}
        self.shown: list[Shown] = []
        self.calls: list[tuple[Method, float]] = []
        """Every call with its time, refused ones included."""
        self._now = now
        self._cut = cut
        self._numbers = itertools.count(1)
        self._refusals: list[_Refusal] = []
        self._receive: Receive | None = None
        self._changed = asyncio.Event()

    # what a test does

    def refuse(
        self, method: Method, error: LarklineError, *, times: int = 1, applied: bool = False
    ) -> None:
        """Raise `error` in the next `times` calls; `applied`: after the call took effect."""
        self._refusals.append(_Refusal(method, error, times, applied))

    async def deliver(self, event: ChatEvent, seconds: float = 5.0) -> Toast | None:
        """Hand an event in once `run` is there; raises what `receive` raises (not acknowledged)."""
        await self.until(lambda: self._receive is not None, seconds)
        if self._receive is None:
            raise RuntimeError("run() ended")
        return await self._receive(event)

    async def until(self, condition: Callable[[], bool], seconds: float = 5.0) -> None:
        """Wait until the chat has changed so that `condition` holds. Raises: TimeoutError."""
        async with asyncio.timeout(seconds):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def reader_sees(self, message: MessageId) -> str:
        """The text of a message as it stands."""
        found = next(each for each in self.shown if each.id == message)
        return self.cards[found.card].text if found.card is not None else found.text

    # Chat

    async def run(self, receive: Receive) -> None:
        """See `Chat.run`."""
        self._receive = receive
        self._changed.set()
        try:
            await asyncio.Event().wait()
        finally:
            self._receive = None
            self._changed.set()

    def connection(self) -> Connection:
        """See `Chat.connection`; a `reason` set by the test says why not."""
        connected = self._receive is not None and not self.reason
        reason = self.reason or ("" if connected else "not connected yet")
        return Connection(connected=connected, reason=reason, bot=self.bot)

    def pages(self, text: str) -> tuple[str, ...]:
        """See `Chat.pages`."""
        return self._cut(text)

    async def create_card(self, view: CardView) -> CardId:
        """See `Chat.create_card`."""
        refusal = await self._called("create_card")
        card = CardId(f"card-{next(self._numbers)}")
        self.cards[card] = ScriptedCard(
            card, view.text, view.status, view.live, view, opened_at=self._now()
        )
        self._done(refusal)
        return card

    async def send_card(self, target: Target, card: CardId, key: str) -> MessageId:
        """See `Chat.send_card`. A card can be sent once; another key for it is refused."""
        refusal = await self._called("send_card")
        before = self._before(key)
        if before is None:
            entity = self._card(card)
            if entity.message is not None:
                raise ContentRefused(f"{card} was sent before", code=230099)
            before = self._show(target, key, card, "")
            entity.message = before
        self._done(refusal)
        return before

    async def stream(self, card: CardId, field: CardField, text: str, sequence: int) -> None:
        """See `Chat.stream`."""
        refusal = await self._called("stream")
        entity = self._card(card)
        if not entity.live or self._now() - entity.opened_at >= STREAMING_SECONDS:
            entity.live = False
            raise StreamClosed(f"{card} does not stream", code=300309)
        self._revise(entity, Revision(sequence, field, text, None, self._now()))
        if field == "text":
            entity.text = text
        else:
            entity.status = text
        self._done(refusal)

    async def replace_card(self, card: CardId, view: CardView, sequence: int) -> None:
        """See `Chat.replace_card`."""
        refusal = await self._called("replace_card")
        entity = self._card(card)
        self._revise(entity, Revision(sequence, None, view.text, view, self._now()))
        if view.live and not entity.live:
            entity.opened_at = self._now()
        if not view.live:
            entity.sequence = sequence + 1
        entity.text, entity.status, entity.live, entity.view = (
            view.text,
            view.status,
            view.live,
            view,
        )
        self._done(refusal)

    async def send_text(self, target: Target, text: str, key: str) -> MessageId:
        """See `Chat.send_text`."""
        refusal = await self._called("send_text")
        sent = self._before(key) or self._show(target, key, None, text)
        self._done(refusal)
        return sent

    async def sent_since(self, target: Target, since: float) -> tuple[SentMessage, ...]:
        """See `Chat.sent_since`."""
        refusal = await self._called("sent_since")
        self._done(refusal)
        return tuple(
            SentMessage(
                id=each.id,
                parent_id=each.target.reply_to,
                kind="text" if each.card is None else "interactive",
                text=each.text,
                created_at=each.at,
            )
            for each in self.shown
            if each.target.place == target.place and each.at >= since
        )

    async def _called(self, method: Method) -> _Refusal | None:
        """Note the call; raises a refusal that comes first, gives one that comes after."""
        self.calls.append((method, self._now()))
        await asyncio.sleep(0)
        for refusal in self._refusals:
            if refusal.method == method:
                refusal.times -= 1
                if refusal.times <= 0:
                    self._refusals.remove(refusal)
                if not refusal.applied:
                    self._changed.set()
                    raise refusal.error
                return refusal
        return None

    def _done(self, refusal: _Refusal | None) -> None:
        self._changed.set()
        if refusal is not None:
            raise refusal.error

    def _card(self, card: CardId) -> ScriptedCard:
        if card not in self.cards:
            raise Permanent(f"{card} is unknown", code=200740)
        return self.cards[card]

    def _revise(self, entity: ScriptedCard, revision: Revision) -> None:
        if revision.sequence <= entity.sequence:
            raise SequenceStale(f"{entity.id} has seen {entity.sequence}", code=300317)
        entity.sequence = revision.sequence
        entity.revisions.append(revision)

    def _before(self, key: str) -> MessageId | None:
        """The message that the same key showed within the hour."""
        horizon = self._now() - KEY_SECONDS
        for each in reversed(self.shown):
            if each.key == key and each.at > horizon:
                return each.id
        return None

    def _show(self, target: Target, key: str, card: CardId | None, text: str) -> MessageId:
        sent = MessageId(f"om_{next(self._numbers)}")
        self.shown.append(Shown(sent, target, key, card, text, self._now()))
        return sent
