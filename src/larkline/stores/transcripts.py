"""Agent transcripts: append-only lists of opaque entries."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

from sqlalchemy import bindparam, delete, insert, null, or_, select, tuple_, update
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.sql.base import Executable

from larkline.domain.model import SessionId
from larkline.ports import TranscriptKey
from larkline.stores import rows
from larkline.stores.schema import transcript_entries as entries
from larkline.stores.schema import transcripts
from larkline.stores.statement import Condition, statement, storable

_KEY: tuple[Condition, ...] = (
    transcripts.c.project == bindparam("project"),
    transcripts.c.session == bindparam("session"),
    transcripts.c.subpath == bindparam("subpath"),
)


@statement
def _transcript() -> Executable:
    """A transcript's id and how many entries it ever had."""
    return select(transcripts.c.id, transcripts.c.entries).where(*_KEY)


@statement
def _begin() -> Executable:
    """Stores a transcript without entries."""
    return insert(transcripts)


@statement
def _grow() -> Executable:
    """Notes how many entries a transcript has and when the last one came."""
    return (
        update(transcripts)
        .where(transcripts.c.id == bindparam("transcript"))
        .values(entries=bindparam("count"), last_entry_at=bindparam("now"))
    )


@statement
def _add() -> Executable:
    """Adds an entry unless its uuid is in the transcript."""
    return upsert(entries).on_conflict_do_nothing(
        index_elements=[entries.c.transcript, entries.c.uuid]
    )


@statement
def _entries() -> Executable:
    """A transcript's entries in order."""
    return (
        select(entries.c.entry)
        .where(entries.c.transcript == bindparam("transcript"))
        .order_by(entries.c.ordinal)
    )


@statement
def _sessions() -> Executable:
    """Main transcripts of a project, the one that grew last first."""
    return (
        select(transcripts.c.session, transcripts.c.last_entry_at)
        .where(transcripts.c.project == bindparam("project"), transcripts.c.subpath == "")
        .order_by(transcripts.c.last_entry_at.desc(), transcripts.c.id.desc())
    )


@statement
def _subpaths() -> Executable:
    """A session's subpaths in their order."""
    return (
        select(transcripts.c.subpath)
        .where(
            transcripts.c.project == bindparam("project"),
            transcripts.c.session == bindparam("session"),
            transcripts.c.subpath != "",
        )
        .order_by(transcripts.c.subpath)
    )


@statement
def _forget() -> Executable:
    """Takes the key from a transcript: it is unknown from now on, its entries wait for `sweep`."""
    return (
        update(transcripts)
        .where(
            transcripts.c.project == bindparam("its_project"),
            transcripts.c.session == bindparam("session"),
            or_(transcripts.c.subpath == bindparam("subpath"), bindparam("subpath") == ""),
        )
        .values(project=null())
    )


@statement
def _forget_older() -> Executable:
    """Takes the keys from whole sessions that have not grown since a time."""
    other = transcripts.alias("other")
    young = (
        select(other.c.id)
        .where(
            other.c.project == transcripts.c.project,
            other.c.session == transcripts.c.session,
            other.c.last_entry_at >= bindparam("before"),
        )
        .exists()
    )
    chosen = (
        select(transcripts.c.id)
        .where(
            transcripts.c.project.is_not(None),
            transcripts.c.last_entry_at < bindparam("before"),
            ~young,
        )
        .limit(bindparam("limit"))
    )
    return update(transcripts).where(transcripts.c.id.in_(chosen)).values(project=null())


@statement
def _sweep_entries() -> Executable:
    """Deletes a bounded number of entries of forgotten transcripts."""
    chosen = (
        select(entries.c.transcript, entries.c.ordinal)
        .join(transcripts, transcripts.c.id == entries.c.transcript)
        .where(transcripts.c.project.is_(None))
        .limit(bindparam("limit"))
    )
    return delete(entries).where(tuple_(entries.c.transcript, entries.c.ordinal).in_(chosen))


@statement
def _sweep_empty() -> Executable:
    """Deletes forgotten transcripts that have no entries left."""
    left = select(entries.c.transcript).where(entries.c.transcript == transcripts.c.id).exists()
    return delete(transcripts).where(transcripts.c.project.is_(None), ~left)


def append(
    db: sqlite3.Connection,
    now: float,
    key: TranscriptKey,
    packed: Sequence[tuple[str | None, str]],
) -> None:
    """See `Transcripts.append`; `packed` are the uuids and the JSON of the entries."""
    if not packed:
        return
    project, session, subpath = key
    known = _transcript(db, project=project, session=session, subpath=subpath).fetchone()
    if known is None:
        begun = _begin(
            db, project=project, session=session, subpath=subpath, entries=0, last_entry_at=now
        )
        transcript, count = begun.lastrowid, 0
    else:
        transcript, count = known["id"], known["entries"]
    _add.many(
        db,
        (
            {"transcript": transcript, "ordinal": count + n, "uuid": uuid, "entry": entry}
            for n, (uuid, entry) in enumerate(packed)
        ),
    )
    _grow(db, transcript=transcript, count=count + len(packed), now=now)


def packed(batch: Sequence[Mapping[str, object]]) -> list[tuple[str | None, str]]:
    """Entries as the database holds them; costs time, so that it is done outside the writer."""
    found = []
    for entry in batch:
        uuid = rows.entry_uuid(entry)
        found.append((None if uuid is None else storable(uuid), rows.pack(dict(entry))))
    return found


def load(db: sqlite3.Connection, key: TranscriptKey) -> list[dict[str, object]] | None:
    """See `Transcripts.load`."""
    project, session, subpath = key
    known = _transcript(db, project=project, session=session, subpath=subpath).fetchone()
    if known is None:
        return None
    return [rows.entry(row["entry"]) for row in _entries(db, transcript=known["id"])]


def sessions(db: sqlite3.Connection, project: str) -> list[tuple[SessionId, float]]:
    """See `Transcripts.sessions`."""
    found = _sessions(db, project=project)
    return [(SessionId(row["session"]), row["last_entry_at"]) for row in found]


def subpaths(db: sqlite3.Connection, project: str, session: SessionId) -> list[str]:
    """See `Transcripts.subpaths`."""
    return [row["subpath"] for row in _subpaths(db, project=project, session=session)]


def forget(db: sqlite3.Connection, key: TranscriptKey) -> None:
    """Make a key unknown; `sweep` removes what is left of it."""
    project, session, subpath = key
    _forget(db, its_project=project, session=session, subpath=subpath)


def forget_older(db: sqlite3.Connection, before: float, limit: int) -> int:
    """Make sessions unknown that have not grown since `before`, at most `limit` transcripts."""
    return _forget_older(db, before=before, limit=limit).rowcount


def sweep(db: sqlite3.Connection, limit: int) -> int:
    """Delete at most `limit` entries of forgotten transcripts; how many it were."""
    gone = _sweep_entries(db, limit=limit).rowcount
    if gone < limit:
        _sweep_empty(db)
    return gone
