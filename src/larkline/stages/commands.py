"""Commands in the chat: what they are called, and what each does."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

from larkline.domain.model import (
    ConversationId,
    Inbound,
    Language,
    NewNotice,
    NewTurn,
    QueueLimits,
    Standing,
    Target,
    TurnKind,
    Verdict,
)
from larkline.texts import text


class Command(StrEnum):
    """The commands there are."""

    NEW = "new"
    STOP = "stop"
    STATUS = "status"
    HELP = "help"


_NAMES = {
    "new": Command.NEW,
    "新会话": Command.NEW,
    "新对话": Command.NEW,
    "stop": Command.STOP,
    "停止": Command.STOP,
    "停": Command.STOP,
    "status": Command.STATUS,
    "状态": Command.STATUS,
    "help": Command.HELP,
    "帮助": Command.HELP,
}

# A slash or its full-width form, then letters only: "/etc/hosts" is text, not a command.
_COMMAND = re.compile(r"[/／]([A-Za-z_-]+|[一-鿿]+)(?:\s+(.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Spoken:
    """A command as it was written. `command` None: there is none of that name."""

    command: Command | None
    name: str
    rest: str


def parse(prompt: str) -> Spoken | None:
    """The command in a message; None if the message is not one."""
    match = _COMMAND.fullmatch(prompt.strip())
    if match is None:
        return None
    name, rest = match.group(1), match.group(2) or ""
    return Spoken(_NAMES.get(name.lower()), f"/{name}", rest.strip())


@dataclass(frozen=True, slots=True)
class Actions:
    """What commands can do, as functions of other stages.

    `stop` returns whether a turn was running; `queued` counts all waiting turns; `status` gives
    the status text.
    """

    is_running: Callable[[ConversationId], bool]
    stop: Callable[[ConversationId], bool]
    queued: Callable[[], Awaitable[int]]
    status: Callable[[ConversationId], Awaitable[str]]


class Commands:
    """Says what a spoken command means, and carries it out once it is stored."""

    def __init__(self, actions: Actions, language: Language) -> None:
        self._actions = actions
        self._language = language

    async def judge(
        self, inbound: Inbound, prompt: str, limits: QueueLimits, busy: NewNotice
    ) -> Verdict | None:
        """The verdict on a message that is a command; None if it is none."""
        spoken = parse(prompt)
        if spoken is None:
            return None
        match spoken.command:
            case Command.NEW:
                turn = NewTurn(TurnKind.NEW, spoken.rest)
                return Verdict(Standing.TURN, turn=turn, limits=limits, busy=busy)
            case Command.STOP:
                return await self._judge_stop(inbound)
            case Command.STATUS:
                return self._answer(inbound, await self._actions.status(inbound.place.conversation))
            case Command.HELP:
                return self._answer(inbound, text(self._language, "help"))
            case None:
                words = text(self._language, "unknown_command", command=spoken.name)
                return self._answer(inbound, words)

    def carry_out(self, inbound: Inbound, prompt: str) -> None:
        """The effect of a command whose message is stored now; nothing for other messages."""
        spoken = parse(prompt)
        if spoken is not None and spoken.command is Command.STOP:
            self._actions.stop(inbound.place.conversation)

    async def _judge_stop(self, inbound: Inbound) -> Verdict:
        if self._actions.is_running(inbound.place.conversation):
            # The turn's own card says that it was stopped: no second message.
            return Verdict(Standing.ANSWERED)
        queued = await self._actions.queued()
        key = "nothing_running_queued" if queued else "nothing_running"
        return self._answer(inbound, text(self._language, key, queued=queued))

    def _answer(self, inbound: Inbound, words: str) -> Verdict:
        notice = NewNotice(Target(inbound.place, inbound.id), words)
        return Verdict(Standing.ANSWERED, notice=notice)
