"""`/healthz`, `/readyz` and `/metrics`."""

from __future__ import annotations

import hmac
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

from larkline.domain.errors import SettingsError

Reasons = Callable[[], Awaitable[dict[str, str]]]
"""What keeps the gateway from being ready, by part; empty: ready."""


Exposition = Callable[[], Awaitable[tuple[bytes, str]]]
"""The metrics as text, and its content type."""


@dataclass(frozen=True, slots=True)
class WebSettings:
    """Where to listen; `token` is asked for everywhere but at `/healthz` if it is set."""

    host: str
    port: int
    token: str = ""


class Endpoints:
    """The HTTP side of a running gateway."""

    def __init__(
        self,
        settings: WebSettings,
        *,
        reasons: Reasons,
        metrics: Exposition | None,
    ) -> None:
        self._settings = settings
        self._reasons = reasons
        self._metrics = metrics

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Listen during the block; gives the base URL.

        Raises: SettingsError when the address can't be listened on.
        """
        app = web.Application(middlewares=[self._guarded])
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        if self._metrics is not None:
            app.router.add_get("/metrics", self._show_metrics)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=2)
        await runner.setup()
        host, port = self._settings.host, self._settings.port
        try:
            site = web.TCPSite(runner, host, port)
            try:
                await site.start()
            except socket.gaierror as exc:
                raise SettingsError(f"web.host: {host} is no address of this machine") from exc
            except OSError as exc:
                raise SettingsError(
                    f"web.port: can't listen on {host}:{port} ({exc.strerror}); "
                    "choose another port, or 0 for any"
                ) from exc
            bound = runner.addresses[0]
            shown = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
            yield f"http://{shown}:{bound[1]}"
        finally:
            await runner.cleanup()

    @web.middleware
    async def _guarded(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        token = self._settings.token
        if token and request.path != "/healthz":
            given = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), token.encode()):
                return web.Response(status=401, headers={"WWW-Authenticate": "Bearer"})
        return await handler(request)

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.json_response({"alive": True})

    async def _readyz(self, request: web.Request) -> web.Response:
        reasons = await self._reasons()
        return web.json_response(
            {"ready": not reasons, "reasons": reasons}, status=503 if reasons else 200
        )

    async def _show_metrics(self, request: web.Request) -> web.Response:
        if self._metrics is None:
            raise web.HTTPNotFound
        body, content_type = await self._metrics()
        return web.Response(body=body, headers={"Content-Type": content_type})
