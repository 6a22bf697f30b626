"""Feishu and Lark as a `Chat`: the long connection for what comes in, REST for what goes out."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import aiohttp
import structlog

from larkline.chats.feishu.api import (
    Api,
    Identity,
    Observe,
    message_time,
    unobserved,
)
from larkline.chats.feishu.cards import ELEMENT, card_json, field_content, pages, safe_text
from larkline.chats.feishu.codec import Ourselves, decode_event
from larkline.chats.feishu.http import json_object, open_session
from larkline.chats.feishu.reconnect import Cadence, next_delay
from larkline.chats.feishu.settings import FeishuSettings
from larkline.chats.feishu.websocket import LongConnection
from larkline.domain.errors import ContentRefused, Permanent, StreamClosed, Transient
from larkline.domain.model import (
    CardId,
    CardView,
    Click,
    Connection,
    Malformed,
    MessageId,
    SentMessage,
    Target,
    Uninteresting,
    UserId,
)
from larkline.ports import CardField, Receive

log = structlog.get_logger()

MAX_TEXT_BYTES = 140_000
"""The platform takes 150 KB for a text message, counted with the request around it."""
MAX_UUID_CHARS = 50


class FeishuChat:
    """One app on Feishu or Lark; an async context manager that owns its HTTP session.

    Enter it before any other use. `observe` is told of every REST exchange.
    """

    def __init__(
        self,
        settings: FeishuSettings,
        *,
        observe: Observe = unobserved,
        now: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._observe = observe
        self._now = now
        self._chance = chance
        self._bot: UserId | None = None
        self._identified = asyncio.Event()
        self._session: aiohttp.ClientSession | None = None
        self._connection: LongConnection | None = None
        self._api: Api | None = None

    async def __aenter__(self) -> FeishuChat:
        self._session = open_session(self._settings.bounds.call)
        self._api = Api(self._settings, self._session, self._observe)
        self._connection = LongConnection(self._settings, self._session, self._chance)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()
        self._session = self._api = self._connection = None

    @property
    def api(self) -> Api:
        """The REST calls, for what is not part of `Chat` (scopes, identity)."""
        if self._api is None:
            raise RuntimeError("FeishuChat is used outside of its async with block")
        return self._api

    async def run(self, receive: Receive) -> None:
        """See `Chat.run`. Learns the bot's own id beside it, for as long as that takes."""
        connection = self._connection
        if connection is None:
            raise RuntimeError("FeishuChat is used outside of its async with block")

        async def handle(body: bytes) -> Mapping[str, object] | None:
            return await self._handle(body, receive)

        async with asyncio.TaskGroup() as group:
            group.create_task(self._learn_identity(), name="feishu identity")
            await connection.run(handle)

    async def connected(self) -> None:
        """Return once the platform answers on an open connection."""
        if self._connection is None:
            raise RuntimeError("FeishuChat is used outside of its async with block")
        await self._connection.up()

    async def identified(self) -> None:
        """Return once the bot's own id is known; `connection().bot` has it then."""
        await self._identified.wait()

    def connection(self) -> Connection:
        """See `Chat.connection`."""
        if self._connection is None:
            return Connection(connected=False, reason="not started", bot=self._bot)
        return Connection(
            connected=self._connection.connected,
            reason=self._connection.reason,
            bot=self._bot,
            reconnects=self._connection.reconnects,
        )

    def pages(self, text: str) -> tuple[str, ...]:
        """See `Chat.pages`."""
        return pages(text)

    async def create_card(self, view: CardView) -> CardId:
        """See `Chat.create_card`."""
        return CardId(await self.api.create_card(_card(view)))

    async def send_card(self, target: Target, card: CardId, key: str) -> MessageId:
        """See `Chat.send_card`."""
        content = json.dumps({"type": "card", "data": {"card_id": card}})
        return await self._send(target, "interactive", content, key)

    async def stream(self, card: CardId, field: CardField, text: str, sequence: int) -> None:
        """See `Chat.stream`."""
        await self.api.set_content(card, ELEMENT[field], field_content(text, field), sequence)

    async def replace_card(self, card: CardId, view: CardView, sequence: int) -> None:
        """See `Chat.replace_card`."""
        await self.api.update_card(card, _card(view), sequence)
        if view.live:
            return
        try:
            await self.api.set_streaming(card, False, sequence + 1)
        except StreamClosed:
            log.debug("card had stopped streaming already", card=card)

    async def send_text(self, target: Target, text: str, key: str) -> MessageId:
        """See `Chat.send_text`."""
        return await self._send(target, "text", text_content(text), key)

    async def sent_since(self, target: Target, since: float) -> tuple[SentMessage, ...]:
        """See `Chat.sent_since`."""
        place = target.place
        items = await self.api.messages(
            place.thread_id or place.chat_id, thread=bool(place.thread_id), since=since
        )
        ours = (item for item in reversed(items) if self._is_ours(item))
        return tuple(_sent(item) for item in ours if item.get("message_id"))

    async def _send(self, target: Target, kind: str, content: str, key: str) -> MessageId:
        uuid = key if len(key) <= MAX_UUID_CHARS else hashlib.sha256(key.encode()).hexdigest()[:50]
        if target.reply_to:
            in_thread = bool(target.place.thread_id)
            sent = await self.api.reply(target.reply_to, kind, content, uuid, in_thread=in_thread)
        else:
            sent = await self.api.create_message(target.place.chat_id, kind, content, uuid)
        return MessageId(sent)

    async def _handle(self, body: bytes, receive: Receive) -> Mapping[str, object] | None:
        event = decode_event(body, Ourselves(self._settings.app_id, self._bot), self._now())
        if isinstance(event, Uninteresting):
            log.debug("event needs nothing", event_type=event.event_type)
        elif isinstance(event, Malformed):
            log.warning("malformed event", event_id=event.event_id, reason=event.reason)
        bounds = self._settings.bounds
        clicked = isinstance(event, Click)
        async with asyncio.timeout(bounds.click if clicked else bounds.event):
            toast = await receive(event)
        if toast is not None:
            return {"toast": {"type": toast.kind, "content": toast.text}}
        return {} if clicked else None

    async def _learn_identity(self) -> None:
        failures = 0
        while True:
            try:
                identity: Identity = await self.api.identity()
            except (Transient, Permanent) as exc:
                failures += 1
                delay = next_delay(failures, Cadence(), self._settings.bounds, self._chance())
                log.warning("bot id not known yet", error=str(exc), next_try=round(delay, 1))
                await asyncio.sleep(delay)
                continue
            self._bot = UserId(identity.open_id)
            self._identified.set()
            log.info("bot id known", bot=identity.open_id)
            return

    def _is_ours(self, item: Mapping[str, Any]) -> bool:
        sender = item.get("sender")
        who = sender.get("id") if isinstance(sender, dict) else None
        return isinstance(who, str) and who in (self._settings.app_id, self._bot)


def text_content(text: str) -> str:
    """A text message's content, cut to the platform's limit; never empty, and calls nobody."""
    safe = safe_text(text).strip() or "…"
    content = json.dumps({"text": safe}, ensure_ascii=False)
    if len(content.encode()) <= MAX_TEXT_BYTES:
        return content
    # The longest beginning that fits; escapes make the length of a character vary.
    low, high = 0, len(safe)
    while low < high:
        middle = (low + high + 1) // 2
        cut = json.dumps({"text": safe[:middle] + "…"}, ensure_ascii=False)
        low, high = (middle, high) if len(cut.encode()) <= MAX_TEXT_BYTES else (low, middle - 1)
    return json.dumps({"text": safe[:low] + "…"}, ensure_ascii=False)


def _card(view: CardView) -> Mapping[str, object]:
    try:
        return card_json(view)
    except ValueError as exc:
        raise ContentRefused(f"a card that cannot be made: {exc}") from exc


def _sent(item: Mapping[str, Any]) -> SentMessage:
    kind, body, parent = item.get("msg_type"), item.get("body"), item.get("parent_id")
    text = ""
    if kind == "text" and isinstance(body, dict) and isinstance(body.get("content"), str):
        content = json_object(body["content"].encode("utf-8", "replace")) or {}
        found = content.get("text")
        text = found if isinstance(found, str) else ""
    return SentMessage(
        id=MessageId(str(item["message_id"])),
        parent_id=parent if isinstance(parent, str) else "",
        kind=kind if isinstance(kind, str) else "",
        text=text,
        created_at=message_time(item),
    )
