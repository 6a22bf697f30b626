"""One turn on one agent process, from the claim to its outcome."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, field
from typing import Any

import structlog

from larkline.domain.buttons import again
from larkline.domain.errors import AgentDiedError, AgentStartError, StartFault
from larkline.domain.events import Ended, Started, TextDelta, TextDone
from larkline.domain.model import (
    Button,
    CardView,
    Claim,
    ConversationId,
    Ending,
    Final,
    Language,
    Outcome,
    SessionId,
    TurnKind,
    Usage,
)
from larkline.lifecycle import to_the_end
from larkline.policy.failures import of_result, of_start
from larkline.ports import Agent, AgentSpec, Lease
from larkline.stages.renderer import Draft, elapsed
from larkline.texts import text

log = structlog.get_logger()

Look = Callable[[], CardView]
"""How the answer looks now. Looking costs the size of the text, so it is done when it is sent."""

Revised = Callable[[], None]
"""Says that the answer looks different now; never blocks."""

OpenReply = Callable[[Claim, Look], AbstractAsyncContextManager[Revised]]
"""The live side of a claimed turn's reply: visible at once."""

_TICK = 1.0
"""Seconds between two looks at the clock while an agent says nothing."""

WORTH_ANOTHER_TRY = frozenset(
    {
        Ending.INTERRUPTED,
        Ending.RATE_LIMITED,
        Ending.OVERLOADED,
        Ending.UPSTREAM,
        Ending.UNREACHABLE,
        Ending.NO_OUTPUT,
        Ending.SILENT,
        Ending.AGENT_DIED,
        Ending.INTERNAL,
    }
)
"""Endings that offer a button to send the message again."""


@dataclass(frozen=True, slots=True)
class RunnerSettings:
    """Bounds of a turn, in seconds. `stop_seconds`: how long an interrupted turn may take."""

    language: Language
    silence_seconds: float = 600.0
    turn_seconds: float = 3600.0
    stop_seconds: float = 5.0


@dataclass(slots=True)
class _Course:
    """What is known of a turn while it runs."""

    draft: Draft
    agent: Agent | None = None
    session: SessionId | None = None
    context_lost: bool = False
    spoke: bool = False
    usage: Usage = field(default_factory=Usage)

    def age(self, now: float) -> float:
        """Seconds since the turn began."""
        return now - self.draft.began_at


class Runner:
    """Runs claimed turns; keeps nothing between them."""

    def __init__(
        self,
        settings: RunnerSettings,
        *,
        lease: Lease,
        forget: Callable[[ConversationId], Awaitable[None]],
        open_reply: OpenReply,
        first_text: Callable[[float], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._lease = lease
        self._forget = forget
        self._open_reply = open_reply
        self._first_text = first_text
        self._clock = clock

    async def run(self, claim: Claim, stop: asyncio.Future[Ending]) -> Outcome:
        """Run the turn to its outcome; `stop` asks it to end early. Only cancellation escapes."""
        turn = claim.turn
        with structlog.contextvars.bound_contextvars(
            turn=turn.id, conversation=turn.conversation, attempt=claim.attempt
        ):
            try:
                if turn.kind is TurnKind.NEW:
                    await self._forget(turn.conversation)
                    if not turn.prompt:
                        words = text(self._settings.language, "new_session")
                        return Outcome(
                            Ending.ANSWERED, Final(words, as_card=False), keep_session=""
                        )
                return await self._converse(claim, stop)
            except Exception:
                log.exception("turn failed inside larkline")
                return self.broken_off(claim, Ending.INTERNAL)

    def broken_off(self, claim: Claim, ending: Ending) -> Outcome:
        """The outcome of a turn of which nothing more is known than how it ended."""
        return Outcome(ending, self._final(claim, ending, "", "", ""))

    async def _converse(self, claim: Claim, stop: asyncio.Future[Ending]) -> Outcome:
        course = _Course(Draft(self._clock()))
        async with self._open_reply(claim, lambda: self._view(course)) as revised:
            work = asyncio.create_task(self._work(claim, course, revised))
            try:
                ending = await self._watch(work, course, stop, revised)
                if ending is not None:
                    await self._interrupt(work, course)
            finally:
                work.cancel()
                # The lease inside closes the agent: the guard ends what does not end by itself.
                await to_the_end(asyncio.wait([work]))
        own = None if work.cancelled() else work.result()
        if ending is None:
            if own is None:
                log.error("a turn was cancelled from inside", agent=course.session)
                return self._outcome(claim, course, Ending.INTERNAL)
            return own
        # It may have come to its own end while it was being asked to.
        cut_off = own is None or own.ending in (Ending.STOPPED, Ending.AGENT_DIED)
        return self._outcome(claim, course, ending) if cut_off or own is None else own

    async def _watch(
        self,
        work: asyncio.Task[Outcome],
        course: _Course,
        stop: asyncio.Future[Ending],
        revised: Revised,
    ) -> Ending | None:
        """Wait for the work's end (None), or for a reason to end it; keep the clock moving."""
        while True:
            left = self._settings.turn_seconds - (course.age(self._clock()))
            either: set[asyncio.Future[Any]] = {work, stop}
            await asyncio.wait(
                either,
                timeout=max(0.0, min(_TICK, left)),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if work.done():
                return None
            if stop.done():
                return stop.result()
            if left <= 0:
                return Ending.TIMED_OUT
            revised()

    async def _interrupt(self, work: asyncio.Task[Outcome], course: _Course) -> None:
        """Give the agent `stop_seconds` to end the turn by itself and save what it has."""
        if course.agent is None:
            return
        try:
            async with asyncio.timeout(self._settings.stop_seconds):
                await course.agent.interrupt()
                await asyncio.wait([work])
        except TimeoutError:
            log.warning("agent did not stop when asked; ending it")

    async def _work(self, claim: Claim, course: _Course, revised: Revised) -> Outcome:
        new = claim.turn.kind is TurnKind.NEW
        try:
            try:
                return await self._attempt(claim, course, revised, None if new else claim.session)
            except AgentStartError as exc:
                if exc.fault is not StartFault.RESUME_FAILED:
                    raise
                log.warning("session can't be resumed; a new one begins", session=claim.session)
                course.context_lost = True
                return await self._attempt(claim, course, revised, None)
        except AgentStartError as exc:
            log.warning("agent can't be started", fault=exc.fault, error=str(exc))
            return self._outcome(claim, course, of_start(exc.fault), detail=exc.fault.value)

    async def _attempt(
        self, claim: Claim, course: _Course, revised: Revised, resume: SessionId | None
    ) -> Outcome:
        try:
            async with self._lease(AgentSpec(claim.turn.conversation, resume)) as agent:
                course.agent = agent
                course.session = agent.session
                try:
                    result = await self._listen(claim, course, revised, agent)
                finally:
                    course.usage = agent.usage()
                failure = agent.last_failure()
        except TimeoutError:
            return self._outcome(claim, course, Ending.SILENT)
        except AgentDiedError as exc:
            log.warning("agent died", exit_code=exc.exit_code, error=str(exc))
            code = "" if exc.exit_code is None else f" (exit code {exc.exit_code})"
            return self._outcome(claim, course, Ending.AGENT_DIED, code=code)
        finally:
            course.agent = None
        ending = of_result(
            result,
            visible=bool(course.draft.blocks),
            silent_upstream=failure is not None and failure.silent,
        )
        status = result.api_error_status
        return self._outcome(claim, course, ending, code="" if status is None else f" ({status})")

    async def _listen(self, claim: Claim, course: _Course, revised: Revised, agent: Agent) -> Ended:
        """Fold the agent's events until its result; TimeoutError after too long a silence."""
        loop = asyncio.get_running_loop()
        patience = self._settings.silence_seconds
        async with (
            asyncio.timeout(patience) as silence,
            aclosing(agent.turn(claim.turn.prompt, claim.prompt_uuid)) as events,
        ):
            async for event in events:
                silence.reschedule(loop.time() + patience)
                if isinstance(event, Started):
                    course.session = event.session
                course.draft = course.draft.fold(event)
                if isinstance(event, Ended):
                    return event
                revised()
                if not course.spoke and isinstance(event, TextDelta | TextDone):
                    course.spoke = True
                    self._first_text(course.age(self._clock()))
        raise AgentDiedError("the agent's stream ended without a result")

    def _view(self, course: _Course) -> CardView:
        return course.draft.view(self._clock(), self._settings.language)

    def _outcome(
        self,
        claim: Claim,
        course: _Course,
        ending: Ending,
        *,
        code: str = "",
        detail: str = "",
    ) -> Outcome:
        took = elapsed(course.age(self._clock()))
        answer = course.draft.answer(self._settings.language)
        if course.context_lost:
            answer = f"{text(self._settings.language, 'context_lost')}\n\n{answer}"
        final = self._final(claim, ending, answer, took, code)
        return Outcome(
            ending,
            final,
            keep_session=course.session,
            detail=detail or code.strip(" ()"),
            usage=course.usage,
        )

    def _final(self, claim: Claim, ending: Ending, answer: str, took: str, code: str) -> Final:
        language = self._settings.language
        if ending is Ending.ANSWERED:
            return Final(answer, text(language, "done", elapsed=took))
        if ending is Ending.STOPPED:
            said, status = text(language, "stopped_body"), "stopped"
        else:
            reason = text(language, f"ending.{ending}", code=code, turn=claim.turn.id)
            said = text(
                language, "failure", reason=reason, advice=text(language, f"advice.{ending}")
            )
            status = "failed"
        whole = f"{answer.rstrip()}\n\n{said}" if answer.strip() else said
        buttons: tuple[Button, ...] = ()
        if ending in WORTH_ANOTHER_TRY:
            buttons = (Button(text(language, "button_again"), again(claim.turn.id)),)
        return Final(whole, text(language, status, elapsed=took).rstrip(" ·"), buttons)
