"""The chat page: static files, what they show, and a live stream of changes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from larkline.sim.views import Views
from larkline.sim.world import Json, World

if TYPE_CHECKING:
    from larkline.sim.cards import Cards

STATIC = Path(__file__).parent / "static"
TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
PACE = 0.04
KEEPALIVE = 15.0
SHOWN = 300
POLICY = "default-src 'self'; style-src 'self'; img-src 'self' data:; object-src 'none'"


class Watcher:
    """One open page: what changed since it was last told. Newest state wins, so it is bounded
    by what exists."""

    def __init__(self) -> None:
        self.messages: dict[str, None] = {}
        self.world = False
        self.woken = asyncio.Event()
        self.ended = False


class Page:
    """Serves the page and streams changes to every open one."""

    def __init__(self, world: World, cards: Cards, connections: Callable[[], int]) -> None:
        self._connections = connections
        self.views = Views(world, cards)
        self._world = world
        self._cards = cards
        self._watchers: set[Watcher] = set()
        world.listeners.append(self._changed)

    def routes(self) -> list[web.RouteDef]:
        """The page's paths."""
        return [
            web.get("/", self._index),
            web.get("/static/{name}", self._static),
            web.get("/_sim/world", self._show_world),
            web.get("/_sim/chats/{chat}/messages", self._messages),
            web.get("/_sim/stream", self._stream),
        ]

    def close(self) -> None:
        """End every stream."""
        for watcher in self._watchers:
            watcher.ended = True
            watcher.woken.set()

    def _changed(self, kind: str, name: str) -> None:
        if kind == "card":
            name = self._cards.all[name].message_id
        for watcher in self._watchers:
            if kind in ("message", "card") and name:
                watcher.messages[name] = None
            elif kind in ("world", "link"):
                watcher.world = True
            else:
                continue
            watcher.woken.set()

    async def _index(self, request: web.Request) -> web.Response:
        return self._file("index.html")

    async def _static(self, request: web.Request) -> web.Response:
        return self._file(request.match_info["name"])

    def _file(self, name: str) -> web.Response:
        path = STATIC / name
        if path.parent != STATIC or path.suffix not in TYPES or not path.is_file():
            return web.Response(status=404, text="not found")
        headers = {"Cache-Control": "no-store", "Content-Security-Policy": POLICY}
        return web.Response(
            body=path.read_bytes(),
            content_type=TYPES[path.suffix],
            charset="utf-8",
            headers=headers,
        )

    async def _show_world(self, request: web.Request) -> web.Response:
        return web.json_response(self._everything())

    def _everything(self) -> Json:
        return {**self.views.world(), "connections": self._connections()}

    async def _messages(self, request: web.Request) -> web.Response:
        found = self._world.in_chat(request.match_info["chat"])[-SHOWN:]
        return web.json_response({"messages": [self.views.message(m) for m in found]})

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        )
        await response.prepare(request)
        watcher = Watcher()
        self._watchers.add(watcher)
        try:
            await response.write(b": hello\n\n")
            while not watcher.ended:
                await self._tell(response, watcher)
        except ConnectionResetError:
            return response
        finally:
            self._watchers.discard(watcher)
        return response

    async def _tell(self, response: web.StreamResponse, watcher: Watcher) -> None:
        """Wait for changes and send them; a comment when nothing happens for long."""
        try:
            await asyncio.wait_for(watcher.woken.wait(), KEEPALIVE)
        except TimeoutError:
            await response.write(b": still here\n\n")
            return
        watcher.woken.clear()
        names, watcher.messages = watcher.messages, {}
        world, watcher.world = watcher.world, False
        changes: list[Json] = [{"kind": "world", **self._everything()}] if world else []
        for name in names:
            view = self.views.message(self._world.messages[name])
            changes.append({"kind": "message", "message": view})
        for change in changes:
            data = json.dumps(change, ensure_ascii=False)
            await response.write(f"data: {data}\n\n".encode())
        # Gathers what a fast stream changes meanwhile, so that a page redraws 25 times a second.
        await asyncio.sleep(PACE)
