"""Statements of replies and their parts."""

from __future__ import annotations

from sqlalchemy import bindparam, delete, exists, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.sql.base import Executable

from larkline.stores.schema import notice_keys, parts, replies, word
from larkline.stores.statement import Condition, statement

_DUE: Condition = replies.c.state == word("due")
_THIS_REPLY: Condition = replies.c.id == bindparam("reply")


@statement
def store_reply() -> Executable:
    """Stores a reply."""
    return insert(replies)


@statement
def store_part() -> Executable:
    """Stores a part of a reply."""
    return insert(parts)


@statement
def next_due_order() -> Executable:
    """A number above those of all replies that were ever due and not pruned."""
    return select(func.coalesce(func.max(replies.c.due_order), 0) + 1)


@statement
def use_notice_key() -> Executable:
    """Takes a key; changes no row if it was taken before."""
    return upsert(notice_keys).on_conflict_do_nothing()


@statement
def drop_reply() -> Executable:
    """Forgets an open reply with its parts."""
    return delete(replies).where(
        replies.c.turn == bindparam("turn"), replies.c.state == word("open")
    )


@statement
def make_due() -> Executable:
    """Gives an open reply its final text and makes it due."""
    return (
        update(replies)
        .where(replies.c.turn == bindparam("its_turn"), replies.c.state == word("open"))
        .values(
            state=word("due"),
            final=bindparam("new_final"),
            due_at=bindparam("now"),
            due_order=bindparam("order"),
        )
    )


@statement
def due() -> Executable:
    """The oldest undelivered reply of each conversation whose time has come.

    Turns' answers first, then notices; by age.
    """
    one, older = replies.alias("one"), replies.alias("older")
    blocked = exists().where(
        older.c.state == word("due"),
        older.c.conversation == one.c.conversation,
        older.c.due_order < one.c.due_order,
    )
    chosen = (
        select(one.c.id)
        .where(
            one.c.state == word("due"),
            func.coalesce(one.c.next_at, bindparam("now")) <= bindparam("now"),
            ~blocked,
        )
        .order_by(one.c.turn.is_(None), one.c.due_order)
        .limit(bindparam("limit"))
    )
    return (
        select(replies)
        .where(replies.c.id.in_(chosen))
        .order_by(replies.c.turn.is_(None), replies.c.due_order)
    )


@statement
def next_due() -> Executable:
    """The earliest time of a postponed reply that lies ahead; NULL if there is none."""
    return select(func.min(replies.c.next_at)).where(_DUE, replies.c.next_at > bindparam("now"))


@statement
def open_reply() -> Executable:
    """A reply whose turn still runs; no row otherwise."""
    return select(replies).where(_THIS_REPLY, replies.c.state == word("open"))


@statement
def parts_of() -> Executable:
    """The parts of a reply in their order."""
    return select(parts).where(parts.c.reply == bindparam("reply")).order_by(parts.c.ordinal)


@statement
def save_part() -> Executable:
    """Stores a part, or what changed of it."""
    fresh = upsert(parts)
    changing = ("page", "form", "key", "card", "message", "reserved", "send_began", "state")
    return fresh.on_conflict_do_update(
        index_elements=[parts.c.reply, parts.c.ordinal],
        set_={name: fresh.excluded[name] for name in changing},
    )


@statement
def settle_reply() -> Executable:
    """Ends a due reply as sent or failed; changes no row that is not due."""
    return (
        update(replies)
        .where(_THIS_REPLY, _DUE)
        .values(
            state=bindparam("new_state"),
            settled_at=bindparam("now"),
            error=func.coalesce(bindparam("why", type_=replies.c.error.type), replies.c.error),
        )
    )


@statement
def postpone_reply() -> Executable:
    """Sets when a due reply is tried again and counts the attempt."""
    return (
        update(replies)
        .where(_THIS_REPLY, _DUE)
        .values(next_at=bindparam("until"), error=bindparam("why"), attempts=replies.c.attempts + 1)
    )
