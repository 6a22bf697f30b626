"""The schema's version: a fresh database is made at once, an older one migrated after a backup.

Alembic takes a quarter of a second and eleven megabytes to import, so it is imported only when
there is something to migrate.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from larkline.domain.errors import SettingsError, StoreError
from larkline.stores.connection import connect, create_private
from larkline.stores.schema import metadata


@dataclass(frozen=True, slots=True)
class Lineage:
    """The revisions that this release knows, oldest first, and the folder of their scripts."""

    revisions: tuple[str, ...]
    scripts: Path

    @property
    def head(self) -> str:
        """The revision that this release works with."""
        return self.revisions[-1]


SHIPPED = Lineage(("0001",), Path(__file__).parent / "migrations")


def prepare(path: Path, lineage: Lineage, readers: int) -> list[sqlite3.Connection]:
    """Bring the file to the head revision; a writing and `readers` reading connections to it.

    Raises: SettingsError, StoreError.
    """
    opened: list[sqlite3.Connection] = []
    try:
        create_private(path)
        opened.append(connect(path, writes=True))
        bring_to_head(opened[0], path, lineage)
        opened += [connect(path, writes=False) for _ in range(readers)]
    except BaseException as exc:
        for each in opened:
            each.close()
        if isinstance(exc, OSError):
            raise StoreError(f"cannot open the database {path}: {exc}") from exc
        if isinstance(exc, sqlite3.Error):
            raise StoreError(
                f"the database {path} cannot be used: {exc}. If it is damaged, move it away and "
                f"put a backup in its place."
            ) from exc
        raise
    return opened


def bring_to_head(db: sqlite3.Connection, path: Path, lineage: Lineage) -> None:
    """Make or migrate the schema if need be."""
    found = revision(db)
    if found == lineage.head:
        return
    if found is None:
        create(db, lineage.head)
    elif found in lineage.revisions:
        backup(db, path.with_name(f"{path.name}.bak-{found}"))
        _upgrade(path, lineage)
    else:
        raise SettingsError(
            f"the database {path} has schema {found}, which this release does not know (it knows "
            f"up to {lineage.head}): a newer larkline wrote it. Start that release, or point "
            f"store.url at another database."
        )


def revision(db: sqlite3.Connection) -> str | None:
    """The schema's revision; None for an empty database.

    Raises: SettingsError if the file holds something else.
    """
    tables = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type='table'")}
    if not tables:
        return None
    if "alembic_version" not in tables:
        raise SettingsError(
            "store.url names a database that is not larkline's: it has tables but no revision"
        )
    row = db.execute("SELECT version_num FROM alembic_version").fetchone()
    return "" if row is None else str(row[0])


def create(db: sqlite3.Connection, head: str) -> None:
    """Make the whole schema in one transaction: there is never half of one."""
    dialect = sqlite.dialect()
    db.execute("BEGIN IMMEDIATE")
    try:
        for table in metadata.sorted_tables:
            db.execute(str(CreateTable(table).compile(dialect=dialect)))
            for index in sorted(table.indexes, key=lambda each: str(each.name)):
                db.execute(str(CreateIndex(index).compile(dialect=dialect)))
        # As Alembic makes it.
        db.execute(
            "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL, "
            "CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"
        )
        db.execute("INSERT INTO alembic_version VALUES (?)", (head,))
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def backup(db: sqlite3.Connection, target: Path) -> None:
    """Copy the whole database to `target`, which appears complete or not at all."""
    partial = target.with_name(target.name + ".partial")
    partial.unlink(missing_ok=True)
    create_private(partial)
    copy = sqlite3.connect(partial)
    try:
        db.backup(copy)
    finally:
        copy.close()
    partial.replace(target)


def _upgrade(path: Path, lineage: Lineage) -> None:
    from larkline.stores import upgrade  # Alembic comes with it: see the module's docstring

    upgrade.to_head(path, lineage.scripts, lineage.head)
