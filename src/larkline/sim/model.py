"""An offline model: a stand-in of the Anthropic Messages API that the real Claude CLI talks to.

    async with OfflineModel() as model:
        env["ANTHROPIC_BASE_URL"] = model.url

What it answers is decided in this order: steps queued with `enqueue`; directives in the newest
prompt (`larkline.sim.script` documents them); its own words (`larkline.sim.answers`).
`requests` says what it was asked, `endings` how each request ended.
"""

import asyncio
import itertools
import json
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Literal, Self

from aiohttp import web

from larkline.sim import sse
from larkline.sim.answers import mistaken, plausible
from larkline.sim.asked import Asked, Malformed, read
from larkline.sim.script import (
    Blank,
    Broken,
    Cut,
    Dropped,
    Garbled,
    Hung,
    LastResult,
    Refused,
    Stalled,
    Step,
    Unfinished,
    parse,
)

Ending = Literal["open", "answered", "refused", "cut", "gone"]
_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_BODY_LIMIT_BYTES = 32 << 20  # the real API's own limit


@dataclass(frozen=True, slots=True)
class Request:
    """One request as the model saw it: `at` is `monotonic()`, `key` the credential shown."""

    number: int
    at: float
    session: str
    key: str
    asked: Asked

    @property
    def prompts(self) -> tuple[str, ...]:
        """What the user wrote, oldest first."""
        return self.asked.prompts

    def count(self, text: str) -> int:
        """How often the history contains this prompt: more than once means a duplicate."""
        return self.asked.prompts.count(text)


class OfflineModel:
    """The model as a server on loopback; an async context manager owns its socket.

    `port` 0 takes a free one. `rate` is deltas a second for steps that say nothing (0: at once).
    `key`: the only credential accepted, None accepts any. `keep` bounds `requests`.
    """

    def __init__(
        self, port: int = 0, *, rate: float = 0.0, key: str | None = None, keep: int = 10_000
    ) -> None:
        self._port = port
        self._delay = 1 / rate if rate else 0.0
        self._key = key
        self._numbers = itertools.count(1)
        self._queued: list[tuple[str, Step]] = []
        self._faulted: dict[tuple[str, int], int] = {}
        self._changed = asyncio.Condition()
        self._runner: web.AppRunner | None = None
        self._keep = keep
        self.requests: deque[Request] = deque(maxlen=keep)
        self.endings: dict[int, Ending] = {}

    @property
    def url(self) -> str:
        """The base URL to give a client, without a trailing slash."""
        return f"http://127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=_BODY_LIMIT_BYTES)
        app.router.add_post("/v1/messages", self._messages)
        app.router.add_post("/v1/messages/count_tokens", self._count_tokens)
        app.router.add_route("*", "/{path:.*}", _elsewhere)
        runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )
        self._runner = runner
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self._port).start()
        self._port = runner.addresses[0][1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def enqueue(self, *steps: Step, match: str = "") -> None:
        """Play these steps next, one a request, for requests whose newest prompt has `match`."""
        self._queued.extend((match, step) for step in steps)

    async def until(self, reached: Callable[[], bool], *, seconds: float = 10.0) -> None:
        """Wait for a state of `requests` and `endings`.

        Raises: TimeoutError when it is not reached in time.
        """
        async with asyncio.timeout(seconds), self._changed:
            await self._changed.wait_for(reached)

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        key = _credential(request)
        if self._key is not None and key != self._key:
            return _refusal(Refused(401, message="invalid x-api-key"))
        try:
            asked = read(json.loads(await request.read()))
        except Malformed as exc:
            return _refusal(Refused(400, message=str(exc)))
        except ValueError:
            return _refusal(Refused(400, message="the body is not JSON"))
        number = next(self._numbers)
        session = request.headers.get("X-Claude-Code-Session-Id", "")
        self.requests.append(Request(number, time.monotonic(), session, key, asked))
        await self._ended(number, "open")
        ending: Ending = "gone"
        try:
            step = self._step(asked)
            response = await _Playing(request, asked, step, self._delay).play()
            ending = _ending(step, response)
            return response
        finally:
            await self._ended(number, ending)

    async def _ended(self, number: int, ending: Ending) -> None:
        self.endings[number] = ending
        self.endings.pop(number - self._keep, None)
        async with self._changed:
            self._changed.notify_all()

    async def _count_tokens(self, request: web.Request) -> web.Response:
        try:
            asked = read(json.loads(await request.read()))
        except ValueError as exc:
            return _refusal(Refused(400, message=str(exc)))
        return web.json_response({"input_tokens": asked.old_tokens + asked.new_tokens})

    def _step(self, asked: Asked) -> Step:
        for place, (match, step) in enumerate(self._queued):
            if match in asked.prompt:
                del self._queued[place]
                return _filled(step, asked)
        try:
            steps = parse(asked.prompt)
        except ValueError as exc:
            return mistaken(str(exc))
        if not steps:
            return plausible(asked)
        if asked.round >= len(steps):
            return Step(blocks=(LastResult(),)) if asked.results else plausible(asked)
        return _filled(self._tried(steps[asked.round], asked), asked)

    def _tried(self, step: Step, asked: Asked) -> Step:
        """The step without its fault once the fault has met enough requests."""
        if step.fault is None or not step.times:
            return step
        place = (asked.prompt, asked.round)
        met = self._faulted.pop(place, 0)
        if met >= step.times:
            return replace(step, fault=None)
        self._faulted[place] = met + 1
        while len(self._faulted) > self._keep:
            self._faulted.pop(next(iter(self._faulted)))
        return step


class _Playing:
    """One step being played to one client."""

    def __init__(self, request: web.Request, asked: Asked, step: Step, delay: float) -> None:
        self._request = request
        self._asked = asked
        self._step = step
        self._delay = delay if step.delay is None else step.delay
        self._response: web.StreamResponse = web.Response()

    async def play(self) -> web.StreamResponse:
        step = self._step
        if step.first:
            await asyncio.sleep(step.first)
        match step.fault:
            case Refused() as refused:
                return _refusal(refused)
            case Hung():
                await asyncio.Event().wait()
            case Dropped(reset):
                return self._close(reset)
        if not self._asked.stream:
            return await self._at_once()
        headers = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
        self._response = web.StreamResponse(headers=headers)
        await self._response.prepare(self._request)
        if not isinstance(step.fault, Blank):
            await self._stream()
        return self._response

    async def _at_once(self) -> web.StreamResponse:
        match self._step.fault:
            case Cut(_, reset):
                return self._close(reset)
            case Stalled():
                await asyncio.Event().wait()
            case Blank():
                return web.Response()
        return web.json_response(sse.message(self._step, self._asked))

    async def _stream(self) -> None:
        frames = list(sse.frames(self._step, self._asked))
        stop_at = -1
        match self._step.fault:
            case Cut(after) | Stalled(after) | Broken(after) | Garbled(after):
                stop_at = after
                frames.pop()
            case Unfinished():
                frames.pop()
        await self._send(frames, stop_at)
        await self._fail()

    async def _send(self, frames: list[sse.Frame], stop_at: int) -> None:
        """Send up to `stop_at` deltas (-1: all), each due at its own time on the clock."""
        loop = asyncio.get_running_loop()
        began, sent = loop.time(), 0
        for frame in frames:
            if frame.delta:
                if sent == stop_at:
                    return
                if sent and self._delay:
                    await asyncio.sleep(began + sent * self._delay - loop.time())
                sent += 1
            await self._response.write(frame.data)

    async def _fail(self) -> None:
        match self._step.fault:
            case Cut(_, reset):
                self._close(reset)
            case Stalled(_, pings):
                while pings:
                    await asyncio.sleep(pings)
                    await self._response.write(sse.PING)
                await asyncio.Event().wait()
            case Broken(_, kind, message):
                error = {"type": kind, "message": message}
                await self._response.write(sse.event("error", error=error))
            case Garbled():
                await self._response.write(sse.GARBAGE)

    def _close(self, reset: bool) -> web.StreamResponse:
        transport = self._request.transport
        if transport is not None and reset:
            linger = struct.pack("ii", 1, 0)  # close() sends RST
            transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, linger
            )
            transport.abort()
        elif transport is not None:
            transport.close()
        return self._response


def _filled(step: Step, asked: Asked) -> Step:
    if step.blocks is not None:
        return step
    return replace(step, blocks=plausible(asked).blocks)


def _ending(step: Step, response: web.StreamResponse) -> Ending:
    if isinstance(step.fault, Cut | Dropped):
        return "cut"
    return "refused" if response.status >= 400 else "answered"


def _refusal(refused: Refused) -> web.Response:
    if refused.html:
        page = f"<html><body><h1>{refused.status}</h1>{refused.message}</body></html>"
        return web.Response(
            status=refused.status, text=page, content_type="text/html", headers=refused.headers
        )
    kind = refused.kind or _KINDS.get(refused.status, "api_error")
    message = refused.message or f"The offline model was told to answer {refused.status}"
    error = {"type": "error", "error": {"type": kind, "message": message}}
    return web.json_response(error, status=refused.status, headers=refused.headers)


def _credential(request: web.Request) -> str:
    bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
    return request.headers.get("x-api-key") or bearer


async def _elsewhere(request: web.Request) -> web.Response:
    if request.method in ("GET", "HEAD") and request.path == "/":
        return web.json_response({"model": "offline"})
    return _refusal(Refused(404, message="The offline model has no such path"))
