"""The transactions of notices and deliveries."""

from __future__ import annotations

import sqlite3

from larkline.domain.model import Final, NewNotice, Part, Reply, ReplyId
from larkline.stores import reply_rows, rows


def notify(db: sqlite3.Connection, now: float, notice: NewNotice) -> bool:
    """See `Inbox.notify`."""
    if notice.once is not None and not (
        reply_rows.use_notice_key(db, key=notice.once, used_at=now).rowcount
    ):
        return False
    place = notice.target.place
    reply_rows.store_reply(
        db,
        conversation=place.conversation,
        app_id=place.app_id,
        chat_id=place.chat_id,
        thread_id=place.thread_id,
        reply_to=notice.target.reply_to,
        state="due",
        final=rows.pack_final(Final(notice.text, as_card=False)),
        created_at=now,
        due_at=now,
        due_order=reply_rows.next_due_order(db).fetchone()[0],
        attempts=0,
    )
    return True


def due(db: sqlite3.Connection, now: float, limit: int) -> tuple[Reply, ...]:
    """See `Deliveries.due`."""
    found = reply_rows.due(db, now=now, limit=limit).fetchall()
    return tuple(_reply(db, row) for row in found)


def next_due(db: sqlite3.Connection, now: float) -> float | None:
    """See `Deliveries.next_due`."""
    earliest: float | None = reply_rows.next_due(db, now=now).fetchone()[0]
    return earliest


def live(db: sqlite3.Connection, reply: ReplyId) -> Reply | None:
    """See `Deliveries.live`."""
    row = reply_rows.open_reply(db, reply=reply).fetchone()
    return None if row is None else _reply(db, row)


def _reply(db: sqlite3.Connection, row: sqlite3.Row) -> Reply:
    return rows.reply(row, reply_rows.parts_of(db, reply=row["id"]).fetchall())


def save_part(db: sqlite3.Connection, part: Part) -> None:
    """See `Deliveries.save_part`."""
    reply_rows.save_part(
        db,
        reply=part.reply,
        ordinal=part.ordinal,
        page=part.page,
        form=part.form,
        key=part.key,
        card=part.card,
        message=part.message,
        reserved=part.reserved,
        send_began=part.send_began,
        state=part.state,
    )


def delivered(db: sqlite3.Connection, now: float, reply: ReplyId) -> None:
    """See `Deliveries.delivered`."""
    reply_rows.settle_reply(db, reply=reply, new_state="sent", now=now, why=None)


def postpone(db: sqlite3.Connection, reply: ReplyId, until: float, error: str) -> None:
    """See `Deliveries.postpone`."""
    reply_rows.postpone_reply(db, reply=reply, until=until, why=error)


def give_up(db: sqlite3.Connection, now: float, reply: ReplyId, error: str) -> None:
    """See `Deliveries.give_up`."""
    reply_rows.settle_reply(db, reply=reply, new_state="failed", now=now, why=error)
