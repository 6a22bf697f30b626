"""The official Node SDK, unchanged, works against the simulator."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from sdk_bot import exercise, sdk_bot

from larkline.sim.platform import Platform

FOLDER = Path(__file__).with_name("node")


@pytest.mark.slow
async def test_node_sdk_receives_replies_patches_and_streams() -> None:
    """@larksuiteoapi/node-sdk connects, is served, and nothing it does is refused."""
    node = shutil.which("node")
    if node is None or not (FOLDER / "node_modules").is_dir():
        pytest.skip("Node or tests/integration/node/node_modules is missing: make test")
    async with Platform() as p, sdk_bot(p, node, str(FOLDER / "bot.js")) as bot:
        await exercise(p, bot)
