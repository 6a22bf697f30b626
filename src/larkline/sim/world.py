"""What exists on the simulated platform: apps, users, chats, messages."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from larkline.sim.clock import SimClock

Json = dict[str, Any]

TENANT_KEY = "736588c9260f175d"
DEFAULT_SCOPES = (
    "im:message",
    "im:message:send_as_bot",
    "im:message.p2p_msg:readonly",
    "im:message.group_at_msg:readonly",
    "im:message.group_msg",
    "im:message.reactions:write_only",
    "im:resource",
    "im:chat:readonly",
    "cardkit:card:read",
    "cardkit:card:write",
    "application:application:self_manage",
)


def stable_id(prefix: str, *parts: str) -> str:
    """An id like the platform's that is the same in every run."""
    return prefix + hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


@dataclass(slots=True)
class App:
    """A custom app with a bot; `scopes` are the granted ones, `pending_scopes` asked for only."""

    app_id: str
    secret: str
    name: str
    scopes: set[str] = field(default_factory=lambda: set(DEFAULT_SCOPES))
    pending_scopes: set[str] = field(default_factory=set)

    @property
    def open_id(self) -> str:
        """The bot's own open_id."""
        return stable_id("ou_", self.app_id, "bot")


@dataclass(frozen=True, slots=True)
class User:
    """A person; `user_id` names them across apps, the open_id differs per app."""

    user_id: str
    name: str

    @property
    def union_id(self) -> str:
        """The id that all apps of a developer share."""
        return stable_id("on_", self.user_id)

    def open_id(self, app_id: str) -> str:
        """The id under which `app_id` knows the person."""
        return stable_id("ou_", app_id, self.user_id)

    def ids(self, app_id: str) -> Json:
        """The three ids as event bodies carry them."""
        return {
            "open_id": self.open_id(app_id),
            "union_id": self.union_id,
            "user_id": self.user_id,
        }


@dataclass(slots=True)
class Chat:
    """A p2p chat (one user, one app) or a group."""

    chat_id: str
    kind: Literal["p2p", "group"]
    name: str
    users: set[str]
    apps: set[str]


@dataclass(slots=True)
class Message:
    """One message; times are Unix seconds, `content` is the JSON string as it was sent."""

    message_id: str
    chat_id: str
    sender_kind: Literal["user", "app"]
    sender: str
    msg_type: str
    content: str
    created: float
    updated: float
    number: int
    root_id: str = ""
    parent_id: str = ""
    thread_id: str = ""
    deleted: bool = False
    edits: int = 0
    mentions: list[Json] = field(default_factory=list)
    reactions: dict[str, tuple[str, str]] = field(default_factory=dict)
    card_id: str = ""
    card: Json | None = None
    patches: list[float] = field(default_factory=list)


class World:
    """The tenant's content. Every change is told to `listeners` as (kind, id)."""

    def __init__(self, clock: SimClock) -> None:
        self.clock = clock
        self.apps: dict[str, App] = {}
        self.users: dict[str, User] = {}
        self.chats: dict[str, Chat] = {}
        self.messages: dict[str, Message] = {}
        self.files: dict[str, bytes] = {}
        self.listeners: list[Callable[[str, str], None]] = []
        self._numbers = itertools.count(1)
        self._by_chat: dict[str, list[Message]] = {}

    def changed(self, kind: str, name: str) -> None:
        """Tell everybody who watches."""
        for listener in self.listeners:
            listener(kind, name)

    def add_app(self, name: str, app_id: str, secret: str) -> App:
        """A new app with every scope larkline asks for."""
        app = self.apps[app_id] = App(app_id, secret, name)
        self.changed("world", app_id)
        return app

    def add_user(self, name: str, user_id: str) -> User:
        """A new person."""
        user = self.users[user_id] = User(user_id, name)
        self.changed("world", user_id)
        return user

    def p2p(self, user_id: str, app_id: str) -> Chat:
        """The private chat of a person and a bot, made when it is first asked for."""
        chat_id = stable_id("oc_", "p2p", user_id, app_id)
        if chat_id not in self.chats:
            name = self.apps[app_id].name
            self.chats[chat_id] = Chat(chat_id, "p2p", name, {user_id}, {app_id})
            self.changed("world", chat_id)
        return self.chats[chat_id]

    def add_group(self, name: str, users: set[str], apps: set[str]) -> Chat:
        """A new group."""
        chat_id = stable_id("oc_", "group", name, str(len(self.chats)))
        chat = self.chats[chat_id] = Chat(chat_id, "group", name, set(users), set(apps))
        self.changed("world", chat_id)
        return chat

    def user_by_open_id(self, open_id: str, app_id: str) -> User | None:
        """The person whom `app_id` knows as `open_id`."""
        return next((u for u in self.users.values() if u.open_id(app_id) == open_id), None)

    def post(
        self,
        chat: Chat,
        sender_kind: Literal["user", "app"],
        sender: str,
        msg_type: str,
        content: str,
        *,
        parent: Message | None = None,
        in_thread: bool = False,
        mentions: list[Json] | None = None,
    ) -> Message:
        """Put a message into a chat; a reply inside a thread stays in it."""
        number = next(self._numbers)
        now = self.clock.now()
        message = Message(
            message_id=stable_id("om_", str(number), str(now)),
            chat_id=chat.chat_id,
            sender_kind=sender_kind,
            sender=sender,
            msg_type=msg_type,
            content=content,
            created=now,
            updated=now,
            number=number,
            mentions=mentions or [],
        )
        if parent is not None:
            self._attach(message, parent, in_thread)
        self.messages[message.message_id] = message
        self._by_chat.setdefault(chat.chat_id, []).append(message)
        self.changed("message", message.message_id)
        return message

    def _attach(self, message: Message, parent: Message, in_thread: bool) -> None:
        message.parent_id = parent.message_id
        message.root_id = parent.root_id or parent.message_id
        root = self.messages.get(message.root_id, parent)
        if in_thread and not root.thread_id:
            root.thread_id = stable_id("omt_", root.message_id)
            self.changed("message", root.message_id)
        message.thread_id = root.thread_id if in_thread or parent.thread_id else ""

    def in_chat(self, chat_id: str) -> list[Message]:
        """The chat's messages, oldest first."""
        return list(self._by_chat.get(chat_id, ()))
