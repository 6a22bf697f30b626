"""The store in one SQLite file: everything durable goes through one writer thread."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from larkline.domain.errors import StoreError
from larkline.domain.model import (
    Accepted,
    Claim,
    Conversation,
    ConversationId,
    Copied,
    Inbound,
    Malformed,
    NewNotice,
    Outcome,
    Part,
    QueueCounts,
    QueueLimits,
    Reply,
    ReplyId,
    SessionId,
    TurnId,
    Verdict,
    Waiting,
)
from larkline.ports import Cutoffs, TranscriptKey
from larkline.stores import deliveries, inbox, transcripts, turn_queue, upkeep
from larkline.stores.migrate import SHIPPED, Lineage, prepare
from larkline.stores.reader import Reader
from larkline.stores.writer import Writer

PRUNE_STEP = 200
"""Rows that one transaction of `prune` deletes: few enough that nobody waits noticeably."""
WRITABLE_SECONDS = 5.0
READERS = 2


class SqliteStore:
    """`larkline.ports.Store` over one file. Made by `open_sqlite`, closed by its owner."""

    def __init__(self, writer: Writer, reader: Reader, clock: Callable[[], float]) -> None:
        self._writer = writer
        self._reader = reader
        self._clock = clock
        # A new one each time: whatever runs in the database under another name is an orphan.
        self._owner = str(uuid.uuid4())

    # The turn queue

    async def accept(self, message: Inbound, verdict: Verdict) -> Accepted:
        """See `TurnQueue.accept`."""
        now = self._clock()
        return await self._writer.write(lambda db: turn_queue.accept(db, now, message, verdict))

    async def again(self, turn: TurnId, key: str, chat_id: str, limits: QueueLimits) -> Copied:
        """See `TurnQueue.again`."""
        now = self._clock()
        return await self._writer.write(
            lambda db: turn_queue.again(db, now, turn, key, chat_id, limits)
        )

    async def take(self) -> Claim | None:
        """See `TurnQueue.take`. If the caller is cancelled the turn goes back to the queue."""
        now = self._clock()
        return await self._writer.write(
            lambda db: turn_queue.take(db, now, self._owner), undo=turn_queue.untake
        )

    async def settle(self, claim: Claim, outcome: Outcome) -> bool:
        """See `TurnQueue.settle`."""
        now = self._clock()
        return await self._writer.write(lambda db: turn_queue.settle(db, now, claim, outcome))

    async def orphans(self) -> tuple[Claim, ...]:
        """See `TurnQueue.orphans`."""
        now = self._clock()
        return await self._writer.write(lambda db: turn_queue.orphans(db, now, self._owner))

    async def cancel(self, turn: TurnId) -> bool:
        """See `TurnQueue.cancel`."""
        now = self._clock()
        return await self._writer.write(lambda db: turn_queue.cancel(db, now, turn))

    async def waiting(self, limit: int) -> tuple[Waiting, ...]:
        """See `TurnQueue.waiting`."""
        return await self._reader.read(lambda db: turn_queue.waiting(db, limit))

    async def announce(self, turn: TurnId, notice: NewNotice | None) -> None:
        """See `TurnQueue.announce`."""
        now = self._clock()
        await self._writer.write(lambda db: turn_queue.announce(db, now, turn, notice))

    async def counts(self) -> QueueCounts:
        """See `TurnQueue.counts`."""
        return await self._reader.read(turn_queue.counts)

    # The inbox

    async def keep(self, event: Malformed) -> None:
        """See `Inbox.keep`."""
        now = self._clock()
        await self._writer.write(lambda db: inbox.keep(db, now, event))

    async def held(self, limit: int) -> tuple[Inbound, ...]:
        """See `Inbox.held`."""
        return await self._reader.read(lambda db: inbox.held(db, limit))

    async def notify(self, notice: NewNotice) -> bool:
        """See `Inbox.notify`."""
        now = self._clock()
        return await self._writer.write(lambda db: deliveries.notify(db, now, notice))

    # Deliveries

    async def due(self, now: float, limit: int) -> tuple[Reply, ...]:
        """See `Deliveries.due`."""
        return await self._reader.read(lambda db: deliveries.due(db, now, limit))

    async def next_due(self, now: float) -> float | None:
        """See `Deliveries.next_due`."""
        return await self._reader.read(lambda db: deliveries.next_due(db, now))

    async def live(self, reply: ReplyId) -> Reply | None:
        """See `Deliveries.live`."""
        return await self._reader.read(lambda db: deliveries.live(db, reply))

    async def save_part(self, part: Part) -> None:
        """See `Deliveries.save_part`."""
        await self._writer.write(lambda db: deliveries.save_part(db, part))

    async def delivered(self, reply: ReplyId) -> None:
        """See `Deliveries.delivered`."""
        now = self._clock()
        await self._writer.write(lambda db: deliveries.delivered(db, now, reply))

    async def postpone(self, reply: ReplyId, until: float, error: str) -> None:
        """See `Deliveries.postpone`."""
        await self._writer.write(lambda db: deliveries.postpone(db, reply, until, error))

    async def give_up(self, reply: ReplyId, error: str) -> None:
        """See `Deliveries.give_up`."""
        now = self._clock()
        await self._writer.write(lambda db: deliveries.give_up(db, now, reply, error))

    # Conversations

    async def conversation(self, conversation: ConversationId) -> Conversation | None:
        """See `Conversations.conversation`."""
        return await self._reader.read(lambda db: inbox.conversation(db, conversation))

    async def conversation_count(self) -> int:
        """See `Conversations.conversation_count`."""
        return await self._reader.read(inbox.conversation_count)

    # Transcripts

    async def append(self, key: TranscriptKey, entries: Sequence[Mapping[str, object]]) -> None:
        """See `Transcripts.append`."""
        now = self._clock()
        packed = transcripts.packed(entries)
        await self._writer.write(lambda db: transcripts.append(db, now, key, packed))

    async def load(self, key: TranscriptKey) -> list[dict[str, object]] | None:
        """See `Transcripts.load`."""
        return await self._reader.read(lambda db: transcripts.load(db, key))

    async def sessions(self, project: str) -> list[tuple[SessionId, float]]:
        """See `Transcripts.sessions`."""
        return await self._reader.read(lambda db: transcripts.sessions(db, project))

    async def subpaths(self, project: str, session: SessionId) -> list[str]:
        """See `Transcripts.subpaths`."""
        return await self._reader.read(lambda db: transcripts.subpaths(db, project, session))

    async def delete(self, key: TranscriptKey) -> None:
        """See `Transcripts.delete`."""
        await self._writer.write(lambda db: transcripts.forget(db, key))
        await self._sweep()

    # Upkeep

    async def prune(self, cutoffs: Cutoffs) -> Mapping[str, int]:
        """See `Store.prune`."""
        before = min(cutoffs.messages, self._clock() - upkeep.REDELIVERY)
        removed: dict[str, int] = {}
        for table in upkeep.TABLES:
            step = partial(upkeep.prune, table=table, before=before, limit=PRUNE_STEP)
            removed[table] = await self._in_steps(step)
        forget = partial(transcripts.forget_older, before=cutoffs.transcripts, limit=PRUNE_STEP)
        removed["transcripts"] = await self._in_steps(forget)
        await self._sweep()
        return removed

    async def _sweep(self) -> None:
        await self._in_steps(partial(transcripts.sweep, limit=PRUNE_STEP))

    async def _in_steps(self, step: Callable[..., int]) -> int:
        total = 0
        while True:
            count = await self._writer.write(step)
            total += count
            if count < PRUNE_STEP:
                return total

    async def writable(self) -> None:
        """See `Store.writable`; answers within five seconds."""
        now = self._clock()
        try:
            async with asyncio.timeout(WRITABLE_SECONDS):
                await self._writer.write(lambda db: upkeep.beat(db, now))
        except TimeoutError as exc:
            raise StoreError(f"no write came to its end in {WRITABLE_SECONDS:.0f} s") from exc

    async def close(self) -> None:
        """See `Store.close`."""
        # The writer last: the last connection to go empties the log into the database.
        try:
            await self._reader.close()
        finally:
            await self._writer.close()


async def open_sqlite(
    path: Path, *, clock: Callable[[], float] = time.time, lineage: Lineage = SHIPPED
) -> SqliteStore:
    """Open the database, made or migrated first if need be; the caller closes it.

    `clock` gives Unix seconds. Raises: SettingsError (a newer release's database), StoreError.
    """
    connections = await asyncio.to_thread(prepare, path, lineage, READERS)
    return SqliteStore(Writer(connections[0]), Reader(connections[1:]), clock)
