"""The chats under the contract, and the other side of each: users and the platform."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from larkline.chats.feishu.chat import FeishuChat
from larkline.chats.feishu.settings import Bounds
from larkline.chats.scripted import ScriptedChat
from larkline.domain.errors import (
    ChatGone,
    ContentRefused,
    LarklineError,
    Permanent,
    SequenceStale,
    StoreError,
    StreamClosed,
    TargetGone,
    Transient,
)
from larkline.domain.model import (
    ChatEvent,
    Click,
    Inbound,
    MessageId,
    Place,
    Toast,
    Uninteresting,
    UserId,
)
from larkline.ports import Chat
from larkline.sim.faults import RestFault
from larkline.sim.platform import Platform

APIS = {
    "create_card": "cardkit.card.create",
    "send_card": "im.message.create",
    "stream": "cardkit.element.content",
    "replace_card": "cardkit.card.update",
    "send_text": "im.message.create",
    "sent_since": "im.message.list",
}
CODES: dict[type[LarklineError], int] = {
    TargetGone: 230011,
    ChatGone: 230002,
    ContentRefused: 230025,
    StreamClosed: 300309,
    SequenceStale: 300317,
    Permanent: 230027,
    Transient: 230020,
}


class Rig(Protocol):
    """A chat, and the other side of it."""

    @property
    def chat(self) -> Chat: ...

    @property
    def place(self) -> Place: ...

    async def ready(self) -> None:
        """Wait until events can arrive."""

    async def says(self, text: str) -> bool:
        """A user writes; whether the event was acknowledged as stored."""

    async def clicks(self, message: MessageId) -> Toast | None:
        """A user presses the card's button; what they see."""

    async def odd_event(self) -> bool:
        """Something of an unknown type happens; whether it was acknowledged."""

    async def lose(self) -> None:
        """The platform goes away for a while; returns while it is away."""

    def refuse(self, method: str, kind: type[LarklineError]) -> None:
        """The next call is refused."""

    def lose_answer(self, method: str) -> None:
        """The next call takes effect, but its answer is lost."""

    def shown(self) -> list[str]:
        """What a reader sees in the chat of our messages, oldest first."""


@dataclass
class FeishuRig:
    chat: FeishuChat
    platform: Platform

    @property
    def place(self) -> Place:
        chat_id = self.platform.p2p(self.platform.users[0]).chat_id
        return Place(self.platform.app.app_id, chat_id)

    async def ready(self) -> None:
        await self.platform.connected()

    async def says(self, text: str) -> bool:
        delivery = self.platform.people.send(self.platform.users[0], text).delivery
        assert delivery is not None
        await self.platform.until(lambda: delivery.pushes[0].code is not None)
        return delivery.pushes[0].code == 200

    async def clicks(self, message: MessageId) -> Toast | None:
        done = await self.platform.people.click(self.platform.users[0], message, label="Stop")
        assert done.code == 0
        return Toast(done.toast["content"], done.toast["type"]) if done.toast else None

    async def odd_event(self) -> bool:
        delivery = self.platform.people.enter(self.platform.users[0])
        await self.platform.until(lambda: delivery.pushes[0].code is not None)
        return delivery.pushes[0].code == 200

    async def lose(self) -> None:
        self.platform.faults.endpoint_codes = [1000040350] * 3
        await self.platform.connections.drop()
        await until(lambda: not self.chat.connection().connected)

    def refuse(self, method: str, kind: type[LarklineError]) -> None:
        self.platform.faults.refuse(APIS[method], CODES[kind])

    def lose_answer(self, method: str) -> None:
        self.platform.faults.rest.append(RestFault(APIS[method], "lose_answer"))

    def shown(self) -> list[str]:
        chat = self.platform.p2p(self.platform.users[0])
        return [self.platform.text(message) for message in self.platform.replies(chat)]


@dataclass
class ScriptedRig:
    chat: ScriptedChat
    place: Place = field(default_factory=lambda: Place("cli_app", "oc_1"))
    events: int = 0

    async def ready(self) -> None:
        await self.chat.until(lambda: self.chat.connection().connected)

    async def says(self, text: str) -> bool:
        return await self._taken(
            Inbound(
                id=MessageId(f"om_in_{self.events}"),
                event_id=f"e{self.events}",
                place=self.place,
                private=True,
                sender=UserId("ou_anna"),
                kind="text",
                text=text,
                created_at=time.time(),
            )
        )

    async def clicks(self, message: MessageId) -> Toast | None:
        value = {"act": "stop"}
        click = Click("e-click", UserId("ou_anna"), self.place.chat_id, message, value)
        return await self.chat.deliver(click)

    async def odd_event(self) -> bool:
        return await self._taken(Uninteresting("brand.new_v1"))

    async def _taken(self, event: ChatEvent) -> bool:
        self.events += 1
        try:
            await self.chat.deliver(event)
        except StoreError:
            return False
        return True

    async def lose(self) -> None:
        self.chat.reason = "the platform is away"

        async def back() -> None:
            await asyncio.sleep(0.05)
            self.chat.reason = ""

        self._back = asyncio.create_task(back())

    def refuse(self, method: str, kind: type[LarklineError]) -> None:
        self.chat.refuse(method, kind("refused by a test"))  # type: ignore[arg-type]

    def lose_answer(self, method: str) -> None:
        error = Transient("no answer", unsure=True)
        self.chat.refuse(method, error, applied=True)  # type: ignore[arg-type]

    def shown(self) -> list[str]:
        return [self.chat.reader_sees(each.id) for each in self.chat.shown]


QUICK = Bounds(
    ping=(0.1, 0.1), interval=(0.05, 0.1), nonce=(0.0, 0.05), first_retry=0.02, slack=0.5
)


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for a state that nobody announces."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)
