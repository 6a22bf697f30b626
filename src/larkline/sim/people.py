"""What people do on the simulated platform: write, reply, recall, click, open chats."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from typing import Any, Literal

from larkline.sim import events
from larkline.sim.card_schema import check_card, elements_of
from larkline.sim.cards import Cards
from larkline.sim.clock import SimClock
from larkline.sim.deliveries import ACK_SECONDS, Deliveries, Delivery
from larkline.sim.refusal import Refusal
from larkline.sim.variants import Variants
from larkline.sim.world import App, Chat, Json, Message, User, World

RECEIVED = "im.message.receive_v1"
RECALLED = "im.message.recalled_v1"
ENTERED = "im.chat.access_event.bot_p2p_chat_entered_v1"
ADDED = "im.chat.member.bot.added_v1"
CLICKED = "card.action.trigger"


@dataclass(frozen=True, slots=True)
class Sent:
    """A message of a user, and its event (None when no app hears of it)."""

    message: Message
    delivery: Delivery | None


@dataclass(frozen=True, slots=True)
class Click:
    """How a click went; `code` 0, 200340 (no answer), 200671 (error) or 200672 (bad answer)."""

    code: int
    toast: Json | None
    card_updated: bool
    delivery: Delivery


class People:
    """Acts as any user. Users, chats and messages may be named by object or id."""

    def __init__(
        self,
        world: World,
        clock: SimClock,
        cards: Cards,
        deliveries: Deliveries,
        variants: Variants,
    ) -> None:
        self._world = world
        self._clock = clock
        self._cards = cards
        self._deliveries = deliveries
        self._variants = variants

    def send(
        self,
        user: User | str,
        text: str,
        *,
        chat: Chat | str | None = None,
        app: App | str | None = None,
        mention: bool = False,
        reply_to: Message | str | None = None,
        in_thread: bool = False,
    ) -> Sent:
        """Write a text, to the bot's private chat unless `chat` says otherwise.

        `mention` puts the bot's name in front. Raises KeyError for unknown ids.
        """
        person, where, bot = self._who(user), self._where(user, chat, app), self._bot(chat, app)
        mentions: list[Json] = []
        if mention:
            mentions = [{"key": "@_user_1", "name": bot.name, "of": bot}]
            text = f"@_user_1 {text}"
        content = json.dumps({"text": text}, ensure_ascii=False)
        return self.send_raw(
            person,
            "text",
            content,
            chat=where,
            mentions=mentions,
            reply_to=reply_to,
            in_thread=in_thread,
        )

    def send_raw(
        self,
        user: User | str,
        msg_type: str,
        content: str | Json,
        *,
        chat: Chat | str | None = None,
        app: App | str | None = None,
        mentions: list[Json] | None = None,
        reply_to: Message | str | None = None,
        in_thread: bool = False,
    ) -> Sent:
        """Write a message of any type with any content, well-formed or not."""
        person, where = self._who(user), self._where(user, chat, app)
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        parent = self._message(reply_to) if reply_to is not None else None
        message = self._world.post(
            where,
            "user",
            person.user_id,
            msg_type,
            text,
            parent=parent,
            in_thread=in_thread,
            mentions=mentions,
        )
        delivery = None
        for app_id in sorted(where.apps):
            known = self._world.apps[app_id]
            if self._hears(known, where, message):
                body = events.message_received(known, person, where, message)
                delivery = self._deliveries.submit(
                    known, RECEIVED, body, subject=message.message_id
                )
        return Sent(message, delivery)

    def upload(self, data: bytes, *, kind: Literal["image", "file"] = "file") -> str:
        """Put a file on the platform; returns the key to use in a message's content."""
        key = f"{'img' if kind == 'image' else 'file'}_v3_{secrets.token_hex(16)}"
        self._world.files[key] = data
        return key

    def recall(self, message: Message | str) -> list[Delivery]:
        """Take a message back."""
        found = self._message(message)
        found.deleted = True
        found.updated = self._clock.now()
        self._world.changed("message", found.message_id)
        chat = self._world.chats[found.chat_id]
        body = events.recalled(chat, found, self._clock.now())
        return [
            self._deliveries.submit(
                self._world.apps[app_id], RECALLED, body, subject=found.message_id
            )
            for app_id in sorted(chat.apps)
        ]

    def enter(self, user: User | str, app: App | str | None = None) -> Delivery:
        """Open the private chat with a bot."""
        person, bot = self._who(user), self._bot(None, app)
        chat = self._world.p2p(person.user_id, bot.app_id)
        messages = self._world.in_chat(chat.chat_id)
        body = events.p2p_entered(bot, person, chat, messages[-1] if messages else None)
        return self._deliveries.submit(bot, ENTERED, body, subject=chat.chat_id)

    def add_bot(self, user: User | str, chat: Chat | str, app: App | str | None = None) -> Delivery:
        """Take a bot into a group."""
        person, bot = self._who(user), self._bot(None, app)
        where = self._where(user, chat, None)
        where.apps.add(bot.app_id)
        self._world.changed("world", where.chat_id)
        body = events.bot_added(bot, person, where)
        return self._deliveries.submit(bot, ADDED, body, subject=where.chat_id)

    async def click(
        self,
        user: User | str,
        message: Message | str,
        *,
        element_id: str | None = None,
        value: Any = None,
        label: str | None = None,
        form_value: Json | None = None,
    ) -> Click:
        """Press a button: the one with that id or label, or any with this `value`.

        Waits for the app's answer, at most three seconds of the platform's clock.
        Raises LookupError when there is no such button.
        """
        person, found = self._who(user), self._message(message)
        app = self._world.apps[found.sender]
        action: Json = {"tag": "button", "timezone": "Asia/Shanghai", "name": ""}
        if value is None:
            button = self._button(found, element_id, label)
            action["value"] = _button_value(button)
            action["name"] = button.get("name", "")
        else:
            action["value"] = value
        if form_value is not None:
            action["form_value"] = form_value
        token = "c-" + secrets.token_hex(20)
        body = events.card_clicked(app, person, found, action, token)
        delivery = self._deliveries.submit(
            app, CLICKED, body, subject=found.message_id, retry=self._variants.retry_clicks
        )
        await delivery.first_answer.wait()
        return self._outcome(found, delivery)

    def card_of(self, message: Message | str) -> Json | None:
        """The card that a message shows now."""
        found = self._message(message)
        if found.card_id:
            return self._cards.all[found.card_id].body
        return found.card

    def _outcome(self, message: Message, delivery: Delivery) -> Click:
        push = delivery.pushes[-1] if delivery.pushes else None
        if push is None or push.acked_at is None or push.acked_at - push.at > ACK_SECONDS:
            return Click(200340, None, False, delivery)
        if push.code != 200:
            return Click(200671, None, False, delivery)
        answer = push.answer or {}
        toast, card = answer.get("toast"), answer.get("card")
        if (
            push.bad_answer
            or not isinstance(toast, dict | None)
            or not isinstance(card, dict | None)
        ):
            return Click(200672, None, False, delivery)
        updated = False
        if card:
            try:
                updated = self._show(message, card)
            except Refusal:
                return Click(200672, None, False, delivery)
        return Click(0, toast or None, updated, delivery)

    def _show(self, message: Message, card: Json) -> bool:
        """Apply the card of a click's answer; a streaming card is not changed."""
        data = card.get("data")
        if card.get("type") != "raw" or not isinstance(data, dict):
            raise Refusal(200672, "bad body")
        check_card(data)
        entity = self._cards.all.get(message.card_id)
        if entity is not None:
            if entity.streaming:
                return False
            self._cards.replace(entity, json.dumps(data))
            self._cards.commit(entity, "click", entity.sequence, None)
        else:
            message.card = data
        self._world.changed("message", message.message_id)
        return True

    def _button(self, message: Message, element_id: str | None, label: str | None) -> Json:
        card = self.card_of(message)
        for element in elements_of(card["body"]) if card else ():
            if element["tag"] != "button":
                continue
            said = element.get("text", {}).get("content")
            if element_id is not None and element.get("element_id") == element_id:
                return element
            if label is not None and said == label:
                return element
        raise LookupError(f"no button {element_id or label!r} on {message.message_id}")

    def _hears(self, app: App, chat: Chat, message: Message) -> bool:
        """A bot hears every private message; in groups what its scopes let it hear."""
        if chat.kind == "p2p":
            return "im:message.p2p_msg:readonly" in app.scopes or "im:message" in app.scopes
        if "im:message.group_msg" in app.scopes:
            return True
        return any(m["of"] is app for m in message.mentions)

    def _who(self, user: User | str) -> User:
        return user if isinstance(user, User) else self._world.users[user]

    def _message(self, message: Message | str) -> Message:
        return message if isinstance(message, Message) else self._world.messages[message]

    def _bot(self, chat: Chat | str | None, app: App | str | None) -> App:
        if isinstance(app, App):
            return app
        if app is not None:
            return self._world.apps[app]
        if chat is not None:
            where = chat if isinstance(chat, Chat) else self._world.chats[chat]
            if where.apps:
                return self._world.apps[sorted(where.apps)[0]]
        return next(iter(self._world.apps.values()))

    def _where(self, user: User | str, chat: Chat | str | None, app: App | str | None) -> Chat:
        if isinstance(chat, Chat):
            return chat
        if chat is not None:
            return self._world.chats[chat]
        return self._world.p2p(self._who(user).user_id, self._bot(None, app).app_id)


def _button_value(button: Json) -> Any:
    """What a click on this button sends."""
    for behavior in button.get("behaviors", ()):
        if behavior.get("type") == "callback":
            return behavior.get("value", {})
    return button.get("value", {})
