"""The control API under /_sim: lets another process act as users and switch faults.

JSON in and out; loopback host names only, so that a web page elsewhere can't drive it.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from aiohttp import web

from larkline.sim.deliveries import Delivery
from larkline.sim.faults import Faults, HandshakeRefusal, RestFault
from larkline.sim.longconn import ClientConfig
from larkline.sim.people import Sent
from larkline.sim.refusal import Refusal
from larkline.sim.variants import Variants

if TYPE_CHECKING:
    from larkline.sim.platform import Platform

Json = dict[str, Any]
Action = Callable[[Json], Awaitable[Json] | Json]
LOCAL = ("127.0.0.1", "localhost", "[::1]")


class Control:
    """The doors of the control API."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    def routes(self) -> list[web.RouteDef]:
        """Reads are GET, actions are POST with a JSON body."""
        reads = {
            "calls": self._calls,
            "refusals": self._refusals,
            "deliveries": self._deliveries,
            "stats": self._stats,
            "cards": self._cards,
        }
        acts: dict[str, Action] = {
            "send": self._send,
            "raw": self._raw,
            "click": self._click,
            "recall": self._recall,
            "enter": self._enter,
            "add-bot": self._add_bot,
            "add-user": self._add_user,
            "add-group": self._add_group,
            "advance": self._advance,
            "faults": self._faults,
            "variants": self._variants,
            "client-config": self._client_config,
            "connections": self._connections,
            "revoke-tokens": self._revoke,
            "hold": self._hold,
            "release": self._release,
        }
        return [
            *(web.get(f"/_sim/{name}", _reader(read)) for name, read in reads.items()),
            *(web.post(f"/_sim/{name}", _actor(act)) for name, act in acts.items()),
        ]

    def _calls(self, query: Json) -> Json:
        return {"calls": [asdict(c) for c in self._platform.calls]}

    def _refusals(self, query: Json) -> Json:
        return {"calls": [asdict(c) for c in self._platform.refusals()]}

    def _deliveries(self, query: Json) -> Json:
        return {"deliveries": [_delivery(d) for d in self._platform.deliveries.all]}

    def _cards(self, query: Json) -> Json:
        views = self._platform.page.views
        every = self._platform.cards.all.values()
        return {"cards": [views.card(c) for c in every if query.get("id") in (None, c.card_id)]}

    def _stats(self, query: Json) -> Json:
        platform = self._platform
        return {
            "now": platform.clock.now(),
            "app_id": platform.app.app_id,
            "open_ids": {u.user_id: platform.open_id(u) for u in platform.world.users.values()},
            "p2p": {u.user_id: platform.p2p(u).chat_id for u in platform.world.users.values()},
            "group": platform.group.chat_id,
            "connections": len(platform.connections.links),
            "pings": sum(link.pings for link in platform.connections.links.values()),
            "endpoint_calls": platform.connections.endpoint_calls,
            "handshakes": platform.connections.handshakes,
            "malformed": platform.connections.malformed,
            "calls": len(platform.rest.calls),
            "refusals": len(platform.refusals()),
            "messages": len(platform.world.messages),
            "cards": len(platform.cards.all),
            "ack_seconds": platform.ack_seconds(),
        }

    def _send(self, body: Json) -> Json:
        sent = self._platform.people.send(
            body["user"],
            body["text"],
            chat=body.get("chat"),
            app=body.get("app"),
            mention=bool(body.get("mention")),
            reply_to=body.get("reply_to"),
            in_thread=bool(body.get("in_thread")),
        )
        return _sent(sent)

    def _raw(self, body: Json) -> Json:
        sent = self._platform.people.send_raw(
            body["user"],
            body["msg_type"],
            body["content"],
            chat=body.get("chat"),
            app=body.get("app"),
            reply_to=body.get("reply_to"),
            in_thread=bool(body.get("in_thread")),
        )
        return _sent(sent)

    async def _click(self, body: Json) -> Json:
        click = await self._platform.people.click(
            body["user"],
            body["message"],
            element_id=body.get("element_id"),
            label=body.get("label"),
            value=body.get("value"),
            form_value=body.get("form_value"),
        )
        return {
            "code": click.code,
            "toast": click.toast,
            "card_updated": click.card_updated,
            "event_id": click.delivery.event_id,
        }

    def _recall(self, body: Json) -> Json:
        return {"events": [_delivery(d) for d in self._platform.people.recall(body["message"])]}

    def _enter(self, body: Json) -> Json:
        return _delivery(self._platform.people.enter(body["user"], body.get("app")))

    def _add_bot(self, body: Json) -> Json:
        found = self._platform.people.add_bot(body["user"], body["chat"], body.get("app"))
        return _delivery(found)

    def _add_user(self, body: Json) -> Json:
        user = self._platform.add_user(body["name"], body["id"])
        return {"id": user.user_id, "open_id": self._platform.open_id(user)}

    def _add_group(self, body: Json) -> Json:
        users = [self._platform.world.users[name] for name in body["users"]]
        return {"id": self._platform.add_group(body["name"], users).chat_id}

    async def _advance(self, body: Json) -> Json:
        await self._platform.clock.advance(float(body["seconds"]))
        return {"now": self._platform.clock.now()}

    def _faults(self, body: Json) -> Json:
        faults = self._platform.faults
        if body.pop("clear", False):
            faults.clear()
        for entry in body.pop("rest", []):
            code, msg = entry.pop("code", None), entry.pop("msg", "refused by a fault")
            status, headers = entry.pop("status", 400), entry.pop("headers", {})
            refusal = None if code is None else Refusal(code, msg, status, headers)
            faults.rest.append(RestFault(refusal=refusal, **entry))
        for entry in body.pop("handshakes", []):
            faults.handshakes.append(HandshakeRefusal(**entry))
        _set(faults, body)
        return {}

    def _variants(self, body: Json) -> Json:
        _set(self._platform.variants, body)
        return asdict(self._platform.variants)

    def _client_config(self, body: Json) -> Json:
        _set(self._platform.connections.config, body)
        return self._platform.connections.config.wire()

    async def _connections(self, body: Json) -> Json:
        connections = self._platform.connections
        if body["do"] == "half_open":
            return {"count": connections.half_open()}
        if body["do"] != "drop":
            raise KeyError(body["do"])
        return {"count": await connections.drop(rude=bool(body.get("rude", True)))}

    def _revoke(self, body: Json) -> Json:
        self._platform.rest.revoke_tokens()
        return {}

    def _hold(self, body: Json) -> Json:
        self._platform.deliveries.hold()
        return {}

    def _release(self, body: Json) -> Json:
        self._platform.deliveries.release(
            shuffle=bool(body.get("shuffle")), copies=int(body.get("copies", 1))
        )
        return {}


def _set(target: Faults | Variants | ClientConfig, values: Json) -> None:
    """Set fields; an unknown one is an AttributeError that names it, as all have slots."""
    for name, value in values.items():
        setattr(target, name, value)


def _sent(sent: Sent) -> Json:
    return {
        "message": sent.message.message_id,
        "chat": sent.message.chat_id,
        "thread": sent.message.thread_id,
        "event_id": sent.delivery.event_id if sent.delivery else None,
    }


def _delivery(delivery: Delivery) -> Json:
    return {
        "event_id": delivery.event_id,
        "event_type": delivery.event_type,
        "subject": delivery.subject,
        "state": delivery.state,
        "pushes": [
            {"at": p.at, "acked_at": p.acked_at, "code": p.code, "answer": p.answer}
            for p in delivery.pushes
        ],
    }


def _local(request: web.Request) -> bool:
    return request.host.rsplit(":", 1)[0] in LOCAL or request.host in LOCAL


Served = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _reader(read: Callable[[Json], Json]) -> Served:
    async def serve(request: web.Request) -> web.StreamResponse:
        if not _local(request):
            raise web.HTTPForbidden
        return web.json_response(read(dict(request.query)))

    return serve


def _actor(act: Action) -> Served:
    async def serve(request: web.Request) -> web.StreamResponse:
        if not _local(request) or request.content_type != "application/json":
            raise web.HTTPForbidden
        try:
            body = json.loads(await request.read() or b"{}")
            answer = act(body)
            return web.json_response(answer if isinstance(answer, dict) else await answer)
        except (KeyError, TypeError, ValueError, LookupError, AttributeError) as exc:
            return web.json_response({"error": f"{type(exc).__name__}: {exc}"}, status=400)

    return serve
