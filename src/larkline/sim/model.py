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
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Literal, Self

from aiohttp import web

from larkline.sim.answers import mistaken, plausible
from larkline.sim.asked import Asked, Malformed, read
from larkline.sim.playing import Playing, refusal
from larkline.sim.script import parse
from larkline.sim.steps import (
    Cut,
    Dropped,
    LastResult,
    Refused,
    Step,
)

Ending = Literal["open", "answered", "refused", "cut", "gone"]
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
        self, port: int = 0, *, rate: float = 0.0, key: str | None = None, keep: int = 1000
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
            return refusal(Refused(401, message="invalid x-api-key"))
        try:
            asked = read(json.loads(await request.read()))
        except web.HTTPRequestEntityTooLarge:
            return refusal(Refused(413, message="Request exceeds the maximum size"))
        except Malformed as exc:
            return refusal(Refused(400, message=str(exc)))
        except ValueError:
            return refusal(Refused(400, message="the body is not JSON"))
        number = next(self._numbers)
        session = request.headers.get("X-Claude-Code-Session-Id", "")
        self.requests.append(Request(number, time.monotonic(), session, key, asked))
        await self._ended(number, "open")
        ending: Ending = "gone"
        try:
            step = self._step(asked)
            response = await Playing(request, asked, step, self._delay).play()
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
            return refusal(Refused(400, message=str(exc)))
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


def _filled(step: Step, asked: Asked) -> Step:
    if step.blocks is not None:
        return step
    return replace(step, blocks=plausible(asked).blocks)


def _ending(step: Step, response: web.StreamResponse) -> Ending:
    if isinstance(step.fault, Cut | Dropped):
        return "cut"
    return "refused" if response.status >= 400 else "answered"


def _credential(request: web.Request) -> str:
    bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
    return request.headers.get("x-api-key") or bearer


async def _elsewhere(request: web.Request) -> web.Response:
    if request.method in ("GET", "HEAD") and request.path == "/":
        return web.json_response({"model": "offline"})
    return refusal(Refused(404, message="The offline model has no such path"))
