"""A plain client of the simulated platform: REST calls and a long connection, nothing clever."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlparse

import aiohttp

from larkline.sim import frames
from larkline.sim.frames import WireFrame
from larkline.sim.platform import Platform

Json = dict[str, Any]


class RestClient:
    """Calls the REST door with the app's token."""

    def __init__(self, platform: Platform, session: aiohttp.ClientSession) -> None:
        self.platform = platform
        self.session = session
        self.token = ""

    async def login(self) -> None:
        """Fetch a token."""
        app = self.platform.app
        status, _, body = await self.call(
            "POST",
            "/open-apis/auth/v3/tenant_access_token/internal",
            {"app_id": app.app_id, "app_secret": app.secret},
        )
        assert (status, body["code"]) == (200, 0)
        self.token = body["tenant_access_token"]

    async def call(
        self, method: str, path: str, body: Json | None = None, *, token: str | None = None
    ) -> tuple[int, Any, Json]:
        """One call: status, headers, JSON body."""
        headers = {"Authorization": f"Bearer {token or self.token}"}
        if token == "":
            headers = {}
        url = self.platform.url + path
        async with self.session.request(method, url, json=body, headers=headers) as answer:
            return answer.status, answer.headers, await answer.json()

    async def ok(self, method: str, path: str, body: Json | None = None) -> Json:
        """One call that has to succeed; its data."""
        status, _, answer = await self.call(method, path, body)
        assert (status, answer["code"]) == (200, 0), answer
        data: Json = answer.get("data", answer)
        return data

    async def code(self, method: str, path: str, body: Json | None = None) -> int:
        """One call; its code."""
        code: int = (await self.call(method, path, body))[2]["code"]
        return code

    async def text(self, chat_id: str, text: str, **more: Any) -> Json:
        """Send a text to a chat."""
        content = json.dumps({"text": text})
        body = {"receive_id": chat_id, "msg_type": "text", "content": content, **more}
        return await self.ok("POST", "/open-apis/im/v1/messages?receive_id_type=chat_id", body)


@asynccontextmanager
async def rest_client(platform: Platform) -> AsyncIterator[RestClient]:
    """A client that has its token."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        client = RestClient(platform, session)
        await client.login()
        yield client


class WireClient:
    """One long connection that acknowledges with whatever `answer` says."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, service: int) -> None:
        self.socket = socket
        self.service = service

    async def frame(self, seconds: float = 5.0) -> WireFrame:
        """The next frame.

        Raises:
            TimeoutError: none came in time.
        """
        async with asyncio.timeout(seconds):
            return frames.decode(await self.socket.receive_bytes())

    async def event(self, seconds: float = 5.0) -> tuple[WireFrame, Json]:
        """The next unfragmented event, not acknowledged yet."""
        frame = await self.frame(seconds)
        return frame, json.loads(frame.payload)

    async def ack(self, frame: WireFrame, code: int = 200, answer: Any = None) -> None:
        """Acknowledge a frame as the SDKs do."""
        data = None if answer is None else base64.b64encode(json.dumps(answer).encode()).decode()
        payload = json.dumps({"code": code, "headers": None, "data": data}).encode()
        headers = {**frame.headers, "biz_rt": "1"}
        reply = WireFrame(frame.method, headers, payload, frame.service, frame.seq_id, frame.log_id)
        await self.socket.send_bytes(frames.encode(reply))

    async def ping(self) -> None:
        """Send a ping frame."""
        ping = WireFrame(frames.CONTROL, {"type": "ping"}, service=self.service)
        await self.socket.send_bytes(frames.encode(ping))


async def endpoint(platform: Platform, session: aiohttp.ClientSession) -> Json:
    """The endpoint call's answer."""
    body = {"AppID": platform.app.app_id, "AppSecret": platform.app.secret}
    url = platform.url + "/callback/ws/endpoint"
    async with session.post(url, json=body, headers={"locale": "zh"}) as answer:
        found: Json = await answer.json()
        return found


@asynccontextmanager
async def wire_client(platform: Platform) -> AsyncIterator[WireClient]:
    """An open long connection."""
    async with aiohttp.ClientSession() as session:
        found = await endpoint(platform, session)
        assert found["code"] == 0, found
        url = found["data"]["URL"]
        service = int(parse_qs(urlparse(url).query)["service_id"][0])
        async with session.ws_connect(url) as socket:
            yield WireClient(socket, service)
