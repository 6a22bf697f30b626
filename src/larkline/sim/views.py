"""What the chat page and the control API show of chats, messages and cards, as JSON."""

from __future__ import annotations

import json
from typing import Any

from larkline.sim.card_schema import elements_of
from larkline.sim.cards import Card, Cards
from larkline.sim.world import Chat, Json, Message, World


class Views:
    """Reads the world; changes nothing."""

    def __init__(self, world: World, cards: Cards) -> None:
        self._world = world
        self._cards = cards

    def world(self) -> Json:
        """Users, apps and chats."""
        users = [{"id": u.user_id, "name": u.name} for u in self._world.users.values()]
        apps = [{"id": a.app_id, "name": a.name} for a in self._world.apps.values()]
        chats = [self.chat(c) for c in self._world.chats.values()]
        return {"users": users, "apps": apps, "chats": chats}

    def chat(self, chat: Chat) -> Json:
        """One chat, with its newest message."""
        messages = self._world.in_chat(chat.chat_id)
        return {
            "id": chat.chat_id,
            "kind": chat.kind,
            "name": chat.name,
            "users": sorted(chat.users),
            "apps": sorted(chat.apps),
            "last": self.message(messages[-1]) if messages else None,
        }

    def message(self, message: Message) -> Json:
        """One message as a reader sees it."""
        card = self._cards.all.get(message.card_id)
        app = self._world.apps.get(message.sender)
        user = self._world.users.get(message.sender)
        return {
            "id": message.message_id,
            "chat": message.chat_id,
            "number": message.number,
            "by": message.sender_kind,
            "sender": message.sender,
            "sender_name": app.name if app else user.name if user else message.sender,
            "type": message.msg_type,
            "content": "" if message.deleted else message.content,
            "card": None if message.deleted else (card.body if card else message.card),
            "card_id": message.card_id,
            "streaming": bool(card and card.streaming),
            "created": message.created,
            "edited": message.edits > 0,
            "root": message.root_id,
            "parent": message.parent_id,
            "thread": message.thread_id,
            "deleted": message.deleted,
            "reactions": [emoji for _, emoji in message.reactions.values()],
            "mentions": [{"key": m["key"], "name": m["name"]} for m in message.mentions],
        }

    def card(self, card: Card) -> Json:
        """A card entity with its history."""
        return {
            "id": card.card_id,
            "message": card.message_id,
            "sequence": card.sequence,
            "streaming": card.streaming,
            "body": card.body,
            "revisions": [
                {
                    "at": r.at,
                    "via": r.via,
                    "sequence": r.sequence,
                    "text": r.text,
                    "streaming": r.streaming,
                }
                for r in card.revisions
            ],
        }

    def text(self, message: Message) -> str:
        """A card's Markdown, a text's text, else the raw content."""
        card = self._cards.all.get(message.card_id)
        if card is not None:
            return card.text()
        if message.card is not None:
            parts = (e.get("content", "") for e in elements_of(message.card.get("body")))
            return "\n".join(p for p in parts if isinstance(p, str) and p)
        return _text_of(message.content)


def _text_of(content: str) -> str:
    try:
        body: Any = json.loads(content)
    except ValueError:
        return content
    text = body.get("text") if isinstance(body, dict) else None
    return text if isinstance(text, str) else content
