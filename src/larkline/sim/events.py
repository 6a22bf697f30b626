"""Bodies of the events that the platform pushes."""

from __future__ import annotations

import json
from typing import Any

from larkline.sim.world import TENANT_KEY, App, Chat, Message, User

Json = dict[str, Any]


def envelope(app: App, event_id: str, event_type: str, at: float, event: Json) -> bytes:
    """The pushed body, schema 2.0; `at` is Unix seconds."""
    header = {
        "event_id": event_id,
        "token": "",
        "create_time": str(int(at * 1000)),
        "event_type": event_type,
        "tenant_key": TENANT_KEY,
        "app_id": app.app_id,
    }
    body = {"schema": "2.0", "header": header, "event": event}
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def message_received(app: App, user: User, chat: Chat, message: Message) -> Json:
    """`im.message.receive_v1`."""
    body: Json = {
        "message_id": message.message_id,
        "create_time": str(int(message.created * 1000)),
        "update_time": str(int(message.updated * 1000)),
        "chat_id": chat.chat_id,
        "chat_type": chat.kind,
        "message_type": message.msg_type,
        "content": message.content,
        "user_agent": "",
    }
    for name in ("root_id", "parent_id", "thread_id"):
        if getattr(message, name):
            body[name] = getattr(message, name)
    if message.mentions:
        body["mentions"] = [mention_in_event(m, app) for m in message.mentions]
    return {
        "sender": {
            "sender_id": user.ids(app.app_id),
            "sender_type": "user",
            "tenant_key": TENANT_KEY,
        },
        "message": body,
    }


def mention_in_event(mention: Json, app: App) -> Json:
    """A mention as events show it; REST answers show another shape."""
    known = mention["of"]
    if isinstance(known, User):
        ids = known.ids(app.app_id)
    else:
        ids = {"open_id": known.open_id, "union_id": "", "user_id": ""}
    return {
        "key": mention["key"],
        "id": ids,
        "name": mention["name"],
        "tenant_key": TENANT_KEY,
    }


def recalled(chat: Chat, message: Message, at: float) -> Json:
    """`im.message.recalled_v1`."""
    return {
        "message_id": message.message_id,
        "chat_id": chat.chat_id,
        "recall_time": str(int(at * 1000)),
        "recall_type": "message_owner",
    }


def p2p_entered(app: App, user: User, chat: Chat, last: Message | None) -> Json:
    """`im.chat.access_event.bot_p2p_chat_entered_v1`."""
    event: Json = {"chat_id": chat.chat_id, "operator_id": user.ids(app.app_id)}
    if last is not None:
        event["last_message_id"] = last.message_id
        event["last_message_create_time"] = str(int(last.created * 1000))
    return event


def bot_added(app: App, user: User, chat: Chat) -> Json:
    """`im.chat.member.bot.added_v1`."""
    return {
        "chat_id": chat.chat_id,
        "operator_id": user.ids(app.app_id),
        "external": False,
        "operator_tenant_key": TENANT_KEY,
        "name": chat.name,
        "i18n_names": {"zh_cn": chat.name, "en_us": "", "ja_jp": ""},
    }


def card_clicked(app: App, user: User, message: Message, action: Json, token: str) -> Json:
    """`card.action.trigger`; `action["value"]` is an object or a plain string."""
    return {
        "operator": {
            "tenant_key": TENANT_KEY,
            "user_id": user.user_id,
            "open_id": user.open_id(app.app_id),
            "union_id": user.union_id,
        },
        "token": token,
        "action": action,
        "host": "im_message",
        "context": {"open_message_id": message.message_id, "open_chat_id": message.chat_id},
    }
