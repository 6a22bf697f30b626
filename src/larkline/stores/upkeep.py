"""Pruning in bounded steps, and the proof that writing works."""

from __future__ import annotations

import sqlite3

from sqlalchemy import bindparam, delete, or_, select
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.sql.base import Executable

from larkline.stores.schema import messages, pulse, raw_events, replies, turns, word
from larkline.stores.statement import statement

REDELIVERY = 8 * 3600.0
"""Seconds a message id is kept at least: the platform delivers again for more than seven hours."""


@statement
def _prune_turns() -> Executable:
    """Deletes turns that ended before a time and whose answer is delivered or given up."""
    undelivered = (
        select(replies.c.id)
        .where(
            replies.c.turn == turns.c.id,
            or_(replies.c.state == word("open"), replies.c.state == word("due")),
        )
        .exists()
    )
    chosen = (
        select(turns.c.id)
        .where(turns.c.ended_at < bindparam("before"), ~undelivered)
        .limit(bindparam("limit"))
    )
    return delete(turns).where(turns.c.id.in_(chosen))


@statement
def _prune_messages() -> Executable:
    """Deletes messages that came before a time, are judged, and have no turn left."""
    with_turn = select(turns.c.id).where(turns.c.message_id == messages.c.id).exists()
    chosen = (
        select(messages.c.id)
        .where(
            messages.c.accepted_at < bindparam("before"),
            messages.c.standing != word("held"),
            ~with_turn,
        )
        .limit(bindparam("limit"))
    )
    return delete(messages).where(messages.c.id.in_(chosen))


@statement
def _prune_notices() -> Executable:
    """Deletes notices that were delivered or given up before a time."""
    chosen = (
        select(replies.c.id)
        .where(replies.c.settled_at < bindparam("before"), replies.c.turn.is_(None))
        .limit(bindparam("limit"))
    )
    return delete(replies).where(replies.c.id.in_(chosen))


@statement
def _prune_raw_events() -> Executable:
    """Deletes events that were kept before a time."""
    chosen = (
        select(raw_events.c.key)
        .where(raw_events.c.kept_at < bindparam("before"))
        .limit(bindparam("limit"))
    )
    return delete(raw_events).where(raw_events.c.key.in_(chosen))


@statement
def _beat() -> Executable:
    """Writes the one row of the pulse."""
    fresh = upsert(pulse)
    return fresh.on_conflict_do_update(
        index_elements=[pulse.c.id], set_={"beat_at": fresh.excluded.beat_at}
    )


# Turns go before the messages they came from.
_BY_MESSAGE_AGE = {
    "turns": _prune_turns,
    "messages": _prune_messages,
    "replies": _prune_notices,
    "raw_events": _prune_raw_events,
}
TABLES = tuple(_BY_MESSAGE_AGE)


def prune(db: sqlite3.Connection, table: str, before: float, limit: int) -> int:
    """Delete at most `limit` old rows of one of `TABLES`; how many it were."""
    return _BY_MESSAGE_AGE[table](db, before=before, limit=limit).rowcount


def beat(db: sqlite3.Connection, now: float) -> None:
    """Write something."""
    _beat(db, id=1, beat_at=now)
