"""The REST door: routes, tokens, scopes, budgets, faults and the record of every call."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from larkline.sim.budgets import Budgets
from larkline.sim.clock import SimClock
from larkline.sim.faults import Faults, RestFault
from larkline.sim.refusal import Refusal, invalid_field
from larkline.sim.variants import Variants
from larkline.sim.world import App, World

Json = dict[str, Any]
Handler = Callable[["Ask"], Awaitable[Json] | Json]

TOKEN_SECONDS = 7200
TOKEN_RENEW_BELOW = 1800
CALLS_KEPT = 500_000


@dataclass(frozen=True, slots=True)
class Call:
    """One REST call: when (Unix seconds), which, its code (-1: no answer) and real seconds."""

    at: float
    api: str
    app_id: str
    code: int
    status: int
    seconds: float
    target: str
    msg: str


@dataclass(slots=True)
class Ask:
    """A call as its handler sees it; `body` is {} when there is none."""

    app: App
    params: dict[str, str]
    query: dict[str, str]
    body: Json
    raw: bytes = b""
    content_type: str = ""
    target: str = ""

    def text(self, name: str, *, required: bool = True) -> str:
        """A string field of the body.

        Raises:
            Refusal: 99992402 when it is missing, 9499 when it is no string.
        """
        value = self.body.get(name)
        if value is None or value == "":
            if required:
                raise invalid_field(name, f"{name} is required")
            return ""
        if not isinstance(value, str):
            raise Refusal(9499, f"Bad Request: {name} should be a string")
        return value


@dataclass(frozen=True, slots=True)
class Route:
    """One API: its name in records, method, path pattern, scopes (any of them) and handler."""

    name: str
    method: str
    pattern: re.Pattern[str]
    scopes: tuple[str, ...]
    handler: Handler


def route(name: str, method: str, path: str, scopes: tuple[str, ...], handler: Handler) -> Route:
    """A route whose path holds `:name` parameters."""
    pattern = re.compile(re.sub(r":(\w+)", r"(?P<\1>[^/]+)", path) + r"\Z")
    return Route(name, method, pattern, scopes, handler)


class Rest:
    """Answers everything under /open-apis."""

    def __init__(
        self,
        world: World,
        clock: SimClock,
        faults: Faults,
        variants: Variants,
        budgets: Budgets,
        routes: list[Route],
    ) -> None:
        self.calls: deque[Call] = deque(maxlen=CALLS_KEPT)
        self.tokens: dict[str, tuple[str, float]] = {}
        self._world = world
        self._clock = clock
        self._faults = faults
        self._variants = variants
        self._budgets = budgets
        self._routes = routes
        self._closing = asyncio.Event()

    def close(self) -> None:
        """Let hanging calls end."""
        self._closing.set()

    def revoke_tokens(self) -> None:
        """Make every token issued so far invalid, well before it expires."""
        self.tokens.clear()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One call."""
        started = time.monotonic()
        at = self._clock.now()
        name, ask = "unknown", None
        try:
            if self._faults.rest_latency > 0:
                await asyncio.sleep(self._faults.rest_latency)
            if request.path == "/open-apis/auth/v3/tenant_access_token/internal":
                name = "auth.token"
                body, status, headers = await self._token(request)
            else:
                match = self._match(request.method, request.path)
                if match is None:
                    return web.Response(status=404, text="404 page not found")
                found, params = match
                name = found.name
                ask = Ask(self._authorise(request), params, dict(request.query), {})
                body, status, headers = await self._run(request, found, ask)
        except Refusal as refusal:
            body = {"code": refusal.code, "msg": refusal.msg}
            if refusal.error:
                body["error"] = dict(refusal.error)
            status, headers = refusal.status, dict(refusal.headers)
        except _Silence:
            self._note(at, started, name, ask, -1, 0, "no answer")
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        self._note(at, started, name, ask, body.get("code", -1), status, body.get("msg", ""))
        return self._answer(body, status, headers)

    def _answer(self, body: Json, status: int, headers: dict[str, str]) -> web.Response:
        headers["X-Tt-Logid"] = time.strftime("%Y%m%d%H%M%S") + secrets.token_hex(10).upper()
        if "bytes" in body:
            return web.Response(body=body["bytes"], headers=headers)
        if "garbage" in body or (body.get("code") == 0 and status >= 500):
            headers["Content-Type"] = "text/html"
            return web.Response(status=status, headers=headers, text="<html>bad gateway</html>")
        return web.json_response(body, status=status, headers=headers)

    async def _run(
        self, request: web.Request, found: Route, ask: Ask
    ) -> tuple[Json, int, dict[str, str]]:
        fault = self._faults.take(found.name)
        await self._before(fault)
        if found.scopes and not ask.app.scopes.intersection(found.scopes):
            raise self._scope_missing(found.scopes)
        self._budgets.api(ask.app.app_id, found.name)
        await self._read_body(request, ask)
        answer = found.handler(ask)
        data = answer if isinstance(answer, dict) else await answer
        if fault is not None:
            await self._after(fault)
            if fault.kind == "garbage":
                return {"garbage": True, "code": 0}, 200, {}
        if "bytes" in data:
            return {"code": 0, **data}, 200, {}
        # Two old APIs answer beside `data`, not in it.
        envelope = data if found.name == "bot.info" else {"data": data}
        return {"code": 0, "msg": "success", **envelope}, 200, {}

    async def _before(self, fault: RestFault | None) -> None:
        if fault is None:
            return
        if fault.kind == "refuse" and fault.refusal is not None:
            raise fault.refusal
        if fault.kind == "delay":
            await asyncio.sleep(fault.seconds)
        if fault.kind == "hang" and not fault.applied:
            await self._closing.wait()
            raise _Silence

    async def _after(self, fault: RestFault) -> None:
        if fault.kind == "hang":
            await self._closing.wait()
        if fault.kind in ("hang", "lose_answer"):
            raise _Silence

    async def _read_body(self, request: web.Request, ask: Ask) -> None:
        ask.content_type = request.content_type
        ask.raw = await request.read()
        if request.content_type == "application/json" and ask.raw:
            ask.body = _object(ask.raw)

    async def _token(self, request: web.Request) -> tuple[Json, int, dict[str, str]]:
        fault = self._faults.take("auth.token")
        await self._before(fault)
        try:
            body = _object(await request.read())
        except Refusal:
            return {"code": 10003, "msg": "invalid param"}, 200, {}
        app_id, secret = body.get("app_id"), body.get("app_secret")
        if not isinstance(app_id, str) or not isinstance(secret, str) or not app_id or not secret:
            return {"code": 10003, "msg": "invalid param"}, 200, {}
        app = self._world.apps.get(app_id)
        if app is None or app.secret != secret:
            return {"code": 10014, "msg": "app id not exists or app secret invalid"}, 200, {}
        if fault is not None:
            await self._after(fault)
        token, expires = self._issue(app_id)
        expire = int(expires - self._clock.now())
        return (
            {"code": 0, "msg": "ok", "tenant_access_token": token, "expire": expire},
            200,
            {},
        )

    def _issue(self, app_id: str) -> tuple[str, float]:
        """The current token; a new one only when less than 30 minutes are left."""
        now = self._clock.now()
        mine = [(end, t) for t, (owner, end) in self.tokens.items() if owner == app_id]
        if mine and max(mine)[0] - now >= TOKEN_RENEW_BELOW:
            expires, token = max(mine)
            return token, expires
        token, expires = f"t-g{secrets.token_hex(20)}", now + TOKEN_SECONDS
        self.tokens[token] = (app_id, expires)
        return token, expires

    def _authorise(self, request: web.Request) -> App:
        status = self._variants.auth_error_status
        value = request.headers.get("Authorization", "")
        if not value:
            raise Refusal(99991661, "Missing access token for authorization.", status)
        scheme, _, token = value.partition(" ")
        if scheme != "Bearer" or not token.startswith("t-"):
            raise Refusal(99991671, "Invalid access token format.", status)
        owner, expires = self.tokens.get(token, ("", 0.0))
        if not owner or expires <= self._clock.now():
            raise Refusal(99991663, "Invalid access token for authorization.", status)
        return self._world.apps[owner]

    def _scope_missing(self, scopes: tuple[str, ...]) -> Refusal:
        violations = [{"type": "action_scope_required", "subject": scope} for scope in scopes]
        return Refusal(
            99991672,
            f"Access denied. One of the following scopes is required: [{', '.join(scopes)}].",
            self._variants.auth_error_status,
            error={"permission_violations": violations},
        )

    def _match(self, method: str, path: str) -> tuple[Route, dict[str, str]] | None:
        for entry in self._routes:
            if entry.method == method and (found := entry.pattern.match(path)):
                return entry, found.groupdict()
        return None

    def _note(
        self,
        at: float,
        started: float,
        name: str,
        ask: Ask | None,
        code: int,
        status: int,
        msg: str,
    ) -> None:
        app_id, target = (ask.app.app_id, ask.target) if ask else ("", "")
        took = time.monotonic() - started
        self.calls.append(Call(at, name, app_id, code, status, took, target, msg))
        self._world.changed("call", name)


class _Silence(Exception):
    """The connection is cut instead of answered."""


def _object(raw: bytes) -> Json:
    try:
        body = json.loads(raw)
    except ValueError as exc:
        raise Refusal(9499, "Bad Request: invalid JSON") from exc
    if not isinstance(body, dict):
        raise Refusal(9499, "Bad Request: an object was expected")
    return body
