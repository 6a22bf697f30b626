"""The im APIs for messages: send, reply, read, change, delete."""

from __future__ import annotations

import json

from larkline.sim.budgets import Budgets
from larkline.sim.card_schema import CARD_BYTES, TEXT_BYTES, parse_card
from larkline.sim.cards import Cards
from larkline.sim.clock import SimClock
from larkline.sim.faults import Faults
from larkline.sim.refusal import Refusal, card_refused, invalid_field
from larkline.sim.rest import Ask, Route, route
from larkline.sim.world import TENANT_KEY, Chat, Json, Message, User, World

UUID_SECONDS = 3600.0
UUID_CHARS = 50
MAX_EDITS = 20
PATCH_SECONDS = 14 * 86400.0
PAGE = 50
_SENDABLE_WORDS = """
text post image file audio media sticker interactive share_chat share_user system
"""
SENDABLE = frozenset(_SENDABLE_WORDS.split())
_IM = "/open-apis/im/v1/"
# What reading a card of schema 2.0 gives unless its full form is asked for.
OLD_CLIENT = json.dumps(
    {
        "title": None,
        "elements": [[{"tag": "text", "text": "请升级至最新版本客户端，以查看内容"}]],
    },
    ensure_ascii=False,
)


def find_message(world: World, ask: Ask, *, own: bool) -> Message:
    """The message that the path names; with `own`, one that this app sent.

    Raises:
        Refusal: unknown, in a chat without this bot, or not its own.
    """
    message_id = ask.params["message_id"]
    message = world.messages.get(message_id)
    if message is None:
        raise Refusal(99992354, f"invalid open_message_id {message_id}")
    ask.target = message.chat_id
    if ask.app.app_id not in world.chats[message.chat_id].apps:
        raise Refusal(230002, "The bot can not be outside the group.")
    if own and message.sender != ask.app.app_id:
        raise Refusal(230027, "Lack of necessary permissions, ext=not the sender")
    return message


class MessageApis:
    """Handlers for messages."""

    def __init__(
        self, world: World, clock: SimClock, budgets: Budgets, cards: Cards, faults: Faults
    ) -> None:
        self._world = world
        self._clock = clock
        self._budgets = budgets
        self._cards = cards
        self._faults = faults
        self._uuids: dict[tuple[str, str], tuple[str, float]] = {}

    def routes(self) -> list[Route]:
        """All of them."""
        send = ("im:message", "im:message:send_as_bot")
        read = ("im:message", "im:message:readonly")
        one = _IM + "messages/:message_id"
        return [
            route("im.message.create", "POST", _IM + "messages", send, self._create),
            route("im.message.list", "GET", _IM + "messages", read, self._list),
            route("im.message.reply", "POST", one + "/reply", send, self._reply),
            route("im.message.get", "GET", one, read, self._get),
            route("im.message.update", "PUT", one, send, self._update),
            route("im.message.patch", "PATCH", one, send, self._patch),
            route("im.message.delete", "DELETE", one, send, self._delete),
        ]

    # sending

    def _create(self, ask: Ask) -> Json:
        kind = ask.query.get("receive_id_type", "")
        if kind not in ("chat_id", "open_id", "user_id", "union_id"):
            raise invalid_field("receive_id_type", "receive_id_type is optional: open_id, chat_id")
        chat = self._receiver(ask, kind, ask.text("receive_id"))
        return self._send(ask, chat, None, False)

    def _reply(self, ask: Ask) -> Json:
        parent = find_message(self._world, ask, own=False)
        if parent.deleted:
            raise Refusal(230011, "The message was recalled.")
        in_thread = ask.body.get("reply_in_thread", False)
        if not isinstance(in_thread, bool):
            raise Refusal(9499, "Bad Request: reply_in_thread should be a bool")
        return self._send(ask, self._world.chats[parent.chat_id], parent, in_thread)

    def _receiver(self, ask: Ask, kind: str, receive_id: str) -> Chat:
        app_id = ask.app.app_id
        if kind == "chat_id":
            chat = self._world.chats.get(receive_id)
            if chat is None:
                raise Refusal(230001, "invalid request parameter, ext=invalid receive_id")
        else:
            users = self._world.users.values()
            user = next((u for u in users if u.ids(app_id)[kind] == receive_id), None)
            if user is None:
                code = 99992352 if kind == "open_id" else 230001
                raise Refusal(code, f"invalid {kind}")
            chat = self._world.p2p(user.user_id, app_id)
        if app_id not in chat.apps:
            raise Refusal(230002, "The bot can not be outside the group.")
        return chat

    def _send(self, ask: Ask, chat: Chat, parent: Message | None, in_thread: bool) -> Json:
        ask.target = chat.chat_id
        msg_type, content = ask.text("msg_type"), ask.text("content")
        uuid = ask.text("uuid", required=False)
        if len(uuid) > UUID_CHARS:
            raise invalid_field("uuid", "the max length is 50")
        known = self._known(ask.app.app_id, uuid)
        if known is not None:
            return self.view(known)
        card, entity_id = self._check(msg_type, content)
        entity = self._cards.find(entity_id, ask.app.app_id) if entity_id else None
        if entity is not None and entity.message_id:
            self._cards.send(entity, "")
        self._budgets.chat(chat.chat_id)
        message = self._world.post(
            chat, "app", ask.app.app_id, msg_type, content, parent=parent, in_thread=in_thread
        )
        message.card = card
        if entity is not None:
            self._cards.send(entity, message.message_id)
            message.card_id = entity.card_id
        if uuid:
            self._uuids[ask.app.app_id, uuid] = (message.message_id, self._clock.now())
        self._world.changed("message", message.message_id)
        return self.view(message)

    def _known(self, app_id: str, uuid: str) -> Message | None:
        """The message that this uuid sent within the last hour."""
        message_id, at = self._uuids.get((app_id, uuid), ("", 0.0))
        if not uuid or not message_id or self._clock.now() - at >= UUID_SECONDS:
            return None
        return self._world.messages[message_id]

    def _check(self, msg_type: str, content: str) -> tuple[Json | None, str]:
        """The card in the content, or the id of the entity it names; both empty otherwise."""
        if msg_type not in SENDABLE:
            raise Refusal(230001, f"invalid request parameter, ext=msg_type {msg_type}")
        size = len(content.encode())
        if size > (TEXT_BYTES if msg_type == "text" else CARD_BYTES):
            raise Refusal(230025, "The length of the message content reaches its limit.")
        if msg_type == "interactive":
            return self._check_card(content)
        try:
            body = json.loads(content)
        except ValueError as exc:
            raise Refusal(230001, "invalid request parameter, ext=content is no JSON") from exc
        if not isinstance(body, dict):
            raise Refusal(230001, "invalid request parameter, ext=content is no object")
        if msg_type == "text" and not (isinstance(body.get("text"), str) and body["text"]):
            raise Refusal(230001, "invalid request parameter, ext=text is empty")
        if msg_type == "post":
            _check_post(body)
        if msg_type == "image" and body.get("image_key") not in self._world.files:
            raise Refusal(230001, "invalid request parameter, ext=image_key")
        if msg_type == "file" and body.get("file_key") not in self._world.files:
            raise Refusal(230001, "invalid request parameter, ext=file_key")
        return None, ""

    def _check_card(self, content: str) -> tuple[Json | None, str]:
        try:
            body = json.loads(content)
        except ValueError as exc:
            raise card_refused(200621, "parse card json err") from exc
        if isinstance(body, dict) and body.get("type") == "card":
            data = body.get("data")
            card_id = data.get("card_id") if isinstance(data, dict) else None
            if not isinstance(card_id, str):
                raise card_refused(200621, "card_id is missing")
            return None, card_id
        self.card_fault()
        return parse_card(content), ""

    def card_fault(self) -> None:
        """Refuse a card's content when a fault says so.

        Raises:
            Refusal: the fault's.
        """
        fault = self._faults.take("card-content")
        if fault is not None and fault.refusal is not None:
            raise fault.refusal

    # reading

    def _get(self, ask: Ask) -> Json:
        message = find_message(self._world, ask, own=False)
        return {"items": [self.view(message, _card_form(ask))]}

    def _list(self, ask: Ask) -> Json:
        query = ask.query
        container = query.get("container_id", "")
        try:
            start, end = float(query.get("start_time", 0)), float(query.get("end_time", "inf"))
            size, skip = int(query.get("page_size", 20)), int(query.get("page_token") or 0)
        except ValueError as exc:
            raise invalid_field("page", "not a number") from exc
        if not 1 <= size <= PAGE:
            raise invalid_field("page_size", "from 1 to 50")
        found = self._container(ask, query.get("container_id_type", ""), container)
        found = [m for m in found if start <= int(m.created) <= end]
        if query.get("sort_type") == "ByCreateTimeDesc":
            found.reverse()
        page = found[skip : skip + size]
        more = skip + size < len(found)
        return {
            "has_more": more,
            "page_token": str(skip + size) if more else "",
            "items": [self.view(m, _card_form(ask)) for m in page],
        }

    def _container(self, ask: Ask, kind: str, container: str) -> list[Message]:
        if kind == "thread":
            every = self._world.messages.values()
            return [m for m in every if m.thread_id == container]
        if kind != "chat":
            raise invalid_field("container_id_type", "chat or thread")
        chat = self._world.chats.get(container)
        if chat is None:
            raise Refusal(230001, "invalid request parameter, ext=container_id")
        if ask.app.app_id not in chat.apps:
            raise Refusal(230002, "The bot can not be outside the group.")
        return self._world.in_chat(container)

    def view(self, message: Message, card_form: str = "") -> Json:
        """A message as REST answers show it; cards in full only when asked for."""
        app = self._world.apps.get(message.sender)
        by_app = message.sender_kind == "app"
        own = next(iter(self._world.chats[message.chat_id].apps), "")
        sender = message.sender if by_app else self._world.users[message.sender].open_id(own)
        view: Json = {
            "message_id": message.message_id,
            "msg_type": message.msg_type,
            "create_time": str(int(message.created * 1000)),
            "update_time": str(int(message.updated * 1000)),
            "deleted": message.deleted,
            "updated": message.updated != message.created,
            "chat_id": message.chat_id,
            "sender": {
                "id": app.app_id if app else sender,
                "id_type": "app_id" if by_app else "open_id",
                "sender_type": message.sender_kind,
                "tenant_key": TENANT_KEY,
            },
            "body": {"content": self._shown(message, card_form)},
            "mentions": [self._mention(m, own) for m in message.mentions],
        }
        for name in ("root_id", "parent_id", "thread_id"):
            if getattr(message, name):
                view[name] = getattr(message, name)
        return view

    def _shown(self, message: Message, card_form: str) -> str:
        if message.deleted:
            return "This message was recalled"
        if message.msg_type != "interactive":
            return message.content
        if card_form != "user_card_content":
            return OLD_CLIENT
        entity = self._cards.all.get(message.card_id)
        return json.dumps(entity.body if entity else message.card, ensure_ascii=False)

    def _mention(self, mention: Json, app_id: str) -> Json:
        known = mention["of"]
        open_id = known.open_id(app_id) if isinstance(known, User) else known.open_id
        return {
            "key": mention["key"],
            "id": open_id,
            "id_type": "open_id",
            "name": mention["name"],
            "tenant_key": TENANT_KEY,
        }

    # changing

    def _update(self, ask: Ask) -> Json:
        message = find_message(self._world, ask, own=True)
        msg_type, content = ask.text("msg_type"), ask.text("content")
        if message.deleted:
            raise Refusal(230011, "The message was recalled.")
        if message.msg_type not in ("text", "post") or msg_type not in ("text", "post"):
            raise Refusal(230001, "invalid request parameter, ext=only text and post")
        if message.edits >= MAX_EDITS:
            raise Refusal(230072, "The message has reached the number of times it can be edited.")
        self._check(msg_type, content)
        message.edits += 1
        message.msg_type, message.content = msg_type, content
        self._touch(message)
        return self.view(message)

    def _patch(self, ask: Ask) -> Json:
        message = find_message(self._world, ask, own=True)
        content = ask.text("content")
        if message.deleted:
            raise Refusal(230011, "The message was recalled.")
        if message.msg_type != "interactive":
            raise Refusal(230001, "invalid request parameter, ext=not a card")
        if self._clock.now() - message.created > PATCH_SECONDS:
            raise Refusal(230031, "The message is more than 14 days old.")
        card, entity_id = self._check_card(content)
        if card is None or entity_id:
            raise card_refused(200621, "a patch carries a card, not an entity")
        for body in (message.card, card):
            if body is not None and body.get("config", {}).get("update_multi") is not True:
                raise Refusal(
                    230099,
                    "Failed to create card content, ext=ErrCode: 200220; "
                    "ErrMsg: update_multi is not true; ",
                )
        self._budgets.patch(message.message_id)
        message.card, message.card_id, message.content = card, "", content
        message.patches.append(self._clock.now())
        self._touch(message)
        return {}

    def _delete(self, ask: Ask) -> Json:
        message = find_message(self._world, ask, own=True)
        if message.deleted:
            raise Refusal(230011, "The message was recalled.")
        message.deleted = True
        self._touch(message)
        return {}

    def _touch(self, message: Message) -> None:
        message.updated = self._clock.now()
        self._world.changed("message", message.message_id)


def _check_post(body: Json) -> None:
    for language in body.values():
        lines = language.get("content") if isinstance(language, dict) else None
        if not isinstance(lines, list) or not all(isinstance(line, list) for line in lines):
            raise Refusal(230001, "invalid request parameter, ext=post content")
    if not body:
        raise Refusal(230001, "invalid request parameter, ext=post is empty")


def _card_form(ask: Ask) -> str:
    return ask.query.get("card_msg_content_type", "")
