"""The broker's watch over silent streams."""

import asyncio
import time

import pytest

from larkline.agents.silence import Silence


async def test_expires_after_silence() -> None:
    """Nothing heard for the limit ends the wait, a moment later."""
    began = time.monotonic()
    with pytest.raises(TimeoutError):  # noqa: PT012
        async with asyncio.timeout(None) as timeout:
            with Silence(timeout, 0.1):
                await asyncio.Event().wait()
    assert 0.1 <= time.monotonic() - began < 2


async def test_a_stall_of_our_own_is_no_silence() -> None:
    """What arrived while the loop stood still is heard before the watch ends anything."""
    reader, writer = await _pipe()
    async with asyncio.timeout(None) as timeout:
        with Silence(timeout, 0.1) as silence:
            writer.write(b"x")
            time.sleep(0.3)  # the loop stands still, far longer than the limit
            assert await reader.readexactly(1) == b"x"
            silence.heard()
            await asyncio.sleep(0)
            assert not timeout.expired()


async def test_a_new_limit_begins_anew() -> None:
    """The limit before the headers ends with them."""
    async with asyncio.timeout(None) as timeout:
        with Silence(timeout, 0.05) as silence:
            silence.limit(60)
            await asyncio.wait([asyncio.ensure_future(asyncio.sleep(0.4))])
    assert not timeout.expired()


async def _pipe() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader: asyncio.Future[asyncio.StreamReader] = asyncio.get_running_loop().create_future()
    server = await asyncio.start_server(lambda r, _: reader.set_result(r), "127.0.0.1", 0)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    server.close()
    return await reader, writer
