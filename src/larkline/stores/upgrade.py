"""Runs the migration scripts with Alembic. Import it only when the schema is behind."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy
from alembic import command
from alembic.config import Config
from sqlalchemy.pool import NullPool

from larkline.domain.errors import StoreError


def to_head(path: Path, scripts: Path, head: str) -> None:
    """Migrate the database to `head` in one transaction: all of it or nothing.

    Raises: StoreError: the database is as it was before.
    """
    # Not SQLAlchemy's own transaction handling: it leaves DDL outside.
    engine = sqlalchemy.create_engine(f"sqlite:///{path}", poolclass=NullPool)

    @sqlalchemy.event.listens_for(engine, "connect")
    def _manual(connection: object, _record: object) -> None:
        connection.isolation_level = None  # type: ignore[attr-defined]

    @sqlalchemy.event.listens_for(engine, "begin")
    def _begin(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    config = Config()
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    try:
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, head)
    except Exception as exc:
        raise StoreError(
            f"migrating the database {path} to schema {head} failed and was undone: {exc}"
        ) from exc
    finally:
        engine.dispose()
