"""The simulated platform as one object: start it, act as its users, read what happened."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Self

from aiohttp import web

from larkline.sim.budgets import Budgets
from larkline.sim.cards import Card, Cards
from larkline.sim.clock import SimClock
from larkline.sim.control import Control
from larkline.sim.deliveries import Deliveries, Delivery
from larkline.sim.faults import Faults
from larkline.sim.longconn import LongConnections
from larkline.sim.page import Page
from larkline.sim.people import RECEIVED, People
from larkline.sim.rest import Call, Rest
from larkline.sim.rest_cards import CardApis
from larkline.sim.rest_messages import MessageApis
from larkline.sim.rest_others import OtherApis
from larkline.sim.variants import Variants
from larkline.sim.world import App, Chat, Message, User, World

APP_ID = "cli_a1b2c3d4e5f60001"
APP_SECRET = "larkline-simulator-secret-00001"  # noqa: S105 - of the simulator's own app


class Platform:
    """A Feishu platform on loopback: `async with Platform() as p: ...`.

    It starts with one app (`p.app`), three users (`p.users`) and a group (`p.group`). Everything
    that chance decides follows `seed`. It owns its sockets and timers until the block ends.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        host: str = "127.0.0.1",
        seed: int = 0,
        bot_name: str = "larkline",
        app_id: str = APP_ID,
        app_secret: str = APP_SECRET,
    ) -> None:
        if host not in ("127.0.0.1", "::1", "localhost"):
            raise ValueError("the simulator listens on loopback only")
        self.host, self.port = host, port
        self.clock = SimClock()
        self.variants = Variants()
        self.faults = Faults()
        self.world = World(self.clock)
        self.budgets = Budgets(self.clock, self.variants)
        self.cards = Cards(self.clock, self.variants, self._card_changed)
        self.connections = LongConnections(self.world, self.clock, self.faults, self.variants)
        self.deliveries = Deliveries(
            self.clock,
            self.faults,
            self.variants,
            random.Random(seed),  # noqa: S311 - repeatable, not secret
            lambda app_id: list(self.connections.of(app_id)),
            self.world.changed,
        )
        self.connections.deliveries = self.deliveries
        self.people = People(self.world, self.clock, self.cards, self.deliveries, self.variants)
        messages = MessageApis(self.world, self.clock, self.budgets, self.cards, self.faults)
        card_apis = CardApis(self.world, self.cards, self.budgets, messages.card_fault)
        others = OtherApis(self.world, self.clock)
        self.rest = Rest(
            self.world,
            self.clock,
            self.faults,
            self.variants,
            self.budgets,
            [*others.routes(), *messages.routes(), *card_apis.routes()],
        )
        self.app = self.world.add_app(bot_name, app_id, app_secret)
        people = (("林晓", "lin"), ("Anna", "anna"), ("王伟", "wang"))
        self.users = [self.world.add_user(name, user_id) for name, user_id in people]
        for user in self.users:
            self.world.p2p(user.user_id, app_id)
        everyone = {user.user_id for user in self.users}
        self.group = self.world.add_group("研发讨论组", everyone, {app_id})
        self.page = Page(self.world, self.cards, lambda: len(self.connections.links))
        self._control = Control(self)
        self._changes = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self.world.listeners.append(lambda _kind, _name: self._wake())

    async def __aenter__(self) -> Self:
        """Listen; `url` is known from here on."""
        server = web.Application(client_max_size=64 * 1024 * 1024)
        server.add_routes(self.connections.routes())
        server.router.add_route("*", "/open-apis/{tail:.*}", self.rest.handle)
        server.add_routes(self._control.routes())
        server.add_routes(self.page.routes())
        self._runner = web.AppRunner(server, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.host, self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        """End all connections and timers."""
        self.rest.close()
        self.page.close()
        self.deliveries.close()
        await self.connections.close()
        if self._runner is not None:
            await self._runner.cleanup()
        self.clock.close()

    # where and who

    @property
    def url(self) -> str:
        """Where the chat page is; also the `domain` for clients."""
        return f"http://{self.host}:{self.port}"

    @property
    def domain(self) -> str:
        """The base URL that stands in for https://open.feishu.cn."""
        return self.url

    def add_app(self, name: str, app_id: str, app_secret: str) -> App:
        """One more app with a bot."""
        return self.world.add_app(name, app_id, app_secret)

    def add_user(self, name: str, user_id: str) -> User:
        """One more person, with a private chat with each bot."""
        user = self.world.add_user(name, user_id)
        for app_id in self.world.apps:
            self.world.p2p(user_id, app_id)
        return user

    def add_group(self, name: str, users: list[User], apps: list[App] | None = None) -> Chat:
        """One more group; with the first app unless told otherwise."""
        members = apps if apps is not None else [self.app]
        return self.world.add_group(name, {u.user_id for u in users}, {a.app_id for a in members})

    def p2p(self, user: User, app: App | None = None) -> Chat:
        """The private chat of a person and a bot."""
        return self.world.p2p(user.user_id, (app or self.app).app_id)

    def open_id(self, user: User, app: App | None = None) -> str:
        """The id under which the app knows the person."""
        return user.open_id((app or self.app).app_id)

    # what happened

    @property
    def calls(self) -> list[Call]:
        """Every REST call so far, oldest first."""
        return list(self.rest.calls)

    def refusals(self) -> list[Call]:
        """The calls that were answered with a code other than 0, or not at all."""
        return [call for call in self.rest.calls if call.code != 0]

    def ack_seconds(self) -> list[float]:
        """From push to ack, of every push that was acknowledged."""
        pushes = (push for delivery in self.deliveries.all for push in delivery.pushes)
        return [p.acked_at - p.at for p in pushes if p.acked_at is not None]

    def messages(self, chat: Chat, *, sender: str | None = None) -> list[Message]:
        """A chat's messages, oldest first; `sender` is an app id or user id."""
        found = self.world.in_chat(chat.chat_id)
        return [m for m in found if sender in (None, m.sender)]

    def replies(self, chat: Chat) -> list[Message]:
        """What bots wrote into a chat and did not delete."""
        found = self.world.in_chat(chat.chat_id)
        return [m for m in found if m.sender_kind == "app" and not m.deleted]

    def card(self, message: Message) -> Card | None:
        """The card entity that a message shows."""
        return self.cards.all.get(message.card_id)

    def text(self, message: Message) -> str:
        """What a reader sees: a card's Markdown, a text's text, else the raw content."""
        return self.page.views.text(message)

    def deliveries_of(self, message: Message | str) -> list[Delivery]:
        """The receive events of one message."""
        name = message if isinstance(message, str) else message.message_id
        every = self.deliveries.all
        return [d for d in every if d.subject == name and d.event_type == RECEIVED]

    async def until(self, condition: Callable[[], bool], seconds: float = 10.0) -> None:
        """Wait until something changed so that `condition` holds; real seconds.

        Raises:
            TimeoutError: it did not in time.
        """
        async with asyncio.timeout(seconds):
            while not condition():
                self._changes.clear()
                await self._changes.wait()

    async def connected(self, count: int = 1, seconds: float = 10.0) -> None:
        """Wait until the first app has `count` open connections.

        Raises:
            TimeoutError: it has not in time.
        """
        await self.until(lambda: len(self.connections.of(self.app.app_id)) >= count, seconds)

    def _card_changed(self, card_id: str) -> None:
        self.world.changed("card", card_id)

    def _wake(self) -> None:
        self._changes.set()
