"""One call of an agent carried to the upstream and back, byte for byte."""

import asyncio
import errno
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from larkline.agents.account import Tally, Verdict
from larkline.agents.meter import AnswerMeter, StreamMeter
from larkline.agents.silence import Silence
from larkline.agents.upstream import Line

_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_OURS = frozenset(
    {
        "authorization",
        "x-api-key",
        "cookie",
        "host",
        "content-length",
        "content-encoding",  # the body was decoded on its way in
        "accept-encoding",
        "expect",
    }
)
_HELD_BACK = frozenset({"set-cookie", "x-should-retry", "alt-svc"})
_NO_RETRY = {"x-should-retry": "false"}  # makes the CLI give up at once, for every status
_BODY_SECONDS = 60.0
_ERROR_BODY_BYTES = 1 << 20
_STREAMED = b'"stream":true'


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the upstream may send nothing, in seconds.

    `silence` holds before the headers of a streamed answer and in mid-stream, where pings count as
    nothing; `whole` before the headers of an answer that comes in one piece.
    """

    silence: float
    whole: float


class Relay:
    """The way of one request; `run` answers it, whatever happens. Only cancellation escapes."""

    def __init__(self, request: web.Request, tally: Tally, line: Line, patience: Patience) -> None:
        self._request = request
        self._tally = tally
        self._line = line
        self._patience = patience
        self._response: web.StreamResponse | None = None
        self._sending = False
        self._over = False  # nothing of the answer is missing

    async def run(self) -> web.StreamResponse:
        """The answer to the agent, sent or about to be sent."""
        tally = self._tally
        tally.asked()
        if tally.verdict is not None:
            return refusal(tally.verdict.status, "api_error", tally.verdict.message)
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                body = await self._request.read()
        except web.HTTPRequestEntityTooLarge:
            return refusal(413, "request_too_large", "the request is larger than the API takes")
        except TimeoutError:
            return refusal(408, "timeout_error", "the request's body did not arrive")
        streamed = _STREAMED in body.replace(b'"stream": true', _STREAMED)
        limit = self._patience.silence if streamed else self._patience.whole
        try:
            async with asyncio.timeout(None) as timeout:
                with Silence(timeout, limit) as silence:
                    return await self._carry(body, silence)
        except TimeoutError:
            return self._too_slow()
        except asyncio.CancelledError:
            self._cut_by_client()
            raise

    async def _carry(self, body: bytes, silence: Silence) -> web.StreamResponse:
        request = self._request
        headers = _passed(request.headers, _OURS)
        headers["Accept-Encoding"] = "identity"  # else nothing could be metered
        try:
            answer = await self._line.post(
                request.path, request.rel_url.raw_query_string, headers, body
            )
        except aiohttp.ClientError as exc:
            self._tally.unreachable()
            reason = _reason(exc)
            return refusal(502, "api_error", f"the model endpoint cannot be reached ({reason})")
        async with answer:
            self._tally.answered(answer.status, answer.headers.get("Retry-After"))
            if 300 <= answer.status < 400:  # followed, it would lead past the broker
                return refusal(502, "api_error", "the model endpoint redirects; set its final URL")
            if answer.status >= 400:
                return await self._pass_refusal(answer)
            return await self._pass_answer(answer, silence)

    async def _pass_refusal(self, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        body = bytearray()
        try:
            while len(body) < _ERROR_BODY_BYTES and (chunk := await answer.content.readany()):
                body += chunk
        except aiohttp.ClientError:
            body.clear()  # the status is what counts
        headers = self._shown(answer, _HELD_BACK | {"content-length"})
        if not body or "Content-Encoding" in answer.headers:
            headers.pop("Content-Encoding", None)
            headers.pop("Content-Type", None)
            response = refusal(answer.status, "api_error", f"the upstream said {answer.status}")
            response.headers.update(headers)
            return response
        headers.update(_NO_RETRY)
        shown = self._line.upstream.redacted(bytes(body))
        return web.Response(status=answer.status, body=shown, headers=headers)

    def _shown(self, answer: aiohttp.ClientResponse, without: frozenset[str]) -> CIMultiDict[str]:
        """The answer's headers as the agent may see them."""
        redacted = self._line.upstream.redacted
        headers = _passed(answer.headers, without)
        return CIMultiDict((k, redacted(v.encode()).decode()) for k, v in headers.items())

    async def _pass_answer(
        self, answer: aiohttp.ClientResponse, silence: Silence
    ) -> web.StreamResponse:
        headers = self._shown(answer, _HELD_BACK)
        self._response = response = web.StreamResponse(status=answer.status, headers=headers)
        meter = StreamMeter() if answer.content_type == "text/event-stream" else AnswerMeter()
        try:
            if await self._write(response.prepare(self._request)):
                await self._pass_body(answer, response, meter, silence)
        finally:
            if not self._over:
                self._tally.metered(meter.usage)
        return response

    async def _pass_body(
        self,
        answer: aiohttp.ClientResponse,
        response: web.StreamResponse,
        meter: StreamMeter | AnswerMeter,
        silence: Silence,
    ) -> None:
        silence.limit(self._patience.silence)
        while True:
            try:
                chunk = await answer.content.readany()
            except aiohttp.ClientError:
                self._cut_by_upstream()
                return
            if not chunk:
                self._finish(meter)
                return
            self._tally.first_byte()
            if meter.feed(chunk):
                silence.heard()
            if isinstance(meter, StreamMeter) and (meter.whole or meter.error):
                self._finish(meter)  # before the agent can know that its turn is over
            if not await self._write(response.write(chunk)):
                return

    def _finish(self, meter: StreamMeter | AnswerMeter) -> None:
        """Enter the whole call into the turn's record, once."""
        if self._over:
            return
        self._over = True
        self._tally.metered(meter.usage)
        if meter.error:
            self._tally.broke(meter.error)
        elif meter.whole:
            self._tally.went_well()

    async def _write(self, writing: Awaitable[object]) -> bool:
        """Send to the agent; False when it has gone."""
        self._sending = True
        try:
            await writing
        except ConnectionError:
            self._cut_by_client()
            return False
        self._sending = False
        return True

    def _cut_by_client(self) -> None:
        if not self._over:
            self._tally.cut_by_client()

    def _cut_by_upstream(self) -> None:
        if self._over:
            return
        self._tally.cut_by_upstream(Verdict(502, "the model endpoint broke the connection again"))
        self._hang_up()

    def _too_slow(self) -> web.StreamResponse:
        if self._sending:  # the agent is the one who does not move
            self._cut_by_client()
            return self._hang_up()
        if self._over and self._response is not None:
            return self._response
        verdict = Verdict(504, "the model sent nothing for too long, larkline ended the call")
        self._tally.silent(verdict)
        if self._response is None:
            return refusal(verdict.status, "timeout_error", verdict.message)
        return self._hang_up()

    def _hang_up(self) -> web.StreamResponse:
        """End the agent's connection in mid-stream, so that no half answer looks whole."""
        transport = self._request.transport
        if transport is not None and self._sending:
            transport.abort()
        elif transport is not None:
            transport.close()
        assert self._response is not None
        return self._response


def refusal(status: int, kind: str, message: str) -> web.Response:
    """An error in the API's shape that the CLI takes as final."""
    body = {"type": "error", "error": {"type": kind, "message": f"larkline: {message}"}}
    return web.json_response(body, status=status, headers=_NO_RETRY)


def _passed(headers: Mapping[str, str], without: frozenset[str]) -> CIMultiDict[str]:
    """End-to-end headers: hop-by-hop ones, those `Connection` names and `without` left out.

    So are values that are no UTF-8: they could not be sent again.
    """
    named = {name.strip().lower() for name in headers.get("Connection", "").split(",")}
    dropped = _HOP_BY_HOP | without | named
    return CIMultiDict(
        (name, value)
        for name, value in headers.items()
        if name.lower() not in dropped and value == value.encode(errors="ignore").decode()
    )


def _reason(exc: aiohttp.ClientError) -> str:
    """What went wrong, without addresses."""
    if isinstance(exc, aiohttp.ClientSSLError):
        return type(exc).__name__  # its errno is none of the system's
    number = exc.errno if isinstance(exc, OSError) else None
    return errno.errorcode.get(number or 0, type(exc).__name__)
