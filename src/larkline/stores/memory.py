"""The store in plain dicts: the reference for the contract, for tests and rehearsals."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace

from larkline.domain.errors import StoreError
from larkline.domain.model import (
    Accepted,
    Again,
    Claim,
    Conversation,
    ConversationId,
    Copied,
    Final,
    Inbound,
    Malformed,
    NewNotice,
    NewTurn,
    Outcome,
    Part,
    QueueCounts,
    QueueLimits,
    Reply,
    ReplyId,
    Standing,
    Target,
    Turn,
    TurnId,
    Verdict,
    Waiting,
)
from larkline.ports import Cutoffs
from larkline.stores.memory_disk import Disk, MemoryTranscripts, MessageRow, ReplyRow, TurnRow

_REDELIVERY = 8 * 3600.0

__all__ = ["Disk", "MemoryStore"]


class MemoryStore(MemoryTranscripts):
    """`larkline.ports.Store` without a file; every method runs without waiting."""

    def __init__(self, disk: Disk | None = None, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(disk or Disk(), clock)
        self._owner = str(uuid.uuid4())

    # The turn queue

    async def accept(self, message: Inbound, verdict: Verdict) -> Accepted:
        """See `TurnQueue.accept`."""
        disk, now = self._open, self._clock()
        known = disk.messages.get(message.id)
        if known is not None and (
            known.standing is not Standing.HELD or verdict.standing is Standing.HELD
        ):
            return Accepted(False, known.standing, known.turn)
        conversation = message.place.conversation
        before = disk.conversations.get(conversation)
        disk.conversations[conversation] = Conversation(
            conversation, message.place, message.private, before.session if before else None, now
        )
        refused = verdict.turn is not None and self._full(conversation, verdict.limits)
        standing = Standing.REFUSED if refused else verdict.standing
        accepted_at = known.accepted_at if known else now
        stored = MessageRow(standing, accepted_at, message)
        disk.messages[message.id] = stored
        notice = verdict.busy if refused else verdict.notice
        if notice is not None:
            self._notify(notice)
        if not refused and verdict.turn is not None:
            stored.turn = self._queue(message, verdict.turn).turn.id
        return Accepted(True, standing, stored.turn)

    def _full(self, conversation: ConversationId, limits: QueueLimits | None) -> bool:
        if limits is None:
            return False
        queued = self._in_state("queued")
        here = sum(each.turn.conversation == conversation for each in queued)
        in_flight = len(queued) + len(self._in_state("running"))
        return (
            here >= limits.per_conversation
            or len(queued) >= limits.total
            or (limits.in_flight is not None and in_flight >= limits.in_flight)
        )

    def _queue(self, message: Inbound, new: NewTurn) -> TurnRow:
        turn = Turn(
            id=TurnId(next(self._disk.numbers)),
            conversation=message.place.conversation,
            place=message.place,
            private=message.private,
            message_id=message.id,
            sender=message.sender,
            kind=new.kind,
            prompt=new.prompt,
            accepted_at=self._clock(),
        )
        stored = TurnRow(turn, message.created_at)
        self._disk.turns[turn.id] = stored
        return stored

    def _in_state(self, state: str) -> list[TurnRow]:
        return [each for each in self._disk.turns.values() if each.state == state]

    async def again(self, turn: TurnId, key: str, chat_id: str, limits: QueueLimits) -> Copied:
        """See `TurnQueue.again`."""
        disk, now = self._open, self._clock()
        old = disk.turns.get(turn)
        if old is None or old.turn.place.chat_id != chat_id:
            return Copied(Again.UNKNOWN)
        if old.state != "ended" or old.copied or key in disk.copy_keys:
            return Copied(Again.DONE_BEFORE)
        if self._full(old.turn.conversation, limits):
            return Copied(Again.FULL)
        old.copied = True
        disk.copy_keys.add(key)
        copy = replace(old.turn, id=TurnId(next(disk.numbers)), accepted_at=now)
        disk.turns[copy.id] = TurnRow(copy, created_at=now)
        self._touch(copy.conversation)
        return Copied(Again.QUEUED, copy.id)

    async def take(self) -> Claim | None:
        """See `TurnQueue.take`."""
        disk = self._open
        busy = {each.turn.conversation for each in self._in_state("running")}
        free = [each for each in self._in_state("queued") if each.turn.conversation not in busy]
        if not free:
            return None
        first = min(free, key=lambda each: each.turn.id).turn.conversation
        here = (each for each in free if each.turn.conversation == first)
        head = min(here, key=lambda each: each.place_in_line)
        turn = head.turn
        head.reply = ReplyId(next(disk.numbers))
        disk.replies[head.reply] = ReplyRow(
            Reply(
                id=head.reply,
                conversation=turn.conversation,
                target=Target(turn.place, turn.message_id),
                turn=turn.id,
                final=Final(""),
                parts=(),
                attempts=0,
                due_at=self._clock(),
            ),
            "open",
        )
        form = "card" if turn.prompt else "text"
        part = Part(head.reply, 0, 0, "card", str(uuid.uuid4()))
        disk.parts[head.reply] = {0: part if form == "card" else replace(part, form="text")}
        return self._claim(head, head.reply)

    def _claim(self, stored: TurnRow, reply: ReplyId) -> Claim:
        stored.state = "running"
        stored.owner = self._owner
        stored.epoch += 1
        stored.attempts += 1
        session = self._disk.conversations[stored.turn.conversation].session
        prompt_uuid = str(uuid.uuid4())
        return Claim(stored.turn, stored.epoch, stored.attempts, prompt_uuid, session, reply)

    async def settle(self, claim: Claim, outcome: Outcome) -> bool:
        """See `TurnQueue.settle`."""
        disk = self._open
        stored = disk.turns.get(claim.turn.id)
        if stored is None or stored.epoch != claim.epoch or stored.state != "running":
            return stored is not None and (stored.epoch, stored.state) == (claim.epoch, "ended")
        stored.state = "ended"
        stored.ended_at = self._clock()
        if stored.reply is not None:
            self._make_due(disk.replies[stored.reply], outcome.final)
        if outcome.keep_session is not None:
            where = claim.turn.conversation
            session = outcome.keep_session or None
            disk.conversations[where] = replace(disk.conversations[where], session=session)
        self._touch(claim.turn.conversation)
        return True

    def _make_due(self, stored: ReplyRow, final: Final) -> None:
        stored.state = "due"
        stored.order = next(self._disk.numbers)
        stored.reply = replace(stored.reply, final=final, due_at=self._clock())

    def _touch(self, conversation: ConversationId) -> None:
        known = self._disk.conversations[conversation]
        self._disk.conversations[conversation] = replace(known, last_active=self._clock())

    async def orphans(self) -> tuple[Claim, ...]:
        """See `TurnQueue.orphans`."""
        running = [each for each in self._open_turns("running") if each.owner != self._owner]
        return tuple(self._claim(each, each.reply) for each in running if each.reply is not None)

    def _open_turns(self, state: str) -> list[TurnRow]:
        return [each for each in self._open.turns.values() if each.state == state]

    async def cancel(self, turn: TurnId) -> bool:
        """See `TurnQueue.cancel`."""
        stored = self._open.turns.get(turn)
        if stored is None or stored.state != "queued":
            return False
        stored.state = "dropped"
        stored.ended_at = self._clock()
        return True

    async def waiting(self, limit: int) -> tuple[Waiting, ...]:
        """See `TurnQueue.waiting`."""
        quiet = [each for each in self._open_turns("queued") if not each.announced]
        quiet.sort(key=lambda each: each.turn.id)
        return tuple(Waiting(each.turn, self._ahead(each)) for each in quiet[:limit])

    def _ahead(self, of: TurnRow) -> int:
        def comes_first(other: TurnRow) -> bool:
            if other.turn.conversation == of.turn.conversation:
                return other.place_in_line < of.place_in_line
            return other.turn.id < of.turn.id

        queued = sum(map(comes_first, self._in_state("queued")))
        here = of.turn.conversation
        return queued + any(r.turn.conversation == here for r in self._in_state("running"))

    async def announce(self, turn: TurnId, notice: NewNotice | None) -> None:
        """See `TurnQueue.announce`."""
        stored = self._open.turns.get(turn)
        if stored is None or stored.state != "queued" or stored.announced:
            return
        stored.announced = True
        if notice is not None:
            self._notify(notice)

    async def counts(self) -> QueueCounts:
        """See `TurnQueue.counts`."""
        return QueueCounts(len(self._open_turns("queued")), len(self._open_turns("running")))

    # The inbox

    async def keep(self, event: Malformed) -> None:
        """See `Inbox.keep`."""
        self._open.raw_events.setdefault(event.event_id or event.body, (self._clock(), event))

    async def held(self, limit: int) -> tuple[Inbound, ...]:
        """See `Inbox.held`."""
        found = [m for m in self._open.messages.values() if m.standing is Standing.HELD]
        found.sort(key=lambda each: each.accepted_at)
        return tuple(each.inbound for each in found[:limit])

    async def notify(self, notice: NewNotice) -> bool:
        """See `Inbox.notify`."""
        return self._notify(notice)

    def _notify(self, notice: NewNotice) -> bool:
        disk = self._open
        if notice.once is not None:
            if notice.once in disk.notice_keys:
                return False
            disk.notice_keys.add(notice.once)
        reply = Reply(
            id=ReplyId(next(disk.numbers)),
            conversation=notice.target.place.conversation,
            target=notice.target,
            turn=None,
            final=Final(""),
            parts=(),
            attempts=0,
            due_at=0,
        )
        stored = disk.replies[reply.id] = ReplyRow(reply, "open")
        self._make_due(stored, Final(notice.text, as_card=False))
        return True

    # Deliveries

    async def due(self, now: float, limit: int) -> tuple[Reply, ...]:
        """See `Deliveries.due`."""
        heads: dict[ConversationId, ReplyRow] = {}
        for each in sorted(self._undelivered(), key=lambda each: each.order):
            heads.setdefault(each.reply.conversation, each)
        ready = [each for each in heads.values() if each.next_at is None or each.next_at <= now]
        ready.sort(key=lambda each: (each.reply.turn is None, each.order))
        return tuple(self._with_parts(each) for each in ready[:limit])

    def _undelivered(self) -> list[ReplyRow]:
        return [each for each in self._open.replies.values() if each.state == "due"]

    def _with_parts(self, stored: ReplyRow) -> Reply:
        parts = self._disk.parts.get(stored.reply.id, {})
        return replace(stored.reply, parts=tuple(parts[n] for n in sorted(parts)))

    async def next_due(self, now: float) -> float | None:
        """See `Deliveries.next_due`."""
        times = [each.next_at for each in self._undelivered() if each.next_at is not None]
        return min((each for each in times if each > now), default=None)

    async def live(self, reply: ReplyId) -> Reply | None:
        """See `Deliveries.live`."""
        stored = self._open.replies.get(reply)
        return None if stored is None or stored.state != "open" else self._with_parts(stored)

    async def save_part(self, part: Part) -> None:
        """See `Deliveries.save_part`."""
        if part.reply not in self._open.replies:
            raise StoreError(f"no reply {part.reply}")
        self._disk.parts.setdefault(part.reply, {})[part.ordinal] = part

    async def delivered(self, reply: ReplyId) -> None:
        """See `Deliveries.delivered`."""
        self._settle_reply(reply, "sent")

    async def postpone(self, reply: ReplyId, until: float, error: str) -> None:
        """See `Deliveries.postpone`."""
        stored = self._open.replies.get(reply)
        if stored is not None and stored.state == "due":
            stored.next_at = until
            stored.reply = replace(stored.reply, attempts=stored.reply.attempts + 1)

    async def give_up(self, reply: ReplyId, error: str) -> None:
        """See `Deliveries.give_up`."""
        self._settle_reply(reply, "failed")

    def _settle_reply(self, reply: ReplyId, state: str) -> None:
        stored = self._open.replies.get(reply)
        if stored is not None and stored.state == "due":
            stored.state = state
            stored.settled_at = self._clock()

    # Conversations

    async def conversation(self, conversation: ConversationId) -> Conversation | None:
        """See `Conversations.conversation`."""
        return self._open.conversations.get(conversation)

    async def conversation_count(self) -> int:
        """See `Conversations.conversation_count`."""
        return len(self._open.conversations)

    # Upkeep

    async def prune(self, cutoffs: Cutoffs) -> Mapping[str, int]:
        """See `Store.prune`."""
        disk = self._open
        before = min(cutoffs.messages, self._clock() - _REDELIVERY)
        turns = [
            each.turn.id
            for each in disk.turns.values()
            if each.ended_at is not None
            and each.ended_at < before
            and (each.reply is None or disk.replies[each.reply].state in {"sent", "failed"})
        ]
        for turn in turns:
            self._drop_reply(disk.turns.pop(turn).reply)
        used = {each.turn.message_id for each in disk.turns.values()}
        messages = [
            key
            for key, each in disk.messages.items()
            if each.accepted_at < before and key not in used and each.standing is not Standing.HELD
        ]
        for key in messages:
            del disk.messages[key]
        notices = [
            key
            for key, each in disk.replies.items()
            if each.reply.turn is None and each.settled_at is not None and each.settled_at < before
        ]
        for notice in notices:
            self._drop_reply(notice)
        events = [key for key, (kept_at, _) in disk.raw_events.items() if kept_at < before]
        for event in events:
            del disk.raw_events[event]
        return {
            "turns": len(turns),
            "messages": len(messages),
            "replies": len(notices),
            "raw_events": len(events),
            "transcripts": self._prune_transcripts(cutoffs.transcripts),
        }

    def _drop_reply(self, reply: ReplyId | None) -> None:
        if reply is not None:
            del self._disk.replies[reply]
            self._disk.parts.pop(reply, None)

    async def writable(self) -> None:
        """See `Store.writable`."""
        _ = self._open

    async def close(self) -> None:
        """See `Store.close`."""
        self._closed = True
