"""One thread that writes: what waits is committed together, each job in a savepoint of its own.

One fsync serves many jobs, so durability costs little under load; and since nobody else writes,
nothing waits for a lock, and a cancelled caller can't leave one behind.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from larkline.domain.errors import StoreError

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

MOST_PENDING = 1024
"""Jobs that wait or run; further callers wait for a place, in their order."""
MOST_TOGETHER = 256
"""Jobs in one transaction."""


def store_error(error: Exception) -> Exception:
    """An error of the database as ours; any other error as it is."""
    # Overflow: an integer beyond 64 bits. UnicodeError: an executemany that slipped through.
    if isinstance(error, sqlite3.Error | OverflowError | UnicodeError):
        ours = StoreError(f"the database refused: {type(error).__name__}: {error}")
        ours.__cause__ = error
        return ours
    return error


@dataclass(slots=True, eq=False)
class _Job(Generic[T]):
    work: Work[T]
    future: asyncio.Future[T]
    undo: Callable[[sqlite3.Connection, T], None] | None
    holds_place: bool = True
    result: T | None = None
    error: Exception | None = None


class Writer:
    """Owns the writing connection. Belongs to the event loop it was made in."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[_Job[Any] | None] = SimpleQueue()
        self._places = asyncio.Semaphore(MOST_PENDING)
        self._closed = False
        self._ended: asyncio.Future[None] = self._loop.create_future()
        # A daemon: a process that dies without close() is not kept alive by its store.
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    async def write(
        self, work: Work[T], *, undo: Callable[[sqlite3.Connection, T], None] | None = None
    ) -> T:
        """Run `work` in a transaction; durable on return.

        If the caller is cancelled the work is still done and its result dropped, or undone by
        `undo` in a later transaction. Raises: StoreError: nothing of it was stored.
        """
        await self._places.acquire()
        if self._closed:
            self._places.release()
            raise StoreError("the store is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        job = _Job(work, future, undo)
        self._queue.put(job)
        try:
            return await future
        except asyncio.CancelledError:
            # Cancelled in the moment between the result's arrival and this task's turn.
            if future.done() and not future.cancelled() and job.error is None:
                self._undo(job)
            raise

    async def close(self) -> None:
        """Finish what waits, then close the connection; repeatable."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
        await asyncio.shield(self._ended)

    def _undo(self, job: _Job[Any]) -> None:
        undo, result = job.undo, job.result
        if undo is None or self._closed:
            return

        def work(db: sqlite3.Connection) -> None:
            undo(db, result)

        future: asyncio.Future[None] = self._loop.create_future()
        future.cancel()  # nobody waits for it
        self._queue.put(_Job(work, future, None, holds_place=False))

    def _deliver(self, batch: list[_Job[Any]]) -> None:
        for job in batch:
            if job.holds_place:
                self._places.release()
            if job.future.cancelled():
                if job.error is None:
                    self._undo(job)
            elif job.error is not None:
                job.future.set_exception(job.error)
            else:
                job.future.set_result(job.result)

    # From here on: the thread.

    def _run(self) -> None:
        try:
            while (batch := self._next_batch()) is not None:
                self._commit(batch)
                self._loop.call_soon_threadsafe(self._deliver, batch)
            self._db.close()
            self._loop.call_soon_threadsafe(self._ended.set_result, None)
        except RuntimeError:
            # The loop was closed over a store that was not: nobody is left to be told.
            self._db.close()

    def _next_batch(self) -> list[_Job[Any]] | None:
        first = self._queue.get()
        if first is None:
            return None
        batch = [first]
        try:
            while len(batch) < MOST_TOGETHER:
                job = self._queue.get_nowait()
                if job is None:
                    self._queue.put(None)
                    break
                batch.append(job)
        except Empty:
            pass
        return batch

    def _commit(self, batch: list[_Job[Any]]) -> None:
        try:
            self._abandon()  # only if a rollback failed before
            self._db.execute("BEGIN IMMEDIATE")
            if len(batch) == 1:  # the transaction is its savepoint: two statements less
                batch[0].result = batch[0].work(self._db)
            else:
                for job in batch:
                    self._one(job)
            self._db.execute("COMMIT")
        except Exception as error:
            failed = store_error(error)
            with suppress(sqlite3.Error):  # the next batch tries again
                self._abandon()
            for job in batch:
                job.error = failed

    def _abandon(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def _one(self, job: _Job[Any]) -> None:
        self._db.execute("SAVEPOINT job")
        try:
            job.result = job.work(self._db)
        except Exception as error:
            if not self._db.in_transaction:
                raise  # SQLite gave the whole transaction up (disk full, I/O error)
            job.error = store_error(error)
            self._db.execute("ROLLBACK TO job")
        self._db.execute("RELEASE job")
