"""The long connection: stays up through every refusal, and acknowledges after the handler returned.

A lost connection touches nothing but itself: events that are being handled go on, and those whose
acknowledgement could not leave are delivered again by the platform.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import aiohttp
import structlog

from larkline.chats.feishu.fragments import FragmentError, Fragments
from larkline.chats.feishu.frames import (
    CONTROL,
    DATA,
    MAX_FRAME_BYTES,
    Frame,
    FrameError,
    decode,
    encode,
)
from larkline.chats.feishu.http import json_object, network_words, read_answer
from larkline.chats.feishu.reconnect import (
    Cadence,
    bounded,
    configured,
    deaf_at,
    failures_after,
    next_delay,
)
from larkline.chats.feishu.refusals import (
    ConnectionRefused,
    endpoint_refused,
    handshake_refused,
    redacted,
)
from larkline.chats.feishu.settings import FeishuSettings
from larkline.domain.errors import LarklineError
from larkline.lifecycle import running

log = structlog.get_logger()

Handle = Callable[[bytes], Awaitable[Mapping[str, object] | None]]
"""Takes an event's body and gives the callback's answer (None: nothing to say); bounds its waits.

A raised exception means: not taken, let the platform deliver again.
"""

MAX_BAD_FRAMES = 100
"""So many frames in a row that are none end a connection."""

_CLOSED = (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED)
_WS = aiohttp.ClientWebSocketResponse


class ConnectionLost(Exception):
    """An open connection ended. The text is for operators."""


class LongConnection:
    """One app's connection. `connected` and `reason` tell its state at any moment."""

    def __init__(
        self,
        settings: FeishuSettings,
        session: aiohttp.ClientSession,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._bounds = settings.bounds
        self._session = session
        self._chance = chance
        self._cadence = bounded(Cadence(), settings.bounds)
        self._recadenced = asyncio.Event()
        self._slots = asyncio.Semaphore(settings.bounds.in_flight)
        self._connected_at: float | None = None
        self._connections = 0
        self._up = asyncio.Event()
        self._reason = "not connected yet"

    @property
    def connected(self) -> bool:
        """Whether the platform answers on an open connection."""
        return self._connected_at is not None

    @property
    def reason(self) -> str:
        """Why there is no connection, and what to do about it; '' while there is one."""
        return "" if self.connected else self._reason

    @property
    def reconnects(self) -> int:
        """How often a connection came after the first."""
        return max(0, self._connections - 1)

    async def up(self) -> None:
        """Return once there is a connection."""
        await self._up.wait()

    async def run(self, handle: Handle) -> None:
        """Connect, and connect again for ever; ends only when cancelled."""
        loop = asyncio.get_running_loop()
        failures = 0
        async with asyncio.TaskGroup() as handlers:
            while True:
                self._reason = await self._session_reason(handle, handlers)
                since, self._connected_at = self._connected_at, None
                self._up.clear()
                lived = loop.time() - since if since is not None else 0.0
                failures = failures_after(failures, lived, self._bounds)
                delay = next_delay(failures, self._cadence, self._bounds, self._chance())
                log.warning(
                    "no connection to the platform",
                    reason=self._reason,
                    next_try=round(delay, 1),
                    lived=round(lived, 1),
                )
                await asyncio.sleep(delay)

    async def _session_reason(self, handle: Handle, handlers: asyncio.TaskGroup) -> str:
        """Live through one connection; why it ended, or why there was none."""
        try:
            url, service = await self._endpoint()
            async with self._opened(url) as ws, running("feishu ping", self._ping(ws, service)):
                await self._read(ws, handle, handlers)
            return "the connection ended"
        except (ConnectionRefused, ConnectionLost) as exc:
            return str(exc)
        except aiohttp.WSServerHandshakeError as exc:
            return str(handshake_refused(exc.status, exc.headers or {}))
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as exc:
            return network_words(exc, self._bounds.connect)
        except Exception as exc:
            # The boundary of the promise never to give up: told to operators, with its trace.
            log.exception("connection failed in an unforeseen way")
            return f"internal error ({type(exc).__name__}): please report it with the log"

    async def _endpoint(self) -> tuple[str, int]:
        """Ask where to connect: the address, and the service id that pings carry."""
        body = {"AppID": self._settings.app_id, "AppSecret": self._settings.app_secret}
        async with self._session.post(
            f"{self._settings.base_url}/callback/ws/endpoint",
            json=body,
            headers={"locale": "zh"},
            timeout=aiohttp.ClientTimeout(total=self._bounds.connect),
            allow_redirects=False,
        ) as response:
            answer = json_object(await read_answer(response))
            status = response.status
        code = answer.get("code") if answer is not None else None
        if answer is None or isinstance(code, bool) or not isinstance(code, int):
            raise ConnectionRefused(
                f"the endpoint answered HTTP {status} without the platform's JSON: "
                "check feishu.domain and proxies"
            )
        if code != 0:
            msg = str(answer.get("msg") or "")
            raise endpoint_refused(code, redacted(msg, self._settings.app_secret))
        data = answer.get("data")
        url = data.get("URL") if isinstance(data, dict) else None
        if not isinstance(data, dict) or not isinstance(url, str):
            raise ConnectionRefused("the endpoint gave no address: check feishu.domain")
        self._configure(data.get("ClientConfig"))
        return url, _service(url, secure=self._settings.base_url.startswith("https:"))

    @asynccontextmanager
    async def _opened(self, url: str) -> AsyncIterator[_WS]:
        async with asyncio.timeout(self._bounds.connect):
            ws = await self._session.ws_connect(
                url,
                timeout=aiohttp.ClientWSTimeout(ws_receive=None, ws_close=1.0),
                max_msg_size=MAX_FRAME_BYTES,
            )
        try:
            yield ws
        finally:
            await _close(ws)

    async def _ping(self, ws: _WS, service: int) -> None:
        """Ping at once and then by our own timer, which follows the server's cadence."""
        clock = asyncio.get_running_loop().time
        ping = encode(Frame(CONTROL, (("type", "ping"),), service=service))
        while True:
            async with asyncio.timeout(self._bounds.send):
                await ws.send_bytes(ping)
            sent = clock()
            while (left := sent + self._cadence.ping - clock()) > 0:
                self._recadenced.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._recadenced.wait(), left)

    async def _read(self, ws: _WS, handle: Handle, handlers: asyncio.TaskGroup) -> None:
        """Take frames until the connection ends. Raises: ConnectionLost with the reason."""
        clock = asyncio.get_running_loop().time
        fragments = Fragments()
        heard, bad = clock(), 0
        while True:
            message = await self._next(ws, heard)
            if message.type is not aiohttp.WSMsgType.BINARY:
                continue
            try:
                frame = decode(message.data)
            except FrameError as exc:
                bad += 1
                log.warning("frame dropped that cannot be read", error=str(exc))
                if bad >= MAX_BAD_FRAMES:
                    raise ConnectionLost(f"{bad} frames in a row could not be read") from exc
                continue
            heard, bad = clock(), 0
            if self._connected_at is None:
                self._connected_at = heard
                self._connections += 1
                self._up.set()
                log.info("connected to the platform", reconnects=self.reconnects)
            if frame.method == CONTROL:
                self._control(frame)
            elif frame.method == DATA:
                await self._take(ws, frame, fragments, handle, handlers)
                # Waiting for a free slot was our silence, not the platform's.
                heard = clock()

    async def _next(self, ws: _WS, heard: float) -> aiohttp.WSMessage:
        limit = deaf_at(heard, self._cadence, self._bounds)
        try:
            async with asyncio.timeout_at(limit):
                message = await ws.receive()
        except TimeoutError as exc:
            raise ConnectionLost(
                f"the connection is open but silent for {limit - heard:.0f} s: given up"
            ) from exc
        if message.type in _CLOSED:
            raise ConnectionLost(f"the platform closed the connection (code {ws.close_code})")
        if message.type is aiohttp.WSMsgType.ERROR:
            kind = type(ws.exception()).__name__
            raise ConnectionLost(f"the connection broke ({kind}, code {ws.close_code})")
        return message

    def _control(self, frame: Frame) -> None:
        if frame.header("type") == "pong" and frame.payload:
            self._configure(json_object(frame.payload))

    def _configure(self, config: object) -> None:
        cadence = configured(self._cadence, config, self._bounds)
        if cadence != self._cadence:
            self._cadence = cadence
            self._recadenced.set()

    async def _take(
        self,
        ws: _WS,
        frame: Frame,
        fragments: Fragments,
        handle: Handle,
        handlers: asyncio.TaskGroup,
    ) -> None:
        """Hand a data frame on once it is whole; waits while too many are in flight."""
        if frame.header("type") not in ("event", "card"):
            log.info("data frame of an unknown type acknowledged")
            await self._ack(ws, frame, 200, None, 0.0)
            return
        try:
            body = _joined(fragments, frame)
        except FragmentError as exc:
            log.warning("fragment of an event refused", error=str(exc))
            await self._ack(ws, frame, 500, None, 0.0)
            return
        if body is not None:
            await self._slots.acquire()
            handlers.create_task(self._handled(ws, frame, body, handle), name="feishu event")

    async def _handled(self, ws: _WS, frame: Frame, body: bytes, handle: Handle) -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        code, answer = 200, None
        try:
            try:
                answer = await handle(body)
            except (LarklineError, TimeoutError) as exc:
                error = str(exc) or type(exc).__name__
                log.warning("event not taken; the platform delivers it again", error=error)
                code = 500
            except Exception:
                # The boundary that records a fault of ours: the platform is told all the same.
                log.exception("event not taken; the platform delivers it again")
                code = 500
            await self._ack(ws, frame, code, answer, clock() - began)
        finally:
            self._slots.release()

    async def _ack(
        self,
        ws: _WS,
        frame: Frame,
        code: int,
        answer: Mapping[str, object] | None,
        seconds: float,
    ) -> None:
        """The same frame back, with our verdict as its payload."""
        data = None if answer is None else base64.b64encode(json.dumps(answer).encode()).decode()
        payload = json.dumps({"code": code, "headers": None, "data": data}).encode()
        headers = (*frame.headers, ("biz_rt", str(round(seconds * 1000))))
        try:
            async with asyncio.timeout(self._bounds.send):
                await ws.send_bytes(encode(replace(frame, headers=headers, payload=payload)))
        except (aiohttp.ClientError, OSError, TimeoutError) as exc:
            error = type(exc).__name__
            log.info("acknowledgement could not leave; the event comes again", error=error)


def _joined(fragments: Fragments, frame: Frame) -> bytes | None:
    total, number = _count(frame.header("sum"), 1), _count(frame.header("seq"), 0)
    payload = frame.payload or b""
    if total <= 1:
        return payload
    now = asyncio.get_running_loop().time()
    return fragments.add(frame.header("message_id"), total, number, payload, now)


def _count(text: str, otherwise: int) -> int:
    if not text:
        return otherwise
    if not (text.isascii() and text.isdigit() and len(text) <= 6):
        raise FragmentError("sum or seq is no number")
    return int(text)


def _service(url: str, *, secure: bool) -> int:
    """The service id in a connection's address.

    Raises: ConnectionRefused if the address is none, or would carry its ticket in the clear.
    """
    try:
        parts = urlsplit(url)
        services = parse_qs(parts.query).get("service_id", ["0"])
    except ValueError as exc:
        raise ConnectionRefused("the endpoint gave an address that is none") from exc
    if parts.scheme not in (("wss",) if secure else ("ws", "wss")) or not parts.hostname:
        raise ConnectionRefused("the endpoint gave an address that is no (secure) websocket")
    text = services[0]
    service = int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else 0
    return service if service < 1 << 31 else 0


async def _close(ws: _WS) -> None:
    """Say goodbye, briefly: the other side may be gone."""
    try:
        async with asyncio.timeout(2.0):
            await ws.close()
    except (aiohttp.ClientError, OSError, TimeoutError) as exc:
        log.debug("connection left without goodbye", error=type(exc).__name__)
