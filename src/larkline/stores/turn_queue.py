"""The transactions of the turn queue. Each function runs inside one transaction of the writer."""

from __future__ import annotations

import sqlite3
import uuid

from larkline.domain.model import (
    Accepted,
    Again,
    Claim,
    Copied,
    Inbound,
    NewNotice,
    Outcome,
    QueueCounts,
    QueueLimits,
    ReplyId,
    Standing,
    Turn,
    TurnId,
    Verdict,
    Waiting,
)
from larkline.stores import reply_rows, rows, turn_rows
from larkline.stores.deliveries import notify


def accept(db: sqlite3.Connection, now: float, message: Inbound, verdict: Verdict) -> Accepted:
    """See `TurnQueue.accept`."""
    known = turn_rows.standing(db, message=message.id).fetchone()
    if known is not None:
        was = Standing(known["standing"])
        if was is not Standing.HELD or verdict.standing is Standing.HELD:
            first = known["turn"]
            return Accepted(False, was, None if first is None else TurnId(first))
    conversation = message.place.conversation
    turn_rows.know_conversation(
        db,
        id=conversation,
        app_id=message.place.app_id,
        chat_id=message.place.chat_id,
        thread_id=message.place.thread_id,
        private=int(message.private),
        created_at=now,
        last_active=now,
    )
    refused = verdict.turn is not None and _full(db, conversation, verdict.limits)
    standing = Standing.REFUSED if refused else verdict.standing
    turn_rows.store_message(
        db,
        id=message.id,
        conversation=conversation,
        standing=standing,
        sender=message.sender,
        created_at=message.created_at,
        accepted_at=now,
        held=rows.pack_inbound(message) if standing is Standing.HELD else None,
    )
    notice = verdict.busy if refused else verdict.notice
    if notice is not None:
        notify(db, now, notice)
    if refused or verdict.turn is None:
        return Accepted(True, standing)
    stored = turn_rows.store_turn(
        db,
        conversation=conversation,
        message_id=message.id,
        message_created_at=message.created_at,
        sender=message.sender,
        kind=verdict.turn.kind,
        prompt=verdict.turn.prompt,
        accepted_at=now,
        state="queued",
        epoch=0,
        announced=0,
    )
    return Accepted(True, standing, TurnId(stored.lastrowid or 0))


def _full(db: sqlite3.Connection, conversation: str, limits: QueueLimits | None) -> bool:
    if limits is None:
        return False
    now = turn_rows.occupancy(db, conversation=conversation).fetchone()
    return (
        now["here"] >= limits.per_conversation
        or now["queued"] >= limits.total
        or (limits.in_flight is not None and now["queued"] + now["running"] >= limits.in_flight)
    )


def again(
    db: sqlite3.Connection, now: float, turn: TurnId, key: str, chat_id: str, limits: QueueLimits
) -> Copied:
    """See `TurnQueue.again`."""
    row = turn_rows.turn(db, turn=turn).fetchone()
    if row is None or row["chat_id"] != chat_id:
        return Copied(Again.UNKNOWN)
    copied = turn_rows.copied(db, turn=turn, key=key).fetchone() is not None
    if copied or row["state"] != "ended":
        return Copied(Again.DONE_BEFORE)
    if _full(db, row["conversation"], limits):
        return Copied(Again.FULL)
    stored = turn_rows.store_turn(
        db,
        conversation=row["conversation"],
        message_id=row["message_id"],
        message_created_at=now,
        sender=row["sender"],
        kind=row["kind"],
        prompt=row["prompt"],
        accepted_at=now,
        state="queued",
        epoch=0,
        announced=0,
        copy_of=turn,
        copy_key=key,
    )
    turn_rows.touch_conversation(db, conversation=row["conversation"], now=now)
    return Copied(Again.QUEUED, TurnId(stored.lastrowid or 0))


def take(db: sqlite3.Connection, now: float, owner: str) -> Claim | None:
    """See `TurnQueue.take`."""
    row = turn_rows.next_turn(db).fetchone()
    if row is None:
        return None
    turn = rows.turn(row)
    reply = _open_reply(db, now, turn)
    return _claim(db, now, owner, row, turn, reply)


def _claim(
    db: sqlite3.Connection, now: float, owner: str, row: sqlite3.Row, turn: Turn, reply: ReplyId
) -> Claim:
    epoch = int(row["epoch"]) + 1
    prompt_uuid = str(uuid.uuid4())
    turn_rows.claim(db, turn=turn.id, new_epoch=epoch, new_owner=owner)
    turn_rows.store_attempt(db, turn=turn.id, epoch=epoch, prompt_uuid=prompt_uuid, started_at=now)
    number = turn_rows.attempt_number(db, turn=turn.id).fetchone()[0]
    return Claim(turn, epoch, number, prompt_uuid, rows.session(row), reply)


def _open_reply(db: sqlite3.Connection, now: float, turn: Turn) -> ReplyId:
    stored = reply_rows.store_reply(
        db,
        conversation=turn.conversation,
        app_id=turn.place.app_id,
        chat_id=turn.place.chat_id,
        thread_id=turn.place.thread_id,
        reply_to=turn.message_id,
        turn=turn.id,
        state="open",
        created_at=now,
        attempts=0,
    )
    reply = ReplyId(stored.lastrowid or 0)
    reply_rows.store_part(
        db,
        reply=reply,
        ordinal=0,
        page=0,
        form="card" if turn.prompt else "text",
        key=str(uuid.uuid4()),
        reserved=0,
        state="live",
    )
    return reply


def untake(db: sqlite3.Connection, claim: Claim | None) -> None:
    """Put back a turn whose taker was cancelled before it learned of it."""
    if claim is None:
        return
    if turn_rows.unclaim(db, turn=claim.turn.id, its_epoch=claim.epoch).rowcount:
        turn_rows.drop_attempt(db, turn=claim.turn.id, epoch=claim.epoch)
        reply_rows.drop_reply(db, turn=claim.turn.id)


def settle(db: sqlite3.Connection, now: float, claim: Claim, outcome: Outcome) -> bool:
    """See `TurnQueue.settle`."""
    turn = claim.turn
    ended = turn_rows.end_turn(
        db,
        turn=turn.id,
        its_epoch=claim.epoch,
        now=now,
        how=outcome.ending,
        new_detail=outcome.detail,
        new_usage=rows.pack_usage(outcome.usage),
    )
    if not ended.rowcount:
        return turn_rows.ended_by(db, turn=turn.id, epoch=claim.epoch).fetchone() is not None
    turn_rows.end_attempts(db, its_turn=turn.id, now=now, how=outcome.ending)
    order = reply_rows.next_due_order(db).fetchone()[0]
    final = rows.pack_final(outcome.final)
    reply_rows.make_due(db, its_turn=turn.id, new_final=final, now=now, order=order)
    if outcome.keep_session is not None:
        turn_rows.keep_session(
            db, conversation=turn.conversation, new_session=outcome.keep_session or None
        )
    turn_rows.touch_conversation(db, conversation=turn.conversation, now=now)
    return True


def orphans(db: sqlite3.Connection, now: float, owner: str) -> tuple[Claim, ...]:
    """See `TurnQueue.orphans`."""
    claims = []
    for row in turn_rows.running_elsewhere(db, me=owner).fetchall():
        turn = rows.turn(row)
        turn_rows.end_attempts(db, its_turn=turn.id, now=now, how="lost")
        claims.append(_claim(db, now, owner, row, turn, ReplyId(row["reply"])))
    return tuple(claims)


def cancel(db: sqlite3.Connection, now: float, turn: TurnId) -> bool:
    """See `TurnQueue.cancel`."""
    return turn_rows.drop_turn(db, turn=turn, now=now).rowcount > 0


def waiting(db: sqlite3.Connection, limit: int) -> tuple[Waiting, ...]:
    """See `TurnQueue.waiting`."""
    return tuple(
        Waiting(rows.turn(row), row["ahead"]) for row in turn_rows.waiting(db, limit=limit)
    )


def announce(db: sqlite3.Connection, now: float, turn: TurnId, notice: NewNotice | None) -> None:
    """See `TurnQueue.announce`."""
    marked = turn_rows.mark_announced(db, turn=turn).rowcount
    if marked and notice is not None:
        notify(db, now, notice)


def counts(db: sqlite3.Connection) -> QueueCounts:
    """See `TurnQueue.counts`."""
    row = turn_rows.counts(db).fetchone()
    return QueueCounts(row["queued"], row["running"])
