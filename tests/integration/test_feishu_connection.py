from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from feishu_kit import Inbox, running_chat, until, works
from structlog.testing import capture_logs

from larkline.chats.feishu.websocket import MAX_BAD_FRAMES
from larkline.domain.model import (
    ChatEvent,
)
from larkline.sim.faults import HandshakeRefusal
from larkline.sim.platform import APP_SECRET, Platform


@pytest.fixture
async def platform() -> AsyncIterator[Platform]:
    async with Platform() as started:
        yield started


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (1, "busy"),
        (403, "console"),
        (514, "feishu.app_secret"),
        (1000040343, "internal error"),
        (1000040344, "feishu.app_id"),
        (1000040345, "feishu.app_secret"),
        (1000040350, "too many connections"),
        (1000040351, "feishu.domain"),
        (4711, "4711"),
    ],
)
async def test_every_code_of_the_endpoint_is_survived(
    platform: Platform, code: int, words: str
) -> None:
    """Whatever code the endpoint refuses with, we say why and connect when it lets us."""
    platform.faults.endpoint_codes = [code] * 3
    inbox = Inbox()
    async with running_chat(platform.domain, inbox) as chat:
        await until(lambda: words in chat.connection().reason)
        assert not chat.connection().connected
        await works(platform, inbox)
        assert chat.connection().reason == ""


@pytest.mark.parametrize("status", [302, 403, 404, 429, 500, 502])
async def test_http_errors_of_the_endpoint_are_survived(platform: Platform, status: int) -> None:
    """HTTP errors without the platform's JSON are named and tried again."""
    platform.faults.endpoint_status = [status] * 2
    inbox = Inbox()
    async with running_chat(platform.domain, inbox) as chat:
        await until(lambda: f"HTTP {status}" in chat.connection().reason)
        await works(platform, inbox)


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (HandshakeRefusal(514, "too many", 1000040350), "too many connections"),
        (HandshakeRefusal(514, "auth", 1000040346), "1000040346"),
        (HandshakeRefusal(403, "forbidden"), "console"),
        (HandshakeRefusal(999, "new"), "999"),
    ],
)
@pytest.mark.parametrize("status", [400, 200, 500])
async def test_every_refused_handshake_is_survived(
    platform: Platform, refusal: HandshakeRefusal, words: str, status: int
) -> None:
    """A refused handshake is explained from its own headers, whatever its HTTP status."""
    platform.variants.handshake_status = status
    platform.faults.handshakes = [refusal] * 2
    inbox = Inbox()
    async with running_chat(platform.domain, inbox) as chat:
        await until(lambda: words in chat.connection().reason)
        await works(platform, inbox)


async def test_a_hanging_endpoint_is_given_up_and_asked_again(platform: Platform) -> None:
    """The endpoint call has a deadline."""
    platform.faults.endpoint_hangs = 1
    inbox = Inbox()
    async with running_chat(platform.domain, inbox) as chat:
        await until(lambda: "no answer within" in chat.connection().reason)
        await works(platform, inbox)


@pytest.mark.parametrize("end", ["rude", "polite"])
async def test_a_lost_connection_comes_back(platform: Platform, end: str) -> None:
    """After a cut or a close there is a new connection, and it is counted."""
    inbox = Inbox()
    async with running_chat(platform.domain, inbox) as chat:
        await works(platform, inbox)
        await platform.connections.drop(rude=end == "rude")
        await until(lambda: chat.connection().reconnects == 1)
        await works(platform, inbox)
    assert inbox.events


async def test_a_reconnect_touches_nothing_that_is_being_handled(platform: Platform) -> None:
    """A `receive` under way is not cancelled by the loss of its connection."""
    gate, finished = asyncio.Event(), asyncio.Event()

    async def hold(_: ChatEvent) -> None:
        await gate.wait()
        finished.set()

    inbox = Inbox(answer=hold)
    async with running_chat(platform.domain, inbox) as chat:
        await platform.connected()
        platform.people.send(platform.users[0], "long")
        await inbox.until(1)
        await platform.connections.drop()
        await until(lambda: chat.connection().reconnects == 1)
        gate.set()
        async with asyncio.timeout(5):
            await finished.wait()
        assert chat.connection().connected


@pytest.mark.parametrize("how", ["half_open", "deaf"])
async def test_a_silent_connection_is_noticed(platform: Platform, how: str) -> None:
    """An open connection that gives nothing, not even pongs, is dropped and replaced."""
    inbox = Inbox()
    async with running_chat(platform.domain, inbox) as chat:
        await works(platform, inbox)
        if how == "deaf":
            platform.faults.deaf = True
        else:
            platform.connections.half_open()
        await until(lambda: "silent" in chat.connection().reason)
        platform.faults.deaf = False
        await until(lambda: chat.connection().connected)
        await works(platform, inbox)


async def test_a_connection_that_never_speaks_does_not_count_as_one(platform: Platform) -> None:
    """An accepted handshake alone is not a connection: the platform has to answer."""
    platform.faults.deaf = True
    async with running_chat(platform.domain) as chat:
        await platform.connected()
        await until(lambda: "silent" in chat.connection().reason)
        assert chat.connection().reconnects == 0


async def test_pings_follow_our_own_timer(platform: Platform) -> None:
    """Pings go on without any events, and name the service of the address."""
    async with running_chat(platform.domain, slack=0.2) as chat:
        await platform.connected()
        link = platform.connections.of(platform.app.app_id)[0]
        await until(lambda: link.pings >= 8)
        # Longer than two pings and the slack: pongs alone keep the connection.
        assert chat.connection().connected
        assert chat.connection().reconnects == 0
    assert platform.connections.malformed == []


async def test_junk_frames_are_dropped_and_in_masses_end_the_connection(
    platform: Platform,
) -> None:
    """A frame that is none costs a log line; a stream of them costs the connection."""
    inbox = Inbox()
    async with running_chat(platform.domain, inbox) as chat:
        await works(platform, inbox)
        link = platform.connections.of(platform.app.app_id)[0]
        with capture_logs() as lines:
            link.send_bytes(b"\xff junk")
            await works(platform, inbox)
        assert [line["event"] for line in lines].count("frame dropped that cannot be read") == 1
        assert chat.connection().reconnects == 0
        for _ in range(MAX_BAD_FRAMES + 1):
            link.send_bytes(b"\xff junk")
        await until(lambda: chat.connection().reconnects == 1)
        await works(platform, inbox)


async def test_the_end_is_quick_and_leaves_nothing(platform: Platform) -> None:
    """Cancelling `run` ends the connection and every task at once."""
    before = asyncio.all_tasks()
    async with asyncio.timeout(3):
        async with running_chat(platform.domain):
            await platform.connected()
    await until(lambda: not platform.connections.links)
    ours = ("feishu", "chat")
    left = {task.get_name() for task in asyncio.all_tasks() - before}
    assert not {name for name in left if name.startswith(ours)}


@pytest.mark.parametrize(
    ("domain", "words"),
    [
        ("http://127.0.0.1:1", "cannot connect to 127.0.0.1:1"),
        ("http://larkline.invalid", "cannot be resolved"),
        ("no address", "not valid"),
    ],
)
async def test_networks_that_don_t_work_are_named(domain: str, words: str) -> None:
    """Refused ports, unknown names and wrong addresses are told in words; we go on trying."""
    async with running_chat(domain, connect=3.0) as chat:
        await until(lambda: words in chat.connection().reason)


async def test_a_wrong_kind_of_server_is_named(platform: Platform) -> None:
    """TLS towards a server that speaks none is told in words."""
    async with running_chat(platform.domain.replace("http:", "https:")) as chat:
        await until(lambda: "TLS" in chat.connection().reason)


@asynccontextmanager
async def _endpoint(answer: web.Response) -> AsyncIterator[str]:
    async def say(_: web.Request) -> web.Response:
        return web.Response(body=answer.body, status=answer.status, content_type="text/plain")

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", say)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>portal</html>",
        b"[]",
        b"[" * 100_000,
        b'{"code": "0"}',
        b'{"code": true}',
        b'{"code": 0}',
        b'{"code": 0, "data": []}',
        b'{"code": 0, "data": {"URL": 7}}',
        b'{"code": 0, "data": {"URL": "http://127.0.0.1:1/"}}',
        b'{"code": 0, "data": {"URL": "ws://[broken"}}',
        b'{"code": 0, "data": {"URL": "ws://127.0.0.1:1/?service_id=x", "ClientConfig": 5}}',
        b'{"code": 7, "msg": {"a": 1}}',
        b"9" * 9_000_000,
    ],
)
async def test_garbage_from_the_endpoint_is_survived(body: bytes) -> None:
    """Whatever the endpoint answers, there is a reason, and no unforeseen error."""
    async with (
        _endpoint(web.Response(body=body)) as domain,
        running_chat(domain, connect=3.0) as chat,
    ):
        await until(lambda: chat.connection().reason not in ("", "not connected yet"))
        reason = chat.connection().reason
    assert "internal" not in reason
    assert len(reason) < 400


async def test_a_handshake_without_an_answer_is_given_up() -> None:
    """An address that takes the connection and says nothing does not hold us."""
    calls = 0

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        calls += 1
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        body = f'{{"code": 0, "data": {{"URL": "ws://127.0.0.1:{port}/?service_id=1"}}}}'
        async with (
            _endpoint(web.Response(body=body.encode())) as domain,
            running_chat(domain, connect=0.2) as chat,
        ):
            await until(lambda: calls >= 3)
            assert "no answer within" in chat.connection().reason


async def test_secrets_stay_out_of_logs_and_reasons(
    platform: Platform, caplog: pytest.LogCaptureFixture
) -> None:
    """App secret, token and ticket appear in no log line and no reason, whatever fails."""
    caplog.set_level(logging.DEBUG)
    platform.faults.endpoint_codes = [514]
    platform.faults.handshakes = [HandshakeRefusal(403, "no")]
    platform.faults.server_error("bot.info")
    inbox = Inbox()
    with capture_logs() as lines:
        async with running_chat(platform.domain, inbox) as chat:
            await works(platform, inbox)
            await until(lambda: chat.connection().bot is not None)
            await platform.connections.drop()
            await until(lambda: chat.connection().reconnects == 1)
    text = f"{lines} {caplog.text}"
    assert "feishu.app_secret" in text
    for secret in (APP_SECRET, *platform.rest.tokens):
        assert secret not in text
    assert "ticket" not in text
    assert "access_key" not in text


async def test_the_bots_own_id_is_learned_however_long_it_takes(platform: Platform) -> None:
    """Until the platform tells who we are, we ask again; messages come in meanwhile."""
    platform.faults.refuse("bot.info", 99991672, times=2)
    platform.faults.server_error("bot.info", times=2)
    inbox = Inbox()
    async with running_chat(platform.domain, inbox) as chat:
        await works(platform, inbox)
        await until(lambda: chat.connection().bot == platform.app.open_id)
