"""Statements of the turn queue."""

from __future__ import annotations

from sqlalchemy import (
    Select,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.sql.base import Executable

from larkline.stores.schema import attempts, conversations, messages, replies, turns, word
from larkline.stores.statement import Condition, statement

_QUEUED: Condition = turns.c.state == word("queued")
_RUNNING: Condition = turns.c.state == word("running")
_THIS_TURN: Condition = turns.c.id == bindparam("turn")


def _with_place() -> Select[tuple[object, ...]]:
    return select(
        turns,
        conversations.c.app_id,
        conversations.c.chat_id,
        conversations.c.thread_id,
        conversations.c.private,
        conversations.c.session,
    ).join(conversations, conversations.c.id == turns.c.conversation)


@statement
def standing() -> Executable:
    """What became of a message, and its first turn; no row if it is unknown."""
    first = select(func.min(turns.c.id)).where(turns.c.message_id == messages.c.id)
    return select(messages.c.standing, first.scalar_subquery().label("turn")).where(
        messages.c.id == bindparam("message")
    )


@statement
def know_conversation() -> Executable:
    """Stores a conversation, or notes that a known one was active."""
    fresh = upsert(conversations)
    return fresh.on_conflict_do_update(
        index_elements=[conversations.c.id],
        set_={"private": fresh.excluded.private, "last_active": fresh.excluded.last_active},
    )


@statement
def store_message() -> Executable:
    """Stores a message with its standing; a held one gets its new standing instead."""
    fresh = upsert(messages)
    return fresh.on_conflict_do_update(
        index_elements=[messages.c.id],
        set_={"standing": fresh.excluded.standing, "held": fresh.excluded.held},
    )


@statement
def occupancy() -> Executable:
    """Unfinished turns: queued in the conversation, queued in all, running in all."""
    count = select(func.count()).select_from(turns)
    here = count.where(_QUEUED, turns.c.conversation == bindparam("conversation"))
    return select(
        here.scalar_subquery().label("here"),
        count.where(_QUEUED).scalar_subquery().label("queued"),
        count.where(_RUNNING).scalar_subquery().label("running"),
    )


@statement
def counts() -> Executable:
    """Queued and running turns, from the indexes of unfinished turns alone."""
    count = select(func.count()).select_from(turns)
    return select(
        count.where(_QUEUED).scalar_subquery().label("queued"),
        count.where(_RUNNING).scalar_subquery().label("running"),
    )


@statement
def store_turn() -> Executable:
    """Stores a turn; fails if it copies one that was copied, or under a used key."""
    return insert(turns)


@statement
def copied() -> Executable:
    """A row if the turn was copied before, or the key was used for a copy."""
    return select(turns.c.id).where(
        or_(turns.c.copy_of == bindparam("turn"), turns.c.copy_key == bindparam("key"))
    )


@statement
def turn() -> Executable:
    """One turn with its place and session."""
    return _with_place().where(_THIS_TURN)


@statement
def next_turn() -> Executable:
    """The turn to start now; no row if there is none.

    The conversation is that of the turn stored first among conversations without a running turn.
    """
    first, busy, head = turns.alias("first"), turns.alias("busy"), turns.alias("head")
    running = exists().where(
        busy.c.state == word("running"), busy.c.conversation == first.c.conversation
    )
    conversation = (
        select(first.c.conversation)
        .where(first.c.state == word("queued"), ~running)
        .order_by(first.c.id)
        .limit(1)
    )
    chosen = (
        select(head.c.id)
        .where(
            head.c.state == word("queued"), head.c.conversation == conversation.scalar_subquery()
        )
        .order_by(head.c.message_created_at, head.c.message_id, head.c.id)
        .limit(1)
    )
    return _with_place().where(turns.c.id == chosen.scalar_subquery())


@statement
def claim() -> Executable:
    """Makes a turn running for an owner under a given epoch."""
    return (
        update(turns)
        .where(_THIS_TURN)
        .values(state=word("running"), epoch=bindparam("new_epoch"), owner=bindparam("new_owner"))
    )


@statement
def unclaim() -> Executable:
    """Puts a running turn back to the queue if the epoch is still its own."""
    return (
        update(turns)
        .where(_THIS_TURN, _RUNNING, turns.c.epoch == bindparam("its_epoch"))
        .values(state=word("queued"), owner=null())
    )


@statement
def store_attempt() -> Executable:
    """Stores that a try of a turn began."""
    return insert(attempts)


@statement
def attempt_number() -> Executable:
    """How often a turn was tried."""
    return select(func.count()).select_from(attempts).where(attempts.c.turn == bindparam("turn"))


@statement
def end_attempts() -> Executable:
    """Ends the tries of a turn that have no end yet."""
    return (
        update(attempts)
        .where(attempts.c.turn == bindparam("its_turn"), attempts.c.ended_at.is_(None))
        .values(ended_at=bindparam("now"), ending=bindparam("how"))
    )


@statement
def drop_attempt() -> Executable:
    """Forgets a try that never began."""
    return delete(attempts).where(
        attempts.c.turn == bindparam("turn"), attempts.c.epoch == bindparam("epoch")
    )


@statement
def end_turn() -> Executable:
    """Ends a running turn if the epoch is still its own; else changes no row."""
    return (
        update(turns)
        .where(_THIS_TURN, _RUNNING, turns.c.epoch == bindparam("its_epoch"))
        .values(
            state=word("ended"),
            ended_at=bindparam("now"),
            ending=bindparam("how"),
            detail=bindparam("new_detail"),
            usage=bindparam("new_usage"),
        )
    )


@statement
def ended_by() -> Executable:
    """A row if the turn was ended under this epoch."""
    return select(turns.c.id).where(
        _THIS_TURN, turns.c.state == word("ended"), turns.c.epoch == bindparam("epoch")
    )


@statement
def keep_session() -> Executable:
    """Sets a conversation's session; NULL forgets it."""
    return (
        update(conversations)
        .where(conversations.c.id == bindparam("conversation"))
        .values(session=bindparam("new_session"))
    )


@statement
def touch_conversation() -> Executable:
    """Notes that a conversation was active."""
    return (
        update(conversations)
        .where(conversations.c.id == bindparam("conversation"))
        .values(last_active=bindparam("now"))
    )


@statement
def running_elsewhere() -> Executable:
    """Running turns of other owners with the id of their reply, oldest first."""
    some = turns.alias("some")
    running = select(some.c.id).where(some.c.state == word("running"))
    return (
        _with_place()
        .add_columns(replies.c.id.label("reply"))
        .join(replies, replies.c.turn == turns.c.id)
        .where(turns.c.id.in_(running), turns.c.owner != bindparam("me"))
        .order_by(turns.c.id)
    )


@statement
def drop_turn() -> Executable:
    """Drops a turn if it is still queued; else changes no row."""
    return (
        update(turns)
        .where(_THIS_TURN, _QUEUED)
        .values(state=word("dropped"), ended_at=bindparam("now"))
    )


@statement
def mark_announced() -> Executable:
    """Marks a queued turn as announced; changes no row if it is not queued or was marked."""
    return update(turns).where(_THIS_TURN, _QUEUED, turns.c.announced == 0).values(announced=1)


@statement
def waiting() -> Executable:
    """Queued turns that were never announced, oldest first, each with the turns before it.

    Before it are the queued turns stored earlier in other conversations, those that come first in
    its own, and its own conversation's running turn.
    """
    other, busy = turns.alias("other"), turns.alias("busy")
    earlier_here = or_(
        other.c.message_created_at < turns.c.message_created_at,
        and_(
            other.c.message_created_at == turns.c.message_created_at,
            or_(
                other.c.message_id < turns.c.message_id,
                and_(other.c.message_id == turns.c.message_id, other.c.id < turns.c.id),
            ),
        ),
    )
    before = (
        select(func.count())
        .select_from(other)
        .where(
            other.c.state == word("queued"),
            case(
                (other.c.conversation == turns.c.conversation, earlier_here),
                else_=other.c.id < turns.c.id,
            ),
        )
        .scalar_subquery()
    )
    running = (
        select(func.count())
        .select_from(busy)
        .where(busy.c.state == word("running"), busy.c.conversation == turns.c.conversation)
        .scalar_subquery()
    )
    return (
        _with_place()
        .add_columns((before + running).label("ahead"))
        .where(_QUEUED, turns.c.announced == 0)
        .order_by(turns.c.id)
        .limit(bindparam("limit"))
    )
