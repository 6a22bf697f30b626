"""The model broker between clients (aiohttp, the real CLI) and the offline model."""

import asyncio
import contextlib
import gzip
import json
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat
from cryptography.x509.oid import NameOID
from oneshot import ask
from yarl import URL

from larkline.agents.broker import Broker, Upstream
from larkline.ports import ModelFailure
from larkline.sim.model import OfflineModel

KEY = "sk-the-real-key-8f1c"
Answer = tuple[int, dict[str, str], bytes]


@dataclass
class World:
    """A broker before an offline model that accepts the real key only."""

    model: OfflineModel
    broker: Broker
    token: str
    client: aiohttp.ClientSession

    async def post(self, prompt: str, *, token: str = "", stream: bool = True) -> Answer:
        headers = {"x-api-key": token or self.token}
        url = f"{self.broker.url}/v1/messages?beta=true"
        async with self.client.post(url, json=body(prompt, stream), headers=headers) as answer:
            return answer.status, dict(answer.headers), await answer.read()


def body(prompt: str, stream: bool = True) -> dict[str, object]:
    return {"model": "m", "messages": [{"role": "user", "content": prompt}], "stream": stream}


@contextlib.asynccontextmanager
async def world(
    *, silence_seconds: float = 5.0, whole_seconds: float = 5.0
) -> AsyncIterator[World]:
    async with OfflineModel(key=KEY) as model, aiohttp.ClientSession() as client:
        upstream = Upstream(model.url, api_key=KEY)
        async with Broker(
            upstream, silence_seconds=silence_seconds, whole_seconds=whole_seconds
        ) as broker:
            yield World(model, broker, broker.admit("agent"), client)


@contextlib.asynccontextmanager
async def upstream_of(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[str]:
    """A scripted upstream; yields its base URL."""
    app = web.Application(client_max_size=64 << 20)
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def self_signed(folder: Path) -> ssl.SSLContext:
    """A server's TLS with a certificate that it gave itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = folder / "server.pem"
    plain = serialization.NoEncryption()
    pem.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, plain)
        + certificate.public_bytes(Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


async def test_streams_pass_byte_for_byte_and_at_once() -> None:
    """Every chunk arrives as it was sent, before the upstream sends the next."""
    sent = [b'event: a\r\ndata: {"x":1}\r\n\r\n', b"da", b"ta: \xff\x00 not even text", b"\n\n"]
    taken = [asyncio.Event() for _ in sent]

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "X-Odd": "kept"}
        )
        await response.prepare(request)
        for chunk, event in zip(sent, taken, strict=True):
            await response.write(chunk)
            await asyncio.wait_for(event.wait(), 5)
        return response

    async with (
        upstream_of(handler) as url,
        Broker(Upstream(url), silence_seconds=5) as broker,
        aiohttp.ClientSession(headers={"x-api-key": broker.admit("a")}) as client,
        client.post(f"{broker.url}/v1/messages", json=body("x")) as answer,
    ):
        assert answer.headers["X-Odd"] == "kept"
        for chunk, event in zip(sent, taken, strict=True):
            assert await asyncio.wait_for(answer.content.readany(), 5) == chunk
            event.set()
        assert await answer.content.readany() == b""


async def test_only_the_broker_shows_the_key() -> None:
    """The upstream sees our key and nothing the agent showed; the agent sees none of it."""
    seen: list[web.Request] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append(request)
        echo = f"bad key {KEY}"
        headers = {"X-Echo": echo, "Set-Cookie": "a=b", **encoding}
        return web.Response(body=error, status=401, headers=headers)

    encoding: dict[str, str] = {}
    error = f"bad key {KEY}".encode()
    for upstream_key, name, value in [
        ({"api_key": KEY}, "x-api-key", KEY),
        ({"auth_token": KEY}, "Authorization", f"Bearer {KEY}"),
        ({"auth_token": KEY}, "Authorization", f"Bearer {KEY}"),
    ]:
        seen.clear()
        async with (
            upstream_of(handler) as url,
            Broker(Upstream(f"{url}/gate/way/", **upstream_key)) as broker,
            aiohttp.ClientSession() as client,
        ):
            token = broker.admit("a")
            headers = {"Authorization": f"Bearer {token}", "Cookie": "c=d", "anthropic-beta": "b"}
            url = f"{broker.url}/v1/messages?beta=true"
            async with client.post(url, json=body("x"), headers=headers) as answer:
                shown = f"{answer.headers}{await answer.text()}"
            assert (answer.status, answer.headers["x-should-retry"]) == (401, "false")
            assert KEY not in shown
            assert "Set-Cookie" not in answer.headers
        assert seen[0].raw_path == "/gate/way/v1/messages?beta=true"
        credentials = {k: v for k, v in seen[0].headers.items() if token in v or KEY in v}
        assert credentials == {name: value}
        assert seen[0].headers["anthropic-beta"] == "b"
        assert "Cookie" not in seen[0].headers
        encoding, error = {"Content-Encoding": "x"}, error if name == "x-api-key" else b""
    assert KEY not in repr(Upstream("http://h", api_key=KEY, auth_token=KEY))


async def test_strangers_are_turned_away() -> None:
    """Unknown, missing and dismissed tokens get a final 401 and reach nobody."""
    async with world() as w:
        gone = w.broker.admit("gone")
        w.broker.dismiss(gone)
        for token in ("sk-guess", "Bearer", "ü", gone, KEY):
            status, headers, answer = await w.post("hi", token=token)
            assert (status, headers["x-should-retry"]) == (401, "false")
            assert json.loads(answer)["error"]["type"] == "authentication_error"
        async with w.client.post(f"{w.broker.url}/v1/messages", json=body("x")) as answer_:
            assert answer_.status == 401
        assert not w.model.requests
        with pytest.raises(KeyError):
            w.broker.turn_report(gone)


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/v1/messages"),
        ("POST", "/v1/models"),
        ("POST", "/v1/messages/batches"),
        ("POST", "/v1/messages/../../admin"),
        ("POST", "/v1/messages%2f..%2f..%2fadmin"),
        ("POST", "//evil.example/v1/messages"),
        ("POST", "/@evil.example/v1/messages"),
        ("POST", "http://127.0.0.1:9/v1/messages"),
    ],
)
async def test_nothing_else_is_forwarded(method: str, target: str) -> None:
    """Other paths and methods, climbing paths and foreign addresses end at the broker."""
    async with world() as w:
        status, _ = await raw(w, f"{method} {target} HTTP/1.1", b"{}")
        assert 400 <= status < 500
        assert not w.model.requests


async def test_a_foreign_host_header_leads_nowhere() -> None:
    """Neither Host nor query can make the broker call another host."""
    async with world() as w:
        payload = json.dumps(body("[[text:still here]]")).encode()
        status, text = await raw(
            w,
            "POST /v1/messages?x=@evil.example/&y=%0d%0aHost:z HTTP/1.1",
            payload,
            host="evil.example",
        )
        assert status == 200
        assert (b"message_stop" in text, len(w.model.requests)) == (True, 1)


async def raw(w: World, line: str, payload: bytes, host: str = "x") -> tuple[int, bytes]:
    """One hand-written request; status and the rest."""
    port = URL(w.broker.url).port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"{line}\r\nHost: {host}\r\nx-api-key: {w.token}\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Length: {len(payload)}\r\n\r\n".encode() + payload)
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    await writer.wait_closed()
    return int(answer.split(b" ", 2)[1]), answer


@pytest.mark.parametrize(
    ("directive", "status", "retry_after"),
    [
        ("[[status:429]][[retry-after:7]]", 429, 7.0),
        ("[[status:529]]", 529, None),
        ("[[status:502]][[html]]", 502, None),
        ("[[status:503]][[retry-after:soon]]", 503, None),
    ],
)
async def test_refusals_pass_as_they_are_and_final(
    directive: str, status: int, retry_after: float | None
) -> None:
    """Status, Retry-After and body are the upstream's; only `x-should-retry: false` is ours."""
    async with world() as w:
        got, headers, text = await w.post(directive)
        async with w.client.post(
            f"{w.model.url}/v1/messages",
            json=body(directive),
            headers={"x-api-key": KEY},
        ) as direct:
            assert (got, text) == (direct.status, await direct.read())
            assert headers.get("Retry-After") == direct.headers.get("Retry-After")
        assert got == status
        assert headers["x-should-retry"] == "false"
        report = w.broker.turn_report(w.token)
        assert (report.requests, report.statuses) == (1, (status,))
        assert report.failure == ModelFailure(status, retry_after)


async def test_redirects_are_not_followed() -> None:
    """Neither the broker nor the agent follows a redirect to another place."""
    async with world() as w:
        status, headers, _ = await w.post(
            f"[[status:307]][[header:Location={w.model.url}/v1/messages]]"
        )
        assert (status, headers["x-should-retry"]) == (502, "false")
        assert "Location" not in headers
        assert w.broker.turn_report(w.token).statuses == (307,)
        assert len(w.model.requests) == 1


async def test_tokens_are_metered_per_turn() -> None:
    """A turn's usage is the sum over its calls, streamed or not, and begins anew at each turn."""
    async with world() as w:
        await w.post("[[tokens:40]]")
        await w.post("[[tokens:2]]", stream=False)
        report = w.broker.turn_report(w.token)
        asked = [r.asked for r in w.model.requests]
        assert report.usage.output_tokens == 42
        assert report.usage.input_tokens == sum(a.new_tokens for a in asked)
        assert report.usage.cache_write_tokens == sum(a.old_tokens for a in asked)
        assert report.first_byte_after is not None
        assert (report.requests, report.failure, report.cut) == (2, None, "")
        w.broker.new_turn(w.token)
        assert w.broker.turn_report(w.token).usage.output_tokens == 0


@pytest.mark.parametrize("directive", ["[[hang]]", "[[first:30]][[text:late]]"])
async def test_silence_before_the_headers_is_a_final_504(directive: str) -> None:
    """An upstream that does not answer in time gets a 504 said for it, once and for the turn."""
    async with world(silence_seconds=0.8) as w:
        status, headers, _ = await w.post(directive)
        assert (status, headers["x-should-retry"]) == (504, "false")
        await w.model.until(lambda: w.model.endings.get(1) == "gone")
        assert (await w.post("[[text:x]]"))[0] == 504
        assert len(w.model.requests) == 1
        report = w.broker.turn_report(w.token)
        assert (report.cut, report.failure) == ("silent", ModelFailure(None, None, silent=True))
        w.broker.new_turn(w.token)
        assert (await w.post("[[text:x]]"))[0] == 200


@pytest.mark.parametrize("directive", ["[[stall:3]]", "[[pings:3]][[every:0.05]]"])
async def test_silence_in_mid_stream_cuts_and_forbids_the_turn(directive: str) -> None:
    """Pings don't count as life; what came before passes, then the cut, then 504 to a retry."""
    async with world(silence_seconds=1.0) as w:
        headers = {"x-api-key": w.token}
        got = b""
        url = f"{w.broker.url}/v1/messages"
        prompt = f"{directive}[[tokens:9]]"
        async with w.client.post(url, json=body(prompt), headers=headers) as answer:
            with pytest.raises(aiohttp.ClientPayloadError):  # noqa: PT012
                while True:
                    got += await asyncio.wait_for(answer.content.readany(), 5)
        assert got.count(b"text_delta") == 3
        status, again, _ = await w.post(directive)
        assert (status, again["x-should-retry"]) == (504, "false")
        assert w.broker.turn_report(w.token).failure == ModelFailure(None, None, silent=True)
        other = w.broker.admit("other")
        assert (await w.post("[[text:x]]", token=other))[0] == 200
        w.broker.new_turn(w.token)
        assert (await w.post("[[text:x]]"))[0] == 200


@pytest.mark.parametrize("ending", ["hangs", "breaks"])
async def test_what_follows_a_whole_answer_harms_nothing(ending: str) -> None:
    """After `message_stop` the figures stand at once, and the upstream may hang or break off."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        usage = b'{"type":"message_delta","usage":{"output_tokens":3}}'
        await response.write(b"event: message_delta\ndata: " + usage + b"\n\n")
        await response.write(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')
        assert request.transport is not None
        if ending == "breaks":
            request.transport.close()
        else:
            await asyncio.Event().wait()
        return response

    async with (
        upstream_of(handler) as url,
        Broker(Upstream(url), silence_seconds=1.0) as broker,
        aiohttp.ClientSession(headers={"x-api-key": (token := broker.admit("a"))}) as client,
        client.post(f"{broker.url}/v1/messages", json=body("x")) as answer,
    ):
        got = b""
        while b"message_stop" not in got:
            got += await answer.content.readany()
        assert broker.turn_report(token).usage.output_tokens == 3
        await answer.content.read()
        report = broker.turn_report(token)
        assert (report.usage.output_tokens, report.failure, report.cut) == (3, None, "")


async def test_a_client_that_does_not_read_is_let_go() -> None:
    """An agent that stops reading is cut after the silence limit, without blame on the upstream."""
    async with world(silence_seconds=1.0) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", URL(w.broker.url).port)
        payload = json.dumps(body("[[size:20000000]]")).encode()
        head = f"POST /v1/messages HTTP/1.1\r\nHost: x\r\nx-api-key: {w.token}\r\n"
        writer.write(f"{head}Content-Length: {len(payload)}\r\n\r\n".encode() + payload)
        await w.model.until(lambda: w.model.endings.get(1) == "gone")
        assert (w.broker.turn_report(w.token).cut, w.broker.turn_report(w.token).failure) == (
            "client",
            None,
        )
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()


async def test_slow_but_lively_streams_live() -> None:
    """A stream that takes far longer than the silence limit in all passes whole."""
    async with world(silence_seconds=1.0) as w:
        status, _, text = await w.post("[[tokens:11]][[delay:0.2]]")
        assert status == 200
        assert text.count(b"text_delta") == 11


async def test_an_answer_in_one_piece_may_take_longer() -> None:
    """A call that is not streamed has its own patience before the headers."""
    async with world(silence_seconds=0.2, whole_seconds=5) as w:
        assert (await w.post("[[first:0.6]][[text:x]]", stream=False))[0] == 200


async def test_second_cut_in_a_row_ends_the_turn() -> None:
    """The CLI may try again after one cut in mid-stream; after a second it gets a final 502."""
    async with world() as w:
        for prompt in ("[[cut:2]]", "[[text:ok]]", "[[rst:2]]", "[[cut:2]]"):
            if "ok" in prompt:
                assert (await w.post(prompt))[0] == 200
                continue
            with pytest.raises(aiohttp.ClientPayloadError):  # never an end that looks whole
                await w.post(prompt)
        status, headers, _ = await w.post("[[text:x]]")
        assert (status, headers["x-should-retry"]) == (502, "false")
        report = w.broker.turn_report(w.token)
        assert (report.cut, report.failure) == ("upstream", ModelFailure(None, None))
        assert len(w.model.requests) == 4


async def test_unreachable_upstream_is_a_final_502() -> None:
    """Nobody listening, or a connection closed before the headers: 502 in the API's shape."""
    async with world() as w:
        for directive in ("[[drop]]", "[[reset]]"):
            assert (await w.post(directive))[0] == 502
    async with (
        Broker(Upstream("http://127.0.0.1:9", api_key=KEY)) as broker,
        aiohttp.ClientSession(headers={"x-api-key": (token := broker.admit("a"))}) as client,
        client.post(f"{broker.url}/v1/messages", json=body("x")) as answer,
    ):
        text = await answer.text()
        assert (answer.status, answer.headers["x-should-retry"]) == (502, "false")
        assert json.loads(text)["error"]["message"].endswith("(ECONNREFUSED)")
        report = broker.turn_report(token)
        assert (report.cut, report.failure) == ("unreachable", ModelFailure(None, None))


async def test_error_event_in_mid_stream_is_reported() -> None:
    """An `error` event passes untouched and shows in the report as the status it stands for."""
    async with world() as w:
        status, _, text = await w.post("[[break:2]][[tokens:5]]")
        assert status == 200
        assert b"event: error" in text
        assert w.broker.turn_report(w.token).failure == ModelFailure(529, None)


@pytest.mark.parametrize("directive", ["[[hang]]", "[[stall:1]]", "[[tokens:999]][[rate:50]]"])
async def test_a_client_that_goes_ends_the_upstream_call(directive: str) -> None:
    """Nobody pays for an answer that nobody reads: also when the agent is dismissed."""
    async with world() as w:
        call = asyncio.ensure_future(w.post(directive))
        await w.model.until(lambda: len(w.model.requests) == 1)
        call.cancel()
        await w.model.until(lambda: w.model.endings.get(1) == "gone")
        call = asyncio.ensure_future(w.post(directive))
        await w.model.until(lambda: len(w.model.requests) == 2)
        w.broker.dismiss(w.token)
        await w.model.until(lambda: w.model.endings.get(2) == "gone")
        with pytest.raises(aiohttp.ClientError):
            await call


async def test_kept_connections_that_the_upstream_closed_are_replaced() -> None:
    """A connection closed while idle is no failure of the upstream."""
    transports: list[asyncio.Transport] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        if request.transport in transports:  # a second request on it: too late
            request.transport.abort()
            return web.Response()
        transports.append(request.transport)
        return web.json_response({})

    async with (
        upstream_of(handler) as url,
        Broker(Upstream(url)) as broker,
        aiohttp.ClientSession(headers={"x-api-key": broker.admit("a")}) as client,
    ):
        for _ in range(3):
            async with client.post(f"{broker.url}/v1/messages", json=body("x")) as answer:
                assert answer.status == 200
    assert len(transports) == 3


async def test_connections_are_bounded() -> None:
    """Endless connections don't use up the gateway's descriptors; afterwards all is well."""
    async with world() as w:
        port = URL(w.broker.url).port
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(300)]
        closed = [reader.at_eof() or await _ends(reader) for reader, _ in held[256:]]
        assert all(closed)
        assert not held[0][0].at_eof()
        for _, writer in held:
            writer.close()
            await writer.wait_closed()
        assert (await w.post("[[text:x]]"))[0] == 200


async def _ends(reader: asyncio.StreamReader) -> bool:
    return await asyncio.wait_for(reader.read(), 5) == b""


async def test_unknown_certificates_are_refused(tmp_path: Path) -> None:
    """An upstream whose certificate nobody vouches for never sees the key."""
    seen: list[web.Request] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append(request)
        return web.json_response({})

    async with (
        upstream_of(handler, self_signed(tmp_path)) as url,
        Broker(Upstream(url, api_key=KEY)) as broker,
        aiohttp.ClientSession(headers={"x-api-key": broker.admit("a")}) as client,
        client.post(f"{broker.url}/v1/messages", json=body("x")) as answer,
    ):
        assert url.startswith("https://")
        assert answer.status == 502
        assert "Certificate" in await answer.text()
        assert not seen


async def test_odd_headers_do_no_harm() -> None:
    """Headers that are no UTF-8 are left out, a compressed request arrives decoded."""
    seen: list[tuple[web.Request, bytes]] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append((request, await request.read()))
        return web.json_response({})

    async with upstream_of(handler) as url, Broker(Upstream(url)) as broker:
        packed = gzip.compress(b"{}")
        head = (
            f"POST /v1/messages HTTP/1.1\r\nHost: x\r\nx-api-key: {broker.admit('a')}\r\n"
            f"Content-Encoding: gzip\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nX-Good: 1\r\n"
            f"Content-Length: {len(packed)}\r\nX-Odd: "
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", URL(broker.url).port)
        writer.write(head.encode() + b"\xff\xfe\r\n\r\n" + packed)
        assert (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP/1.1 200")
        writer.close()
        await writer.wait_closed()
    request, content = seen[0]
    assert content == b"{}"
    assert "X-Good" in request.headers
    assert not {"X-Odd", "X-Hop", "Content-Encoding"} & set(request.headers)


async def test_counting_tokens_is_no_call_of_the_turn() -> None:
    """`count_tokens` is forwarded and changes nothing in the turn's record."""
    async with world() as w:
        await w.post("[[status:529]]")
        url = f"{w.broker.url}/v1/messages/count_tokens"
        async with w.client.post(url, json=body("x"), headers={"x-api-key": w.token}) as answer:
            assert (await answer.json())["input_tokens"] > 0
        report = w.broker.turn_report(w.token)
        assert (report.requests, report.failure) == (1, ModelFailure(529, None))


async def test_too_large_bodies_are_refused() -> None:
    """A body beyond the bound gets the API's 413 and is not kept in memory."""
    async with world() as w:
        status, headers, text = await w.post("x" * (41 << 20))
        assert (status, headers["x-should-retry"]) == (413, "false")
        assert json.loads(text)["error"]["type"] == "request_too_large"


async def test_encoded_answers_pass_untouched() -> None:
    """An upstream that compresses unasked is passed on as it is, unmetered."""
    packed = b"\x1f\x8b not really gzip"

    async def handler(request: web.Request) -> web.StreamResponse:
        assert request.headers["Accept-Encoding"] == "identity"
        return web.Response(body=packed, headers={"Content-Encoding": "gzip"})

    async with (
        upstream_of(handler) as url,
        Broker(Upstream(url)) as broker,
        aiohttp.ClientSession(
            headers={"x-api-key": broker.admit("a")}, auto_decompress=False
        ) as client,
        client.post(f"{broker.url}/v1/messages", json=body("x")) as answer,
    ):
        assert answer.headers["Content-Encoding"] == "gzip"
        assert await answer.read() == packed


async def test_nothing_secret_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Neither key nor token nor prompt comes into a log line, whatever goes wrong."""
    caplog.set_level(logging.DEBUG)
    async with world(silence_seconds=0.2) as w:
        for prompt in ("[[status:401]]secret prompt", "[[drop]]", "[[hang]]"):
            await w.post(prompt)
        for secret in (KEY, w.token, "secret prompt"):
            assert secret not in caplog.text


@pytest.mark.cli
async def test_cli_works_through_the_broker(tmp_path: Path) -> None:
    """A turn with a tool runs through it; the CLI holds the token, the model sees the key."""
    async with world() as w:
        prompt = '[[tool:Bash {"command":"printenv ANTHROPIC_API_KEY"}]][[then]][[result]]'
        run = await ask(w.broker.url, prompt, tmp_path, "--allowedTools=Bash", key=w.token)
        assert run.result["result"] == w.token
        assert {r.key for r in w.model.requests} == {KEY}
        report = w.broker.turn_report(w.token)
        assert report.statuses == (200, 200)
        assert report.usage.output_tokens == run.result["usage"]["output_tokens"]
        assert report.usage.input_tokens == run.result["usage"]["input_tokens"]
        assert KEY not in json.dumps(run.events)


@pytest.mark.cli
@pytest.mark.parametrize(
    ("directive", "status"),
    [
        ("[[status:401]]", 401),
        ("[[status:500]]", 500),
        ("[[hang]]", 504),
        ("[[stall:2]]", 504),
        ("[[cut:2]]", 502),
    ],
)
async def test_cli_ends_soon(tmp_path: Path, directive: str, status: int) -> None:
    """What the CLI alone tries for minutes to an hour ends in seconds, with its status."""
    async with world(silence_seconds=1.5) as w:
        run = await ask(w.broker.url, directive, tmp_path, key=w.token)
    assert run.result["is_error"] is True
    assert run.result["api_error_status"] == status
    assert run.seconds < 30  # alone it takes 90 s and more; idle machines do it in 1 to 3
