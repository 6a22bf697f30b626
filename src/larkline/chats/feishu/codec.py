"""The platform's event bodies as `ChatEvent` values. Pure; whatever comes in, nothing is raised."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from larkline.chats.feishu.post import post_markdown
from larkline.domain.model import (
    ChatEvent,
    Click,
    Inbound,
    Malformed,
    Mention,
    MessageId,
    Place,
    Uninteresting,
    UserId,
)

EVERYBODY = UserId("all")
MAX_MENTIONS = 100
MAX_NAME_CHARS = 100
MAX_VALUE_DEPTH = 16

_ID = re.compile(r"[A-Za-z0-9_.:=+@-]{1,128}")
_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,100}")
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_DAY = 86400.0


class _BadBody(Exception):
    """Why an event cannot be understood."""


@dataclass(frozen=True, slots=True)
class Ourselves:
    """Who reads the event. `bot` is None until the bot's own id is known."""

    app_id: str
    bot: UserId | None = None


def decode_event(body: bytes, us: Ourselves, now: float) -> ChatEvent:
    """What an event body says.

    Texts come without control characters and lone surrogates. A message whose time is missing or
    lies outside of reason gets `now`. Our own messages and other bots' are uninteresting.
    """
    event_id = ""
    try:
        envelope = _object(_parsed(body), "body")
        header = envelope.get("header")
        if not isinstance(header, dict):
            return Uninteresting(_old_type(envelope))
        event_type = header.get("event_type")
        if not isinstance(event_type, str) or not _NAME.fullmatch(event_type):
            raise _BadBody("event_type is missing")
        if event_type not in ("im.message.receive_v1", "card.action.trigger"):
            return Uninteresting(event_type)
        event_id = _id(header, "event_id")
        event = _object(envelope.get("event"), "event")
        if event_type == "card.action.trigger":
            return _click(event_id, event)
        created = event.get("message")
        stamp = created.get("create_time") if isinstance(created, dict) else None
        when = _moment(stamp, _moment(header.get("create_time"), now, now), now)
        return _message(event_id, event, us, when)
    except _BadBody as exc:
        digest = hashlib.sha256(body).hexdigest()[:32]
        return Malformed(event_id=event_id or digest, body=body, reason=str(exc))


def clean(text: str) -> str:
    """The text with `\\n` line ends, without control characters and lone surrogates."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _SURROGATE.sub("�", _UNPRINTABLE.sub("", text))


def _message(
    event_id: str, event: Mapping[str, object], us: Ourselves, created_at: float
) -> ChatEvent:
    sender = _object(event.get("sender"), "sender")
    if sender.get("sender_type") in ("app", "bot"):
        return Uninteresting("im.message.receive_v1")
    message = _object(event.get("message"), "message")
    user = UserId(_id(_object(sender.get("sender_id"), "sender_id"), "open_id"))
    if user == us.bot:
        return Uninteresting("im.message.receive_v1")
    kind = message.get("message_type")
    if not isinstance(kind, str) or not _NAME.fullmatch(kind):
        raise _BadBody("message_type is missing")
    text = _content(kind, message.get("content"))
    return Inbound(
        id=MessageId(_id(message, "message_id")),
        event_id=event_id,
        place=Place(us.app_id, _id(message, "chat_id"), _id(message, "thread_id", "")),
        private=message.get("chat_type") == "p2p",
        sender=user,
        kind=kind,
        text=text,
        created_at=created_at,
        mentions=_mentions(message.get("mentions"), text or ""),
        parent_id=_id(message, "parent_id", ""),
    )


def _content(kind: str, content: object) -> str | None:
    if kind not in ("text", "post"):
        return None
    if not isinstance(content, str):
        raise _BadBody("content is no string")
    parsed = _object(_parsed(content), "content")
    if kind == "post":
        return clean(post_markdown(parsed))
    text = parsed.get("text")
    if not isinstance(text, str):
        raise _BadBody("content has no text")
    return clean(text)


def _mentions(value: object, text: str) -> tuple[Mention, ...]:
    """The mentions that are whole; a broken one does not cost the message."""
    found: list[Mention] = []
    for each in value[:MAX_MENTIONS] if isinstance(value, list) else ():
        if not isinstance(each, dict):
            continue
        key, ids, name = each.get("key"), each.get("id"), each.get("name")
        open_id = ids.get("open_id") if isinstance(ids, dict) else ids
        if not isinstance(key, str) or not key.startswith("@") or not _ID.fullmatch(key):
            continue
        if not isinstance(open_id, str) or not _ID.fullmatch(open_id):
            open_id = ""
        shown = clean(name).replace("\n", " ")[:MAX_NAME_CHARS] if isinstance(name, str) else ""
        found.append(Mention(key, UserId(open_id), shown))
    if "@_all" in text and all(mention.key != "@_all" for mention in found):
        found.append(Mention("@_all", EVERYBODY, "all"))
    return tuple(found)


def _click(event_id: str, event: Mapping[str, object]) -> Click:
    operator = _object(event.get("operator"), "operator")
    context = _object(event.get("context"), "context")
    action = _object(event.get("action"), "action")
    return Click(
        event_id=event_id,
        sender=UserId(_id(operator, "open_id")),
        chat_id=_id(context, "open_chat_id", ""),
        message_id=MessageId(_id(context, "open_message_id")),
        value=_value(action.get("value")),
    )


def _value(value: object) -> Mapping[str, object] | str:
    """A button's value: an object, also one that came as JSON in a string, or a plain string."""
    if value is None:
        return ""
    if isinstance(value, str):
        try:
            parsed = _parsed(value)
        except _BadBody:
            return clean(value)
        if not isinstance(parsed, dict):
            return clean(value)
        value = parsed
    return {clean(key): _scrubbed(each, 1) for key, each in _object(value, "value").items()}


def _scrubbed(value: object, depth: int) -> object:
    """A JSON value whose strings are clean, whose numbers are finite, and which is not deep."""
    if depth > MAX_VALUE_DEPTH:
        raise _BadBody("value is too deep")
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise _BadBody("value has a number without bounds")
    if isinstance(value, dict):
        return {clean(key): _scrubbed(each, depth + 1) for key, each in value.items()}
    if isinstance(value, list):
        return [_scrubbed(each, depth + 1) for each in value]
    return value


def _parsed(text: str | bytes) -> object:
    try:
        if isinstance(text, bytes):
            text = text.decode()
        value: object = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as exc:
        raise _BadBody(f"no JSON: {type(exc).__name__}") from exc
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _object(value: object, name: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _BadBody(f"{name} is no object")
    return value


def _id(parent: Mapping[str, object], name: str, otherwise: str | None = None) -> str:
    """An id of harmless characters; `otherwise` where it is missing or empty."""
    value = parent.get(name)
    if otherwise is not None and (value is None or value == ""):
        return otherwise
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise _BadBody(f"{name} is missing or no id")
    return value


def _old_type(envelope: Mapping[str, object]) -> str:
    """The type of an event in the old schema, which has no header."""
    event = envelope.get("event")
    for value in (event.get("type") if isinstance(event, dict) else None, envelope.get("type")):
        if isinstance(value, str) and _NAME.fullmatch(value):
            return value
    raise _BadBody("header is no object")


def _moment(value: object, otherwise: float, now: float) -> float:
    """Unix seconds of a time in milliseconds, a string or a number."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 16:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return otherwise
    return value / 1000 if 0 < value <= (now + _DAY) * 1000 else otherwise
