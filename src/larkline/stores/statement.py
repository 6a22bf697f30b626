"""SQL statements: built with SQLAlchemy Core, compiled once, run by the standard sqlite3 module.

Running them through SQLAlchemy's own connections costs ten times the statement itself; the
statements stay Core's, so that another database compiles the same ones.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping

from sqlalchemy.dialects import sqlite
from sqlalchemy.sql.base import Executable
from sqlalchemy.sql.dml import Insert
from sqlalchemy.sql.elements import ClauseElement, ColumnElement

Value = str | int | float | bytes | None
_DIALECT = sqlite.dialect(paramstyle="named")


def storable(text: str) -> str:
    """The text, with halves of surrogate pairs, which UTF-8 can't carry, joined or replaced."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


class Statement:
    """A named statement. Calling it runs it; compiled at its first use."""

    def __init__(self, build: Callable[[], Executable]) -> None:
        self._build = build
        self._sql = ""
        self._fixed: dict[str, Value] = {}
        self.__doc__ = build.__doc__

    @property
    def sql(self) -> str:
        """The SQL text, with `:name` parameters."""
        if not self._sql:
            built = self._build()
            if not isinstance(built, ClauseElement):  # pragma: no cover - a slip in our own code
                raise TypeError(f"not a statement: {built!r}")
            compiled = built.compile(dialect=_DIALECT)
            # An insert leaves out what is NULL; elsewhere every parameter must be given.
            keep_null = isinstance(built, Insert)
            self._fixed = {
                name: value
                for name, value in (compiled.params or {}).items()
                if keep_null or value is not None
            }
            self._sql = str(compiled)
        return self._sql

    def __call__(self, db: sqlite3.Connection, **values: Value) -> sqlite3.Cursor:
        """Run it with all its parameters."""
        sql = self.sql
        given = {**self._fixed, **values} if self._fixed else values
        try:
            return db.execute(sql, given)
        except UnicodeEncodeError:
            cleaned = {k: storable(v) if isinstance(v, str) else v for k, v in given.items()}
            return db.execute(sql, cleaned)

    def many(self, db: sqlite3.Connection, rows: Iterable[Mapping[str, Value]]) -> None:
        """Run it once for each row; texts in the rows are `storable` already."""
        sql = self.sql
        db.executemany(sql, ({**self._fixed, **row} for row in rows))


def statement(build: Callable[[], Executable]) -> Statement:
    """Make a runnable statement of a function that builds it."""
    return Statement(build)


Condition = ColumnElement[bool]
