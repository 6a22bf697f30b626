"""From an event to durable rows: nothing is acknowledged before this has returned."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, assert_never

import structlog

from larkline.domain.buttons import asked_again
from larkline.domain.model import (
    Again,
    ChatEvent,
    Click,
    Inbound,
    Language,
    Malformed,
    NewNotice,
    NewTurn,
    QueueLimits,
    Standing,
    Target,
    Toast,
    TurnKind,
    Uninteresting,
    UserId,
    Verdict,
)
from larkline.lifecycle import to_the_end
from larkline.policy.admission import Admission
from larkline.ports import Inbox, TurnQueue
from larkline.texts import text

log = structlog.get_logger()

JudgeCommand = Callable[[Inbound, str, QueueLimits, NewNotice], Awaitable[Verdict | None]]
CarryOut = Callable[[Inbound, str], None]

_HELD_AT_ONCE = 100
_LATE = 2.0
"""A message this many seconds old was held up (an outage, a redelivery): its neighbours may have
been too, and the platform keeps no order then."""


class IntakeStore(TurnQueue, Inbox, Protocol):
    """The part of the store that intake writes to."""


@dataclass(frozen=True, slots=True)
class IntakeSettings:
    """What intake goes by. `reject`: a message that can't start at once is turned away."""

    admission: Admission
    language: Language
    max_concurrent: int
    queue_per_conversation: int
    queue_total: int
    reject: bool = False


class Intake:
    """Judges and stores what a chat delivers.

    `wake` tells what became of a message, so that the right stage looks; `settle_in` that it was
    late.
    """

    def __init__(
        self,
        store: IntakeStore,
        settings: IntakeSettings,
        *,
        judge_command: JudgeCommand,
        carry_out: CarryOut,
        bot: Callable[[], UserId | None],
        wake: Callable[[Standing], None],
        settle_in: Callable[[], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._settings = settings
        self._judge_command = judge_command
        self._carry_out = carry_out
        self._bot = bot
        self._wake = wake
        self._settle_in = settle_in
        self._clock = clock

    async def receive(self, event: ChatEvent) -> Toast | None:
        """Store what the event means; durable on return. Raises: StoreError (deliver again)."""
        match event:
            case Inbound():
                # To the end: a caller that gives up must not part a message from its effects.
                await to_the_end(self._take_in(event))
                return None
            case Click():
                return await to_the_end(self._click(event))
            case Malformed():
                log.warning("event kept unread", event_id=event.event_id, reason=event.reason)
                await self._store.keep(event)
                return None
            case Uninteresting():
                return None
        assert_never(event)

    async def judge_held(self) -> int:
        """Judge the messages that waited for the bot's own id; returns how many."""
        judged = 0
        while held := await self._store.held(_HELD_AT_ONCE):
            for inbound in held:
                await self._take_in(inbound, held=True)
            judged += len(held)
        return judged

    async def _take_in(self, inbound: Inbound, *, held: bool = False) -> None:
        bot = self._bot()
        if not inbound.private:
            if bot is None and inbound.mentions and not held:
                await self._store.accept(inbound, Verdict(Standing.HELD))
                if (
                    self._bot() is not None
                ):  # learnt meanwhile: `judge_held` may have been too early
                    await self._take_in(inbound, held=True)
                return
            if not any(mention.user == bot for mention in inbound.mentions):
                if held:
                    await self._store.accept(inbound, Verdict(Standing.ANSWERED))
                return
        prompt = inbound.prompt(bot)
        verdict = await self._judge(inbound, prompt)
        accepted = await self._store.accept(inbound, verdict)
        if not accepted.fresh:
            log.info("message seen before", message=inbound.id)
            self._wake(accepted.standing)
            return
        log.info(
            "message stored",
            message=inbound.id,
            conversation=inbound.place.conversation,
            standing=accepted.standing,
            turn=accepted.turn,
        )
        if verdict.standing is Standing.ANSWERED and inbound.text is not None:
            self._carry_out_if_admitted(inbound, prompt)
        elif self._clock() - inbound.created_at > _LATE:
            self._settle_in()
        self._wake(accepted.standing)

    def _carry_out_if_admitted(self, inbound: Inbound, prompt: str) -> None:
        if self._settings.admission.admits(inbound.sender, inbound.place.chat_id):
            self._carry_out(inbound, prompt)

    async def _judge(self, inbound: Inbound, prompt: str) -> Verdict:
        settings = self._settings
        if not settings.admission.admits(inbound.sender, inbound.place.chat_id):
            words = text(settings.language, "stranger", user=inbound.sender)
            once = f"stranger:{inbound.place.app_id}:{inbound.sender}"
            notice = NewNotice(Target(inbound.place, inbound.id), words, once)
            return Verdict(Standing.ANSWERED, notice=notice)
        if inbound.text is None:
            return self._answer(inbound, "unsupported", kind=inbound.kind)
        if not prompt:
            return self._answer(inbound, "empty")
        busy = text(
            settings.language,
            "busy",
            running=settings.max_concurrent,
            limit=settings.max_concurrent,
        )
        refusal = NewNotice(Target(inbound.place, inbound.id), busy)
        command = await self._judge_command(inbound, prompt, self._limits(), refusal)
        if command is not None:
            return command
        turn = NewTurn(TurnKind.PROMPT, prompt)
        return Verdict(Standing.TURN, turn=turn, limits=self._limits(), busy=refusal)

    def _answer(self, inbound: Inbound, key: str, **fields: object) -> Verdict:
        words = text(self._settings.language, key, **fields)
        return Verdict(
            Standing.ANSWERED, notice=NewNotice(Target(inbound.place, inbound.id), words)
        )

    async def _click(self, click: Click) -> Toast:
        language = self._settings.language
        if not self._settings.admission.admits(click.sender, click.chat_id):
            return Toast(text(language, "toast_not_yours"), "warning")
        turn = asked_again(click.value)
        if turn is None:
            log.info("click without a meaning", event_id=click.event_id)
            return Toast(text(language, "toast_unknown"), "warning")
        copied = await self._store.again(turn, f"again:{turn}", click.chat_id, self._limits())
        match copied.became:
            case Again.QUEUED:
                log.info("turn sent again", turn=copied.turn, copy_of=turn)
                self._wake(Standing.TURN)
                return Toast(text(language, "toast_again"), "success")
            case Again.DONE_BEFORE:
                return Toast(text(language, "toast_again_done"))
            case Again.FULL:
                return Toast(text(language, "toast_full"), "warning")
            case Again.UNKNOWN:
                log.info("click on a turn of no such chat", event_id=click.event_id, turn=turn)
                return Toast(text(language, "toast_unknown"), "warning")
        assert_never(copied.became)

    def _limits(self) -> QueueLimits:
        settings = self._settings
        in_flight = settings.max_concurrent if settings.reject else None
        return QueueLimits(settings.queue_per_conversation, settings.queue_total, in_flight)
