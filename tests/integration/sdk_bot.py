"""A bot on an official SDK as a child process, and what every such bot has to manage."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from larkline.sim.platform import Platform

Json = dict[str, Any]


class SdkBot:
    """The child's steps, one at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def step(self, name: str, seconds: float = 60.0) -> Json:
        """The next step, which has to be `name`; other output of the SDK is passed over.

        Raises:
            TimeoutError: it did not come in time.
        """
        assert self._process.stdout is not None
        async with asyncio.timeout(seconds):
            while line := await self._process.stdout.readline():
                if line.startswith(b'{"step"'):
                    found: Json = json.loads(line)
                    assert found["step"] == name, found
                    return found
        raise AssertionError(f"the bot ended before {name!r}")


@asynccontextmanager
async def sdk_bot(platform: Platform, *argv: str) -> AsyncIterator[SdkBot]:
    """Start the bot and wait until it is connected; it is killed at the end."""
    app = platform.app
    process = await asyncio.create_subprocess_exec(
        *argv,
        platform.domain,
        app.app_id,
        app.secret,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 20,
        env={"PATH": os.environ["PATH"], "NO_PROXY": "*", "LANG": "C.UTF-8"},
    )
    try:
        await platform.connected(1, 90)
        yield SdkBot(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def exercise(platform: Platform, bot: SdkBot) -> None:
    """Receive, reply, react, patch, stream, click, fragments: with no refusal, all acked."""
    chat = platform.p2p(platform.users[0])
    sent = platform.people.send("lin", "text 你好")
    received = await bot.step("received")
    assert received["text"] == "text 你好"
    assert received["sender"] == platform.open_id(platform.users[0])
    await bot.step("done")
    assert platform.text(platform.replies(chat)[-1]) == "got text 你好"
    assert platform.replies(chat)[-1].root_id == sent.message.message_id
    assert [emoji for _, emoji in sent.message.reactions.values()] == ["OK"]

    platform.people.send("lin", "patch please")
    await bot.step("received")
    await bot.step("done")
    patched = platform.replies(chat)[-1]
    assert platform.text(patched) == "after"

    platform.people.send("lin", "stream please")
    await bot.step("received")
    await bot.step("done")
    card = platform.card(platform.replies(chat)[-1])
    assert card is not None
    assert [(r.via, r.text) for r in card.revisions] == [
        ("create", "..."),
        ("content", "一"),
        ("content", "一二"),
        ("content", "一二三"),
        ("settings", "一二三"),
        ("update", "一二三。"),
    ]

    outcome, clicked = await asyncio.gather(
        platform.people.click("lin", patched, value={"do": "stop"}), bot.step("clicked")
    )
    assert clicked["value"] == {"do": "stop"}
    assert (outcome.code, outcome.toast) == (0, {"type": "success", "content": "ok"})

    platform.faults.fragment_bytes = 4096
    platform.people.send("lin", "长" * 20_000)
    assert (await bot.step("received"))["text"] == "长" * 20_000
    await bot.step("done")

    await platform.until(lambda: all(d.state == "acked" for d in platform.deliveries.all))
    assert platform.refusals() == []
    assert platform.connections.malformed == []
