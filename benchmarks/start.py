"""Process start to `/readyz` against `import lark_oapi` in a fresh process, and memory.

The data directory knows 2,000 conversations. Bars: ratio of medians 0.4; RSS below 90 MB at ready
and below 130 MB after 20 turns with all agents closed.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time

import aiohttp
from gateway_kit import Gateway, until

from benchmarks.kit import Figures, rss_mb, spread, stage
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
from larkline.stores.sqlite import open_sqlite

ROUNDS, CONVERSATIONS, TURNS = 20, 2000, 20
START, READY_MB, AFTER_MB = 0.4, 90, 130


async def fill(gateway: Gateway) -> None:
    """Conversations with one ended turn each."""
    gateway.data_dir.mkdir(parents=True, exist_ok=True)
    store = await open_sqlite(gateway.data_dir / "larkline.db")
    turn = NewTurn(TurnKind.PROMPT, "hello")
    for n in range(CONVERSATIONS):
        message = Inbound(
            MessageId(f"om_{n}"), f"e{n}", Place(gateway.platform.app.app_id, f"oc_{n}"), True,
            UserId("ou_x"), "text", "hello", time.time(),
        )  # fmt: skip
        limits = QueueLimits(100, 100_000)
        await store.accept(message, Verdict(Standing.TURN, turn=turn, limits=limits))
        claim = await store.take()
        assert claim is not None
        await store.settle(claim, Outcome(Ending.ANSWERED, Final("hi")))
        await store.delivered(claim.reply)
    await store.close()


async def to_ready(gateway: Gateway) -> tuple[float, float]:
    """Seconds from exec to a `/readyz` of 200, and RSS in MB then."""
    began = time.perf_counter()
    gateway.process = await gateway.spawn("run")
    port = int(gateway.settings["LARKLINE_WEB__PORT"])
    async with aiohttp.ClientSession() as session, asyncio.timeout(60):
        while True:
            try:
                async with session.get(f"http://127.0.0.1:{port}/readyz") as answer:
                    if answer.status == 200:
                        return time.perf_counter() - began, rss_mb(gateway.process.pid)
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.005)


async def import_sdk() -> float:
    """Seconds that a process takes to import the official SDK."""
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "import lark_oapi")
    await process.wait()
    return time.perf_counter() - began


async def measure() -> Figures:
    """Starts and imports, interleaved; then memory after turns."""
    async with stage(
        LARKLINE_WEB__PORT="18639", LARKLINE_AGENT__IDLE_SECONDS="1", LARKLINE_LOG__LEVEL="warning"
    ) as gateway:
        await fill(gateway)
        starts, imports, ready_mb = [], [], []
        for _ in range(ROUNDS):
            imports.append(await import_sdk())
            seconds, memory = await to_ready(gateway)
            starts.append(seconds)
            ready_mb.append(memory)
            await gateway.stop()
        await to_ready(gateway)
        assert gateway.process is not None
        user = gateway.platform.users[0]
        for n in range(TURNS):
            chat = gateway.platform.add_group(f"g{n}", gateway.platform.users)
            await gateway.answer(user, f"[[tokens:200]] {n}", chat=chat, mention=True)
        await until(lambda: not gateway.agents(), 60)
        after_mb = rss_mb(gateway.process.pid)
    ratio = statistics.median(starts) / statistics.median(imports)
    return {
        "what": "seconds from process start to ready; RSS of the gateway in MB",
        "to_ready": spread(starts),
        "import_lark_oapi": spread(imports),
        "ratio_start": round(ratio, 3),
        "rss_ready_mb": spread(ready_mb, 1),
        "rss_after_turns_mb": round(after_mb, 1),
        "bars": {"ratio_start": START, "rss_ready_mb": READY_MB, "rss_after_turns_mb": AFTER_MB},
        "met": ratio <= START and max(ready_mb) < READY_MB and after_mb < AFTER_MB,
    }
