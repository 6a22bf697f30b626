"""Domain values from table rows and JSON columns, and back."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from larkline.domain.model import (
    Button,
    CardId,
    Conversation,
    ConversationId,
    Final,
    Inbound,
    Mention,
    MessageId,
    Part,
    Place,
    Reply,
    ReplyId,
    SessionId,
    Target,
    Turn,
    TurnId,
    TurnKind,
    Usage,
    UserId,
)

UNWRITTEN = Final(text="")
"""The final of a reply that is still open."""


def pack(value: object) -> str:
    """JSON text that UTF-8 can carry and that reads back as the very same value."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":"))
    return text


def pack_final(final: Final) -> str:
    """A final as JSON."""
    buttons = [{"label": each.label, "value": dict(each.value)} for each in final.buttons]
    return pack(
        {"text": final.text, "status": final.status, "buttons": buttons, "as_card": final.as_card}
    )


def _final(text: str | None) -> Final:
    if text is None:
        return UNWRITTEN
    data: dict[str, Any] = json.loads(text)
    buttons = tuple(Button(each["label"], each["value"]) for each in data["buttons"])
    return Final(data["text"], data["status"], buttons, data["as_card"])


def pack_usage(usage: Usage) -> str:
    """Token counts and cost as JSON."""
    return pack(asdict(usage))


def pack_inbound(message: Inbound) -> str:
    """A whole message as JSON."""
    return pack(asdict(message))


def inbound(text: str) -> Inbound:
    """The message that `pack_inbound` packed."""
    data: dict[str, Any] = json.loads(text)
    data["place"] = Place(**data["place"])
    data["mentions"] = tuple(Mention(**each) for each in data["mentions"])
    return Inbound(**data)


def place(row: sqlite3.Row) -> Place:
    """The place in a row that has its three columns."""
    return Place(row["app_id"], row["chat_id"], row["thread_id"])


def turn(row: sqlite3.Row) -> Turn:
    """A turn from its row joined with its conversation's."""
    return Turn(
        id=TurnId(row["id"]),
        conversation=ConversationId(row["conversation"]),
        place=place(row),
        private=bool(row["private"]),
        message_id=MessageId(row["message_id"]),
        sender=UserId(row["sender"]),
        kind=TurnKind(row["kind"]),
        prompt=row["prompt"],
        accepted_at=row["accepted_at"],
    )


def session(row: sqlite3.Row) -> SessionId | None:
    """The session in a row; None if there is none."""
    value = row["session"]
    return None if value is None else SessionId(value)


def conversation(row: sqlite3.Row) -> Conversation:
    """A conversation from its row."""
    return Conversation(
        id=ConversationId(row["id"]),
        place=place(row),
        private=bool(row["private"]),
        session=session(row),
        last_active=row["last_active"],
    )


def part(row: sqlite3.Row) -> Part:
    """A part from its row."""
    return Part(
        reply=ReplyId(row["reply"]),
        ordinal=row["ordinal"],
        page=row["page"],
        form=row["form"],
        key=row["key"],
        card=None if row["card"] is None else CardId(row["card"]),
        message=None if row["message"] is None else MessageId(row["message"]),
        reserved=row["reserved"],
        send_began=row["send_began"],
        state=row["state"],
    )


def reply(row: sqlite3.Row, parts: Sequence[sqlite3.Row]) -> Reply:
    """A reply from its row and its parts' rows."""
    return Reply(
        id=ReplyId(row["id"]),
        conversation=ConversationId(row["conversation"]),
        target=Target(place(row), row["reply_to"]),
        turn=None if row["turn"] is None else TurnId(row["turn"]),
        final=_final(row["final"]),
        parts=tuple(part(each) for each in parts),
        attempts=row["attempts"],
        due_at=row["created_at"] if row["due_at"] is None else row["due_at"],
    )


def entry(text: str) -> dict[str, object]:
    """A transcript entry from its JSON."""
    data: dict[str, object] = json.loads(text)
    return data


def entry_uuid(value: Mapping[str, object]) -> str | None:
    """An entry's own id; None if it has none."""
    found = value.get("uuid")
    return found if isinstance(found, str) and found else None
