"""Figures of the SQLite store.

accepts: how many messages a second are durable at concurrency 64, and how long one takes.
ack: accept under a steady 200 a second while the event loop is kept busy.
turns: take + settle at 100, 10,000 and 100,000 stored conversations, interleaved; the ratio of
the medians must stay flat.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from larkline.domain.model import (
    Ending,
    Final,
    Inbound,
    MessageId,
    NewTurn,
    Outcome,
    Place,
    QueueLimits,
    Standing,
    TurnKind,
    UserId,
    Verdict,
)
from larkline.stores.connection import connect
from larkline.stores.sqlite import SqliteStore, open_sqlite

LIMITS = QueueLimits(per_conversation=100_000, total=100_000)
TURN = Verdict(Standing.TURN, NewTurn(TurnKind.PROMPT, "please fix the tests"), LIMITS)
DONE = Outcome(Ending.ANSWERED, Final("done"))


def message(name: str, conversation: int) -> Inbound:
    """A message to one of many conversations."""
    place = Place("cli_bench", f"oc_{conversation}")
    return Inbound(
        MessageId(f"om_{name}"), f"ev_{name}", place, True, UserId("ou"), "text", "hi", time.time()
    )


def spread(times: list[float]) -> dict[str, float]:
    """Milliseconds."""
    ordered = sorted(times)
    return {
        "p50_ms": round(statistics.median(ordered) * 1000, 3),
        "p99_ms": round(ordered[int(len(ordered) * 0.99) - 1] * 1000, 3),
        "max_ms": round(ordered[-1] * 1000, 3),
    }


async def accepts(folder: Path, total: int = 3_000, together: int = 64) -> dict[str, object]:
    """Durable accepts a second from `together` callers; nothing is taken meanwhile."""
    store = await open_sqlite(folder / "accepts.db")
    numbers = iter(range(total))
    times: list[float] = []

    async def caller() -> None:
        for n in numbers:
            began = time.perf_counter()
            await store.accept(message(str(n), n % 2000), TURN)
            times.append(time.perf_counter() - began)

    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(caller() for _ in range(together)))
    took, cpu = time.perf_counter() - began, time.process_time() - cpu
    await store.close()
    return {
        "per_second": round(total / took),
        "together": together,
        "cpu_us_each": round(cpu / total * 1e6),
        **spread(times),
    }


async def acks(folder: Path, seconds: float = 5.0, rate: int = 200) -> dict[str, object]:
    """Accept at a steady rate while the loop works 2 ms of every 3."""
    store = await open_sqlite(folder / "acks.db")
    times: list[float] = []
    stop = time.perf_counter() + seconds

    async def busy() -> None:
        while time.perf_counter() < stop:
            until = time.perf_counter() + 0.002
            while time.perf_counter() < until:
                pass
            await asyncio.sleep(0.001)

    async def one(n: int, planned: float) -> None:
        await store.accept(message(str(n), n % 200), TURN)
        times.append(time.perf_counter() - planned)

    load = asyncio.ensure_future(busy())
    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for n in range(int(seconds * rate)):
            planned = began + n / rate
            await asyncio.sleep(max(0.0, planned - time.perf_counter()))
            group.create_task(one(n, planned))
    await load
    await store.close()
    return {"rate_per_second": rate, **spread(times)}


def fill(path: Path, conversations: int) -> None:
    """A past: conversations with a finished, delivered turn each, in plain SQL for speed."""
    db = connect(path, writes=True)
    db.execute("BEGIN IMMEDIATE")
    db.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
        "INSERT INTO conversations SELECT printf('%016x', i), 'cli', 'oc' || i, '', 1, NULL, 1, 1 "
        "FROM n",
        (conversations,),
    )
    db.execute(
        "INSERT INTO messages SELECT 'old' || id, id, 'turn', 'ou', 1, 1, NULL FROM conversations"
    )
    db.execute(
        "INSERT INTO turns (conversation, message_id, message_created_at, sender, kind, prompt,"
        " accepted_at, state, epoch, announced, ended_at, ending) SELECT conversation, id, 1, 'ou',"
        " 'prompt', 'hi', 1, 'ended', 1, 0, 2, 'answered' FROM messages"
    )
    db.execute("INSERT INTO attempts SELECT id, 1, 'uuid' || id, 1, 2, 'answered' FROM turns")
    db.execute(
        "INSERT INTO replies (conversation, app_id, chat_id, thread_id, reply_to, turn, state,"
        " final, created_at, due_at, due_order, attempts, settled_at) SELECT conversation, 'cli',"
        " 'oc', '', message_id, id, 'sent', '{}', 1, 1, id, 0, 2 FROM turns"
    )
    db.execute(
        "INSERT INTO parts SELECT id, 0, 0, 'card', 'key' || id, 'c', 'om', 9, 1, 'final'"
        " FROM replies"
    )
    db.execute("COMMIT")
    db.close()


async def one_turn(store: SqliteStore, n: int) -> tuple[float, float]:
    """Seconds of take + settle, and of due + next_due + counts + delivered."""
    await store.accept(message(str(n), n), TURN)
    began = time.perf_counter()
    claim = await store.take()
    assert claim is not None
    await store.settle(claim, DONE)
    settled = time.perf_counter()
    (reply,) = await store.due(time.time(), 10)
    await store.next_due(time.time())
    await store.counts()
    await store.delivered(reply.id)
    return settled - began, time.perf_counter() - settled


async def turns(folder: Path, rounds: int = 300) -> dict[str, object]:
    """One turn on each database in every round, so that noise hits all alike."""
    sizes = (100, 10_000, 100_000)
    stores = {}
    for size in sizes:
        path = folder / f"turns-{size}.db"
        await (await open_sqlite(path)).close()
        fill(path, size)
        stores[size] = await open_sqlite(path)
    times: dict[int, list[tuple[float, float]]] = {size: [] for size in sizes}
    for n in range(rounds):
        for size in sizes:
            times[size].append(await one_turn(stores[size], n))
    for store in stores.values():
        await store.close()
    medians = {
        size: [statistics.median(column) * 1000 for column in zip(*times[size], strict=True)]
        for size in sizes
    }
    return {
        "take_and_settle_p50_ms": {size: round(medians[size][0], 3) for size in sizes},
        "deliver_p50_ms": {size: round(medians[size][1], 3) for size in sizes},
        "take_and_settle_ratio": round(medians[sizes[-1]][0] / medians[sizes[0]][0], 2),
        "deliver_ratio": round(medians[sizes[-1]][1] / medians[sizes[0]][1], 2),
    }


async def measure() -> dict[str, object]:
    """All figures, and whether the bars are met."""
    with tempfile.TemporaryDirectory(prefix="larkline-bench-") as name:
        folder = Path(name)
        figures = {
            "accepts": await accepts(folder),
            "ack": await acks(folder),
            "turns": await turns(folder),
        }
    bars = {
        "accepts >= 2000/s": figures["accepts"]["per_second"] >= 2000,  # type: ignore[operator]
        "ack p99 < 50 ms": figures["ack"]["p99_ms"] < 50,  # type: ignore[operator]
        "take and settle flat": figures["turns"]["take_and_settle_ratio"] <= 1.5,  # type: ignore[operator]
        "delivery flat": figures["turns"]["deliver_ratio"] <= 1.5,  # type: ignore[operator]
    }
    return {**figures, "bars": bars, "met": all(bars.values())}
