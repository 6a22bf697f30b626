"""The SDK's own conformance suite over our transcripts, in each of our stores."""

from __future__ import annotations

import itertools
from pathlib import Path

from claude_agent_sdk import SessionStore
from claude_agent_sdk.testing import run_session_store_conformance

from larkline.agents.transcripts import Mirror
from larkline.ports import Store
from larkline.stores.memory import MemoryStore
from larkline.stores.sqlite import open_sqlite


async def test_the_memory_store_conforms() -> None:
    """All contracts of the SDK."""

    async def make() -> SessionStore:
        return Mirror(MemoryStore())  # type: ignore[return-value]  # summaries are optional

    await run_session_store_conformance(make)


async def test_sqlite_conforms(tmp_path: Path) -> None:
    """All contracts of the SDK."""
    numbers = itertools.count()
    opened: list[Store] = []

    async def make() -> SessionStore:
        store = await open_sqlite(tmp_path / f"{next(numbers)}.db")
        opened.append(store)
        return Mirror(store)  # type: ignore[return-value]  # summaries are optional

    try:
        await run_session_store_conformance(make)
    finally:
        for store in opened:
            await store.close()
