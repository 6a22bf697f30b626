"""A step played to one client over HTTP, with its pace and its fault."""

import asyncio
import socket
import struct
from collections.abc import Iterable

from aiohttp import web

from larkline.sim import sse
from larkline.sim.asked import Asked
from larkline.sim.steps import (
    Blank,
    Broken,
    Cut,
    Dropped,
    Garbled,
    Hung,
    Refused,
    Stalled,
    Step,
    Unfinished,
)

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


class Playing:
    """One step being played to one client."""

    def __init__(self, request: web.Request, asked: Asked, step: Step, delay: float) -> None:
        self._request = request
        self._asked = asked
        self._step = step
        self._delay = delay if step.delay is None else step.delay
        self._response: web.StreamResponse = web.Response()

    async def play(self) -> web.StreamResponse:
        """Send the step; ends early only when cancelled."""
        step = self._step
        if step.first:
            await asyncio.sleep(step.first)
        match step.fault:
            case Refused() as refused:
                return refusal(refused)
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
        stop_at, ending = -1, True
        match self._step.fault:
            case Cut(after) | Stalled(after) | Broken(after) | Garbled(after):
                stop_at, ending = after, False
            case Unfinished():
                ending = False
        await self._send(sse.frames(self._step, self._asked, ending=ending), stop_at)
        await self._fail()

    async def _send(self, frames: Iterable[sse.Frame], stop_at: int) -> None:
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


def refusal(refused: Refused) -> web.Response:
    """An error as the API, or a proxy before it, sends it."""
    if refused.html:
        page = f"<html><body><h1>{refused.status}</h1>{refused.message}</body></html>"
        return web.Response(
            status=refused.status, text=page, content_type="text/html", headers=refused.headers
        )
    kind = refused.kind or _KINDS.get(refused.status, "api_error")
    message = refused.message or f"The offline model was told to answer {refused.status}"
    error = {"type": "error", "error": {"type": kind, "message": message}}
    return web.json_response(error, status=refused.status, headers=refused.headers)
