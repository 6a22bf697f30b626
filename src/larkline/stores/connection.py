"""Connections to the database file, set up the same way everywhere."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

BUSY_SECONDS = 5.0


def create_private(path: Path) -> None:
    """Make sure the file exists and only its owner can read it."""
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    path.chmod(0o600)


def connect(path: Path, *, writes: bool) -> sqlite3.Connection:
    """Open the database; transactions are begun explicitly. The caller closes it.

    Raises: sqlite3.Error.
    """
    db = sqlite3.connect(
        path,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
    )
    try:
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA foreign_keys=ON")
        if writes:
            [mode] = db.execute("PRAGMA journal_mode=WAL").fetchone()
            if mode != "wal":  # SQLite falls back without an error
                raise sqlite3.OperationalError(
                    f"no write-ahead log on this file system (journal mode {mode}): use a local one"
                )
            db.execute("PRAGMA synchronous=FULL")
            db.execute("PRAGMA journal_size_limit=67108864")
            db.execute("PRAGMA cache_size=-8192")  # KiB; taken only as the database grows
        else:
            db.execute("PRAGMA query_only=ON")
    except BaseException:
        db.close()
        raise
    return db
