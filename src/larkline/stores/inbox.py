"""What intake keeps besides turns, and what is known about conversations."""

from __future__ import annotations

import hashlib
import sqlite3

from sqlalchemy import bindparam, func, literal_column, select
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.sql.base import Executable

from larkline.domain.model import Conversation, ConversationId, Inbound, Malformed
from larkline.stores import rows
from larkline.stores.schema import conversations, messages, raw_events, word
from larkline.stores.statement import statement


@statement
def _keep_event() -> Executable:
    """Keeps an event's body unless its key is known."""
    return upsert(raw_events).on_conflict_do_nothing()


@statement
def _held_messages() -> Executable:
    """Held messages in the order they came."""
    return (
        select(messages.c.held)
        .where(messages.c.standing == word("held"))
        .order_by(messages.c.accepted_at, literal_column("messages.rowid"))
        .limit(bindparam("limit"))
    )


@statement
def _conversation() -> Executable:
    """One conversation."""
    return select(conversations).where(conversations.c.id == bindparam("conversation"))


@statement
def _conversation_count() -> Executable:
    """How many conversations are stored."""
    return select(func.count()).select_from(conversations)


def event_key(event: Malformed) -> str:
    """The event's id; events that have none are told apart by their bodies."""
    return event.event_id or "sha256:" + hashlib.sha256(event.body).hexdigest()


def keep(db: sqlite3.Connection, now: float, event: Malformed) -> None:
    """See `Inbox.keep`."""
    _keep_event(db, key=event_key(event), body=event.body, reason=event.reason, kept_at=now)


def held(db: sqlite3.Connection, limit: int) -> tuple[Inbound, ...]:
    """See `Inbox.held`."""
    return tuple(rows.inbound(row["held"]) for row in _held_messages(db, limit=limit))


def conversation(db: sqlite3.Connection, wanted: ConversationId) -> Conversation | None:
    """See `Conversations.conversation`."""
    row = _conversation(db, conversation=wanted).fetchone()
    return None if row is None else rows.conversation(row)


def conversation_count(db: sqlite3.Connection) -> int:
    """See `Conversations.conversation_count`."""
    count: int = _conversation_count(db).fetchone()[0]
    return count
