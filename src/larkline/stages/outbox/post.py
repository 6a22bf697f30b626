"""The platform messages that show one reply: made, sent, changed, and remembered part by part."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Literal, TypeVar

import structlog

from larkline.domain.errors import ChatGone, Permanent, SequenceStale, TargetGone, Transient
from larkline.domain.model import CardId, CardView, MessageId, Part, ReplyId, Target
from larkline.lifecycle import to_the_end
from larkline.policy.pacing import Call, Rank
from larkline.ports import CardField
from larkline.stages.outbox.settings import Desk

log = structlog.get_logger()
T = TypeVar("T")

_LOOSE = "-l"
_STALE_TRIES = 6


class Post:
    """The parts of one reply. One call at a time; what a call achieved is saved with it.

    A call that was begun is finished and its result saved, also when its task is cancelled.
    """

    def __init__(self, desk: Desk, reply: ReplyId, target: Target, parts: Iterable[Part]) -> None:
        self._desk = desk
        self.reply = reply
        self.target = target
        self.parts = {part.ordinal: part for part in parts}
        self._next: dict[int, int] = {}

    def new_part(self, page: int, form: Literal["card", "text"]) -> Part:
        """A further part; stored with its key before anything is sent."""
        ordinal = max(self.parts, default=-1) + 1
        part = Part(self.reply, ordinal, page, form, self._desk.new_key())
        self.parts[ordinal] = part
        return part

    async def save(self, part: Part) -> Part:
        """Remember what became of a part."""
        await self._desk.store.save_part(part)
        self.parts[part.ordinal] = part
        return part

    async def create(self, part: Part, view: CardView, rank: Rank) -> Part:
        """Make the part's card; it is about to be sent.

        Raises: ContentRefused, Transient, Permanent.
        """
        await self._desk.gate.passage(Call("create"), rank)

        async def work() -> Part:
            card = await self._bounded(self._desk.chat.create_card(view))
            self._next[part.ordinal] = 1
            block = self._desk.settings.sequence_block
            return await self.save(
                replace(part, card=card, reserved=block, send_began=self._desk.now())
            )

        return await self._through("create", work)

    async def send(self, part: Part, rank: Rank, text: str | None = None) -> Part:
        """Show the part in the chat: its card, or a text. The part knows its message afterwards.

        A reply whose target is gone becomes a loose message. A send that is unsure and older than
        the platform remembers keys is looked up in the chat first.

        Raises: TargetGone (a loose one too), ChatGone, ContentRefused, Transient, Permanent.
        """
        while True:
            loose = part.key.endswith(_LOOSE)
            target = replace(self.target, reply_to="") if loose else self.target
            began = part.send_began
            if began is None:
                part = await self.save(replace(part, send_began=self._desk.now()))
            elif self._desk.now() - began > self._desk.settings.key_lives:
                found = await self._look_up(part, target, began, text)
                if found is not None:
                    self._desk.observe("found_again")
                    return await self.save(replace(part, message=found))
                part = await self.save(replace(part, send_began=self._desk.now()))
            try:
                return await self._send(part, target, rank, text)
            except TargetGone:
                if loose or not target.reply_to:
                    raise
                log.info("target is gone; sending a loose message", reply=self.reply)
                key = part.key + _LOOSE
                part = await self.save(replace(part, key=key, send_began=self._desk.now()))

    async def stream(
        self,
        part: Part,
        newest: Callable[[], tuple[CardField, str]],
        *,
        since: float,
        handicap: float = 0.0,
    ) -> tuple[Part, CardField, str]:
        """Set a field of the part's live card to what `newest` gives when its turn has come.

        `since`: when the card was last refreshed (loop time).

        Raises: StreamClosed, ContentRefused, Transient, Permanent.
        """
        card = _card_of(part)
        call = Call("stream", card=card)
        await self._desk.gate.passage(call, Rank.REFRESH, since=since, handicap=handicap)
        field, text = newest()
        part = await self._numbered(
            part, "stream", 1, lambda number: self._desk.chat.stream(card, field, text, number)
        )
        return part, field, text

    async def replace(self, part: Part, view: CardView, rank: Rank) -> Part:
        """Set the part's whole card.

        Raises: ContentRefused, Transient, Permanent.
        """
        card = _card_of(part)
        await self._desk.gate.passage(Call("replace", card=card, card_calls=2), rank)
        return await self._numbered(
            part, "replace", 2, lambda number: self._desk.chat.replace_card(card, view, number)
        )

    async def _send(self, part: Part, target: Target, rank: Rank, text: str | None) -> Part:
        await self._desk.gate.passage(Call("send", chat=target.place.chat_id), rank)

        async def work() -> Part:
            chat = self._desk.chat
            if text is None:
                sending = chat.send_card(target, _card_of(part), part.key)
            else:
                sending = chat.send_text(target, text, part.key)
            message = await self._bounded(sending)
            return await self.save(replace(part, message=message))

        return await self._through("send", work)

    async def _numbered(
        self,
        part: Part,
        api: Literal["stream", "replace"],
        count: int,
        call: Callable[[int], Awaitable[None]],
    ) -> Part:
        """Call with a sequence above all that were used, also before a restart."""
        for _ in range(_STALE_TRIES):
            part, number = await self._number(part, count)

            async def work(number: int = number) -> None:
                await self._bounded(call(number))

            try:
                await self._through(api, work)
            except SequenceStale:
                # Somebody used higher ones: go on far above what we know.
                log.warning("card sequence is stale", reply=self.reply, card=part.card, at=number)
                self._next[part.ordinal] = 2 * number + self._desk.settings.sequence_block
                continue
            return part
        raise Transient(f"the sequence of card {part.card} is stale again and again")

    async def _number(self, part: Part, count: int) -> tuple[Part, int]:
        number = self._next.get(part.ordinal, part.reserved + 1)
        last = number + count - 1
        if last > part.reserved:
            block = self._desk.settings.sequence_block
            part = await self.save(replace(part, reserved=last + block))
        self._next[part.ordinal] = last + 1
        return part, number

    async def _look_up(
        self, part: Part, target: Target, began: float, text: str | None
    ) -> MessageId | None:
        await self._desk.gate.passage(Call("list"), Rank.NOTICE)
        try:
            # A minute earlier: the platform's clock is not ours.
            sent = await self._bounded(self._desk.chat.sent_since(target, began - 60.0))
        except ChatGone:
            raise
        except Permanent as exc:
            # Without the scope to read the chat nobody can tell; twice is better than never.
            log.warning("can't look whether it was sent; sending", reply=self.reply, error=str(exc))
            return None
        others = (each for each in self.parts.values() if each.ordinal != part.ordinal)
        known = {each.message for each in others}
        for message in sent:
            if message.id in known or message.parent_id != target.reply_to:
                continue
            if text is None and message.kind == "interactive":
                return message.id
            if text is not None and message.kind == "text" and _same(message.text, text):
                return message.id
        return None

    async def _through(
        self, api: Literal["create", "send", "stream", "replace"], work: Callable[[], Awaitable[T]]
    ) -> T:
        try:
            return await to_the_end(work())
        except Transient as exc:
            # A chat's own limit is its matter; the others are limits of the app.
            if exc.retry_after is not None and api != "send":
                self._desk.gate.hold(api, min(exc.retry_after, 60.0))
            raise

    async def _bounded(self, call: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._desk.settings.call_timeout):
                return await call
        except TimeoutError as exc:
            raise Transient("the platform did not answer in time", unsure=True) from exc


def _card_of(part: Part) -> CardId:
    if part.card is None:
        raise ValueError(f"part {part.ordinal} of reply {part.reply} has no card")
    return part.card


def _same(shown: str, sent: str) -> bool:
    """True if the chat's text is what we sent: it may be trimmed, cut or made safe."""
    left, right = ("".join(each.replace("\u2060", "").split()) for each in (shown, sent))
    return left == right or (len(left) > 1000 and right.startswith(left.rstrip("…")))
