"""The long connection's server side: endpoint call, handshake, frames."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from dataclasses import dataclass
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from larkline.sim import frames
from larkline.sim.clock import SimClock
from larkline.sim.deliveries import Deliveries, Delivery, Push
from larkline.sim.faults import Faults, HandshakeRefusal
from larkline.sim.frames import WireFrame
from larkline.sim.variants import Variants
from larkline.sim.world import World

log = logging.getLogger(__name__)

ENDPOINT = "/callback/ws/endpoint"
CONNECT = "/callback/ws/connect"
SERVICE_ID = 33554678
TICKET_SECONDS = 600.0
MAX_CONNECTIONS = 50
TOO_MANY = 1000040350


@dataclass(slots=True)
class ClientConfig:
    """What the server tells clients about reconnecting and pings; seconds."""

    reconnect_count: int = -1
    reconnect_interval: int = 120
    reconnect_nonce: int = 30
    ping_interval: int = 120

    def wire(self) -> dict[str, int]:
        """As it goes out."""
        return {
            "ReconnectCount": self.reconnect_count,
            "ReconnectInterval": self.reconnect_interval,
            "ReconnectNonce": self.reconnect_nonce,
            "PingInterval": self.ping_interval,
        }


class Link:
    """One open long connection. `half_open` makes it a line that nobody listens on any more."""

    def __init__(
        self,
        name: str,
        app_id: str,
        socket: web.WebSocketResponse,
        transport: asyncio.Transport | None,
    ) -> None:
        self.name = name
        self.app_id = app_id
        self.socket = socket
        self.transport = transport
        self.half_open = asyncio.Event()
        self.pings = 0
        self.gone = asyncio.Event()
        self._faults: Faults | None = None
        self._outgoing: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    def watch(self, faults: Faults) -> None:
        """Obey these switches."""
        self._faults = faults

    def send_bytes(self, data: bytes) -> None:
        """Queue raw bytes as one binary websocket message."""
        if not self.half_open.is_set() and not (self._faults and self._faults.deaf):
            wait = self._faults.events_latency if self._faults else 0.0
            self._outgoing.put_nowait((time.monotonic() + wait, data))

    def send_event(self, delivery: Delivery, push: Push) -> None:
        """Queue an event, in fragments when it is big."""
        limit = self._faults.fragment_bytes if self._faults else 0
        body = delivery.body
        parts = (
            [body[i : i + limit] for i in range(0, len(body), limit)]
            if limit and len(body) > limit
            else [body]
        )
        for number, part in enumerate(parts):
            headers = {
                "type": "event",
                "message_id": delivery.event_id,
                "sum": str(len(parts)),
                "seq": str(number),
                "trace_id": f"{delivery.event_id[:16]}{push.seq_id:08x}",
                "timestamp": str(int(push.at * 1000)),
            }
            frame = WireFrame(frames.DATA, headers, part, SERVICE_ID, push.seq_id, push.seq_id)
            self.send_bytes(frames.encode(frame))

    async def drain(self) -> None:
        """Send what is queued, for ever."""
        while True:
            due, data = await self._outgoing.get()
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            if not self.half_open.is_set():
                await self.socket.send_bytes(data)


class LongConnections:
    """Accepts clients and knows who is connected."""

    def __init__(self, world: World, clock: SimClock, faults: Faults, variants: Variants) -> None:
        self.links: dict[str, Link] = {}
        self.config = ClientConfig()
        self.max_connections = MAX_CONNECTIONS
        self.endpoint_calls: list[tuple[float, int]] = []
        self.handshakes: list[tuple[float, int]] = []
        self.malformed: list[str] = []
        self.deliveries: Deliveries | None = None
        self._world = world
        self._clock = clock
        self._faults = faults
        self._variants = variants
        self._tickets: dict[str, tuple[str, float]] = {}
        self._closing = asyncio.Event()

    def routes(self) -> list[web.RouteDef]:
        """Both doors."""
        return [web.post(ENDPOINT, self._endpoint), web.get(CONNECT, self._connect)]

    def of(self, app_id: str) -> list[Link]:
        """The app's open connections, in order of their names."""
        return [link for link in self.links.values() if link.app_id == app_id]

    async def close(self) -> None:
        """End every connection and every hanging call."""
        self._closing.set()
        for link in list(self.links.values()):
            if link.half_open.is_set() and link.transport is not None:
                link.transport.abort()
            await self._end(link, WSCloseCode.GOING_AWAY)

    async def drop(self, app_id: str | None = None, *, rude: bool = True) -> int:
        """Cut connections, without a close frame when `rude`; returns how many."""
        links = [link for link in self.links.values() if app_id in (None, link.app_id)]
        for link in links:
            if rude and link.transport is not None:
                link.transport.abort()
                link.gone.set()
            else:
                await self._end(link, WSCloseCode.GOING_AWAY)
        return len(links)

    def send_raw(self, data: bytes, app_id: str | None = None) -> int:
        """Send any bytes as a binary message on every connection; returns how many."""
        links = [link for link in self.links.values() if app_id in (None, link.app_id)]
        for link in links:
            link.send_bytes(data)
        return len(links)

    def half_open(self) -> int:
        """Let every connection of now go dead without a word; returns how many."""
        for link in self.links.values():
            link.half_open.set()
            if link.transport is not None:
                # The websocket library would go on answering protocol pings by itself.
                link.transport.pause_reading()
        return len(self.links)

    async def _end(self, link: Link, code: WSCloseCode) -> None:
        link.gone.set()
        try:
            async with asyncio.timeout(1.0):
                await link.socket.close(code=code)
        except TimeoutError:
            log.debug("a client did not answer the close frame")

    async def _endpoint(self, request: web.Request) -> web.Response:
        if self._faults.endpoint_hangs > 0:
            self._faults.endpoint_hangs -= 1
            self.endpoint_calls.append((self._clock.now(), -1))
            await self._closing.wait()
            raise web.HTTPServiceUnavailable
        if self._faults.endpoint_status:
            status = self._faults.endpoint_status.pop(0)
            self.endpoint_calls.append((self._clock.now(), status))
            return web.Response(status=status, text="upstream unavailable")
        try:
            body = json.loads(await request.text())
            app_id, secret = str(body["AppID"]), str(body["AppSecret"])
        except (ValueError, KeyError, TypeError):
            return self._say(9499, "invalid request")
        code, msg = self._judge(app_id, secret)
        if code:
            return self._say(code, msg)
        ticket = secrets.token_hex(16)
        self._tickets[ticket] = (app_id, self._clock.now() + TICKET_SECONDS)
        device_id = str(7_000_000_000_000_000_000 + len(self.handshakes))
        url = (
            f"ws://{request.host}{CONNECT}?device_id={device_id}&access_key={secrets.token_hex(8)}"
            f"&service_id={SERVICE_ID}&ticket={ticket}"
        )
        return self._say(0, "", {"URL": url, "ClientConfig": self.config.wire()})

    def _judge(self, app_id: str, secret: str) -> tuple[int, str]:
        if self._faults.endpoint_codes:
            return self._faults.endpoint_codes.pop(0), "refused by a fault"
        if not app_id or not secret:
            return 1000040344, "no credential"
        app = self._world.apps.get(app_id)
        if app is None or app.secret != secret:
            return self._variants.wrong_secret_code, "app_id or app_secret is invalid"
        if self._variants.connection_limit_at == "endpoint" and self._full(app_id):
            return TOO_MANY, "the number of connections exceeded the limit"
        return 0, ""

    def _full(self, app_id: str) -> bool:
        return len(self.of(app_id)) >= self.max_connections

    def _say(self, code: int, msg: str, data: dict[str, Any] | None = None) -> web.Response:
        self.endpoint_calls.append((self._clock.now(), code))
        return web.json_response({"code": code, "msg": msg, "data": data or {}})

    def _refusal(self, ticket: str) -> tuple[str, HandshakeRefusal | None]:
        app_id, until = self._tickets.pop(ticket, ("", 0.0))
        if self._faults.handshakes:
            return app_id, self._faults.handshakes.pop(0)
        if not app_id or until < self._clock.now():
            return app_id, HandshakeRefusal(514, "auth failed", 1000040346)
        if self._full(app_id):
            return app_id, HandshakeRefusal(514, "too many connections", TOO_MANY)
        return app_id, None

    async def _connect(self, request: web.Request) -> web.StreamResponse:
        app_id, refusal = self._refusal(request.query.get("ticket", ""))
        self.handshakes.append((self._clock.now(), refusal.status if refusal else 0))
        if refusal is not None:
            headers = {
                "handshake-status": str(refusal.status),
                "handshake-msg": refusal.msg,
            }
            if refusal.autherrcode is not None:
                headers["handshake-autherrcode"] = str(refusal.autherrcode)
            return web.Response(status=self._variants.handshake_status, headers=headers)
        socket = web.WebSocketResponse(max_msg_size=8 * 1024 * 1024)
        await socket.prepare(request)
        link = Link(request.query.get("device_id", ""), app_id, socket, request.transport)
        link.watch(self._faults)
        self.links[link.name] = link
        self._world.changed("link", link.name)
        try:
            await self._serve(link)
        finally:
            self.links.pop(link.name, None)
            self._world.changed("link", link.name)
        return socket

    async def _serve(self, link: Link) -> None:
        """Read until the client goes; a writer and the end signal live beside the reader."""
        tasks = [
            asyncio.create_task(self._read(link)),
            asyncio.create_task(link.drain()),
            asyncio.create_task(link.gone.wait()),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(outcome, Exception):
                    log.debug("long connection ended: %r", outcome)

    async def _read(self, link: Link) -> None:
        while True:
            message = await link.socket.receive()
            if message.type in (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED):
                return
            if message.type is WSMsgType.ERROR:
                return
            if message.type is not WSMsgType.BINARY:
                self.malformed.append(f"a {message.type.name} message")
                continue
            self._frame(link, message.data)

    def _frame(self, link: Link, data: bytes) -> None:
        try:
            frame = frames.decode(data)
        except frames.MalformedFrame as exc:
            self.malformed.append(str(exc))
            return
        kind = frame.headers.get("type", "")
        if frame.method == frames.CONTROL:
            if kind == "ping":
                self._pong(link, frame)
            else:
                self.malformed.append(f"control frame of type {kind!r}")
        elif frame.method == frames.DATA:
            known = self.deliveries is not None and self.deliveries.acked(
                frame.seq_id, frame.payload
            )
            if not known:
                self.malformed.append(f"an ack for nothing: {frame.headers.get('message_id')}")
        else:
            self.malformed.append(f"method {frame.method}")

    def _pong(self, link: Link, ping: WireFrame) -> None:
        link.pings += 1
        self._world.changed("link", link.name)
        if ping.service != SERVICE_ID:
            self.malformed.append(f"ping for service {ping.service}")
        if self._faults.mute_pongs:
            return
        payload = b""
        if self._variants.pong_config:
            payload = json.dumps(self.config.wire()).encode()
        pong = WireFrame(
            frames.CONTROL, {"type": "pong"}, payload, ping.service, ping.seq_id, ping.log_id
        )
        link.send_bytes(frames.encode(pong))
