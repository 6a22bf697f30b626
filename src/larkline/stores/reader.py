"""A few threads that read, each a snapshot of what is committed."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

from larkline.domain.errors import StoreError
from larkline.stores.writer import Work, store_error

T = TypeVar("T")


class Reader:
    """Owns the reading connections."""

    def __init__(self, connections: list[sqlite3.Connection]) -> None:
        self._connections = connections
        self._idle: SimpleQueue[sqlite3.Connection] = SimpleQueue()
        for db in connections:
            self._idle.put(db)
        self._threads = ThreadPoolExecutor(len(connections), thread_name_prefix="store-reader")
        self._closed = False

    async def read(self, work: Work[T]) -> T:
        """Run `work` on one snapshot. Raises: StoreError."""
        if self._closed:
            raise StoreError("the store is closed")
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._read, work)

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        db = self._idle.get()
        try:
            db.execute("BEGIN")
            try:
                return work(db)
            finally:
                db.execute("ROLLBACK")
        except Exception as error:
            translated = store_error(error)
            if translated is error:
                raise
            raise translated from error
        finally:
            self._idle.put(db)

    async def close(self) -> None:
        """Finish what is read, then close the connections; repeatable."""
        self._closed = True
        await asyncio.to_thread(self._threads.shutdown)
        for db in self._connections:
            db.close()
