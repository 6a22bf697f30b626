"""The APIs around messages: bot, scopes, chats, reactions, files."""

from __future__ import annotations

import re
from email.parser import BytesParser
from typing import Any

from larkline.sim.clock import SimClock
from larkline.sim.refusal import Refusal, invalid_field
from larkline.sim.rest import Ask, Route, route
from larkline.sim.rest_messages import find_message
from larkline.sim.world import TENANT_KEY, Json, World, stable_id

IMAGE_BYTES = 10 * 1024 * 1024
FILE_BYTES = 30 * 1024 * 1024
EMOJI = re.compile(r"[A-Za-z][A-Za-z0-9_]{1,40}\Z")
_IM = "/open-apis/im/v1/"


class OtherApis:
    """Handlers for everything that is no message and no card."""

    def __init__(self, world: World, clock: SimClock) -> None:
        self._world = world
        self._clock = clock

    def routes(self) -> list[Route]:
        """All of them."""
        read = ("im:message", "im:message:readonly")
        react = ("im:message", "im:message.reactions:write_only")
        files = ("im:resource",)
        one = _IM + "messages/:message_id"
        return [
            route("bot.info", "GET", "/open-apis/bot/v3/info/?", (), self._bot),
            route("app.scopes", "GET", "/open-apis/application/v6/scopes", (), self._scopes),
            route("im.reaction.create", "POST", one + "/reactions", react, self._react),
            route("im.reaction.list", "GET", one + "/reactions", read, self._reactions),
            route(
                "im.reaction.delete",
                "DELETE",
                one + "/reactions/:reaction_id",
                react,
                self._unreact,
            ),
            route("im.resource.get", "GET", one + "/resources/:file_key", read, self._resource),
            route("im.image.create", "POST", _IM + "images", files, self._upload_image),
            route("im.file.create", "POST", _IM + "files", files, self._upload_file),
            route("im.chat.get", "GET", _IM + "chats/:chat_id", (), self._chat),
        ]

    def _bot(self, ask: Ask) -> Json:
        return {
            "bot": {
                "activate_status": 2,
                "app_name": ask.app.name,
                "avatar_url": "",
                "ip_white_list": [],
                "open_id": ask.app.open_id,
            }
        }

    def _scopes(self, ask: Ask) -> Json:
        states = [(name, 1) for name in sorted(ask.app.scopes)]
        states += [(name, 2) for name in sorted(ask.app.pending_scopes)]
        return {
            "scopes": [
                {"scope_name": name, "grant_status": state, "scope_type": "tenant"}
                for name, state in states
            ]
        }

    def _chat(self, ask: Ask) -> Json:
        chat = self._world.chats.get(ask.params["chat_id"])
        if chat is None:
            raise Refusal(230001, "Your request contains an invalid request parameter, ext=chat")
        if ask.app.app_id not in chat.apps:
            raise Refusal(230002, "The bot can not be outside the group.")
        return {
            "name": chat.name,
            "chat_mode": chat.kind,
            "chat_type": "private",
            "user_count": str(len(chat.users)),
            "bot_count": str(len(chat.apps)),
            "tenant_key": TENANT_KEY,
        }

    # reactions

    def _react(self, ask: Ask) -> Json:
        message = find_message(self._world, ask, own=False)
        if message.deleted:
            raise Refusal(231003, "The message is not found or recalled.")
        kind = ask.body.get("reaction_type")
        emoji = kind.get("emoji_type") if isinstance(kind, dict) else None
        if not isinstance(emoji, str) or not EMOJI.match(emoji):
            raise Refusal(231001, "The emoji type is invalid.")
        app_id = ask.app.app_id
        reaction_id = stable_id("", message.message_id, app_id, emoji)
        message.reactions[reaction_id] = (app_id, emoji)
        self._world.changed("message", message.message_id)
        return self._reaction(reaction_id, app_id, emoji)

    def _reaction(self, reaction_id: str, operator: str, emoji: str) -> Json:
        kind = "app" if operator in self._world.apps else "user"
        return {
            "reaction_id": reaction_id,
            "operator": {"operator_id": operator, "operator_type": kind},
            "action_time": str(int(self._clock.now() * 1000)),
            "reaction_type": {"emoji_type": emoji},
        }

    def _reactions(self, ask: Ask) -> Json:
        message = find_message(self._world, ask, own=False)
        items = [self._reaction(rid, who, emoji) for rid, (who, emoji) in message.reactions.items()]
        return {"has_more": False, "page_token": "", "items": items}

    def _unreact(self, ask: Ask) -> Json:
        message = find_message(self._world, ask, own=False)
        reaction_id = ask.params["reaction_id"]
        if reaction_id not in message.reactions:
            raise Refusal(231007, "The reaction is not found.")
        operator, emoji = message.reactions[reaction_id]
        if operator != ask.app.app_id:
            raise Refusal(231008, "The reaction is not the operator's.")
        del message.reactions[reaction_id]
        self._world.changed("message", message.message_id)
        return self._reaction(reaction_id, operator, emoji)

    # resources

    def _resource(self, ask: Ask) -> Json:
        message = find_message(self._world, ask, own=False)
        key = ask.params["file_key"]
        if ask.query.get("type") not in ("image", "file"):
            raise invalid_field("type", "image or file")
        if key not in message.content or key not in self._world.files:
            raise Refusal(234001, "Invalid request param.")
        return {"bytes": self._world.files[key]}

    def _upload_image(self, ask: Ask) -> Json:
        data = _uploaded(ask, "image")
        if len(data) > IMAGE_BYTES:
            raise Refusal(234006, "The file size exceed the max value.")
        key = stable_id("img_v3_", str(len(self._world.files)))
        self._world.files[key] = data
        return {"image_key": key}

    def _upload_file(self, ask: Ask) -> Json:
        data = _uploaded(ask, "file")
        if len(data) > FILE_BYTES:
            raise Refusal(234006, "The file size exceed the max value.")
        key = stable_id("file_v3_", str(len(self._world.files)))
        self._world.files[key] = data
        return {"file_key": key}


def _uploaded(ask: Ask, field: str) -> bytes:
    """The file in a multipart body.

    Raises:
        Refusal: 234001 when there is none, 234010 when it is empty.
    """
    head = b"Content-Type: " + ask.content_type.encode() + b"\r\n\r\n"
    form: Any = BytesParser().parsebytes(head + ask.raw)
    for part in form.walk():
        if part.get_param("name", header="content-disposition") == field:
            data = part.get_payload(decode=True)
            if not data:
                raise Refusal(234010, "File's size can't be 0.")
            return bytes(data)
    raise Refusal(234001, "Invalid request param.")
