"""The SQLite store against the outside world: crashes, full disks, old, new and broken files."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from larkline.domain.errors import SettingsError, StoreError
from larkline.domain.model import (
    Ending,
    Final,
    Inbound,
    MessageId,
    NewNotice,
    NewTurn,
    Outcome,
    Part,
    Place,
    QueueCounts,
    QueueLimits,
    ReplyId,
    Standing,
    Target,
    TurnKind,
    UserId,
    Verdict,
)
from larkline.stores import inbox, migrate, reply_rows, transcripts, turn_rows, upgrade, upkeep
from larkline.stores import sqlite as sqlite_store
from larkline.stores.migrate import SHIPPED, Lineage
from larkline.stores.sqlite import SqliteStore, open_sqlite
from larkline.stores.statement import Statement
from larkline.stores.writer import Writer

HERE = Place("cli_app", "oc_here")
LIMITS = QueueLimits(per_conversation=10_000, total=10_000)


def message(name: str) -> Inbound:
    return Inbound(
        MessageId(f"om_{name}"), "ev", HERE, True, UserId("ou"), "text", "hi", 1_800_000_000.0
    )


def turn(prompt: str = "hi") -> Verdict:
    return Verdict(Standing.TURN, NewTurn(TurnKind.PROMPT, prompt), LIMITS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "larkline.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    store = await open_sqlite(path)
    yield store
    await store.close()


def schema_of(path: Path) -> dict[str, str]:
    """Every table's and index's SQL without differences in white space and quotes."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        rows = db.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    return {
        name: re.sub(r"[\s\"']+", " ", sql).replace("( ", "(").replace(" )", ")")
        for name, sql in rows
    }


def revision_of(path: Path) -> str:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return str(db.execute("SELECT version_num FROM alembic_version").fetchone()[0])


def is_private(path: Path) -> bool:
    return stat.S_IMODE(path.stat().st_mode) == 0o600


# migrations


def test_a_fresh_schema_is_what_the_migrations_make(tmp_path: Path) -> None:
    """Made at once or step by step: the same tables and indexes."""
    at_once, by_steps = tmp_path / "once.db", tmp_path / "steps.db"
    for db in migrate.prepare(at_once, SHIPPED, 0):
        db.close()
    upgrade.to_head(by_steps, SHIPPED.scripts, SHIPPED.head)
    assert schema_of(at_once) == schema_of(by_steps)
    assert revision_of(at_once) == revision_of(by_steps) == SHIPPED.head


def test_the_revisions_are_those_of_the_scripts() -> None:
    """The list that is compared without Alembic is the list of the scripts."""
    names = sorted(each.name for each in (SHIPPED.scripts / "versions").glob("r*.py"))
    assert [name[1:5] for name in names] == list(SHIPPED.revisions)


def next_release(tmp_path: Path, body: str) -> Lineage:
    """A lineage with one revision more."""
    scripts = tmp_path / "migrations"
    shutil.copytree(SHIPPED.scripts, scripts, ignore=shutil.ignore_patterns("__pycache__"))
    (scripts / "versions" / "r9999_next.py").write_text(
        "from alembic import op\n"
        f"revision = '9999'\ndown_revision = '{SHIPPED.head}'\n"
        f"branch_labels = depends_on = None\ndef upgrade():\n{body}\n"
    )
    return Lineage((*SHIPPED.revisions, "9999"), scripts)


async def test_an_older_database_is_migrated_after_a_backup(path: Path, tmp_path: Path) -> None:
    """The data survive, the backup holds the old state and is private."""
    store = await open_sqlite(path)
    await store.accept(message("1"), turn())
    await store.close()
    newer = next_release(tmp_path, "    op.execute('CREATE TABLE later (id INTEGER)')")
    store = await open_sqlite(path, lineage=newer)
    assert await store.counts() == QueueCounts(1, 0)
    await store.accept(message("2"), turn())
    await store.close()
    backup = path.with_name(f"larkline.db.bak-{SHIPPED.head}")
    assert revision_of(path) == "9999"
    assert revision_of(backup) == SHIPPED.head
    assert is_private(backup)
    with contextlib.closing(sqlite3.connect(backup)) as db:
        assert db.execute("SELECT count(*) FROM turns").fetchone()[0] == 1
    store = await open_sqlite(path, lineage=newer)
    assert await store.counts() == QueueCounts(2, 0)
    await store.close()


async def test_a_failed_migration_changes_nothing(path: Path, tmp_path: Path) -> None:
    """All of it or nothing: the old release still opens the database."""
    store = await open_sqlite(path)
    await store.accept(message("1"), turn())
    await store.close()
    before = schema_of(path)
    broken = next_release(
        tmp_path, "    op.execute('CREATE TABLE later (id INTEGER)')\n    raise RuntimeError('no')"
    )
    with pytest.raises(StoreError, match="9999 failed and was undone: no"):
        await open_sqlite(path, lineage=broken)
    assert schema_of(path) == before
    store = await open_sqlite(path)
    assert await store.counts() == QueueCounts(1, 0)
    await store.close()


async def test_a_newer_database_is_refused(path: Path, tmp_path: Path) -> None:
    """A settings error that names the revision and the way out; the file stays as it is."""
    newer = next_release(tmp_path, "    op.execute('CREATE TABLE later (id INTEGER)')")
    await (await open_sqlite(path)).close()
    await (await open_sqlite(path, lineage=newer)).close()
    with pytest.raises(SettingsError, match=r"schema 9999.*newer larkline"):
        await open_sqlite(path)
    assert revision_of(path) == "9999"


async def test_a_strange_database_is_refused(path: Path) -> None:
    """Somebody else's tables are not touched."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE notes (id INTEGER)")
    with pytest.raises(SettingsError, match="not larkline's"):
        await open_sqlite(path)
    assert set(schema_of(path)) == {"notes"}


async def test_a_damaged_file_is_a_clear_error(path: Path) -> None:
    """The message names the file and what to do."""
    path.write_bytes(b"this was a database once" * 1000)
    with pytest.raises(StoreError, match=r"larkline\.db cannot be used.*backup"):
        await open_sqlite(path)


async def test_damage_found_later_is_a_store_error(path: Path) -> None:
    """A page that turned to noise fails the call that meets it, with a reason."""
    store = await open_sqlite(path)
    await store.append(("p", "s", ""), [{"n": n, "x": "x" * 3000} for n in range(300)])
    await store.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(os.urandom(size // 4))
    store = await open_sqlite(path)
    with pytest.raises(StoreError, match="the database refused"):
        await store.load(("p", "s", ""))
    await store.close()


async def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """An impossible path is a store error that names it."""
    with pytest.raises(StoreError, match=r"nowhere/larkline\.db"):
        await open_sqlite(tmp_path / "nowhere" / "larkline.db")


async def test_files_are_private(path: Path, store: SqliteStore) -> None:
    """Nobody else reads messages: database, log and index have mode 0600."""
    await store.accept(message("1"), turn())
    files = sorted(path.parent.glob("larkline.db*"))
    assert [each.suffix for each in files] == [".db", ".db-shm", ".db-wal"]
    assert all(is_private(each) for each in files)


async def test_a_file_with_a_loose_mode_is_tightened(path: Path) -> None:
    """A copied database does not stay readable for others."""
    path.touch(mode=0o644)
    await (await open_sqlite(path)).close()
    assert is_private(path)


def test_alembic_is_not_loaded_when_nothing_is_to_migrate(path: Path) -> None:
    """A fresh and a current database open without it: memory and start time are budgeted."""
    code = (
        "import asyncio, pathlib, sys\n"
        "from larkline.stores.sqlite import open_sqlite\n"
        "async def main():\n"
        "    for _ in range(2):\n"
        "        await (await open_sqlite(pathlib.Path(sys.argv[1]))).close()\n"
        "asyncio.run(main())\n"
        "sys.exit('alembic' in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=60)


async def test_settings_of_the_connection(path: Path, store: SqliteStore) -> None:
    """Durable at every commit, with a log beside the file, and references that hold."""
    [writer, *_] = migrate.prepare(path, SHIPPED, 0)
    pragmas = {
        name: writer.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
    }
    writer.close()
    assert pragmas == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "busy_timeout": 5000,
    }


# the writer


async def test_a_failing_write_does_not_harm_its_neighbours(store: SqliteStore) -> None:
    """Jobs that are committed together stand or fall alone."""
    results = await asyncio.gather(
        *(store.accept(message(str(n)), turn()) for n in range(20)),
        store.save_part(Part(ReplyId(999), 0, 0, "text", "k" * 36)),
        *(store.accept(message(str(n)), turn()) for n in range(20, 40)),
        return_exceptions=True,
    )
    errors = [each for each in results if isinstance(each, BaseException)]
    assert [type(each) for each in errors] == [StoreError]
    assert await store.counts() == QueueCounts(40, 0)


async def test_many_writes_share_a_commit(path: Path, store: SqliteStore) -> None:
    """Concurrent writes cost far fewer transactions than there are writes."""
    commits = 0

    def traced(statement: str) -> None:
        nonlocal commits
        commits += statement == "COMMIT"

    store._writer._db.set_trace_callback(traced)
    await asyncio.gather(*(store.accept(message(str(n)), turn()) for n in range(500)))
    assert 0 < commits < 100


async def test_a_cancelled_write_is_still_made(store: SqliteStore) -> None:
    """Cancelling the caller neither loses the write nor locks the store."""
    task = asyncio.create_task(store.accept(message("1"), turn()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await store.writable()
    assert await store.counts() == QueueCounts(1, 0)


@pytest.mark.parametrize("moments", range(12))
async def test_a_turn_whose_taker_was_cancelled_goes_back(store: SqliteStore, moments: int) -> None:
    """Whenever the cancellation comes: the turn is queued, or its claim was handed over."""
    await store.accept(message("1"), turn())
    await store.writable()
    task = asyncio.create_task(store.take())
    for _ in range(moments):
        await asyncio.sleep(0 if moments < 6 else 0.0004)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        claim = await task
        assert claim is not None
        return
    await store.writable()  # the take is committed by now
    async with asyncio.timeout(5):
        while await store.counts() != QueueCounts(1, 0):
            await store.writable()
    claim = await store.take()
    assert claim is not None
    assert claim.attempt == 1
    reply = await store.live(claim.reply)
    assert reply is not None
    assert len(reply.parts) == 1
    assert await store.settle(claim, Outcome(Ending.ANSWERED, Final("x")))


async def test_close_finishes_what_is_under_way(path: Path) -> None:
    """Every write that was begun before close is durable."""
    store = await open_sqlite(path)
    tasks = [asyncio.create_task(store.accept(message(str(n)), turn())) for n in range(300)]
    await asyncio.sleep(0)
    await store.close()
    assert all([(await task).fresh for task in tasks])
    store = await open_sqlite(path)
    assert await store.counts() == QueueCounts(300, 0)
    await store.close()


async def test_more_callers_than_places_wait_for_their_turn(store: SqliteStore) -> None:
    """The queue of writes is bounded; whoever does not fit waits and is served."""
    accepted = await asyncio.gather(*(store.accept(message(str(n)), turn()) for n in range(3000)))
    assert len({each.turn for each in accepted}) == 3000


class Failing(sqlite3.Connection):
    """A connection on which chosen statements fail once each, as a bad disk makes them."""

    fail: tuple[str, ...] = ()

    def execute(self, sql: str, *rest: object) -> sqlite3.Cursor:
        if sql in self.fail:
            self.fail = tuple(each for each in self.fail if each != sql)
            raise sqlite3.OperationalError(f"disk I/O error in {sql}")
        return super().execute(sql, *rest)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "failing",
    [("COMMIT",), ("COMMIT", "ROLLBACK"), ("BEGIN IMMEDIATE",), ("SAVEPOINT job",)],
    ids="+".join,
)
async def test_the_writer_survives_a_disk_that_fails(path: Path, failing: tuple[str, ...]) -> None:
    """The whole batch is refused, nobody waits for ever, the next write succeeds."""
    await (await open_sqlite(path)).close()
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=Failing)
    db.execute("CREATE TABLE marks (n INTEGER)")
    db.fail = failing
    writer = Writer(db)

    def mark(db: sqlite3.Connection) -> int:
        return db.execute("INSERT INTO marks VALUES (1)").rowcount

    async with asyncio.timeout(10):
        refused = await asyncio.gather(
            *(writer.write(mark) for _ in range(5)), return_exceptions=True
        )
        assert await writer.write(mark) == 1
        await writer.close()
    kept = 1 + sum(not isinstance(each, BaseException) for each in refused)
    assert any(isinstance(each, StoreError) for each in refused)
    with contextlib.closing(sqlite3.connect(path)) as found:
        assert found.execute("SELECT count(*) FROM marks").fetchone()[0] == kept


async def test_a_lock_of_somebody_else_is_waited_for(path: Path, store: SqliteStore) -> None:
    """A backup tool that holds the database for a moment fails nothing."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        task = asyncio.create_task(store.accept(message("1"), turn()))
        done, _ = await asyncio.wait([task], timeout=0.3)
        assert not done
        other.execute("COMMIT")
    assert (await task).fresh


async def test_a_write_that_does_not_end_is_not_writable(
    path: Path, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Health is answered in time, with the reason."""
    monkeypatch.setattr(sqlite_store, "WRITABLE_SECONDS", 0.2)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="no write came to its end"):
            await store.writable()
        other.execute("COMMIT")
    await store.writable()


WRITER = """
import asyncio, pathlib, sys
sys.path.insert(0, sys.argv[2])
from test_sqlite import message, turn
from larkline.stores.sqlite import open_sqlite
async def main():
    store = await open_sqlite(pathlib.Path(sys.argv[1]))
    numbers = iter(range(10**6))
    async def caller():
        for n in numbers:
            await store.accept(message(str(n)), turn("x" * 500))
            sys.stdout.write(f"{n}\\n")
            sys.stdout.flush()
    await asyncio.gather(*(caller() for _ in range(32)))
asyncio.run(main())
"""


@pytest.mark.parametrize("after", [50, 700, 2000])
async def test_nothing_acknowledged_is_lost_when_the_process_is_killed(
    path: Path, after: int
) -> None:
    """SIGKILL in full flight: what was returned is there, and the file is whole."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(Path(__file__).parent)],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        acknowledged = [process.stdout.readline().strip() for _ in range(after)]
        os.kill(process.pid, signal.SIGKILL)
        acknowledged += process.stdout.read().split("\n")[:-1]
    store = await open_sqlite(path)
    for number in acknowledged:
        assert not (await store.accept(message(number), turn())).fresh
    await store.close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


FULL = """
import asyncio, json, pathlib, resource, sys
sys.path.insert(0, sys.argv[2])
from test_sqlite import message, turn
from larkline.domain.errors import StoreError
from larkline.stores.sqlite import open_sqlite
SMALL = 600_000
async def main():
    store = await open_sqlite(pathlib.Path(sys.argv[1]))
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, most))
    calls = [store.accept(message(str(n)), turn("x" * 9000)) for n in range(400)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    errors = [each for each in results if isinstance(each, BaseException)]
    try:
        for n in range(1000):
            await store.writable()
            await store.accept(message(f"more{n}"), turn("x" * 9000))
        refused = ""
    except StoreError as error:
        refused = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    await store.writable()
    recovered = await store.accept(message("after"), turn())
    await store.close()
    print(json.dumps({
        "stored": [n for n, each in enumerate(results) if not isinstance(each, BaseException)],
        "types": sorted({type(each).__name__ for each in errors}),
        "refused": refused,
        "recovered": recovered.fresh,
    }))
asyncio.run(main())
"""


async def test_a_full_disk_is_an_error_and_no_loss(path: Path) -> None:
    """What was refused is not there, what was returned is; with space again it goes on."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(path), str(Path(__file__).parent)],
        check=True,
        capture_output=True,
        timeout=60,
    )
    report = json.loads(done.stdout)
    assert report["types"] in ([], ["StoreError"])
    assert report["refused"]
    assert report["recovered"]
    store = await open_sqlite(path)
    for number in range(400):
        fresh = (await store.accept(message(str(number)), Verdict(Standing.ANSWERED))).fresh
        assert fresh is (number not in report["stored"])
    await store.close()


# the statements


def test_no_statement_walks_through_a_whole_table(path: Path) -> None:
    """Every statement finds its rows by an index, however much is stored."""
    [db] = migrate.prepare(path, SHIPPED, 0)
    walks = []
    for module in (turn_rows, reply_rows, inbox, transcripts, upkeep):
        for name, statement in vars(module).items():
            if isinstance(statement, Statement):
                nothing = dict.fromkeys(re.findall(r":(\w+)", statement.sql))
                for row in db.execute(f"EXPLAIN QUERY PLAN {statement.sql}", nothing):
                    if re.match(r"SCAN \w+$", row["detail"]):
                        walks.append(f"{module.__name__}.{name}: {row['detail']}")
    db.close()
    assert walks == []


async def test_two_running_turns_of_a_conversation_are_impossible(store: SqliteStore) -> None:
    """The database itself refuses the second one."""
    await store.accept(message("1"), turn())
    await store.accept(message("2"), turn())
    await store.take()
    with pytest.raises(StoreError, match="UNIQUE"):
        await store._writer.write(
            lambda db: db.execute("UPDATE turns SET state='running'").rowcount
        )
    assert await store.counts() == QueueCounts(1, 1)


async def test_numbers_beyond_the_database_are_a_store_error(store: SqliteStore) -> None:
    """A value that no column holds fails its own call only."""
    await store.notify(NewNotice(Target(HERE), "n"))
    (reply,) = await store.due(0, 1)
    with pytest.raises(StoreError):
        await store.save_part(Part(reply.id, 0, 0, "text", "k", reserved=2**70))
    await store.writable()
