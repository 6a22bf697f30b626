"""The official Python SDK, unchanged, works against the simulator."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from sdk_bot import exercise, sdk_bot

from larkline.sim.platform import Platform

CHILD = Path(__file__).with_name("sdk_child.py")


@pytest.mark.slow
async def test_python_sdk_receives_replies_patches_and_streams() -> None:
    """lark-oapi connects, is served, reconnects after a cut, and nothing it does is refused."""
    async with Platform() as p:
        p.connections.config.reconnect_nonce = 0
        p.connections.config.reconnect_interval = 1
        async with sdk_bot(p, sys.executable, str(CHILD)) as bot:
            await exercise(p, bot)
            await p.connections.drop()
            await p.until(lambda: not p.connections.links)
            await p.connected()
            p.people.send("lin", "text again")
            await bot.step("received")
            await bot.step("done")
